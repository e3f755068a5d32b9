"""A range on its way from the store into segments, and the readers who follow it.

The filler writes to its segment at the store's speed; readers follow behind it, each at its own,
by reading back what is there. So a slow client holds no lock and no memory, and a range that ten
readers want is fetched once. What of the range was cached before is skipped: followers are told,
and read it elsewhere. Thread-safe.
"""

from __future__ import annotations

import math
import threading

from cache.errors import DeadlineExceeded
from cache.staging import Staged

_PIECE_BYTES = 1 << 20
_BATCH_BYTES = 256 << 10
_BATCH_S = 0.05
"""A follower is woken once for so much, or waits so long for it: what trickles in is passed on, and
what comes at speed does not wake anybody for every packet."""


class CellFill:
    """The fill of bytes [start, stop) of an inode, all of one cell. Whoever uses it enters with
    join() and ends with leave(); the last one gives the segments back."""

    def __init__(self, start: int, stop: int, *, ahead: bool = False) -> None:
        self.start = start
        self.stop = stop
        self.ahead = ahead
        """Nobody waits for it yet. Its owner's lock guards this."""
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._parts: list[tuple[int, Staged]] = []  # in order, with the first byte of each
        self._available = start  # all before this is in a part, or was skipped
        self._wake_at: float = start  # followers wait for bytes up to here
        self._claimed = False
        self._finished = False
        self._users = 0

    def join(self) -> None:
        with self._changed:
            self._users += 1

    def leave(self) -> None:
        with self._changed:
            self._users -= 1
            parts = [] if self._users else self._parts
        for _, staged in parts:
            staged.release()

    # ------------------------------------------------------------------ the filler's side

    def claim(self) -> bool:
        """Whether the caller is the one to fill it: true once."""
        with self._changed:
            claimed, self._claimed = self._claimed, True
            return not claimed

    def begin(self, start: int, staged: Staged) -> None:
        """The bytes from `start` on will go there; what was before them was cached already."""
        with self._changed:
            self._parts.append((start, staged))
            self._available = start
            self._changed.notify_all()

    def write(self, chunk: bytes) -> None:
        """Append; followers may read it at once. CacheFull, OSError."""
        self._parts[-1][1].write(chunk)
        with self._changed:
            self._available += len(chunk)
            if self._available >= self._wake_at:
                self._wake_at = math.inf
                self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """No more will come: the range is cached now, or `error` says why not."""
        with self._changed:
            self.error = error
            self._finished = True
            self._changed.notify_all()

    # ------------------------------------------------------------------ the readers' side

    def wait(self, deadline_s: float) -> None:
        """Until the fill has finished. DeadlineExceeded."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._finished, deadline_s):
                raise DeadlineExceeded(f"bytes from {self.start} took too long")

    def read(self, start: int, stop: int, deadline_s: float) -> bytes:
        """Bytes from `start` on, at most to `stop`: the first of the fill as soon as there are any,
        later ones some at a time. b"" if none will come: they were skipped, or the fill ended
        before. deadline_s: longest wait."""
        batch = 1 if start == self.start else _BATCH_BYTES
        with self._changed:
            self._wait_until(min(stop, start + batch), _BATCH_S)
            there = self._wait_until(start + 1, deadline_s)
            available = min(stop, self._available)
            part = next((p for p in reversed(self._parts) if p[0] <= start), None)
        if not there:
            raise DeadlineExceeded(f"bytes from {start} took too long")
        if part is None or available <= start:
            return b""
        first, staged = part
        return staged.read_back(start - first, min(available - start, _PIECE_BYTES))

    def _wait_until(self, position: int, timeout_s: float) -> bool:
        """Whether all before `position` came in time, or no more will. The lock is held."""

        def there() -> bool:
            if self._finished or self._available >= position:
                return True
            self._wake_at = min(self._wake_at, position)
            return False

        return self._changed.wait_for(there, timeout_s)

    def skipped_to(self, start: int, stop: int) -> int:
        """Where the bytes that read() had nothing of end: the next part, or `stop`."""
        with self._changed:
            return min([stop, *(first for first, _ in self._parts if first > start)])
