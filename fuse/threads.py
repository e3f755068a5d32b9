"""Where a handler waits: a lane of threads with a deadline.

Everything that may touch a disk, a lock or the store leaves the loop through a lane. Operations on
names and attributes have one, bytes have another, so that slow reads do not keep anybody from
looking a name up. A lane has a bounded number of threads; a call waits for one of them and for its
work within one deadline.

A thread cannot be stopped half-way through a commit, and is not. When the deadline passes, or
whoever waits is to end (fuse/interrupts.py), the *answer* is given up on: the kernel is told
ETIMEDOUT or EINTR, the thread goes on and keeps its place in
the lane until it ends. What it then still achieved has to be made known, by the call's `late`: to
release a handle that nobody will ever close, to have the kernel forget what it believes about a
name.

The writes to one file stand in a row: the kernel hands them over in order, and threads that race
for the file would mix them up, which costs a file that is written front to back its MD5 and the
disk its long stretches.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import logging
import queue
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import trio

from cache.errors import CacheError, DeadlineExceeded, WouldWait
from fuse.interrupts import Interrupted, Interrupts

log = logging.getLogger(__name__)

T = TypeVar("T")

Late = Callable[[T | None], None]
"""Told that a call which was given up on is over, in the thread in which it ran: with its result,
or None if it raised. A call that never got a thread is over at once, in the loop: None."""


class GivenUp(DeadlineExceeded):
    """No result in time: the call may still come true. A call that ends by itself with
    DeadlineExceeded, because it waited too long for something, is over instead."""


class Lane:
    """Threads for one kind of work, started when they are needed. Used from the loop's thread only.

    They are our own: trio's, with a limiter, a copied context and a name for each call, cost twice
    as much of the loop for a call that takes microseconds.
    """

    def __init__(
        self, name: str, *, threads: int, deadline_s: float, interrupts: Interrupts
    ) -> None:
        self.name = name
        self._interrupts = interrupts
        self._threads_max = threads
        self._threads = 0
        self._under_way = 0  # rows that wait for a thread, or have one
        self._due: queue.SimpleQueue[_Row] = queue.SimpleQueue()
        self._rows_lock = threading.Lock()
        self._rows: dict[Hashable, _Row] = {}
        self._deadline_s = deadline_s

    async def run(
        self, call: Callable[[], T], late: Late[T] | None = None, *, row: Hashable = None
    ) -> T:
        """The call's result or exception; GivenUp when there is none in time, Interrupted
        when whoever asked is to end before. row: calls of the same one are made one after another,
        in the order in which they came here."""
        errand = _Errand(call, late)
        try:
            with (
                trio.move_on_after(self._deadline_s) as scope,
                self._interrupts.heeded(scope) as wait,
            ):
                await self._in_a_thread(errand, row)
        except BaseException:  # the loop ends, or there is no thread
            errand.give_up()
            raise
        if errand.give_up():
            if wait.is_interrupted:
                raise Interrupted
            raise GivenUp(f"{self.name}: no result within {self._deadline_s:g} s")
        return errand.answer()

    async def change(self, call: Callable[[bool], T], late: Late[T] | None = None) -> T:
        """As run, for a call that is told whether it may wait: in the loop where it need not, which
        saves two switches of threads, and else, when it raised WouldWait, in a thread."""
        try:
            return call(False)
        except WouldWait:
            return await self.run(lambda: call(True), late)

    async def _in_a_thread(self, errand: _Errand[T], name: Hashable) -> None:
        """Return when the errand is over. When cancelled, its thread goes on."""
        errand.loop = trio.lowlevel.current_trio_token()
        errand.awaited_by = trio.lowlevel.current_task()
        self._line_up(errand, name)

        def abort(_: object) -> trio.lowlevel.Abort:
            errand.awaited_by = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _line_up(self, errand: _Errand[Any], name: Hashable) -> None:
        """Behind the others of its row, or as a row of its own, for which there is a thread.
        RuntimeError if there is none."""
        row = _Row(name, errand)
        with self._rows_lock:
            others = None if name is None else self._rows.get(name)
            if others is not None:
                others.errands.append(errand)
                return
            if self._under_way >= self._threads and self._threads < self._threads_max:
                self._begin_thread()
            if name is not None:
                self._rows[name] = row
        self._under_way += 1
        self._due.put(row)

    def _begin_thread(self) -> None:
        """RuntimeError if there is none at all; one more may be too many for the system, and then
        those that there are do the work one after another."""
        name = f"{self.name}-{self._threads + 1}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError:
            if not self._threads:
                raise
            log.warning("the system has no thread for %s", name)
        else:
            self._threads += 1

    def _work(self) -> None:
        """One of the threads, as long as the process lives: a hung one must not keep it from
        ending."""
        while True:
            row = self._due.get()
            while self._work_on(row):
                if not self._due.empty():  # a long row keeps nobody waiting
                    self._due.put(row)
                    break
            del row

    def _work_on(self, row: _Row) -> bool:
        """Do the first errand of a row; whether there are more."""
        errand = row.errands[0]
        errand.work()
        with self._rows_lock:
            row.errands.popleft()
            goes_on = bool(row.errands)
            if not goes_on and row.name is not None:
                del self._rows[row.name]
        with contextlib.suppress(trio.RunFinishedError):
            assert errand.loop is not None, "set before anybody sees the errand"
            errand.loop.run_sync_soon(self._over, errand, goes_on)
        return goes_on

    def _over(self, errand: _Errand[Any], goes_on: bool) -> None:
        if not goes_on:
            self._under_way -= 1
        if errand.awaited_by is not None:
            trio.lowlevel.reschedule(errand.awaited_by)
            errand.awaited_by = None


class _Row:
    """Errands that are done one after another, by one thread at a time; at least one, until the
    last is done. Of those with a name the lane has one at a time."""

    def __init__(self, name: Hashable, first: _Errand[Any]) -> None:
        self.name = name
        self.errands = collections.deque([first])


class _State(enum.Enum):
    WAITING = enum.auto()  # for a thread
    RUNNING = enum.auto()
    DONE = enum.auto()  # the outcome waits for answer()
    GIVEN_UP = enum.auto()  # the outcome, if there will be one, is for `late`


class _Errand(Generic[T]):
    """One call in a thread, and who gets its outcome: the waiting handler or `late`.

    The lock decides the ties: work that begins or ends in the moment in which it is given up on.
    """

    def __init__(self, call: Callable[[], T], late: Late[T] | None) -> None:
        self.awaited_by: trio.lowlevel.Task | None = None
        """On the loop's thread only."""
        self.loop: trio.lowlevel.TrioToken | None = None
        self._call = call
        self._late = late
        self._lock = threading.Lock()
        self._state = _State.WAITING
        self._result: T | None = None
        self._error: BaseException | None = None

    def work(self) -> None:
        """In the thread: call, and leave the outcome for answer(). Never raises."""
        with self._lock:
            if self._state is _State.GIVEN_UP:
                return
            self._state = _State.RUNNING
        try:
            self._result = self._call()
        except BaseException as exc:  # noqa: BLE001 - answer() raises it in the handler
            self._error = exc
        with self._lock:
            in_time = self._state is _State.RUNNING
            if in_time:
                self._state = _State.DONE
        if not in_time:
            self._end_late()

    def give_up(self) -> bool:
        """In the loop: leave the outcome to `late`. False if it is there already."""
        with self._lock:
            before = self._state
            if before is not _State.DONE:
                self._state = _State.GIVEN_UP
        if before is _State.WAITING:
            self._end_late()
        return before is not _State.DONE

    def answer(self) -> T:
        """In the loop: the outcome, which is there."""
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value] # None only where T allows it

    def _end_late(self) -> None:
        if self._error is not None:
            # Nobody else will hear of it: the program was told ETIMEDOUT already.
            level = logging.WARNING if isinstance(self._error, CacheError) else logging.ERROR
            log.log(level, "an operation given up on failed", exc_info=self._error)
        if self._late is None:
            return
        try:
            self._late(self._result)
        except Exception:
            log.exception("cleaning up after an operation given up on failed")
