"""Lanes: deadlines, and what becomes of work that was given up on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from cache.errors import DeadlineExceeded, NoSuchInode
from fuse.interrupts import Interrupts
from fuse.threads import Lane


def test_a_result_and_an_error_come_back() -> None:
    async def main() -> None:
        lane = Lane("test", threads=1, deadline_s=10, interrupts=Interrupts())
        assert await lane.run(lambda: 42) == 42
        with pytest.raises(NoSuchInode):
            await lane.run(_raise, pytest.fail)

    def _raise() -> None:
        raise NoSuchInode(7)

    trio.run(main)


def test_late_work_is_finished_and_its_result_handed_to_late() -> None:
    go, over = threading.Event(), threading.Event()
    late: list[str | None] = []

    def work() -> str:
        assert go.wait(10)
        return "handle"

    def too_late(result: str | None) -> None:
        late.append(result)
        over.set()

    async def main() -> None:
        lane = Lane("test", threads=1, deadline_s=0.05, interrupts=Interrupts())
        with pytest.raises(DeadlineExceeded):
            await lane.run(work, too_late)
        assert late == []
        go.set()

    trio.run(main)
    assert over.wait(10)
    assert late == ["handle"]


def test_late_work_that_fails_is_reported_without_a_result(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go, over = threading.Event(), threading.Event()
    late: list[object] = []

    def work() -> None:
        assert go.wait(10)
        raise ZeroDivisionError

    def too_late(result: None) -> None:
        late.append(result)
        over.set()

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            await Lane("test", threads=1, deadline_s=0.05, interrupts=Interrupts()).run(
                work, too_late
            )
        go.set()

    trio.run(main)
    assert over.wait(10)
    assert late == [None]
    assert "given up on failed" in caplog.text


def test_work_that_never_got_a_thread_does_not_happen() -> None:
    go = threading.Event()
    happened: list[str] = []
    over: list[object] = []

    async def main() -> None:
        lane = Lane("test", threads=1, deadline_s=0.1, interrupts=Interrupts())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_late, lane, lambda: go.wait(10))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DeadlineExceeded):
                await lane.run(lambda: happened.append("work"), over.append)
        assert over == [None]
        go.set()

    trio.run(main)
    assert happened == []


def test_a_hung_call_keeps_its_place_in_the_lane() -> None:
    go = threading.Event()

    async def main() -> None:
        lane = Lane("test", threads=1, deadline_s=0.1, interrupts=Interrupts())
        other = Lane("other", threads=1, deadline_s=10, interrupts=Interrupts())
        await _expect_late(lane, lambda: go.wait(10))
        await _expect_late(lane, lambda: None)
        assert await other.run(lambda: "served") == "served"
        go.set()

    trio.run(main)


def test_calls_of_a_row_are_made_in_order_and_one_at_a_time() -> None:
    """With threads to spare: what is in no row passes by."""
    go, made = threading.Event(), []

    def call(number: int) -> None:
        if not number:
            assert go.wait(10)
        made.append(number)

    async def main() -> None:
        lane = Lane("test", threads=4, deadline_s=10, interrupts=Interrupts())
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


def test_a_call_of_a_row_that_was_given_up_on_lets_the_next_one_go() -> None:
    go, made = threading.Event(), []

    async def main() -> None:
        lane = Lane("test", threads=1, deadline_s=0.1, interrupts=Interrupts())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_late, lane, lambda: go.wait(10), "row")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(_expect_late, lane, lambda: made.append("late"), "row")
        go.set()
        assert await lane.run(lambda: "served", row="row") == "served"

    trio.run(main)
    assert made == []


def test_a_long_row_keeps_nobody_waiting() -> None:
    """Not even where there is one thread."""
    go, made = threading.Event(), []

    async def main() -> None:
        lane = Lane("test", threads=1, deadline_s=10, interrupts=Interrupts())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: lane.run(lambda: go.wait(10), row="row"))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(2):
                nursery.start_soon(lambda: lane.run(lambda: made.append("row"), row="row"))
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: lane.run(lambda: made.append("other")))
            await trio.testing.wait_all_tasks_blocked()
            go.set()

    trio.run(main)
    assert made == ["other", "row", "row"]


async def _expect_late(lane: Lane, call: Callable[[], object], row: str | None = None) -> None:
    with pytest.raises(DeadlineExceeded):
        await lane.run(call, row=row)
