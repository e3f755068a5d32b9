"""Whether anybody writes the index just now, for those who must not wait to find out.

LMDB's writer lock cannot be tried. So whoever writes, or waits for that lock, shares a flock, and
an event loop that would commit by itself takes it alone, or learns that it cannot. The flock only
tells; it is LMDB's lock that keeps writers from each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cache.errors import WouldWait


class Turn:
    """Of one index, in one process; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def taken(self, *, wait: bool) -> Iterator[None]:
        """For the length of a write transaction. wait: False for WouldWait where another process
        has one, or waits for one; else this blocks while somebody who must not wait has his."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WouldWait("another process writes the index") from None
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._descriptor)
