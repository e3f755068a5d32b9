"""Discovery: what others have in the store appears, and what is ours is not confused with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.errors import NoSuchKey, StoreUnavailable
from cache.files import SetAttributes
from cache.records import Kind, WriteMode
from cache.stores.base import ListPage, StoredAttributes, StoredObject
from cache.stores.posix import PosixStore, PosixStoreConfig
from tests.support.fault_store import no_fault, unavailable
from tests.support.volume import BUCKET, TestVolume, box, some_bytes

__all__ = ["box"]

Make = Callable[..., TestVolume]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Open volumes with settings; closed at the end."""
    opened: list[TestVolume] = []

    def open_volume(**settings: object) -> TestVolume:
        volume = TestVolume(tmp_path, **settings)  # type: ignore[arg-type]
        opened.append(volume)
        return volume

    yield open_volume
    for volume in opened:
        volume.close()


def foreign_put(volume: TestVolume, key: bytes, data: bytes) -> None:
    volume.store.store.put(key, [data] if data else [], len(data), StoredAttributes())


def test_an_unknown_directory_asks_the_store_once(box: TestVolume) -> None:
    for key in (b"d/a", b"d/b", b"top"):
        foreign_put(box, key, b"x")
    assert box.names(b"d") == [b"a", b"b"]
    asked = dict(box.store.calls)
    assert box.names(b"d") == [b"a", b"b"]
    with pytest.raises(NoSuchKey):
        box.inode(b"d/missing")
    with pytest.raises(NoSuchKey):
        box.get(b"d/missing")
    assert dict(box.store.calls) == asked
    assert asked["list"] == 2


def test_a_key_is_found_with_one_question(box: TestVolume) -> None:
    foreign_put(box, b"d/e/f", b"x" * 5000)
    assert box.volume.objects.get(BUCKET, b"d/e/f").size == 5000
    assert box.store.calls == {"head": 1}


def test_attributes_of_the_store_are_the_inodes(box: TestVolume) -> None:
    attributes = StoredAttributes(
        mode=0o640, mtime_ns=10**18, content_type="text/x", metadata={"a": "b"}
    )
    box.store.store.put(b"f", [b"x"], 1, attributes)
    box.store.store.put(
        b"l", [], 0, StoredAttributes(kind=Kind.SYMLINK, symlink_target=b"f", mode=0o777)
    )
    found = box.inode(b"f")
    assert (found.mode, found.mtime_ns, found.size) == (0o640, 10**18, 1)
    assert box.volume.objects.get(BUCKET, b"f").attributes.metadata == {"a": "b"}
    assert box.inode(b"l").target == b"f"


@pytest.mark.parametrize("mtime_ns", [1_700_000_000_123_456_789, 1, -1_000_000_001])
def test_times_keep_their_nanoseconds_though_the_index_is_lost(
    box: TestVolume, mtime_ns: int
) -> None:
    box.create(b"file")
    box.write(b"file", some_bytes(10_000))
    box.mkdir(b"directory")
    box.create(b"link", Kind.SYMLINK, target=b"file")
    times = SetAttributes(mtime_ns=mtime_ns)
    for path in (b"file", b"directory", b"link"):
        box.volume.files.set_attributes(box.inode(path).id, times)
    box.drain()
    box.forget_all()
    for path in (b"file", b"directory", b"link"):
        assert box.inode(path).mtime_ns == mtime_ns


def test_no_answer_is_an_error_for_what_is_unknown_and_never_a_deletion(make: Make) -> None:
    box = make(revalidate="always")
    foreign_put(box, b"d/a", b"x")
    assert box.get(b"d/a") == b"x"
    assert box.listed() == [b"d/a"]
    assert box.names(b"d") == [b"a"]
    box.store.before = unavailable
    box.age()
    assert box.get(b"d/a") == b"x"
    assert box.names(b"d") == [b"a"]
    assert box.listed() == [b"d/a"]
    box.forget_all()
    with pytest.raises(StoreUnavailable):
        box.get(b"d/a")
    with pytest.raises(StoreUnavailable):
        box.listed()
    with pytest.raises(StoreUnavailable):
        box.inode(b"d")


def test_never_means_that_changes_by_others_are_not_seen(box: TestVolume) -> None:
    foreign_put(box, b"a", b"1")
    assert box.get(b"a") == b"1"
    box.listed()
    foreign_put(box, b"a", b"22")
    foreign_put(box, b"b", b"3")
    assert box.get(b"a") == b"1"
    assert box.listed() == [b"a"]


@pytest.mark.parametrize("revalidate", ["always", "60"])
def test_a_changed_object_gets_a_new_inode(make: Make, revalidate: str) -> None:
    box = make(revalidate=revalidate)
    foreign_put(box, b"a", b"1" * 9000)
    assert box.get(b"a") == b"1" * 9000
    old = box.inode(b"a")
    reader = box.volume.contents.open(old.id)
    assert reader is not None
    foreign_put(box, b"a", b"2" * 9000)
    if revalidate != "always":
        assert box.get(b"a") == b"1" * 9000, "fresh enough"
    box.age()
    box.listed()
    assert box.inode(b"a").id != old.id
    assert box.get(b"a") == b"2" * 9000
    with reader:
        assert reader.read(0, 9000) == b"1" * 9000
    box.check()


def test_a_foreign_deletion_is_seen_by_both_doors(make: Make) -> None:
    box = make(revalidate="always")
    for key in (b"d/a", b"d/b", b"e/c"):
        foreign_put(box, key, b"x")
    assert box.listed() == [b"d/", b"d/a", b"d/b", b"e/", b"e/c"]
    for key in (b"d/a", b"e/c", b"e/"):
        box.store.store.delete(key)
    box.age()
    with pytest.raises(NoSuchKey):
        box.get(b"d/a")
    box.age()
    assert box.names(b"d") == [b"b"]
    box.age()
    box.listed()
    box.age()  # `e/` was found empty, then gone
    assert box.listed() == [b"d/", b"d/b"]
    box.check()


def test_what_waits_for_the_store_is_ours_to_say(make: Make) -> None:
    box = make(revalidate="always")
    for key in (b"d/a", b"d/b", b"e/x"):
        foreign_put(box, key, b"theirs")
    box.listed()
    box.put(b"d/a", b"ours")
    box.delete(b"d/b")
    box.rename(b"e", b"f")
    for _ in range(2):
        box.age()
        assert box.get(b"d/a") == b"ours"
        for gone in (b"d/b", b"e/x"):
            with pytest.raises(NoSuchKey):
                box.get(gone)
        assert box.get(b"f/x") == b"theirs"
        assert box.names() == [b"d", b"f"]
        assert box.listed() == [b"d/", b"d/a", b"f/", b"f/x"]
        box.drain()


def test_a_key_that_was_deleted_with_its_directory_stays_deleted(make: Make) -> None:
    box = make(revalidate="always")
    box.put(b"d/e/a", b"1")
    box.drain()
    box.delete(b"d/e/a")
    box.age()
    with pytest.raises(NoSuchKey):
        box.get(b"d/e/a")
    assert box.listed() == []
    box.drain()
    assert box.listed() == []
    assert box.stored() == {}


def test_a_directory_in_the_place_of_a_renamed_one_is_empty(make: Make) -> None:
    box = make(revalidate="always")
    foreign_put(box, b"d/a", b"1")
    box.listed()
    box.rename(b"d", b"e")
    box.mkdir(b"d")
    for _ in range(2):
        box.age()
        assert box.names(b"d") == []
        with pytest.raises(NoSuchKey):
            box.get(b"d/a")
        assert box.names(b"e") == [b"a"]
        box.drain()


def test_deleting_one_key_of_an_unknown_directory_hides_no_other(box: TestVolume) -> None:
    foreign_put(box, b"d/a", b"1")
    foreign_put(box, b"d/b", b"2")
    assert box.get(b"d/a") == b"1"
    box.delete(b"d/a")
    assert box.names() == [b"d"]
    box.drain()
    assert box.listed() == [b"d/b"]


def test_an_implicit_directory_that_was_never_listed_goes_with_its_last_key(
    box: TestVolume,
) -> None:
    box.put(b"d/e/a", b"1")
    box.drain()
    box.delete(b"d/e/a")
    box.drain()
    box.drain()
    assert box.listed() == []
    assert box.names() == []
    assert box.stored() == {}


def test_a_listing_longer_than_its_knowledge_is_fresh_comes_to_an_end(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = make(revalidate="always")
    foreign_put(box, b"a/b/c", b"1")
    box.listed()
    monkeypatch.setattr(
        type(box.volume.discovery), "is_known", lambda self, txn, directory: directory.id == 1
    )
    monkeypatch.setattr(type(box.volume.discovery), "must_check", lambda self, bucket, inode: False)
    learned: list[int] = []

    def learn(directory: int) -> None:
        learned.append(directory)
        assert len(learned) < 10, "for ever"

    monkeypatch.setattr(box.volume.discovery, "learn_directory", learn)
    assert box.listed() == [b"a/", b"a/b/", b"a/b/c"]
    assert len(learned) == 3


def test_deleting_a_key_that_nobody_looked_at_deletes_it_in_the_store(box: TestVolume) -> None:
    foreign_put(box, b"d/a", b"1")
    box.delete(b"d/a")
    box.drain()
    assert not box.is_stored(b"d/a")


def test_a_cold_cache_shows_what_the_store_has(make: Make) -> None:
    box = make(write_mode=WriteMode.WRITE_THROUGH)
    data = some_bytes(600_000)
    box.put(b"d/a", data)
    box.put(b"b", b"1")
    box.forget_all()
    assert box.listed() == [b"b", b"d/", b"d/a"]
    assert box.get(b"d/a") == data
    assert box.get(b"d/a", 300_000, 300_100) == data[300_000:300_100]
    etag = box.volume.objects.get(BUCKET, b"d/a").etag
    assert "-" not in etag, "the MD5 came back from the store"


def test_answers_of_before_the_outage_are_not_mixed_up(make: Make) -> None:
    box = make(revalidate="always")
    foreign_put(box, b"a", b"1")
    box.store.before = unavailable
    with pytest.raises(StoreUnavailable):
        box.get(b"a")
    box.store.before = no_fault
    assert box.get(b"a") == b"1"


@pytest.mark.parametrize("door", ["S3", "mount"])
def test_a_deleted_key_stays_deleted_though_its_directory_is_made_anew(
    make: Make, door: str
) -> None:
    box = make(revalidate="always")
    box.listed()
    box.put(b"d/e/x", b"1")
    box.drain()
    if door == "S3":
        box.delete(b"d/e/x")
        box.put(b"d/e/y", b"2")
    else:
        box.unlink(b"d/e/x")
        box.rmdir(b"d/e")
        box.rmdir(b"d")
        box.mkdir(b"d")
        box.mkdir(b"d/e")
        box.create(b"d/e/y")
    for _ in range(2):
        box.age()
        assert [key for key in box.listed() if not key.endswith(b"/")] == [b"d/e/y"]
        with pytest.raises(NoSuchKey):
            box.get(b"d/e/x")
        box.drain()
    assert list(box.stored()) == [b"d/", b"d/e/", b"d/e/y"]
    box.check()


def test_a_directory_that_others_removed_and_made_again_is_seen(make: Make) -> None:
    box = make(revalidate="always")
    foreign_put(box, b"d/x", b"1")
    assert box.listed() == [b"d/", b"d/x"]
    for key in (b"d/x", b"d/"):
        box.store.store.delete(key)
    for _ in range(2):
        box.age()
        box.listed()
    assert box.names() == []
    foreign_put(box, b"d/y", b"2")
    box.age()
    assert box.listed() == [b"d/", b"d/y"]


class ListsWithoutAttributes(PosixStore):
    """Lists as an S3 store does."""

    def list(
        self, prefix: bytes, *, delimiter: bool, marker: bytes = b"", limit: int = 1000
    ) -> ListPage:
        page = super().list(prefix, delimiter=delimiter, marker=marker, limit=limit)
        entries = [
            dataclasses.replace(e, attributes=None) if isinstance(e, StoredObject) else e
            for e in page.entries
        ]
        return ListPage(entries, page.next_marker)


def test_attributes_that_a_listing_lacks_are_asked_for_when_they_matter(
    tmp_path: Path, make: Make
) -> None:
    (tmp_path / "under").mkdir()
    store = ListsWithoutAttributes(PosixStoreConfig(path=tmp_path / "under"))
    box = make(store=store)
    large = some_bytes(10_000)
    attributes = StoredAttributes(mode=0o600, uid=7, content_type="text/x", mtime_ns=10**18)
    for key in (b"d/a", b"d/b", b"d/c"):
        store.put(key, [large], len(large), attributes)
    assert box.listed() == [b"d/", b"d/a", b"d/b", b"d/c"]
    heads = box.store.calls["head"]
    assert box.volume.objects.get(BUCKET, b"d/a").attributes.content_type == "text/x"
    assert (box.inode(b"d/b").mode, box.inode(b"d/b").uid) == (0o600, 7)
    assert box.store.calls["head"] == heads + 2, "asked for more than was looked at, or twice"
    inode = box.inode(b"d")
    assert {e.mode for _, e in box.volume.files.entries(inode.id, b"", 10)} == {0o600}
    assert box.store.calls["head"] == heads + 3
    assert box.get(b"d/c") == large
    box.check()
