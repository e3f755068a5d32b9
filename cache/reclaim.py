"""Segments back to free space: the evictor of the node. Runs in the mover, nowhere else.

A segment is emptied by rewriting what must stay (dirty, pinned, read lately) into the `kept`
stream, dropping the index rows of the rest, and unlinking the file. Dropping a row is safe at any
moment: the bytes are in the store, and a reader that still has the descriptor finishes.
Blocking; one thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from functools import partial

import msgspec

from cache import disk, eviction, extents, metrics, namespace
from cache.config import CacheConfig
from cache.contents import Contents, checksum_matches
from cache.errors import CacheFull
from cache.extents import Resident
from cache.index import Index, Table, Txn
from cache.records import Extent, Inode, InodeFlag, SegmentRecord, SegmentState
from cache.segments import BLOCK, Reservation, Segments, segment_key

log = logging.getLogger(__name__)

_BATCH = 64
_STAY_MAX = 0.75


class Reclaimer:
    def __init__(
        self, index: Index, segments: Segments, contents: Contents, config: CacheConfig
    ) -> None:
        self._index = index
        self._segments = segments
        self._contents = contents
        self._config = config

    def run_once(self) -> int:
        """Free dead segments, and above the high watermark empty others down to the low one. The
        number of segments freed."""
        freed = self._free_dead()
        capacity = self._segments.capacity_bytes
        # Fills stop before the capacity does (Segments.reserve_bytes): begin before that point.
        reserve = self._segments.reserve_bytes("fill") + self._segments.segment_bytes
        high = min(capacity * self._config.high_watermark, capacity - reserve)
        low = min(capacity * self._config.low_watermark, high)
        if self.used_bytes() <= high:
            return freed
        # Whoever filled the cache in a burst stands and waits for room: not in some seconds.
        self.seal_abandoned()
        # What was read gets its second chance as long as there is anything else to drop.
        for keep_heat in (True, False):
            freed += self._empty_down_to(low, keep_heat=keep_heat)
            if self.used_bytes() <= high:
                break
        return freed

    def _empty_down_to(self, low: float, *, keep_heat: bool) -> int:
        """Empty segments, each at most once, until no more than `low` bytes are in use; the number
        of those that are gone."""
        freed = 0
        tried: set[int] = set()
        while self.used_bytes() > low:
            with self._index.read() as txn:
                records = [r for r in self._segments.records(txn) if r.id not in tried]
            victim = eviction.victim(records, self._config.policy, self._segments.capacity_bytes)
            if victim is None:
                break
            tried.add(victim.id)
            freed += self._empty(victim, keep_heat=keep_heat)
        return freed

    def evict_all(self) -> int:
        """Drop every clean extent, for tests and for `free`: sealed segments only."""
        with self._index.read() as txn:
            records = self._segments.records(txn)
        return sum(
            self._empty(r, keep_heat=False) for r in records if r.state == SegmentState.SEALED
        )

    def used_bytes(self) -> int:
        """Bytes reserved by segments."""
        with self._index.read() as txn:
            return sum(record.size for record in self._segments.records(txn))

    def seal_abandoned(self) -> int:
        """Seal segments that no living process writes to any more."""
        with self._index.read() as txn:
            active = [r for r in self._segments.records(txn) if r.state == SegmentState.ACTIVE]
        sealed = 0
        for record in active:
            path = self._segments.path(record)
            try:
                if not disk.is_unlocked(path):
                    continue
                is_made = path.stat().st_size >= record.size
            except FileNotFoundError:
                is_made = False
            if not is_made and not self._is_old(record):
                continue  # its maker is just creating it: the lock is taken before the space
            self._index.commit(partial(self._seal, record=record), grows=False)
            sealed += 1
        return sealed

    @staticmethod
    def _is_old(record: SegmentRecord) -> bool:
        return time.time_ns() - record.created_ns > 10_000_000_000

    @staticmethod
    def _seal(txn: Txn, record: SegmentRecord) -> None:
        current = txn.record(Table.SEGMENTS, segment_key(record.id), SegmentRecord)
        if current is not None:
            sealed = msgspec.structs.replace(current, state=SegmentState.SEALED)
            txn.put_record(Table.SEGMENTS, segment_key(record.id), sealed)

    def _free_dead(self) -> int:
        with self._index.read() as txn:
            dead = [
                r
                for r in self._segments.records(txn)
                if r.state == SegmentState.SEALED and r.live == 0
            ]
        return sum(self._unlink(record) for record in dead)

    def _empty(self, record: SegmentRecord, *, keep_heat: bool = True) -> int:
        """Move or drop every extent of a segment; 1 if the segment is gone afterwards."""
        with self._index.read() as txn:
            residents = list(extents.residents(txn, record.id))
            staying = sum(
                extent.length
                for extent, stays in (self._judge(txn, r, keep_heat) for r in residents)
                if extent is not None and stays
            )
        if staying > _STAY_MAX * record.size:
            return 0  # mostly dirty or hot: rewriting it would free next to nothing
        for start in range(0, len(residents), _BATCH):
            try:
                self._empty_batch(residents[start : start + _BATCH], keep_heat)
            except CacheFull:
                log.warning("no room to rescue extents of segment %d", record.id)
                return 0
        return self._unlink(record)

    def _empty_batch(self, batch: list[Resident], keep_heat: bool) -> None:
        moved: dict[tuple[int, int], Extent | None] = {}
        reservations = []
        for resident in batch:
            with self._index.read() as txn:
                extent, stays = self._judge(txn, resident, keep_heat)
            if extent is None or not stays or (resident.segment, resident.offset) in moved:
                continue
            copy, reservation = self._rewrite(extent)
            moved[resident.segment, resident.offset] = copy
            if reservation is not None:
                reservations.append(reservation)

        def change(txn: Txn) -> None:
            for resident in batch:
                extent, stays = self._judge(txn, resident, keep_heat)
                if extent is None:
                    continue
                copy = moved.get((resident.segment, resident.offset))
                if copy is not None:
                    new = extent._replace(segment=copy.segment, offset=copy.offset)
                    extents.replace(txn, resident.inode, extent, new)
                elif not stays:
                    extents.drop_one(txn, resident.inode, extent)
                    metrics.EVICTED_BYTES.inc(extent.length)

        try:
            self._index.commit(
                change, syncs=list({id(r.segment): r.segment for r in reservations}.values())
            )
        finally:
            for reservation in reservations:
                reservation.release()

    def _judge(self, txn: Txn, resident: Resident, keep_heat: bool) -> tuple[Extent | None, bool]:
        """The extent as it is now, and whether it must stay."""
        extent = extents.extent_at(txn, resident.inode, resident.start)
        if extent is None or (extent.segment, extent.offset) != (
            resident.segment,
            resident.offset,
        ):
            return None, False
        inode = txn.record(Table.INODES, namespace.key_bytes(resident.inode), Inode)
        if inode is None or inode.stored is None or extent.revision > inode.stored.revision:
            return extent, True
        if inode.flags & InodeFlag.PINNED:
            return extent, True
        return extent, keep_heat and eviction.survives(self._config.policy, resident.heat)

    def _rewrite(self, extent: Extent) -> tuple[Extent | None, Reservation | None]:
        """Copy a stored extent into the `kept` stream; verified on the way. A bad one stays where
        it is, for the reader to meet."""
        file = self._segments.file(extent.segment)
        if file is None or not checksum_matches(extent, file):
            metrics.CORRUPT_EXTENTS.labels("moved").inc()
            log.error("segment %d byte %d is corrupt; not moved", extent.segment, extent.offset)
            return None, None
        if extent.stored_length > self._segments.segment_bytes - BLOCK:
            log.warning("an extent of segment %d is longer than a segment now", extent.segment)
            return None, None
        reservation = self._segments.kept.reserve(extent.stored_length)
        position, end = extent.offset, extent.offset + extent.stored_length
        while position < end:
            data = os.pread(file.fileno(), min(1 << 20, end - position), position)
            reservation.write(memoryview(data))
            position += len(data)
        metrics.MOVED_BYTES.inc(extent.stored_length)
        return (
            extent._replace(segment=reservation.segment.id, offset=reservation.offset),
            reservation,
        )

    def _unlink(self, record: SegmentRecord) -> int:
        """Forget a segment that nothing uses, then its file; in this order, so that a crash leaves
        a file without a record (removed at start) and never a record without bytes."""

        def change(txn: Txn) -> bool:
            current = txn.record(Table.SEGMENTS, segment_key(record.id), SegmentRecord)
            if current is None or current.live or any(extents.residents(txn, record.id)):
                return False
            self._segments.forget(txn, record.id)
            return True

        if not self._index.commit(change, grows=False):
            return 0
        with contextlib.suppress(FileNotFoundError):
            self._segments.path(record).unlink()
        self._segments.drop_dead_files()
        return 1

    def drop_unknown_files(self) -> int:
        """Unlink segment files that the index does not know: left by a crash between the two."""
        with self._index.read() as txn:
            known = {self._segments.path(r) for r in self._segments.records(txn)}
        dropped = 0
        for path in self._segments.paths():
            if path not in known and disk.is_unlocked(path):
                path.unlink()
                dropped += 1
        return dropped
