"""What a bucket is beyond its objects: kept in its store, hidden there, read back from there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.buckets import Changes
from cache.config import MIB, CacheConfig, VolumeConfig
from cache.errors import NoSuchBucket, StoreUnavailable
from cache.records import Bucket, WriteMode
from cache.stores.base import Store, StoredAttributes, StoredPrefix
from cache.stores.bucket_part import BucketPart
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from tests.support.fault_store import FaultStore
from tests.support.stores import BACKENDS
from tests.support.volume import BUCKET, TestVolume

DOCUMENT = ".forebay/bucket.json"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestVolume]:
    volume = TestVolume(tmp_path, write_mode=WriteMode.WRITE_THROUGH)
    yield volume
    volume.close()


def settings(box: TestVolume) -> dict[str, bytes]:
    return dict(box.volume.buckets.get(BUCKET).settings)


def test_settings_are_in_the_store_when_they_are_acknowledged(box: TestVolume) -> None:
    box.volume.buckets.change_settings(BUCKET, {"cors": b"<a/>", "policy": b"{}"})
    box.volume.buckets.change_settings(BUCKET, {"cors": None, "tags": "é".encode()})
    path = box.store_dir / DOCUMENT
    assert json.loads(path.read_text())["settings"] == {"policy": "{}", "tags": "é"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    box.forget_all()
    assert settings(box) == {"policy": b"{}", "tags": "é".encode()}


def test_a_store_that_does_not_answer_changes_nothing(box: TestVolume) -> None:
    box.volume.buckets.change_settings(BUCKET, {"cors": b"old"})

    def fail(operation: str, key: bytes) -> None:
        if key.endswith(b"bucket.json"):
            raise StoreUnavailable("gone")

    box.store.before = fail
    with pytest.raises(StoreUnavailable):
        box.volume.buckets.change_settings(BUCKET, {"cors": b"new"})
    assert settings(box) == {"cors": b"old"}


def test_a_bucket_whose_settings_cannot_be_read_is_not_open_before_they_are(
    box: TestVolume,
) -> None:
    """A policy that forbids must not be lost because the store was away when the index was new."""
    box.volume.buckets.change_settings(BUCKET, {"policy": b"deny"})
    box.put(b"a", b"1")

    def fail(operation: str, key: bytes) -> None:
        raise StoreUnavailable("gone")

    box.store.before = fail
    box.forget_all()
    with pytest.raises(StoreUnavailable):
        box.volume.buckets.get(BUCKET)
    with pytest.raises(StoreUnavailable):
        box.volume.objects.get(BUCKET, b"a")
    with pytest.raises(StoreUnavailable):
        box.volume.buckets.read_unread()
    box.store.before = lambda operation, key: None
    assert box.volume.buckets.read_unread() == 1
    assert settings(box) == {"policy": b"deny"}
    assert box.get(b"a") == b"1"
    assert box.volume.buckets.read_unread() == 0


def test_a_change_may_depend_on_what_there_is_and_loses_nothing(box: TestVolume) -> None:
    def count(bucket: Bucket) -> Changes:
        return {"count": b"%d" % (int(bucket.settings.get("count", b"0")) + 1)}

    def work() -> None:
        for _ in range(10):
            box.volume.buckets.change_settings(BUCKET, count)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings(box) == {"count": b"40"}
    with pytest.raises(NoSuchBucket):
        box.volume.buckets.change_settings("other", {"count": b"1"})


@pytest.mark.parametrize("how", [{"read_only": True}, {"write_mode": WriteMode.TRANSIENT}])
def test_a_store_that_is_never_written_gets_no_settings(
    tmp_path: Path, how: dict[str, object]
) -> None:
    box = TestVolume(tmp_path, **how)  # type: ignore[arg-type]
    try:
        box.volume.buckets.change_settings(BUCKET, {"cors": b"x"})
        assert settings(box) == {"cors": b"x"}
        assert not (box.store_dir / ".forebay").exists()
    finally:
        box.close()


def test_keys_of_users_that_look_like_ours_are_theirs(box: TestVolume) -> None:
    box.volume.buckets.change_settings(BUCKET, {"cors": b"x"})
    assert box.listed() == []
    assert box.names() == []
    box.put(b".forebay/bucket.json", b"mine")
    box.put(b".forebay/~keys/a", b"deep")
    box.put(b"z", b"z")
    expected = [b".forebay/bucket.json", b".forebay/~keys/a", b"z"]
    for _ in range(2):
        assert [key for key in box.listed() if not key.endswith(b"/")] == expected
        assert box.listed(delimiter=b"/") == [b".forebay/", b"z"]
        assert box.get(b".forebay/bucket.json") == b"mine"
        assert box.get(b".forebay/~keys/a") == b"deep"
        assert box.names() == [b".forebay", b"z"]
        box.drain()
        box.forget_all()
    assert settings(box) == {"cors": b"x"}


def creatable(root: Path, store: Store) -> Volume:
    cache = CacheConfig(
        state_dir=root / "state", capacity_bytes=64 * MIB, index_bytes=64 * MIB, sync=False
    )
    return Volume.open(VolumeConfig(cache, creatable_store="s"), {"s": store})


def test_a_bucket_that_a_client_made_comes_back_with_its_owner(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = FaultStore(PosixStore(PosixStoreConfig(path=tmp_path / "store")))
    volume = creatable(tmp_path / "a", store)
    made = volume.buckets.create("made", "ana", {"location": b"eu"})
    volume.buckets.change_settings("made", {"policy": b"{}"})
    volume.close()
    volume = creatable(tmp_path / "b", store)
    assert volume.buckets.adopt() == 1
    found = volume.buckets.get("made")
    assert (found.owner, found.created_ns) == ("ana", made.created_ns)
    assert found.settings == {"location": b"eu", "policy": b"{}"}
    assert volume.objects.list("made").entries == []
    volume.buckets.delete("made")
    assert not (tmp_path / "store" / "made").exists()
    assert volume.buckets.create("made", "bob").settings == {}
    assert volume.buckets.get("made").settings == {}
    volume.close()
    store.close()


# The view of a store ----------------------------------------------------------------------------

PLAIN = StoredAttributes()


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_listings_of_a_bucket_hide_what_is_ours_and_keep_the_order(
    backend: str, tmp_path: Path
) -> None:
    with BACKENDS[backend](tmp_path) as running, running.opened() as store:
        part = BucketPart(store, b"b/")
        ours = [b"b/.forebay/bucket.json"]
        ours += [b"b/.forebay/versions/%d" % number for number in range(7)]
        for key in ours:
            store.put(key, (b"x",), 1, PLAIN)
        users = [b".forebay-2", b".forebay/a", b".forebay/v/1", b".g", b"a"]
        for limit in (1, 2, 3, 1000):
            assert _all(part, b"", delimiter=False, limit=limit) == []
            assert _all(part, b"", delimiter=True, limit=limit) == []
        for key in users:
            part.put(key, (b"x",), 1, PLAIN)
        for limit in (1, 2, 3, 1000):
            assert _all(part, b"", delimiter=False, limit=limit) == users
            assert _all(part, b".fore", delimiter=False, limit=limit) == users[:3]
            assert _all(part, b".forebay/", delimiter=False, limit=limit) == users[1:3]
        roots = [".forebay-2", ".forebay/", ".g", "a"]
        for limit in (1, 2, 3, 1000):
            found = _all(part, b"", delimiter=True, limit=limit, directories=True)
            assert [key.decode() for key in found] == roots
        assert part.head(b".forebay/a").key == b".forebay/a"
        part.delete(b".forebay/a")
        assert _all(part, b".forebay/", delimiter=False, limit=10) == [b".forebay/v/1"]
        assert store.head(ours[0]).size_bytes == 1


def _all(
    store: Store, prefix: bytes, *, delimiter: bool, limit: int, directories: bool = False
) -> list[bytes]:
    found: list[bytes] = []
    marker = b""
    while True:
        page = store.list(prefix, delimiter=delimiter, marker=marker, limit=limit)
        found += [
            entry.key
            for entry in page.entries
            if directories or not (isinstance(entry, StoredPrefix) or entry.key.endswith(b"/"))
        ]
        if page.next_marker is None:
            return found
        assert page.next_marker > marker
        marker = page.next_marker
