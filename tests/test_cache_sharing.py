"""Copies that share the bytes of their source, which is clean and may lose them at any moment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import disk, extents
from cache.records import Extent, ObjectAttributes
from cache.snapshot import Snapshot
from tests.support.volume import BUCKET, TestVolume, box, some_bytes
from tests.support.waiting import wait_until

__all__ = ["box"]

SOURCE = b"source"
COPY = b"copy"
DATA = some_bytes(600_000)
NONE = ObjectAttributes()

Copy = Callable[[TestVolume], None]


def copy_object(box: TestVolume) -> None:
    objects = box.volume.objects
    objects.copy(objects.get(BUCKET, SOURCE), BUCKET, COPY, attributes=NONE)


def copy_part(box: TestVolume) -> None:
    uploads = box.volume.uploads
    upload = uploads.create(BUCKET, COPY, owner="", attributes=NONE)
    source = box.volume.objects.get(BUCKET, SOURCE)
    part = uploads.copy_part(upload, 1, source, 0, len(DATA), etag="e")
    uploads.complete(upload, [part], etag="e-1", attributes=NONE)


either = pytest.mark.parametrize("copy", [copy_object, copy_part])


def fetch_source(box: TestVolume) -> None:
    """Have it here as it is after a read: what was fetched nobody synced."""
    box.put(SOURCE, DATA)
    box.drain()
    box.evict()
    assert box.get(SOURCE) == DATA
    inode = box.volume.objects.get(BUCKET, SOURCE).inode.id

    def is_cached() -> bool:
        with box.volume.index.read() as txn:
            return not extents.holes(extents.overlapping(txn, inode), 0, len(DATA))

    wait_until(is_cached)


@either
def test_bytes_that_are_evicted_while_they_are_shared_are_copied(
    box: TestVolume, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_source(box)
    contents = box.volume.contents
    look = contents.open

    def look_and_evict(*asked: int) -> Snapshot | None:
        monkeypatch.undo()
        snapshot = look(*asked)
        box.evict()
        return snapshot

    monkeypatch.setattr(contents, "open", look_and_evict)
    copy(box)
    box.store.store.delete(SOURCE)
    assert box.get(COPY) == DATA
    box.drain()
    assert box.stored_bytes(COPY) == DATA
    box.check()


@either
def test_what_a_copy_shares_is_on_the_disk_before_it_is_acknowledged(
    box: TestVolume, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_source(box)
    synced: set[str] = set()
    real = disk.sync_data

    def sync_data(fd: int) -> None:
        synced.add(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real(fd)

    monkeypatch.setattr(disk, "sync_data", sync_data)
    copy(box)
    inode = box.volume.objects.get(BUCKET, COPY).inode
    with box.volume.index.read() as txn:
        used = {f"{extent.segment:08d}.seg" for extent in extents.overlapping(txn, inode.id)}
    assert used
    assert used <= synced


def test_what_was_fetched_again_into_a_segment_that_was_synced_before_is_not_shared(
    tmp_path: Path,
) -> None:
    box = TestVolume(tmp_path, policy="lru")  # which puts it where the rest is
    box.put(SOURCE, DATA)
    box.drain()
    box.evict()
    volume, size = box.volume, len(DATA)
    inode, cell = box.inode(SOURCE), volume.segments.extent_max

    def fetch(start: int, stop: int) -> set[int]:
        assert box.get(SOURCE, start, stop) == DATA[start:stop]
        wait_until(lambda: not extents.holes(found(start, stop), start, stop))
        return {extent.segment for extent in found(start, stop)}

    def found(start: int, stop: int) -> list[Extent]:
        with volume.index.read() as txn:
            return extents.overlapping(txn, inode.id, start, stop)

    sealed = fetch(0, cell)
    volume.segments.close()
    volume.reclaimer.seal_abandoned()
    active = fetch(cell, size)
    snapshot = volume.contents.open(inode.id)
    assert snapshot is not None
    volume.reclaimer.evict_all()  # but for segments that somebody fills
    again = fetch(0, cell)
    assert sealed != active == again
    with snapshot, volume.index.read() as txn:
        assert snapshot.still_holds(txn, cell, size)
        assert not snapshot.still_holds(txn, 0, size)
    box.close()
