"""Work that starts at once and becomes a task only if it has to wait.

asyncio (before Python 3.12, which has eager tasks) runs nothing of a task before the loop comes
round again; a request that waits for nothing would be answered two rounds after it came. So the
gateway lets a request run as far as it gets, and hands what is left to the connection's task.
Where what it waits for is a moment's matter (`Soon`), it goes on from there without a task, too.

In no task `asyncio.timeout()` and its like work: what needs them asks for `own_task()` first.
Event loop only.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Soon(asyncio.Future[T]):
    """Who awaits this needs no task for it: it will come, and nobody cancels the waiting."""


class Begun(Generic[T]):
    """A coroutine, run up to its first wait. Await it to run the rest, unless it is done."""

    __slots__ = ("_coroutine", "_waits_for", "done", "result")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        """Runs it. Raises what it raises before its first wait."""
        self._coroutine = coroutine
        self.done = False
        self.result: T
        self._waits_for: Any = None
        self.go_on()

    def go_on(self) -> None:
        """Run it up to its next wait; what it waited for must be done. Raises what it raises."""
        try:
            self._waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self.done, self.result = True, end.value

    @property
    def soon(self) -> Soon[Any] | None:
        """What it waits for, if that needs no task: call go_on() when it is done."""
        return self._waits_for if isinstance(self._waits_for, Soon) else None

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._waits_for
        while True:
            try:
                step, value = self._coroutine.send, (yield waits_for)
            except BaseException as exc:  # noqa: BLE001  whatever it is, it is for the coroutine
                step, value = self._coroutine.throw, exc
            try:
                waits_for = step(value)
            except StopIteration as end:
                result: T = end.value
                return result


@types.coroutine
def own_task() -> Generator[None, None, None]:
    """Go on in a task: what follows sets timeouts, or may be cancelled. No wait if it is in one."""
    if asyncio.current_task() is None:
        yield
