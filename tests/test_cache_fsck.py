"""fsck: every kind of inconsistency that is planted is found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from cache import dirty, extents, moving, names, namespace
from cache.index import Table, Txn
from cache.records import Inode, SegmentRecord, Stored
from cache.segments import Segments
from tests.support.volume import TestVolume, box, some_bytes

__all__ = ["box"]

BIG = 600_000
Plant = Callable[[Txn, Inode, Inode], object]


def first(txn: Txn, table: Table) -> bytes:
    return next(txn.scan(table))[0]


def lose_a_name(txn: Txn, big: Inode, small: Inode) -> None:
    names.delete(txn, small.parent, small.name)
    namespace.update(txn, small, nlink=0)


def move(txn: Txn, inode: Inode, directory: int) -> None:
    """As if the store had the inode, and was asked to move it."""
    stored = Stored(inode.parent, inode.name, "1", inode.size, inode.revision, 0)
    namespace.update(txn, inode, stored=stored)
    moving.begin(txn, inode.id, directory, b"new")


def lose_a_target(txn: Txn, big: Inode, small: Inode) -> None:
    move(txn, small, small.parent)
    dirty.come_home(txn, small.parent, b"new", small.id)


def miscount_live_bytes(txn: Txn, big: Inode, small: Inode) -> None:
    record = Segments.records(txn)[0]
    key = first(txn, Table.SEGMENTS)
    txn.put_record(Table.SEGMENTS, key, replace(record, live=record.live + 1))


PLANTS: dict[str, Plant] = {
    "leads to no inode": lambda txn, _, small: txn.delete(
        Table.INODES, namespace.key_bytes(small.id)
    ),
    "has no name and is not an orphan": lose_a_name,
    "counts 2": lambda txn, _, small: namespace.update(txn, small, nlink=2),
    "noted and not used": lambda txn, *_: txn.delete(Table.EXTENTS, first(txn, Table.EXTENTS)),
    "not noted in its segment": lambda txn, *_: txn.delete(
        Table.RESIDENTS, first(txn, Table.RESIDENTS)
    ),
    "live bytes": miscount_live_bytes,
    "neither here nor in the store": lambda txn, big, _: extents.punch(txn, big.id, 10, 20),
    "inline bytes missing": lambda txn, _, small: txn.delete(
        Table.INLINE, namespace.key_bytes(small.id)
    ),
    "an extent ends at": lambda txn, big, _: namespace.update(txn, big, size=BIG - 1),
    "dirty bytes": lambda txn, *_: txn.put(Table.META, b"dirty_bytes", b"\0\1"),
    "not found by its name": lambda txn, *_: txn.delete(Table.QUEUED, first(txn, Table.QUEUED)),
    "kept for inode 999, which does not exist": lambda txn, _, small: dirty.send_away(
        txn, small.parent, b"old", 999
    ),
    "which is not there": lambda txn, _, small: dirty.send_away(
        txn, small.parent, b"old", small.id
    ),
    "is moving in the store, and is not there": lambda txn, _, small: moving.begin(
        txn, small.id, small.parent, b"new"
    ),
    "to directory 999, which does not exist": lambda txn, _, small: move(txn, small, 999),
    "to b'new', which is not kept for it": lose_a_target,
}


@pytest.fixture
def files(box: TestVolume) -> tuple[Inode, Inode]:
    box.put(b"big", some_bytes(BIG))
    box.put(b"small", b"x" * 100)
    box.check()
    return box.inode(b"big"), box.inode(b"small")


@pytest.mark.parametrize("problem", PLANTS)
def test_what_was_planted_in_the_index_is_found(
    box: TestVolume, files: tuple[Inode, Inode], problem: str
) -> None:
    box.volume.index.commit(lambda txn: PLANTS[problem](txn, *files))
    found = box.fsck().problems
    assert any(problem in text for text in found), found


def segment_of(box: TestVolume, inode: Inode) -> tuple[SegmentRecord, int]:
    """The segment that holds a file's first bytes, and where."""
    with box.volume.index.read() as txn:
        extent = extents.overlapping(txn, inode.id)[0]
        (record,) = (r for r in Segments.records(txn) if r.id == extent.segment)
    return record, extent.offset


def test_what_waits_to_follow_a_rename_is_no_problem(box: TestVolume) -> None:
    box.put(b"old", b"1")
    box.drain()
    box.rename(b"old", b"new")
    with box.volume.index.read() as txn:
        assert dirty.away_at(txn, box.root, b"old") == box.inode(b"new").id
    assert box.fsck().problems == []
    number = box.inode(b"new").id
    box.volume.index.commit(lambda txn: moving.begin(txn, number, box.root, b"new"))
    assert box.fsck().problems == []


def test_a_missing_segment_file_is_found(box: TestVolume, files: tuple[Inode, Inode]) -> None:
    record, _ = segment_of(box, files[0])
    box.volume.segments.close()
    box.volume.segments.path(record).unlink()
    assert any("is missing" in text for text in box.fsck().problems)


def test_damaged_bytes_are_found_when_the_data_is_read(
    box: TestVolume, files: tuple[Inode, Inode]
) -> None:
    record, offset = segment_of(box, files[0])
    with box.volume.segments.path(record).open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 8)
    assert box.fsck().problems == []
    assert any("fails its checksum" in text for text in box.fsck(read_data=True).problems)


def test_progress_ends_at_the_total(box: TestVolume, files: tuple[Inode, Inode]) -> None:
    seen: list[tuple[int, int]] = []
    report = box.volume.fsck.run(read_data=True, progress=lambda *at: seen.append(at))
    assert seen[-1][0] == seen[-1][1] > 0
    assert report.bytes_checked == BIG
