"""Programs that are to end while they wait for us: Ctrl-C on an `ls` of a store that hangs.

Whoever waits in the kernel for an answer of ours cannot be killed, not even by SIGKILL, until the
answer is there (request_wait_answer in fs/fuse/dev.c). The kernel asks for it by FUSE_INTERRUPT,
which pyfuse3 does not pass on. So we look ourselves, at those only who have been waiting for a
while: a signal that ends a program waits in /proc/TID/status until it is delivered, which is when
we have answered. Then the call is given up on (EINTR), as one whose deadline passes is. Reads of a
file's pages need none of this: the kernel lets their waiters go.

A signal that a program handles and goes on after does not count, other than in the kernel: many
programs have never seen EINTR from a file, and a runtime may signal its threads all the time.

On the loop's thread.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import trio

ASKER: ContextVar[int] = ContextVar("asker", default=0)
"""The thread that waits for the handler of this task, as we see it in /proc; 0 if unknown."""

_PATIENCE_S = 0.2
"""Most calls are over before anybody looks."""
_LOOK_EVERY_S = 0.1
_PER_WAIT_S = 0.0005
"""A look takes some 30 microseconds of the loop: a thousand who wait may take a tenth of it."""

_FIELD = re.compile(rb"^(SigPnd|ShdPnd|SigBlk|SigCgt):\s*([0-9a-f]+)$", re.MULTILINE)


def _bits(*signals: signal.Signals) -> int:
    return sum(1 << (number - 1) for number in signals)


_ENDING = _bits(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM)
"""Count also where they are caught: to clean up, or to stop waiting."""
_STOPPING = _bits(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""Do not count: the program goes on later, where it was."""


class Interrupted(Exception):
    """Whoever asked is to end."""


@dataclass(eq=False, slots=True)
class Wait:
    scope: trio.CancelScope
    asker: int
    since_s: float
    is_interrupted: bool = False


class Interrupts:
    def __init__(self) -> None:
        self._waiting: set[Wait] = set()
        self._some = trio.Event()

    @contextlib.contextmanager
    def heeded(self, scope: trio.CancelScope) -> Iterator[Wait]:
        """For the length of the body: the scope is cancelled when the ASKER is to end."""
        wait = Wait(scope, ASKER.get(), trio.current_time())
        if not wait.asker:
            yield wait
            return
        self._waiting.add(wait)
        self._some.set()
        try:
            yield wait
        finally:
            self._waiting.discard(wait)

    async def watch(self) -> None:
        """Look after those who wait, until cancelled."""
        while True:
            await self._some.wait()
            await trio.sleep(max(_LOOK_EVERY_S, len(self._waiting) * _PER_WAIT_S))
            due_s = trio.current_time() - _PATIENCE_S
            for wait in [wait for wait in self._waiting if wait.since_s <= due_s]:
                if is_to_end(wait.asker):
                    wait.is_interrupted = True
                    wait.scope.cancel()
            if not self._waiting:
                self._some = trio.Event()


def is_to_end(thread: int) -> bool:
    """Whether a signal waits for the thread that ends it. False if it cannot be looked at."""
    try:
        status = Path(f"/proc/{thread}/status").read_bytes()
    except OSError:
        return False
    return is_ending(status)


def is_ending(status: bytes) -> bool:
    """The same of the text of /proc/TID/status (proc(5))."""
    fields = {name: int(value, 16) for name, value in _FIELD.findall(status)}
    pending = (fields[b"SigPnd"] | fields[b"ShdPnd"]) & ~fields[b"SigBlk"]
    return bool(pending & ~_STOPPING & (_ENDING | ~fields[b"SigCgt"]))
