"""One child process and the supervisor's end of its lifeline, from its start to its last word.

Spawned, never forked (it opens LMDB and starts threads on its own), in a session of its own, so
that Ctrl-C in a terminal reaches only the supervisor. What it is for, and what its end means, is
`node/children.py`'s business. Trio, on the supervisor's thread.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec
import trio

from node.lifeline import FromChild, ToChild, decode_from_child, encode

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-P", "-m", "node.child")
"""What a child runs. -P: the working directory is not searched for modules."""

_KILL_WAIT_S = 2.0
"""A killed process is gone within milliseconds, unless it waits in the kernel for itself."""


DONE = "exit code 0"


class ChildProcess:
    def __init__(self, role: str, program: Sequence[str]) -> None:
        """Start it. It loads the role's modules and waits for its Start message."""
        self.role = role
        ours, theirs = socket.socketpair()
        with theirs:
            # On the main thread: PR_SET_PDEATHSIG, which the child sets, fires when the *thread*
            # that started it ends.
            self._process = subprocess.Popen(
                [*program, role, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,  # stdout is the supervisor's, for the line that --json prints
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def how_it_ended(self) -> str:
        """ "exit code 1", "killed by SIGKILL"; call it when it has ended."""
        code = self._process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def send(self, message: ToChild) -> None:
        try:
            await self._stream.send_all(encode(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("%s is gone, or going", self.role)

    async def messages(self) -> AsyncGenerator[FromChild, None]:
        """What it says, until it has closed its end, as it does by ending. A process that says
        what cannot be understood is killed."""
        pending = b""
        try:
            async for chunk in self._stream:
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    yield decode_from_child.decode(line)
        except trio.BrokenResourceError:
            log.debug("%s died with words of ours unread", self.role)
        except msgspec.DecodeError:
            log.exception("%s: message not understood; killing it", self.role)
            self.kill_soon()

    async def wait_gone(self) -> None:
        """Return when it has ended and is reaped."""
        if self.has_ended:
            return
        # A descriptor of the process becomes readable when it ends. trio's own wait does the same,
        # but comes only with trio's way to start processes: in short-lived threads.
        descriptor = os.pidfd_open(self.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
        self._process.wait()

    def kill_soon(self) -> None:
        """SIGKILL; wait_gone() tells when it took effect."""
        self._process.kill()

    async def kill(self, unblock: Callable[[], object] | None) -> None:
        """SIGKILL, and return when it is gone. One that waits in the kernel, for a file system
        that it serves itself, goes only after `unblock` (called in a thread)."""
        self.kill_soon()
        with trio.move_on_after(_KILL_WAIT_S):
            await self.wait_gone()
            return
        log.error("%s does not die: it waits in the kernel", self.role)
        if unblock is not None:
            await trio.to_thread.run_sync(unblock)
        await self.wait_gone()

    async def kill_showing_where(self, unblock: Callable[[], object] | None) -> None:
        """Kill a process that hangs so that its log shows where: faulthandler, which every child
        enables, prints the stacks of all threads on SIGABRT."""
        self._process.send_signal(signal.SIGABRT)
        with trio.move_on_after(1):
            await self.wait_gone()
        await self.kill(unblock)

    def close(self) -> None:
        """Let go of it; kills it if it still lives."""
        if not self.has_ended:
            self.kill_soon()
            self._process.wait(_KILL_WAIT_S)
        self._stream.socket.close()
