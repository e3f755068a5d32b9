"""Persist: whatever the two sides look like, the store ends as the index is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import dirty
from cache.errors import StoreError, StoreUnavailable
from cache.namespace import Place
from cache.persist import place_of
from cache.records import Kind, WriteMode
from cache.stores.base import StoredAttributes
from tests.support.fault_store import no_fault, unavailable
from tests.support.volume import BUCKET, TestVolume, box, some_bytes, through
from tests.support.waiting import wait_until

__all__ = ["box", "through"]


def tree(volume: TestVolume) -> dict[bytes, bytes | None]:
    """The store: bytes of files, None for directories."""
    return {
        key: None if key.endswith(b"/") else volume.stored_bytes(key) for key in volume.stored()
    }


def test_a_renamed_directory_moves_with_its_dirty_and_clean_children(box: TestVolume) -> None:
    box.put(b"d/clean", b"1" * 5000)
    box.put(b"d/deep/clean", b"2")
    box.drain()
    box.put(b"d/dirty", b"3" * 5000)
    box.put(b"d/clean", b"4")
    box.rename(b"d", b"e")
    box.put(b"e/new", b"5")
    box.drain()
    assert tree(box) == {
        b"e/": None,
        b"e/clean": b"4",
        b"e/deep/": None,
        b"e/deep/clean": b"2",
        b"e/dirty": b"3" * 5000,
        b"e/new": b"5",
    }
    assert box.store.calls["read"] == 0
    box.check()


def test_a_new_directory_takes_the_name_of_one_that_the_store_still_has_to_move(
    box: TestVolume,
) -> None:
    box.mkdir(b"a")
    box.put(b"a/x", b"old")
    box.drain()
    box.rename(b"a", b"b")
    box.mkdir(b"a")
    box.put(b"a/x", b"new")
    with box.volume.index.read() as txn:
        newest = dirty.entries(txn)[-1]
    box.volume.persister.persist(place_of(newest))
    assert tree(box) == {b"a/": None, b"a/x": b"new", b"b/": None, b"b/x": b"old"}
    box.drain()
    box.evict()
    assert box.get(b"b/x") == b"old"
    assert box.get(b"a/x") == b"new"
    box.check()


def test_files_trade_names(box: TestVolume) -> None:
    box.put(b"a", b"A" * 5000)
    box.put(b"b", b"B" * 5000)
    box.drain()
    box.evict()
    box.rename(b"a", b"b", exchange=True)
    box.drain()
    assert tree(box) == {b"a": b"B" * 5000, b"b": b"A" * 5000}
    box.evict()
    assert (box.get(b"a"), box.get(b"b")) == (b"B" * 5000, b"A" * 5000)
    box.check()


@pytest.mark.parametrize("changed", [b"a", b"b"])
def test_a_changed_file_trades_names_with_a_new_one(box: TestVolume, changed: bytes) -> None:
    """It goes to its new name by an upload, which leaves what the store had under the old one."""
    box.put(changed, b"old" * 5000)
    box.drain()
    box.write(changed, b"new")
    other = b"b" if changed == b"a" else b"a"
    box.put(other, b"other")
    box.rename(b"a", b"b", exchange=True)
    box.drain()
    assert tree(box) == {changed: b"other", other: b"new" + (b"old" * 5000)[3:]}
    box.check()


@pytest.mark.parametrize("first", [b"x", b"y", b"x/", b"y/"])
def test_a_file_and_a_directory_trade_names(box: TestVolume, first: bytes) -> None:
    box.put(b"x/z", b"Z" * 5000)
    box.put(b"y", b"Y" * 5000)
    box.drain()
    box.evict()
    box.rename(b"x", b"y", exchange=True)
    with box.volume.index.read() as txn:
        entry = next(entry for entry in dirty.entries(txn) if entry.name == first)
    box.volume.persister.persist(place_of(entry))
    box.drain()
    assert tree(box) == {b"x": b"Y" * 5000, b"y/": None, b"y/z": b"Z" * 5000}
    assert sorted(os.listdir(box.store_dir)) == [".forebay-tmp", "x", "y"]
    box.evict()
    assert (box.get(b"x"), box.get(b"y/z")) == (b"Y" * 5000, b"Z" * 5000)
    box.check()


@pytest.mark.parametrize("verb", ["remove", "rename"])
def test_a_file_takes_the_name_of_a_directory_that_the_store_still_has(
    box: TestVolume, verb: str
) -> None:
    """In a store of files it is there under this very name, too."""
    box.put(b"x/z", b"Z")
    box.drain()
    if verb == "rename":
        box.rename(b"x", b"y")
    else:
        box.unlink(b"x/z")
        box.rmdir(b"x")
    box.put(b"x", b"file")
    with box.volume.index.read() as txn:
        entry = next(entry for entry in dirty.entries(txn) if entry.name == b"x")
    box.volume.persister.persist(place_of(entry))
    box.drain()
    moved = {b"y/": None, b"y/z": b"Z"} if verb == "rename" else {}
    assert tree(box) == {b"x": b"file", **moved}
    assert (box.store_dir / "x").read_bytes() == b"file"
    box.check()


def test_what_goes_into_a_directory_waits_for_the_file_that_had_its_name(box: TestVolume) -> None:
    """Whichever of the queue's entries comes first: what is put makes the directories above it."""
    box.put(b"b", b"file")
    box.drain()
    box.unlink(b"b")
    box.put(b"b/c/a", b"1")
    box.volume.persister.persist(Place(box.root, box.inode(b"b/c").id, b"a"))
    assert [path.read_bytes() for path in box.store_dir.rglob("b/c/a")] == [b"1"]
    box.drain()
    assert tree(box) == {b"b/": None, b"b/c/": None, b"b/c/a": b"1"}


def test_a_put_that_goes_through_waits_for_the_file_that_had_a_directory_s_name(
    through: TestVolume,
) -> None:
    through.put(b"b", b"file")
    through.store.before = unavailable
    with pytest.raises(StoreError):
        through.volume.objects.delete(BUCKET, b"b")
    through.store.before = no_fault
    through.put(b"b/a", b"1")
    assert [path.read_bytes() for path in through.store_dir.rglob("b/a")] == [b"1"]


def test_directories_trade_names(box: TestVolume) -> None:
    box.put(b"a/x", b"A")
    box.put(b"b/x", b"B")
    box.drain()
    box.rename(b"a", b"b", exchange=True)
    box.drain()
    assert tree(box) == {b"a/": None, b"b/": None, b"a/x": b"B", b"b/x": b"A"}
    box.check()


def test_three_directories_go_round_in_a_circle(box: TestVolume) -> None:
    for name in (b"a", b"b", b"c"):
        box.put(name + b"/x", name)
    box.drain()
    box.rename(b"a", b"t")
    box.rename(b"c", b"a")
    box.rename(b"b", b"c")
    box.rename(b"t", b"b")
    box.drain()
    assert tree(box) == {
        b"a/": None, b"a/x": b"c", b"b/": None, b"b/x": b"a", b"c/": None, b"c/x": b"b",
    }  # fmt: skip
    box.check()


def test_a_directory_moves_below_one_that_took_its_name(box: TestVolume) -> None:
    box.put(b"a/x", b"1")
    box.drain()
    box.rename(b"a", b"b")
    box.mkdir(b"a")
    box.rename(b"b", b"a/b")
    box.drain()
    assert tree(box) == {b"a/": None, b"a/b/": None, b"a/b/x": b"1"}
    box.check()


@pytest.mark.parametrize("first", [b"d/", b"b/"])
def test_a_directory_moves_below_one_that_was_in_it(box: TestVolume, first: bytes) -> None:
    """Whichever of the two is persisted first, the inner one has to come out before."""
    box.put(b"d/a/x", b"1")
    box.drain()
    box.rename(b"d/a", b"b")
    box.rename(b"d", b"b/d")
    with box.volume.index.read() as txn:
        entry = next(entry for entry in dirty.entries(txn) if entry.name == first)
    box.volume.persister.persist(place_of(entry))
    box.drain()
    assert tree(box) == {b"b/": None, b"b/d/": None, b"b/x": b"1"}
    box.check()


def test_a_directory_goes_below_one_that_was_in_it_and_took_its_name(box: TestVolume) -> None:
    box.put(b"d/a/x", b"1")
    box.drain()
    box.rename(b"d/a", b"t")
    box.rename(b"d", b"t/i")
    box.rename(b"t", b"d")
    with box.volume.index.read() as txn:
        entry = next(entry for entry in dirty.entries(txn) if entry.name == b"i/")
    box.volume.persister.persist(place_of(entry))
    box.drain()
    assert tree(box) == {b"d/": None, b"d/i/": None, b"d/x": b"1"}
    box.check()


def test_what_steps_aside_and_is_then_removed_leaves_nothing(box: TestVolume) -> None:
    box.put(b"a/x", b"1")
    box.put(b"b/x", b"2")
    box.drain()
    box.rename(b"a", b"b", exchange=True)

    def die(operation: str, key: bytes) -> None:
        if operation == "rename" and not key.startswith(b".forebay-moving"):
            raise StoreUnavailable("killed")

    box.store.before = die
    with box.volume.index.read() as txn:
        entry = dirty.entries(txn)[0]
    with pytest.raises(StoreUnavailable):
        box.volume.persister.persist(place_of(entry))
    box.store.before = no_fault
    assert any(key.startswith(b".forebay-moving") for key in box.stored())
    for name in (b"a", b"b"):
        box.unlink(name + b"/x")
        box.rmdir(name)
    box.drain()
    assert tree(box) == {}
    box.check()


@pytest.mark.parametrize("exchange", [True, False])
def test_a_circle_ends_well_wherever_it_is_killed(tmp_path: Path, exchange: bool) -> None:
    """Every answer of the store gets lost once, one after the other."""
    for lost in range(12):
        volume = TestVolume(tmp_path / str(lost))
        try:
            volume.put(b"a/x", b"A")
            volume.put(b"b/x", b"B")
            volume.drain()
            if exchange:
                volume.rename(b"a", b"b", exchange=True)
            else:
                volume.rename(b"a", b"c")
                volume.rename(b"b", b"a")
                volume.rename(b"c", b"a/b")
            left = lost

            def lose(operation: str, key: bytes) -> None:
                nonlocal left
                if operation in ("rename", "put", "delete"):
                    left -= 1
                    if left == -1:
                        raise StoreUnavailable("killed before the answer was noted")

            volume.store.after = lose
            volume.drain()
            wanted: dict[bytes, bytes | None] = (
                {b"a/": None, b"b/": None, b"a/x": b"B", b"b/x": b"A"}
                if exchange
                else {b"a/": None, b"a/b/": None, b"a/x": b"B", b"a/b/x": b"A"}
            )
            assert tree(volume) == wanted
            volume.check()
        finally:
            volume.close()


def test_a_rename_over_a_file_replaces_it_in_the_store(box: TestVolume) -> None:
    box.put(b"a", b"A" * 5000)
    box.put(b"b", b"B" * 5000)
    box.drain()
    box.rename(b"a", b"b")
    box.drain()
    assert tree(box) == {b"b": b"A" * 5000}
    assert box.store.calls["rename"] == 1


def test_each_hard_link_is_an_object_and_they_stay_one_file_here(box: TestVolume) -> None:
    box.create(b"a")
    box.write(b"a", b"1" * 5000)
    box.link(b"a", b"b")
    box.drain()
    assert tree(box) == {b"a": b"1" * 5000, b"b": b"1" * 5000}
    box.write(b"b", b"22")
    box.drain()
    assert tree(box) == {b"a": b"22" + b"1" * 4998, b"b": b"22" + b"1" * 4998}
    box.unlink(b"a")
    box.drain()
    assert tree(box) == {b"b": b"22" + b"1" * 4998}
    box.evict()
    assert box.read(b"b") == b"22" + b"1" * 4998
    box.check()


def test_a_key_deleted_and_made_again_is_the_new_one(box: TestVolume) -> None:
    box.put(b"d/a", b"1")
    box.drain()
    box.delete(b"d/a")
    box.put(b"d/a", b"2")
    box.drain()
    assert tree(box) == {b"d/": None, b"d/a": b"2"}
    assert box.get(b"d/a") == b"2"


def test_a_directory_whose_removal_overtakes_that_of_its_children_goes_in_the_end(
    box: TestVolume,
) -> None:
    for name in (b"1", b"2", b"3"):
        box.put(b"d/e/" + name)
    box.drain()
    for name in (b"1", b"2", b"3"):
        box.delete(b"d/e/" + name)
    with box.volume.index.read() as txn:
        places = [place_of(entry) for entry in dirty.entries(txn)]
    for place in reversed(places):
        box.volume.persister.persist(place)
    box.drain()
    assert tree(box) == {}


def test_deep_trees_that_go_while_the_store_follows_are_gone_there_too(box: TestVolume) -> None:
    """Whoever overtakes whom: a removed directory is forgotten only when nothing needs its path."""
    stop = threading.Event()

    def again_and_again(work: Callable[[], object]) -> None:
        while not stop.wait(0.001):
            work()

    works = [lambda: box.volume.queue.run_once(hurry=True), box.reap]
    threads = [threading.Thread(target=again_and_again, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for number in range(25):
        paths = [b"/".join([b"%d" % number] + [b"d"] * depth) for depth in range(12)]
        for path in paths:
            box.mkdir(path)
        for path in reversed(paths):
            box.rmdir(path)
    stop.set()
    for thread in threads:
        thread.join()
    box.drain()
    assert tree(box) == {}
    box.check()


def test_pruning_what_was_pruned_spares_the_directory_that_took_its_name(
    box: TestVolume,
) -> None:
    box.put(b"d/a", b"1")
    box.delete(b"d/a")
    box.put(b"d/b", b"2")
    box.drain()
    assert box.listed() == [b"d/b"]
    assert tree(box) == {b"d/": None, b"d/b": b"2"}
    box.check()


def test_an_object_that_others_changed_meanwhile_is_kept_aside(box: TestVolume) -> None:
    box.put(b"a", b"ours, first")
    box.drain()
    box.store.store.put(b"a", [b"theirs"], 6, StoredAttributes())
    box.put(b"a", b"ours, second")
    box.drain()
    found = tree(box)
    assert found.pop(b"a") == b"ours, second"
    assert [value for value in found.values() if value is not None] == [b"theirs"]
    assert all(key.startswith(b"lost+found/") for key in found)


def test_an_object_that_others_made_under_a_new_name_is_kept_aside(box: TestVolume) -> None:
    box.listed()  # the directory is known
    box.store.store.put(b"a", [b"theirs"], 6, StoredAttributes())
    box.put(b"a", b"ours")
    box.drain()
    assert sorted(v for v in tree(box).values() if v is not None) == [b"ours", b"theirs"]
    assert box.stored_bytes(b"a") == b"ours"


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.SYMLINK, Kind.DIRECTORY, Kind.FIFO])
def test_a_lost_answer_is_no_conflict(box: TestVolume, kind: Kind) -> None:
    box.create(b"a", kind, target=b"somewhere" if kind == Kind.SYMLINK else b"")

    def lose(operation: str, key: bytes) -> None:
        raise StoreUnavailable("killed before the answer was noted")

    box.store.after = lose
    with box.volume.index.read() as txn:
        entry = dirty.entries(txn)[0]
    with pytest.raises(StoreUnavailable):
        box.volume.persister.persist(place_of(entry))
    box.store.after = no_fault
    if kind != Kind.SYMLINK:
        box.chmod(b"a", 0o600)
    box.drain()
    stored = box.stored()
    assert list(stored) == [b"a/" if kind == Kind.DIRECTORY else b"a"]
    (found,) = stored.values()
    assert found.attributes is not None
    assert found.attributes.kind == kind
    assert kind == Kind.SYMLINK or found.attributes.mode == 0o600


def test_a_store_that_is_down_is_tried_again_after_pauses(box: TestVolume) -> None:
    for number in range(30):
        box.put(b"%d" % number, b"x")
    box.store.before = unavailable
    queue = box.volume.queue
    queue.run_once()
    wait_until(queue.is_idle)
    asked = sum(box.store.calls.values())
    assert 0 < asked <= 30
    assert queue.run_once() == 0, "the store rests as a whole"
    backlog = queue.backlog()
    assert backlog.names == 30
    assert backlog.dirty_bytes == 30
    assert "the store is down" in backlog.errors[0][1]
    box.store.before = no_fault
    box.drain()
    assert queue.backlog().names == 0
    assert queue.backlog().dirty_bytes == 0
    assert len(box.stored()) == 30


def test_one_name_that_fails_holds_up_no_other(box: TestVolume) -> None:
    def refuse(operation: str, key: bytes) -> None:
        if key == b"bad":
            raise StoreError("refused")

    box.put(b"bad", b"1")
    box.put(b"good", b"2")
    box.store.before = refuse
    queue = box.volume.queue
    while not box.is_stored(b"good"):
        queue.run_once()
    wait_until(queue.is_idle)
    assert queue.backlog().names == 1
    box.store.before = no_fault
    box.drain()
    assert box.stored_bytes(b"bad") == b"1"


def test_a_write_during_the_upload_is_uploaded_too(box: TestVolume) -> None:
    box.create(b"a")
    box.write(b"a", b"1" * 9000)

    def write_more(operation: str, key: bytes) -> None:
        if operation == "put":
            box.store.after = no_fault
            box.write(b"a", b"2", 1)

    box.store.after = write_more
    box.drain()
    assert box.stored_bytes(b"a") == b"12" + b"1" * 8998
    assert not any(key.startswith(b"lost+found") for key in box.stored())
    box.check()


def test_a_rename_during_the_upload_is_followed(box: TestVolume) -> None:
    box.create(b"a")
    box.write(b"a", b"1" * 9000)

    def rename(operation: str, key: bytes) -> None:
        if operation == "put":
            box.store.after = no_fault
            box.rename(b"a", b"b")

    box.store.after = rename
    box.drain()
    assert tree(box) == {b"b": b"1" * 9000}
    box.evict()
    assert box.get(b"b") == b"1" * 9000


def test_an_unlink_during_the_upload_wins(box: TestVolume) -> None:
    box.put(b"d/a", b"1" * 9000)

    def unlink(operation: str, key: bytes) -> None:
        if operation == "put" and key == b"d/a":
            box.store.after = no_fault
            box.delete(b"d/a")

    box.store.after = unlink
    box.drain()
    assert tree(box) == {}
    box.reap()
    box.check()


def test_killed_between_store_and_index_a_write_through_put_is_whole_or_not_there(
    through: TestVolume,
) -> None:
    through.put(b"d/a", b"old")

    def lose(operation: str, key: bytes) -> None:
        if operation == "upload":
            raise StoreUnavailable("killed before the answer was noted")

    through.store.after = lose
    with pytest.raises(StoreUnavailable):
        through.put(b"d/a", b"new" * 3000)
    with pytest.raises(StoreUnavailable):
        through.put(b"d/b", b"made")
    through.store.after = no_fault
    assert through.get(b"d/a") == b"old"
    through.drain()
    # The store has them, so they count.
    assert through.get(b"d/a") == b"new" * 3000
    assert through.get(b"d/b") == b"made"
    through.check()


def test_store_is_not_asked_about_a_put_that_settled_while_the_mover_waited(
    through: TestVolume,
) -> None:
    """The mover finds the note of a write_through, and waits for its locks."""
    through.put(b"a", b"1")
    asked = sum(through.store.calls.values())
    through.volume.persister.persist(Place(through.root, through.root, b"a"))
    assert sum(through.store.calls.values()) == asked


def test_in_write_through_a_delete_that_fails_is_queued_and_told(through: TestVolume) -> None:
    through.put(b"a", b"1")
    assert through.listed() == [b"a"]
    through.store.before = unavailable
    with pytest.raises(StoreUnavailable):
        through.delete(b"a")
    assert through.listed() == []
    through.store.before = no_fault
    through.drain()
    assert through.stored() == {}


def test_attributes_follow_without_the_bytes(box: TestVolume) -> None:
    box.put(b"a", some_bytes(9000))
    box.drain()
    puts = box.store.calls["put"]
    box.chmod(b"a", 0o600)
    box.drain()
    attributes = box.store.store.head(b"a").attributes
    assert attributes is not None
    assert attributes.mode == 0o600
    assert box.store.calls["put"] == puts
    assert box.volume.objects.get(BUCKET, b"a").size == 9000


def test_what_is_transient_stays_here(tmp_path: Path) -> None:
    volume = TestVolume(tmp_path, write_mode=WriteMode.TRANSIENT)
    try:
        volume.put(b"d/a", b"1" * 9000)
        volume.mkdir(b"e")
        volume.rename(b"d", b"e/d")
        volume.drain()
        assert volume.stored() == {}
        volume.evict()
        assert volume.get(b"e/d/a") == b"1" * 9000
        volume.restart()
        assert volume.get(b"e/d/a") == b"1" * 9000
    finally:
        volume.close()


@pytest.mark.parametrize("verb", ["unlink", "put", "rename over"])
def test_a_hard_link_keeps_its_bytes_when_the_first_name_goes(box: TestVolume, verb: str) -> None:
    box.put(b"a", b"1" * 5000)
    box.put(b"other", b"2")
    box.drain()
    box.link(b"a", b"b")
    box.drain()
    box.evict()
    match verb:
        case "unlink":
            box.unlink(b"a")
        case "put":
            box.put(b"a", b"2")
        case _:
            box.rename(b"other", b"a")
    box.drain()
    box.evict()
    assert box.get(b"b") == box.stored_bytes(b"b") == b"1" * 5000
    if verb != "unlink":
        assert box.get(b"a") == box.stored_bytes(b"a") == b"2"
    box.check()


def test_in_write_through_a_put_over_one_name_spares_the_others(through: TestVolume) -> None:
    through.put(b"a", b"1" * 5000)
    through.link(b"a", b"b")
    through.drain()
    through.evict()
    through.put(b"a", b"2")
    through.drain()
    through.evict()
    assert through.get(b"b") == through.stored_bytes(b"b") == b"1" * 5000
    assert through.get(b"a") == through.stored_bytes(b"a") == b"2"
    through.check()


def test_a_put_that_fails_removes_nothing_that_others_have_in_the_store(
    through: TestVolume,
) -> None:
    through.store.store.put(b"d/a", [b"theirs"], 6, StoredAttributes())

    def fail(operation: str, key: bytes) -> None:
        if operation == "upload":
            raise StoreUnavailable("the store is down, says the test")

    through.store.before = fail
    with pytest.raises(StoreUnavailable):
        through.put(b"d/a", b"ours")
    through.store.before = no_fault
    through.drain()
    assert through.stored_bytes(b"d/a") == b"theirs"
    assert through.get(b"d/a") == b"theirs"


def test_a_directory_renamed_while_a_put_below_it_commits_takes_it_along_or_refuses_it(
    through: TestVolume,
) -> None:
    through.put(b"d/x", b"1")

    def rename(operation: str, key: bytes) -> None:
        if operation == "upload":
            through.store.after = no_fault
            through.rename(b"d", b"e")

    through.store.after = rename
    try:
        through.put(b"d/a", b"new" * 3000)
        acknowledged = True
    except StoreError:
        acknowledged = False
    through.drain()
    through.evict()
    if acknowledged:
        assert through.get(b"d/a") == b"new" * 3000
    for key in through.listed():
        if not key.endswith(b"/"):
            assert through.get(key) == through.stored_bytes(key)
    through.check()


def test_names_that_are_one_key_of_the_store_are_exchanged(through: TestVolume) -> None:
    """The store has not followed the rename of a directory, and another has its old name: what
    moves in both must not wait for itself."""
    through.mkdir(b"dir")
    through.put(b"dir/name", b"first")
    through.rename(b"dir", b"moved")
    through.mkdir(b"dir")
    through.create(b"dir/name")
    begun = time.monotonic()
    through.rename(b"dir/name", b"moved/name", exchange=True)
    assert time.monotonic() - begun < through.config.cache.fetch_deadline_s
    through.drain()
    assert (through.stored_bytes(b"dir/name"), through.stored_bytes(b"moved/name")) == (
        b"first",
        b"",
    )
    through.check()
