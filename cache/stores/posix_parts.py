"""Multipart uploads into a posix store: parts as files, joined inside the kernel.

    .forebay-tmp/parts/<token>/<number>-<tag>

A part is durable when write_part() returns: the client that sent it may never send it again.
commit() joins the parts with copy_file_range, so on a file system with reflinks no byte is moved,
and publishes the result like any upload (`posix_uploads`). Any process that has the token can go
on with an upload; one that nobody touched for a week is swept when a store is opened.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import uuid
from collections.abc import Iterable, Iterator

from cache.errors import StoreCorrupt, StoreNotFound, StoreRefused
from cache.stores.base import StoredAttributes, StoredObject
from cache.stores.deadline import DeadlinePool
from cache.stores.posix_root import PARTS, remove_parts, store_errors
from cache.stores.posix_uploads import (
    BodyFile,
    PooledFile,
    PosixUpload,
    Publisher,
    check_open,
    open_pooled,
    size_of,
)

log = logging.getLogger(__name__)

_HEX = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PART_NUMBER_MAX = 10_000


class PosixPartUpload:
    """See `base.PartUpload`."""

    def __init__(self, publisher: Publisher, pool: DeadlinePool, key: bytes, token: str) -> None:
        self._publisher = publisher
        self._pool = pool
        self._key = key
        self._token = token

    @property
    def token(self) -> str:
        return self._token

    @classmethod
    def begin(cls, publisher: Publisher, pool: DeadlinePool, key: bytes) -> PosixPartUpload:
        """Make the directory of a new upload's parts, durably."""
        token = uuid.uuid4().hex

        def make() -> None:
            with store_errors("begin multipart upload of", key):
                publisher.root.check()
                parts = publisher.root.reserved(PARTS)
                try:
                    os.mkdir(token, 0o700, dir_fd=parts)
                    os.fsync(parts)
                finally:
                    os.close(parts)

        pool.run(make)
        return cls(publisher, pool, key, token)

    def write_part(self, number: int, chunks: Iterable[bytes | memoryview], size_bytes: int) -> str:
        with self._new_part(number) as (body, tag):
            for chunk in chunks:
                body.append(chunk)
            if body.size_bytes != size_bytes:
                raise StoreCorrupt(
                    f"part {number} of {body.size_bytes} bytes, announced as {size_bytes}"
                )
        return tag

    def copy_part(self, number: int, source: bytes, start: int, stop: int, version: str) -> str:
        with self._new_part(number) as (body, tag):
            opened = open_pooled(self._publisher.root, self._pool, source)
            try:
                check_open(opened, source, version)
                body.append_from(opened, start, stop)
                check_open(opened, source, version)
            finally:
                opened.close()
        return tag

    def commit(
        self,
        parts: list[tuple[int, str]],
        attributes: StoredAttributes,
        *,
        expected: str | None = None,
    ) -> StoredObject:
        upload = PosixUpload(self._publisher, self._pool, self._key)
        try:
            for number, tag in parts:
                part = self._open_part(number, tag)
                try:
                    size_bytes = size_of(part)
                    upload.append_from(part, 0, size_bytes)
                finally:
                    part.close()
            stored = upload.commit(attributes, expected=expected)
        except BaseException:
            upload.abort()
            raise
        self.abort()
        return stored

    def abort(self) -> None:
        def remove() -> None:
            if _HEX.fullmatch(self._token) is None:
                return
            with store_errors("abort multipart upload of", self._key):
                parts = self._publisher.root.reserved(PARTS)
                try:
                    with contextlib.suppress(FileNotFoundError):
                        remove_parts(parts, os.fsencode(self._token))
                except OSError as exc:
                    if exc.errno != errno.ENOTEMPTY:
                        raise
                    # A part is just being written; what it leaves is swept at the next opening.
                    log.info("upload %s: a part came in while it ended", self._token)
                finally:
                    os.close(parts)

        self._pool.run(remove)

    @contextlib.contextmanager
    def _new_part(self, number: int) -> Iterator[tuple[BodyFile, str]]:
        """A file to fill; at the end it is synced and replaces earlier parts of this number."""
        if not 1 <= number <= _PART_NUMBER_MAX:
            raise StoreRefused(f"part number {number} is not in 1 to {_PART_NUMBER_MAX}")
        tag = uuid.uuid4().hex
        name = f"{number:05d}-{tag}"
        temporary = f".{name}"

        def create() -> int:
            directory = self._directory()
            try:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                return os.open(temporary, flags, 0o600, dir_fd=directory)
            finally:
                os.close(directory)

        def remove() -> None:
            try:
                directory = self._directory()
            except StoreNotFound:
                return  # aborted meanwhile: it went with its upload
            try:
                os.unlink(temporary, dir_fd=directory)
            finally:
                os.close(directory)

        def keep() -> None:
            body.end()
            with store_errors("write part of", self._key):
                os.fsync(body.file.descriptor)
                directory = self._directory()
                try:
                    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                    for other in os.listdir(directory):
                        if other.startswith(name[:6]) and other != name:
                            with contextlib.suppress(FileNotFoundError):
                                os.unlink(other, dir_fd=directory)
                    os.fsync(directory)
                finally:
                    os.close(directory)

        body = BodyFile(self._pool, self._pool.run(create), self._key)
        try:
            yield body, tag
            body.file.run(keep)
        except BaseException:
            body.file.close(remove)
            raise
        body.file.close()

    def _directory(self) -> int:
        """A descriptor of the upload's directory; StoreNotFound if there is none (any more)."""
        root = self._publisher.root
        if _HEX.fullmatch(self._token) is None:
            raise StoreNotFound(f"no multipart upload {self._token!r}")
        root.check()
        with store_errors("find multipart upload of", self._key):
            return root.reserved(PARTS, os.fsencode(self._token))

    def _open_part(self, number: int, tag: str) -> PooledFile:
        if _HEX.fullmatch(tag) is None:
            raise StoreNotFound(f"part {number} has no tag {tag!r}")

        def open_part() -> int:
            directory = self._directory()
            try:
                with store_errors(f"find part {number} of", self._key):
                    return os.open(
                        f"{number:05d}-{tag}",
                        os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
                        dir_fd=directory,
                    )
            finally:
                os.close(directory)

        return PooledFile(self._pool, self._pool.run(open_part))
