"""Waiting for the kernel's requests; a pipe is the device, a byte is a request."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
import trio.testing

from fuse.arrivals import Arrivals

LOOKS = [0.0, 40e-6]


@dataclass
class Device:
    """With workers as pyfuse3 has them: each waits, reads at once, handles."""

    arrivals: Arrivals
    reads: int
    writes: int
    taken: list[bytes] = field(default_factory=list)
    closed: int = 0

    def ask(self, *requests: bytes) -> None:
        for request in requests:
            os.write(self.writes, request)

    async def work(self, handling: trio.Event | None = None) -> None:
        while True:
            try:
                async with self.arrivals.Lock():
                    await self.arrivals.wait_readable(self.reads)
            except trio.ClosedResourceError:
                self.closed += 1
                return
            # As /dev/fuse is opened: BlockingIOError would end the mount.
            self.taken.append(os.read(self.reads, 1))
            if handling is not None:
                await handling.wait()


@pytest.fixture(params=LOOKS)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    reads, writes = os.pipe2(os.O_NONBLOCK)
    yield Device(Arrivals(request.param), reads, writes)
    os.close(reads)
    os.close(writes)


def test_each_request_is_taken_once_and_in_order(device: Device) -> None:
    requests = [bytes([number]) for number in range(100)]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(device.work)
            for request in requests:
                device.ask(request)
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert device.taken == requests


def test_requests_from_another_thread_are_seen(device: Device) -> None:
    requests = [bytes([number]) for number in range(200)]
    asking = threading.Thread(target=device.ask, args=requests)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.work)
            asking.start()
            await trio.to_thread.run_sync(asking.join)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert device.taken == requests


def test_others_in_the_loop_have_their_turn_while_requests_follow_each_other(
    device: Device,
) -> None:
    seen: list[int] = []

    async def other() -> None:
        while len(device.taken) < 100:
            seen.append(len(device.taken))
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        device.ask(*[b"x"] * 100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(device.work)
            await other()
            nursery.cancel_scope.cancel()

    trio.run(main)
    # trio shuffles who runs in a round, so two rounds may lie between two turns of a task.
    assert max(later - now for now, later in pairwise(seen)) <= 2 * 17


def test_while_one_waits_in_its_handler_the_next_takes_requests(device: Device) -> None:
    async def main() -> None:
        answer = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(device.work, answer)
            device.ask(b"a", b"b", b"c")
            await trio.testing.wait_all_tasks_blocked()
            assert device.taken == [b"a", b"b", b"c"]
            device.ask(b"d")
            await trio.testing.wait_all_tasks_blocked()
            assert device.taken == [b"a", b"b", b"c"]
            answer.set()
            await trio.testing.wait_all_tasks_blocked()
            assert device.taken == [b"a", b"b", b"c", b"d"]
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_end_of_the_session_reaches_all_who_wait(device: Device) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(device.work)
            await trio.testing.wait_all_tasks_blocked()
            device.arrivals.notify_closing(device.reads)

    trio.run(main)
    assert device.closed == 3


def test_all_else_is_trios() -> None:
    arrivals = Arrivals(0)
    assert arrivals.open_nursery is trio.open_nursery
    assert arrivals.lowlevel.current_task is trio.lowlevel.current_task
    with pytest.raises(AttributeError):
        _ = arrivals.nothing_of_the_sort
