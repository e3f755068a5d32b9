"""Bodies on their way into an S3 store: one PutObject, or parts sent while the body arrives.

Attributes of an object must be said when its multipart upload is created, before the last byte is
known. So whoever has them at the beginning says them at the beginning (`begin_upload(…,
attributes)`); where commit() is given others, the object is copied onto itself inside the store
afterwards, and is for that moment visible with its whole body and the earlier attributes. Only
ETag and checksums are not worth such a copy: where they came too late they become tags.

Each part's ETag is compared with the MD5 of what was sent, and the object's size after the end.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from cache.errors import (
    StoreChanged,
    StoreCorrupt,
    StoreError,
    StoreNotFound,
    StoreRefused,
)
from cache.stores.base import ABSENT, StoredAttributes, StoredObject
from cache.stores.bodies import expected_body
from cache.stores.deadline import DeadlinePool
from cache.stores.part_plan import PART_COUNT_MAX
from cache.stores.s3_client import status_of, store_errors, was_retried
from cache.stores.s3_joined import is_md5_of_all, joined_etag
from cache.stores.s3_requests import ObjectRequests, quoted, version_of

log = logging.getLogger(__name__)

_GROWTH_EVERY_PARTS = 2000

Replace = Callable[[bytes, StoredAttributes, str], StoredObject]
"""set_attributes(key, attributes, expected version) of the store."""


class PartCopyRefused(StoreRefused):
    """The server makes no parts from objects, or not from this one."""


class Sent(NamedTuple):
    """A body that was sent in parts from here."""

    attributes: StoredAttributes
    md5: str | None
    """Of all of it, if it is known."""


class Multipart:
    """One multipart upload at the server: what streams, part uploads and s3_compose share."""

    def __init__(self, requests: ObjectRequests, key: bytes, upload_id: str) -> None:
        self._requests = requests
        self._key = key
        self.upload_id = upload_id

    @classmethod
    def create(cls, requests: ObjectRequests, key: bytes, parameters: dict[str, Any]) -> Multipart:
        with store_errors("begin multipart upload of", key):
            response = requests.client.create_multipart_upload(
                **requests.address(key), **parameters
            )
        return cls(requests, key, response["UploadId"])

    def _part(self, number: int) -> dict[str, Any]:
        if not 1 <= number <= PART_COUNT_MAX:
            raise StoreRefused(f"part number {number} is not in 1 to {PART_COUNT_MAX}")
        address = self._requests.address(self._key)
        return {**address, "UploadId": self.upload_id, "PartNumber": number}

    def send(self, number: int, part: bytes | bytearray, md5: bytes | None = None) -> str:
        """Upload a part that is in memory; returns its ETag, verified. md5: its digest, if it was
        computed already."""
        if md5 is None:
            md5 = hashlib.md5(part, usedforsecurity=False).digest()
        with store_errors(f"write part {number} of", self._key):
            response = self._requests.client.upload_part(
                **self._part(number),
                Body=part,  # type: ignore[arg-type]  # botocore takes a bytearray, too
                ContentLength=len(part),
                ContentMD5=base64.b64encode(md5).decode("ascii"),
            )
        self._requests.verify_etag(self._key, md5.hex(), response)
        return version_of(response)

    def stream(self, number: int, chunks: Iterable[bytes | memoryview], size_bytes: int) -> str:
        """Upload a part while it arrives. It cannot be sent twice, so there is no retry."""
        body = _ChunkReader(chunks, size_bytes)
        try:
            with store_errors(f"write part {number} of", self._key):
                response = self._requests.client.upload_part(
                    **self._part(number),
                    Body=body,  # type: ignore[arg-type]  # all that is read from it is read()
                    ContentLength=size_bytes,
                )
        except StoreError:
            if body.error is not None:
                raise body.error from None  # the source failed, not the store
            raise
        body.check_end()
        self._requests.verify_etag(self._key, body.md5, response)
        return version_of(response)

    def copy(self, number: int, source: bytes, start: int, stop: int, version: str) -> str:
        """A part from bytes of an object, which is known to be `version` just now.
        PartCopyRefused."""
        try:
            with store_errors(f"copy to part {number} of", self._key):
                response = self._requests.client.upload_part_copy(
                    **self._part(number),
                    CopySource=self._requests.copy_source(source),
                    CopySourceRange=f"bytes={start}-{stop - 1}",
                    CopySourceIfMatch=quoted(version),
                )
        except StoreError as exc:
            cause = exc.__cause__
            unknown = isinstance(cause, ClientError) and status_of(cause.response) == 501
            if unknown or isinstance(exc, StoreRefused):
                raise PartCopyRefused(str(exc)) from exc
            raise
        if "ETag" not in response.get("CopyPartResult", {}):
            raise PartCopyRefused("this S3 server cannot make parts from objects (UploadPartCopy)")
        return version_of(response["CopyPartResult"])

    def complete(
        self,
        parts: list[tuple[int, str]],
        size_bytes: int | None,
        expected: str | None,
        sent: Sent | None = None,
    ) -> StoredObject:
        """Join the parts; returns the object as the store shows it then.

        sent: what these parts are, if they are all from here: then the store is asked what it
        shows only where its answer does not tell."""
        if expected is not None and expected != ABSENT:
            # Servers that honour If-Match on PutObject need not do so here (moto does not).
            self._requests.check_expected(self._key, expected)
        conditions = self._requests.conditions(self._key, expected)
        with store_errors("complete", self._key):
            try:
                response = self._requests.client.complete_multipart_upload(
                    **self._requests.address(self._key),
                    UploadId=self.upload_id,
                    MultipartUpload={
                        "Parts": [
                            {"PartNumber": number, "ETag": quoted(tag)} for number, tag in parts
                        ]
                    },
                    **conditions,
                )
            except ClientError as exc:
                etag, response = self._completed_before(exc, parts), None
            else:
                etag = version_of(response)
        tags = [tag for _, tag in parts]
        joined_etags = self._requests.joined_etags
        if sent is not None and size_bytes is not None and response is not None:
            version = joined_etags.told(etag, tags, sent.md5)
            if version is not None:
                answer = {**response, "ETag": quoted(version)}
                return self._requests.written(self._key, size_bytes, answer, sent.attributes)
        found = self._requests.head(self._key)
        if found.version != etag and not is_md5_of_all(found.version, etag):
            raise StoreChanged(f"{self._key!r} was replaced by others at once")
        if size_bytes is not None and found.size_bytes != size_bytes:
            raise StoreCorrupt(f"{self._key!r}: {found.size_bytes} of {size_bytes} bytes stored")
        if sent is not None:
            joined_etags.learn(etag, tags, sent.md5, found.version)
        return found

    def _completed_before(self, exc: ClientError, parts: list[tuple[int, str]]) -> str:
        """The ETag, if a first attempt succeeded and only its answer was lost; else raises exc."""
        code = exc.response.get("Error", {}).get("Code")
        if code not in ("NoSuchUpload", "PreconditionFailed") or not was_retried(exc.response):
            raise exc
        etag = joined_etag([tag for _, tag in parts])
        if etag is None or self._requests.head(self._key).version != etag:
            raise exc
        return etag

    def abort(self) -> None:
        """Free the parts. What cannot be freed now is left to the bucket's lifecycle rules."""
        try:
            with store_errors("abort multipart upload of", self._key):
                self._requests.client.abort_multipart_upload(
                    **self._requests.address(self._key), UploadId=self.upload_id
                )
        except StoreNotFound:
            return
        except StoreError as exc:
            log.warning("upload %s stays in the store: %s", self.upload_id, exc)


class S3Upload:
    """See `base.Upload`. Holds the part that fills, and those that are on their way."""

    def __init__(
        self,
        requests: ObjectRequests,
        pool: DeadlinePool,
        key: bytes,
        size_bytes: int | None,
        attributes: StoredAttributes | None,
        replace: Replace,
    ) -> None:
        self._requests = requests
        self._pool = pool
        self._key = key
        self._announced_bytes = size_bytes
        self._attributes = attributes or StoredAttributes()
        self._replace = replace
        self._filling = bytearray()
        self._beginning: Future[Multipart] | None = None
        self._in_flight: deque[tuple[int, Future[str]]] = deque()
        self._parts: list[tuple[int, str]] = []
        self._sent_count = 0
        self._size_bytes = 0
        self._done = False

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        assert not self._done, "write after commit or abort"
        if self._beginning is None and (self._announced_bytes or 0) > self._part_bytes():
            self._begin()  # beside the arrival of the first part
        left = memoryview(chunk)
        while left:
            room = self._part_bytes() - len(self._filling)
            if room <= 0:  # and more comes: a body of exactly one part is a simple upload
                self._send_filled()
                continue
            self._filling += left[:room]
            self._size_bytes += len(left[:room])
            left = left[room:]

    def commit(self, attributes: StoredAttributes, *, expected: str | None = None) -> StoredObject:
        assert not self._done, "commit after commit or abort"
        if self._beginning is None:
            body = bytes(self._filling)
            fixed = expected_body(attributes)
            if fixed is not None and body not in (b"", fixed):
                raise StoreRefused(f"{self._key!r}: a {attributes.kind.name} cannot hold a body")
            stored = self._pool.run(
                lambda: self._requests.put(self._key, body, attributes, expected)
            )
        else:
            if expected_body(attributes) is not None:
                raise StoreRefused(f"{self._key!r}: a {attributes.kind.name} cannot hold a body")
            stored = self._commit_parts(attributes, expected)
        self._done = True
        self._filling = bytearray()
        return stored

    def abort(self) -> None:
        if self._done:
            return
        self._done = True
        self._filling = bytearray()
        if self._beginning is None:
            return
        if not self._beginning.done() or self._beginning.cancelled():
            self._beginning.add_done_callback(_abort_late)  # nothing was sent of it yet
            return
        if self._beginning.exception() is not None:
            return
        multipart = self._beginning.result()
        for _, future in self._in_flight:
            future.cancel()
        for _, future in self._in_flight:
            # A part that arrives after the abort would be kept, and paid for.
            if not future.cancelled():
                outcome(self._pool, future)
        try:
            self._pool.run(multipart.abort)
        except StoreError as exc:
            log.warning("upload %s stays in the store: %s", multipart.upload_id, exc)

    def _commit_parts(self, attributes: StoredAttributes, expected: str | None) -> StoredObject:
        multipart = self._send_filled()
        while self._in_flight:
            self._collect_one()
        sent = Sent(self._attributes, attributes.md5)
        stored = self._pool.run(
            lambda: multipart.complete(self._parts, self._size_bytes, expected, sent)
        )
        if _same_attributes(self._requests, attributes, self._attributes):
            begun = self._attributes if self._announced_bytes == self._size_bytes else None
            self._pool.run(lambda: self._requests.add_late(stored, attributes, begun))
            return stored
        log.debug("%r: attributes came after the body, copying it onto itself", self._key)
        return self._replace(self._key, attributes, stored.version)

    def _begin(self) -> Future[Multipart]:
        parameters = self._requests.parameters(self._attributes, self._announced_bytes)
        self._beginning = self._pool.submit(
            lambda: Multipart.create(self._requests, self._key, parameters)
        )
        return self._beginning

    def _send_filled(self) -> Multipart:
        """Send the part as soon as few enough are on their way; the upload that it belongs to."""
        part, self._filling = self._filling, bytearray()
        beginning = self._beginning or self._begin()
        # Made while earlier parts are on their way: then this one goes without a pause. By another
        # thread, as this one has the body's own digests to make.
        md5 = self._pool.submit(lambda: hashlib.md5(part, usedforsecurity=False).digest())
        multipart = self._pool.wait(beginning)
        while len(self._in_flight) >= self._requests.config.parts_in_flight:
            self._collect_one()
        self._sent_count = number = self._sent_count + 1
        # It was begun before this, so that a pool of one thread has made it by then.
        sending = self._pool.submit(lambda: multipart.send(number, part, md5.result()))
        self._in_flight.append((number, sending))
        return multipart

    def _collect_one(self) -> None:
        number, future = self._in_flight.popleft()
        self._parts.append((number, self._pool.wait(future)))

    def _part_bytes(self) -> int:
        """Bytes of the next part: 10,000 parts must be enough for the body."""
        configured = self._requests.config.part_size_bytes
        if self._announced_bytes is not None and self._announced_bytes > self._size_bytes // 2:
            return max(configured, -(-self._announced_bytes // PART_COUNT_MAX))
        # 8, 16, 32, 64 and 128 MiB, 2,000 of each: 484 GiB with the default.
        return configured << min(self._sent_count // _GROWTH_EVERY_PARTS, 4)


class S3PartUpload:
    """See `base.PartUpload`. The token is `<digest of the attributes>:<upload id>`: commit() sees
    by it, in whatever process, whether the attributes are those that the upload began with."""

    def __init__(
        self,
        requests: ObjectRequests,
        pool: DeadlinePool,
        key: bytes,
        token: str,
        replace: Replace,
    ) -> None:
        self._requests = requests
        self._pool = pool
        self._key = key
        self._token = token
        self._replace = replace
        self._digest, separator, upload_id = token.partition(":")
        if not separator:
            raise StoreNotFound(f"no multipart upload {token!r}")
        self._multipart = Multipart(requests, key, upload_id)

    @classmethod
    def begin(
        cls,
        requests: ObjectRequests,
        pool: DeadlinePool,
        key: bytes,
        attributes: StoredAttributes,
        replace: Replace,
    ) -> S3PartUpload:
        parameters = requests.parameters(attributes, None)
        multipart = pool.run(lambda: Multipart.create(requests, key, parameters))
        token = f"{_digest(requests, attributes)}:{multipart.upload_id}"
        return cls(requests, pool, key, token, replace)

    @property
    def token(self) -> str:
        return self._token

    def write_part(self, number: int, chunks: Iterable[bytes | memoryview], size_bytes: int) -> str:
        # In the caller's thread: the chunks come from a client as slow as it likes, and its time
        # is not the store's. Each send and receive has its socket timeout.
        return self._multipart.stream(number, chunks, size_bytes)

    def copy_part(self, number: int, source: bytes, start: int, stop: int, version: str) -> str:
        def copy() -> str:
            self._requests.verify_version(source, version)
            return self._multipart.copy(number, source, start, stop, version)

        return self._pool.run(copy)

    def commit(
        self,
        parts: list[tuple[int, str]],
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        stored = self._pool.run(lambda: self._multipart.complete(parts, None, expected))
        if _digest(self._requests, attributes) == self._digest:
            self._pool.run(lambda: self._requests.add_late(stored, attributes, None))
            return stored
        return self._replace(self._key, attributes, stored.version)

    def abort(self) -> None:
        self._pool.run(self._multipart.abort)


def _abort_late(beginning: Future[Multipart]) -> None:
    """An upload that was given up before the server had answered that it begins. In its thread."""
    if not beginning.cancelled() and beginning.exception() is None:
        beginning.result().abort()


def outcome(pool: DeadlinePool, future: Future[str]) -> None:
    """Wait for a part whose result no longer matters."""
    try:
        pool.wait(future)
    except StoreError as exc:
        log.debug("a part of an aborted upload: %s", exc)


def _digest(requests: ObjectRequests, attributes: StoredAttributes) -> str:
    parameters = requests.parameters(attributes, None)
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:16]


def _same_attributes(
    requests: ObjectRequests, first: StoredAttributes, second: StoredAttributes
) -> bool:
    return _digest(requests, first) == _digest(requests, second)


class _ChunkReader:
    """A body of known length that is read once, front to back, and hashed on the way."""

    def __init__(self, chunks: Iterable[bytes | memoryview], size_bytes: int) -> None:
        self._chunks = iter(chunks)
        self._size_bytes = size_bytes
        self._left_bytes = size_bytes
        self._chunk = memoryview(b"")
        self._hash = hashlib.md5(usedforsecurity=False)
        self.error: BaseException | None = None

    def __len__(self) -> int:
        return self._size_bytes  # what botocore takes Content-Length from

    def seek(self, offset: int, whence: int = 0) -> int:
        """Only to where it is: botocore rewinds a body to send it again."""
        if (offset, whence) != (0, 0) or self._left_bytes != self._size_bytes:
            raise OSError("a streamed part cannot be sent twice")
        return 0

    @property
    def md5(self) -> str:
        return self._hash.hexdigest()

    def read(self, count: int = -1) -> bytes:
        if self._left_bytes == 0:
            return b""
        try:
            while not self._chunk:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise StoreCorrupt(
                        f"part of {self._size_bytes - self._left_bytes} bytes, "
                        f"announced as {self._size_bytes}"
                    )
                self._chunk = memoryview(chunk)
        except BaseException as exc:
            self.error = exc
            raise
        limit = self._left_bytes if count < 0 else min(count, self._left_bytes)
        piece = bytes(self._chunk[:limit])
        self._chunk = self._chunk[len(piece) :]
        self._left_bytes -= len(piece)
        self._hash.update(piece)
        return piece

    def check_end(self) -> None:
        """StoreCorrupt unless exactly the announced bytes came."""
        if self._left_bytes or self._chunk or any(len(chunk) for chunk in self._chunks):
            raise StoreCorrupt(f"part is not of {self._size_bytes} bytes, as announced")
