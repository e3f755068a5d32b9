"""One cell on its way from the store into a segment, and the readers who follow it.

The filler writes to its segment at the store's speed; readers follow behind it, each at its own,
by reading back what is there. So a slow client holds no lock and no memory, and a cell that ten
readers want is fetched once. Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from cache.contents import Staged
from cache.errors import DeadlineExceeded

_PIECE_BYTES = 1 << 20


class CellFill:
    """The fill of bytes [start, stop) of an inode. Whoever uses it enters with join() and ends
    with leave(); the last one gives the segment back."""

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._staged: Staged | None = None
        self._available = start
        self._finished = False
        self._users = 0

    def join(self) -> None:
        with self._changed:
            self._users += 1

    def leave(self) -> None:
        with self._changed:
            self._users -= 1
            staged = self._staged if not self._users else None
        if staged is not None:
            staged.release()

    # ------------------------------------------------------------------ the filler's side

    def begin(self, staged: Staged) -> None:
        """The bytes will go there."""
        self._staged = staged

    def write(self, chunk: bytes) -> None:
        """Append; followers may read it at once. CacheFull, OSError."""
        assert self._staged is not None
        self._staged.write(chunk)
        with self._changed:
            self._available += len(chunk)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """No more will come: the cell is cached now, or `error` says why not."""
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

    def follow(self, start: int, stop: int, deadline_s: float) -> Iterator[bytes]:
        """Yield bytes of [start, stop) as they come, from `start` on; ends early when the fill
        ended before `stop` was there. deadline_s: longest wait for the next bytes."""
        position = start
        while position < stop:
            with self._changed:
                there = self._changed.wait_for(
                    lambda: self._finished or self._available > position,  # noqa: B023  called in this turn only
                    deadline_s,
                )
                available = min(stop, self._available)
            if not there:
                raise DeadlineExceeded(f"bytes from {position} took too long")
            if available <= position or self._staged is None:
                return
            length = min(available - position, _PIECE_BYTES)
            yield self._staged.read_back(position - self.start, length)
            position += length
