"""What the kernel holds of us: lookup counts, open files, open directories, late writes.

The rules of the kernel (fuse_lowlevel.h, pyfuse3 "lookup counts"): each entry we hand out, by
lookup, a creating operation or readdirplus, adds one to the inode's count; `forget` takes it back.
An inode that is unlinked lives on while its count is above zero or it is open. An unmount sends no
forgets.

Touched by the loop's thread only; nothing here blocks or knows of pyfuse3's requests.
"""

from __future__ import annotations

import errno
import itertools
import math
import threading
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyfuse3

from cache.open_file import OpenFile

H = TypeVar("H")


class LookupCounts:
    """How many times the kernel was handed each inode that it has not forgotten."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, inode: int) -> bool:
        """Count one more. True when the kernel did not know the inode before."""
        count = self._counts.get(inode, 0)
        self._counts[inode] = count + 1
        return count == 0

    def forget(self, forgotten: Iterable[tuple[int, int]]) -> list[int]:
        """Take counts back, given as (inode, number); the inodes now unknown to the kernel.

        Never raises: a number that is not ours to take back leaves the inode unknown.
        """
        unknown = []
        for inode, number in forgotten:
            left = self._counts.pop(inode, 0) - number
            if left > 0:
                self._counts[inode] = left
            else:
                unknown.append(inode)
        return unknown

    def known(self) -> list[int]:
        """All inodes that the kernel knows: what an unmount leaves behind."""
        return list(self._counts)


class Handles(Generic[H]):
    """Numbers that the kernel passes back to us, and what they stand for."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, H] = {}

    def add(self, handle: H) -> pyfuse3.FileHandleT:
        number = next(self._numbers)
        self._open[number] = handle
        return pyfuse3.FileHandleT(number)

    def __getitem__(self, number: int) -> H:
        """EBADF for a number that is not open, which would be the kernel's mistake or ours."""
        try:
            return self._open[number]
        except KeyError:
            raise pyfuse3.FUSEError(errno.EBADF) from None

    def remove(self, number: int) -> H:
        handle = self[number]
        del self._open[number]
        return handle

    def drain(self) -> list[H]:
        """Take out all that is open."""
        handles = list(self._open.values())
        self._open.clear()
        return handles

    def __len__(self) -> int:
        return len(self._open)


@dataclass(slots=True)
class FileHandle:
    """One open(2). Several share the OpenFile of their inode."""

    file: OpenFile
    writable: bool
    asker: int
    """The thread that opened it: nearly always the one that waits for what is done with it, which
    the kernel does not tell again (fuse/interrupts.py)."""
    accessed_s: float = -math.inf

    def accesses(self, now_s: float) -> bool:
        """Whether a read at this time is an access of its own: not one within a second."""
        if now_s - self.accessed_s < 1:
            return False
        self.accessed_s = now_s
        return True


class Stragglers:
    """Writes that were given up on and may happen yet.

    One of them could undo a write that comes after it, though that was acknowledged. So a file
    takes no more writes until the last of them is over.
    """

    def __init__(self) -> None:
        self._under_way: dict[OpenFile, list[threading.Event]] = {}

    def add(self, file: OpenFile, over: threading.Event) -> None:
        self._under_way.setdefault(file, []).append(over)

    def check(self, file: OpenFile) -> None:
        """EIO while a write that was given up on is under way."""
        if file not in self._under_way:
            return
        if not all(over.is_set() for over in self._under_way[file]):
            raise pyfuse3.FUSEError(errno.EIO)
        del self._under_way[file]


class DirectoryHandle:
    """One opendir(3), and what its cookies mean.

    A cookie names a place in the listing, for readdir to go on from after any number of changes:
    it is the number of a row in this handle's log, which holds the position of each entry handed
    out. Going back with seekdir(3) and on from there meets the same rows while the directory is
    as it was, and adds rows where it changed, so every cookie ever handed out stays good. Rows are
    packed (position bytes in one bytearray, ends in an array): a directory of a million names of
    20 bytes costs 28 MB while it is open. rewinddir(3) starts a new log.
    """

    START = 0
    """The cookie with which a listing starts; readdir(2) leaves it to us what others mean."""

    def __init__(self, inode: int, asker: int = 0) -> None:
        """asker: as FileHandle.asker."""
        self.inode = inode
        self.asker = asker
        self.batch = 32
        """Entries that fit into one answer, as far as seen: what to ask the index for."""
        self._positions = bytearray()
        self._ends = array("Q")

    def position(self, cookie: int) -> bytes:
        """Where the entry with this cookie is. EINVAL for a cookie that was never handed out."""
        if not 0 < cookie <= len(self._ends):
            raise pyfuse3.FUSEError(errno.EINVAL)
        start = self._ends[cookie - 2] if cookie > 1 else 0
        return bytes(self._positions[start : self._ends[cookie - 1]])

    def next_cookie(self, cookie: int, position: bytes) -> int:
        """The cookie for the entry that follows the one with `cookie` in the listing."""
        if cookie < len(self._ends) and self.position(cookie + 1) == position:
            return cookie + 1
        self._positions += position
        self._ends.append(len(self._positions))
        return len(self._ends)

    def rewind(self) -> None:
        self._positions.clear()
        del self._ends[:]
