"""The index: shared commits, failures that stay with their cause, a cap that lets deletes by."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cache import durability
from cache.changes import Change
from cache.config import MIB
from cache.errors import FormatMismatch, IndexFull, NoSuchKey, WouldWait
from cache.index import Index, Request, Table, Txn
from cache.turn import Turn

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path, cap_bytes=16 * MIB, sync=False)


def put(key: bytes, value: bytes = b"v") -> Callable[[Txn], None]:
    return lambda txn: txn.put(Table.META, key, value)


def commit_together(index: Index, *requests: Callable[[], object]) -> list[BaseException | None]:
    """Run commits that all wait for one leader; what each raised."""
    outcome: list[BaseException | None] = [None] * len(requests)

    def run(number: int, request: Callable[[], object]) -> None:
        try:
            request()
        except BaseException as exc:  # noqa: BLE001  looked at by the test
            outcome[number] = exc

    threads = [
        threading.Thread(target=run, args=(number, request))
        for number, request in enumerate(requests)
    ]
    with index._leader:
        for thread in threads:
            thread.start()
        while len(index._waiting) < len(requests):
            pass
    for thread in threads:
        thread.join()
    return outcome


def test_changes_that_wait_together_share_a_commit(index: Index) -> None:
    before = index._env.info()["last_txnid"]
    outcome = commit_together(
        index, *(lambda n=n: index.commit(put(b"k%d" % n)) for n in range(10))
    )
    assert outcome == [None] * 10
    assert index._env.info()["last_txnid"] == before + 1
    with index.read() as txn:
        assert all(txn.get(Table.META, b"k%d" % n) for n in range(10))


@pytest.mark.parametrize("error", [NoSuchKey(b"x"), ZeroDivisionError("a bug")])
def test_a_change_that_fails_fails_alone_and_leaves_nothing(index: Index, error: Exception) -> None:
    def fails(txn: Txn) -> None:
        txn.put(Table.META, b"half", b"v")
        raise error

    outcome = commit_together(
        index,
        lambda: index.commit(put(b"a")),
        lambda: index.commit(fails),
        lambda: index.commit(put(b"b")),
    )
    assert outcome == [None, error, None]
    with index.read() as txn:
        assert txn.get(Table.META, b"half") is None
        assert txn.get(Table.META, b"a")
        assert txn.get(Table.META, b"b")
    with pytest.raises(type(error)):
        index.commit(fails)
    with index.read() as txn:
        assert txn.get(Table.META, b"half") is None


class FakeSegment:
    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.syncs = 0

    def sync(self) -> None:
        self.syncs += 1
        if self.error is not None:
            raise self.error


def test_a_failed_sync_fails_exactly_its_requests(index: Index) -> None:
    good, bad = FakeSegment(), FakeSegment(OSError(5, "the disk"))
    outcome = commit_together(
        index,
        lambda: index.commit(put(b"a"), syncs=[good]),
        lambda: index.commit(put(b"b"), syncs=[good, bad]),
        lambda: index.commit(put(b"c"), syncs=[good]),
        lambda: index.commit(put(b"d"), syncs=[bad]),
    )
    assert [outcome[0], outcome[2]] == [None, None]
    assert isinstance(outcome[1], OSError)
    assert isinstance(outcome[3], OSError)
    assert (good.syncs, bad.syncs) == (1, 1)
    with index.read() as txn:
        assert txn.get(Table.META, b"a")
        assert txn.get(Table.META, b"c")
        assert txn.get(Table.META, b"b") is None
        assert txn.get(Table.META, b"d") is None


def test_a_commit_that_fails_fails_all_that_shared_it(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Raw:
        def __init__(self, raw: lmdb.Transaction) -> None:
            self.raw = raw

        def commit(self) -> None:
            self.raw.abort()
            raise lmdb.DiskError("fdatasync: Input/output error")

    class Env:
        def __init__(self, env: lmdb.Environment) -> None:
            self.env = env

        def begin(self, **options: object) -> object:
            raw = self.env.begin(**options)
            return Raw(raw) if options.get("write") else raw

        def __getattr__(self, name: str) -> object:
            return getattr(self.env, name)

    # With one change there is no nested transaction, which Raw could not be the parent of.
    real = index._env
    monkeypatch.setattr(index, "_apply", lambda raw, request, **_: setattr(request, "result", 1))
    monkeypatch.setattr(index, "_make_room", lambda wait: None)
    index._env = Env(real)  # type: ignore[assignment]
    outcome = commit_together(
        index, lambda: index.commit(put(b"a")), lambda: index.commit(put(b"b"))
    )
    assert all(type(error).__name__ == "OutOfSpace" for error in outcome)
    index._env = real
    monkeypatch.undo()
    index.commit(put(b"c"))


def test_a_full_index_refuses_what_grows_and_lets_deletes_through(index: Index) -> None:
    def grow(txn: Txn, number: int) -> None:
        for n in range(100):
            txn.put(Table.INLINE, b"%d-%d" % (number, n), bytes(4000))

    rows = 0
    try:
        while rows < 1000:
            index.commit(lambda txn: grow(txn, rows))  # noqa: B023
            rows += 1
    except IndexFull:
        pass
    with pytest.raises(IndexFull):
        index.commit(lambda txn: grow(txn, rows))
    assert rows > 10

    def delete(txn: Txn, number: int) -> None:
        for n in range(100):
            assert txn.delete(Table.INLINE, b"%d-%d" % (number, n))

    for number in range(rows):
        index.commit(lambda txn, number=number: delete(txn, number), grows=False)
    index.commit(put(b"again"))
    assert index.used_bytes() < MIB


def test_the_mount_is_told_what_was_committed_and_nothing_else(tmp_path: Path) -> None:
    told: list[list[Change]] = []

    class Sink:
        def __init__(self) -> None:
            self.warned: list[Change] = []

        def notice(self) -> Sink:
            return Sink()

        def warn(self, changes: list[Change]) -> None:
            self.warned = changes

        def confirm(self) -> None:
            told.append(self.warned)

        def withdraw(self) -> None:
            self.warned = []

        def forget(self, changes: list[Change]) -> None:
            told.append(changes)

    index = Index(tmp_path, cap_bytes=16 * MIB, sync=False, sink=Sink())  # type: ignore[arg-type]
    change = Change(1, b"n", 0)

    def announces(txn: Txn) -> None:
        txn.put(Table.META, b"a", b"v")
        txn.changes += [change, change]

    def fails(txn: Txn) -> None:
        txn.changes.append(Change(2, b"never", 0))
        raise NoSuchKey(b"x")

    index.commit(announces)
    index.commit(put(b"quiet"))
    with pytest.raises(NoSuchKey):
        index.commit(fails)
    commit_together(index, lambda: index.commit(announces), lambda: index.commit(fails))
    assert told == [[change], [change]]


class Taker:
    """Who submits: what came back, in which order, and when all of it did."""

    def __init__(self, expected: int) -> None:
        self.taken: list[list[Request[Any]]] = []
        self.expected = expected
        self.all_here = threading.Event()

    def take(self, done: Sequence[Request[Any]]) -> None:
        self.taken.append(list(done))
        if sum(map(len, self.taken)) == self.expected:
            self.all_here.set()


def test_what_is_submitted_comes_back_durable_with_its_result(index: Index) -> None:
    taker = Taker(1)

    def change(txn: Txn) -> int:
        txn.put(Table.META, b"a", b"v")
        return 7

    request = index.submit(change, taker)
    assert taker.all_here.wait(60)
    assert taker.taken == [[request]]
    assert (request.result, request.error) == (7, None)
    with index.read() as txn:
        assert txn.get(Table.META, b"a")


def test_submitted_changes_share_a_commit_with_those_that_wait(index: Index) -> None:
    """And a change that fails fails alone, in whoever's company."""
    one, other = Taker(2), Taker(1)

    def fails(txn: Txn) -> None:
        txn.put(Table.META, b"half", b"v")
        raise NoSuchKey(b"x")

    before = index._env.info()["last_txnid"]
    with index._leader:
        waits = threading.Thread(target=index.commit, args=(put(b"waits"),))
        waits.start()
        while not index._waiting:
            pass
        good = index.submit(put(b"a"), one)
        bad = index.submit(fails, one)
        others = index.submit(put(b"b"), other)
    waits.join()
    assert one.all_here.wait(60)
    assert other.all_here.wait(60)
    assert index._env.info()["last_txnid"] == before + 1
    assert (one.taken, other.taken) == ([[good, bad]], [[others]])
    assert (good.error, type(bad.error), others.error) == (None, NoSuchKey, None)
    with index.read() as txn:
        assert [txn.get(Table.META, key) for key in (b"a", b"b", b"waits", b"half")] == [
            b"v",
            b"v",
            b"v",
            None,
        ]


def test_who_submitted_is_told_after_the_mount(tmp_path: Path) -> None:
    order: list[str] = []

    class Sink:
        def notice(self) -> Sink:
            return self

        def warn(self, changes: list[Change]) -> None:
            order.append("warned")

        def confirm(self) -> None:
            order.append("told")

    class Orderly(Taker):
        def take(self, done: Sequence[Request[Any]]) -> None:
            order.append("taken")
            super().take(done)

    index = Index(tmp_path, cap_bytes=16 * MIB, sync=False)
    index._sink = Sink()  # type: ignore[assignment]
    taker = Orderly(1)
    index.submit(lambda txn: txn.changes.append(Change(1, b"n", 0)), taker)
    assert taker.all_here.wait(60)
    assert order == ["warned", "told", "taken"]


def test_what_was_submitted_is_committed_before_the_index_closes(tmp_path: Path) -> None:
    index = Index(tmp_path, cap_bytes=16 * MIB, sync=False)
    taker = Taker(50)
    for number in range(50):
        index.submit(put(b"k%d" % number), taker)
    index.close()
    assert taker.all_here.is_set()
    again = Index(tmp_path, cap_bytes=16 * MIB, sync=False)
    with again.read() as txn:
        assert all(txn.get(Table.META, b"k%d" % number) for number in range(50))


def test_a_commit_that_must_not_wait_is_made_when_nobody_else_makes_one(index: Index) -> None:
    assert index.commit(lambda _: 5, durable=False, wait=False) == 5
    index.commit(put(b"k"), durable=False, wait=False)
    assert value(index, b"k") == b"v"
    with pytest.raises(NoSuchKey):
        index.commit(refuse, durable=False, wait=False)


def test_a_commit_that_must_not_wait_does_nothing_while_somebody_else_makes_one(
    tmp_path: Path,
) -> None:
    index = Index(tmp_path, cap_bytes=16 * MIB, sync=False)
    with index._leader, pytest.raises(WouldWait):  # a thread of this process
        index.commit(put(b"k"), durable=False, wait=False)
    other_process = Turn(tmp_path / "turn")
    with other_process.taken(wait=True), pytest.raises(WouldWait):
        index.commit(put(b"k"), durable=False, wait=False)
    assert value(index, b"k") is None
    with other_process.taken(wait=True):  # those who may wait leave each other to LMDB's lock
        index.commit(put(b"k"))
    index.commit(put(b"l"), durable=False, wait=False)
    assert value(index, b"l") == b"v"


def test_a_commit_that_must_not_wait_does_nothing_where_each_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "page_cache_of", lambda _: None)
    index = Index(tmp_path, cap_bytes=16 * MIB)
    with pytest.raises(WouldWait):
        index.commit(put(b"k"), durable=False, wait=False)
    assert value(index, b"k") is None


def refuse(_: Txn) -> None:
    raise NoSuchKey(b"key")


def value(index: Index, key: bytes) -> bytes | None:
    with index.read() as txn:
        return txn.get(Table.META, key)


def test_an_index_of_another_format_is_refused(tmp_path: Path) -> None:
    index = Index(tmp_path, cap_bytes=16 * MIB, sync=False)
    index.commit(put(b"format", b"forebay-99"))
    index.close()
    with pytest.raises(FormatMismatch):
        Index(tmp_path, cap_bytes=16 * MIB, sync=False)


def read_and_die(path: Path) -> None:
    import os

    index = Index(path, cap_bytes=16 * MIB, sync=False)
    with index.read():
        os._exit(0)


def test_the_slot_of_a_reader_that_died_is_freed(tmp_path: Path) -> None:
    index = Index(tmp_path, cap_bytes=16 * MIB, sync=False)
    process = SPAWN.Process(target=read_and_die, args=(tmp_path,))
    process.start()
    process.join(30)
    assert index.clear_stale_readers() == 1
    assert index.clear_stale_readers() == 0


def test_a_scan_keeps_to_its_prefix_and_before_finds_the_neighbour(index: Index) -> None:
    def fill(txn: Txn) -> None:
        for key in (b"a1", b"a2", b"b1", b"\xff"):
            txn.put(Table.KEYS, key, key)

    index.commit(fill)
    with index.read() as txn:
        assert [k for k, _ in txn.scan(Table.KEYS, b"a2", b"a")] == [b"a2"]
        assert [k for k, _ in txn.scan(Table.KEYS, b"b", b"b")] == [b"b1"]
        assert [k for k, _ in txn.scan(Table.KEYS)] == [b"a1", b"a2", b"b1", b"\xff"]
        assert txn.before(Table.KEYS, b"b", b"a") == (b"a2", b"a2")
        assert txn.before(Table.KEYS, b"a1", b"a") is None
        assert txn.before(Table.KEYS, b"\xff\xff", b"") == (b"\xff", b"\xff")
        assert txn.before(Table.KEYS, b"b1", b"b") is None
