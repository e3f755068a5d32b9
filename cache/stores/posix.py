"""A store that is a directory: local disk, NFS, Lustre, CephFS.

One object is one file with the path of its key, readable by `cp -a` with no Forebay around, and
what `cp` puts there is an object here. This module is the `base.Store`; its parts decide the
rest:

    posix_names        what a key is called that a path cannot say
    posix_root         whether the root is there, places of keys, locks between processes
    posix_attributes   mode, owner, mtime, and the xattrs user.forebay.*; version tokens
    posix_directories  bytes under a key that ends in `/`
    posix_uploads      temporary file, fsync, rename, fsync of the directory
    posix_parts        multipart uploads
    posix_patch        changed files that share blocks with what they were
    posix_listing      listings in key order
    beneath            paths that never follow a symlink

What the capability conditional_put means here: the check and the rename are one step among
Forebay processes (a flock on a file of the store, so among hosts too where the file system has
it). A program that writes without that lock can come between, within microseconds.

What it cannot do: see a change that leaves inode, size, mtime and ctime as they were; keep two
names apart that the file system takes for one (case folding, Unicode normalisation).

Any thread may call; the work runs in the store's own threads and is given up at deadline_s.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.config import ConfigError
from cache.errors import StoreChanged, StoreCorrupt, StoreNotFound, StoreUnavailable
from cache.records import Kind
from cache.stores import posix_attributes, posix_directories
from cache.stores.base import (
    Capabilities,
    ListPage,
    Read,
    StoredAttributes,
    StoredObject,
)
from cache.stores.beneath import open_leaf
from cache.stores.bodies import upload_whole
from cache.stores.deadline import DeadlinePool
from cache.stores.posix_attributes import version_of
from cache.stores.posix_listing import Listing, describe_at
from cache.stores.posix_names import usual_path
from cache.stores.posix_parts import PosixPartUpload
from cache.stores.posix_patch import Patcher
from cache.stores.posix_root import PosixRoot, store_errors
from cache.stores.posix_uploads import (
    STEP_BYTES,
    PosixUpload,
    Publisher,
    check_expected,
    check_open,
    open_pooled,
)

log = logging.getLogger(__name__)

_MOVED = (errno.EISDIR, errno.ENOTDIR, errno.ENOENT)
_RENAME_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class PosixStoreConfig:
    """A directory as a store."""

    path: Path
    """The root directory; it must exist, so that an unmounted file system is noticed."""
    identity: str = ""
    """The store-id that the root must carry in .forebay-tmp/store-id; unset: any, also none. Set
    it for network file systems: an empty mount point then is an outage, not an empty store."""
    deadline_s: float = 30.0
    """Longest that one step (a look-up, a page of a listing, 1 MiB of a body) may take."""
    threads_max: int = 32
    """Calls that may be in the file system at the same time; more wait for their turn."""
    file_mode: int = 0o644
    """Permission bits of files that come without a mode."""
    directory_mode: int = 0o755
    """Permission bits of directories that come without a mode."""

    def __post_init__(self) -> None:
        if self.deadline_s <= 0:
            raise ConfigError("deadline_s must be more than 0")
        if self.threads_max < 1:
            raise ConfigError("threads_max must be at least 1")
        for name in ("file_mode", "directory_mode"):
            if not 0 <= getattr(self, name) <= 0o7777:
                raise ConfigError(f"{name} must be permission bits, 0 to 0o7777")


class PosixStore:
    """`base.Store` on a directory; see the module docstring."""

    def __init__(self, config: PosixStoreConfig) -> None:
        """Opens the root and removes leftovers. StoreUnavailable if the root is not there or is
        not the store it should be."""
        self._pool = DeadlinePool(f"store {config.path}", config.deadline_s, config.threads_max)
        self._xattrs_are_large = False
        try:
            self._root = self._pool.run(
                lambda: PosixRoot(
                    config.path,
                    config.identity,
                    deadline_s=config.deadline_s,
                    directory_mode=config.directory_mode,
                )
            )
            xattrs = self._pool.run(self._prepare)
        except BaseException:
            self._pool.close(lambda: None)
            raise
        if not xattrs:
            log.warning(
                "store %s has no xattrs: content types, metadata, tags and S3 ETags are not kept",
                config.path,
            )
        self._path = config.path
        self._chown = os.geteuid() == 0
        self._xattrs = xattrs
        self._publisher = Publisher(
            self._root,
            file_mode=config.file_mode,
            directory_mode=config.directory_mode,
            chown=self._chown,
            xattrs=xattrs,
        )
        self._patcher = Patcher(self._publisher, self._pool, config.path)
        self._listing = Listing(self._root)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            native_rename=True,
            native_directories=True,
            conditional_put=True,
            lists_attributes=True,
            keeps_markers=True,
        )

    @property
    def identity(self) -> str:
        """The store-id, for PosixStoreConfig.identity; empty if the store cannot be written."""
        return self._root.identity

    def head(self, key: bytes) -> StoredObject:
        def head() -> StoredObject:
            with store_errors("look up", key), self._root.found(key) as place:
                return describe_at(place.directory, place.name, key)

        return self._pool.run(head)

    def read(self, key: bytes, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        stored = self.head(key)
        if version is not None and stored.version != version:
            raise StoreChanged(f"{key!r} is {stored.version}, not {version}")
        attributes = stored.attributes
        if attributes is not None and attributes.symlink_target is not None:
            yield from _piece(key, attributes.symlink_target, start, stop)
            return
        if start == stop:
            return
        file = open_pooled(self._root, self._pool, key)
        try:
            version = version or stored.version
            check_open(file, key, version)
            while start < stop:
                count = min(stop - start, STEP_BYTES)

                def step(start: int = start, count: int = count) -> tuple[bytes, str]:
                    with store_errors("read", key):
                        piece = os.pread(file.descriptor, count, start)
                        return piece, version_of(os.fstat(file.descriptor))

                piece, current = file.run(step)
                # After the read: bytes that were changed in place while we read are not yielded.
                if current != version:
                    raise StoreChanged(f"{key!r} is {current}, no longer {version}")
                if not piece:
                    raise StoreCorrupt(f"{key!r} ends at byte {start}, before {stop}")
                yield piece
                start += len(piece)
        finally:
            file.close()

    def open(self, key: bytes, start: int, stop: int) -> None:
        del key, start, stop  # two questions to a file system cost no more than one

    def begin_upload(
        self, key: bytes, size_bytes: int | None, attributes: StoredAttributes | None = None
    ) -> PosixUpload:
        del size_bytes, attributes  # hints that a file system has no use for
        return PosixUpload(self._publisher, self._pool, key)

    def begin_parts(self, key: bytes, attributes: StoredAttributes) -> PosixPartUpload:
        del attributes  # they are given again at commit(), which is when they count
        return PosixPartUpload.begin(self._publisher, self._pool, key)

    def resume_parts(self, key: bytes, token: str) -> PosixPartUpload:
        return PosixPartUpload(self._publisher, self._pool, key, token)

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
        patched = self._patcher.patch(key, changed, read, size_bytes, attributes, version)
        if patched is not None:
            return patched
        return self.put(key, read(0, size_bytes), size_bytes, attributes, expected=version)

    def set_attributes(
        self, key: bytes, attributes: StoredAttributes, *, expected: str | None = None
    ) -> StoredObject:
        def change() -> StoredObject:
            with (
                store_errors("change attributes of", key),
                self._root.locked(key),
                self._root.found(key) as place,
            ):
                check_expected(key, place, expected)
                assert place.status is not None, "found() yields what is there"
                is_dir = stat.S_ISDIR(place.status.st_mode)
                if is_dir or stat.S_ISREG(place.status.st_mode):
                    apply = posix_directories.apply if is_dir else posix_attributes.apply
                    file = open_leaf(place.directory, place.name)
                    try:
                        apply(file, key, attributes, chown=self._chown, xattrs=self._xattrs)
                        os.fsync(file)
                    finally:
                        os.close(file)
                else:
                    posix_attributes.apply_special(
                        place.directory, place.name, key, attributes, chown=self._chown
                    )
                    place.sync()
                return describe_at(place.directory, place.name, key)

        return self._pool.run(change)

    def copy(
        self, source: bytes, version: str | None, target: bytes, attributes: StoredAttributes
    ) -> StoredObject:
        stored = self.head(source)
        if version is not None and stored.version != version:
            raise StoreChanged(f"{source!r} is {stored.version}, not {version}")
        upload = self.begin_upload(target, stored.size_bytes)
        try:
            if stored.size_bytes and attributes.kind in (Kind.FILE, Kind.DIRECTORY):
                file = open_pooled(self._root, self._pool, source)
                try:
                    check_open(file, source, stored.version)
                    upload.append_from(file, 0, stored.size_bytes)
                    check_open(file, source, stored.version)
                finally:
                    file.close()
            return upload.commit(attributes)
        except BaseException:
            upload.abort()
            raise

    def rename(self, source: bytes, target: bytes) -> StoredObject | None:
        def move() -> StoredObject | None:
            with store_errors("rename", source), self._root.locked(source, target):
                for attempt in range(_RENAME_ATTEMPTS):
                    with (
                        self._root.found(source) as origin,
                        self._root.made(target) as place,
                    ):
                        try:
                            os.rename(
                                origin.name,
                                place.name,
                                src_dir_fd=origin.directory,
                                dst_dir_fd=place.directory,
                            )
                        except OSError as exc:
                            if exc.errno not in _MOVED or attempt == _RENAME_ATTEMPTS - 1:
                                raise
                            continue
                        # Target first: if the power fails between the two, both names lead to
                        # the bytes, and none is better than neither.
                        place.sync()
                        origin.sync()
                        self._root.remove_containers(origin.path)
                        if target.endswith(b"/"):
                            return None
                        return describe_at(place.directory, place.name, target)
                raise StoreUnavailable(f"rename {source!r}: the directories kept changing")

        return self._pool.run(move)

    def delete(self, key: bytes) -> None:
        def remove() -> None:
            with store_errors("delete", key), self._root.locked(key):
                # Both forms of a name can be there if others made the native one.
                while True:
                    try:
                        with self._root.found(key) as place:
                            if not _remove(key, place.directory, place.name):
                                return
                            place.sync()
                            path = place.path
                    except StoreNotFound:
                        return
                    self._root.remove_containers(path)

        self._pool.run(remove)

    def list(
        self, prefix: bytes, *, delimiter: bool, marker: bytes = b"", limit: int = 1000
    ) -> ListPage:
        def page() -> ListPage:
            with store_errors("list", prefix):
                return self._listing.page(prefix, delimiter=delimiter, marker=marker, limit=limit)

        return self._pool.run(page)

    def check_attributes(self, attributes: StoredAttributes) -> None:
        if self._xattrs and not self._xattrs_are_large:
            posix_attributes.check_block(attributes)

    def location(self, key: bytes) -> str:
        return str(self._path / os.fsdecode(usual_path(key)))

    def statfs(self) -> tuple[int, int] | None:
        def ask() -> tuple[int, int]:
            self._root.check()
            with store_errors("statfs of", b""):
                status = os.fstatvfs(self._root.descriptor)
                return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize

        return self._pool.run(ask)

    def close(self) -> None:
        """Calls under way may end; the root is closed after the last of them."""
        self._pool.close(self._root.close)

    def _prepare(self) -> bool:
        """Sweep the reserved directory; whether the file system has xattrs."""
        self._root.check()
        with contextlib.suppress(StoreNotFound), store_errors("open", b""):
            self._root.sweep()
            reserved = self._root.reserved()
            try:
                os.setxattr(reserved, "user.forebay.probe", b"1")
                self._xattrs_are_large = _takes_large_xattrs(reserved)
            except OSError as exc:
                if exc.errno == errno.ENOTSUP:
                    return False
                if exc.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
            finally:
                os.close(reserved)
        return True


def _takes_large_xattrs(descriptor: int) -> bool:
    """Whether the file system has room for xattrs beyond one block of 4 KiB."""
    try:
        os.setxattr(descriptor, "user.forebay.probe", bytes(16_384))
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.E2BIG, errno.ERANGE):
            raise
        return False
    os.setxattr(descriptor, "user.forebay.probe", b"1")
    return True


def _remove(key: bytes, directory: int, name: bytes) -> bool:
    """Unlink or rmdir; False if the directory is not empty and stays."""
    if key.endswith(b"/"):
        return posix_directories.remove(directory, name)
    os.unlink(name, dir_fd=directory)
    return True


def _piece(key: bytes, body: bytes, start: int, stop: int) -> Iterator[bytes]:
    """body[start:stop), in one piece; StoreCorrupt if it ends before."""
    if stop > len(body):
        raise StoreCorrupt(f"{key!r} ends at byte {len(body)}, before {stop}")
    if start < stop:
        yield body[start:stop]
