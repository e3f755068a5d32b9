"""What only the store knows is learned and read in one trip, and fetched once however many ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.config import MIB
from cache.errors import NoSuchKey, StoreUnavailable
from cache.index import Txn
from cache.locks import NodeLocks
from cache.records import Inode
from cache.stores.base import Opened, StoredAttributes
from cache.stores.posix import PosixStore, PosixStoreConfig
from tests.support.fault_store import unavailable
from tests.support.volume import BUCKET, TestVolume, some_bytes
from tests.support.waiting import wait_until

SIZE = 3 * MIB


class OpeningStore(PosixStore):
    """A directory that answers open() as an S3 server does."""

    closed = 0

    def open(self, key: bytes, start: int, stop: int) -> Opened | None:  # type: ignore[override]
        found = self.head(key)
        stop = min(stop, found.size_bytes)
        if start >= stop:
            return None
        return Opened(found, start, stop, self.read(key, start, stop, found.version), self._close)

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestVolume]:
    (tmp_path / "store").mkdir()
    store = OpeningStore(PosixStoreConfig(path=tmp_path / "store"))
    volume = TestVolume(tmp_path, store=store)
    yield volume
    volume.close()
    store.close()


def put_in_store(box: TestVolume, key: bytes = b"a", seed: int = 0) -> bytes:
    data = some_bytes(SIZE, seed)
    box.store.store.put(key, [data], SIZE, StoredAttributes(content_type="text/x"))
    return data


def read(box: TestVolume, key: bytes = b"a", start: int = 0, stop: int | None = None) -> bytes:
    found, snapshot = box.volume.objects.open(BUCKET, key, reading=(start, stop))
    with snapshot:
        return snapshot.read(start, found.size if stop is None else stop)


def test_an_unknown_object_takes_one_question(box: TestVolume) -> None:
    data = put_in_store(box)
    cell = box.volume.segments.extent_max
    assert read(box, b"a", 0, cell) == data[:cell]
    assert box.store.calls == {"open": 1}
    assert read(box) == data
    assert read(box) == data
    assert box.store.calls["open"] == 1
    assert box.store.calls["head"] == 0
    assert box.store.read_bytes == SIZE
    assert box.volume.objects.get(BUCKET, b"a").attributes.content_type == "text/x"
    assert box.store.store.closed == 1  # type: ignore[attr-defined]
    box.check()


def test_nobody_waits_for_the_disk_to_know_it(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the store tells it again."""
    waited_for: dict[str, bool] = {}
    commit = box.volume.index.commit

    def watched(change: Callable[[Txn], Any], **options: Any) -> Any:
        waited_for[change.__qualname__.partition(".")[0]] = options.get("durable", True)
        return commit(change, **options)

    monkeypatch.setattr(box.volume.index, "commit", watched)
    data = put_in_store(box)
    assert read(box) == data
    assert box.listed() == [b"a"]
    # A number of a segment is never given again.
    assert waited_for.items() >= {"Segments": True, "Fetcher": False, "Discovery": False}.items()


def test_a_range_brings_its_grains_with_it(box: TestVolume) -> None:
    data = put_in_store(box)
    assert read(box, b"a", 1_000_000, 1_000_010) == data[1_000_000:1_000_010]
    assert box.store.calls == {"open": 1}
    assert box.store.read_bytes <= 2 * 128 << 10
    assert read(box) == data
    assert box.store.read_bytes == SIZE


def test_what_an_object_does_not_have_is_learned_by_head(box: TestVolume) -> None:
    put_in_store(box)
    found, snapshot = box.volume.objects.open(BUCKET, b"a", reading=(2 * SIZE, None))
    snapshot.close()
    assert found.size == SIZE
    assert box.store.calls == {"open": 1, "head": 1}


def test_what_nobody_has_is_nowhere(box: TestVolume) -> None:
    with pytest.raises(NoSuchKey):
        read(box, b"none")
    assert box.store.calls == {"open": 1}


@pytest.mark.parametrize("is_there", [True, False])
def test_of_many_at_once_one_opens(box: TestVolume, is_there: bool) -> None:
    data = put_in_store(box) if is_there else None
    all_are_there = threading.Barrier(8)
    outcome: list[bytes | None] = []

    def wait(operation: str, key: bytes) -> None:
        if operation == "open" and box.store.calls["open"] == 1:
            all_are_there.wait(60)

    def ask(first: bool) -> None:
        if not first:
            all_are_there.wait(60)
        try:
            outcome.append(read(box))
        except NoSuchKey:
            outcome.append(None)

    # The first one does not get its answer before all others are there.
    box.store.before = wait
    threads = [threading.Thread(target=ask, args=(number == 0,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcome == [data] * 8
    if is_there:
        assert box.store.calls["open"] == 1
        assert box.store.read_bytes == SIZE
    box.check()


def test_an_outage_is_told_and_does_not_last(box: TestVolume) -> None:
    data = put_in_store(box)
    box.store.before = unavailable
    with pytest.raises(StoreUnavailable):
        read(box)
    box.store.before = lambda operation, key: None
    assert read(box) == data


def test_a_body_that_breaks_off_keeps_nothing_wrong(box: TestVolume) -> None:
    data = put_in_store(box)

    def cut(operation: str, key: bytes) -> None:
        if operation == "read":
            raise StoreUnavailable("cut off")

    box.store.before = cut
    with pytest.raises(StoreUnavailable):
        read(box)
    # Who reads on while the cell behind is still failing would be told so.
    wait_until(lambda: not box.volume.fetcher._fills, "no cell is on its way")
    box.store.before = lambda operation, key: None
    box.check()
    assert read(box) == data


def _another_version(inode: Inode, opened: Opened, box: TestVolume) -> Inode | None:
    put_in_store(box, b"b", seed=1)
    return box.volume.objects.get(BUCKET, b"b").inode


def _nothing(inode: Inode, opened: Opened, box: TestVolume) -> Inode | None:
    return None


@pytest.mark.parametrize("other", [_another_version, _nothing])
def test_bytes_of_another_object_are_dropped(
    box: TestVolume, other: Callable[[Inode, Opened, TestVolume], Inode | None]
) -> None:
    put_in_store(box)
    inode = box.volume.objects.get(BUCKET, b"a").inode
    opened = box.store.open(b"a", 0, 1000)
    assert opened is not None
    box.volume.fetcher.take(other(inode, opened, box), opened)
    assert box.store.store.closed == 1  # type: ignore[attr-defined]
    assert box.store.read_bytes == 0


def test_bytes_that_somebody_fetches_already_are_dropped(box: TestVolume) -> None:
    data = put_in_store(box)
    inode = box.volume.objects.get(BUCKET, b"a").inode
    opened = box.store.open(b"a", 0, 1000)
    assert opened is not None
    locks = NodeLocks(box.config.cache.run_dir / "locks")
    with locks.hold("fetch", inode.id, 0, deadline_s=5):
        box.volume.fetcher.take(inode, opened)
    assert box.store.store.closed == 1  # type: ignore[attr-defined]
    assert read(box) == data
