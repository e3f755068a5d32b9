"""An HTTP proxy in front of a real S3 server that spoils answers on demand.

Every request goes to the server and its answer back, unless `fault` is set: a function from the
request and the answer to another answer, or None to leave it. `Answer.body_sent` says which bytes
really go out before the connection is cut; `pause_s` is waited between single bytes of the body.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    body_sent: bytes | None = None
    """Sent instead of body, then the connection is cut; Content-Length stays that of body."""
    pause_s: float = 0.0
    hangs: bool = False
    """No answer at all; the connection stays open until the proxy ends."""


Fault = Callable[[Request, Answer], Answer | None]


class FaultyProxy:
    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self.fault: Fault | None = None
        self.dropped_headers: set[str] = set()
        """Request headers that the server does not get to see, in lower case."""
        self.requests: list[Request] = []
        self.ended = threading.Event()

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        connection = http.client.HTTPConnection("127.0.0.1", self._upstream_port, timeout=30)
        with contextlib.closing(connection):
            headers = {
                name: value
                for name, value in request.headers.items()
                if name.lower() not in self.dropped_headers | {"expect", "connection"}
            }
            connection.request(request.method, request.path, request.body, headers)
            response = connection.getresponse()
            answer = Answer(response.status, dict(response.getheaders()), response.read())
        if self.fault is not None:
            answer = self.fault(request, answer) or answer
        return answer


def error(status: int, code: str) -> Answer:
    """An S3 error document."""
    body = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    return Answer(status, {"Content-Type": "application/xml"}, body)


@contextlib.contextmanager
def faulty_proxy(upstream_port: int) -> Iterator[tuple[FaultyProxy, int]]:
    """(proxy, its port), until the end of the block."""
    proxy = FaultyProxy(upstream_port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, dict(self.headers.items()), body)
            answer = proxy.answer(request)
            if answer.hangs:
                proxy.ended.wait(60)
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            answer.headers.setdefault("Content-Length", str(len(answer.body)))
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            body = answer.body if answer.body_sent is None else answer.body_sent
            if answer.pause_s:
                for position in range(len(body)):
                    self.wfile.write(body[position : position + 1])
                    if proxy.ended.wait(answer.pause_s):
                        break
            else:
                self.wfile.write(body)
            self.close_connection = answer.body_sent is not None or bool(answer.pause_s)

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                self._serve()

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy, server.server_address[1]
    finally:
        proxy.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
