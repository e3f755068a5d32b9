"""The MD5 of a file that is written front to back, made while its bytes go to the disk.

A stream's MD5 is one thread's work, and takes longer than the write (1.4 ms for a MiB, and 0.9). So
large pieces are added in another thread, one at a time for each file: the writer waits for the
piece before, not for its own. And what a program writes in order comes nearly so: the kernel's
flusher and an fsync hand pages over at the same time. So pieces that come too early are kept until
their turn comes.

One thread at a time uses it (cache/open_file.py, under its lock). Blocks for as long as one piece
takes.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Executor, Future

_LARGE_BYTES = 256 << 10
"""A hop into a thread costs as much as 40 KiB."""
_EARLY_MAX = 64
"""Pieces of at most a MiB. The kernel may have 1% of the dirty memory under way, in two hands."""


class RunningMd5:
    def __init__(self, executor: Executor, begin: bytes = b"") -> None:
        self._executor = executor
        self._md5 = hashlib.md5(begin, usedforsecurity=False)
        self._last: Future[None] | None = None
        self._early: dict[int, bytes] = {}  # by start
        self.size = len(begin)
        """How much of the file is in it."""

    def add(self, start: int, data: bytes) -> bool:
        """Bytes of the file, which must not change afterwards. False: they were written over, or
        come much too early, and the MD5 is of no use any more."""
        if start > self.size:
            return self._keep(start, data)
        if start < self.size or self._is_early(start, start + len(data)):
            return False
        self._append(data)
        while self._early and (early := self._early.pop(self.size, None)) is not None:
            self._append(early)
        return True

    def _keep(self, start: int, data: bytes) -> bool:
        stop = start + len(data)
        if self._is_early(start, stop) or len(self._early) >= _EARLY_MAX:
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
