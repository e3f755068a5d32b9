"""Whole answers: head and body are known before the first byte leaves, and leave in one write.

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
        line = _STATUS_LINES.get(self._status)
        headers = self._headers
        body = self._body
        assert body is None or isinstance(body, bytes)
        ordinary = (
            line is not None
            and (not body or "Content-Type" in headers)
            and self._keep_alive is None
            and request.keep_alive
            and request.version == HttpVersion11
            and not self.prepared
        )
        if not ordinary:
            return await super().prepare(request)
        assert line is not None
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
