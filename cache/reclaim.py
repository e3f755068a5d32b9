"""Segments back to free space: the evictor of the node. Runs in the mover, nowhere else.

A segment is emptied by rewriting what must stay (dirty, pinned, what cache/eviction.py wants to
keep) into the `kept` stream, dropping the index rows of the rest, which leave ghosts, and unlinking
the file. Dropping a row is safe at any moment: the bytes are in the store, and a reader that still
has the descriptor finishes. Killed at any instruction, it leaves a segment that is partly empty.
Blocking; one thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from functools import partial

import msgspec

from cache import disk, eviction, extents, ghosts, heat, metrics, namespace
from cache.config import CacheConfig
from cache.contents import Contents, checksum_matches
from cache.errors import CacheFull
from cache.extents import Resident
from cache.heat import COLD, Heat
from cache.index import Index, Table, Txn
from cache.records import Extent, Inode, InodeFlag, SegmentRecord, SegmentState
from cache.segments import BLOCK, Reservation, Segments, segment_key
from cache.worth import Worths

log = logging.getLogger(__name__)

_BATCH = 64
_STAY_MAX = 0.75
_GHOSTS_A_COMMIT = 1000


@dataclass(frozen=True, slots=True)
class _Found:
    """A use of a stored extent, as it is now."""

    extent: Extent
    must_stay: bool  # dirty or pinned
    heat: int

    def stays(self, survival_heat: int | None) -> bool:
        """survival_heat: None if nothing stays for its heat."""
        return self.must_stay or (survival_heat is not None and self.heat >= survival_heat)


class Reclaimer:
    def __init__(
        self, index: Index, segments: Segments, contents: Contents, config: CacheConfig
    ) -> None:
        self._index = index
        self._segments = segments
        self._contents = contents
        self._config = config
        self._is_s3fifo = config.policy == "s3fifo"
        self._worths = Worths(index)
        self._price = 0.0
        self._credit_bytes = float(segments.segment_bytes)

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
        self._forget_ghosts()
        return freed

    def _empty_down_to(self, low: float, *, keep_heat: bool) -> int:
        """Empty segments, each at most once, until no more than `low` bytes are in use; the number
        of those that are gone."""
        freed = 0
        tried: set[int] = set()
        while self.used_bytes() > low:
            with self._index.read() as txn:
                records = [r for r in self._segments.records(txn) if r.id not in tried]
            least_worthy = None
            if self._is_s3fifo:
                records = self._promote(records, low)
                least_worthy = self._least_worthy(records)
            victim = eviction.victim(records, self._config.policy, low, least_worthy)
            if victim is None:
                break
            tried.add(victim.id)
            freed += self._empty(victim, keep_heat=keep_heat)
        return freed

    def _promote(self, records: list[SegmentRecord], low: float) -> list[SegmentRecord]:
        """Make segments part of the main queue where they lie; the records as they are then."""
        promoted = {
            r.id: msgspec.structs.replace(r, stream="main") for r in eviction.promoted(records, low)
        }

        def change(txn: Txn) -> None:
            for number in promoted:
                current = txn.record(Table.SEGMENTS, segment_key(number), SegmentRecord)
                if current is not None:
                    new = msgspec.structs.replace(current, stream="main")
                    txn.put_record(Table.SEGMENTS, segment_key(number), new)

        if promoted:
            self._index.commit(change, grows=False)
        return [promoted.get(r.id, r) for r in records]

    def _least_worthy(self, records: list[SegmentRecord]) -> SegmentRecord | None:
        main = [r for r in eviction.sealed_of(records) if eviction.is_main(r)]
        if not main:
            self._price = 0.0
            return None
        found, self._price = self._worths.least(main)
        return found

    def _forget_ghosts(self) -> None:
        """Begin the next generation of ghosts if it is time, and forget the one before last."""
        capacity = self._segments.capacity_bytes

        def change(txn: Txn) -> None:
            state = ghosts.state(txn)
            if ghosts.is_full(txn, state, capacity):
                ghosts.put_state(txn, ghosts.next_generation(state))
            ghosts.forget_old(txn, _GHOSTS_A_COMMIT)

        while True:
            with self._index.read() as txn:
                due = ghosts.is_full(txn, ghosts.state(txn), capacity) or ghosts.has_old(txn)
            if not due:
                return
            self._index.commit(change, grows=False)

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
            present = ghosts.state(txn)
            found = [f for f in (self._judge(txn, r, present.turn) for r in residents) if f]
        survival_heat = None
        if keep_heat:
            survival_heat = eviction.survival_heat(
                record,
                self._config.policy,
                self._price,
                ((f.heat, f.extent.length) for f in found if not f.must_stay),
                self._credit_bytes,
            )
        staying = sum(f.extent.length for f in found if f.stays(survival_heat))
        if staying > _STAY_MAX * record.size:
            return 0  # mostly dirty or hot: rewriting it would free next to nothing
        for start in range(0, len(residents), _BATCH):
            try:
                self._empty_batch(residents[start : start + _BATCH], survival_heat)
            except CacheFull:
                log.warning("no room to rescue extents of segment %d", record.id)
                return 0
        rescued = sum(f.extent.length for f in found if f.stays(survival_heat) and not f.must_stay)
        credit = self._credit_bytes + eviction.REWRITE_SHARE * record.size - rescued
        self._credit_bytes = min(credit, float(record.size))
        return self._unlink(record)

    def _empty_batch(self, batch: list[Resident], survival_heat: int | None) -> None:
        moved: dict[tuple[int, int], Extent | None] = {}
        reservations = []
        for resident in batch:
            with self._index.read() as txn:
                found = self._judge(txn, resident, ghosts.state(txn).turn)
            place = (resident.segment, resident.offset)
            if found is None or not found.stays(survival_heat) or place in moved:
                continue
            copy, reservation = self._rewrite(found.extent)
            moved[place] = copy
            if reservation is not None:
                reservations.append(reservation)

        def change(txn: Txn) -> None:
            present = state = ghosts.state(txn)
            for resident in batch:
                found = self._judge(txn, resident, state.turn)
                if found is None:
                    continue
                extent = found.extent
                copy = moved.get((resident.segment, resident.offset))
                if copy is not None:
                    new = extent._replace(segment=copy.segment, offset=copy.offset)
                    # Without a price that rises with it, heat that stays would stay for ever.
                    kept = resident.heat if self._is_s3fifo else COLD
                    extents.replace(txn, resident.inode, extent, new, kept)
                elif not found.stays(survival_heat):
                    extents.drop_one(txn, resident.inode, extent)
                    metrics.EVICTED_BYTES.inc(extent.length)
                    if self._is_s3fifo:
                        left = Heat(found.heat, state.turn)
                        cell = extent.start // self._segments.extent_max
                        present = ghosts.note(
                            txn, present, resident.inode, cell, left, extent.length
                        )
            if present != state:
                ghosts.put_state(txn, present)

        try:
            self._index.commit(
                change, syncs=list({id(r.segment): r.segment for r in reservations}.values())
            )
        finally:
            for reservation in reservations:
                reservation.release()

    @staticmethod
    def _judge(txn: Txn, resident: Resident, turn: int) -> _Found | None:
        """The use as it is now; None if it ended."""
        extent = extents.extent_at(txn, resident.inode, resident.start)
        if extent is None or (extent.segment, extent.offset) != (
            resident.segment,
            resident.offset,
        ):
            return None
        inode = txn.record(Table.INODES, namespace.key_bytes(resident.inode), Inode)
        must_stay = (
            inode is None
            or inode.stored is None
            or extent.revision > inode.stored.revision
            or inode.has(InodeFlag.PINNED)
        )
        return _Found(extent, must_stay, resident.heat.now(turn))

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
            self._pass_time(txn, record.size)
            return True

        if not self._index.commit(change, grows=False):
            return 0
        with contextlib.suppress(FileNotFoundError):
            self._segments.path(record).unlink()
        self._segments.drop_dead_files()
        return 1

    def _pass_time(self, txn: Txn, freed_bytes: int) -> None:
        """Count what was freed: heat is halved with every AGE times the capacity."""
        state = ghosts.state(txn)
        reclaimed, turn = state.reclaimed + freed_bytes, state.turn
        if reclaimed >= heat.AGE * self._segments.capacity_bytes:
            reclaimed, turn = 0, (turn + 1) % heat.TURNS
        new = msgspec.structs.replace(state, reclaimed=reclaimed, turn=turn, price=self._price)
        ghosts.put_state(txn, new)

    def drop_unknown_files(self) -> int:
        """Unlink segment files that the index does not know: left by a crash between the two."""
        with self._index.read() as txn:
            known = {self._segments.path(r) for r in self._segments.records(txn)}
        self._index.make_durable()  # a power cut must not bring back a record whose file is gone
        dropped = 0
        for path in self._segments.paths():
            if path not in known and disk.is_unlocked(path):
                path.unlink()
                dropped += 1
        return dropped
