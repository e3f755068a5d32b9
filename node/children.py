"""One child process: started, listened to, watched, and started again when it ends.

A child is `python -m node.child`, spawned (never forked: it opens LMDB and starts threads on its
own), in a session of its own so that Ctrl-C in a terminal reaches only the supervisor. It says on
its lifeline when it serves and that it lives; silence means that it hangs, and it is killed. The
first restart is immediate, those of a child that keeps dying wait longer each time.

Trio; everything runs on the supervisor's thread. What a child's end means to the node is for
`node/supervisor.py` to decide.
"""

from __future__ import annotations

import enum
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import trio

from node.errors import ExitCode, OperatorError
from node.lifeline import (
    Beat,
    Failed,
    FromChild,
    Ready,
    Report,
    Start,
    Stop,
    ToChild,
    decode_from_child,
    encode,
)
from node.supervisor_config import SupervisorConfig

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-P", "-m", "node.child")
"""What a child runs. -P: the working directory is not searched for modules."""

_KILL_WAIT_S = 2.0
"""A killed process is gone within milliseconds, unless it waits in the kernel for itself."""
_LAST_WORDS_S = 1.0
_MAX_RESTART_PAUSE_S = 10.0
_STABLE_AFTER_S = 20.0
"""A child that served this long before it died is restarted at once again."""
_STARTS_BEFORE_GIVING_UP = 3
"""Deaths of a child that has never served, after which the node does not start."""


class State(enum.StrEnum):
    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"  # before it is started again
    STOPPING = "stopping"
    ENDED = "ended"


class Child:
    """One of the node's processes, over all of its restarts."""

    def __init__(
        self,
        name: str,
        config: SupervisorConfig,
        start: Start,
        *,
        program: Sequence[str] = PROGRAM,
        unblock: Callable[[], object] | None = None,
    ) -> None:
        """`unblock` is called, in a thread, when a killed process does not go."""
        self.name = name
        self.state = State.STARTING
        self.restarts = 0
        self.facts: dict[str, str] = {}  # of the Ready message of the running process
        self.report: dict[str, Any] = {}  # the last Report, of this or an earlier process
        self.last_end = ""
        self.first_ready = trio.Event()
        self.failure: OperatorError | None = None  # why it could not be started at all
        self._config = config
        self._start = start
        self._program = program
        self._unblock = unblock
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: trio.SocketStream | None = None
        self._heard = 0.0  # monotonic time of the last beat
        self._serving_since = math.inf
        self._deaths = 0  # since it was last stable
        self._pausing = trio.CancelScope()
        self._not_kept = trio.Event()  # set while keep_running() does not run
        self._not_kept.set()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def silent_s(self) -> float:
        """Seconds since the serving process last showed that its main loop runs."""
        return time.monotonic() - self._heard if self.state is State.SERVING else 0.0

    async def keep_running(self) -> None:
        """Run the child, again and again, until stop() or until it fails for a reason that a
        restart does not cure (then `failure` is set)."""
        self._not_kept = trio.Event()
        while self.state is not State.STOPPING and self.failure is None:
            self.state = State.STARTING
            await self._run_once()
            if not self._is_stopping() and self.failure is None:
                await self._pause()
        self.state = State.ENDED
        self._not_kept.set()

    async def stop(self, grace_s: float) -> None:
        """End it in order; kill it when that takes longer than grace_s. Returns when it ended."""
        if self.state is State.ENDED:
            return
        self.state = State.STOPPING
        self._pausing.cancel()
        process = self._process
        if process is not None:
            await self._send(Stop(grace_s))
            with trio.move_on_after(grace_s) as waiting:
                await _wait_gone(process)
            if waiting.cancelled_caught:
                log.warning("%s did not end within %.0f s; killing it", self.name, grace_s)
                await self._kill(process)
        await self._not_kept.wait()

    def hasten(self) -> None:
        """Do not wait for a stop under way any longer."""
        if self._process is not None:
            self._process.kill()

    async def _run_once(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = self._spawn(theirs)
            theirs.close()
            self._process, self.facts = process, {}
            self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours.dup()))
            self._heard, self._serving_since = time.monotonic(), math.inf
            try:
                async with self._stream, trio.open_nursery() as nursery:
                    heard_all = trio.Event()
                    nursery.start_soon(self._listen, heard_all)
                    nursery.start_soon(self._watch, process)
                    await _wait_gone(process)
                    # Its last words are in the socket; there is no end of file while a program
                    # that it started holds the other end.
                    with trio.move_on_after(_LAST_WORDS_S):
                        await heard_all.wait()
                    nursery.cancel_scope.cancel()
            finally:
                if process.poll() is None:  # the supervisor itself is ending by an error
                    process.kill()
                    process.wait(_KILL_WAIT_S)
                self._process = self._stream = None
            self._note_end(process)

    def _is_stopping(self) -> bool:
        """stop() runs in another task: `state` may be another one after every wait."""
        return self.state is State.STOPPING

    def _spawn(self, lifeline: socket.socket) -> subprocess.Popen[bytes]:
        # Called on the main thread: PR_SET_PDEATHSIG, which the child sets, fires when the
        # *thread* that started it ends.
        return subprocess.Popen(
            [*self._program, self.name, str(lifeline.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,  # stdout is the supervisor's own, for the line that --json prints
            pass_fds=[lifeline.fileno()],
            start_new_session=True,
        )

    async def _listen(self, heard_all: trio.Event) -> None:
        assert self._stream is not None
        await self._send(self._start)
        pending = b""
        try:
            async for chunk in self._stream:
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    self._hear(decode_from_child.decode(line))
        except trio.BrokenResourceError:
            log.debug("%s died with words of ours unread", self.name)
        except msgspec.DecodeError:
            log.exception("%s: message not understood; killing it", self.name)
            self.hasten()
        heard_all.set()

    def _hear(self, message: FromChild) -> None:
        self._heard = time.monotonic()
        match message:
            case Ready():
                self.facts = message.facts
                self._serving_since = self._heard
                if self.state is State.STARTING:
                    self.state = State.SERVING
                self.first_ready.set()
            case Failed():
                self._fail(OperatorError(message.message, ExitCode(message.code)))
            case Report():
                self.report = message.facts
            case Beat():
                pass

    def _fail(self, failure: OperatorError) -> None:
        """Before it has ever served this ends the start of the node; later it is only logged,
        and tried again: what was there when the node started may come back."""
        if self.first_ready.is_set():
            log.error("%s cannot be started: %s", self.name, failure)
            self.last_end = str(failure)
        else:
            self.failure = failure
            self.first_ready.set()

    async def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the process when it hangs, first in a way that shows where."""
        while True:
            await trio.sleep(1)
            serving = self._serving_since < math.inf
            limit_s = self._config.hang_timeout_s if serving else self._config.start_timeout_s
            silent_s = time.monotonic() - self._heard
            if self.state is State.STOPPING or silent_s < limit_s:
                continue
            log.error("%s hangs: nothing heard for %.0f s; killing it", self.name, silent_s)
            # faulthandler, which the child enables, prints the stacks of all threads.
            process.send_signal(signal.SIGABRT)
            with trio.move_on_after(1):
                await _wait_gone(process)
            await self._kill(process)
            return

    async def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        with trio.move_on_after(_KILL_WAIT_S):
            await _wait_gone(process)
            return
        log.error("%s does not die: it waits in the kernel", self.name)
        if self._unblock is not None:
            await trio.to_thread.run_sync(self._unblock)
        await _wait_gone(process)

    def _note_end(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.last_end = how
        if self.state is State.STOPPING or self.failure is not None:
            log.info("%s ended (%s)", self.name, how)
            return
        served_s = max(0.0, time.monotonic() - self._serving_since)
        self._deaths = 1 if served_s > _STABLE_AFTER_S else self._deaths + 1
        self.restarts += 1
        log.error("%s ended unexpectedly (%s); starting it again", self.name, how)
        if not self.first_ready.is_set() and self._deaths >= _STARTS_BEFORE_GIVING_UP:
            self._fail(OperatorError(f"{self.name} ends before it serves ({how}); see its log"))

    async def _pause(self) -> None:
        """None before the first two restarts in a row, then twice as long each time."""
        if self._deaths <= 2:
            return
        self.state = State.WAITING
        with trio.CancelScope() as self._pausing:
            await trio.sleep(min(0.25 * 2 ** (self._deaths - 3), _MAX_RESTART_PAUSE_S))

    async def _send(self, message: ToChild) -> None:
        if self._stream is None:
            return
        try:
            await self._stream.send_all(encode(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it is gone, or going


async def _wait_gone(process: subprocess.Popen[bytes]) -> None:
    """Return when the process has ended and is reaped."""
    if process.poll() is not None:
        return
    # A descriptor of the process becomes readable when it ends; trio's own wait would do, but
    # comes only with trio's way to start processes, which starts them from short-lived threads.
    descriptor = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    process.wait()
