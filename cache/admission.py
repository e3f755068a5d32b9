"""The bound on dirty bytes (acceptance F03): what is not in the store may fill only so much.

Above the soft limit each writer pauses, longer the closer the hard limit is; at the hard limit it
is refused: S3 answers 503 SlowDown, the mount ENOSPC. Dirty bytes are never evicted, so this bound
is what keeps room for reading.
"""

from __future__ import annotations

import time

from cache import dirty
from cache.config import CacheConfig
from cache.errors import DirtyLimit
from cache.index import Index
from cache.segments import Segments

_PAUSE_MAX_S = 0.25


class Admission:
    def __init__(self, index: Index, segments: Segments, config: CacheConfig) -> None:
        self._index = index
        self.soft_bytes = int(segments.capacity_bytes * config.dirty_soft_limit)
        self.hard_bytes = int(segments.capacity_bytes * config.dirty_hard_limit)

    def admit(self) -> None:
        """Let a writer begin. Blocks up to _PAUSE_MAX_S above the soft limit; DirtyLimit at the
        hard one."""
        with self._index.read() as txn:
            used = dirty.dirty_bytes(txn)
        if used >= self.hard_bytes:
            raise DirtyLimit(
                f"{used} dirty bytes wait for the store, the limit is {self.hard_bytes}"
            )
        if used > self.soft_bytes:
            over = (used - self.soft_bytes) / max(1, self.hard_bytes - self.soft_bytes)
            time.sleep(_PAUSE_MAX_S * over)
