"""Bodies between the wire and the cache, in both directions, with bounded memory.

Receiving: the event loop collects wire bytes to about 1 MiB, one call in a worker thread decodes
and hashes them, and another writes them, while the next are hashed and the ones behind them
collected; a body that fits into one block is opened, written and committed in a single call. At
most three blocks of a body are in memory. One of a few KiB, which goes into the index, stays on the
loop: a hop into a thread costs more than all that is done with it.

Sending: bytes that are cached go out by sendfile from the segment files, small answers in one
write together with their headers; bytes that are not cached are fetched piece by piece in worker
threads, one piece ahead of what the client has taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from cache.contents import FileRange, Piece, read_nowait
from s3api import metrics
from s3api.begun import own_task
from s3api.checksums import Block
from s3api.errors import S3Error
from s3api.operations import Call
from s3api.parsing import Input, read_payload
from s3api.payload import BodyPlan, Received, Receiver

BLOCK_BYTES = 1 << 20
"""Of a body, handed to a worker thread at once: a hop costs 50 microseconds, its MD5 1500."""
ONE_WRITE_BYTES = 64 << 10
"""Answers up to this leave in one write with their headers; above, sendfile is cheaper."""
DOCUMENT_BYTES_MAX = 1 << 20
"""Largest XML body of a request."""

T = TypeVar("T")


class Writer(Protocol):
    """`cache.writers.ObjectWriter`, `cache.parts.PartWriter`, or what seals for one of them."""

    def write(self, chunk: bytes | bytearray | memoryview) -> None: ...
    def abort(self) -> None: ...


class Body(Protocol):
    """`cache.contents.Snapshot`, or the plaintext of one."""

    def cached(self, start: int, stop: int) -> list[Piece] | None: ...
    def read(self, start: int, stop: int) -> bytes: ...
    def pieces(self, start: int, stop: int) -> Iterator[Piece]: ...


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


async def send(
    call: Call,
    body: Body,
    start: int,
    stop: int,
    status: int,
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Answer with bytes [start, stop) of an object. The caller closes its snapshot."""
    status = call.status or status
    length = stop - start
    pieces = body.cached(start, stop) if length else []
    metrics.SENT_BYTES.inc(length)
    if length <= ONE_WRITE_BYTES:
        content = None if pieces is None else _read_now(pieces, length)
        if content is None:
            content = await call.threads.transfer(body.read, start, stop)
        return call.answer(status, headers, content)
    response = web.StreamResponse(
        status=status,
        headers={**call.common_headers(), **headers, "Content-Length": str(length)},
    )
    # From here on an error can only cut the connection: less than Content-Length must never
    # look like an end.
    call.response = response
    if pieces is not None:
        await response.prepare(call.request)
        for piece in pieces:
            await _send_piece(call, response, piece)
    else:
        async with _fetched(call, body.pieces(start, stop)) as fetched:
            await response.prepare(call.request)
            async for piece in fetched:
                await _send_piece(call, response, piece)
    await response.write_eof()
    return response


def _read_now(pieces: list[Piece], length: int) -> bytes | None:
    """The bytes of small pieces if the page cache has them all, without blocking."""
    if len(pieces) == 1 and isinstance(pieces[0], bytes):
        return pieces[0]  # out of the index, as most small ones are
    found = read_nowait(pieces, memoryview(bytearray(length)))
    return None if found is None else bytes(found)


async def _send_piece(call: Call, response: web.StreamResponse, piece: Piece) -> None:
    if isinstance(piece, FileRange) and call.request.secure:
        await _send_read(call, response, piece)
    elif isinstance(piece, FileRange):
        transport = call.request.transport
        # loop.sendfile() would say RuntimeError, which means a defect everywhere else.
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        sent = _send_now(transport, piece)
        if sent < piece.length:
            loop = asyncio.get_running_loop()
            rest = piece.length - sent
            sent += await loop.sendfile(transport, piece.file, piece.offset + sent, rest)
        if sent != piece.length:
            raise ConnectionResetError("a segment file is shorter than its extents")
    else:
        await response.write(piece)


def _send_now(transport: asyncio.Transport, piece: FileRange) -> int:
    """Send what the socket takes at once, often a MiB; its size.

    loop.sendfile() waits for the loop at least once, and takes five more system calls for it."""
    if transport.get_write_buffer_size():
        return 0
    descriptor = transport.get_extra_info("socket").fileno()
    try:
        return os.sendfile(descriptor, piece.file.fileno(), piece.offset, piece.length)
    except BlockingIOError:
        return 0


async def _send_read(call: Call, response: web.StreamResponse, piece: FileRange) -> None:
    """Send what must pass through our hands to be encrypted. Not loop.sendfile(), which would seek
    in a file that others are reading from, too."""
    descriptor = piece.file.fileno()
    for offset in range(piece.offset, piece.offset + piece.length, BLOCK_BYTES):
        wanted = min(BLOCK_BYTES, piece.offset + piece.length - offset)
        block = await call.threads.transfer(os.pread, descriptor, wanted, offset)
        if len(block) != wanted:
            raise ConnectionResetError("a segment file is shorter than its extents")
        await response.write(block)


@contextlib.asynccontextmanager
async def _fetched(call: Call, pieces: Iterator[Piece]) -> AsyncIterator[AsyncIterator[Piece]]:
    """Pieces made in worker threads, one ahead of the one that is being sent; the first one from
    now on. At the end no thread reads any more: the caller closes the snapshot next, and who still
    read from it would take it for a lost segment."""
    ahead = call.threads.transfer(next, pieces, None)

    async def each() -> AsyncIterator[Piece]:
        nonlocal ahead
        while (piece := await ahead) is not None:
            ahead = call.threads.transfer(next, pieces, None)
            yield piece

    try:
        yield each()
    finally:
        await asyncio.shield(_end(call, pieces, ahead))


async def _end(call: Call, pieces: Iterator[Piece], ahead: asyncio.Future[Piece | None]) -> None:
    await asyncio.wait([ahead])
    if not ahead.cancelled():
        ahead.exception()  # seen: the error that matters is the one that brought us here
    close = getattr(pieces, "close", None)
    if close is not None:
        await call.threads.transfer(close)
