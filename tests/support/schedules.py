"""Random schedules that are the same for the same seed: verbs of the mount and of S3 clients while
the store follows, and while those are under way.

Nothing runs at the same time. A *step* is a verb or the persisting of a name that waits; while a
name is persisted further steps are taken between two of its calls, before a call of the store,
before its answer, around a commit and after a look, and it may end there as if it had been killed.
A persister that would have to wait for a lock of one below gives up, and its name waits.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cache import dirty, locks
from cache.errors import CacheError, StoreUnavailable
from cache.index import Table
from cache.namespace import Place
from cache.persist import place_of
from tests.support.fault_store import no_fault
from tests.support.volume import BUCKET, TestVolume

DIRECTORIES = (b"a", b"b", b"c", b"a/c", b"b/c")
FILES = (b"x", *(directory + b"/" + name for directory in DIRECTORIES for name in (b"x", b"y")))
_ROUNDS_MAX = 60


@dataclass
class Verb:
    """Something that a client does."""

    name: str
    path: bytes
    to: bytes = b""
    body: bytes = b""


@dataclass
class Persisting:
    """The persisting of one of the names that wait."""

    which: float  # of all that wait, in their order: 0 up to 1
    meanwhile: dict[int, list[Step]] = field(default_factory=dict)  # by the number of the call
    killed_at: int | None = None


Step = Verb | Persisting


def make_steps(chosen: random.Random, count: int, depth: int = 0) -> list[Step]:
    """A schedule."""
    return [
        _verb(chosen)
        if chosen.random() < (0.6 + 0.15 * bool(depth))
        else _persisting(chosen, depth)
        for _ in range(count)
    ]


def _verb(chosen: random.Random) -> Verb:
    kind = chosen.random()
    directory, file = chosen.choice(DIRECTORIES), chosen.choice(FILES)
    body = b"%d." % chosen.randrange(1 << 30) * chosen.choice((1, 600))
    if kind < 0.06:
        return Verb(chosen.choice(("evict", "reap")), b"")
    if kind < 0.4:
        return Verb(chosen.choice(("mkdir", "rmdir")), directory)
    if kind < 0.65:
        return Verb(chosen.choice(("put", "put", "put", "unlink", "write")), file, body=body)
    paths = FILES if kind < 0.82 else DIRECTORIES
    name = "exchange" if chosen.random() < 0.4 else "rename"
    return Verb(name, chosen.choice(paths), chosen.choice(paths))


def _persisting(chosen: random.Random, depth: int) -> Persisting:
    step = Persisting(chosen.random())
    if depth < 3:
        for _ in range(chosen.choice((0, 1, 1, 2, 3))):
            number = int(chosen.random() ** 1.5 * 24)
            step.meanwhile[number] = make_steps(chosen, chosen.choice((1, 1, 2, 3)), depth + 1)
    if chosen.random() < 0.2:
        step.killed_at = int(chosen.random() ** 1.5 * 20)
    return step


class Schedule:
    """Takes steps; whoever makes one has the node's locks answer at once (`locks_that_never_wait`)
    and the box to itself."""

    def __init__(self, box: TestVolume) -> None:
        self._box = box
        self._under_way: list[Persisting | None] = []  # None: a verb, which nothing interrupts
        self._calls: list[int] = []

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take steps between the calls of persisters."""
        persister, index = self._box.volume.persister, self._box.volume.index
        look, commit = persister._comparison.look, index.commit

        def looked(place: Place, *, taking: bool = False) -> object:
            task = look(place, taking=taking)
            self._between()
            return task

        def committed(*arguments: Any, **options: Any) -> Any:
            self._between()
            result = commit(*arguments, **options)
            self._between()
            return result

        monkeypatch.setattr(persister._comparison, "look", looked)
        monkeypatch.setattr(index, "commit", committed)
        self._box.store.before = self._box.store.after = lambda operation, key: self._between()

    def _between(self) -> None:
        step = self._under_way[-1] if self._under_way else None
        if step is None:
            return
        number = self._calls[-1]
        self._calls[-1] += 1
        if step.killed_at is not None and number >= step.killed_at:
            raise StoreUnavailable("killed")
        self.take(step.meanwhile.get(number, []))

    def take(self, steps: list[Step]) -> None:
        for step in steps:
            self._under_way.append(step if isinstance(step, Persisting) else None)
            self._calls.append(0)
            try:
                with contextlib.suppress(CacheError):  # what was chosen need not be possible
                    self._take(step)
            finally:
                self._under_way.pop()
                self._calls.pop()

    def _take(self, step: Step) -> None:
        if isinstance(step, Verb):
            self._verbs()[step.name](step)
            return
        with self._box.volume.index.read() as txn:
            waiting = dirty.entries(txn)
        if waiting:
            self._box.volume.persister.persist(place_of(waiting[int(step.which * len(waiting))]))

    def _verbs(self) -> dict[str, Callable[[Verb], object]]:
        box = self._box
        return {
            "mkdir": lambda verb: box.mkdir(verb.path),
            "rmdir": lambda verb: box.rmdir(verb.path),
            "put": lambda verb: box.put(verb.path, verb.body),
            "write": lambda verb: box.write(verb.path, verb.body),
            "unlink": lambda verb: box.unlink(verb.path),
            "rename": lambda verb: box.rename(verb.path, verb.to),
            "exchange": lambda verb: box.rename(verb.path, verb.to, exchange=True),
            "evict": lambda verb: box.evict(),
            "reap": lambda verb: box.reap(),
        }

    def check(self) -> None:
        """In the end the store is what the index is, byte for byte, and nothing is noted as
        elsewhere."""
        box = self._box
        box.store.before = box.store.after = no_fault
        self._drain()
        with box.volume.index.read() as txn:
            assert list(txn.scan(Table.AWAY)) == list(txn.scan(Table.MOVING)) == []
        for _ in range(2):
            box.reap()
        self._drain()
        listed = box.volume.objects.list(BUCKET, limit=100_000, directories=True).entries
        keys = {entry.key for entry in listed}
        if not box.store.capabilities.native_directories:
            keys = {k for k in keys if not k.endswith(b"/") or box.inode(k[:-1]).explicit}
        assert set(box.stored()) == keys
        for key in keys:
            assert key.endswith(b"/") or box.stored_bytes(key) == box.get(key), key
        box.check()

    def _drain(self) -> None:
        errors: dict[bytes, CacheError] = {}
        for _ in range(_ROUNDS_MAX):
            with self._box.volume.index.read() as txn:
                waiting = dirty.entries(txn)
            if not waiting:
                return
            for entry in waiting:
                try:
                    self._box.volume.persister.persist(place_of(entry))
                except CacheError as exc:
                    errors[entry.name] = exc
        raise AssertionError(f"what waits for ever: {errors}")


@pytest.fixture
def locks_that_never_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = locks.NodeLocks._acquire

    def at_once(fd: int, request: bytes, name: tuple[object, ...], deadline_s: float) -> None:
        acquire(fd, request, name, -1.0)

    monkeypatch.setattr(locks.NodeLocks, "_acquire", staticmethod(at_once))


__all__ = ["Schedule", "locks_that_never_wait", "make_steps"]
