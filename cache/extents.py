"""Extent maps in the index: which stored extents make up the bytes of an inode.

Functions of a transaction. Two tables mirror each other: `extents` (inode, start) -> extent, and
`residents` (segment, offset, inode, start) -> heat (cache/heat.py), from which the reclaimer
learns who uses a stored extent. A segment's `live` bytes count each stored extent once, however
many share it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from cache import heat as heats
from cache.heat import COLD, Heat
from cache.index import Table, Txn
from cache.records import ZEROS, Extent, SegmentRecord
from cache.segments import BLOCK, segment_key

_ROW = struct.Struct(">QQ")
_RESIDENT = struct.Struct(">IQQQ")
_STORED = struct.Struct(">IQ")


class Resident(NamedTuple):
    """One use of a stored extent."""

    segment: int
    offset: int
    inode: int
    start: int
    heat: Heat


def overlapping(txn: Txn, inode: int, start: int = 0, stop: int | None = None) -> list[Extent]:
    """The extents of an inode that touch [start, stop), whole, in order."""
    prefix = inode.to_bytes(8, "big")
    first = _ROW.pack(inode, start)
    if start:
        row = txn.before(Table.EXTENTS, _ROW.pack(inode, start + 1), prefix)
        if row is not None:
            first = row[0]
    found = []
    for key, value in txn.scan(Table.EXTENTS, first, prefix):
        extent = Extent.unpack(_ROW.unpack(key)[1], value)
        if stop is not None and extent.start >= stop:
            break
        if extent.stop > start:
            found.append(extent)
    return found


def attach(txn: Txn, inode: int, extents: Iterable[Extent]) -> None:
    """Make extents part of the inode's bytes, over whatever was there."""
    for extent in extents:
        punch(txn, inode, extent.start, extent.stop)
        _add(txn, inode, extent)


def attach_missing(txn: Txn, inode: int, extent: Extent, heat: Heat = COLD) -> None:
    """Add the parts of an extent where the inode has none: filled from the store while another
    writer may have been faster. heat: what is remembered of its earlier stay."""
    position = extent.start
    for other in overlapping(txn, inode, extent.start, extent.stop):
        if other.start > position:
            _add(txn, inode, extent.slice(position, other.start), heat)
        position = max(position, other.stop)
    if position < extent.stop:
        _add(txn, inode, extent.slice(position, extent.stop), heat)


def punch(txn: Txn, inode: int, start: int, stop: int) -> None:
    """Remove [start, stop) from the map; extents that reach over the edges are sliced."""
    if start >= stop:
        return
    for extent in overlapping(txn, inode, start, stop):
        # The remainders first: else the last use of a shared stored extent would seem gone.
        remainders = []
        if extent.start < start:
            remainders.append(extent.slice(extent.start, start))
        if extent.stop > stop:
            remainders.append(extent.slice(stop, extent.stop))
        if remainders and remainders[0].start == extent.start:
            _put_row(txn, inode, remainders.pop(0))
        else:
            _remove(txn, inode, extent)
        for remainder in remainders:
            _add(txn, inode, remainder)


def drop(txn: Txn, inode: int) -> None:
    """Remove all extents of an inode."""
    for extent in overlapping(txn, inode):
        _remove(txn, inode, extent)


def drop_one(txn: Txn, inode: int, extent: Extent) -> None:
    """Remove an extent that is exactly one row; nothing happens if it changed meanwhile."""
    value = txn.get(Table.EXTENTS, _ROW.pack(inode, extent.start))
    if value == extent.pack():
        _remove(txn, inode, extent)


def drop_stored(txn: Txn, inode: int, extent: Extent) -> None:
    """Remove what the inode has of a stored extent where `extent`, maybe a slice of a row, lies."""
    for row in overlapping(txn, inode, extent.start, extent.stop):
        if (row.segment, row.offset) == (extent.segment, extent.offset):
            _remove(txn, inode, row)


def replace(txn: Txn, inode: int, old: Extent, new: Extent, heat: Heat) -> bool:
    """Put `new` where exactly `old` is; False if it changed meanwhile."""
    if txn.get(Table.EXTENTS, _ROW.pack(inode, old.start)) != old.pack():
        return False
    _remove(txn, inode, old)
    _add(txn, inode, new, heat)
    return True


def share(
    txn: Txn, source: int, start: int, stop: int, target: int, at: int, revision: int
) -> None:
    """Give `target`, from byte `at` on, the bytes [start, stop) of `source`: no byte moves."""
    for extent in overlapping(txn, source, start, stop):
        part = extent.slice(max(extent.start, start), min(extent.stop, stop))
        moved = part._replace(start=part.start - start + at, revision=revision)
        attach(txn, target, [moved])


def move(txn: Txn, source: int, target: int, at: int, revision: int) -> None:
    """Give all extents of `source` to `target`, from byte `at` on."""
    for extent in overlapping(txn, source):
        _add(txn, target, extent._replace(start=extent.start + at, revision=revision))
        _remove(txn, source, extent)


def holes(extents: list[Extent], start: int, stop: int) -> list[tuple[int, int]]:
    """The parts of [start, stop) that no extent covers."""
    found = []
    position = start
    for extent in extents:
        if extent.start >= stop:
            break
        if extent.start > position:
            found.append((position, extent.start))
        position = max(position, extent.stop)
    if position < stop:
        found.append((position, stop))
    return found


def residents(txn: Txn, segment: int) -> Iterator[Resident]:
    """Every use of a segment's stored extents, in the order of their offsets."""
    prefix = segment_key(segment)
    for key, value in txn.scan(Table.RESIDENTS, prefix, prefix):
        segment_id, offset, inode, start = _RESIDENT.unpack(key)
        yield Resident(segment_id, offset, inode, start, heats.unpack(value))


def extent_at(txn: Txn, inode: int, start: int) -> Extent | None:
    value = txn.get(Table.EXTENTS, _ROW.pack(inode, start))
    return None if value is None else Extent.unpack(start, value)


def is_resident(txn: Txn, inode: int, extent: Extent) -> bool:
    """Whether the use of a stored extent by this row is noted."""
    key = _RESIDENT.pack(extent.segment, extent.offset, inode, extent.start)
    return txn.get(Table.RESIDENTS, key) is not None


def warm(txn: Txn, segment: int, offset: int, turn: int) -> None:
    """Note that a stored extent was read."""
    prefix = _STORED.pack(segment, offset)
    for key, value in list(txn.scan(Table.RESIDENTS, prefix, prefix)):
        warmer = heats.unpack(value).raised(turn).pack()
        if warmer != value:
            txn.put(Table.RESIDENTS, key, warmer)


def _put_row(txn: Txn, inode: int, extent: Extent) -> None:
    txn.put(Table.EXTENTS, _ROW.pack(inode, extent.start), extent.pack())


def _add(txn: Txn, inode: int, extent: Extent, heat: Heat = COLD) -> None:
    _put_row(txn, inode, extent)
    if extent.segment == ZEROS:
        return
    if not _is_used(txn, extent):
        _add_live(txn, extent, 1)
    txn.put(
        Table.RESIDENTS,
        _RESIDENT.pack(extent.segment, extent.offset, inode, extent.start),
        heat.pack(),
    )


def _remove(txn: Txn, inode: int, extent: Extent) -> None:
    txn.delete(Table.EXTENTS, _ROW.pack(inode, extent.start))
    if extent.segment == ZEROS:
        return
    txn.delete(Table.RESIDENTS, _RESIDENT.pack(extent.segment, extent.offset, inode, extent.start))
    if not _is_used(txn, extent):
        _add_live(txn, extent, -1)


def _is_used(txn: Txn, extent: Extent) -> bool:
    prefix = _STORED.pack(extent.segment, extent.offset)
    return next(txn.scan(Table.RESIDENTS, prefix, prefix), None) is not None


def _add_live(txn: Txn, extent: Extent, sign: int) -> None:
    key = segment_key(extent.segment)
    record = txn.record(Table.SEGMENTS, key, SegmentRecord)
    assert record is not None, f"extent of unknown segment {extent.segment}"
    size = -(-extent.stored_length // BLOCK) * BLOCK
    live = record.live + sign * size
    assert live >= 0, f"segment {extent.segment} has {live} live bytes"
    txn.put_record(Table.SEGMENTS, key, msgspec.structs.replace(record, live=live))
