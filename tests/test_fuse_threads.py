"""Lanes: deadlines, and what becomes of work that was given up on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from cache.errors import DeadlineExceeded, NoSuchInode
from fuse.interrupts import Interrupts
from fuse.threads import Lane, Late

DEADLINE_S = 10.0
"""Of a lane whose deadline passes in the test: when that says so, whatever the machine does."""
WAIT_S = 60.0


def test_a_result_and_an_error_come_back() -> None:
    async def main() -> None:
        lane = Lane("test", threads=1, deadline_s=WAIT_S, interrupts=Interrupts())
        assert await lane.run(lambda: 42) == 42
        with pytest.raises(NoSuchInode):
            await lane.run(_raise, pytest.fail)

    def _raise() -> None:
        raise NoSuchInode(7)

    trio.run(main)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock()


class Hanging:
    """A call that hangs until it may go on, and then returns, or raises, this."""

    def __init__(self, outcome: object = None) -> None:
        self.go = threading.Event()
        self._begun = threading.Event()
        self._outcome = outcome

    def __call__(self) -> object:
        self._begun.set()
        assert self.go.wait(WAIT_S)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    async def begun(self) -> None:
        """Return when a thread is at it."""
        assert await trio.to_thread.run_sync(self._begun.wait, WAIT_S)


def test_late_work_is_finished_and_its_result_handed_to_late(
    clock: trio.testing.MockClock,
) -> None:
    work, over = Hanging("handle"), threading.Event()
    late: list[object] = []

    def too_late(result: object) -> None:
        late.append(result)
        over.set()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_late, _lane(), work, too_late)
            await work.begun()
            clock.jump(DEADLINE_S)
        assert late == []
        work.go.set()

    trio.run(main, clock=clock)
    assert over.wait(WAIT_S)
    assert late == ["handle"]


def test_late_work_that_fails_is_reported_without_a_result(
    clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    work, over = Hanging(ZeroDivisionError()), threading.Event()
    late: list[object] = []

    def too_late(result: object) -> None:
        late.append(result)
        over.set()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_late, _lane(), work, too_late)
            await work.begun()
            clock.jump(DEADLINE_S)
        work.go.set()

    trio.run(main, clock=clock)
    assert over.wait(WAIT_S)
    assert late == [None]
    assert "given up on failed" in caplog.text


def test_work_that_never_got_a_thread_does_not_happen(clock: trio.testing.MockClock) -> None:
    work = Hanging()
    happened: list[str] = []
    over: list[object] = []

    async def main() -> None:
        lane = _lane()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_late, lane, work)
            await work.begun()
            nursery.start_soon(_expect_late, lane, lambda: happened.append("work"), over.append)
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(DEADLINE_S)
        assert over == [None]
        work.go.set()

    trio.run(main, clock=clock)
    assert happened == []


def test_a_hung_call_keeps_its_place_in_the_lane(clock: trio.testing.MockClock) -> None:
    work = Hanging()

    async def main() -> None:
        lane, other = _lane(), _lane()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_late, lane, work)
            await work.begun()
            clock.jump(DEADLINE_S)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_late, lane, lambda: None)
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(DEADLINE_S)
        assert await other.run(lambda: "served") == "served"
        work.go.set()

    trio.run(main, clock=clock)


def test_calls_of_a_row_are_made_in_order_and_one_at_a_time() -> None:
    """With threads to spare: what is in no row passes by."""
    go, made = threading.Event(), []

    def call(number: int) -> None:
        if not number:
            assert go.wait(WAIT_S)
        made.append(number)

    async def main() -> None:
        lane = Lane("test", threads=4, deadline_s=WAIT_S, interrupts=Interrupts())
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(lambda n=number: lane.run(lambda: call(n), row="row"))
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(20):
                await lane.run(lambda: None)
            assert await lane.run(lambda: "another", row="another row") == "another"
            assert made == []
            go.set()
        await lane.run(lambda: call(20), row="row")

    trio.run(main)
    assert made == list(range(21))


def test_a_call_of_a_row_that_was_given_up_on_lets_the_next_one_go(
    clock: trio.testing.MockClock,
) -> None:
    work, made = Hanging(), list[str]()

    async def main() -> None:
        lane = _lane()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_late, lane, work, None, "row")
            await work.begun()
            nursery.start_soon(_expect_late, lane, lambda: made.append("late"), None, "row")
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(DEADLINE_S)
        work.go.set()
        assert await lane.run(lambda: "served", row="row") == "served"

    trio.run(main, clock=clock)
    assert made == []


def test_a_long_row_keeps_nobody_waiting() -> None:
    """Not even where there is one thread."""
    go, made = threading.Event(), []

    async def main() -> None:
        lane = Lane("test", threads=1, deadline_s=WAIT_S, interrupts=Interrupts())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: lane.run(lambda: go.wait(WAIT_S), row="row"))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(2):
                nursery.start_soon(lambda: lane.run(lambda: made.append("row"), row="row"))
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: lane.run(lambda: made.append("other")))
            await trio.testing.wait_all_tasks_blocked()
            go.set()

    trio.run(main)
    assert made == ["other", "row", "row"]


@pytest.mark.parametrize("there_are", [0, 1])
def test_threads_that_cannot_be_started_hold_up_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch, there_are: int
) -> None:
    """The calls of a row do not wait for one that nobody makes."""
    work, made = Hanging(), list[str]()

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def asked(lane: Lane) -> None:
        if there_are:
            await lane.run(lambda: made.append("first"), row="row")
            return
        with pytest.raises(RuntimeError):
            await lane.run(lambda: made.append("first"), row="row")

    async def main() -> None:
        lane = Lane("test", threads=2, deadline_s=WAIT_S, interrupts=Interrupts())
        async with trio.open_nursery() as nursery:
            if there_are:
                nursery.start_soon(lane.run, work)
                await work.begun()
            with monkeypatch.context() as patched:
                patched.setattr(threading.Thread, "start", none_left)
                nursery.start_soon(asked, lane)
                await trio.testing.wait_all_tasks_blocked()
            work.go.set()
            await lane.run(lambda: made.append("second"), row="row")

    trio.run(main)
    assert made == ["first", "second"][1 - there_are :]


def _lane() -> Lane:
    """Of one thread."""
    return Lane("test", threads=1, deadline_s=DEADLINE_S, interrupts=Interrupts())


async def _expect_late(
    lane: Lane, call: Callable[[], object], late: Late[object] | None = None, row: str | None = None
) -> None:
    with pytest.raises(DeadlineExceeded):
        await lane.run(call, late, row=row)
