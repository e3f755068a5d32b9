"""A store that is an S3 bucket, or a prefix in one.

One object is one object, under its key, with the POSIX attributes as metadata that s3fs and
rclone know (`attributes`): `aws s3 cp` reads what Forebay wrote with no Forebay around, and what
others put there is an object here. This module is the `base.Store`; its parts decide the rest:

    s3_client     configuration, the boto3 client, what errors mean
    s3_keys       keys that are not UTF-8
    s3_requests   parameters of one object, HEAD, verified PutObject, conditions
    s3_reads      ranges on their way from the server, checked
    s3_uploads    multipart uploads, streamed bodies
    s3_joined     which ETag an object of parts has, as far as the answer that joined them tells
    s3_probe      which one the server shows then, found out on a small object
    s3_compose    objects made of parts that the server has; part_plan says of which
    s3_listing    pages in key order
    attributes    metadata names and values

There is no rename in S3: it is copy, then delete, and of a directory one object after another,
several at a time. Killed in the middle, each object is at one of the two places or, whole, at
both; calling it again finishes it.

Servers differ. What a request relies on is checked in the answer where it can be: ETags against
MD5s, lengths, ranges, the version of what is read or copied. A server that ignores If-Match is
met by comparing the ETag that it sends.

Any thread may call; requests run in the store's own threads and are given up at deadline_s.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cache.errors import StoreChanged, StoreNotFound
from cache.stores import s3_probe
from cache.stores.base import (
    Capabilities,
    ListPage,
    Opened,
    Read,
    StoredAttributes,
    StoredObject,
)
from cache.stores.bodies import upload_whole
from cache.stores.deadline import DeadlinePool
from cache.stores.part_plan import PART_BYTES_MIN, plan
from cache.stores.s3_client import S3StoreConfig, store_errors
from cache.stores.s3_compose import compose, copy_large
from cache.stores.s3_listing import Listing
from cache.stores.s3_reads import Reads
from cache.stores.s3_requests import ObjectRequests, quoted
from cache.stores.s3_uploads import PartCopyRefused, S3PartUpload, S3Upload

__all__ = ["S3Store", "S3StoreConfig"]

log = logging.getLogger(__name__)

_MOVES_AT_ONCE = 8
_MOVE_ATTEMPTS = 3


class S3Store:
    """`base.Store` on a bucket; see the module docstring."""

    def __init__(self, config: S3StoreConfig) -> None:
        """Makes no request: a store that is down is StoreUnavailable when it is used."""
        self._config = config
        self._pool = DeadlinePool(
            f"store s3://{config.bucket}/{config.prefix}", config.deadline_s, config.max_connections
        )
        self._requests = ObjectRequests(config)
        if config.directory_markers == "omit":
            log.warning(
                "bucket %s: directories are not stored, only what is in them", config.bucket
            )
        self._composes = True  # until the server refuses to
        self._listing = Listing(self._requests, self._pool)
        self._reads = Reads(self._requests, self._pool)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            native_rename=False,
            native_directories=False,
            conditional_put=self._requests.has_conditions,
            lists_attributes=False,
            keeps_markers=self._config.directory_markers == "store",
        )

    def check_attributes(self, attributes: StoredAttributes) -> None:
        self._requests.check_attributes(attributes)

    def head(self, key: bytes) -> StoredObject:
        return self._pool.run(lambda: self._requests.head(key))

    # Bytes ------------------------------------------------------------------------------------

    def read(self, key: bytes, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        return self._reads.read(key, start, stop, version)

    def open(self, key: bytes, start: int, stop: int) -> Opened | None:
        return self._reads.open(key, start, stop)

    def begin_upload(
        self, key: bytes, size_bytes: int | None, attributes: StoredAttributes | None = None
    ) -> S3Upload:
        is_large = size_bytes is not None and size_bytes >= s3_probe.WORTH_BYTES
        if is_large and self._requests.joined_etags.wants_probe():
            self._pool.submit(lambda: s3_probe.see_joined(self._requests))
        return S3Upload(
            self._requests, self._pool, key, size_bytes, attributes, self._replace_attributes
        )

    def begin_parts(self, key: bytes, attributes: StoredAttributes) -> S3PartUpload:
        return S3PartUpload.begin(
            self._requests, self._pool, key, attributes, self._replace_attributes
        )

    def resume_parts(self, key: bytes, token: str) -> S3PartUpload:
        return S3PartUpload(self._requests, self._pool, key, token, self._replace_attributes)

    def put(
        self,
        key: bytes,
        body: Iterable[bytes | memoryview],
        size_bytes: int,
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        upload = self.begin_upload(key, size_bytes, attributes)
        return upload_whole(upload, body, size_bytes, attributes, expected)

    def patch(
        self,
        key: bytes,
        changed: Sequence[tuple[int, int]],
        read: Read,
        size_bytes: int,
        attributes: StoredAttributes,
        *,
        version: str,
    ) -> StoredObject:
        found = self._composable(key, size_bytes, version)
        if found is not None:
            config = self._config
            parts = plan(
                size_bytes,
                changed,
                part_bytes=config.part_size_bytes,
                copy_bytes=config.copy_part_size_bytes,
            )
            if any(part.is_copy for part in parts):
                try:
                    stored = compose(
                        self._requests, self._pool, found, key, parts, read, attributes,
                        expected=version,
                    )  # fmt: skip
                except PartCopyRefused as exc:
                    log.warning(
                        "bucket %s: objects are changed by sending all of them, since: %s",
                        config.bucket,
                        exc,
                    )
                    self._composes = False
                else:
                    self._pool.run(lambda: self._requests.add_late(stored, attributes, attributes))
                    return stored
        return self.put(key, read(0, size_bytes), size_bytes, attributes, expected=version)

    def _composable(self, key: bytes, size_bytes: int, version: str) -> StoredObject | None:
        """The object, if another may be made of its parts. StoreChanged."""
        if not self._composes or size_bytes <= self._config.part_size_bytes:
            return None
        found = self._pool.run(lambda: self._requests.verify_version(key, version))
        return found if found.size_bytes >= PART_BYTES_MIN else None

    # Copies -----------------------------------------------------------------------------------

    def set_attributes(
        self, key: bytes, attributes: StoredAttributes, *, expected: str | None = None
    ) -> StoredObject:
        return self.copy(key, expected, key, attributes)

    def copy(
        self, source: bytes, version: str | None, target: bytes, attributes: StoredAttributes
    ) -> StoredObject:
        if self._requests.omits(target):
            return self._requests.omitted(target, attributes)
        # HEAD first: its size decides how to copy, and not every server honours the condition.
        found = self._pool.run(lambda: self._requests.verify_version(source, version))
        if found.size_bytes > self._config.copy_part_size_bytes:
            return copy_large(self._requests, self._pool, found, target, attributes)
        return self._pool.run(lambda: self._copy_at_once(found, target, attributes))

    def _replace_attributes(
        self, key: bytes, attributes: StoredAttributes, version: str
    ) -> StoredObject:
        return self.set_attributes(key, attributes, expected=version)

    def _copy_at_once(
        self, source: StoredObject, target: bytes, attributes: StoredAttributes
    ) -> StoredObject:
        # Copied at once, the object's ETag is its MD5, which the source's may already be.
        store_etag = None if "-" in source.version else source.version
        parameters = self._requests.parameters(attributes, source.size_bytes, store_etag)
        if self._config.object_tagging:
            parameters["TaggingDirective"] = "REPLACE"
        with store_errors("copy", source.key):
            response = self._requests.client.copy_object(
                **self._requests.address(target),
                CopySource=self._requests.copy_source(source.key),
                CopySourceIfMatch=quoted(source.version),
                MetadataDirective="REPLACE",
                **parameters,
            )
        answer: dict[str, Any] = {
            **response.get("CopyObjectResult", {}),
            "ResponseMetadata": response["ResponseMetadata"],
        }
        if not answer.get("ETag"):
            return self._requests.head(target)  # rclone serve s3, of a copy onto itself
        copied = self._requests.written(target, source.size_bytes, answer, attributes)
        # Servers that ignore the condition: where both ETags are MD5s they must be the same.
        if self._requests.is_md5(source.version, response):
            self._requests.verify_etag(target, source.version, answer)
        return copied

    def rename(self, source: bytes, target: bytes) -> StoredObject | None:
        if not source.endswith(b"/"):
            return self._move(source, target)
        with ThreadPoolExecutor(_MOVES_AT_ONCE, "rename") as movers:
            marker = b""
            count = 0
            while True:
                page = self.list(source, delimiter=False, marker=marker)
                keys = [entry.key for entry in page.entries]
                moves = [
                    movers.submit(self._move_if_there, key, target + key[len(source) :])
                    for key in keys
                ]
                for move in moves:
                    move.result()
                count += len(keys)
                if page.next_marker is None:
                    break
                marker = page.next_marker
        if count == 0:
            raise StoreNotFound(f"nothing under {source!r}")
        return None

    def _move(self, source: bytes, target: bytes) -> StoredObject:
        for attempt in range(1, _MOVE_ATTEMPTS + 1):
            found = self.head(source)
            try:
                attributes = found.attributes or StoredAttributes()
                moved = self.copy(source, found.version, target, attributes)
            except StoreChanged:
                if attempt == _MOVE_ATTEMPTS:
                    raise
                continue
            self.delete(source)
            return moved
        raise AssertionError("the last attempt returns or raises")

    def _move_if_there(self, source: bytes, target: bytes) -> None:
        with contextlib.suppress(StoreNotFound):  # an earlier attempt moved it
            self._move(source, target)

    def delete(self, key: bytes) -> None:
        if self._requests.omits(key):
            return

        def remove() -> None:
            with contextlib.suppress(StoreNotFound), store_errors("delete", key):
                self._requests.client.delete_object(**self._requests.address(key))

        self._pool.run(remove)

    def list(
        self, prefix: bytes, *, delimiter: bool, marker: bytes = b"", limit: int = 1000
    ) -> ListPage:
        return self._listing.page(prefix, delimiter=delimiter, marker=marker, limit=limit)

    def location(self, key: bytes) -> str:
        address = self._requests.address(key)
        return f"s3://{address['Bucket']}/{address['Key']}"

    def statfs(self) -> tuple[int, int] | None:
        return None  # S3 has no such figures

    def close(self) -> None:
        """Calls under way may end; the connections are closed after the last of them."""
        self._pool.close(self._requests.client.close)
