"""Durable points: what outlives a power cut, and what need not.

The power cut here is worse than a real one. Of all that was written since the last sync each page
of the index, and each slot of the point's file, reached the disk or did not, by lot.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from cache import disk, durability
from cache.errors import OutOfSpace, WouldWait
from cache.index import Index, Table, Txn
from tests.support.waiting import wait_until

SPAWN = multiprocessing.get_context("spawn")
SEED = os.environ.get("FOREBAY_SEED", "20261121")
CAP_BYTES = 16 << 20
PAGE_BYTES = 4096
ROUNDS = 12
COMMITS = 40

State = dict[bytes, bytes]


@pytest.fixture
def same_cache(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Has indexes opened from now on find themselves in the page cache of that name."""

    def name(cache_of: str | None) -> None:
        monkeypatch.setattr(durability, "page_cache_of", lambda path: cache_of)

    name("before")
    return name


def opened(path: Path) -> Index:
    return Index(path, cap_bytes=CAP_BYTES)


def content(index: Index) -> State:
    with index.read() as txn:
        return dict(txn.scan(Table.INLINE))


def change_of(choice: random.Random, state: State) -> Callable[[Txn], None]:
    """A change of a few rows, which is made to the state, too."""
    todo: list[tuple[bytes, bytes | None]] = []
    for _ in range(choice.randint(1, 5)):
        key = b"%03d" % choice.randrange(300)
        value = choice.randbytes(choice.choice([8, 900, 6000])) if choice.random() < 0.7 else None
        todo.append((key, value))
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value

    def change(txn: Txn) -> None:
        for key, value in todo:
            if value is None:
                txn.delete(Table.INLINE, key)
            else:
                txn.put(Table.INLINE, key, value)

    return change


class History:
    """What was committed, state by state, and the last one that was acknowledged as durable."""

    def __init__(self) -> None:
        self.state: State = {}
        self._states = [dict(self.state)]
        self._durable = 0

    def committed(self, *, durable: bool) -> None:
        self._states.append(dict(self.state))
        if durable:
            self.is_durable()

    def is_durable(self) -> None:
        self._durable = len(self._states) - 1

    @property
    def may_be_left(self) -> list[State]:
        return self._states[self._durable :]


# ------------------------------------------------------------------ power cuts


class Disk:
    """What is certain to be on the disk: the files as they were when they were synced last."""

    def __init__(self, index: Path, synced: Path) -> None:
        self._index = index
        self._synced = synced
        synced.mkdir(exist_ok=True)

    def watch(self, monkeypatch: pytest.MonkeyPatch | None) -> None:
        """Note what is synced. Without a monkeypatch: for as long as the process lives."""
        real = disk.sync_data

        def sync_data(fd: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            if path.parent == self._index:
                copy = self._synced / f"{path.name}.{os.getpid()}"
                shutil.copyfile(path, copy)
                copy.replace(self._synced / path.name)
            real(fd)

        if monkeypatch is None:
            disk.sync_data = sync_data
        else:
            monkeypatch.setattr(disk, "sync_data", sync_data)

    def after_cut(self, choice: random.Random, place: Path) -> None:
        """A directory with what a power cut may leave."""
        place.mkdir()
        with (self._index / "durable").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # nobody moves the point meanwhile
            files = [
                (name, (self._index / name).read_bytes(), (self._synced / name).read_bytes())
                for name in ("data.mdb", "durable")
            ]
        for name, now, synced in files:
            then = synced.ljust(len(now), b"\0")
            kept = choice.random()
            pages = [
                (now if choice.random() < kept else then)[at : at + PAGE_BYTES]
                for at in range(0, len(now), PAGE_BYTES)
            ]
            (place / name).write_bytes(b"".join(pages))


@pytest.fixture
def power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Of the index in `tmp_path / "index"`, which is still to be opened."""
    power = Disk(tmp_path / "index", tmp_path / "synced")
    power.watch(monkeypatch)
    return power


@pytest.mark.parametrize("number", range(ROUNDS))
def test_what_was_durable_is_there_after_a_power_cut(
    tmp_path: Path,
    number: int,
    power: Disk,
    same_cache: Callable[[str | None], None],
) -> None:
    choice = random.Random(f"{SEED} {number}")
    index = opened(tmp_path / "index")
    history = History()
    share = choice.choice([0.0, 0.1, 0.5])
    for _ in range(COMMITS):
        waits = choice.random() < share
        index.commit(change_of(choice, history.state), durable=waits)
        history.committed(durable=waits)
        if choice.random() < 0.05:
            index.make_durable()
            history.is_durable()
    power.after_cut(choice, tmp_path / "left")
    index.close()

    same_cache("after")
    left = opened(tmp_path / "left")
    found = content(left)
    assert found in history.may_be_left
    assert left.used_bytes() > 0
    # And it is one to go on with.
    for _ in range(5):
        left.commit(change_of(choice, found))
    assert content(left) == found
    left.close()


def second_process(path: Path, synced: Path, orders: Connection) -> None:
    durability.page_cache_of = lambda path: "before"
    Disk(path, synced).watch(None)
    index = opened(path)
    orders.send(None)
    while (order := orders.recv()) is not None:
        rows, durable = order

        def change(txn: Txn, rows: State = rows) -> None:
            for key, value in rows.items():
                txn.put(Table.INLINE, key, value)

        index.commit(change, durable=durable)
        orders.send(None)
    index.close()
    orders.send(None)


@pytest.mark.parametrize("number", range(3))
def test_two_processes_have_one_durable_point(
    tmp_path: Path,
    number: int,
    power: Disk,
    same_cache: Callable[[str | None], None],
) -> None:
    choice = random.Random(f"{SEED} {number}")
    index = opened(tmp_path / "index")
    here, there = SPAWN.Pipe()
    other = SPAWN.Process(
        target=second_process, args=(tmp_path / "index", tmp_path / "synced", there)
    )
    other.start()
    assert here.poll(30)
    here.recv()
    history = History()
    for _ in range(COMMITS):
        waits = choice.random() < 0.3
        if choice.random() < 0.5:
            index.commit(change_of(choice, history.state), durable=waits)
        else:
            rows = {b"%03d" % choice.randrange(300): choice.randbytes(2000)}
            history.state |= rows
            here.send((rows, waits))
            here.recv()
        history.committed(durable=waits)
    power.after_cut(choice, tmp_path / "left")
    here.send(None)
    here.recv()
    other.join()
    index.close()

    same_cache("after")
    left = opened(tmp_path / "left")
    assert content(left) in history.may_be_left
    left.close()


# ------------------------------------------------------------------ everything else


def commit_and_die(path: Path, rows: int) -> None:
    durability.page_cache_of = lambda path: "before"
    index = opened(path)
    for row in range(rows):
        index.commit(lambda txn, row=row: txn.put(Table.INLINE, b"%d" % row, b"v"), durable=False)
    os._exit(0)


def test_after_kills_nothing_is_undone(
    tmp_path: Path, same_cache: Callable[[str | None], None]
) -> None:
    process = SPAWN.Process(target=commit_and_die, args=(tmp_path, 20))
    process.start()
    process.join()
    index = opened(tmp_path)
    assert len(content(index)) == 20
    index.close()


def test_what_nobody_waits_for_is_durable_in_a_moment(
    tmp_path: Path, power: Disk, same_cache: Callable[[str | None], None]
) -> None:
    index = opened(tmp_path / "index")
    index.commit(lambda txn: txn.put(Table.INLINE, b"a", b"v"), durable=False)
    assert index._point.is_kept
    point = index._point
    wait_until(lambda: point._reached == index.last_change, "the point is reached", 10)
    wait_until(lambda: point._pin is None, "nobody keeps old pages", 10)
    power.after_cut(random.Random(SEED), tmp_path / "left")
    index.close()
    same_cache("after")
    left = opened(tmp_path / "left")
    assert content(left) == {b"a": b"v"}
    left.close()


def test_a_first_commit_after_a_pause_waits_for_no_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_cache: Callable[[str | None], None]
) -> None:
    index = opened(tmp_path)
    point = index._point
    assert point.is_kept
    wait_until(lambda: point._reached == index.last_change, "the point is reached", 10)
    wait_until(lambda: point._pin is None, "nobody keeps old pages", 10)
    with monkeypatch.context() as patched:
        patched.setattr(disk, "sync_data", failing)
        with point.committing(wait=True):
            assert point._pin is not None
    index.close()


def test_a_commit_that_must_not_wait_needs_a_pin_that_is_there(
    tmp_path: Path, same_cache: Callable[[str | None], None]
) -> None:
    def put(key: bytes, *, wait: bool) -> None:
        index.commit(lambda txn: txn.put(Table.INLINE, key, b"v"), durable=False, wait=wait)

    index = opened(tmp_path)
    point = index._point
    wait_until(lambda: point._pin is None, "nobody keeps old pages", 10)
    with pytest.raises(WouldWait):
        put(b"a", wait=False)
    with point.committing(wait=True):  # keeps the pin
        put(b"b", wait=False)
    wait_until(lambda: point._reached == index.last_change, "the point is reached", 10)
    assert content(index) == {b"b": b"v"}
    index.close()


def test_where_the_kernel_does_not_tell_lmdb_syncs(
    tmp_path: Path, same_cache: Callable[[str | None], None]
) -> None:
    index = opened(tmp_path)
    index.commit(lambda txn: txn.put(Table.INLINE, b"a", b"v"), durable=False)
    index.close()
    same_cache(None)
    index = opened(tmp_path)
    assert not index._point.is_kept
    assert index._env.flags()["sync"]
    assert content(index) == {b"a": b"v"}
    assert not (tmp_path / "durable").exists()
    # Another process that can see more must not begin what this one takes no part in.
    same_cache("before")
    process = SPAWN.Process(target=expect_no_point, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    index.close()


def expect_no_point(path: Path) -> None:
    durability.page_cache_of = lambda path: "before"
    index = opened(path)
    assert not index._point.is_kept
    index.close()


def test_a_disk_that_fails_to_sync_is_not_believed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_cache: Callable[[str | None], None]
) -> None:
    index = opened(tmp_path)
    index.commit(lambda txn: txn.put(Table.INLINE, b"good", b"v"))
    with monkeypatch.context() as broken:
        broken.setattr(disk, "sync_data", failing)
        with pytest.raises(OutOfSpace, match="could not be synced"):
            index.commit(lambda txn: txn.put(Table.INLINE, b"a", b"v"))
    for durable in (True, False):
        with pytest.raises(OutOfSpace, match="could not be synced"):
            index.commit(lambda txn: txn.put(Table.INLINE, b"b", b"v"), durable=durable)
    with pytest.raises(OutOfSpace, match="could not be synced"):
        index.make_durable()
    index.close()
    # Nor after a restart: the kernel reports a failure once, and keeps pages that are nowhere else.
    index = opened(tmp_path)
    assert content(index) == {b"good": b"v"}
    index.commit(lambda txn: txn.put(Table.INLINE, b"c", b"v"))
    index.close()


def test_who_waits_while_a_sync_fails_does_not_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_cache: Callable[[str | None], None]
) -> None:
    index = opened(tmp_path)
    point = index._point
    assert point is not None
    wait_until(lambda: point._pin is None, "nobody has a pin")
    # As by another process: a pin of it needs a sync.
    with index._env.begin(write=True, db=index._tables[Table.META]) as raw:
        raw.put(b"another", b"")
    syncing, fail = threading.Event(), threading.Event()

    def sync_data(fd: int) -> None:
        syncing.set()
        assert fail.wait(60)
        raise OSError(5, "Input/output error")

    def commit() -> None:
        with pytest.raises(OutOfSpace, match="could not be synced"):
            index.commit(lambda txn: txn.put(Table.INLINE, b"a", b"v"), durable=False)
        ended.release()

    ended = threading.Semaphore(0)
    monkeypatch.setattr(disk, "sync_data", sync_data)
    threads = [threading.Thread(target=commit) for _ in range(2)]
    threads[0].start()
    assert syncing.wait(60)
    threads[1].start()
    fail.set()
    for thread in threads:
        thread.join(60)
        assert ended.acquire(timeout=60)
    assert content(index) == {}
    index.close()


def failing(fd: int) -> None:
    raise OSError(5, "Input/output error")


def die_while_going_back(path: Path, began: Event) -> None:
    durability.page_cache_of = lambda path: "after"

    def going_back(*_: object) -> None:
        began.set()
        signal.pause()

    durability._go_back = going_back
    opened(path)


def test_who_waits_for_one_that_is_killed_going_back_does_it_himself(
    tmp_path: Path,
    power: Disk,
    monkeypatch: pytest.MonkeyPatch,
    same_cache: Callable[[str | None], None],
) -> None:
    index = opened(tmp_path / "index")
    index.commit(lambda txn: txn.put(Table.INLINE, b"a", b"v"))
    power.after_cut(random.Random(SEED), tmp_path / "left")
    index.close()
    began = SPAWN.Event()
    first = SPAWN.Process(target=die_while_going_back, args=(tmp_path / "left", began))
    first.start()
    assert began.wait(30)
    same_cache("after")
    went_back: list[Path] = []
    real = durability._go_back

    def going_back(data: Path, point: durability._Point) -> None:
        went_back.append(data)
        real(data, point)

    monkeypatch.setattr(durability, "_go_back", going_back)
    pause = time.sleep

    def waiting(seconds: float) -> None:
        first.kill()
        pause(seconds)

    monkeypatch.setattr(time, "sleep", waiting)
    second = opened(tmp_path / "left")
    assert went_back == [tmp_path / "left" / "data.mdb"]
    assert content(second) == {b"a": b"v"}
    second.close()
    first.join()


def die_before_the_point_is_synced(path: Path) -> None:
    durability.page_cache_of = lambda path: "before"
    index = opened(path)
    real = disk.sync_data

    def sync_data(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("durable"):
            os._exit(0)
        real(fd)

    disk.sync_data = sync_data
    index.commit(lambda txn: txn.put(Table.INLINE, b"a", b"v"))


def test_a_point_whose_writer_was_killed_is_synced_before_it_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_cache: Callable[[str | None], None]
) -> None:
    index = opened(tmp_path)
    point = index._point
    assert point is not None
    wait_until(lambda: point._pin is None, "nobody here looks after commits", 10)
    other = SPAWN.Process(target=die_before_the_point_is_synced, args=(tmp_path,))
    other.start()
    other.join()
    synced: list[str] = []
    real = disk.sync_data

    def sync_data(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real(fd)

    monkeypatch.setattr(disk, "sync_data", sync_data)
    assert content(index) == {b"a": b"v"}
    index.make_durable()
    assert synced[0] == "durable"
    index.close()


def test_a_clean_stop_leaves_an_index_that_needs_no_point(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    same_cache: Callable[[str | None], None],
) -> None:
    index = opened(tmp_path)
    index.commit(lambda txn: txn.put(Table.INLINE, b"a", b"v"), durable=False)
    index.close()
    assert not (tmp_path / "durable").exists()
    same_cache("after")
    index = opened(tmp_path)
    assert content(index) == {b"a": b"v"}
    index.close()
    assert "goes back" not in caplog.text


def commit_without_sync(path: Path) -> None:
    index = Index(path, cap_bytes=CAP_BYTES, sync=False)
    assert index._point.is_kept
    index.close()


def test_one_that_would_not_sync_takes_part_where_others_do(
    tmp_path: Path, same_cache: Callable[[str | None], None]
) -> None:
    index = opened(tmp_path)
    process = SPAWN.Process(target=commit_without_sync, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    index.close()


@pytest.fixture
def mounted_here(tmp_path: Path) -> Path:
    if durability.page_cache_of(tmp_path) is None:
        pytest.skip("neither ext4 nor xfs, or no sysfs")
    return tmp_path


def test_the_page_cache_has_one_name_while_it_is_mounted(mounted_here: Path) -> None:
    (mounted_here / "below").mkdir()
    assert durability.page_cache_of(mounted_here) == durability.page_cache_of(
        mounted_here / "below"
    )
