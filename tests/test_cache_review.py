"""Faults that a review of the storage core found, each with the test that failed before."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import pytest

from cache import dirty, extents, names, namespace
from cache.changes import Change
from cache.config import MIB, CacheConfig, PrefixMode, VolumeConfig
from cache.errors import (
    ExtentCorrupt,
    NoSuchBucket,
    NoSuchInode,
    NoSuchKey,
    PreconditionFailed,
    StaleContent,
    StoreChanged,
    StoreRefused,
    StoreUnavailable,
)
from cache.namespace import Place
from cache.parts import PartWriter
from cache.persist import place_of
from cache.publishing import Object
from cache.records import Bucket, Extent, Kind, ObjectAttributes, Part, WriteMode
from cache.stores.base import PartUpload
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from tests.support.fault_store import FaultStore, no_fault
from tests.support.volume import BUCKET, TestVolume, box, some_bytes, through
from tests.support.waiting import wait_until

__all__ = ["box", "through"]


class Killed(Exception):
    """The process ends here, as far as the code under test can tell."""


def extent_of(volume: TestVolume, path: bytes) -> Extent:
    with volume.volume.index.read() as txn:
        return extents.overlapping(txn, volume.inode(path).id)[0]


# ------------------------------------------------------------------------------------ bytes here


def test_a_range_of_a_corrupt_clean_extent_comes_from_the_store(box: TestVolume) -> None:
    data = some_bytes(200_000)
    box.put(b"x", data)
    box.drain()
    extent = extent_of(box, b"x")
    box.restart()
    (path,) = (p for p in box.volume.segments.paths() if int(p.stem) == extent.segment)
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"\xff" * 10, extent.offset + 50)
    os.close(fd)
    assert box.get(b"x", 1000, 5000) == data[1000:5000]
    assert box.get(b"x") == data


def test_of_a_lost_segment_the_clean_bytes_come_from_the_store(box: TestVolume) -> None:
    data = some_bytes(200_000)
    box.put(b"clean", data)
    box.drain()
    box.put(b"dirty", data)
    box.restart()
    for path in box.volume.segments.paths():
        path.unlink()
    assert box.get(b"clean") == data
    with pytest.raises(ExtentCorrupt):
        box.get(b"dirty")
    box.evict()
    assert any("missing" in problem for problem in box.fsck(read_data=True).problems)


def test_a_copy_of_a_symlink_has_the_bytes_of_its_target(box: TestVolume) -> None:
    box.create(b"link", Kind.SYMLINK, target=b"to/what/it/leads")
    source = box.volume.objects.get(BUCKET, b"link")
    box.volume.objects.copy(source, BUCKET, b"copy", attributes=ObjectAttributes())
    assert box.get(b"copy") == b"to/what/it/leads"
    upload = box.volume.uploads.create(BUCKET, b"parts", owner="me", attributes=ObjectAttributes())
    part = box.volume.uploads.copy_part(upload, 1, source, 3, 7, etag="e")
    box.volume.uploads.complete(upload, [part], etag="e-1", attributes=ObjectAttributes())
    assert box.get(b"parts") == b"what"


# ------------------------------------------------------------------------------------ open files


class _Interrupted:
    """A lock before whose first acquisition something else happens."""

    def __init__(self, lock: Any, happens: Any) -> None:
        self._lock = lock
        self._happens = happens

    def __enter__(self) -> None:
        happens, self._happens = self._happens, lambda: None
        happens()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._lock.release()


def test_an_open_that_meets_the_last_close_sees_what_that_published(box: TestVolume) -> None:
    box.create(b"x")
    open_files = box.volume.open_files
    lock: Any = _Interrupted(open_files._lock, lambda: box.write(b"x", b"hello"))
    open_files._lock = lock
    file = open_files.open(box.inode(b"x").id, write=True)
    assert file.read(0, 10) == b"hello"
    file.write(5, b"!")
    file.flush()
    file.release()
    assert box.get(b"x") == b"hello!"


# ------------------------------------------------------------------------------------ parts


class _Refusing:
    """A store that says no when it has the whole part, or before it takes any of it."""

    def __init__(self, takes: bool) -> None:
        self._takes = takes
        self.go_on = threading.Event()

    def write_part(self, number: int, chunks: Iterable[bytes], size_bytes: int) -> str:
        if self._takes:
            assert sum(len(chunk) for chunk in chunks) == size_bytes
        else:
            self.go_on.wait(60)
        raise StoreUnavailable("says the test")


def _part_writer(box: TestVolume, store: _Refusing, size_bytes: int) -> PartWriter:
    def enter(*_: object) -> Part:
        raise AssertionError("the store refused it")

    staged = box.volume.contents.stage(size_bytes)
    return PartWriter(1, size_bytes, staged, cast("PartUpload", store), enter)


def _in_time(call: Any) -> BaseException | None:
    ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            call()
        except BaseException as exc:  # noqa: BLE001  handed over
            ends.put(exc)
        else:
            ends.put(None)

    threading.Thread(target=run, daemon=True).start()
    return ends.get(timeout=60)


def test_a_part_that_the_store_refuses_at_its_end_ends(box: TestVolume) -> None:
    writer = _part_writer(box, _Refusing(takes=True), 10_000)
    writer.write(bytes(10_000))
    assert isinstance(_in_time(lambda: writer.commit(etag="e", checksums={})), StoreUnavailable)
    writer.abort()


def test_a_part_that_is_given_up_while_the_store_hangs_ends(box: TestVolume) -> None:
    store = _Refusing(takes=False)
    writer = _part_writer(box, store, 30_000)
    writer.write(bytes(10_000))
    writer.write(bytes(10_000))
    threading.Timer(0.05, store.go_on.set).start()
    assert _in_time(writer.abort) is None


# ------------------------------------------------------------------------------------ persisting


def killed_after(box: TestVolume, operation: str, path: bytes) -> None:
    """The persister works on a name and dies between the store's answer and its own note of it."""

    def dies(done: str, key: bytes) -> None:
        if done == operation:
            raise Killed

    box.store.after = dies
    with pytest.raises(Killed):
        box.volume.persister.persist(Place(box.root, *box.parent_of(path)))
    box.store.after = no_fault


def test_an_append_to_what_is_not_cached_survives_a_kill_behind_its_upload(
    box: TestVolume,
) -> None:
    data = some_bytes(300_000)
    box.put(b"x", data)
    box.drain()
    box.evict()
    box.write(b"x", b"tail", start=len(data))
    killed_after(box, "put", b"x")
    box.evict()
    box.drain()
    assert box.get(b"x") == data + b"tail"
    assert list(box.stored()) == [b"x"]


@pytest.mark.parametrize("ours", [True, False])
def test_a_rename_of_what_is_not_cached_survives_a_kill_behind_it(
    box: TestVolume, ours: bool
) -> None:
    data = some_bytes(300_000)
    if ours:
        box.put(b"x", data)
        box.drain()
        box.evict()
    else:
        (box.store_dir / "x").write_bytes(data)
        assert box.names() == [b"x"]
    box.rename(b"x", b"y")
    killed_after(box, "rename", b"y")
    box.drain()
    assert box.get(b"y") == data


def test_new_permissions_go_along_with_a_rename(box: TestVolume) -> None:
    box.put(b"x", b"1")
    box.drain()
    box.chmod(b"x", 0o600)
    box.rename(b"x", b"y")
    box.drain()
    attributes = box.store.head(b"y").attributes
    assert attributes is not None
    assert attributes.mode == 0o600


def test_a_rename_does_not_take_for_its_own_what_others_put_there(box: TestVolume) -> None:
    data = some_bytes(300_000)
    box.put(b"x", data)
    box.drain()
    box.evict()
    box.get(b"x", 0, 1000)  # a part of it is cached
    box.rename(b"x", b"y")
    (box.store_dir / "x").write_bytes(b"z" * len(data))
    with pytest.raises(StoreChanged):
        box.volume.persister.persist(Place(box.root, box.root, b"y"))
    with pytest.raises(StaleContent):
        box.get(b"y")


def test_new_permissions_survive_a_kill_behind_them(box: TestVolume) -> None:
    data = some_bytes(300_000)
    (box.store_dir / "x").write_bytes(data)
    assert box.names() == [b"x"]
    box.chmod(b"x", 0o600)
    killed_after(box, "set_attributes", b"x")
    box.drain()
    assert box.get(b"x") == data
    assert box.inode(b"x").mode == 0o600


def test_writes_during_two_uploads_are_no_conflict(box: TestVolume) -> None:
    box.put(b"x", b"1" * 9000)
    box.drain()
    box.put(b"x", b"2" * 9000)
    writes = [(b"3", 10), (b"4", 20)]

    def write(operation: str, key: bytes) -> None:
        if operation == "put" and writes:
            data, start = writes.pop()
            box.write(b"x", data, start=start)

    box.store.before = write
    box.drain()
    assert list(box.stored()) == [b"x"]
    assert box.stored_bytes(b"x") == box.get(b"x")


def test_errors_that_are_kept_hold_no_reader_slots(box: TestVolume) -> None:
    index = box.volume.index
    kept = []
    for _ in range(100):
        with pytest.raises(NoSuchInode) as caught, index.read() as txn:
            namespace.get(txn, 1 << 40)
        kept.append(caught.value)
    assert index._env.info()["num_readers"] < 100


# ------------------------------------------------------------------------------------ write_through


def absent(found: Object | None) -> None:
    if found is not None:
        raise PreconditionFailed("If-None-Match")


def test_of_two_conditional_puts_the_one_that_is_refused_does_not_reach_the_store(
    through: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = through.volume.objects._publisher
    intend = publisher.intend
    winner = [b"A" * 9000]

    def overtaken(bucket: Bucket, key: bytes) -> Place:
        place = intend(bucket, key)
        if winner:
            through.put(b"x", winner.pop(), check=absent)
        return place

    monkeypatch.setattr(publisher, "intend", overtaken)
    with pytest.raises(PreconditionFailed):
        through.put(b"x", b"B" * 9000, check=absent)
    through.drain()
    through.evict()
    assert through.get(b"x") == b"A" * 9000


def test_a_put_leaves_its_note_though_the_mover_looked_at_it_too_early(
    through: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    through.put(b"x", b"A" * 9000)
    publisher = through.volume.objects._publisher
    intend = publisher.intend
    looks = [through.drain]

    def looked_at(bucket: Bucket, key: bytes) -> Place:
        place = intend(bucket, key)
        if looks:
            looks.pop()()
        return place

    def dies(operation: str, key: bytes) -> None:
        if operation == "upload":
            raise Killed

    monkeypatch.setattr(publisher, "intend", looked_at)
    through.store.after = dies
    with pytest.raises(Killed):
        through.put(b"x", b"B" * 9000)
    through.store.after = no_fault
    through.drain()
    through.evict()
    assert through.get(b"x") == b"B" * 9000


def test_an_fsync_that_finishes_what_a_killed_gateway_began_has_the_kernel_forget(
    through: TestVolume,
) -> None:
    through.put(b"x", b"A" * 9000)
    before = through.inode(b"x").id

    def dies(operation: str, key: bytes) -> None:
        if operation == "upload":
            raise Killed

    through.store.after = dies
    with pytest.raises(Killed):
        through.put(b"x", b"B" * 9000)
    through.store.after = no_fault
    forgotten: list[Change] = []
    through.volume.discovery.tell_kernel = forgotten.extend  # as in the mount process

    through.volume.files.sync(through.root)

    assert through.inode(b"x").id != before
    assert any((c.parent, c.name) == (through.root, b"x") for c in forgotten)


def test_written_around_a_directory_that_moves_meanwhile_a_body_is_refused(
    tmp_path: Path,
) -> None:
    box = TestVolume(tmp_path, write_mode=WriteMode.WRITE_AROUND)
    box.put(b"e/f", b"1")
    box.rename(b"e", b"d")
    writer = box.volume.objects.writer(BUCKET, b"d/x", size_bytes=9000)
    writer.write(b"q" * 9000)
    box.drain()  # the store follows
    with pytest.raises(StoreUnavailable):
        writer.commit(etag="e", attributes=ObjectAttributes())
    writer.abort()
    with pytest.raises(NoSuchKey):
        box.get(b"d/x")
    box.close()


# ------------------------------------------------------------------------------------ buckets


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """A volume whose buckets clients make."""
    (tmp_path / "store").mkdir()
    store = PosixStore(PosixStoreConfig(path=tmp_path / "store"))
    cache = CacheConfig(
        state_dir=tmp_path / "state",
        capacity_bytes=64 * MIB,
        segment_bytes=MIB,
        index_bytes=64 * MIB,
        sync=False,
    )
    config = VolumeConfig(
        cache=cache, creatable_store="s", creatable_write_mode=WriteMode.WRITE_BACK
    )
    opened = Volume.open(config, {"s": store})
    yield opened
    opened.close()
    store.close()


def put(volume: Volume, key: bytes, data: bytes) -> None:
    writer = volume.objects.writer("made", key, size_bytes=len(data))
    writer.write(data)
    writer.commit(etag="e", attributes=ObjectAttributes())
    writer.abort()


def persist_all(volume: Volume) -> None:
    with volume.index.read() as txn:
        entries = dirty.entries(txn)
    for entry in entries:
        volume.persister.persist(place_of(entry))


def test_what_was_deleted_with_its_bucket_does_not_come_back_into_a_new_one(
    volume: Volume,
) -> None:
    volume.buckets.create("made", "me")
    put(volume, b"d/x", b"old" * 3000)
    persist_all(volume)
    volume.objects.delete("made", b"d/x")
    volume.buckets.delete("made")
    volume.buckets.create("made", "me")
    with pytest.raises(NoSuchKey):
        volume.objects.get("made", b"d/x")
    put(volume, b"d/x", b"new" * 3000)
    persist_all(volume)
    volume.segments.close()
    volume.reclaimer.seal_abandoned()
    volume.reclaimer.evict_all()
    _, snapshot = volume.objects.open("made", b"d/x")
    assert snapshot.read(0, 9000) == b"new" * 3000


def test_a_put_into_a_bucket_that_is_removed_meanwhile_is_refused(volume: Volume) -> None:
    volume.buckets.create("made", "me")
    writer = volume.objects.writer("made", b"x", size_bytes=5)
    writer.write(b"hello")
    volume.buckets.delete("made")
    with pytest.raises(NoSuchBucket):
        writer.commit(etag="e", attributes=ObjectAttributes())
    writer.abort()


# ------------------------------------------------------------------------------------ discovery


def test_a_directory_that_the_store_moves_while_it_is_listed_keeps_its_names(
    tmp_path: Path,
) -> None:
    box = TestVolume(tmp_path, revalidate="always")
    box.put(b"d/x", b"1" * 9000)
    box.drain()
    box.names()
    box.names(b"d")
    directory = box.inode(b"d").id
    renames = [lambda: box.rename(b"d", b"e")]

    def moves(operation: str, key: bytes) -> None:
        if operation == "list" and key == b"d/" and renames:
            renames.pop()()
            box.drain()

    with box.volume.index.read() as txn:
        prefix = box.volume.discovery._store_prefix(txn, namespace.get(txn, directory))[1]
    box.store.before = moves
    seen = box.volume.discovery._list_into(
        box.volume.buckets.get(BUCKET), directory, prefix, first=False
    )
    box.volume.discovery._finish(directory, prefix, seen, 0)
    box.store.before = no_fault
    with box.volume.index.read() as txn:
        assert names.find(txn, directory, b"x") is not None
    assert box.read(b"e/x") == b"1" * 9000
    box.close()


def test_a_key_whose_directory_the_store_moves_while_it_is_asked_for_is_not_gone(
    tmp_path: Path,
) -> None:
    box = TestVolume(tmp_path, revalidate="always")
    box.put(b"d/x", b"1" * 9000)
    box.drain()
    box.rename(b"d", b"e")
    heads = [box.drain]

    def moves(operation: str, key: bytes) -> None:
        if operation == "head" and key == b"d/x" and heads:
            heads.pop()()

    box.store.before = moves
    assert box.get(b"e/x") == b"1" * 9000
    assert not heads
    box.close()


def test_checking_another_name_of_a_file_does_not_take_it_from_the_file(tmp_path: Path) -> None:
    box = TestVolume(tmp_path, revalidate="always")
    box.put(b"a", b"x" * 9000)
    box.names()
    box.link(b"a", b"b")
    box.drain()
    assert box.get(b"b") == b"x" * 9000
    assert box.inode(b"a").id == box.inode(b"b").id
    box.close()


def test_what_is_renamed_to_where_nothing_is_persisted_leaves_the_store(tmp_path: Path) -> None:
    box = TestVolume(tmp_path, prefixes=(PrefixMode("tmp/", WriteMode.TRANSIENT),))
    data = some_bytes(9000)
    box.mkdir(b"tmp")
    box.put(b"x", data)
    box.create(b"link", Kind.SYMLINK, target=b"to")
    box.drain()
    box.evict()
    box.rename(b"x", b"tmp/x")
    box.rename(b"link", b"tmp/link")
    box.drain()
    assert not box.is_stored(b"x")
    assert not box.is_stored(b"link")
    box.evict()
    assert box.get(b"tmp/x") == data
    box.check()
    box.close()


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_key_made_again_alone_in_its_directory_is_no_conflict(
    box: TestVolume, newest_first: bool
) -> None:
    box.listed()  # so that what is new here has to be new in the store
    box.put(b"d/x", b"1" * 10)
    box.drain()
    box.delete(b"d/x")
    box.put(b"d/x", b"2" * 20)
    with box.volume.index.read() as txn:
        entries = dirty.entries(txn)
    for entry in reversed(entries) if newest_first else entries:
        box.volume.persister.persist(place_of(entry))
    box.drain()
    assert list(box.stored()) == [b"d/", b"d/x"]
    assert box.stored_bytes(b"d/x") == b"2" * 20


# ------------------------------------------------------------------------------------ the mover


def test_a_segment_that_is_just_being_made_is_not_sealed(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    sealed: list[int] = []

    def interrupted(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and not sealed:
            sealed.append(box.volume.reclaimer.seal_abandoned())
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", interrupted)
    box.put(b"x", b"1" * 9000)
    assert sealed == [0]
    assert box.volume.reclaimer.run_once() == 0
    assert box.get(b"x") == b"1" * 9000


def test_names_behind_many_that_wait_have_their_turn(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.queue._SCAN_MAX", 5)

    def refuses(operation: str, key: bytes) -> None:
        if key.startswith(b"bad"):
            raise StoreRefused("says the test")

    box.store.before = refuses
    for number in range(12):
        box.put(b"bad%d" % number, b"1")
    box.put(b"good", b"1")

    def look() -> bool:
        box.volume.queue.run_once()
        return box.is_stored(b"good")

    wait_until(look)


def test_a_fill_that_a_truncation_overtakes_leaves_nothing_behind_the_end(
    box: TestVolume,
) -> None:
    box.put(b"x", b"1" * 200_000)
    box.drain()
    box.evict()
    cuts = [100_000]

    def cut(operation: str, key: bytes) -> None:
        if operation == "read" and cuts:
            box.volume.open_files.truncate(box.inode(b"x").id, cuts.pop())

    box.store.after = cut
    assert box.get(b"x", 0, 1000) == b"1" * 1000
    wait_until(lambda: not cuts and not box.volume.fetcher._fills)
    box.store.after = no_fault
    box.check()
    box.volume.open_files.truncate(box.inode(b"x").id, 150_000)
    assert box.get(b"x") == b"1" * 100_000 + bytes(50_000)


def test_after_the_segments_became_smaller_what_is_dirty_still_moves(tmp_path: Path) -> None:
    data = some_bytes(900_000)
    box = TestVolume(tmp_path, segment_bytes=4 * MIB)
    box.put(b"x", data)
    box.close()
    box = TestVolume(tmp_path, segment_bytes=MIB)
    box.put(b"y", b"1" * 9000)
    box.evict()
    assert box.get(b"x") == data
    box.check()
    box.close()


def test_a_deleted_directory_marker_leaves_a_store_that_has_no_directories(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = dataclasses.replace(box.store.store.capabilities, native_directories=False)
    monkeypatch.setattr(FaultStore, "capabilities", property(lambda _: flat))
    box.listed()
    box.put(b"d/")
    box.put(b"d/x", b"1")
    box.drain()
    deleted = []

    def note(operation: str, key: bytes) -> None:
        if operation == "delete":
            deleted.append(key)

    box.store.before = note
    box.delete(b"d/")
    box.drain()
    assert box.listed() == [b"d/x"]
    assert deleted == [b"d/"]
