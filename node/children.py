"""One of the node's processes over all of its lives: watched, and started again when it ends.

A child says on its lifeline when it serves and that it lives; silence means that it hangs, and it
is killed. The first restarts are immediate; those of a child that dies as soon as it serves wait
longer each time.

Trio; everything runs on the supervisor's thread. What a child's end means to the node is for
`node/supervisor.py` to decide.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import trio

from node.errors import ExitCode, OperatorError
from node.lifeline import Beat, Failed, FromChild, Ready, Report, Start, Stop
from node.processes import DONE, ChildProcess
from node.spares import Spares
from node.supervisor_config import SupervisorConfig

log = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0
"""An ended process's last words are in the socket already; there is no end of file, though, while
a program that it started holds the other end."""
_LONGEST_PAUSE_S = 10.0
_STABLE_AFTER_S = 3.0
"""A child that served this long before it died is started again at once."""
_STARTS_BEFORE_GIVING_UP = 3
"""Deaths of a child that has never served, after which the node does not start."""


class State(enum.StrEnum):
    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"  # before it is started again
    STOPPING = "stopping"
    ENDED = "ended"


class Child:
    def __init__(
        self,
        start: Start,
        config: SupervisorConfig,
        *,
        spares: Spares,
        unblock: Callable[[], object] | None = None,
        over: Callable[[], object] | None = None,
    ) -> None:
        """`unblock` is called, in a thread, when a killed process does not go; `over` when it
        ended of itself, with nothing wrong: its work is done, and it is not started again."""
        self.name = start.name
        self.state = State.STARTING
        self.restarts = 0
        self.facts: dict[str, str] = {}  # of the Ready message of the running process
        self.report: dict[str, Any] = {}  # the last Report of the running, or last, process
        self.last_end = ""
        self.first_ready = trio.Event()
        self.failure: OperatorError | None = None  # why it could not be started at all
        self._config = config
        self.role = start.name.partition("-")[0]
        self._start = start
        self._spares = spares
        self._unblock = unblock
        self._over = over
        self._process: ChildProcess | None = None
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
        try:
            while self.state is not State.STOPPING and self.failure is None:
                self.state = State.STARTING
                await self._live_once()
                if not self._is_stopping() and self.failure is None:
                    await self._pause()
        finally:
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
            await process.send(Stop(grace_s))
            with trio.move_on_after(grace_s) as waiting:
                await process.wait_gone()
            if waiting.cancelled_caught:
                log.warning("%s did not end within %.0f s; killing it", self.name, grace_s)
                await process.kill(self._unblock)
        await self._not_kept.wait()

    def hasten(self) -> None:
        """Do not wait for a stop under way any longer."""
        if self._process is not None:
            self._process.kill_soon()

    async def _live_once(self) -> None:
        process = self._spares.take(self.role)
        self._process, self.facts, self.report = process, {}, {}
        self._heard, self._serving_since = time.monotonic(), math.inf
        try:
            async with trio.open_nursery() as nursery:
                heard_all = trio.Event()
                nursery.start_soon(self._listen, process, heard_all)
                nursery.start_soon(self._watch, process)
                await process.wait_gone()
                with trio.move_on_after(_LAST_WORDS_S):
                    await heard_all.wait()
                nursery.cancel_scope.cancel()
        finally:
            process.close()
            self._process = None
        self._note_end(process.how_it_ended())

    def _is_stopping(self) -> bool:
        """stop() runs in another task: `state` may be another one after every wait."""
        return self.state is State.STOPPING

    async def _listen(self, process: ChildProcess, heard_all: trio.Event) -> None:
        await process.send(self._start)
        async with aclosing(process.messages()) as messages:
            async for message in messages:
                self._hear(message)
        heard_all.set()

    def _hear(self, message: FromChild) -> None:
        self._heard = time.monotonic()
        match message:
            case Ready():
                self._now_serves(message.facts)
            case Failed():
                self._fail(OperatorError(message.message, ExitCode(message.code)))
            case Report():
                self.report = message.facts
            case Beat():
                pass

    def _now_serves(self, facts: dict[str, str]) -> None:
        self.facts = facts
        self._serving_since = self._heard
        if self.state is State.STARTING:
            self.state = State.SERVING
        self.first_ready.set()
        self._spares.refill(self.role)

    def _fail(self, failure: OperatorError) -> None:
        """Before it has ever served this ends the start of the node; later it is only logged,
        and tried again: what was there when the node started may come back."""
        if self.first_ready.is_set():
            log.error("%s cannot be started: %s", self.name, failure)
            self.last_end = str(failure)
        else:
            self.failure = failure
            self.first_ready.set()

    async def _watch(self, process: ChildProcess) -> None:
        """Kill the process when it hangs."""
        while True:
            await trio.sleep(1)
            serving = self._serving_since < math.inf
            limit_s = self._config.hang_timeout_s if serving else self._config.start_timeout_s
            silent_s = time.monotonic() - self._heard
            if silent_s >= limit_s and self.state is not State.STOPPING:
                log.error("%s hangs: nothing heard for %.0f s; killing it", self.name, silent_s)
                await process.kill_showing_where(self._unblock)
                return

    def _note_end(self, how: str) -> None:
        self.last_end = how
        if self.state is State.STOPPING or self.failure is not None:
            log.info("%s ended (%s)", self.name, how)
            return
        if how == DONE and self._over is not None:
            self.state = State.STOPPING
            self._over()
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
            await trio.sleep(min(0.25 * 2 ** (self._deaths - 3), _LONGEST_PAUSE_S))
