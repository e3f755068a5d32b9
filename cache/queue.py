"""Working off the persist queue, and waiting for it. The mover runs it; anybody may watch it.

Entries are tried in order, several at a time; which of them may overlap is the persister's
business (its locks). A name waits `persist_delay_ms` first: what is removed or written again by
then never goes to the store, and a burst has the machine to itself. A large file that is just being
written waits for its close or fsync (cache/open_file.py). Not so when dirty bytes begin
to fill what they may: writers would have to wait. A name that fails is tried again for ever, with
pauses that grow to a minute; a store that does not answer rests as a whole, so that one outage is
not asked ten thousand times.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cache import dirty, metrics, namespace
from cache.admission import Admission
from cache.buckets import Buckets
from cache.config import CacheConfig
from cache.errors import CacheError, NoSuchBucket, NoSuchInode, StoreUnavailable
from cache.index import Index, Table, Txn
from cache.persist import Persister, place_of
from cache.records import QueueEntry, unpack

log = logging.getLogger(__name__)

_PAUSE_MIN_S = 0.5
_PAUSE_MAX_S = 60.0
_PUT_OFF_MAX_NS = 120 * 10**9
"""Nothing is told to wait for longer: what seems to was told so before the clock was set back."""
_SCAN_MAX = 20_000
_SETTLED_AGE_NS = 300 * 10**9
_CALM = 0.25
"""Share of the soft limit up to which dirty bytes may wait for their delay."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not in the stores yet."""

    names: int
    dirty_bytes: int
    oldest_ns: int | None  # wall clock of the oldest entry
    errors: list[tuple[bytes, str]]  # (name, error) of a few that failed last time


class Queue:
    def __init__(
        self,
        index: Index,
        buckets: Buckets,
        persister: Persister,
        admission: Admission,
        config: CacheConfig,
    ) -> None:
        self._index = index
        self._buckets = buckets
        self._persister = persister
        self._delay_ns = config.persist_delay_ms * 1_000_000
        self._calm_bytes = int(admission.soft_bytes * _CALM)
        self._workers = config.persist_workers
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._busy: set[tuple[int, bytes]] = set()
        self._scan_from = b""  # the sequence at which the next look at the queue begins
        self._resting: dict[str, tuple[float, float]] = {}  # store -> (until, pause)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run_once(self, *, at_once: bool = False, hurry: bool = False) -> int:
        """Start work on entries whose time has come, as many as workers are free; the number
        started. at_once: without the delay of new entries. hurry: without that, and without the
        pauses after failures."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="persist")
        started = 0
        for entry in self._due(at_once or hurry, hurry):
            with self._lock:
                if len(self._busy) >= self._workers:
                    break
                key = (entry.parent, entry.name)
                if key in self._busy:
                    continue
                self._busy.add(key)
            self._pool.submit(self._attempt, entry)
            started += 1
        return started

    def forget_settled(self) -> int:
        """Drop some notes of names that settled so long ago that no answer of a store is older;
        the number dropped."""
        now = time.monotonic_ns()
        return self._index.commit(
            lambda txn: dirty.forget_settled(txn, now - _SETTLED_AGE_NS, time.monotonic_ns()),
            grows=False,
        )

    def is_idle(self) -> bool:
        """No entry is being worked on."""
        with self._lock:
            return not self._busy

    def _due(self, at_once: bool, hurry: bool) -> list[QueueEntry]:
        now = time.time_ns()
        due: list[QueueEntry] = []
        start, self._scan_from = self._scan_from, b""
        with self._index.read() as txn:
            waits = not at_once and dirty.dirty_bytes(txn) <= self._calm_bytes
            ripe_ns = now - self._delay_ns if waits else now
            for seen, (sequence, value) in enumerate(txn.scan(Table.QUEUE, start)):
                if len(due) >= self._workers * 4:
                    break
                if seen >= _SCAN_MAX:
                    # All these wait, for their store it may be: others are behind them.
                    self._scan_from = sequence
                    break
                entry = unpack(value, QueueEntry)
                if ripe_ns < entry.since_ns <= now:  # later than now: the clock was set back
                    break  # and all behind it are younger still
                if (entry.parent, entry.name) in self._busy:
                    continue
                if not hurry and (self._is_put_off(entry, now, waits) or self._rests(txn, entry)):
                    continue
                due.append(entry)
        return due

    @staticmethod
    def _is_put_off(entry: QueueEntry, now: int, waits: bool) -> bool:
        """Whether its time is to come: after a failure; or, where entries may wait, because the
        file is just being written."""
        is_early = now < entry.not_before_ns <= now + _PUT_OFF_MAX_NS
        return is_early and (waits or entry.attempts > 0)

    def _rests(self, txn: Txn, entry: QueueEntry) -> bool:
        """Whether the entry's store is left in peace for a while, because it did not answer."""
        try:
            store = self._buckets.of_root(txn, entry.bucket).store
        except (NoSuchInode, NoSuchBucket):
            return False
        until, _ = self._resting.get(store, (0.0, 0.0))
        return time.monotonic() < until

    def _attempt(self, entry: QueueEntry) -> None:
        try:
            self._persister.persist(place_of(entry))
            self._answered(entry)
        except Exception as exc:  # noqa: BLE001  a worker survives whatever one name does
            self._failed(entry, exc)
        finally:
            with self._lock:
                self._busy.discard((entry.parent, entry.name))

    def _answered(self, entry: QueueEntry) -> None:
        store = self._store_name(entry)
        if store is not None:
            self._resting.pop(store, None)

    def _failed(self, entry: QueueEntry, exc: Exception) -> None:
        metrics.PERSIST_FAILURES.inc()
        pause = min(_PAUSE_MAX_S, _PAUSE_MIN_S * 2 ** min(entry.attempts, 10))
        if isinstance(exc, StoreUnavailable):
            store = self._store_name(entry)
            if store is not None:
                _, last = self._resting.get(store, (0.0, _PAUSE_MIN_S / 2))
                rest = min(_PAUSE_MAX_S / 4, last * 2)
                self._resting[store] = (time.monotonic() + rest, rest)
            pause = _PAUSE_MIN_S
        if isinstance(exc, CacheError):
            level = logging.WARNING if entry.attempts < 3 else logging.ERROR
            log.log(level, "persisting %r failed: %s", entry.name, exc)
        else:
            log.error("persisting %r failed", entry.name, exc_info=exc)
        retry_at = time.time_ns() + int(pause * random.uniform(0.75, 1.25) * 1e9)  # noqa: S311  no secret
        self._index.commit(
            lambda txn: dirty.failed(txn, entry.parent, entry.name, str(exc), retry_at),
            grows=False,
        )

    def _store_name(self, entry: QueueEntry) -> str | None:
        with self._index.read() as txn:
            try:
                return self._buckets.of_root(txn, entry.bucket).store
            except (NoSuchInode, NoSuchBucket):
                return None

    def backlog(self) -> Backlog:
        """What waits, at this moment. A scan of the queue's first entries."""
        errors: list[tuple[bytes, str]] = []
        oldest: int | None = None
        with self._index.read() as txn:
            for entry in dirty.entries(txn, limit=1000):
                oldest = entry.since_ns if oldest is None else min(oldest, entry.since_ns)
                if entry.error and len(errors) < 10:
                    errors.append((entry.name, entry.error))
            return Backlog(dirty.length(txn), dirty.dirty_bytes(txn), oldest, errors)

    def pending_below(self, bucket_root: int, prefix: bytes) -> list[bytes]:
        """Keys of a bucket that begin with prefix and wait to be persisted."""
        found = []
        with self._index.read() as txn:
            for entry in dirty.entries(txn):
                if entry.bucket != bucket_root:
                    continue
                try:
                    _, key = namespace.path_of(txn, entry.parent, entry.name)
                except NoSuchInode:
                    continue
                if key.startswith(prefix):
                    found.append(key)
        return found
