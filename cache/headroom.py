"""Room for the index on a disk that is full.

LMDB writes each page that it changes to another place, so a removal takes room as well, and what
that frees can be used only when the durable point has moved (cache/durability.py). So the file is
given blocks ahead of its use while the disk has any. When there are no more, what is left of them
is for removals, and for the eviction that makes room again. So is some of what these free, which
is no more at the end of the file.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cache import disk

_AHEAD_BYTES = 16 << 20
LOW_BYTES = _AHEAD_BYTES // 2
"""With less than this left, what is replaced has to be used again before more is. It is for some
hundred commits of a dozen pages: other processes let go of what they pin a moment later."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(file_bytes: int, live_bytes: int) -> bool:
    """Whether a file that cannot grow has too little that is not live to take more. It is not all
    free: what was replaced a moment ago may be pinned."""
    return file_bytes - live_bytes < min(_AHEAD_BYTES, file_bytes // 2)


class Headroom:
    """Of one index, in one process."""

    def __init__(self, data: Path, most_bytes: int) -> None:
        """LMDB has opened the file. most_bytes: of its map."""
        self._descriptor = os.open(data, os.O_RDWR | os.O_CLOEXEC)
        self._most_bytes = most_bytes

    def left(self, used_bytes: int) -> int:
        """Bytes that the file has behind the first used_bytes; more are reserved where the disk has
        them. A microsecond, mostly. OSError."""
        size = os.fstat(self._descriptor).st_size
        wanted = min(used_bytes + _AHEAD_BYTES, self._most_bytes)
        if size - used_bytes < LOW_BYTES and size < wanted:
            try:
                disk.reserve(self._descriptor, size, wanted - size)
            except OSError as exc:
                if exc.errno not in _FULL:
                    raise
            size = os.fstat(self._descriptor).st_size  # a full disk may have given a part of it
        return size - used_bytes

    def close(self) -> None:
        os.close(self._descriptor)
