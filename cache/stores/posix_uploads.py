"""Bodies on their way into a posix store: temporary file, fsync, rename, fsync of the directory.

The order is the promise: the bytes and attributes are durable before the name leads to them, and
the name is durable before commit() returns, so a crash at any moment leaves the old object or
the new one. A file whose write or fsync failed is never tried again: after an I/O error the page
cache says nothing about the disk (reliability.md, fsyncgate).

Every step on a descriptor runs in the store's threads with its own deadline. A step that was
given up may still be in the kernel, so its descriptor is closed when it ends, not before:
otherwise its number would be somebody else's file by then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from cache import disk
from cache.errors import (
    StoreChanged,
    StoreCorrupt,
    StoreRefused,
    StoreUnavailable,
)
from cache.records import Kind
from cache.stores import posix_attributes, posix_directories, posix_holes
from cache.stores.base import ABSENT, StoredAttributes, StoredObject
from cache.stores.beneath import open_leaf
from cache.stores.bodies import expected_body
from cache.stores.deadline import DeadlinePool
from cache.stores.posix_attributes import version_of
from cache.stores.posix_root import UPLOADS, Place, PosixRoot, store_errors

T = TypeVar("T")

STEP_BYTES = 1 << 20
_SYNC_STEP_BYTES = 64 << 20
"""Dirty bytes after which a body is synced on the way, so that no single fsync has gigabytes to
write and fails the deadline."""
_PLACE_ATTEMPTS = 20
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


_NO_CLONE = _NO_COPY_RANGE | {errno.ENOTTY}
_FICLONERANGE = 0x4020940D  # _IOW(0x94, 13, struct file_clone_range)
_CLONE_RANGE = struct.Struct("=qQQQ")  # descriptor and start of the source, length, start here


class NotCloned(StoreRefused):
    """The file system shares no blocks among files."""


class PooledFile:
    """A descriptor whose steps run in the pool, one at a time."""

    def __init__(self, pool: DeadlinePool, descriptor: int) -> None:
        self._pool = pool
        self.descriptor = descriptor
        self.last_step: Future[Any] | None = None
        self._closed = False

    def run(self, step: Callable[[], T], *, reads: PooledFile | None = None) -> T:
        """step() in the pool; `reads` is another file that the step uses."""
        if self._closed:
            raise StoreUnavailable("the file is closed")
        future = self._pool.submit(step)
        self.last_step = future
        if reads is not None:
            reads.last_step = future
        return self._pool.wait(future)

    def close(self, clean_up: Callable[[], None] | None = None) -> None:
        """Close the descriptor, then clean_up(), when the last step has ended. Idempotent."""
        if self._closed:
            return
        self._closed = True

        def release(_: Future[Any] | None) -> None:
            os.close(self.descriptor)
            if clean_up is not None:
                with contextlib.suppress(OSError):
                    clean_up()  # what stays behind is swept when a store is opened

        if self.last_step is None:
            release(None)
        else:
            self.last_step.add_done_callback(release)


class BodyFile:
    """A file that is filled from front to back, and synced on the way."""

    def __init__(self, pool: DeadlinePool, descriptor: int, key: bytes) -> None:
        self.file = PooledFile(pool, descriptor)
        self._key = key
        self.size_bytes = 0
        self._unsynced = 0
        self._ends_in_hole = False

    def skip(self, count: int) -> None:
        """Append zeros as a hole. end() makes one that is the last piece count."""
        self.size_bytes += count
        self._ends_in_hole = True

    def end(self) -> None:
        """In a thread of the pool: give the file its size, if it ends in a hole."""
        if self._ends_in_hole:
            with store_errors("write", self._key):
                os.ftruncate(self.file.descriptor, self.size_bytes)

    def append(self, piece: bytes | bytearray | memoryview) -> None:
        """Write piece at the end. The caller does not change it meanwhile."""
        self._ends_in_hole = False
        offset, sync = self._advance(len(piece))
        descriptor = self.file.descriptor

        def step() -> None:
            with store_errors("write", self._key):
                disk.write_at(descriptor, piece, offset, passing=len(piece) >= STEP_BYTES)
                if sync:
                    os.fdatasync(descriptor)

        self.file.run(step)

    def append_from(self, source: PooledFile, start: int, stop: int) -> None:
        """Append source[start:stop) inside the kernel: a reflink or a server-side copy where the
        file system has one; its holes are holes here. StoreChanged if the source ends early."""
        for piece in posix_holes.pieces(source, self._key, start, stop):
            if piece.is_hole:
                self.skip(piece.stop - piece.start)
            else:
                self._append_bytes_of(source, piece.start, piece.stop)

    def _append_bytes_of(self, source: PooledFile, start: int, stop: int) -> None:
        self._ends_in_hole = False
        descriptor = self.file.descriptor
        while start < stop:
            count = min(stop - start, _SYNC_STEP_BYTES)
            offset = self.size_bytes

            def step(start: int = start, count: int = count, offset: int = offset) -> int:
                with store_errors("copy to", self._key):
                    copied = _copy_step(source.descriptor, descriptor, count, start, offset)
                    os.fdatasync(descriptor)
                    return copied

            copied = self.file.run(step, reads=source)
            if copied == 0:
                raise StoreChanged(f"{self._key!r}: the source became shorter while it was copied")
            self.size_bytes += copied
            start += copied

    def clone_from(self, source: PooledFile, start: int, stop: int) -> None:
        """Append source[start:stop), whole blocks, by sharing them. NotCloned."""
        descriptor, offset = self.file.descriptor, self.size_bytes

        def step() -> None:
            shared = _CLONE_RANGE.pack(source.descriptor, start, stop - start, offset)
            with store_errors("share blocks with", self._key):
                try:
                    fcntl.ioctl(descriptor, _FICLONERANGE, shared)
                except OSError as exc:
                    if exc.errno in _NO_CLONE:
                        raise NotCloned(exc.strerror) from exc
                    raise

        self.file.run(step, reads=source)
        self.size_bytes += stop - start

    def _advance(self, count: int) -> tuple[int, bool]:
        offset = self.size_bytes
        self.size_bytes += count
        self._unsynced += count
        sync = self._unsynced >= _SYNC_STEP_BYTES
        if sync:
            self._unsynced = 0
        return offset, sync


def _copy_step(source: int, target: int, count: int, start: int, offset: int) -> int:
    try:
        return os.copy_file_range(source, target, count, start, offset)
    except OSError as exc:
        if exc.errno not in _NO_COPY_RANGE:
            raise
    piece = os.pread(source, min(count, STEP_BYTES), start)
    disk.write_at(target, piece, offset)
    return len(piece)


class Publisher:
    """Gives a finished temporary file its name: the check, the attributes and the rename that
    uploads, copies and joined parts share."""

    def __init__(
        self, root: PosixRoot, *, file_mode: int, directory_mode: int, chown: bool, xattrs: bool
    ) -> None:
        self.root = root
        self._file_mode = file_mode
        self._directory_mode = directory_mode
        self._chown = chown
        self._xattrs = xattrs

    def create_temporary(self, key: bytes) -> tuple[bytes, int]:
        """(name, locked descriptor) of a new file in uploads/. The lock tells the sweep of any
        process, on any host, that the file is in use."""
        with store_errors("begin upload of", key):
            self.root.check()
            uploads = self.root.reserved(UPLOADS)
            try:
                name = uuid.uuid4().hex.encode()
                descriptor = os.open(
                    name,
                    os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                    0o600,
                    dir_fd=uploads,
                )
            finally:
                os.close(uploads)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return name, descriptor

    def remove_temporary(self, name: bytes) -> None:
        uploads = self.root.reserved(UPLOADS)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=uploads)
        finally:
            os.close(uploads)

    def publish_file(
        self,
        key: bytes,
        temporary: bytes,
        descriptor: int,
        attributes: StoredAttributes,
        expected: str | None,
    ) -> StoredObject:
        """Attributes, fsync, rename, fsync of the directory: in this order."""
        with store_errors("write", key):
            os.fchmod(descriptor, self._file_mode)
            posix_attributes.apply(
                descriptor, key, attributes, chown=self._chown, xattrs=self._xattrs
            )
            os.fsync(descriptor)
            with self._renamed(key, temporary, expected):
                pass
            xattrs = posix_attributes.read_xattrs(descriptor)
            return posix_attributes.described(key, os.fstat(descriptor), None, xattrs)

    def publish_special(
        self, key: bytes, attributes: StoredAttributes, expected: str | None
    ) -> StoredObject:
        """A symlink, FIFO, socket or device: made under a temporary name, then renamed."""
        with store_errors("create", key):
            self.root.check()
            temporary = uuid.uuid4().hex.encode()
            uploads = self.root.reserved(UPLOADS)
            try:
                posix_attributes.make_special(uploads, temporary, attributes, self._file_mode)
                try:
                    posix_attributes.apply_special(
                        uploads, temporary, key, attributes, chown=self._chown
                    )
                    # There is no fsync of a symlink: syncing its directory commits it.
                    os.fsync(uploads)
                    with self._renamed(key, temporary, expected) as place:
                        status = os.lstat(place.name, dir_fd=place.directory)
                except BaseException:
                    self.remove_temporary(temporary)
                    raise
            finally:
                os.close(uploads)
            return posix_attributes.described(key, status, attributes.symlink_target, {})

    def publish_directory(
        self,
        key: bytes,
        attributes: StoredAttributes,
        expected: str | None,
        body: tuple[bytes, int] | None = None,
    ) -> StoredObject:
        """mkdir, or new attributes for the directory that is there. body: name and descriptor of a
        temporary file with the bytes under its key; without one it has none."""
        with store_errors("create", key), self.root.locked(key), self.root.made(key) as place:
            check_expected(key, place, expected)
            if place.status is None:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(place.name, 0o700, dir_fd=place.directory)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(place.name, flags, dir_fd=place.directory)
            try:
                if place.status is None:
                    os.fchmod(directory, self._directory_mode)
                if body is None:
                    posix_directories.remove_body(directory)
                else:
                    self._put_body(key, directory, body, attributes)
                posix_directories.apply(
                    directory, key, attributes, chown=self._chown, xattrs=self._xattrs
                )
                os.fsync(directory)
                place.sync()
                return posix_directories.described(key, directory)
            finally:
                os.close(directory)

    def _put_body(
        self, key: bytes, directory: int, body: tuple[bytes, int], attributes: StoredAttributes
    ) -> None:
        """Attributes, fsync, rename: the directory is left to the caller to sync."""
        temporary, descriptor = body
        os.fchmod(descriptor, self._file_mode)
        own = posix_directories.of_body(attributes)
        posix_attributes.apply(descriptor, key, own, chown=self._chown, xattrs=self._xattrs)
        os.fsync(descriptor)
        uploads = self.root.reserved(UPLOADS)
        try:
            os.rename(temporary, posix_directories.BODY, src_dir_fd=uploads, dst_dir_fd=directory)
        finally:
            os.close(uploads)

    @contextlib.contextmanager
    def _renamed(self, key: bytes, temporary: bytes, expected: str | None) -> Iterator[Place]:
        """Rename uploads/temporary to the key's place, durably; yields the place, still locked.

        A place can change its kind between choosing it and the rename, when a directory of that
        name is made or removed by another key's writer: then another place is chosen."""
        uploads = self.root.reserved(UPLOADS)
        try:
            with self.root.locked(key):
                for attempt in range(_PLACE_ATTEMPTS):
                    with self.root.made(key) as place:
                        check_expected(key, place, expected)
                        try:
                            os.rename(
                                temporary,
                                place.name,
                                src_dir_fd=uploads,
                                dst_dir_fd=place.directory,
                            )
                        except OSError as exc:
                            moved = (errno.EISDIR, errno.ENOTDIR, errno.ENOENT, errno.EEXIST)
                            if exc.errno not in moved or attempt == _PLACE_ATTEMPTS - 1:
                                raise
                            continue
                        place.sync()
                        yield place
                        return
        finally:
            os.close(uploads)


def check_expected(key: bytes, place: Place, expected: str | None) -> None:
    """StoreChanged unless what is there is what the writer expects; call it locked."""
    if expected is None:
        return
    status = place.status
    if status is None:
        current = ABSENT
    elif stat.S_ISDIR(status.st_mode):
        current = posix_directories.version_at(place.directory, place.name)
    else:
        current = version_of(status)
    if current != expected:
        raise StoreChanged(f"{key!r} is {current or 'absent'}, not {expected or 'absent'}")


class PosixUpload:
    """See `base.Upload`. Small writes are gathered to 1 MiB before they go to a thread; a body that
    is no larger is one step from its temporary file to its name."""

    def __init__(self, publisher: Publisher, pool: DeadlinePool, key: bytes) -> None:
        self._publisher = publisher
        self._pool = pool
        self._key = key
        self._body: BodyFile | None = None
        self._temporary = b""
        self._gathered = bytearray()
        self._done = False

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        assert not self._done, "write after commit or abort"
        if isinstance(chunk, bytes) and len(chunk) >= STEP_BYTES:
            if posix_holes.is_hole(chunk):
                self.skip(len(chunk))
            else:
                self._flush().append(chunk)  # nobody can change it meanwhile: no copy
            return
        self._gathered += chunk
        if len(self._gathered) >= STEP_BYTES:
            self._flush()

    def skip(self, count: int) -> None:
        """Append zeros as a hole: so a sparse file is one in the store, too."""
        self._flush().skip(count)

    def append_from(self, source: PooledFile, start: int, stop: int) -> None:
        """Append bytes [start, stop) of another file of the store."""
        self._flush().append_from(source, start, stop)

    def clone_from(self, source: PooledFile, start: int, stop: int) -> None:
        """As append_from, of blocks that both files then share. NotCloned."""
        self._flush().clone_from(source, start, stop)

    def commit(self, attributes: StoredAttributes, *, expected: str | None = None) -> StoredObject:
        assert not self._done, "commit after commit or abort"
        fixed = expected_body(attributes)
        has_body = self._body is not None or bool(self._gathered)
        if self._key.endswith(b"/"):
            if attributes.kind not in (Kind.DIRECTORY, Kind.FILE):
                raise StoreRefused(f"{self._key!r} can only be a directory")
            stored = self._commit_directory(attributes, expected, has_body=has_body)
        elif attributes.kind == Kind.DIRECTORY:
            raise StoreRefused(f"{self._key!r}: the key of a directory ends in /")
        elif fixed is None:
            stored = self._commit_file(attributes, expected)
        else:
            if self._body is not None or bytes(self._gathered) not in (b"", fixed):
                raise StoreRefused(f"{self._key!r}: a {attributes.kind.name} cannot hold a body")
            stored = self._pool.run(
                lambda: self._publisher.publish_special(self._key, attributes, expected)
            )
        self._done = True
        return stored

    def abort(self) -> None:
        if self._done:
            return
        self._done = True
        self._gathered.clear()
        if self._body is not None:
            self._body.file.close(lambda: self._publisher.remove_temporary(self._temporary))

    def _commit_file(self, attributes: StoredAttributes, expected: str | None) -> StoredObject:
        return self._commit_body(
            lambda temporary, body: self._publisher.publish_file(
                self._key, temporary, body, attributes, expected
            )
        )

    def _commit_directory(
        self, attributes: StoredAttributes, expected: str | None, *, has_body: bool
    ) -> StoredObject:
        publish = self._publisher.publish_directory
        if not has_body:
            return self._pool.run(lambda: publish(self._key, attributes, expected))
        return self._commit_body(
            lambda temporary, body: publish(self._key, attributes, expected, (temporary, body))
        )

    def _commit_body(self, publish: Callable[[bytes, int], StoredObject]) -> StoredObject:
        """publish(temporary, descriptor) gives the temporary file its name."""
        if self._body is None:
            return self._pool.run(partial(self._commit_gathered, bytes(self._gathered), publish))
        body = self._flush()
        descriptor = body.file.descriptor

        def commit() -> StoredObject:
            body.end()
            self._check_size(descriptor, body.size_bytes)
            return publish(self._temporary, descriptor)

        stored = body.file.run(commit)
        body.file.close()
        return stored

    def _commit_gathered(
        self, gathered: bytes, publish: Callable[[bytes, int], StoredObject]
    ) -> StoredObject:
        """In a thread of the pool, which may have been given up: cleans up by itself."""
        temporary, descriptor = self._publisher.create_temporary(self._key)
        try:
            with store_errors("write", self._key):
                disk.write_at(descriptor, gathered, 0)
            self._check_size(descriptor, len(gathered))
            return publish(temporary, descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                self._publisher.remove_temporary(temporary)
            raise
        finally:
            os.close(descriptor)

    def _check_size(self, descriptor: int, expected: int) -> None:
        """A file system tells no checksum of what it holds; the size is what can be compared."""
        actual = os.fstat(descriptor).st_size
        if actual != expected:
            raise StoreCorrupt(f"{self._key!r}: {actual} of {expected} bytes written")

    def _flush(self) -> BodyFile:
        """Write what was gathered; make the temporary file if there is none."""
        if self._body is None:
            future = self._pool.submit(lambda: self._publisher.create_temporary(self._key))
            try:
                self._temporary, descriptor = self._pool.wait(future)
            except StoreUnavailable:
                future.add_done_callback(_close_late)
                raise
            self._body = BodyFile(self._pool, descriptor, self._key)
        if self._gathered:
            piece, self._gathered = self._gathered, bytearray()
            # What was not cached here comes in smaller pieces than holes are.
            if posix_holes.is_hole(piece):
                self._body.skip(len(piece))
            else:
                self._body.append(piece)
        return self._body


def _close_late(future: Future[tuple[bytes, int]]) -> None:
    """The temporary file came after its caller had left; the sweep removes its name."""
    if not future.cancelled() and future.exception() is None:
        os.close(future.result()[1])


def open_pooled(root: PosixRoot, pool: DeadlinePool, key: bytes) -> PooledFile:
    """The regular file under key, opened to be read."""
    future = pool.submit(lambda: open_file(root, key))
    return PooledFile(pool, pool.wait(future))


def size_of(file: PooledFile) -> int:
    return file.run(lambda: os.fstat(file.descriptor)).st_size


def check_open(file: PooledFile, key: bytes, version: str) -> None:
    """StoreChanged unless the open file is (still) that version."""
    current = version_of(file.run(lambda: os.fstat(file.descriptor)))
    if current != version:
        raise StoreChanged(f"{key!r} is {current}, not {version}")


def open_file(root: PosixRoot, key: bytes) -> int:
    """A read descriptor of the regular file under key."""
    with store_errors("open", key), root.found(key) as place:
        descriptor = open_leaf(place.directory, place.name)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return descriptor
        try:
            if stat.S_ISDIR(mode):
                return posix_directories.open_body(key, descriptor)
            raise StoreRefused(f"{key!r} has no bytes to read")
        finally:
            os.close(descriptor)
