"""Directories that are made, removed, renamed and exchanged while the store follows.

The first tests are what random schedules found; the last runs such schedules, several persisters
against one who moves things about, and wants the store to be what the index is in the end.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import dirty, namespace
from cache.comparison import Task
from cache.errors import CacheError, StoreUnavailable
from cache.namespace import Place
from cache.persist import place_of
from tests.support.fault_store import no_fault
from tests.support.schedules import DIRECTORIES, FILES
from tests.support.volume import BUCKET, TestVolume, box

__all__ = ["box"]


def check(box: TestVolume) -> None:
    """The store holds what the index lists, and nothing else."""
    box.drain()
    for _ in range(2):
        box.reap()
    box.drain()
    listed = box.volume.objects.list(BUCKET, limit=100_000, directories=True).entries
    assert set(box.stored()) == {entry.key for entry in listed}
    box.check()


def test_a_name_of_a_directory_that_is_still_in_the_way_is_no_place_of_another(
    box: TestVolume,
) -> None:
    box.put(b"a/x", b"x")
    box.drain()
    box.rename(b"a", b"b")
    box.mkdir(b"a")  # the store still has b/ here
    box.rename(b"a", b"c")
    box.put(b"c/y", b"y")
    check(box)


def test_a_directory_that_comes_home_by_an_exchange_keeps_its_place(box: TestVolume) -> None:
    box.put(b"a/x", b"x")
    box.drain()
    box.rename(b"a", b"c")
    box.put(b"a/y", b"y")
    box.rename(b"c", b"a", exchange=True)  # the first is home; the other never was in the store
    check(box)
    assert box.stored_bytes(b"a/x") == b"x"
    assert box.stored_bytes(b"c/y") == b"y"


def test_below_a_name_where_another_still_is_nothing_is_moved(box: TestVolume) -> None:
    """b/c/ is not in the store yet: what the store has there is the directory that was b/."""
    box.put(b"a/y", b"y")
    box.put(b"b/c/y", b"y")
    box.drain()
    box.rename(b"b", b"c")
    box.put(b"b/c/x", b"x")
    box.rename(b"b/c", b"a/c")
    persist_in(box, b"a")
    assert box.is_stored(b"b/c/y")
    check(box)
    assert box.stored_bytes(b"c/c/y") == b"y"
    assert box.stored_bytes(b"a/c/x") == b"x"


def test_a_directory_that_goes_and_comes_back_before_it_was_stored(box: TestVolume) -> None:
    box.mkdir(b"a")
    box.rename(b"a", b"b")
    box.rename(b"b", b"a")
    check(box)


def test_what_is_no_longer_in_the_way_is_left_where_it_is(box: TestVolume) -> None:
    """A persister that waited for the bucket's lock with an old idea of who is in the way."""
    box.put(b"a/x", b"x")
    box.drain()
    gone = box.inode(b"a").id
    box.unlink(b"a/x")
    box.rmdir(b"a")
    box.put(b"a/y", b"y")
    box.drain()
    box.volume.persister._step_aside(gone, box.root)
    assert box.stored_bytes(b"a/y") == b"y"
    check(box)


def test_a_directory_that_takes_the_name_while_it_is_persisted(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.put(b"b/x", b"x")
    box.mkdir(b"c")
    box.drain()
    box.rmdir(b"c")
    comparison = box.volume.persister._comparison
    again = comparison.again

    def and_then(task: Task) -> Task | None:
        answer = again(task)
        if task.key == b"c/" and task.inode is None:
            monkeypatch.setattr(comparison, "again", again)
            box.rename(b"b", b"c")
        return answer

    monkeypatch.setattr(comparison, "again", and_then)
    check(box)
    assert box.stored_bytes(b"c/x") == b"x"


def test_what_is_put_where_a_file_is_just_moving_away_stays(box: TestVolume) -> None:
    """The file loses its new name, too, while the store moves it there: nobody waits for it, but
    its move must end before its old place is anybody's."""
    box.put(b"c/x", b"old")
    box.mkdir(b"b")
    box.drain()
    box.rename(b"c/x", b"b/x")
    others: list[threading.Thread] = []

    def interfere(operation: str, key: bytes) -> None:
        if operation == "rename" and not others:
            box.unlink(b"b/x")
            box.put(b"c/x", b"new")
            others.append(threading.Thread(target=persist_in, args=(box, b"c")))
            others[0].start()
            others[0].join(0.2)  # it waits for us

    box.store.before = interfere
    persist_in(box, b"b")
    for thread in others:
        thread.join()
    assert others
    box.store.before = no_fault
    check(box)
    assert box.stored_bytes(b"c/x") == b"new"


def test_a_directory_that_is_removed_while_it_moves_is_in_the_way_of_what_comes_out_of_it(
    box: TestVolume,
) -> None:
    box.put(b"a/c/x", b"x")
    box.drain()
    box.rename(b"a/c", b"c")
    box.rename(b"a", b"c", exchange=True)

    def interfere(operation: str, key: bytes) -> None:
        if operation == "rename":
            box.store.before = no_fault
            box.rename(b"a", b"c")  # what was in it takes the name to which it is moving

    box.store.before = interfere
    box.volume.persister.persist(Place(box.root, box.root, b"c/"))
    assert box.store.before is no_fault
    check(box)
    assert box.stored_bytes(b"c/x") == b"x"


def test_a_directory_is_exchanged_with_one_below_what_came_out_of_it(box: TestVolume) -> None:
    box.put(b"a/b/x", b"x")
    box.mkdir(b"a/b/c")
    box.rename(b"a/b", b"b")
    box.rename(b"b/c", b"a", exchange=True)
    check(box)
    assert box.stored_bytes(b"b/x") == b"x"


def persist_in(box: TestVolume, directory: bytes) -> None:
    with box.volume.index.read() as txn:
        entries = dirty.entries_of(txn, box.inode(directory).id)
    for entry in entries:
        box.volume.persister.persist(place_of(entry))


# ------------------------------------------------------------------ killed while the store moves


def killed_when(box: TestVolume, call: str, *, answered: bool, directory: bytes = b"") -> None:
    """Persist what waits in a directory; the process is as good as dead when it makes this call of
    the store, before it or when the answer is on the way, and so is all it would do then."""

    def die(operation: str, key: bytes) -> None:
        if operation == call or box.store.before is dead:
            box.store.before = dead
            raise StoreUnavailable(operation)

    def dead(operation: str, key: bytes) -> None:
        raise StoreUnavailable(operation)

    if answered:
        box.store.after = die
    else:
        box.store.before = die
    with pytest.raises(StoreUnavailable):
        persist_in(box, directory)
    box.store.before = box.store.after = no_fault
    box.restart()


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("name", [b"a", b"a/x"])
def test_what_is_renamed_again_after_a_kill_keeps_its_bytes(
    box: TestVolume, name: bytes, answered: bool
) -> None:
    """Nobody heard that the store had moved it to b, and the bytes are nowhere else."""
    box.put(b"a/x", b"x" * 5000)
    box.drain()
    box.evict()
    box.rename(name, b"b")
    killed_when(box, "rename", answered=answered)
    box.rename(b"b", b"c")
    check(box)
    found = b"c/x" if name == b"a" else b"c"
    assert box.stored_bytes(found) == box.get(found) == b"x" * 5000


def test_nothing_is_put_below_a_directory_of_which_nobody_knows_where_it_is(
    box: TestVolume,
) -> None:
    box.put(b"a/x", b"x")
    box.drain()
    box.rename(b"a", b"b")
    killed_when(box, "rename", answered=True)
    box.put(b"b/y", b"y")
    persist_in(box, b"b")
    assert not box.is_stored(b"a/")
    check(box)


def test_a_file_that_is_replaced_when_it_was_to_step_aside(box: TestVolume) -> None:
    for name in (b"a", b"b"):
        box.put(name, name)
    box.drain()
    box.rename(b"a", b"b", exchange=True)
    killed_when(box, "rename", answered=False)
    box.put(b"b", b"new")
    check(box)
    assert box.stored_bytes(b"a") == b"b"


def test_a_file_that_is_removed_while_it_steps_aside(box: TestVolume) -> None:
    """Who finds that nobody needs it at its old place waits until it is known where it is."""
    for name in (b"a", b"b"):
        box.put(name, name)
    box.drain()
    box.rename(b"a", b"b", exchange=True)
    others: list[threading.Thread] = []
    failed: list[BaseException] = []

    def persist(name: bytes) -> None:
        try:
            box.volume.persister.persist(Place(box.root, box.root, name))
        except BaseException as exc:  # noqa: BLE001  whatever it is
            failed.append(exc)

    def interfere(operation: str, key: bytes) -> None:
        if operation == "rename" and not others:
            box.unlink(b"b")  # the one that was `a`, and is on its way from there
            others.append(threading.Thread(target=persist, args=(b"a",)))
            others[0].start()
            others[0].join(0.2)  # it waits for us

    box.store.before = interfere
    persist(b"a")
    for thread in others:
        thread.join()
    assert others
    assert failed == []
    box.store.before = no_fault
    check(box)


def test_a_directory_that_is_removed_when_it_was_to_step_aside_frees_its_place(
    box: TestVolume,
) -> None:
    box.put(b"a/c/x", b"x")
    box.put(b"c/y", b"y")
    box.drain()
    box.rename(b"c", b"a/c", exchange=True)
    box.unlink(b"c/x")
    killed_when(box, "rename", answered=False, directory=b"a")
    box.rmdir(b"c")
    check(box)
    assert box.stored_bytes(b"a/c/y") == b"y"


def test_what_a_listing_lacks_while_the_store_moves_it_is_not_gone(box: TestVolume) -> None:
    box.put(b"a/x", b"x" * 5000)
    box.drain()
    box.evict()
    box.rename(b"a", b"b")
    killed_when(box, "rename", answered=True)
    box.age()
    directory = box.inode(b"b").id
    box.volume.index.commit(
        lambda txn: namespace.update(txn, namespace.get(txn, directory), listed_ns=0)
    )
    box.volume.discovery.learn_directory(directory)
    check(box)
    assert box.get(b"b/x") == b"x" * 5000


# ---------------------------------------------------------------------------- random schedules


class Mover:
    """Moves things about, at random but the same for the same seed."""

    def __init__(self, box: TestVolume, seed: int) -> None:
        self._box = box
        self._random = random.Random(seed)

    def run(self, steps: int) -> None:
        chosen = random.Random(self._random.random())
        for _ in range(steps):
            with contextlib.suppress(CacheError):  # what was chosen need not be possible
                self._choose()()
            if chosen.random() < 0.3:
                time.sleep(chosen.random() * 0.003)

    def _choose(self) -> Callable[[], object]:
        box, pick = self._box, self._random.choice
        directory, file = pick(DIRECTORIES), pick(FILES)
        kind = self._random.random()
        if kind < 0.2:
            return lambda: box.mkdir(directory)
        if kind < 0.4:
            return lambda: box.rmdir(directory)
        if kind < 0.55:
            body = bytes([self._random.randrange(256)]) * pick((1, 5000))
            return lambda: box.put(file, body)
        if kind < 0.65:
            return lambda: box.unlink(file)
        others = FILES if kind < 0.85 else DIRECTORIES
        old, new = pick(others), pick(others)
        exchange = self._random.random() < 0.4
        return lambda: box.rename(old, new, exchange=exchange, replace=True)


def persist_at_random(box: TestVolume, seed: int, stop: threading.Event) -> None:
    chosen = random.Random(seed)
    while not stop.is_set():
        with box.volume.index.read() as txn:
            entries = dirty.entries(txn)
        if not entries:
            stop.wait(0.0005)
            continue
        with contextlib.suppress(CacheError):  # another time
            box.volume.persister.persist(place_of(chosen.choice(entries)))


@pytest.mark.long
@pytest.mark.timeout(0)
def test_random_schedules(tmp_path: Path) -> None:
    """Timing is the machine's, so a schedule that failed need not fail again: its seed is in the
    name of its directory."""
    first = int(os.environ.get("FOREBAY_SCHEDULE", str(random.randrange(1 << 30))))
    for seed in range(first, first + int(os.environ.get("FOREBAY_SCHEDULES", "200"))):
        box = TestVolume(tmp_path / str(seed))
        pauses = random.Random(seed)

        def pause(operation: str, key: bytes, pauses: random.Random = pauses) -> None:
            del operation, key
            if pauses.random() < 0.5:
                time.sleep(pauses.random() * 0.002)

        box.store.before = box.store.after = pause
        stop = threading.Event()
        persisters = [
            threading.Thread(target=persist_at_random, args=(box, seed + number, stop))
            for number in range(3)
        ]
        for thread in persisters:
            thread.start()
        Mover(box, seed).run(60)
        stop.set()
        for thread in persisters:
            thread.join()
        box.store.before = box.store.after = no_fault
        check(box)
        box.close()
