"""The MD5 of a file that is written front to back, made while its bytes go to the disk.

A stream's MD5 is one thread's work, and takes longer than the write (1.4 ms for a MiB, and 0.9). So
large pieces are added in another thread, one at a time for each file: the writer waits for the
piece before, not for its own. And what a program writes in order comes nearly so: the kernel's
flusher and an fsync hand pages over at the same time. So pieces that come too early are kept until
their turn comes, as far as the memory goes that all files have for that: what was left out may
never come.

One thread at a time uses a RunningMd5 (cache/open_file.py, under its lock). Blocks for as long as
one piece takes.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import Executor, Future

_LARGE_BYTES = 256 << 10
"""A hop into a thread costs as much as 40 KiB."""
_EARLY_MAX = 64
"""Pieces of at most a MiB. The kernel may have 1% of the dirty memory under way, in two hands."""
_EARLY_BYTES_MAX = 64 << 20


class EarlyRoom:
    """Memory for the pieces that came early, of all files of a process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left_bytes = _EARLY_BYTES_MAX

    def take(self, size_bytes: int) -> bool:
        """False where there is not so much left."""
        with self._lock:
            is_enough = size_bytes <= self._left_bytes
            self._left_bytes -= size_bytes if is_enough else 0
            return is_enough

    def give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._left_bytes += size_bytes


class RunningMd5:
    """Close it when it is of no use any more."""

    def __init__(self, executor: Executor, room: EarlyRoom, begin: bytes = b"") -> None:
        self._executor = executor
        self._room = room
        self._md5 = hashlib.md5(begin, usedforsecurity=False)
        self._last: Future[None] | None = None
        self._early: dict[int, bytes] = {}  # by start
        self.size = len(begin)
        """How much of the file is in it."""

    def close(self) -> None:
        """Give its memory back. Idempotent."""
        self._room.give_back(sum(len(data) for data in self._early.values()))
        self._early = {}

    def add(self, start: int, data: bytes) -> bool:
        """Bytes of the file, which must not change afterwards. False: they were written over, or
        come much too early, and the MD5 is of no use any more."""
        if start > self.size:
            return self._keep(start, data)
        if start < self.size or self._is_early(start, start + len(data)):
            return False
        self._append(data)
        while self._early and (early := self._early.pop(self.size, None)) is not None:
            self._room.give_back(len(early))
            self._append(early)
        return True

    def _keep(self, start: int, data: bytes) -> bool:
        stop = start + len(data)
        if self._is_early(start, stop) or len(self._early) >= _EARLY_MAX:
            return False
        if not self._room.take(len(data)):
            return False
        self._early[start] = data
        return True

    def _is_early(self, start: int, stop: int) -> bool:
        """Whether some of these bytes are here already."""
        return any(start < at + len(data) and at < stop for at, data in self._early.items())

    def _append(self, data: bytes) -> None:
        self.settle()
        self.size += len(data)
        if len(data) >= _LARGE_BYTES:
            self._last = self._executor.submit(self._md5.update, data)
        else:
            self._md5.update(data)

    def settle(self) -> None:
        """Wait for what was added."""
        if self._last is not None:
            self._last.result()
            self._last = None

    def hexdigest(self) -> str:
        """Of the first `size` bytes."""
        self.settle()
        return self._md5.hexdigest()
