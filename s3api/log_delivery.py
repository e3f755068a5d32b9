"""Server access logs of buckets: noted by each gateway, delivered as objects into their targets.

Requests for a bucket that asks for it are noted in memory and delivered in batches: every
`s3.bucket_log_interval_s`, when a batch is full, and when the gateway stops. That is best effort,
as Amazon calls it: what a killed process had noted is lost, and when a target takes nothing the
oldest notes go first. Deliveries themselves are not logged.

Notes are made on the event loop; delivery blocks in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from aiohttp import web

from cache.errors import CacheError, NotPermitted
from cache.records import Bucket, ObjectAttributes
from cache.users import Users
from cache.volume import Volume
from s3api import metrics
from s3api.access_records import AccessRecord, operation_name
from s3api.acl import FULL_CONTROL, Acl, Grant, pack, read_grant, shown_user
from s3api.buckets import region_of
from s3api.config import GatewayConfig
from s3api.controls import controls_of
from s3api.errors import S3Error
from s3api.log_permission import may_deliver
from s3api.model import MODEL
from s3api.parsing import read_kept
from s3api.seals import attributes_of, default_seal, sealed, sealed_etag, sealing, stored_size
from s3api.threads import Threads

log = logging.getLogger(__name__)

DOCUMENT = "logging"
"""The name of what is to be logged where in a bucket's settings."""

_NOTES_MAX = 100_000
"""Lines that a gateway keeps while they cannot be delivered, about 50 MB."""


@dataclass(frozen=True, slots=True)
class Log:
    """Where the log of a bucket goes: one batch becomes one object of the target."""

    source: str
    target: str
    prefix: str
    partition: str
    """What comes between the prefix and the date, of a partitioned key."""
    day: str
    """The day of the events, of a key that is partitioned by it; else empty."""

    def key(self, now: datetime) -> str:
        """A name that no other delivery has."""
        time_ = f"{now:%Y-%m-%d-%H-%M-%S}"
        if self.day:
            time_ = f"{self.day.replace('/', '-')}-00-00-00"
        day = (self.day or f"{now:%Y/%m/%d}") + "/" if self.partition else ""
        unique = secrets.token_hex(8).upper()
        return f"{self.prefix}{self.partition}{day}{time_}-{unique}"


@dataclass(frozen=True, slots=True)
class Answered:
    """What the gateway knows of a request when it was answered."""

    request: web.BaseRequest
    response: web.StreamResponse
    request_id: str
    operation: str
    bucket: str
    key: bytes
    user: str  # empty for nobody in particular
    status: int
    error_code: str
    time_ns: int
    total_ms: int


def _record(answered: Answered, source: Bucket, users: Users, host_id: str) -> AccessRecord:
    request, response, headers = answered.request, answered.response, answered.request.headers
    raw_path, _, raw_query = request.raw_path.partition("?")
    by_query = "X-Amz-Signature=" in raw_query
    tls = None if request.transport is None else request.transport.get_extra_info("ssl_object")
    cipher = None if tls is None else tls.cipher()
    model = MODEL.operations.get(answered.operation)
    level = model.level if model is not None else "key" if answered.key else "bucket"
    return AccessRecord(
        bucket_owner=shown_user(source.owner, users)["ID"],
        bucket=source.name,
        time_ns=answered.time_ns,
        remote=request.remote or "",
        requester=shown_user(answered.user, users)["ID"] if answered.user else "",
        request_id=answered.request_id,
        operation=operation_name(request.method, answered.operation, level),
        key=answered.key,
        method=request.method,
        raw_path=raw_path,
        raw_query=raw_query,
        status=answered.status,
        error_code=answered.error_code,
        sent_bytes=None if request.method == "HEAD" else response.content_length,
        object_size=_object_size(answered),
        total_ms=answered.total_ms,
        referer=headers.get("Referer", ""),
        user_agent=headers.get("User-Agent", ""),
        version_id=response.headers.get("x-amz-version-id", ""),
        host_id=host_id,
        signature="SigV4" if answered.user else "",
        cipher="" if cipher is None else cipher[0],
        authentication="" if not answered.user else "QueryString" if by_query else "AuthHeader",
        host=headers.get("Host", ""),
        tls="" if tls is None else tls.version() or "",
    )


def _object_size(answered: Answered) -> int | None:
    """The whole object's, as far as the request or the answer says it."""
    if answered.error_code:
        return None
    if answered.operation in ("GetObject", "HeadObject", "Website"):
        whole = answered.response.headers.get("Content-Range", "").rpartition("/")[2]
        return int(whole) if whole.isdecimal() else answered.response.content_length
    if answered.operation in ("PutObject", "UploadPart"):
        sent = answered.request.headers.get("x-amz-decoded-content-length", "")
        return int(sent) if sent.isdecimal() else answered.request.content_length
    return None


class LogDelivery:
    """The notes of one gateway, and their way into the targets."""

    def __init__(
        self, volume: Volume, threads: Threads, config: GatewayConfig, host_id: str
    ) -> None:
        self._volume = volume
        self._host_id = host_id
        self._threads = threads
        self._config = config
        self._notes: deque[tuple[Log, str]] = deque()
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep_delivering())

    async def stop(self) -> None:
        """Deliver what was noted, for at most drain_timeout_s and one object more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._deliver(until_s=time.monotonic() + self._config.drain_timeout_s)
        if self._notes:
            log.warning("%d records of access logs are lost", len(self._notes))
            metrics.LOST_LOG_RECORDS.inc(len(self._notes))

    def is_wanted(self, bucket: str) -> bool:
        """Whether requests for the bucket are to be logged. Inline: one read of the index."""
        return self._source(bucket) is not None

    def _source(self, bucket: str) -> Bucket | None:
        """The bucket, if it is to be logged anywhere."""
        try:
            source = self._volume.buckets.get(bucket)
        except CacheError:
            return None
        return source if DOCUMENT in source.settings else None

    def note_answer(self, answered: Answered) -> None:
        """Note a request, if its bucket still asks for that. Inline."""
        source = self._source(answered.bucket)
        if source is not None:
            record = _record(answered, source, self._volume.users, self._host_id)
            self.note(self._log_of(source, answered.time_ns), record.line())

    def _log_of(self, source: Bucket, time_ns: int) -> Log:
        """Where a request of this time is to be logged."""
        values = _enabled(source.settings[DOCUMENT])
        partition = day = ""
        partitioned = values["TargetObjectKeyFormat"].get("PartitionedPrefix")
        if partitioned is not None:
            region = region_of(self._config, source)
            owner = shown_user(source.owner, self._volume.users)["ID"]
            partition = f"{owner}/{region}/{source.name}/"
            if partitioned["PartitionDateSource"] == "EventTime":
                day = f"{datetime.fromtimestamp(time_ns // 10**9, UTC):%Y/%m/%d}"
        return Log(source.name, values["TargetBucket"], values["TargetPrefix"], partition, day)

    def note(self, where: Log, line: str) -> None:
        if len(self._notes) >= _NOTES_MAX:
            self._notes.popleft()
            metrics.LOST_LOG_RECORDS.inc()
        self._notes.append((where, line))
        if len(self._notes) >= self._config.bucket_log_records:
            self._full.set()

    async def _keep_delivering(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._config.bucket_log_interval_s):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            # Shielded: a stop must not cut off a delivery between its object and our note of it.
            await asyncio.shield(asyncio.ensure_future(self._deliver()))
            if self._full.is_set():
                await asyncio.sleep(1.0)  # a target takes nothing now

    async def _deliver(self, until_s: float = math.inf) -> None:
        """Put each log into its target, until this (monotonic) time; what is left stays noted."""
        notes, self._notes = self._notes, deque()
        batches: dict[Log, list[str]] = {}
        for where, line in notes:
            batches.setdefault(where, []).append(line)
        for where, lines in batches.items():
            late = time.monotonic() > until_s
            if late or not await self._threads.transfer(self._write, where, lines):
                for line in lines:
                    self.note(where, line)

    def _write(self, where: Log, lines: list[str]) -> bool:
        """Put one object into the target. False: to be tried again."""
        body = "".join(line + "\n" for line in lines).encode()
        try:
            target = self._volume.buckets.get(where.target)
            key = where.key(datetime.now(UTC))
            # Asked again each time: the bucket may be another one by now, of another owner.
            owner_id = shown_user(target.owner, self._volume.users)["ID"]
            if not may_deliver(where.source, target, key, owner_id):
                raise NotPermitted("its owner does not let logs be delivered into it")
            self._put(target, key.encode(), body, self._acl(where, target))
        except CacheError as exc:
            log.warning("the log of %s is not delivered to %s: %s", where.source, where.target, exc)
            if exc.temporary:
                return False
            metrics.LOST_LOG_RECORDS.inc(len(lines))
        return True

    def _acl(self, where: Log, target: Bucket) -> bytes:
        """The ACL of a log: its owner's, and TargetGrants for users that there still are."""
        text = self._volume.buckets.get(where.source).settings.get(DOCUMENT)
        if text is None or not controls_of(target).acls_count:
            return b""
        grants = [Grant(FULL_CONTROL, target.owner)]
        for raw in _enabled(text).get("TargetGrants", []):
            with contextlib.suppress(S3Error):
                grants.append(read_grant(raw, self._volume.users))
        return pack(Acl(tuple(dict.fromkeys(grants))), target.owner)

    def _put(self, target: Bucket, key: bytes, body: bytes, acl: bytes) -> None:
        seal = default_seal(self._volume.keyring, target)
        attributes = attributes_of(
            seal, ObjectAttributes(content_type="text/plain", owner=target.owner, acl=acl)
        )
        size_bytes = stored_size(seal, len(body))
        writer = self._volume.objects.writer(
            target.name, key, size_bytes=size_bytes, attributes=attributes
        )
        try:
            sealer = sealing(seal, writer)
            sealer.write(body)
            etag = sealed_etag(seal, hashlib.md5(body, usedforsecurity=False).hexdigest())
            sealed(sealer).commit(etag=etag, attributes=attributes, check=None)
        finally:
            writer.abort()


@lru_cache(256)
def _enabled(text: bytes) -> Mapping[str, Any]:
    found: Mapping[str, Any] = read_kept(text, "PutBucketLogging")["LoggingEnabled"]
    return found
