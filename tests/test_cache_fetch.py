"""The miss path: each byte is fetched once on a node, by range, and versions never mix."""

from __future__ import annotations

import multiprocessing
import os
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cache.config import MIB
from cache.errors import DeadlineExceeded, StaleContent, StoreUnavailable
from cache.fetch import GRAIN_BYTES
from cache.locks import NodeLocks
from cache.stores.base import StoredAttributes
from tests.support.fault_store import no_fault, unavailable
from tests.support.volume import BUCKET, TestVolume, box, some_bytes
from tests.support.waiting import wait_until

__all__ = ["box"]

SPAWN = multiprocessing.get_context("spawn")
SIZE = 3_000_000


def cold(box: TestVolume, key: bytes = b"a", size: int = SIZE) -> bytes:
    """An object that is in the store only."""
    data = some_bytes(size)
    box.put(key, data)
    box.drain()
    box.evict()
    box.store.read_bytes = 0
    box.store.calls.clear()
    return data


def test_a_range_fetches_its_cells_and_no_more(box: TestVolume) -> None:
    data = cold(box)
    cell = box.volume.segments.extent_max
    assert box.get(b"a", cell + 5, 2 * cell - 10) == data[cell + 5 : 2 * cell - 10]
    assert box.store.read_bytes == cell
    assert box.get(b"a", cell, 2 * cell) == data[cell : 2 * cell]
    assert box.store.read_bytes == cell
    assert box.get(b"a") == data
    assert box.store.read_bytes == SIZE
    assert box.get(b"a") == data
    assert box.store.read_bytes == SIZE
    box.check()


def large_cells(root: Path) -> TestVolume:
    """Cells of 4 MiB, as by default."""
    return TestVolume(root, capacity_bytes=512 * MIB, segment_bytes=32 * MIB)


def test_what_is_fetched_for_reads_at_random_grows_with_them(tmp_path: Path) -> None:
    box = large_cells(tmp_path)
    try:
        data = cold(box, size=12 * MIB)

        total = 0

        def cached() -> int:
            _, snapshot = box.volume.objects.open(BUCKET, b"a")
            with snapshot:
                missing = snapshot.missing(0, snapshot.size)
            return len(data) - sum(stop - start for start, stop in missing)

        def read(start: int, fetched: int) -> None:
            """A read of 1,000 bytes, which has so much fetched, as far as it waits for that."""
            nonlocal total
            total += fetched
            assert box.get(b"a", start, start + 1000) == data[start : start + 1000]
            wait_until(lambda: cached() >= total, f"{total} bytes fetched")
            assert box.store.read_bytes == total

        grain = GRAIN_BYTES
        read(5 * MIB, grain)  # one place of a cell
        read(MIB + grain - 10, 2 * grain)  # over the edge of one
        read(5 * MIB + 7, 0)
        read(6 * MIB, 4 * MIB - grain)  # the same cell again: all of it
        read(8 * MIB, 4 * MIB)  # goes on where that one ends
        read(0, 4 * MIB - 2 * grain)
        assert box.get(b"a") == data
        assert box.store.read_bytes == 12 * MIB
        box.check()
    finally:
        box.close()


def test_the_second_cell_is_asked_for_while_the_first_one_comes(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cold(box)
    inner = box.store.store
    read = inner.read
    asked_for_more = threading.Event()

    def held_up(key: bytes, start: int, stop: int, version: str | None) -> Iterator[bytes]:
        body = b"".join(read(key, start, stop, version))
        if start == 0:
            yield body[:1000]
            assert asked_for_more.wait(30)
            yield body[1000:]
        else:
            asked_for_more.set()
            yield body

    monkeypatch.setattr(inner, "read", held_up)
    assert box.get(b"a") == data
    box.check()


def test_reads_of_one_cell_at_once_are_few_requests(tmp_path: Path) -> None:
    box = large_cells(tmp_path)
    try:
        data = cold(box, size=4 * MIB)
        first, go_on = threading.Event(), threading.Event()

        def hold_up(operation: str, key: bytes) -> None:
            first.set()
            assert go_on.wait(30)

        box.store.before = hold_up

        def read(place: int) -> bool:
            start = place * MIB // 2
            return box.get(b"a", start, start + 1000) == data[start : start + 1000]

        with ThreadPoolExecutor(8) as readers:
            found = [readers.submit(read, 3)]
            assert first.wait(30)
            found += [readers.submit(read, place) for place in range(8)]
            go_on.set()
        assert all(one.result() for one in found)
        assert box.get(b"a") == data
        assert box.store.read_bytes == 4 * MIB
        assert box.store.calls["read"] <= 3  # the first one's, and what is before and behind it
        box.check()
    finally:
        box.close()


def test_readers_follow_a_fill_over_what_was_there_before(tmp_path: Path) -> None:
    box = large_cells(tmp_path)
    try:
        data = cold(box, size=4 * MIB)
        for start in (MIB, 3 * MIB):
            box.get(b"a", start, start + 1000)
            # As if another process had been there: each its own grain.
        with ThreadPoolExecutor(8) as readers:
            found = readers.map(lambda _: box.get(b"a"), range(8))
        assert all(one == data for one in found)
        assert box.store.read_bytes == 4 * MIB
        box.check()
    finally:
        box.close()


def test_what_somebody_waits_for_does_not_stand_in_line_behind_read_ahead(tmp_path: Path) -> None:
    box = TestVolume(tmp_path, fetch_workers=1)
    try:
        data = cold(box)
        other = cold(box, b"b")
        cell = box.volume.segments.extent_max
        stuck, go_on = threading.Event(), threading.Event()

        def hold_up(operation: str, key: bytes) -> None:
            if key == b"a":
                stuck.set()
                assert go_on.wait(30)

        inode = box.inode(b"a")
        box.store.before = hold_up
        try:
            box.volume.fetcher.prefetch(inode, 0, SIZE)
            box.volume.fetcher.prefetch(box.inode(b"b"), 0, SIZE)
            assert stuck.wait(30)
            assert box.get(b"b", cell, 2 * cell) == other[cell : 2 * cell]
        finally:
            go_on.set()
        assert box.get(b"a") == data
        assert box.get(b"b") == other
        assert box.store.read_bytes == 2 * SIZE
    finally:
        box.close()


def test_readers_of_one_object_share_its_fetch(box: TestVolume) -> None:
    data = cold(box)
    arrived = threading.Barrier(8)
    outcome: list[bool] = []

    def read() -> None:
        arrived.wait()
        outcome.append(box.get(b"a") == data)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcome == [True] * 8
    assert box.store.read_bytes == SIZE


def read_in_another_process(root: Path, go: Connection) -> None:
    volume = TestVolume(root)
    go.send("ready")
    go.recv()
    good = volume.get(b"a") == some_bytes(SIZE)
    go.send((good, volume.store.read_bytes))
    volume.close()
    os._exit(0)


def test_two_processes_fetch_each_byte_once(box: TestVolume, tmp_path: Path) -> None:
    cold(box)
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=read_in_another_process, args=(tmp_path, theirs))
    process.start()
    assert ours.poll(60)
    assert ours.recv() == "ready"
    ours.send("go")
    assert box.get(b"a") == some_bytes(SIZE)
    assert ours.poll(60)
    good, fetched = ours.recv()
    process.join(30)
    assert good
    assert box.store.read_bytes + fetched == SIZE
    box.check()


def test_an_object_that_changed_in_the_store_fails_its_reader_and_mixes_nothing(
    box: TestVolume,
) -> None:
    data = cold(box)
    _, snapshot = box.volume.objects.open(BUCKET, b"a")
    with snapshot:
        assert snapshot.read(0, 10) == data[:10]
        box.store.store.put(b"a", [b"n" * SIZE], SIZE, StoredAttributes())
        with pytest.raises(StaleContent):
            snapshot.read(0, SIZE)


def test_an_outage_is_an_error_for_what_is_not_cached_only(box: TestVolume) -> None:
    data = cold(box)
    assert box.get(b"a", 0, 10) == data[:10]
    box.store.before = unavailable
    assert box.get(b"a", 0, 100) == data[:100]
    with pytest.raises(StoreUnavailable):
        box.get(b"a")
    box.store.before = no_fault
    assert box.get(b"a") == data


def test_a_fetch_that_breaks_off_keeps_nothing_wrong(box: TestVolume) -> None:
    data = cold(box)

    def cut(operation: str, key: bytes) -> None:
        if box.store.calls["read"] > 3:
            raise StoreUnavailable("cut off")

    box.store.before = cut
    with pytest.raises(StoreUnavailable):
        box.get(b"a")
    box.store.before = no_fault
    box.check()
    assert box.get(b"a") == data


def test_reading_a_large_object_takes_little_memory(box: TestVolume) -> None:
    size = 24 * MIB
    data = cold(box, size=size)
    _, snapshot = box.volume.objects.open(BUCKET, b"a")
    tracemalloc.start()
    try:
        position = 0
        with snapshot:
            for piece in snapshot.pieces(0, size):
                chunk = piece if isinstance(piece, bytes) else piece.read()
                assert chunk == data[position : position + len(chunk)]
                position += len(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert position == size
    assert peak < 12 * MIB, f"{peak} bytes"


def test_what_does_not_fit_is_read_past_the_cache(tmp_path: Path) -> None:
    volume = TestVolume(tmp_path, capacity_bytes=6 * MIB)
    try:
        data = some_bytes(20 * MIB)
        volume.store.store.put(b"a", [data], len(data), StoredAttributes())
        assert volume.get(b"a") == data
        assert volume.get(b"a") == data
        volume.check()
    finally:
        volume.close()


# ---------------------------------------------------------------------- locks between processes


def hold_until_told(path: Path, name: str, shared: bool, link: Connection) -> None:
    with NodeLocks(path).hold(name, shared=shared, deadline_s=10) as waited:
        assert not waited
        link.send("held")
        link.recv()
        os._exit(0)  # killed while holding it


@pytest.mark.parametrize("shared", [True, False])
def test_a_lock_excludes_other_processes_and_dies_with_its_holder(
    tmp_path: Path, shared: bool
) -> None:
    locks = NodeLocks(tmp_path / "locks")
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(
        target=hold_until_told, args=(tmp_path / "locks", "name", shared, theirs)
    )
    process.start()
    assert ours.poll(60)
    ours.recv()
    with pytest.raises(DeadlineExceeded), locks.hold("name", deadline_s=0.05):
        pass
    if shared:
        with locks.hold("name", shared=True, deadline_s=0.05):
            pass
    with locks.hold("another", deadline_s=0.05):
        pass
    ours.send("die")
    process.join(30)
    with locks.hold("name", deadline_s=5):
        pass


def test_a_lock_excludes_threads_too(tmp_path: Path) -> None:
    locks = NodeLocks(tmp_path / "locks")
    with (
        locks.hold("a", 1, deadline_s=1),
        pytest.raises(DeadlineExceeded),
        locks.hold("a", 1, deadline_s=0.02),
    ):
        pass
    with locks.hold("a", 1, deadline_s=1), locks.hold("a", 2, deadline_s=1):
        pass


def test_the_index_is_closed_when_nothing_is_fetched_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = set(threading.enumerate())
    box = TestVolume(tmp_path)
    cold(box)
    asked, closing = threading.Event(), threading.Event()
    left: list[str] = []
    close = box.volume.index.close

    def hang(operation: str, key: bytes) -> None:
        asked.set()
        closing.wait(0.5)  # all that a close that waits for nobody takes

    def closed() -> None:
        own = set(threading.enumerate()) - others
        left.extend(thread.name for thread in own if thread.name.startswith("fetch"))
        closing.set()
        close()

    monkeypatch.setattr(box.volume.index, "close", closed)
    box.store.before = hang
    _, snapshot = box.volume.objects.open(BUCKET, b"a")
    with snapshot:
        box.volume.fetcher.prefetch(snapshot.inode, 0, snapshot.size)
    assert asked.wait(20)
    box.close()
    assert left == []
