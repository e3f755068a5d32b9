"""Connections of the gateway: aiohttp's HTTP protocol with the bounds that it does not have.

- A request's headers must be complete `header_timeout_s` after the connection opened or their
  first byte came; a silent or dribbling client is cut off.
- A client that takes no byte of an answer for `body_timeout_s` is cut off by the kernel
  (TCP_USER_TIMEOUT), also in the middle of a sendfile.
- The number of connections is limited, in total and for each client address.
- What cannot be parsed as HTTP is answered as S3 answers, without echoing it.
- A request that came whole, body and all, on a connection that waits for nothing else, is handled
  where its last byte is read, and goes to the connection's task only if it has to wait for more
  than a commit (`begun.py`): half the time that aiohttp and asyncio take for it is otherwise that
  of waking tasks.

Pauses within a request's body are the business of whoever reads it (`receiving.py`). Runs on the
event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from s3api import metrics
from s3api.begun import Begun
from s3api.config import GatewayConfig
from s3api.documents import http_date
from s3api.errors import S3Error, error_document
from s3api.headers import common_headers, new_request_id

log = logging.getLogger(__name__)

READ_BUFFER_BYTES = 256 << 10
"""aiohttp stops reading from a connection with twice this in hand."""
_LINGER_S = 5.0
"""How long a refused request's body is read and dropped, so that the client sees the refusal."""
_NEVER_S = 10 * 365 * 86400.0
_BEGUN_AT_ONCE = ("GET", "HEAD", "PUT")


class Server(web.Server):
    """All connections of one gateway process."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        config: GatewayConfig,
        host_id: str,
    ) -> None:
        super().__init__(
            handler,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=config.idle_timeout_s or _NEVER_S,
            lingering_time=_LINGER_S,
            read_bufsize=READ_BUFFER_BYTES,
            logger=log,
        )
        self.config = config
        self.host_id = host_id
        self.draining = False
        self._open = 0
        self._none_open = asyncio.Event()
        self._open_by_client: Counter[str] = Counter()

    def __call__(self) -> Connection:
        return Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        assert isinstance(protocol, Connection)
        begun = protocol.begun_request
        if begun is not None:
            return begun
        return super()._make_request(message, payload, protocol, writer, task)

    def admit(self, client: str) -> bool:
        """Count a new connection; False if it is one too many."""
        self._open += 1
        self._none_open.clear()
        self._open_by_client[client] += 1
        metrics.CONNECTIONS.inc()
        of_client = self.config.max_connections_per_client or self.config.max_connections
        return (
            self._open <= self.config.max_connections and self._open_by_client[client] <= of_client
        )

    def release(self, client: str) -> None:
        self._open -= 1
        if not self._open:
            self._none_open.set()
        self._open_by_client[client] -= 1
        if not self._open_by_client[client]:
            del self._open_by_client[client]
        metrics.CONNECTIONS.dec()

    async def drain(self, timeout_s: float) -> None:
        """Close idle connections, and each other one after the answer it is waiting for; what is
        not done after timeout_s is cut off.

        Not aiohttp's pre_shutdown(): that stops reading, so an upload under way could never end.
        """
        self.draining = True
        if not self._open:
            self._none_open.set()
        for connection in self.connections:
            assert isinstance(connection, Connection)
            connection.close_if_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._none_open.wait()
        await self.shutdown(0)


Handled = tuple[web.StreamResponse, bool]
"""The answer to a request, and whether the client was gone before it was sent."""


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = ("_begun", "_client", "_goes_on", "_header_deadline", "_server")

    def __init__(self, server: Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._server = server
        self._client: str | None = None
        self._header_deadline: asyncio.TimerHandle | None = None
        self._begun: tuple[web.BaseRequest, Begun[Handled]] | None = None
        self._goes_on = False
        """What was begun waits for a commit, and then goes on without the connection's task, unless
        that has taken it over to come to the request behind it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if peer else ""
        admitted = self._server.admit(self._client)
        super().connection_made(transport)
        if not admitted:
            self._refuse()
            return
        raw = transport.get_extra_info("socket")
        if raw is not None:
            timeout_ms = int(self._server.config.body_timeout_s * 1000)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
        self._await_headers()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._headers_arrived()
        if self._client is not None:
            self._server.release(self._client)
            self._client = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done() or self._messages:
            super().data_received(data)
            return
        # The connection's task waits for a request. It is not woken for one that needs no task.
        self._waiter = None
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if self._messages:
            if not self._handle_now():
                waiter.set_result(None)
        elif data and self._header_deadline is None:
            self._await_headers()

    def _handle_now(self) -> bool:
        """Handle the request that has come, if it is the only one; False if it is left to the
        connection's task, begun or not."""
        message, payload = self._messages[0]
        if (
            len(self._messages) > 1
            or not isinstance(message, RawRequestMessage)
            or message.method not in _BEGUN_AT_ONCE
            or message.upgrade
            or not payload.is_eof()
        ):
            return False
        assert self._manager is not None
        assert self._request_handler is not None
        assert self._task_handler is not None
        request = self._manager.request_factory(
            message, payload, self, StreamWriter(self, self._loop), self._task_handler
        )
        try:
            begun = Begun(super()._handle_request(request, None, self._request_handler))
        except ConnectionError:  # an answer that had begun before a defect showed
            self.force_close()
            return True
        if not begun.done:
            self._begun = request, begun
            return self._goes_on_soon(begun)
        self._end_begun(begun)
        return True

    def _goes_on_soon(self, begun: Begun[Handled]) -> bool:
        soon = begun.soon
        if soon is None:
            return False
        self._keepalive = False  # not idle: _process_keepalive() would take it for that
        self._goes_on = True
        soon.add_done_callback(self._go_on)
        return True

    def _go_on(self, _: asyncio.Future[Any]) -> None:
        """Behind a commit."""
        if not self._goes_on:
            return  # the connection's task does
        assert self._begun is not None
        self._goes_on = False
        begun = self._begun[1]
        try:
            begun.go_on()
        except ConnectionError:
            self._begun = None
            self.force_close()
            return
        if begun.done:
            self._begun = None
            self._end_begun(begun)
        elif not self._goes_on_soon(begun):
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def _end_begun(self, begun: Begun[Handled]) -> None:
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        self._end_request(*begun.result)

    def _end_request(self, response: web.StreamResponse, gone: bool) -> None:
        """What the connection's task does behind each request that it handled."""
        self._keepalive = bool(response.keep_alive) and not gone
        if not self._keepalive or self._close:
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )

    @property
    def begun_request(self) -> web.BaseRequest | None:
        """The request that was begun, for the connection's task to go on with."""
        self._goes_on = False
        return None if self._begun is None else self._begun[0]

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> Handled:
        begun, self._begun = self._begun, None
        if begun is None:
            return await super()._handle_request(request, start_time, request_handler)
        return await begun[1]

    def request_started(self) -> None:
        """Called by the gateway when a request's headers are whole."""
        self._headers_arrived()

    def close_after_answer(self, response: web.StreamResponse) -> None:
        """Close without waiting for the rest of the request's body."""
        response.force_close()
        self._lingering_time = 0.0

    def close_if_idle(self) -> None:
        if self._current_request is None:
            self.force_close()

    def _await_headers(self) -> None:
        self._header_deadline = self._loop.call_later(
            self._server.config.header_timeout_s, self._headers_late
        )

    def _headers_arrived(self) -> None:
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None

    def _headers_late(self) -> None:
        self._header_deadline = None
        if self._current_request is None:
            self.force_close()

    def _refuse(self) -> None:
        transport = self.transport
        assert transport is not None
        request_id, host_id = new_request_id(), self._server.host_id
        body = error_document(
            S3Error("SlowDown"), resource="", request_id=request_id, host_id=host_id
        )
        headers = common_headers(request_id, host_id) | {
            "Connection": "close",
            "Content-Length": str(len(body)),
            "Content-Type": "application/xml",
            "Date": http_date(time.time_ns()),
            "Retry-After": "1",
        }
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join(["HTTP/1.1 503 Service Unavailable", *lines, "", ""])
        transport.write(head.encode() + body)
        self.close()
        transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what was not HTTP, and to a defect that no handler caught."""
        if status >= 500:
            log.error("unhandled error in a connection", exc_info=exc)
            error = S3Error("InternalError")
        elif isinstance(exc, LineTooLong):
            error = S3Error("RequestHeaderSectionTooLarge")
        else:
            error = S3Error("BadRequest")
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun: it can only be cut off")
        log.debug("a client of %s sent what is not HTTP: %s", request.remote, type(exc).__name__)
        request_id, host_id = new_request_id(), self._server.host_id
        body = error_document(error, resource="", request_id=request_id, host_id=host_id)
        response = web.Response(
            status=error.status,
            headers={
                **common_headers(request_id, host_id),
                **error.headers,
                "Content-Type": "application/xml",
            },
            body=body,
        )
        response.force_close()
        return response
