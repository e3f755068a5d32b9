"""A new body on its way to this disk: its bytes go to segments, its extents are remembered, and
nothing of it is visible until a change of the index publishes it.
"""

from __future__ import annotations

import os

from cache import extents
from cache.errors import CacheFull
from cache.index import Table, Txn
from cache.namespace import key_bytes
from cache.records import Extent, Inode, InodeFlag
from cache.segments import ActiveSegment, Reservation, Segments, SegmentStream

INLINE_MAX = 4096
"""Bodies up to this live in the index: one commit makes them durable and one get serves them."""


class Staged:
    """A body on its way to disk: use from one thread at a time. Give `extents` or `inline` to a
    change together with `segments` to sync, then release(); or release() to give it up."""

    def __init__(
        self,
        stream: SegmentStream,
        segments: Segments,
        size_bytes: int | None,
        *,
        passing: bool,
    ) -> None:
        self._stream = stream
        self._passing = passing
        self._extent_max = segments.extent_max
        self._expected = size_bytes
        self._small = bytearray()
        self._reservation: Reservation | None = None
        self._done: list[tuple[Reservation, int]] = []
        self._inline_max = INLINE_MAX
        self.size = 0

    def never_inline(self) -> None:
        """The body is a part of an object: it goes to a segment however small it is."""
        self._inline_max = 0

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append. Blocks on the disk. CacheFull when there is no room, OSError if it fails."""
        view = memoryview(chunk)
        if self._reservation is None and not self._done:
            if self.size + len(view) <= self._inline_max:
                self._small += view
                self.size += len(view)
                return
            self._append(memoryview(bytes(self._small)))
            self._small.clear()
            self._append(view)
            self.size += len(view)
            return
        self._append(view)
        self.size += len(view)

    def _append(self, view: memoryview) -> None:
        while view:
            if self._reservation is None:
                length = self._extent_max
                if self._expected is not None:
                    left = self._expected - sum(r.written for r, _ in self._done)
                    length = max(len(view) if left <= 0 else left, 1)
                self._reservation = self._stream.reserve(
                    min(length, self._extent_max), passing=self._passing
                )
            part = view[: self._reservation.room]
            self._reservation.write(part)
            view = view[len(part) :]
            if not self._reservation.room:
                self._finish_extent()

    def _finish_extent(self) -> None:
        reservation = self._reservation
        if reservation is not None:
            start = sum(r.written for r, _ in self._done)
            self._done.append((reservation, start))
            self._reservation = None

    def finish(self) -> None:
        """No more bytes will come."""
        if self._reservation is not None:
            self._reservation.trim()
            self._finish_extent()

    @property
    def inline(self) -> bytes | None:
        """The whole body, if it is small enough for the index."""
        return None if self._done else bytes(self._small)

    def extents(self, revision: int, at: int = 0) -> list[Extent]:
        """The staged bytes as extents of an inode, from byte `at` on."""
        return [
            Extent(
                start=at + start,
                length=reservation.written,
                segment=reservation.segment.id,
                offset=reservation.offset,
                stored_length=reservation.written,
                checksum=reservation.checksum,
                skip=0,
                revision=revision,
            )
            for reservation, start in self._done
        ]

    @property
    def segments(self) -> list[ActiveSegment]:
        """What must be synced before a commit names the extents."""
        return list({r.segment.id: r.segment for r, _ in self._done}.values())

    def read_back(self, start: int, length: int) -> bytes:
        """Staged bytes of a body that never was small enough for the index."""
        parts = []
        position = 0
        open_one = [] if self._reservation is None else [self._reservation]
        for reservation in [*(r for r, _ in self._done), *open_one]:
            low = max(start, position)
            high = min(start + length, position + reservation.written)
            if low < high:
                offset = reservation.offset + low - position
                parts.append(os.pread(reservation.segment.fd, high - low, offset))
            position += reservation.written
        return b"".join(parts)

    def release(self) -> None:
        """Let go of the segments: after the commit, or to give the body up. Idempotent."""
        if self._reservation is not None:
            self._reservation.trim()
            self._reservation.release()
            self._reservation = None
        for reservation, _ in self._done:
            reservation.release()


def stage(
    staged: Staged | None, chunk: bytes | bytearray | memoryview, *, needed: bool
) -> Staged | None:
    """Append to the copy that is made here, if one is made still; what there is of it then.

    needed: False if the store gets every byte anyway, so that a body goes on without a copy when
    there is no room for it. CacheFull, as Staged.write.
    """
    if staged is None:
        return None
    try:
        staged.write(chunk)
    except CacheFull:
        if needed:
            raise
        staged.release()
        return None
    return staged


def publish(txn: Txn, inode: Inode, staged: Staged) -> InodeFlag:
    """Make the staged body all of the inode's bytes; the flags that the inode must have then."""
    flags = InodeFlag(inode.flags) & ~InodeFlag.INLINE
    extents.drop(txn, inode.id)
    if staged.inline is not None:
        if staged.size:
            txn.put(Table.INLINE, key_bytes(inode.id), staged.inline)
            flags |= InodeFlag.INLINE
    else:
        txn.delete(Table.INLINE, key_bytes(inode.id))
        extents.attach(txn, inode.id, staged.extents(inode.revision))
    return flags
