"""Extents of one inode that are written and not published yet, newest on top.

Pure, and not thread-safe: its OpenFile holds the lock.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from cache.records import ZEROS, Extent


class Overlay:
    """Extents that do not overlap, sorted by start."""

    def __init__(self) -> None:
        self._extents: list[Extent] = []

    def __bool__(self) -> bool:
        return bool(self._extents)

    def __len__(self) -> int:
        return len(self._extents)

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._extents)

    def clear(self) -> None:
        self._extents = []

    def insert(self, extent: Extent) -> None:
        """Put an extent over whatever was there. What goes on where the one before it ends, in the
        file and in the segment, becomes part of that one."""
        first, last = self._span(extent.start, extent.stop)
        over = self._extents[first:last]
        if first and _goes_on(self._extents[first - 1], extent):
            first -= 1
            before = self._extents[first]
            extent = before._replace(length=before.length + extent.length)
        self._extents[first:last] = [
            *(old.slice(old.start, extent.start) for old in over if old.start < extent.start),
            extent,
            *(old.slice(extent.stop, old.stop) for old in over if old.stop > extent.stop),
        ]

    def within(self, start: int, stop: int) -> list[Extent]:
        """The parts of extents that lie in [start, stop), in order."""
        if start >= stop:
            return []
        first, last = self._span(start, stop)
        return [e.slice(max(e.start, start), min(e.stop, stop)) for e in self._extents[first:last]]

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        """Indices of the extents that touch [start, stop)."""
        first = bisect.bisect_right(self._extents, start, key=lambda e: e.start)
        if first and self._extents[first - 1].stop > start:
            first -= 1
        last = bisect.bisect_left(self._extents, stop, key=lambda e: e.start)
        return first, max(first, last)


def _goes_on(before: Extent, extent: Extent) -> bool:
    return (
        before.stop == extent.start
        and before.segment == extent.segment != ZEROS
        and before.offset == extent.offset
        and before.skip + before.length == extent.skip
    )
