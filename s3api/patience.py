"""Answers that take long: a copy or a completed upload of many bytes.

Clients give up on a connection that brings nothing for a while (pyarrow after three seconds). So
Amazon answers these operations 200 before they are done, with white space until they are, and says
in the document what became of it; clients look for an `Error` there ("CopyObject", "a 200 OK
response can contain either a success or an error"). Here an operation has `PATIENCE_S` to answer
in the ordinary way first. Headers of a late answer cannot be sent any more: what matters is in
its document. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import logging

from aiohttp import web

from cache.errors import CacheError
from s3api.errors import S3Error, error_document, from_cache, from_os
from s3api.operations import Call, Handler

log = logging.getLogger(__name__)

PATIENCE_S = 1.0
_DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'


def patient(handler: Handler) -> Handler:
    """The operation, whose answer is a document, with white space ahead of a late one."""

    @functools.wraps(handler)
    async def handle(call: Call) -> web.StreamResponse:
        work = asyncio.ensure_future(handler(call))
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=PATIENCE_S)
                if not work.done() and call.request.content.is_eof():
                    return await _late(call, work)
            return work.result()
        finally:
            work.cancel()  # the gateway is stopping; nothing happens to work that is done
            work.add_done_callback(_seen)

    return handle


def _seen(work: asyncio.Future[web.StreamResponse]) -> None:
    """What went wrong was raised where it matters, or comes after the end."""
    if not work.cancelled():
        work.exception()


async def _late(call: Call, work: asyncio.Future[web.StreamResponse]) -> web.StreamResponse:
    headers = call.common_headers() | {"Content-Type": "application/xml"}
    response = web.StreamResponse(headers=headers)
    call.response = response
    try:
        await response.prepare(call.request)
        await response.write(_DECLARATION)
        while not work.done():
            await response.write(b"\n")
            await asyncio.wait({work}, timeout=PATIENCE_S)
        await response.write(_document(call, work).removeprefix(_DECLARATION))
        await response.write_eof()
    except ConnectionError:
        await asyncio.wait({work})  # what was begun is ended; nobody is left to be told
        _document(call, work)  # for the log
        raise
    return response


def _document(call: Call, work: asyncio.Future[web.StreamResponse]) -> bytes:
    """What became of it. Only what a client may know: unexpected errors go on to the gateway,
    which ends the connection."""
    try:
        answer = work.result()
    except S3Error as exc:
        error = exc
    except CacheError as exc:
        error = from_cache(exc)
        log.warning("request %s: %s", call.request_id, exc)
    except OSError as exc:
        error = from_os(exc)
        log.error("request %s: %s", call.request_id, exc)
    else:
        assert isinstance(answer, web.Response)
        assert isinstance(answer.body, bytes)
        return answer.body
    return error_document(
        error,
        resource=call.request.raw_path.partition("?")[0],
        request_id=call.request_id,
        host_id=call.door.host_id,
    )
