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

from cache import dirty
from cache.comparison import Task
from cache.errors import CacheError
from cache.persist import place_of
from tests.support.fault_store import no_fault
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
    still = comparison.still

    def and_then(task: Task) -> bool:
        answer = still(task)
        if task.key == b"c/" and task.inode is None:
            monkeypatch.setattr(comparison, "still", still)
            box.rename(b"b", b"c")
        return answer

    monkeypatch.setattr(comparison, "still", and_then)
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


def persist_in(box: TestVolume, directory: bytes) -> None:
    with box.volume.index.read() as txn:
        entries = dirty.entries_of(txn, box.inode(directory).id)
    for entry in entries:
        box.volume.persister.persist(place_of(entry))


# ---------------------------------------------------------------------------- random schedules

DIRECTORIES = (b"a", b"b", b"c", b"a/c", b"b/c")
FILES = (b"x", *(directory + b"/" + name for directory in DIRECTORIES for name in (b"x", b"y")))


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
    name of its directory. About 1 in 500 still does (21 November 2026): a directory exchanged with
    one whose namesake is just being removed stays aside, its entry in the queue for ever."""
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
