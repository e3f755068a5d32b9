"""System and library calls that Python's os module does not have."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = ctypes.c_void_p
_libc.opendir.argtypes = [ctypes.c_char_p]
_libc.readdir.argtypes = [ctypes.c_void_p]
_libc.closedir.argtypes = [ctypes.c_void_p]
_libc.rewinddir.argtypes = [ctypes.c_void_p]
_libc.telldir.argtypes = [ctypes.c_void_p]
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]

AT_FDCWD = -100
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4


class _Dirent(ctypes.Structure):
    _fields_ = [  # readdir(3)
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    ]


_libc.readdir.restype = ctypes.POINTER(_Dirent)


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def renameat2(old: Path, new: Path, flags: int) -> None:
    """rename(2) with flags. OSError."""
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


class Directory:
    """opendir(3) and its relatives, with the cookies that os.scandir() hides."""

    def __init__(self, path: Path) -> None:
        self._stream = _libc.opendir(os.fsencode(path))
        if not self._stream:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        _libc.closedir(self._stream)

    def read(self) -> str | None:
        """The next name; None at the end."""
        ctypes.set_errno(0)
        entry = _libc.readdir(self._stream)
        if not entry:
            if code := ctypes.get_errno():
                raise OSError(code, os.strerror(code))
            return None
        return os.fsdecode(entry.contents.d_name)

    def rest(self) -> list[str]:
        """All names from here on but `.` and `..`."""
        names = []
        while (name := self.read()) is not None:
            names.append(name)
        return [name for name in names if name not in (".", "..")]

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, cookie: int) -> None:
        _libc.seekdir(self._stream, cookie)

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)


def as_user(uid: int, call: Callable[[], Any]) -> None:
    """Run the call as another user, in a process of its own; OSError as it raised it there.

    By fork: the caller has no threads that matter to so small a child.
    """
    child = os.fork()
    if not child:
        code = 0
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            call()
        except OSError as exc:
            code = exc.errno or 255
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise OSError(code, os.strerror(code))
