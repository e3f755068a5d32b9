"""What happens at the edges: a full cache refuses quickly, and a replaced object is found again."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cache import segments
from cache.config import MIB, PrefixMode
from cache.errors import CacheFull, CrossesBucket, NoSuchInode, StaleContent, StoreUnavailable
from cache.locks import NodeLocks
from cache.namespace import Place
from cache.records import WriteMode
from cache.segments import Reservation, SegmentStream
from cache.stores.base import StoredAttributes
from tests.support.fault_store import no_fault
from tests.support.volume import BUCKET, TestVolume, some_bytes, through
from tests.support.waiting import wait_until

__all__ = ["through"]


def take_all(stream: SegmentStream, length: int, taken: list[Reservation]) -> None:
    while True:
        taken.append(stream.reserve(length))


class SlowClock:
    """Time that passes for those only who sleep."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.time_ns = time.time_ns

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_writer_into_a_full_cache_is_refused_once_slowly_then_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SlowClock()
    monkeypatch.setattr(segments, "time", clock)
    box = TestVolume(tmp_path, capacity_bytes=8 * MIB)
    try:
        stream = box.volume.segments.dirty
        length = box.volume.segments.extent_max
        taken: list[Reservation] = []
        before_s = clock.now_s
        with pytest.raises(CacheFull):
            take_all(stream, length, taken)
        refused_s = clock.now_s
        assert refused_s > before_s
        for _ in range(20):
            with pytest.raises(CacheFull):
                stream.reserve(length)
        assert clock.now_s == refused_s, "each refusal waited"
        for reservation in taken:
            reservation.release()
    finally:
        box.close()


def test_a_closed_snapshot_is_not_taken_for_a_lost_segment(tmp_path: Path) -> None:
    box = TestVolume(tmp_path)
    try:
        data = some_bytes(3 * MIB)
        box.put(b"a", data)
        found, snapshot = box.volume.objects.open(BUCKET, b"a")
        pieces = snapshot.pieces(0, found.size)
        next(pieces)
        snapshot.close()
        with pytest.raises(StaleContent):
            next(pieces)
        assert box.get(b"a") == data
        box.check()
    finally:
        box.close()


def test_a_directory_does_not_leave_a_transient_place(tmp_path: Path) -> None:
    box = TestVolume(tmp_path, prefixes=(PrefixMode("tmp/", WriteMode.TRANSIENT),))
    try:
        for directory in (b"tmp", b"tmp/d", b"e"):
            box.mkdir(directory)
        for source, target in ((b"tmp/d", b"d"), (b"e", b"tmp/e"), (b"tmp", b"other")):
            with pytest.raises(CrossesBucket):
                box.rename(source, target)
        box.rename(b"tmp/d", b"tmp/f")
        box.rename(b"e", b"g")
        assert box.names(b"") == [b"g", b"tmp"]
    finally:
        box.close()


def test_an_object_that_others_replaced_is_found_by_the_reader_after_the_one_that_met_it(
    tmp_path: Path,
) -> None:
    box = TestVolume(tmp_path, revalidate="never")
    try:
        old, new = some_bytes(300_000, "old"), some_bytes(200_000, "new")
        box.put(b"a", old)
        box.drain()
        box.evict()
        box.store.store.put(b"a", [new], len(new), StoredAttributes())
        with pytest.raises(StaleContent):
            box.get(b"a")
        assert box.get(b"a") == new
    finally:
        box.close()


SMALL_LIMIT = {"dirty_soft_limit": 0.004, "dirty_hard_limit": 0.004}
"""Of dirty bytes, in all: 268 thousand."""
STRAIGHT_INTO_THE_STORE = [{"write_mode": WriteMode.WRITE_THROUGH}, SMALL_LIMIT]
"""Each body, or those that are larger than what may wait here."""


@pytest.mark.parametrize("settings", STRAIGHT_INTO_THE_STORE, ids=["write_through", "too large"])
def test_a_rename_waits_for_an_upload_that_replaces_its_file_in_the_store(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    box = TestVolume(tmp_path, **settings)
    try:
        old, new = some_bytes(200_000, "old"), some_bytes(300_000, "new")
        box.put(b"a", old)
        box.drain()
        box.evict()
        renames: list[threading.Thread] = []

        def rename_meanwhile(operation: str, key: bytes) -> None:
            if operation == "upload" and not renames:
                renames.append(threading.Thread(target=box.rename, args=(b"a", b"b")))
                renames[0].start()

        box.store.before = rename_meanwhile
        box.put(b"a", new)
        renames[0].join(30)
        assert not renames[0].is_alive()
        box.store.before = no_fault
        box.drain()
        box.evict()
        # Before the PUT or after it, but never the name of bytes that the PUT wrote over.
        after = {key: box.get(key) for key in box.listed()}
        assert after in ({b"a": new, b"b": old}, {b"b": new})
        box.check()
    finally:
        box.close()


def test_what_replaces_a_further_link_is_no_conflict_with_its_copy(tmp_path: Path) -> None:
    box = TestVolume(tmp_path)
    try:
        box.put(b"a", some_bytes(20_000, "a"))
        box.link(b"a", b"b")
        box.drain()
        new = some_bytes(30_000, "new")
        box.put(b"b", new)
        box.drain()
        assert (box.store_dir / "b").read_bytes() == new
        assert not (box.store_dir / "lost+found").exists()
        box.check()
    finally:
        box.close()


def test_what_replaces_a_link_waits_for_what_is_under_way_with_the_file(
    through: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else that is noted behind it, as the place of a file which is there no more."""
    first, second = some_bytes(20_000, "first"), some_bytes(30_000, "second")
    through.put(b"a", first)
    through.link(b"a", b"b")
    through.drain()
    replacing = threading.Thread(target=through.put, args=(b"a", second))
    at_locks = threading.Event()
    hold = NodeLocks.hold

    def noticed(locks: NodeLocks, *name: object, **how: Any) -> Any:
        if threading.current_thread() is replacing:
            at_locks.set()
        return hold(locks, *name, **how)

    def replace_meanwhile(operation: str, key: bytes) -> None:
        if (operation, key) == ("set_attributes", b"a") and replacing.ident is None:
            replacing.start()
            assert at_locks.wait(20)

    def not_yet(operation: str, key: bytes) -> None:
        if (operation, key) == ("put", b"b"):
            raise StoreUnavailable("not before everything was evicted")

    monkeypatch.setattr(NodeLocks, "hold", noticed)
    through.store.before, through.store.after = not_yet, replace_meanwhile
    through.chmod(b"a", 0o600)
    through.volume.queue.run_once(hurry=True)
    wait_until(lambda: replacing.ident is not None)
    replacing.join()
    wait_until(through.volume.queue.is_idle)
    through.evict()
    assert through.get(b"b") == first
    through.store.before = no_fault
    through.drain()
    assert (through.stored_bytes(b"a"), through.stored_bytes(b"b")) == (second, first)
    through.check()


@pytest.mark.parametrize("settings", STRAIGHT_INTO_THE_STORE, ids=["write_through", "too large"])
def test_a_link_to_what_is_just_replaced_comes_too_late(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it leads to bytes that the store has no more."""
    box = TestVolume(tmp_path, **settings)
    first, second = some_bytes(200_000, "first"), some_bytes(300_000, "second")
    box.put(b"a", first)
    box.drain()
    at_locks = threading.Event()
    outcome: list[str] = []
    hold = NodeLocks.hold

    def link() -> None:
        try:
            box.link(b"a", b"b")
            outcome.append("linked")
        except NoSuchInode:
            outcome.append("too late")
        at_locks.set()

    linking = threading.Thread(target=link)

    def noticed(locks: NodeLocks, *name: object, **how: Any) -> Any:
        if threading.current_thread() is linking:
            at_locks.set()
        return hold(locks, *name, **how)

    def link_meanwhile(operation: str, key: bytes) -> None:
        if operation == "upload":
            linking.start()
            assert at_locks.wait(20)

    monkeypatch.setattr(NodeLocks, "hold", noticed)
    box.store.before = link_meanwhile
    box.put(b"a", second)
    linking.join()
    box.evict()
    assert outcome == ["too late"]
    assert box.names() == [b"a"]
    assert box.get(b"a") == second
    box.check()
    box.close()


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_gets_its_former_name_as_a_further_one_keeps_its_bytes(
    tmp_path: Path, linked: bool
) -> None:
    """They lie under that name in the store, and are nowhere else."""
    box = TestVolume(tmp_path)
    body = some_bytes(200_000)
    box.put(b"a", body)
    if linked:
        box.link(b"a", b"b")
    box.drain()
    box.evict()
    if linked:
        box.unlink(b"a")
    else:
        box.rename(b"a", b"b")
    box.link(b"b", b"a")
    box.volume.objects._persister.persist(Place(box.root, box.root, b"a"))
    box.evict()
    box.drain()
    box.evict()
    assert (box.get(b"a"), box.get(b"b")) == (body, body)
    assert (box.stored_bytes(b"a"), box.stored_bytes(b"b")) == (body, body)
    box.check()
    box.close()
