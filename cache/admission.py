"""The bound on dirty bytes (acceptance F03): what is not in the store may fill only so much.

Above the soft limit each writer pauses, longer the closer the hard limit is; at the hard limit it
is refused: S3 answers 503 SlowDown, the mount ENOSPC. Dirty bytes are never evicted, so this bound
is what keeps room for reading.

An S3 client that is refused comes again. What is refused to the mount is lost: the program has
written it and gone on. So the mount waits first, for as long as the store makes way.
"""

from __future__ import annotations

import time

from cache import dirty
from cache.config import CacheConfig
from cache.errors import DirtyLimit
from cache.index import Index
from cache.segments import Segments

_PAUSE_MAX_S = 0.25
_PATIENCE_S = 5.0
"""Without a byte that reaches the store."""
_WAIT_MAX_S = 60.0
_LOOK_EVERY_S = 0.02


class Admission:
    """Thread-safe."""

    def __init__(self, index: Index, segments: Segments, config: CacheConfig) -> None:
        self._index = index
        self.soft_bytes = int(segments.capacity_bytes * config.dirty_soft_limit)
        self.hard_bytes = int(segments.capacity_bytes * config.dirty_hard_limit)
        self._impatient_until = 0.0

    def is_too_large(self, size_bytes: int | None) -> bool:
        """Whether a body can never be held until the store has it. None: its size is not known."""
        return size_bytes is not None and size_bytes > self.hard_bytes

    def admit(self, size_bytes: int | None = None) -> None:
        """Let a writer begin. Blocks up to _PAUSE_MAX_S above the soft limit; DirtyLimit at the
        hard one, and for a body that is too large, before any of it is taken."""
        if self.is_too_large(size_bytes):
            raise DirtyLimit(
                f"a body of {size_bytes} bytes cannot wait for the store: the limit of dirty bytes"
                f" is {self.hard_bytes}"
            )
        used = self._used_bytes()
        if used >= self.hard_bytes:
            raise DirtyLimit(
                f"{used} dirty bytes wait for the store, the limit is {self.hard_bytes}"
            )
        if used > self.soft_bytes:
            over = (used - self.soft_bytes) / max(1, self.hard_bytes - self.soft_bytes)
            time.sleep(_PAUSE_MAX_S * over)

    def admit_patiently(self) -> None:
        """As admit, for a writer that cannot come again: at the hard limit it waits while dirty
        bytes become fewer, up to _WAIT_MAX_S. DirtyLimit when none went for _PATIENCE_S; then the
        next writers are refused at once for as long: a program that writes on would else wait
        for each page."""
        now = time.monotonic()
        end = now + _WAIT_MAX_S
        give_up = now if now < self._impatient_until else now + _PATIENCE_S
        least = used = self._used_bytes()
        while used >= self.hard_bytes and now < min(end, give_up):
            time.sleep(_LOOK_EVERY_S)
            used, now = self._used_bytes(), time.monotonic()
            if used < least:
                least, give_up = used, now + _PATIENCE_S
        if used >= self.hard_bytes and now >= self._impatient_until:
            self._impatient_until = now + _PATIENCE_S
        self.admit()

    def slows(self) -> bool:
        """Whether admit() would pause or refuse now. Does not block."""
        return self._used_bytes() > self.soft_bytes

    def _used_bytes(self) -> int:
        with self._index.read() as txn:
            return dirty.dirty_bytes(txn)
