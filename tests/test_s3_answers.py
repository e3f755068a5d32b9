"""Answers are on the wire what aiohttp would have written."""

from __future__ import annotations

import asyncio
import itertools
import re

import pytest
from aiohttp import web

from s3api.answers import Answer, AnswerHead

HEADERS = {"Server": "Forebay", "ETag": '"1"', "Content-Type": "text/plain", "x-amz-meta-a": "é"}
LENGTH = {"Content-Length": "77"}


async def wire(
    kind: type[web.StreamResponse],
    request: bytes,
    arguments: dict[str, object],
    streamed: bytes | None = None,
) -> list[bytes]:
    """Head in lines, sorted, and body of the answer, and whether the connection stays."""

    async def handle(asked: web.BaseRequest) -> web.StreamResponse:
        answer = kind(**arguments)  # type: ignore[arg-type]
        if streamed is not None:
            await answer.prepare(asked)
            await answer.write(streamed)
            await answer.write_eof()
        return answer

    server = await asyncio.get_running_loop().create_server(
        web.Server(handle, access_log=None), "127.0.0.1", 0
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(request)
        writer.write_eof()
        received = await reader.read()
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    head = re.sub(rb"(?m)^(Date: \w{3}, \d\d \w{3} \d{4} )[0-9:]{8}( GMT)", rb"\1\2", head)
    return [*sorted(head.split(b"\r\n")), body]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_an_answer_is_what_aiohttp_writes(version: str, method: str) -> None:
    async def main() -> None:
        for status, body, connection, more in itertools.product(
            (200, 204, 206, 304, 404),
            (None, b"", b"body", bytes(100_000)),
            ("", "Connection: close\r\n", "Connection: keep-alive\r\n"),
            ({}, LENGTH) if method == "HEAD" else ({},),
        ):
            head = f"{method} / HTTP/{version}\r\nHost: x\r\n{connection}\r\n".encode()
            for headers in (HEADERS | more, {"Server": "Forebay"} | more):
                arguments = {"status": status, "body": body, "headers": headers}
                ours = await wire(Answer, head, arguments)
                assert ours == await wire(web.Response, head, arguments), (arguments, head)

    asyncio.run(main())


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_head_is_what_aiohttp_writes(version: str) -> None:
    async def main() -> None:
        for status, body, connection, kind in itertools.product(
            (200, 206, 404),
            (b"body", bytes(100_000)),
            ("", "Connection: close\r\n", "Connection: keep-alive\r\n"),
            ({}, {"Content-Type": "text/plain"}),
        ):
            head = f"GET / HTTP/{version}\r\nHost: x\r\n{connection}\r\n".encode()
            headers = {"Server": "Forebay", "Content-Length": str(len(body))} | kind
            arguments: dict[str, object] = {"status": status, "headers": headers}
            ours = await wire(AnswerHead, head, arguments, body)
            theirs = await wire(web.StreamResponse, head, arguments, body)
            assert ours == theirs, (arguments, head)

    asyncio.run(main())


def test_line_breaks_do_not_get_into_headers() -> None:
    answer = asyncio.run(
        wire(
            Answer,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            {"headers": {"x-amz-meta-a": "a\r\nSet-Cookie: b"}},
        )
    )
    assert not any(line.startswith(b"Set-Cookie") for line in answer)
