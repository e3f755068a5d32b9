"""A body on its way from the wire to a writer: hashed and written side by side, each in order, and
the writer is let go when no thread uses it any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader

from s3api.config import GatewayConfig
from s3api.connection import READ_BUFFER_BYTES
from s3api.payload import Received
from s3api.receiving import receive, wire_blocks
from s3api.threads import Threads

_DEADLINE_S = 60.0
_BLOCKS = [[b"a1", b"a2"], [b"b"], [b"c"], [b"d"]]


class Wire:
    """What `Receiver` is to receive()."""

    def __init__(self, seen: Callable[[bytes], None] = lambda chunk: None) -> None:
        self.size_bytes = 0
        self._seen = seen

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self._seen(chunk)
        self.size_bytes += len(chunk)
        yield chunk

    def finish(self) -> Received:
        return Received(self.size_bytes, "etag", {})


class Sink:
    """A writer that notes what is done to it, and by how many at once."""

    def __init__(self, wrote: Callable[[bytes], None] = lambda chunk: None) -> None:
        self.written: list[bytes] = []
        self.aborted = 0
        self._wrote = wrote
        self._busy = threading.Lock()

    def write(self, chunk: Any) -> None:
        assert self._busy.acquire(blocking=False), "two threads at a time"
        try:
            self._wrote(chunk)
            self.written.append(chunk)
        finally:
            self._busy.release()

    def abort(self) -> None:
        assert self._busy.acquire(blocking=False), "aborted while it writes"
        self._busy.release()
        self.aborted += 1


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(metadata_threads=1, transfer_threads=4)
    yield threads
    threads.close()


async def blocks(found: list[list[bytes]]) -> AsyncIterator[tuple[list[bytes], bool]]:
    for number, wire in enumerate(found):
        yield wire, number == len(found) - 1


async def test_a_client_that_was_gone_before_its_turn_came_is_no_defect() -> None:
    """As on a busy machine: what it had sent is read, and then nobody is there."""
    loop = asyncio.get_running_loop()
    content = StreamReader(BaseProtocol(loop), READ_BUFFER_BYTES, loop=loop)
    content.feed_data(b"half")
    request = SimpleNamespace(headers={}, content=content, transport=None)
    call: Any = SimpleNamespace(request=request, door=SimpleNamespace(config=GatewayConfig(port=0)))
    with pytest.raises(ConnectionResetError):
        [block async for block in wire_blocks(call, 1 << 20)]


async def run(threads: Threads, wire: Wire, sink: Sink, found: list[list[bytes]] = _BLOCKS) -> int:
    call: Any = SimpleNamespace(threads=threads, body=blocks(found))
    receiver: Any = wire

    def commit(writer: Sink, received: Received) -> int:
        writer.written.append(b"commit")
        return received.size_bytes

    async with asyncio.timeout(_DEADLINE_S):
        return await receive(call, receiver, lambda: sink, commit)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_all_is_written_in_order_and_then_committed(threads: Threads, count: int) -> None:
    sink = Sink()
    found = _BLOCKS[:count]
    assert asyncio.run(run(threads, Wire(), sink, found)) == count + 1 + 2
    assert sink.written == [*(chunk for block in found for chunk in block), b"commit"]
    assert not sink.aborted


def test_the_next_block_is_hashed_while_one_is_written(threads: Threads) -> None:
    hashed = threading.Event()

    def seen(chunk: bytes) -> None:
        if chunk == b"b":
            hashed.set()

    def wrote(chunk: bytes) -> None:
        if chunk == b"a1":
            assert hashed.wait(_DEADLINE_S), "the write was waited for"

    sink = Sink(wrote)
    asyncio.run(run(threads, Wire(seen), sink))
    assert sink.written[-1] == b"commit"


@pytest.mark.parametrize("bad", [b"a1", b"a2", b"b", b"c", b"d"])
def test_a_write_that_fails_ends_it(threads: Threads, bad: bytes) -> None:
    def wrote(chunk: bytes) -> None:
        if chunk == bad:
            raise OSError(5, "no disk")

    sink = Sink(wrote)
    with pytest.raises(OSError, match="no disk"):
        asyncio.run(run(threads, Wire(), sink))
    assert sink.aborted == 1
    assert b"commit" not in sink.written


@pytest.mark.parametrize("bad", [b"a1", b"b", b"c", b"d"])
def test_a_body_that_is_refused_ends_it_behind_the_write_under_way(
    threads: Threads, bad: bytes
) -> None:
    refused = threading.Event()

    def seen(chunk: bytes) -> None:
        if chunk == bad:
            refused.set()
            raise ValueError("refused")

    def wrote(chunk: bytes) -> None:
        if bad == b"b" and chunk == b"a1":
            assert refused.wait(_DEADLINE_S)

    sink = Sink(wrote)
    with pytest.raises(ValueError, match="refused"):
        asyncio.run(run(threads, Wire(seen), sink))
    assert sink.aborted == 1
    assert bad not in sink.written
    assert b"commit" not in sink.written


def test_both_fail_and_neither_is_left_unseen(
    threads: Threads, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(chunk: bytes) -> None:
        if chunk in (b"a1", b"b"):
            raise ValueError(chunk)

    sink = Sink(fail)
    with pytest.raises(ValueError, match=r"b'(a1|b)'"):
        asyncio.run(run(threads, Wire(lambda chunk: fail(chunk) if chunk == b"b" else None), sink))
    assert sink.aborted == 1
    assert not caplog.records


def test_a_cancelled_request_lets_go_when_its_threads_are_done(threads: Threads) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wrote(_: bytes) -> None:
        begun.set()
        assert go_on.wait(_DEADLINE_S)

    sink = Sink(wrote)

    async def cancel() -> None:
        task = asyncio.create_task(run(threads, Wire(), sink))
        await asyncio.to_thread(begun.wait, _DEADLINE_S)
        task.cancel()
        await asyncio.sleep(0)
        assert not sink.aborted
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert sink.aborted == 1
    assert b"commit" not in sink.written
