"""Answers as they are mostly: whole, so that head and body leave in one write, or as a head that a
body follows.

aiohttp's Response may also be compressed, chunked, streamed from a file and given cookies; to ask
after all that takes as long as to find a small object. Here the ordinary case, a success over a
connection that stays, is written at once; every other is aiohttp's to write. What is on the wire
is the same (`tests/test_s3_answers.py`). Event loop only.
"""

from __future__ import annotations

import time

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

from s3api.documents import http_date

_STATUS_LINES = {200: "HTTP/1.1 200 OK", 206: "HTTP/1.1 206 Partial Content"}


class Answer(web.Response):
    """See the module docstring."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        line = _ordinary_line(self, request)
        headers = self._headers
        body = self._body
        assert body is None or isinstance(body, bytes)
        if line is None or (body and "Content-Type" not in headers):
            return await super().prepare(request)
        self._keep_alive = True
        is_head = request.method == "HEAD"
        if "Content-Length" not in headers and (body or not is_head):
            headers["Content-Length"] = str(len(body or b""))
        headers["Date"] = http_date(time.time_ns())
        writer = request.writer
        await writer.write_headers(line, headers)
        await writer.write_eof(b"" if is_head or body is None else body)
        self._eof_sent = True  # nothing is left for write_eof()
        return None


class AnswerHead(web.StreamResponse):
    """The head of an answer with Content-Length, whose body follows."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        line = _ordinary_line(self, request)
        if line is None or "Content-Type" not in self._headers:
            return await super().prepare(request)
        self._req = request
        self._keep_alive = True
        writer = self._payload_writer = request.writer
        self._headers["Date"] = http_date(time.time_ns())
        await writer.write_headers(line, self._headers)
        writer.send_headers()
        return writer


def _ordinary_line(answer: web.StreamResponse, request: web.BaseRequest) -> str | None:
    """The status line of a success over a connection that stays; None for any other answer."""
    ordinary = (
        answer.keep_alive is None
        and request.keep_alive
        and request.version == HttpVersion11
        and not answer.prepared
    )
    return _STATUS_LINES.get(answer.status) if ordinary else None
