"""Open files against a bytearray: writes anywhere, truncates, reads, and when others see them."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache import extents
from cache.config import MIB
from cache.errors import CacheFull, IndexFull, IsADirectory, NoSuchInode, NoSuchKey, NotPermitted
from cache.open_file import OpenFile
from cache.records import WriteMode
from cache.segments import Reservation
from cache.staging import INLINE_MAX
from tests.support.volume import BUCKET, TestVolume, box, some_bytes, through
from tests.support.waiting import wait_until

__all__ = ["box", "through"]

positions = st.one_of(
    st.integers(0, 2 * INLINE_MAX), st.sampled_from([258_047, 258_048, 300_000, 600_000])
)
lengths = st.one_of(st.integers(0, 2 * INLINE_MAX), st.sampled_from([258_049, 300_000]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), positions, lengths),
        st.tuples(st.just("write"), positions, lengths),
        st.tuples(st.just("append"), lengths),
        st.tuples(st.just("truncate"), positions),
        st.tuples(st.just("read"), positions, lengths),
        st.tuples(st.just("flush")),
        st.tuples(st.just("persist")),
        st.tuples(st.just("evict")),
        st.tuples(st.just("reopen")),
    ),
    max_size=20,
)


@pytest.fixture(scope="module", params=[WriteMode.WRITE_BACK, WriteMode.WRITE_THROUGH])
def shared(request: pytest.FixtureRequest) -> Iterator[TestVolume]:
    with tempfile.TemporaryDirectory() as directory:
        volume = TestVolume(Path(directory), write_mode=request.param)
        yield volume
        volume.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_a_file_is_a_bytearray(shared: TestVolume, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    files = shared.volume.open_files
    inode = shared.create(b"f")
    file = files.open(inode.id, write=True)
    model = bytearray()
    published = b""
    try:
        for number, (verb, *rest) in enumerate(steps):
            match verb:
                case "write" | "append":
                    start, length = rest if verb == "write" else (len(model), rest[0])
                    data = some_bytes(length, number)
                    assert file.write(start, data) == length
                    if length:
                        model.extend(bytes(max(0, start - len(model))))
                        model[start : start + length] = data
                case "truncate":
                    file.truncate(rest[0])
                    del model[rest[0] :]
                    model.extend(bytes(rest[0] - len(model)))
                    published = bytes(model)
                case "read":
                    start, length = rest
                    assert file.read(start, length) == model[start : start + length]
                case "flush":
                    file.flush()
                    published = bytes(model)
                case "persist":
                    shared.drain()
                case "evict":
                    shared.evict()
                case "reopen":
                    file.release()
                    published = bytes(model)
                    file = files.open(inode.id, write=True)
            assert files.size_of(shared.volume.files.get(inode.id)).size == len(model)
            assert shared.volume.objects.get(BUCKET, b"f").size == len(published)
        assert file.read(0, len(model) + 1) == model
        assert shared.get(b"f") == published
        file.flush()
        assert shared.get(b"f") == model
        shared.drain()
        assert shared.stored_bytes(b"f") == model
    finally:
        file.release()
        shared.unlink(b"f")
        shared.drain()
        shared.reap()
    assert shared.fsck(read_data=True).problems == []


def test_others_see_a_write_when_it_is_flushed_and_no_earlier(box: TestVolume) -> None:
    inode = box.create(b"f")
    file = box.volume.open_files.open(inode.id, write=True)
    file.write(0, b"1" * 9000)
    assert box.get(b"f") == b""
    file.flush()
    assert box.get(b"f") == b"1" * 9000
    file.write(0, b"2")
    file.release()
    assert box.get(b"f") == b"2" + b"1" * 8999


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX, INLINE_MAX + 1, 600_000])
def test_the_etag_is_the_md5_of_a_file_written_front_to_back(box: TestVolume, size: int) -> None:
    data = some_bytes(size)
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    for start in range(0, size, 50_000):
        file.write(start, data[start : start + 50_000])
    file.release()
    etag = box.volume.objects.get(BUCKET, b"f").etag
    assert etag == hashlib.md5(data).hexdigest()
    if size > INLINE_MAX:
        box.write(b"f", b"x", 5)
        changed = box.volume.objects.get(BUCKET, b"f").etag
        assert "-" in changed
        box.write(b"f", b"y", 5)
        assert box.volume.objects.get(BUCKET, b"f").etag != changed


MIXED = (0, 2, 3, 1, 5, 7, 6, 4)
"""As a flusher and an fsync hand over the pages of one file."""


def test_the_etag_is_the_md5_of_a_file_that_comes_a_little_out_of_order(box: TestVolume) -> None:
    data = some_bytes(len(MIXED) * 300_000)
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    for number in MIXED:
        file.write(number * 300_000, data[number * 300_000 :][:300_000])
    file.release()
    assert box.get(b"f") == data
    assert box.volume.objects.get(BUCKET, b"f").etag == hashlib.md5(data).hexdigest()


def test_what_comes_early_takes_memory_once_for_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written around a gap keeps its MD5 only as far as that goes."""
    monkeypatch.setattr("cache.running_md5._EARLY_BYTES_MAX", 700_000)
    box = TestVolume(tmp_path)
    files, data = box.volume.open_files, some_bytes(900_000)
    md5 = hashlib.md5(data).hexdigest()
    first, second, third = (files.open(box.create(n).id, write=True) for n in (b"1", b"2", b"3"))

    def write(file: OpenFile, *numbers: int) -> None:
        for number in numbers:
            file.write(number * 300_000, data[number * 300_000 :][:300_000])

    def etag(name: bytes) -> str:
        return box.volume.objects.get(BUCKET, name).etag

    write(first, 1, 2)
    write(second, 1, 2, 0)
    second.release()
    assert "-" in etag(b"2")
    write(first, 0)
    write(third, 2)  # which is left as it is
    first.release()
    third.release()
    assert etag(b"1") == md5
    box.create(b"4")
    fourth = files.open(box.inode(b"4").id, write=True)
    write(fourth, 1, 2, 0)
    fourth.release()
    assert etag(b"4") == md5
    assert {box.get(name) for name in (b"1", b"2", b"4")} == {data}
    box.close()


@pytest.mark.parametrize("again", [0, 450_000, 600_000, 1_000_000])
def test_the_etag_is_no_md5_of_what_was_written_over(box: TestVolume, again: int) -> None:
    """Of a piece before the gap, of one behind it, or over both ends."""
    data = bytearray(some_bytes(1_200_000))
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    for start in (0, 600_000, 900_000):
        file.write(start, bytes(data[start : start + 300_000]))
    data[again : again + 200_000] = some_bytes(200_000, "again")
    file.write(again, bytes(data[again : again + 200_000]))
    file.write(300_000, bytes(data[300_000:600_000]))
    file.release()
    assert box.get(b"f") == data
    assert "-" in box.volume.objects.get(BUCKET, b"f").etag


def test_what_is_written_front_to_back_lies_in_few_extents(box: TestVolume) -> None:
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    for start in range(0, 3_000_000, 10_000):
        file.write(start, bytes(10_000))
    file.release()
    with box.volume.index.read() as txn:
        found = extents.overlapping(txn, box.inode(b"f").id)
    assert sum(e.length for e in found) == 3_000_000
    assert len(found) < 30


def test_the_store_gets_a_large_file_when_it_is_closed_and_no_earlier(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its beginning is published before; but where dirty bytes press, or the rest does not
    come for long."""
    monkeypatch.setattr("cache.open_file._UNPUBLISHED_MAX", 500_000)
    queue = box.volume.queue
    data = some_bytes(1_000_000)
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    box.drain()
    file.write(0, data[:500_000])
    assert box.get(b"f") == data[:500_000]
    assert queue.run_once() == 0
    file.write(500_000, data[500_000:])
    assert queue.run_once() == 0
    with monkeypatch.context() as patched:
        in_a_minute = time.time_ns() + 60 * 10**9
        patched.setattr("cache.queue.time.time_ns", lambda: in_a_minute)
        assert len(queue._due(False, False)) == 1
    assert len(queue._due(True, False)) == 1
    file.flush()  # nothing is left to publish, but the store may have it now
    assert queue.run_once() == 1
    wait_until(queue.is_idle)
    assert box.stored_bytes(b"f") == data
    assert box.volume.objects.get(BUCKET, b"f").etag == hashlib.md5(data).hexdigest()
    file.release()


def test_the_store_gets_what_a_mapping_wrote_behind_its_close(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.open_file._UNPUBLISHED_MAX", 500_000)
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    file.flush()
    file.write(0, some_bytes(500_000))
    assert not file.release_now()
    file.release()
    assert box.volume.queue.run_once() == 1
    wait_until(box.volume.queue.is_idle)
    assert box.stored_bytes(b"f") == some_bytes(500_000)


def test_a_full_index_does_not_fail_the_close_of_what_is_published(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.open_file._UNPUBLISHED_MAX", 500_000)
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    file.write(0, some_bytes(500_000))
    monkeypatch.setattr(box.volume.index, "_make_room", lambda *, wait: IndexFull("full"))
    with pytest.raises(IndexFull):
        box.create(b"g")
    file.flush()
    file.release()
    box.drain()
    assert box.stored_bytes(b"f") == some_bytes(500_000)


@pytest.mark.parametrize("size", [0, 100, 600_000])
def test_the_etag_stays_as_long_as_the_content(box: TestVolume, size: int) -> None:
    box.create(b"f")
    box.write(b"f", some_bytes(size))
    box.write(b"f", some_bytes(size)[:1])  # so that the large one has no MD5
    box.drain()
    before = box.inode(b"f")
    file = box.volume.open_files.open(before.id, write=True)
    file.truncate(size)
    file.sync()
    file.release()
    box.volume.open_files.truncate(before.id, size, touches=True)
    box.chmod(b"f", 0o600)
    box.volume.xattrs.set(before.id, b"user.s3.tag.t", b"1", create=False, replace=False)
    box.rename(b"f", b"g")
    after = box.inode(b"g")
    assert (after.etag, after.revision) == (before.etag, before.revision)
    assert after.mtime_ns > before.mtime_ns
    box.drain()
    assert box.store.calls["put"] == 1  # and nothing was sent again


def test_a_truncation_to_the_same_size_leaves_the_time_as_it_is(box: TestVolume) -> None:
    """The kernel, which knows both, keeps it too. O_TRUNC is another matter."""
    box.create(b"file")
    box.write(b"file", b"x" * 5000)
    before = box.inode(b"file")
    files = box.volume.open_files
    assert files.truncate(before.id, 5000).mtime_ns == before.mtime_ns
    assert box.inode(b"file") == before
    emptied = files.truncate(before.id, 0)
    assert emptied.mtime_ns > before.mtime_ns
    assert files.truncate(before.id, 0, touches=True).mtime_ns > emptied.mtime_ns


def test_an_unlinked_file_lives_until_its_last_close(box: TestVolume) -> None:
    inode = box.create(b"f")
    box.write(b"f", b"1" * 9000)
    file = box.volume.open_files.open(inode.id, write=True)
    box.unlink(b"f")
    box.drain()
    box.reap()
    file.write(9000, b"2" * 9000)
    file.flush()
    box.reap()
    assert file.read(8999, 2) == b"12"
    file.release()
    box.reap()
    with pytest.raises(NoSuchInode):
        box.volume.files.get(inode.id)
    box.check()
    assert box.stored() == {}


def test_an_open_file_keeps_its_own_bytes_when_s3_puts_over_its_name(box: TestVolume) -> None:
    box.put(b"f", b"1" * 9000)
    file = box.volume.open_files.open(box.inode(b"f").id, write=True)
    box.put(b"f", b"2" * 9000)
    file.write(9000, b"3")
    file.flush()
    assert file.read(8999, 2) == b"13"
    assert box.get(b"f") == b"2" * 9000
    file.release()
    box.drain()
    assert box.stored_bytes(b"f") == b"2" * 9000


def test_two_openers_share_one_file(box: TestVolume) -> None:
    inode = box.create(b"f")
    files = box.volume.open_files
    one, other = files.open(inode.id, write=True), files.open(inode.id, write=True)
    one.write(0, b"1" * 5000)
    assert other.read(0, 5000) == b"1" * 5000
    one.release()
    assert files.held() == {inode.id}
    other.release()
    assert files.held() == set()


def test_what_can_be_done_without_waiting_is_what_waiting_would_have_done(box: TestVolume) -> None:
    inode = box.create(b"f")
    files = box.volume.open_files
    one, other = files.open(inode.id, write=True), files.open(inode.id, write=True)
    assert one.flush_now()
    assert not one.write_now(1, bytes(INLINE_MAX))
    assert not files.set_mtime_now(inode.id, 5)
    assert one.write_now(3, b"abc")
    assert files.set_mtime_now(inode.id, 5)
    assert other.cached(0, memoryview(bytearray(100))) == b"\0\0\0abc"
    assert box.get(b"f") == b""
    with box.volume.index._leader:  # another thread commits
        assert not one.flush_now()
    assert box.get(b"f") == b""
    assert one.flush_now()
    assert box.get(b"f") == b"\0\0\0abc"
    assert box.volume.files.get(inode.id).mtime_ns == 5
    assert one.write_now(0, b"xyz")
    assert one.release_now()
    assert files.held() == {inode.id}
    assert not other.release_now()
    other.release()
    assert files.held() == set()
    assert box.get(b"f") == b"xyzabc"


def test_a_file_that_cannot_outgrow_memory_keeps_what_it_has(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = box.volume.segments.dirty.reserve
    room = iter([1])

    def reserve_one_byte(_: int, *, passing: bool) -> Reservation:
        for length in room:
            return reserve(length, passing=passing)
        raise CacheFull("no segment")

    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    file.write(0, b"abc")
    with monkeypatch.context() as patched:
        patched.setattr(box.volume.segments.dirty, "reserve", reserve_one_byte)
        with pytest.raises(CacheFull):
            file.write(3, bytes(INLINE_MAX))
    assert file.flush_now()
    assert box.get(b"f") == b"abc"
    file.write(3, bytes(INLINE_MAX))
    file.release()
    assert box.get(b"f") == b"abc" + bytes(INLINE_MAX)


def test_a_write_that_finds_no_room_leaves_nothing_behind(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither behind the end of the file, nor in its MD5: what follows goes on behind the gap, as
    the kernel hands it over."""

    def no_room(length: int, *, passing: bool) -> Reservation:
        raise CacheFull("no segment")

    data = some_bytes(300_000)
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    file.write(0, data[:50_000])
    file.write(50_000, data[50_000:60_000])  # begins a stretch that has room for more
    with monkeypatch.context() as patched:
        patched.setattr(box.volume.segments.dirty, "reserve", no_room)
        with pytest.raises(CacheFull):
            file.write(60_000, data[60_000:200_000])
    file.flush()
    assert box.get(b"f") == data[:60_000]
    box.check()
    file.write(200_000, data[200_000:])
    file.release()
    assert box.get(b"f") == data[:60_000] + bytes(140_000) + data[200_000:]
    assert "-" in box.volume.objects.get(BUCKET, b"f").etag
    box.check()


def test_a_small_file_that_is_appended_to_until_it_is_large_has_its_md5_as_etag(
    box: TestVolume,
) -> None:
    files = box.volume.open_files
    inode = box.create(b"f").id
    for part in (b"a" * 1000, b"b" * INLINE_MAX):
        file = files.open(inode, write=True)
        file.write(box.volume.files.get(inode).size, part)
        file.release()
    assert box.volume.files.get(inode).etag == hashlib.md5(box.get(b"f")).hexdigest()


def test_bytes_that_lie_in_a_segment_are_not_published_without_waiting(box: TestVolume) -> None:
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    file.write(0, bytes(INLINE_MAX + 1))
    assert not file.flush_now()
    assert box.get(b"f") == b""
    file.flush()
    assert file.flush_now()
    file.release()


def test_writes_that_come_late_do_not_undo_the_time_that_was_set(box: TestVolume) -> None:
    files = box.volume.open_files
    inode = box.create(b"f").id
    file = files.open(inode, write=True)
    file.write(0, b"1" * 9000)
    file.flush()
    assert box.volume.files.get(inode).mtime_ns > 5
    files.set_mtime(inode, 5)
    file.write(0, b"2" * 9000)
    file.release()
    assert box.volume.files.get(inode).mtime_ns == 5


def test_the_last_close_of_an_unchanged_file_waits_for_nothing(box: TestVolume) -> None:
    file = box.volume.open_files.open(box.create(b"f").id, write=True)
    assert file.release_now()
    assert box.volume.open_files.held() == set()


def test_in_write_through_a_close_waits_for_what_is_queued(through: TestVolume) -> None:
    file = through.volume.open_files.open(through.create(b"f").id, write=True)
    assert not file.flush_now()
    file.flush()
    assert file.flush_now()
    file.release()


def test_a_crash_loses_what_was_not_flushed_and_nothing_else(box: TestVolume) -> None:
    inode = box.create(b"f")
    file = box.volume.open_files.open(inode.id, write=True)
    file.write(0, b"1" * 9000)
    file.flush()
    file.write(0, b"2" * 9000)
    box.restart()
    assert box.get(b"f") == b"1" * 9000
    box.check()


def test_in_write_through_the_store_has_it_when_flush_returns(through: TestVolume) -> None:
    through.create(b"f")
    through.write(b"f", b"1" * 9000)
    assert through.stored_bytes(b"f") == b"1" * 9000


def test_a_directory_is_not_opened_and_what_is_gone_is_not_found(box: TestVolume) -> None:
    inode = box.mkdir(b"d")
    with pytest.raises(IsADirectory):
        box.volume.open_files.open(inode.id, write=False)
    with pytest.raises(NoSuchInode):
        box.volume.open_files.open(10**9, write=False)
    with pytest.raises(NoSuchKey):
        box.inode(b"missing")


def test_a_read_only_bucket_opens_for_reading(tmp_path: Path) -> None:
    volume = TestVolume(tmp_path)
    volume.put(b"f", b"1")
    volume.drain()
    volume.close()
    volume = TestVolume(tmp_path, read_only=True)
    try:
        assert volume.read(b"f") == b"1"
        with pytest.raises(NotPermitted):
            volume.volume.open_files.open(volume.inode(b"f").id, write=True)
        for change in (
            lambda: volume.put(b"g", b"1"),
            lambda: volume.delete(b"f"),
            lambda: volume.unlink(b"f"),
            lambda: volume.create(b"g"),
            lambda: volume.mkdir(b"d"),
            lambda: volume.rename(b"f", b"g"),
            lambda: volume.chmod(b"f", 0o600),
        ):
            with pytest.raises(NotPermitted):
                change()
        assert volume.listed() == [b"f"]
    finally:
        volume.close()


def test_many_scattered_writes_are_published_before_they_fill_the_memory(
    box: TestVolume,
) -> None:
    inode = box.create(b"f")
    file = box.volume.open_files.open(inode.id, write=True)
    for number in range(2500):
        file.write(5000 + number * 3, b"x")
    assert 0 < len(file._overlay) < 2048
    file.release()
    assert box.get(b"f") == bytes(5000) + b"x\0\0" * 2499 + b"x"


@pytest.mark.parametrize(
    ("starts", "ahead"),
    [
        ((0, 1, 2), True),
        ((0, 2, 1), True),  # the kernel's read-ahead is not always in order
        ((9, 5, 1), False),
        ((5, 9, 0), False),
    ],
)
def test_only_a_reader_in_order_has_more_fetched_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: tuple[int, ...], ahead: bool
) -> None:
    box = TestVolume(tmp_path, capacity_bytes=512 * MIB, segment_bytes=32 * MIB)
    try:
        data = some_bytes(12 * MIB)
        box.put(b"a", data)
        box.drain()
        box.evict()
        fetched: list[int] = []
        monkeypatch.setattr(
            box.volume.fetcher, "prefetch", lambda inode, start, stop: fetched.append(start)
        )
        file = box.volume.open_files.open(box.inode(b"a").id, write=False)
        for start in starts:
            assert file.read(start * MIB, MIB) == data[start * MIB : (start + 1) * MIB]
        file.release()
        assert bool(fetched) == ahead
    finally:
        box.close()
