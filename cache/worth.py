"""What segments are worth: the mean heat of their bytes. Estimated, looked up in turns.

Reading the heat of all extents for each segment that is emptied would cost more than emptying it.
So at each question a few segments are looked at, those not seen for longest, and the one that
seems least worthy once more. Kept in memory by the mover, which is the only one to ask; after a
start it chooses among those that it has seen, which is nearly as good. Blocking, one thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from cache import extents, ghosts
from cache.index import Index
from cache.records import SegmentRecord

_LOOKS = 8


class Worths:
    def __init__(self, index: Index) -> None:
        self._index = index
        self._seen: dict[int, float] = {}  # by segment, in the order in which they were looked at

    def least(self, segments: Sequence[SegmentRecord]) -> tuple[SegmentRecord, float]:
        """The one that seems to be worth least, and how much that is."""
        known = {segment.id: segment for segment in segments}
        self._seen = {number: worth for number, worth in self._seen.items() if number in known}
        unseen = [number for number in known if number not in self._seen]
        for number in [*unseen, *self._seen][:_LOOKS]:
            self.of(known[number])
        for _ in range(_LOOKS):
            candidate = min(self._seen, key=self._seen.__getitem__)
            before = self._seen[candidate]
            if self.of(known[candidate]) <= before:
                break
        found = min(self._seen, key=self._seen.__getitem__)
        return known[found], self._seen[found]

    def of(self, segment: SegmentRecord) -> float:
        """Look at the segment now. What is dead in it is worth nothing."""
        with self._index.read() as txn:
            turn = ghosts.state(txn).turn
            heat_bytes, offset = 0, 0
            for resident in extents.residents(txn, segment.id):
                if resident.offset == offset:
                    continue  # shared: its users have the same heat
                offset = resident.offset
                extent = extents.extent_at(txn, resident.inode, resident.start)
                if extent is not None:
                    heat_bytes += resident.heat.now(turn) * extent.stored_length
        self._seen.pop(segment.id, None)
        self._seen[segment.id] = worth = heat_bytes / segment.size
        return worth
