"""Where a file of a posix store has bytes, and where it has holes: the file system is asked.

What is made of such a file then has them, too, and costs what there is, not what its size says.
A file system that does not tell holes apart calls all of a file bytes, as lseek(2) has it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from cache.errors import StoreChanged
from cache.stores.posix_root import store_errors

if TYPE_CHECKING:
    from cache.stores.posix_uploads import PooledFile


_ZEROS = bytes(1 << 20)  # what a hole mostly comes in; to make it costs more than to compare it


class Piece(NamedTuple):
    start: int
    stop: int
    is_hole: bool


def pieces(source: PooledFile, key: bytes, start: int, stop: int) -> Iterator[Piece]:
    """The range [start, stop) of a file in order, bytes and holes in turn. Blocks, for the store's
    deadline at most. StoreChanged if the file ends before `stop`."""
    while start < stop:
        begin = source.run(partial(_next_bytes, source.descriptor, key, start, stop))
        if begin > start:
            yield Piece(start, begin, True)
        if begin < stop:
            end = source.run(partial(_next_hole, source.descriptor, key, begin, stop))
            yield Piece(begin, end, False)
            start = end
        else:
            start = stop


def is_hole(piece: bytes | bytearray) -> bool:
    """Whether all of it is zeros. Of other bytes it mostly looks at one."""
    if piece[0] or piece[-1]:
        return False
    return piece == (_ZEROS if len(piece) == len(_ZEROS) else bytes(len(piece)))


def _next_bytes(descriptor: int, key: bytes, start: int, stop: int) -> int:
    """Where bytes begin, `stop` at the latest."""
    with store_errors("look for holes in", key):
        try:
            return min(stop, os.lseek(descriptor, start, os.SEEK_DATA))
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # none from there to the end of the file
                raise
        if os.fstat(descriptor).st_size < stop:
            raise StoreChanged(f"{key!r}: the source became shorter while it was copied")
        return stop


def _next_hole(descriptor: int, key: bytes, start: int, stop: int) -> int:
    """Where the bytes that begin at `start` end, `stop` at the latest."""
    with store_errors("look for holes in", key):
        try:
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            end = start  # the file was cut just now
        if end <= start or (end < stop and end >= os.fstat(descriptor).st_size):
            raise StoreChanged(f"{key!r}: the source became shorter while it was copied")
        return min(stop, end)
