"""Changes of the index that a request waits for without a thread of its own.

What is submitted shares a commit with all that came while the last one was synced (cache/index.py).
It is submitted at the end of the loop's round, with all of that round: a committer that is called
before would take turns with the loop at the interpreter, for a smaller batch. The loop is woken
once for each commit, however many requests that answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cache.index import Recipient, Request
from s3api.begun import Soon

T = TypeVar("T")


class Commits:
    """Those of one gateway. `submit` on its event loop only."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun: list[tuple[Callable[[Recipient], Request[Any]], Soon[Any]]] = []
        self._waiting: dict[Request[Any], Soon[Any]] = {}

    def submit(self, begin: Callable[[Recipient], Request[T]]) -> Soon[T]:
        """Await what comes of the change that `begin` submits. Who stops waiting does not stop the
        change."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        done: Soon[T] = Soon(loop=self._loop)
        if not self._begun:
            self._loop.call_soon(self._submit_round)
        self._begun.append((begin, done))
        return done

    def _submit_round(self) -> None:
        begun, self._begun = self._begun, []
        for begin, done in begun:
            try:
                # What is taken comes back through the loop, and so after this.
                self._waiting[begin(self)] = done
            except Exception as exc:  # noqa: BLE001  one that fails holds up no other of its round
                if not done.done():
                    done.set_exception(exc)

    def take(self, done: Sequence[Request[Any]]) -> None:
        """As cache.index.Recipient, from whatever thread."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is left to be told
            self._loop.call_soon_threadsafe(self._tell, done)

    def _tell(self, done: Sequence[Request[Any]]) -> None:
        for request in done:
            future = self._waiting.pop(request)
            if future.done():  # cancelled
                continue
            if request.error is None:
                future.set_result(request.result)
            else:
                future.set_exception(request.error)
