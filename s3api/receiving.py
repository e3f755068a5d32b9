"""Bodies from the wire into the cache, with bounded memory.

The event loop collects wire bytes to about 1 MiB, one call in a worker thread decodes and hashes
them, and another writes them, while the next are hashed and the ones behind them collected; a body
that fits into one block is opened, written and committed in a single call. At most three blocks of
a body are in memory. One of a few KiB, which goes into the index, stays on the loop: a hop into a
thread costs more than all that is done with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from s3api import metrics
from s3api.begun import own_task
from s3api.checksums import Block
from s3api.errors import S3Error
from s3api.operations import Call
from s3api.parsing import Input, read_payload
from s3api.payload import BodyPlan, Received, Receiver

BLOCK_BYTES = 1 << 20
"""Of a body, handed to a worker thread at once: a hop costs 50 microseconds, its MD5 1500."""
DOCUMENT_BYTES_MAX = 1 << 20
"""Largest XML body of a request."""

T = TypeVar("T")


class Writer(Protocol):
    """`cache.writers.ObjectWriter`, `cache.parts.PartWriter`, or what seals for one of them."""

    def write(self, chunk: bytes | bytearray | memoryview) -> None: ...
    def abort(self) -> None: ...


W = TypeVar("W", bound=Writer)


def expects_continue(request: web.BaseRequest) -> bool:
    """The client waits for `100 Continue` before it sends the body. Other expectations are not
    known to S3 and mean nothing."""
    return request.headers.get("Expect", "").lower() == "100-continue"


async def wire_blocks(call: Call, block_bytes: int) -> AsyncIterator[tuple[list[bytes], bool]]:
    """Yield (wire bytes, whether they are the last). Always ends with a last one, or raises:
    RequestTimeout, IncompleteBody, or ConnectionError when the client is gone."""
    request = call.request
    content = request.content
    if expects_continue(request) and not content.is_eof():
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        call.continued = True
    timeout_s = call.door.config.body_timeout_s
    block: list[bytes] = []
    size_bytes = 0
    while not content.at_eof():
        try:
            async with asyncio.timeout(timeout_s):
                wire = await content.readany()
        except TimeoutError:
            raise S3Error("RequestTimeout") from None
        except RequestPayloadError:
            raise S3Error("IncompleteBody") from None
        except RuntimeError:  # so says aiohttp where the client was gone before we came to it
            if request.transport is not None:
                raise
            raise ConnectionResetError("the client is gone") from None
        block.append(wire)
        size_bytes += len(wire)
        if size_bytes >= block_bytes and not content.at_eof():
            yield block, False
            block, size_bytes = [], 0
    yield block, True


async def receive_small(call: Call, receiver: Receiver, writer: Writer) -> Received:
    """Take a body of a few KiB into a writer that does not block, here on the loop."""
    content = call.request.content
    if content.is_eof():
        wire = [content.read_nowait()]
    else:
        await own_task()
        wire = [chunk async for block, _ in wire_blocks(call, BLOCK_BYTES) for chunk in block]
    for chunk in wire:
        for payload in receiver.feed(chunk):
            writer.write(payload)
    received = receiver.finish()
    metrics.RECEIVED_BYTES.inc(received.size_bytes)
    return received


class _Reception(Generic[W, T]):
    """What the worker threads do with one body: each method in one thread at a time, and of one
    block after the other."""

    def __init__(
        self, receiver: Receiver, begin: Callable[[], W], commit: Callable[[W, Received], T]
    ) -> None:
        self._receiver = receiver
        self._begin = begin
        self._commit = commit
        self._writer: W | None = None

    def take(self, wire: list[bytes]) -> list[Block]:
        """The payload of a block, hashed; the first one opens the writer."""
        if self._writer is None:
            self._writer = self._begin()
        return [payload for chunk in wire for payload in self._receiver.feed(chunk)]

    def write(self, payload: list[Block]) -> None:
        assert self._writer is not None
        for piece in payload:
            self._writer.write(piece)

    def end(self, wire: list[bytes]) -> T:
        """Take the last block; check the body and commit it."""
        self.write(self.take(wire))
        assert self._writer is not None
        return self._commit(self._writer, self._receiver.finish())

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()


async def receive(
    call: Call, receiver: Receiver, begin: Callable[[], W], commit: Callable[[W, Received], T]
) -> T:
    """Take the request's body into the writer that `begin` opens, and `commit` it.

    Both run in worker threads and may block. Whatever goes wrong, the writer is aborted.
    """
    reception = _Reception(receiver, begin, commit)
    taking: asyncio.Future[list[Block]] | None = None
    writing: asyncio.Future[None] | None = None
    ending: asyncio.Future[T] | None = None
    try:
        async for wire, last in call.body or wire_blocks(call, BLOCK_BYTES):
            if taking is not None:
                payload = await asyncio.shield(taking)
                if writing is not None:
                    await asyncio.shield(writing)
                writing = call.threads.transfer(reception.write, payload)
            if not last:
                taking = call.threads.transfer(reception.take, wire)
                continue
            if writing is not None:
                await asyncio.shield(writing)
            ending = call.threads.transfer(reception.end, wire)
        assert ending is not None
        result = await asyncio.shield(ending)
    except BaseException:
        # None is cancelled with us: the writer must be let go whatever happens to this request,
        # and not before the threads are done with it.
        running = [future for future in (taking, writing, ending) if future is not None]
        await asyncio.shield(_give_up(call, reception, running))
        raise
    metrics.RECEIVED_BYTES.inc(receiver.size_bytes)
    return result


async def _give_up(
    call: Call, reception: _Reception[W, T], running: list[asyncio.Future[Any]]
) -> None:
    if running:
        await asyncio.wait(running)
        for future in running:
            future.exception()  # seen: the error that matters is the one that brought us here
    await call.threads.transfer(reception.abort)


async def read_document(call: Call) -> Input:
    """The members of a request's XML body, verified like any other body."""
    body = await read_body(call)
    return await call.threads.metadata(read_payload, call.operation, body)


async def read_body(call: Call) -> bytes:
    """A request's document as it came, verified; at most DOCUMENT_BYTES_MAX."""
    headers = call.headers
    if call.operation.input is not None and "ChecksumCRC32" in call.operation.input.members:
        # CompleteMultipartUpload: these headers speak of the object, not of this document.
        headers = {k: v for k, v in headers.items() if not k.startswith("x-amz-checksum-")}
    if "content-length" not in headers and "transfer-encoding" not in headers:
        headers = {**headers, "content-length": "0"}
    plan = BodyPlan.read(headers, call.authentication, DOCUMENT_BYTES_MAX)
    receiver = Receiver(plan, bytes_max=DOCUMENT_BYTES_MAX)
    parts: list[bytes] = []
    async for wire, _ in wire_blocks(call, BLOCK_BYTES):
        for chunk in wire:
            parts += [bytes(payload) for payload in receiver.feed(chunk)]
    receiver.finish()
    return b"".join(parts)
