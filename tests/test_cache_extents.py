"""Extent maps against plain bytes: whatever is attached, punched, shared or moved."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import extents
from cache.config import MIB
from cache.heat import HEAT_MAX
from cache.index import Index, Table, Txn
from cache.overlay import Overlay
from cache.records import ZEROS, Extent, SegmentRecord, SegmentState
from cache.segments import BLOCK, segment_key

SEGMENT = 3
LIMIT = 64
"""Inodes in these tests have bytes 0 to LIMIT; a byte's value tells its stored extent."""

positions = st.integers(0, LIMIT - 1)
spans = st.tuples(positions, st.integers(1, 20))
inodes = st.sampled_from([1, 2])
operations = st.one_of(
    st.tuples(st.just("attach"), inodes, spans),
    st.tuples(st.just("zeros"), inodes, spans),
    st.tuples(st.just("fill"), inodes, spans),
    st.tuples(st.just("punch"), inodes, spans),
    st.tuples(st.just("share"), inodes, spans, positions),
    st.tuples(st.just("drop"), inodes),
    st.tuples(st.just("drop one"), inodes, positions),
    st.tuples(st.just("move")),
)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path, cap_bytes=16 * MIB, sync=False)


def stored(number: int, start: int, length: int) -> Extent:
    """A stored extent whose checksum, here, is its name."""
    return Extent(start, length, SEGMENT, number * BLOCK, length, number, 0, 1)


Bytes = dict[int, tuple[int, int]]  # position -> (stored extent, position in it)


def shown(txn: Txn, inode: int) -> Bytes:
    found: Bytes = {}
    last = 0
    for extent in extents.overlapping(txn, inode):
        assert extent.start >= last, "extents overlap"
        last = extent.stop
        for n in range(extent.length):
            is_zero = extent.segment == ZEROS
            found[extent.start + n] = (0, 0) if is_zero else (extent.checksum, extent.skip + n)
    return found


def check(txn: Txn, model: dict[int, Bytes]) -> None:
    for inode, wanted in model.items():
        assert shown(txn, inode) == wanted
    noted = {(r.inode, r.start, r.offset) for r in extents.residents(txn, SEGMENT)}
    rows = {
        (inode, e.start, e.offset)
        for inode in model
        for e in extents.overlapping(txn, inode)
        if e.segment != ZEROS
    }
    assert noted == rows
    record = txn.record(Table.SEGMENTS, segment_key(SEGMENT), SegmentRecord)
    assert record is not None
    assert record.live == BLOCK * len({offset for _, _, offset in rows})


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(operations, max_size=25))
def test_maps_do_what_bytes_do(index: Index, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    model: dict[int, Bytes] = {1: {}, 2: {}}
    with index._env.begin(write=True) as raw:
        txn = Txn(raw, index._tables)
        txn.put_record(
            Table.SEGMENTS,
            segment_key(SEGMENT),
            SegmentRecord(SEGMENT, 0, MIB, "dirty", SegmentState.ACTIVE, 0, 0),
        )
        for number, (verb, *rest) in enumerate(steps, 1):
            apply(txn, model, number, verb, *rest)
            check(txn, model)
        raw.abort()


def apply(  # noqa: C901  one verb a case
    txn: Txn,
    model: dict[int, Bytes],
    number: int,
    verb: str,
    inode: int = 1,
    where: tuple[int, int] | int = (0, 0),
    at: int = 0,
) -> None:
    mine, other = model[inode], 3 - inode
    start, length = where if isinstance(where, tuple) else (where, 0)
    span = range(start, start + length)
    match verb:
        case "attach":
            extents.attach(txn, inode, [stored(number, start, length)])
            mine |= {p: (number, p - start) for p in span}
        case "zeros":
            extents.attach(txn, inode, [Extent(start, length, ZEROS, 0, 0, 0, 0, 1)])
            mine |= dict.fromkeys(span, (0, 0))
        case "fill":
            extents.attach_missing(txn, inode, stored(number, start, length))
            for p in span:
                mine.setdefault(p, (number, p - start))
        case "punch":
            extents.punch(txn, inode, start, start + length)
            for p in span:
                mine.pop(p, None)
        case "share":
            extents.share(txn, inode, start, start + length, other, at, 2)
            model[other] |= {p - start + at: mine[p] for p in span if p in mine}
        case "drop":
            extents.drop(txn, inode)
            mine.clear()
        case "drop one":
            found = extents.extent_at(txn, inode, start)
            if found is not None:
                extents.drop_one(txn, inode, found)
                for p in range(found.start, found.stop):
                    del mine[p]
        case "move":
            end = max(model[2], default=-1) + 1
            extents.move(txn, 1, 2, end, 3)
            model[2] |= {p + end: value for p, value in model[1].items()}
            model[1].clear()


@given(
    st.lists(spans, max_size=15),
    st.tuples(positions, positions).map(sorted),
)
def test_the_overlay_shows_the_newest_bytes(
    written: list[tuple[int, int]], asked: list[int]
) -> None:
    overlay = Overlay()
    wanted: Bytes = {}
    for number, (start, length) in enumerate(written, 1):
        overlay.insert(stored(number, start, length))
        wanted |= {p: (number, p - start) for p in range(start, start + length)}
    low, high = asked
    found: Bytes = {}
    for extent in overlay.within(low, high):
        assert low <= extent.start < extent.stop <= high
        found |= {
            extent.start + n: (extent.checksum, extent.skip + n) for n in range(extent.length)
        }
    assert found == {p: v for p, v in wanted.items() if low <= p < high}
    ordered = list(overlay)
    assert all(a.stop <= b.start for a, b in pairwise(ordered))


def test_the_overlay_joins_what_lies_in_a_row_in_the_file_and_in_the_segment() -> None:
    overlay = Overlay()
    whole = Extent(0, 30, SEGMENT, BLOCK, 30, 1, 0, 1)
    for start in (0, 10, 20):
        overlay.insert(whole.slice(start, start + 10))
    assert list(overlay) == [whole]
    overlay.insert(whole._replace(start=30, offset=2 * BLOCK))  # of another stretch
    overlay.insert(Extent(60, 10, ZEROS, 0, 0, 0, 0, 0))
    overlay.insert(Extent(70, 10, ZEROS, 0, 0, 0, 0, 0))
    overlay.insert(whole.slice(10, 12))  # over the middle
    assert [e.length for e in overlay] == [10, 2, 18, 30, 10, 10]


@given(st.lists(spans, max_size=8), st.tuples(positions, positions).map(sorted))
def test_holes_are_what_no_extent_covers(covered: list[tuple[int, int]], asked: list[int]) -> None:
    overlay = Overlay()
    for number, (start, length) in enumerate(covered, 1):
        overlay.insert(stored(number, start, length))
    missing = set(range(*asked)) - {p for s, n in covered for p in range(s, s + n)}
    found = extents.holes(list(overlay), *asked)
    assert {p for low, high in found for p in range(low, high)} == missing
    assert all(low < high for low, high in found)


def test_heat_stops_at_its_maximum_and_goes_with_the_use(index: Index) -> None:
    def change(txn: Txn) -> list[int]:
        txn.put_record(
            Table.SEGMENTS,
            segment_key(SEGMENT),
            SegmentRecord(SEGMENT, 0, MIB, "dirty", SegmentState.ACTIVE, 0, 0),
        )
        extents.attach(txn, 1, [stored(1, 0, 10)])
        for _ in range(HEAT_MAX + 5):
            extents.warm(txn, SEGMENT, BLOCK, turn=3)
        return [resident.heat.now(3) for resident in extents.residents(txn, SEGMENT)]

    assert index.commit(change) == [HEAT_MAX]
