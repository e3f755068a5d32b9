"""Bodies out of the cache to the wire.

Bytes that are cached go out by sendfile from the segment files, small answers in one write
together with their headers; bytes that are not cached are fetched piece by piece in worker threads,
one piece ahead of what the client has taken. The loop waits for no disk: what is on it, and not in
memory, is brought there by a worker thread before it is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Protocol

from aiohttp import web

from cache.snapshot import FileRange, Piece, read_nowait
from s3api import metrics
from s3api.answers import AnswerHead
from s3api.operations import Call

ONE_WRITE_BYTES = 64 << 10
"""Answers up to this leave in one write with their headers; above, sendfile is cheaper."""
_STEP_BYTES = 1 << 20
"""What is sent, or brought into memory, at a time."""
_AHEAD_BYTES = 4 << 20
"""What the disk is asked for beside it: a large body waits for the disk once for so much."""
_TURN_BYTES = 4 << 20
"""What one answer sends before the others have their turn: a client that takes bytes as fast as
they come never lets the socket be full, which is what else ends a turn."""


class Body(Protocol):
    """`cache.snapshot.Snapshot`, or the plaintext of one."""

    def cached(self, start: int, stop: int) -> list[Piece] | None: ...
    def read(self, start: int, stop: int) -> bytes: ...
    def pieces(self, start: int, stop: int) -> Iterator[Piece]: ...


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
    response = AnswerHead(
        status=status,
        headers={**call.common_headers(), **headers, "Content-Length": str(length)},
    )
    # Once its head is sent an error can only cut the connection: less than Content-Length must
    # never look like an end.
    call.response = response
    turn = _Turn()
    if pieces is not None:
        await response.prepare(call.request)
        for piece in pieces:
            await _send_piece(call, response, piece, turn)
    else:
        async with _fetched(call, body.pieces(start, stop)) as fetched:
            first = await anext(fetched)  # of a store that fails here the client learns why
            await response.prepare(call.request)
            await _send_piece(call, response, first, turn)
            async for piece in fetched:
                await _send_piece(call, response, piece, turn)
    await response.write_eof()
    return response


def _read_now(pieces: list[Piece], length: int) -> bytes | None:
    """The bytes of small pieces if the page cache has them all, without blocking."""
    if len(pieces) == 1 and isinstance(pieces[0], bytes):
        return pieces[0]  # out of the index, as most small ones are
    found = read_nowait(pieces, memoryview(bytearray(length)))
    return None if found is None else bytes(found)


class _Turn:
    """An answer's, on the loop."""

    def __init__(self) -> None:
        self._left = _TURN_BYTES

    async def take(self, length: int) -> None:
        """Before so many bytes are sent: go to the end of the line where the turn is over."""
        if self._left <= 0:
            self._left = _TURN_BYTES
            await asyncio.sleep(0)
        self._left -= length


async def _send_piece(call: Call, response: web.StreamResponse, piece: Piece, turn: _Turn) -> None:
    if isinstance(piece, bytes):
        await turn.take(len(piece))
        await response.write(piece)
    elif call.request.secure:
        await _send_read(call, response, piece)
    else:
        for start in range(0, piece.length, _STEP_BYTES):
            step = piece.part(start, _STEP_BYTES)
            await turn.take(step.length)
            if step.waits_for_disk():
                behind = piece.length - start - step.length
                await call.threads.transfer(step.load, min(_AHEAD_BYTES, behind))
            await _send_range(call, step)


async def _send_range(call: Call, piece: FileRange) -> None:
    transport = call.request.transport
    # loop.sendfile() would say RuntimeError, which means a defect everywhere else.
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    try:
        sent = _send_now(transport, piece)
        if sent < piece.length:
            loop = asyncio.get_running_loop()
            rest = piece.length - sent
            sent += await loop.sendfile(transport, piece.file, piece.offset + sent, rest)
    except TimeoutError as exc:  # ETIMEDOUT: TCP_USER_TIMEOUT, in connection.py
        raise ConnectionResetError("the client takes nothing") from exc
    if sent != piece.length:
        raise ConnectionResetError("a segment file is shorter than its extents")


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
    for start in range(0, piece.length, _STEP_BYTES):
        await response.write(await call.threads.transfer(piece.part(start, _STEP_BYTES).read))


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
