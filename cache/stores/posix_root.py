"""The root directory of a posix store: whether it is still there, and where a key is in it.

Decides what is one file of the tree: finding the place of a key among its native and escaped
forms (`posix_names`), making the directories of a new key, the locks that make check-and-rename
one step among all Forebay processes, and errno -> StoreError. What is done at the place is left
to `posix` and `posix_uploads`.

Below the root lies one reserved directory, `.forebay-tmp` (mode 0700):

    store-id     names this store; an unmounted mount point does not carry it
    locks/NN     one lock file for every 1/64 of the keys
    uploads/     bodies on their way; renamed to their place from here
    parts/       multipart uploads, one directory each

The root is held open, and compared with what its path leads to at every call: a root that is gone
or is another file system now is StoreUnavailable, never "everything was deleted". When the same
store (by its store-id) is mounted again, work goes on.

All calls block in the file system and run in the store's threads (`deadline.DeadlinePool`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import (
    StoreError,
    StoreFull,
    StoreNotFound,
    StoreOverQuota,
    StoreRefused,
    StoreUnavailable,
)
from cache.stores.beneath import open_directory
from cache.stores.posix_names import RESERVED, Form, escaped_form, forms, native_form, split_key

log = logging.getLogger(__name__)

_IDENTITY = b"store-id"
_LOCKS = b"locks"
UPLOADS = b"uploads"
PARTS = b"parts"
_STRIPE_COUNT = 64
_ATTEMPTS = 20
_LOCK_POLL_S = 0.005
_LEFTOVER_AGE_S = 3600
_LEFTOVER_PARTS_AGE_S = 7 * 24 * 3600

_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_ERRORS: dict[int, type[StoreError]] = {
    errno.ENOENT: StoreNotFound,
    errno.ENOTDIR: StoreNotFound,
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreOverQuota,
    **dict.fromkeys(
        (
            errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL,
            errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.EBUSY, errno.EXDEV, errno.EMLINK,
            errno.EFBIG, errno.ENOTSUP, errno.ETXTBSY, errno.EILSEQ,
        ),
        StoreRefused,
    ),
}  # fmt: skip
"""Anything else (EIO, ESTALE, ETIMEDOUT, ENOTCONN, EMFILE …) says nothing about the object."""


@contextlib.contextmanager
def store_errors(action: str, key: bytes) -> Iterator[None]:
    """Turn OSError into the StoreError that it means."""
    try:
        yield
    except OSError as exc:
        kind = _ERRORS.get(exc.errno or 0, StoreUnavailable)
        raise kind(f"{action} {key!r}: {exc.strerror or exc}") from exc


@dataclass(frozen=True, slots=True)
class Place:
    """A name in an open directory, and what is there: None if nothing is yet."""

    directory: int
    name: bytes
    path: tuple[bytes, ...]  # of the directory, from the root
    status: os.stat_result | None

    def sync(self) -> None:
        """Make the name durable, or its removal."""
        os.fsync(self.directory)


class PosixRoot:
    """See the module docstring. Closed by close(), after which nothing may be called."""

    def __init__(
        self, path: Path, identity: str, *, deadline_s: float, directory_mode: int
    ) -> None:
        self._path = path
        self._deadline_s = deadline_s
        self._directory_mode = directory_mode
        self._lock = threading.Lock()  # guards the four fields below
        self._descriptors: list[int] = []
        self.descriptor = self._open()
        self._seen = _device_and_inode(os.fstat(self.descriptor))
        try:
            self.identity = self._establish_identity(identity)
        except BaseException:
            self.close()
            raise
        self._stripes = [threading.Lock() for _ in range(_STRIPE_COUNT)]

    def close(self) -> None:
        with self._lock:
            descriptors, self._descriptors = self._descriptors, []
            self.descriptor = -1  # a late clean-up fails, instead of using somebody else's number
        for descriptor in descriptors:
            os.close(descriptor)

    # The root itself --------------------------------------------------------------------------

    def check(self) -> None:
        """StoreUnavailable unless the path still leads to the store that was opened."""
        try:
            seen = _device_and_inode(os.stat(self._path))
        except OSError as exc:
            raise StoreUnavailable(f"store {self._path} is gone: {exc.strerror}") from exc
        if seen == self._seen:
            return
        with self._lock:
            if seen == self._seen:
                return
            descriptor = self._open()
            found = _read_identity(descriptor)
            if not found or found != self.identity:
                self._descriptors.remove(descriptor)
                os.close(descriptor)
                raise StoreUnavailable(f"{self._path} is another directory now: not mounted?")
            # Calls under way may still use the old descriptor: it stays open until close().
            self.descriptor, self._seen = descriptor, seen
            log.info("store %s is back", self._path)

    def _open(self) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise StoreUnavailable(f"store {self._path}: {exc.strerror}") from exc
        self._descriptors.append(descriptor)
        return descriptor

    def _establish_identity(self, expected: str) -> str:
        found = _read_identity(self.descriptor)
        if expected and found != expected:
            raise StoreUnavailable(
                f"{self._path} does not carry the store-id {expected}: not mounted?"
            )
        try:
            found = found or _write_identity(self.descriptor)
            for name in (_LOCKS, UPLOADS, PARTS):
                _make_directory(self.reserved(), name, 0o700)
        except OSError as exc:
            if exc.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise StoreUnavailable(f"store {self._path}: {exc.strerror}") from exc
            log.warning("store %s cannot be written: %s", self._path, exc.strerror)
        return found

    def reserved(self, *names: bytes) -> int:
        """A descriptor of .forebay-tmp, or of a directory in it; the caller closes it."""
        return open_directory(self.descriptor, (RESERVED, *names))

    def sweep(self) -> None:
        """Remove what killed processes left in the reserved directory. A body in use is locked
        by its process, on whatever host that is."""
        uploads = self.reserved(UPLOADS)
        try:
            now = time.time()
            for name in map(os.fsencode, os.listdir(uploads)):
                with contextlib.suppress(FileNotFoundError, BlockingIOError):
                    status = os.lstat(name, dir_fd=uploads)
                    if now - status.st_ctime > _LEFTOVER_AGE_S:
                        _remove_leftover(uploads, name, status)
        finally:
            os.close(uploads)
        parts = self.reserved(PARTS)
        try:
            for name in map(os.fsencode, os.listdir(parts)):
                with contextlib.suppress(FileNotFoundError):
                    if now - os.lstat(name, dir_fd=parts).st_ctime > _LEFTOVER_PARTS_AGE_S:
                        log.info("removing the multipart upload %r: a week without a part", name)
                        remove_parts(parts, name)
        finally:
            os.close(parts)

    # Locks ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, *keys: bytes) -> Iterator[None]:
        """Hold the keys against every other Forebay process and thread, in stripe order so that
        two renames cannot wait for each other. Polls: a blocking flock that outlived the
        deadline would take the lock for a caller who left long ago."""
        deadline = time.monotonic() + self._deadline_s
        stripes = sorted({zlib.crc32(key.rstrip(b"/")) % _STRIPE_COUNT for key in keys})
        with contextlib.ExitStack() as held:
            locks = self.reserved(_LOCKS)
            held.callback(os.close, locks)
            for stripe in stripes:
                if not self._stripes[stripe].acquire(timeout=max(deadline - time.monotonic(), 0)):
                    raise StoreUnavailable(f"lock {stripe} is held by another thread")
                held.callback(self._stripes[stripe].release)
                file = os.open(
                    b"%02d" % stripe,
                    os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                    0o600,
                    dir_fd=locks,
                )
                held.callback(os.close, file)
                while not _try_lock(file):
                    if time.monotonic() >= deadline:
                        raise StoreUnavailable(f"lock {stripe} is held by another process")
                    time.sleep(_LOCK_POLL_S)
            yield

    # Places -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def found(self, key: bytes) -> Iterator[Place]:
        """Where the key is. StoreNotFound if it is nowhere."""
        self.check()
        place = self._find(key)
        if place is None:
            raise StoreNotFound(f"no such object in {self._path}: {key!r}")
        try:
            yield place
        finally:
            os.close(place.directory)

    @contextlib.contextmanager
    def made(self, key: bytes) -> Iterator[Place]:
        """Where the key is, or is to be; its directories are there, durably. Call it locked."""
        self.check()
        place = self._find_or_make(key)
        try:
            yield place
        finally:
            os.close(place.directory)

    def remove_containers(self, path: Sequence[bytes]) -> None:
        """Remove the directories that only hold the rest of a long name, if they are empty."""
        path = tuple(path)
        while path and path[-1].startswith(b".fb~l"):
            try:
                parent = open_directory(self.descriptor, path[:-1])
            except OSError as exc:
                if exc.errno in _MISSING:
                    return
                raise
            try:
                os.rmdir(path[-1], dir_fd=parent)
            except OSError as exc:
                if exc.errno in (errno.ENOTEMPTY, errno.EEXIST, *_MISSING):
                    return
                raise
            finally:
                os.close(parent)
            path = path[:-1]

    def _find_or_make(self, key: bytes) -> Place:
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # a new directory, removed by others
                return self._find(key) or self._make(key)
        raise StoreUnavailable(f"{key!r}: its directories are removed while they are made")

    def _find(self, key: bytes) -> Place | None:
        directories, leaf, is_directory = split_key(key)
        for path in self._paths(directories):
            for form in forms(leaf, is_directory=is_directory, at_root=not directories):
                place = self._look((*path, *form[:-1]), form[-1])
                if place is None:
                    continue
                if place.status and stat.S_ISDIR(place.status.st_mode) == is_directory:
                    return place
                os.close(place.directory)
        return None

    def _look(self, path: tuple[bytes, ...], name: bytes) -> Place | None:
        """The place path/name; None if its directory is missing."""
        directory = self._open_directory(path)
        if directory is None:
            return None
        try:
            status = os.lstat(name, dir_fd=directory)
        except OSError as exc:
            if exc.errno not in _MISSING:
                os.close(directory)
                raise
            status = None
        return Place(directory, name, path, status)

    def _open_directory(self, path: Sequence[bytes]) -> int | None:
        try:
            return open_directory(self.descriptor, path)
        except OSError as exc:
            if exc.errno in _MISSING:
                return None
            raise

    def _is_directory(self, path: Sequence[bytes]) -> bool:
        try:
            os.close(open_directory(self.descriptor, path, flags=os.O_PATH))
        except OSError as exc:
            if exc.errno in _MISSING:
                return False
            raise
        return True

    def _paths(self, components: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
        """Every directory that the components lead to: one, unless somebody else made a native
        directory beside an escaped one."""
        choices = [
            forms(name, is_directory=True, at_root=depth == 0)
            for depth, name in enumerate(components)
        ]
        usual = tuple(name for choice in choices for name in choice[0])
        if self._is_directory(usual):
            yield usual
        stack: list[tuple[int, Form]] = [(0, ())]
        while stack:
            depth, path = stack.pop()
            if depth == len(choices):
                if path != usual:
                    yield path
                continue
            deeper = [(*path, *form) for form in choices[depth]]
            stack.extend(
                (depth + 1, below) for below in reversed(deeper) if self._is_directory(below)
            )

    def _make(self, key: bytes) -> Place:
        components, leaf, is_directory = split_key(key)
        path: tuple[bytes, ...] = ()
        for depth, name in enumerate(components):
            choices = forms(name, is_directory=True, at_root=depth == 0)
            existing = (below for form in choices if self._is_directory(below := (*path, *form)))
            path = next(existing, ()) or self._make_component(path, name, at_root=depth == 0)
        form = native_form(leaf, at_root=not components)
        place = None if form is None else self._look(path, form[0])
        if place is not None and _can_hold(place, is_directory):
            return place
        if place is not None:
            os.close(place.directory)  # taken by the other kind
        form = escaped_form(leaf, is_directory=is_directory)
        for name in form[:-1]:
            path = self._make_at(path, name)
        place = self._look(path, form[-1])
        if place is None:
            raise FileNotFoundError(errno.ENOENT, "the directory was removed meanwhile")
        return place

    def _make_component(
        self, path: tuple[bytes, ...], name: bytes, *, at_root: bool
    ) -> tuple[bytes, ...]:
        native = native_form(name, at_root=at_root)
        if native is not None:
            with contextlib.suppress(FileExistsError):
                return self._make_at(path, native[0])
        for piece in escaped_form(name, is_directory=True):
            path = self._make_at(path, piece)
        return path

    def _make_at(self, path: tuple[bytes, ...], name: bytes) -> tuple[bytes, ...]:
        """Make the directory path/name durably. FileExistsError if something else is there."""
        _make_directory(open_directory(self.descriptor, path), name, self._directory_mode)
        return (*path, name)


def _can_hold(place: Place, is_directory: bool) -> bool:
    """Whether the place is free, or has what it is to have: another writer, who needed the
    directory, may have made it since it was looked for."""
    return place.status is None or stat.S_ISDIR(place.status.st_mode) == is_directory


def remove_parts(parts: int, token: bytes) -> None:
    """Remove the directory of a multipart upload with its files."""
    directory = open_directory(parts, (token,))
    try:
        for name in map(os.fsencode, os.listdir(directory)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(token, dir_fd=parts)


def _device_and_inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_directory(parent: int, name: bytes, mode: int) -> None:
    """mkdir and fsync of the parent, whose descriptor is consumed. A directory that is there
    already may be somebody's who has not synced it yet: the parent is synced all the same."""
    try:
        try:
            os.mkdir(name, mode, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                raise
        os.fsync(parent)
    finally:
        os.close(parent)


def _remove_leftover(uploads: int, name: bytes, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=uploads)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(file)
    os.unlink(name, dir_fd=uploads)
    log.info("removed the unfinished upload %r", name)


def _read_identity(root: int) -> str:
    """The store-id; empty if there is none."""
    try:
        reserved = open_directory(root, (RESERVED,))
    except OSError as exc:
        if exc.errno in _MISSING or exc.errno == errno.EACCES:
            return ""
        raise StoreUnavailable(f"{os.fsdecode(RESERVED)}: {exc.strerror}") from exc
    try:
        file = os.open(_IDENTITY, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=reserved)
    except FileNotFoundError:
        return ""
    finally:
        os.close(reserved)
    try:
        return os.read(file, 100).decode("ascii", "replace").strip()
    finally:
        os.close(file)


def _write_identity(root: int) -> str:
    """Name the store, once: the first of several processes wins, and all read the same."""
    _make_directory(os.dup(root), RESERVED, 0o700)
    reserved = open_directory(root, (RESERVED,))
    try:
        temporary = uuid.uuid4().hex.encode()
        file = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=reserved
        )
        try:
            os.write(file, uuid.uuid4().hex.encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, _IDENTITY, src_dir_fd=reserved, dst_dir_fd=reserved)
        finally:
            os.unlink(temporary, dir_fd=reserved)
        os.fsync(reserved)
    finally:
        os.close(reserved)
    return _read_identity(root)
