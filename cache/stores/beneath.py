"""System calls that open paths beneath a directory and never follow a symlink.

Keys come from clients and the tree below a store's root is written by others too, so a path
could lead anywhere. openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS makes the kernel
refuse it; where the kernel has no openat2 (before 5.6, or a seccomp filter), each component is
opened by itself with O_NOFOLLOW, which is as safe and slower. Errors are OSError: ELOOP or
ENOTDIR where a component is a symlink. Any thread may call.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_PATH_BYTES_MAX = 4000  # PATH_MAX is 4096 with the final NUL

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def _openat2(directory: int, path: bytes, flags: int) -> int:
    how = _OpenHow(
        flags | os.O_CLOEXEC,
        0,
        _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS,
    )
    while True:
        descriptor = int(
            _libc.syscall(
                _SYS_OPENAT2,
                ctypes.c_int(directory),
                ctypes.c_char_p(path),
                ctypes.byref(how),
                ctypes.c_size_t(ctypes.sizeof(how)),
            )
        )
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        # EAGAIN: a rename or mount ran at the same time and the kernel could not prove that the
        # path stayed beneath; the man page says to try again.
        if number not in (errno.EINTR, errno.EAGAIN):
            raise OSError(number, os.strerror(number), path)


def _has_openat2() -> bool:
    try:
        os.close(_openat2(-100, b".", os.O_PATH | os.O_DIRECTORY))  # -100 is AT_FDCWD
    except OSError as exc:
        return exc.errno not in (errno.ENOSYS, errno.EPERM, errno.E2BIG)
    return True


HAS_OPENAT2 = _has_openat2()


def open_directory(directory: int, names: Sequence[bytes], *, flags: int = os.O_RDONLY) -> int:
    """A descriptor of the directory names[0]/names[1]/… below `directory`; with no names, of the
    directory itself. The caller closes it."""
    flags |= os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    if not names:
        return os.open(b".", flags, dir_fd=directory)
    at = directory
    for path in _paths(names):
        try:
            deeper = _openat2(at, path, flags) if HAS_OPENAT2 else os.open(path, flags, dir_fd=at)
        finally:
            if at != directory:
                os.close(at)
        at = deeper
    return at


def _paths(names: Sequence[bytes]) -> list[bytes]:
    """The names joined to as few paths as the kernel's limit and openat2 allow."""
    if not HAS_OPENAT2:
        return list(names)
    paths: list[bytes] = []
    for name in names:
        if paths and len(paths[-1]) + 1 + len(name) <= _PATH_BYTES_MAX:
            paths[-1] += b"/" + name
        else:
            paths.append(name)
    return paths


def open_leaf(directory: int, name: bytes) -> int:
    """A read descriptor of the file `name` in the directory; ELOOP for a symlink. Does not wait
    for the other end of a FIFO: the caller checks with fstat what it opened."""
    return os.open(
        name,
        os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC,
        dir_fd=directory,
    )
