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
from pathlib import Path

_SYNC_FILE_RANGE_WRITE = ctypes.c_uint(2)
_libc = ctypes.CDLL(None, use_errno=True)


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


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """pwrite(2) all of data."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


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
