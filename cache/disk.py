"""The few calls to the operating system that put bytes on the cache disk: the fault seam.

Everything durable in segments goes through here, so a test can make the N-th call fail, or count
what was synced when. Nothing above opens or syncs a segment file by itself. Blocking, thread-safe.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

_SYNC_FILE_RANGE_WRITE = ctypes.c_uint(2)
_libc = ctypes.CDLL(None, use_errno=True)
_RWF_DONTCACHE = 0x80
_DONTCACHE_SINCE = (6, 16)
_LOOK_BYTES = 512 << 10
_REFUSALS = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def passing_flags(release: str) -> int:
    """The flag of preadv2(2) and pwritev2(2) for bytes that leave the page cache once they are read
    or on the disk; 0 where the kernel of this release shall not be given it. It came with Linux
    6.14, which could drop a page that was just being written again; 6.15 took it back."""
    found = re.match(r"(\d+)\.(\d+)", release)
    known = found is not None and (int(found[1]), int(found[2])) >= _DONTCACHE_SINCE
    return _RWF_DONTCACHE if known else 0


_PASSING = passing_flags(platform.release())


class SegmentFile(io.FileIO):
    """A segment open for reading. Dropping the last reference closes it, so whoever still sends
    from a segment that was unlinked finishes in peace."""

    def __del__(self) -> None:
        self.close()


def create_segment(path: Path, size_bytes: int, header: bytes) -> int:
    """Create, reserve, write the header, make the name durable; return a locked descriptor.

    The space is reserved here so that a full disk is met now and not in mid-write. The exclusive
    flock tells every other process that a writer may still attach extents of this segment; the
    kernel drops it with the process. OSError (ENOSPC, EDQUOT …) leaves no file behind.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # waits for nobody but is_unlocked(), an instant
        os.posix_fallocate(fd, 0, size_bytes)
        write_at(fd, header, 0)
        os.fsync(fd)
        sync_directory(path.parent)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        raise
    return fd


def write_at(
    fd: int, data: bytes | bytearray | memoryview, offset: int, *, passing: bool = False
) -> None:
    """pwrite(2) all of data.

    passing: nobody is expected to read it soon. The kernel then begins to write it to the disk at
    once and reuses the memory as soon as it is there, so that large bodies push nothing out of
    the page cache and need no new pages, which may cost more than the rest of the way. It is the
    page cache's write all the same: readers see the bytes at once, and the sync that must follow
    reports what failed. File systems that cannot do it write as ever.
    """
    view = memoryview(data)
    while view:
        written = _write_passing(fd, view, offset) if passing and _PASSING else None
        if written is None:
            written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def _write_passing(fd: int, view: memoryview, offset: int) -> int | None:
    """None: this file system writes in the ordinary way only."""
    try:
        return os.pwritev(fd, [view], offset, _PASSING)
    except OSError as exc:
        if exc.errno not in _REFUSALS:
            raise
        return None


def read_passing(fd: int, length: int, offset: int) -> bytes:
    """pread(2) of bytes that nobody is expected to read again soon: what was not in the page cache
    does not stay there."""
    if _PASSING:
        room = bytearray(length)
        try:
            count = os.preadv(fd, [room], offset, _PASSING)
        except OSError as exc:
            if exc.errno not in _REFUSALS:
                raise
        else:
            return bytes(memoryview(room)[:count])
    return os.pread(fd, length, offset)


def waits_for_disk(fd: int, offset: int, length: int) -> bool:
    """Whether reading that range would wait for the disk, as far as a look at some of its bytes
    tells. Never blocks. False where the file system does not tell."""
    room = [bytearray(1)]
    try:
        for at in _looks(offset, length):
            os.preadv(fd, room, at, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:  # EOPNOTSUPP; what else is wrong, the read will say
        return False
    return False


def load(fd: int, offset: int, length: int, ahead: int) -> None:
    """Have a range in the page cache, as far as waits_for_disk sees, and `ahead` bytes behind it on
    their way there. Blocks on the disk."""
    os.posix_fadvise(fd, offset, length + ahead, os.POSIX_FADV_WILLNEED)
    for at in _looks(offset, length):
        os.pread(fd, 1, at)


def _looks(offset: int, length: int) -> Iterator[int]:
    """Where to look at a range, to know of all of it: what is read together leaves together."""
    yield from range(offset, offset + length, _LOOK_BYTES)
    yield offset + length - 1


def reserve(fd: int, offset: int, length: int) -> None:
    """Give a file blocks for a range, also behind its end, which moves there; its bytes stay, and
    others may write meanwhile. Does nothing where the file system cannot. OSError (ENOSPC ...).

    Not os.posix_fallocate(), which would write there itself where the file system cannot."""
    failed = _libc.fallocate(ctypes.c_int(fd), 0, ctypes.c_int64(offset), ctypes.c_int64(length))
    if failed:
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EOPNOTSUPP):
            raise OSError(number, os.strerror(number))


def start_writing(fd: int, offset: int, length: int) -> None:
    """Have the kernel begin to write what is in its pages to the disk, without waiting for it: the
    sync that must follow has less to wait for. By itself this promises nothing; what fails on the
    way that sync reports, as it would have without. sync_file_range(2), where there is one."""
    failed = _libc.sync_file_range(
        ctypes.c_int(fd), ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE
    )
    if failed:
        number = ctypes.get_errno()
        if number not in (errno.EINTR, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            raise OSError(number, os.strerror(number))


def sync_data(fd: int) -> None:
    """fdatasync(2). After an error the page cache proves nothing: never retry and believe."""
    os.fdatasync(fd)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_unlocked(path: Path) -> bool:
    """Whether no living process writes this segment (see create_segment). FileNotFoundError if
    the file is gone."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)
