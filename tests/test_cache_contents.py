"""Bytes on the cache disk: segments that fill and seal, checksums, snapshots, rescue, reclaim."""

from __future__ import annotations

import errno
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache import admission, disk, extents
from cache.config import MIB, CacheDirectory
from cache.errors import CacheFull, DirtyLimit, ExtentCorrupt, OutOfSpace
from cache.records import SegmentRecord
from cache.segments import BLOCK, Segments
from tests.support.volume import BUCKET, TestVolume, box, some_bytes, through

__all__ = ["box", "through"]

BIG = 600_000


def flip_a_byte(volume: TestVolume, path: bytes) -> None:
    """Damage the stored extent that the first byte of a file is in."""
    inode = volume.inode(path).id
    with volume.volume.index.read() as txn:
        extent = extents.overlapping(txn, inode)[0]
        (record,) = (r for r in Segments.records(txn) if r.id == extent.segment)
    with volume.volume.segments.path(record).open("r+b") as file:
        file.seek(extent.offset)
        byte = file.read(1)
        file.seek(extent.offset)
        file.write(bytes([byte[0] ^ 1]))


def records(volume: TestVolume) -> list[SegmentRecord]:
    with volume.volume.index.read() as txn:
        return Segments.records(txn)


# ---------------------------------------------------------------------- pieces


def test_extents_that_lie_in_a_row_are_sent_at_once(box: TestVolume) -> None:
    data = some_bytes(BIG)
    box.put(b"a", data)
    with box.volume.index.read() as txn:
        found = extents.overlapping(txn, box.inode(b"a").id)
    rows = 1 + sum(
        (one.segment, one.offset + one.length) != (next_.segment, next_.offset)
        for one, next_ in itertools.pairwise(found)
    )
    assert rows < len(found)
    assert box.get(b"a") == data  # verified from here on
    _, snapshot = box.volume.objects.open(BUCKET, b"a")
    with snapshot:
        pieces = snapshot.cached(1, BIG - 1)
        assert pieces is not None
        assert len(pieces) == rows
        parts = [piece if isinstance(piece, bytes) else piece.read() for piece in pieces]
    assert b"".join(parts) == data[1:-1]


# ---------------------------------------------------------------------- checksums


def test_bad_clean_bytes_are_fetched_again(box: TestVolume) -> None:
    data = some_bytes(BIG)
    box.put(b"a", data)
    box.drain()
    box.restart()  # verified is what this process has not written itself
    flip_a_byte(box, b"a")
    assert box.fsck(read_data=True).problems
    assert box.get(b"a") == data
    assert box.get(b"a") == data
    box.check()
    assert box.store.calls["read"] == 1


def test_bad_dirty_bytes_are_an_error_and_stay(box: TestVolume) -> None:
    data = some_bytes(BIG)
    box.put(b"a", data)
    box.restart()
    flip_a_byte(box, b"a")
    for _ in range(2):
        with pytest.raises(ExtentCorrupt):
            box.get(b"a")
    assert box.get(b"a", 300_000, BIG) == data[300_000:], "the other extents are good"
    assert box.store.calls["put"] == 0
    flip_a_byte(box, b"a")
    assert box.get(b"a") == data


def test_bad_dirty_bytes_never_reach_the_store(box: TestVolume) -> None:
    box.put(b"a", some_bytes(BIG))
    box.restart()
    flip_a_byte(box, b"a")
    box.volume.queue.run_once(hurry=True)
    while not box.volume.queue.is_idle():
        pass
    assert box.volume.queue.backlog().errors[0][0] == b"a"
    assert not box.is_stored(b"a")
    box.evict()
    assert len(box.fsck(read_data=True).problems) == 1, "neither moved nor dropped"


def test_a_lost_segment_is_a_miss_for_clean_bytes(box: TestVolume) -> None:
    data = some_bytes(BIG)
    box.put(b"a", data)
    box.drain()
    box.restart()
    for record in records(box):
        box.volume.segments.path(record).unlink()
    assert box.get(b"a") == data


# ---------------------------------------------------------------------- snapshots


@pytest.mark.parametrize("size", [100, BIG])
def test_a_snapshot_survives_overwrite_delete_reap_and_reclaim(box: TestVolume, size: int) -> None:
    data = some_bytes(size)
    box.put(b"a", data)
    box.drain()
    _, snapshot = box.volume.objects.open(BUCKET, b"a")
    box.put(b"a", b"new")
    box.delete(b"a")
    box.drain()
    box.reap()
    box.evict()
    assert records(box) == []
    with snapshot:
        assert snapshot.read(0, size) == data
        assert snapshot.read(size // 2, size) == data[size // 2 :]


def test_space_comes_back_when_the_last_reader_lets_go(box: TestVolume) -> None:
    box.put(b"a", some_bytes(BIG))
    box.drain()
    _, snapshot = box.volume.objects.open(BUCKET, b"a")
    box.evict()
    (open_one, *_) = snapshot._files.values()
    assert os.fstat(open_one.fileno()).st_nlink == 0
    box.volume.segments.drop_dead_files()
    fd = open_one.fileno()
    del open_one
    snapshot.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


# ---------------------------------------------------------------------- eviction and reclaim


def test_dirty_bytes_survive_every_eviction(box: TestVolume) -> None:
    data = some_bytes(BIG)
    box.put(b"dirty", data)
    box.put(b"clean", data[::-1])
    with box.volume.index.read() as txn:
        from cache import dirty
        from cache.persist import place_of

        (entry,) = (e for e in dirty.entries(txn) if e.name == b"clean")
    box.volume.persister.persist(place_of(entry))
    for _ in range(3):
        box.evict()
    assert box.get(b"dirty") == data
    assert box.store.calls["read"] == 0
    assert box.get(b"clean") == data[::-1]
    assert box.store.calls["read"] > 0
    box.check()


def test_shared_extents_count_once_and_go_with_the_last_use(box: TestVolume) -> None:
    box.put(b"a", some_bytes(BIG))
    live = sum(r.live for r in records(box))
    found = box.volume.objects.get(BUCKET, b"a")
    for name in (b"b", b"c"):
        box.volume.objects.copy(found, BUCKET, name, attributes=found.attributes)
    assert sum(r.live for r in records(box)) == live
    box.delete(b"a")
    box.delete(b"b")
    box.drain()
    box.reap()
    assert sum(r.live for r in records(box)) == live
    assert box.get(b"c") == some_bytes(BIG)
    box.evict()
    assert box.get(b"c") == some_bytes(BIG)
    box.check()


def test_a_working_set_larger_than_the_cache_works(tmp_path: Path) -> None:
    volume = TestVolume(tmp_path, capacity_bytes=16 * MIB)
    try:
        for number in range(60):
            volume.put(b"%d" % number, some_bytes(BIG, number))
            volume.drain()
            volume.volume.reclaimer.seal_abandoned()
            volume.volume.reclaimer.run_once()
        assert volume.volume.reclaimer.used_bytes() <= 16 * MIB
        on_disk = sum(p.stat().st_size for p in volume.volume.segments.paths())
        assert on_disk <= 16 * MIB
        for number in range(60):
            assert volume.get(b"%d" % number) == some_bytes(BIG, number)
            volume.volume.reclaimer.run_once()
        volume.check()
    finally:
        volume.close()


LIMITS = {"dirty_soft_limit": 0.2, "dirty_hard_limit": 0.3}


def test_dirty_bytes_are_bounded(tmp_path: Path) -> None:
    volume = TestVolume(tmp_path, capacity_bytes=16 * MIB, **LIMITS)
    try:
        held = 0
        while volume.volume.queue.backlog().dirty_bytes < 16 * MIB * 0.3:
            volume.put(b"%d" % held, some_bytes(BIG, held))
            held += 1
        with pytest.raises(DirtyLimit):
            volume.put(b"more", some_bytes(BIG))
        assert 16 * MIB * 0.3 <= held * BIG < 16 * MIB * 0.3 + 2 * BIG
        volume.delete(b"0")
        volume.drain()
        volume.put(b"again", some_bytes(BIG))
        for number in range(1, held):
            assert volume.get(b"%d" % number) == some_bytes(BIG, number)
    finally:
        volume.close()


def fill_to_the_hard_limit(volume: TestVolume) -> None:
    for number in range(1000):
        if volume.volume.queue.backlog().dirty_bytes >= volume.volume.admission.hard_bytes:
            return
        volume.put(b"%d" % number, some_bytes(BIG, number))


def test_at_the_limit_the_mount_waits_while_the_store_makes_way(tmp_path: Path) -> None:
    volume = TestVolume(tmp_path, capacity_bytes=16 * MIB, **LIMITS)
    try:
        volume.create(b"file")
        fill_to_the_hard_limit(volume)
        with ThreadPoolExecutor() as pool:
            writing = pool.submit(volume.write, b"file", b"x")
            volume.drain()
            writing.result(timeout=60)
        assert volume.read(b"file") == b"x"
    finally:
        volume.close()


def test_at_the_limit_the_mount_refuses_when_the_store_makes_no_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_PATIENCE_S", 0.3)
    volume = TestVolume(tmp_path, capacity_bytes=16 * MIB, **LIMITS)
    try:
        volume.create(b"file")
        fill_to_the_hard_limit(volume)
        begun = time.monotonic()
        with pytest.raises(DirtyLimit):
            volume.write(b"file", b"x")
        waited = time.monotonic()
        monkeypatch.setattr(admission, "_PATIENCE_S", 30.0)  # which the next one does not have
        with pytest.raises(DirtyLimit):
            volume.write(b"file", b"x")
        assert waited - begun >= 0.3
        volume.drain()
        volume.write(b"file", b"x")
    finally:
        volume.close()


def test_dirty_is_what_was_written_not_what_it_was_written_to(box: TestVolume) -> None:
    """Else a change of a large file, of its mode or of its name would hold up all writers."""
    box.put(b"large", some_bytes(4 * MIB))
    box.drain()
    box.chmod(b"large", 0o600)
    box.rename(b"large", b"renamed")
    box.link(b"renamed", b"linked")
    assert box.volume.queue.backlog().dirty_bytes == 0
    box.write(b"renamed", b"x" * 5000, MIB)
    box.write(b"renamed", b"y" * 3000, 2 * MIB)
    box.rename(b"renamed", b"again")
    assert 8000 <= box.volume.queue.backlog().dirty_bytes <= 16_000
    box.drain()
    assert box.volume.queue.backlog().dirty_bytes == 0
    box.create(b"sparse")
    box.volume.open_files.truncate(box.inode(b"sparse").id, 1 << 37)
    assert box.volume.queue.backlog().dirty_bytes == 0
    box.unlink(b"sparse")
    box.drain()
    box.check()


def test_in_write_through_a_cache_without_room_still_takes_writes(tmp_path: Path) -> None:
    from cache.records import WriteMode

    volume = TestVolume(tmp_path, capacity_bytes=6 * MIB, write_mode=WriteMode.WRITE_THROUGH)
    try:
        for number in range(20):
            volume.put(b"%d" % number, some_bytes(BIG, number))
        for number in range(20):
            assert volume.get(b"%d" % number) == some_bytes(BIG, number)
        volume.check()
    finally:
        volume.close()


def test_what_was_read_outlives_a_scan(tmp_path: Path) -> None:
    volume = TestVolume(tmp_path, capacity_bytes=16 * MIB)
    try:
        hot = some_bytes(BIG, "hot")
        volume.put(b"hot", hot)
        volume.drain()
        for number in range(60):
            volume.put(b"%d" % number, some_bytes(BIG, number))
            volume.drain()
            assert volume.get(b"hot") == hot
            volume.volume.contents.fold_heat()
            volume.volume.reclaimer.seal_abandoned()
            volume.volume.reclaimer.run_once()
        assert volume.store.calls["read"] == 0, "never fetched again"
    finally:
        volume.close()


# ---------------------------------------------------------------------- segments


def test_reservations_begin_at_blocks_and_what_is_trimmed_is_used_again(box: TestVolume) -> None:
    stream = box.volume.segments.dirty
    first = stream.reserve(100_000)
    assert first.offset == BLOCK
    first.write(memoryview(b"x" * 5000))
    first.trim()
    second = stream.reserve(10)
    assert second.segment is first.segment
    assert second.offset == first.offset + 2 * BLOCK
    first.trim()
    third = stream.reserve(10)
    assert third.offset == second.offset + BLOCK, "another's reservation is not given back"
    for reservation in (first, second, third):
        reservation.release()
        reservation.release()


def test_a_segment_is_left_alone_while_a_writer_may_attach_to_it(box: TestVolume) -> None:
    reservation = box.volume.segments.dirty.reserve(10)
    box.volume.segments.close()
    assert box.volume.reclaimer.seal_abandoned() == 0
    reservation.release()
    assert box.volume.reclaimer.seal_abandoned() == 1


def test_streams_keep_apart(box: TestVolume) -> None:
    segments = box.volume.segments
    reservations = [s.reserve(10) for s in (segments.dirty, segments.fill, segments.kept)]
    assert len({r.segment.id for r in reservations}) == 3
    for reservation in reservations:
        reservation.release()


def test_ids_are_never_used_again(box: TestVolume) -> None:
    seen: list[int] = []
    for _ in range(3):
        box.put(b"a", some_bytes(BIG))
        seen += [r.id for r in records(box)]
        box.delete(b"a")
        box.drain()
        box.reap()
        box.evict()
        box.restart()
    assert len(seen) == len(set(seen))


def test_several_directories_share_the_load_by_room(tmp_path: Path) -> None:
    directories = (
        CacheDirectory(tmp_path / "one", 8 * MIB),
        CacheDirectory(tmp_path / "two", 16 * MIB),
    )
    volume = TestVolume(tmp_path, directories=directories)
    try:
        for number in range(15):
            volume.put(b"%d" % number, some_bytes(BIG, number))
        counts = [len(list(d.path.glob("*.seg"))) for d in directories]
        assert counts[1] - counts[0] in (7, 8, 9), counts
        volume.check()
    finally:
        volume.close()


def test_a_full_disk_is_met_when_a_segment_is_begun(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CacheFull):
        box.volume.segments.fill.reserve(10)
    assert records(box) == []
    assert box.volume.segments.paths() == []


def test_a_segment_that_failed_to_sync_acknowledges_nothing_more(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "the disk")

    box.put(b"before", some_bytes(BIG))
    reservation = box.volume.segments.dirty.reserve(10)
    reservation.write(memoryview(b"x"))
    monkeypatch.setattr(disk, "sync_data", fail)
    with pytest.raises((OSError, OutOfSpace)):
        box.put(b"a", some_bytes(BIG))
    assert b"a" not in box.listed()
    monkeypatch.undo()
    with pytest.raises(OSError, match="sync"):
        reservation.segment.sync()
    reservation.release()
    box.put(b"b", some_bytes(BIG))
    assert box.get(b"b") == some_bytes(BIG)
    box.check()


# ---------------------------------------------------------------------- recovery and fsck


def test_files_that_no_record_names_are_removed_at_the_start(box: TestVolume) -> None:
    box.put(b"a", some_bytes(BIG))
    stray = box.config.cache.state_dir / "segments" / "09999999.seg"
    stray.write_bytes(b"x" * 10_000)
    box.restart()
    assert not stray.exists()
    assert box.get(b"a") == some_bytes(BIG)


def test_parts_of_uploads_survive_a_restart_and_evictions(box: TestVolume) -> None:
    from cache.records import ObjectAttributes

    upload = box.volume.uploads.create(BUCKET, b"a", owner="me", attributes=ObjectAttributes())
    writer = box.volume.uploads.part_writer(upload, 1, size_bytes=BIG)
    writer.write(some_bytes(BIG))
    part = writer.commit(etag="e", checksums={})
    box.restart()
    box.evict()
    box.check()
    found = box.volume.uploads.parts(upload)
    assert found == [part]
    box.volume.uploads.complete(upload, found, etag="e-1", attributes=ObjectAttributes())
    assert box.get(b"a") == some_bytes(BIG)
    box.check()
