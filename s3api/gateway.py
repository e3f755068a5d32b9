"""The S3 endpoint of one process: the server, and the way of every request through it.

The prologue is the same for all: name the request, decode its target, find the operation,
authenticate, parse the input, authorise; then one call of the operation; then one place where
errors become answers. Nothing of a body is read, and no `100 Continue` is sent, before a request
was authorised. The signature is checked over the raw path, and the Host header is all that is
believed about the host.

One asyncio loop on the calling thread; whatever blocks runs in the threads of `threads.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from cache.errors import CacheError
from cache.memo import Memo
from cache.volume import Volume

# The modules of operations enter themselves into OFFERED when they are imported.
from s3api import (  # noqa: F401
    acls,
    bucket_encryption,
    bucket_logging,
    bucket_policies,
    buckets,
    completion,
    cors,
    lifecycle,
    listing,
    locking,
    metrics,
    multipart,
    objects,
    posting,
    sigv4,
    site,
    sts,
    tagging,
    unconfigured,
    versioning,
    website,
)
from s3api.access import authorise
from s3api.auth import UNPROVEN, Authenticator, RememberedKeys
from s3api.begun import own_task
from s3api.buckets import check_expected_owner
from s3api.commits import Commits
from s3api.config import AuthConfig, GatewayConfig
from s3api.connection import Connection, Server
from s3api.directories import LISTINGS, Directory
from s3api.errors import S3Error, error_document, from_cache, from_os
from s3api.headers import common_headers, new_request_id
from s3api.keys import Target, parse_target, plain_copy_source
from s3api.listening import Listener
from s3api.log_delivery import Answered, LogDelivery
from s3api.model import MODEL, SELF_PROVING
from s3api.operations import OFFERED, Call, Door, find_offer
from s3api.parsing import read_input, split_query
from s3api.receiving import expects_continue
from s3api.threads import Threads

log = logging.getLogger(__name__)
access_log = logging.getLogger("s3api.access")

_BACKLOG = 1024
_ONCE_ONLY = MODEL.header_names | {
    "authorization",
    "content-encoding",
    "content-type",
    "date",
    "expect",
    "host",
    "transfer-encoding",
}
"""Headers that may not occur twice, beside all x-amz-*: two layers could take different ones."""


class Gateway:
    """The requests of one process. `start` listens, `stop` drains."""

    def __init__(self, volume: Volume, config: GatewayConfig, auth: AuthConfig) -> None:
        self._config = config
        self._threads = Threads(
            metadata_threads=config.metadata_threads, transfer_threads=config.transfer_threads
        )
        memo = Memo(volume.index)
        self._authenticator = Authenticator(
            auth,
            RememberedKeys(volume.keys, memo),
            address=config.address,
            region=config.region if config.check_region else None,
        )
        host_id = secrets.token_hex(16)
        self._door = Door(
            volume, memo, self._threads, Commits(), config, host_id, self._authenticator
        )
        self._logs = LogDelivery(volume, self._threads, config, host_id)
        self._http: Server | None = None
        self._listening: list[asyncio.Server] = []

    async def start(self, listening: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve connections of a bound socket. May be called for several."""
        if self._http is None:
            self._http = Server(self._handle, self._config, self._door.host_id)
            self._logs.start()
        loop = asyncio.get_running_loop()
        # A client that does not finish its handshake is as one that does not finish its headers.
        handshake_s = None if tls is None else self._config.header_timeout_s
        server = await loop.create_server(
            self._http,
            sock=listening,
            backlog=_BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=handshake_s,
            ssl_shutdown_timeout=handshake_s,
        )
        self._listening.append(server)
        log.info(
            "serving S3 over %s on %s port %d, authentication: %s",
            "HTTP" if tls is None else "HTTPS",
            *listening.getsockname()[:2],
            self._authenticator.mode,
        )

    async def stop(self) -> None:
        """Refuse new connections, let requests under way end, for at most drain_timeout_s."""
        assert self._http is not None
        for server in self._listening:
            server.close()
        await self._http.drain(self._config.drain_timeout_s)
        await self._authenticator.close()
        await self._logs.stop()
        await asyncio.to_thread(self._threads.close)

    # ------------------------------------------------------------------------------ one request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.request_started()
        entry = _Entry(request)
        call: Call | None = None
        self._door.memo.refresh()
        try:
            if request.method == "OPTIONS":
                response = self._answer_preflight(request, entry)
            elif self._is_for_site(request):
                await own_task()
                response = await self._answer_site(request, entry)
            else:
                await self._authenticator.prepare(request.headers.get("Authorization", ""))
                call = self._resolve(request, entry)
                await self._admit(call)
                offer = find_offer(call.operation)
                if not offer.prompt:
                    await own_task()
                response = await offer.handler(call)
            entry.status = response.status
        except S3Error as error:
            response = self._refuse(request, entry, call, error)
        except CacheError as error:
            translated = from_cache(error)
            if translated.status >= 500:
                log.warning("request %s: %s", entry.request_id, error)
            response = self._refuse(request, entry, call, translated)
        except ConnectionError:
            response = self._cut_off(request, entry, "ClientGone")
        except OSError as error:
            log.error("request %s: %s", entry.request_id, error)
            response = self._refuse(request, entry, call, from_os(error))
        except Exception:
            log.exception("request %s (%s) failed", entry.request_id, entry.operation)
            response = self._refuse(request, entry, call, S3Error("InternalError"))
        if expects_continue(request) and not (call is not None and call.continued):
            # The client will not send the body now, so the next bytes would be another request.
            connection.close_after_answer(response)
        if call is not None:  # what a form said of itself
            entry.user, entry.key = call.identity.user, call.key
            call.release()
        self._finish(entry, response)
        return response

    def _address(
        self, request: web.BaseRequest, entry: _Entry
    ) -> tuple[dict[str, str], str, str, Target]:
        """Headers, raw path and query, and what the request is about."""
        raw_path, _, raw_query = request.raw_path.partition("?")
        if not request.raw_path.isascii() or "#" in request.raw_path:
            raise S3Error("InvalidURI")
        headers = _read_headers(request)
        target = parse_target(
            raw_path,
            headers.get("host", ""),
            self._config.domain,
            directories=self._config.directories_as_buckets,
        )
        bucket = self._door.memo.of(self._door.volume.bucket_links.resolve, target.bucket)
        if bucket != target.bucket:
            entry.link, target = target.bucket, msgspec.structs.replace(target, bucket=bucket)
        entry.bucket, entry.key = target.bucket, target.key
        return headers, raw_path, raw_query, target

    def _answer_preflight(self, request: web.BaseRequest, entry: _Entry) -> web.StreamResponse:
        """What a browser asks before it sends a page's request, as nobody in particular."""
        entry.operation = "Preflight"
        headers, _, _, target = self._address(request, entry)
        allowed = cors.preflight_headers(self._door.volume, target.bucket, headers)
        return web.Response(headers=common_headers(entry.request_id, self._door.host_id) | allowed)

    def _is_for_site(self, request: web.BaseRequest) -> bool:
        domain = self._config.website_domain
        return site.site_of(request.headers.get("Host", ""), domain) is not None

    async def _answer_site(self, request: web.BaseRequest, entry: _Entry) -> web.StreamResponse:
        """A page of a bucket's website, or where to find it."""
        entry.operation, entry.is_site = "Website", True
        raw_path = request.raw_path.partition("?")[0]
        headers = _read_headers(request)
        bucket = site.site_of(headers.get("host", ""), self._config.website_domain)
        assert bucket is not None
        entry.bucket = bucket
        if not request.raw_path.isascii() or not raw_path.startswith("/"):
            raise S3Error("InvalidURI")
        volume = self._door.volume
        entry.added_headers = common_headers(entry.request_id, self._door.host_id)
        entry.added_headers |= cors.answer_headers(volume, bucket, request.method, headers)
        asked = site.SiteRequest(
            self._door, authorise, request, entry.request_id, headers, entry.added_headers
        )
        return await asked.answer(bucket, raw_path)

    def _resolve(self, request: web.BaseRequest, entry: _Entry) -> Call:
        """Who asks for what."""
        headers, raw_path, raw_query, target = self._address(request, entry)
        volume = self._door.volume
        entry.added_headers = cors.answer_headers(volume, target.bucket, request.method, headers)
        query = split_query(raw_query)
        level = "key" if target.key else "bucket" if target.bucket else "service"
        operation = MODEL.route(request.method, level, query, headers)
        entry.operation = operation.name
        if entry.link and operation.name in ("CreateBucket", "DeleteBucket"):
            raise S3Error("AccessDenied", f"{entry.link} is a link to a bucket")
        authentication = UNPROVEN
        if operation not in SELF_PROVING:
            authentication = self._authenticator.authenticate(
                sigv4.Request(request.method, raw_path, query, headers), datetime.now(UTC)
            )
            entry.user = authentication.identity.user
        # That an operation is not offered is said after it was authorised, as what it would do is.
        offer = OFFERED.get(operation.name)
        values = (
            {} if offer is None else read_input(operation, offer.members, query, headers.items())
        )
        if "CopySource" in values:
            values["CopySource"] = self._follow_link(values["CopySource"])
        if target.directory is not None:
            target.directory.check_offered(operation.name, level)
            values = target.directory.inward(operation.name, values)
        return Call(
            self._door,
            request,
            entry.request_id,
            headers,
            operation,
            target,
            values,
            authentication,
            entry.added_headers,
        )

    def _follow_link(self, copy_source: str) -> str:
        """x-amz-copy-source with the name of the bucket itself, where it names a link, or a
        directory of a bucket."""
        if self._config.directories_as_buckets:
            copy_source = plain_copy_source(copy_source)
        raw_bucket, slash, rest = copy_source.removeprefix("/").partition("/")
        bucket = self._door.volume.bucket_links.resolve(raw_bucket)
        return copy_source if bucket == raw_bucket else f"{bucket}{slash}{rest}"

    async def _admit(self, call: Call) -> None:
        """Whether they may. What says only in its body who asks for what is asked about there."""
        if call.operation in SELF_PROVING:
            return
        await authorise(call)
        if "ExpectedBucketOwner" in call.input:
            check_expected_owner(call, call.bucket, call.input["ExpectedBucketOwner"])
        directory = call.target.directory
        if directory is not None and call.operation.name in LISTINGS:
            await call.threads.metadata(_require_directory, call, directory)

    def _refuse(
        self, request: web.BaseRequest, entry: _Entry, call: Call | None, error: S3Error
    ) -> web.StreamResponse:
        """The answer to a request that failed; if its answer has begun, its end."""
        if call is not None and call.response is not None and call.response.prepared:
            log.warning("request %s: cut off: %s", entry.request_id, error)
            return self._cut_off(request, entry, error.code)
        entry.status, entry.code = error.status, error.code
        headers = common_headers(entry.request_id, self._door.host_id)
        headers |= entry.added_headers | error.headers
        body: bytes | None = None
        if request.method != "HEAD" and error.status != 304:
            kind = "text/html; charset=utf-8" if entry.is_site else "application/xml"
            headers["Content-Type"] = kind
            body = self._error_body(request, entry, error)
        return web.Response(status=error.status, headers=headers, body=body)

    def _error_body(self, request: web.BaseRequest, entry: _Entry, error: S3Error) -> bytes:
        host_id = self._door.host_id
        if entry.is_site:
            return site.page(error, entry.request_id, host_id)
        resource = request.raw_path.partition("?")[0]
        return error_document(
            error, resource=resource, request_id=entry.request_id, host_id=host_id
        )

    def _cut_off(self, request: web.BaseRequest, entry: _Entry, code: str) -> web.StreamResponse:
        """End the connection: the client must not take what it has for a whole answer."""
        entry.code = code
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)  # never sent

    def _finish(self, entry: _Entry, response: web.StreamResponse) -> None:
        """Count and log a request."""
        if not self._config.keep_alive or (self._http is not None and self._http.draining):
            response.force_close()
        elapsed_s = time.monotonic() - entry.started_s
        operation = entry.operation or "Unknown"
        metrics.requests_of(operation, entry.code).inc()
        metrics.request_seconds_of(operation).observe(elapsed_s)
        if entry.bucket and self._logs.is_wanted(entry.bucket):
            self._logs.note_answer(entry.answered(response, elapsed_s))
        wanted = self._config.access_log
        failed = entry.code not in ("OK", "NotModified")
        if wanted == "all" or (wanted == "failures" and failed):
            access_log.info("%s", entry.line(elapsed_s))


def _require_directory(call: Call, directory: Directory) -> None:
    """NoSuchBucket if a directory that is asked for as a bucket is not there. Blocks."""
    listed = call.volume.objects.list(
        call.bucket, prefix=directory.prefix, limit=1, directories=True
    )
    if not listed.entries:
        raise S3Error("NoSuchBucket", BucketName=directory.name)


class _Entry:
    """What is known of a request for the log and the metrics, filled in as it becomes known."""

    __slots__ = (
        "added_headers", "bucket", "code", "is_site", "key", "link", "operation", "remote",
        "request", "request_id", "started_s", "status", "user",
    )  # fmt: skip

    def __init__(self, request: web.BaseRequest) -> None:
        self.request = request
        self.request_id = new_request_id()
        self.started_s = time.monotonic()
        self.added_headers: dict[str, str] = {}
        self.is_site = False
        self.bucket = ""
        self.link = ""  # the name that led to the bucket, if it is another
        self.key = b""
        self.operation = ""
        self.user = ""
        self.status = 0
        self.code = "OK"

    def answered(self, response: web.StreamResponse, elapsed_s: float) -> Answered:
        return Answered(
            request=self.request,
            response=response,
            request_id=self.request_id,
            operation=self.operation,
            bucket=self.bucket,
            key=self.key,
            user=self.user,
            status=self.status,
            error_code="" if self.code == "OK" else self.code,
            time_ns=time.time_ns() - int(elapsed_s * 1e9),
            total_ms=round(elapsed_s * 1000),
        )

    def line(self, elapsed_s: float) -> str:
        """One line of JSON; never the query string, which may be a signature."""
        return json.dumps(
            {
                "request_id": self.request_id,
                "remote": self.request.remote,
                "user": self.user,
                "method": self.request.method,
                "operation": self.operation,
                "bucket": self.bucket,
                "key": self.key.decode("utf-8", "replace"),
                "status": self.status,
                "code": self.code,
                "milliseconds": round(elapsed_s * 1000, 3),
                "user_agent": self.request.headers.get("User-Agent", "")[:256],
            }
        )


def _read_headers(request: web.BaseRequest) -> dict[str, str]:
    """Headers by name in lower case. InvalidRequest for one that must not occur twice."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        lower = name.lower()
        if lower not in headers:
            headers[lower] = value
        elif lower in _ONCE_ONLY or lower.startswith("x-amz-"):
            raise S3Error("InvalidRequest", f"The header {lower[:64]} occurs more than once.")
        else:
            headers[lower] += f",{value}"
    if "host" not in headers and request.version >= (1, 1):
        raise S3Error("InvalidRequest", "The Host header is missing.")
    return headers


# --------------------------------------------------------------------------------- the process


def serve(
    volume: Volume,
    config: GatewayConfig,
    auth: AuthConfig,
    *,
    listeners: Sequence[Listener],
    index: int,
    ready: Callable[[], object],
) -> None:
    """Serve S3 until SIGTERM or SIGINT, then drain. Blocks; call it in the main thread.

    listeners: where. index: which of the node's gateways this is. ready: called once, from the
    loop, when requests are served.
    """
    asyncio.run(_serve(Gateway(volume, config, auth), listeners, index, ready))


async def _serve(
    gateway: Gateway, listeners: Sequence[Listener], index: int, ready: Callable[[], object]
) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with contextlib.AsyncExitStack() as stack:
        for listener in listeners:
            listening = stack.enter_context(listener.socket())
            tls = await stack.enter_async_context(listener.tls())
            await gateway.start(listening, tls)
        ready()
        await stopping.wait()
        log.info("gateway %d stops", index)
        await gateway.stop()
