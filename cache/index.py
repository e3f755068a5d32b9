"""The index: one LMDB environment shared by all processes of the node.

Reading takes no lock and costs about a microsecond; do it inline. Writing is a *change*, a
function of a transaction, handed to `Index.commit`. Changes of several threads that arrive
together share one sync of their segments, one commit and its sync: whoever holds `_leader` commits
for all that wait (docs/concurrency.md). The order is the promise of the whole product: bytes
synced, then the commit, which all see from then on, then the commit synced (cache/durability.py),
then the kernel of the mount told, then the caller answered. An event loop, which cannot wait, hands
its changes to `Index.submit`.

A change must not wait for anything (no I/O, no lock, no other process): all writers of the node
stand behind it. A change that raises leaves nothing behind.
"""

from __future__ import annotations

import enum
import errno
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import lmdb
import msgspec

from cache import changes, metrics
from cache.durability import Opened
from cache.errors import CacheError, FormatMismatch, IndexFull, OutOfSpace, WouldWait
from cache.headroom import LOW_BYTES, Headroom, is_full
from cache.records import Inode, pack, unpack
from cache.turn import Turn

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)

FORMAT = b"forebay-1"
_COMMITTERS = 2
"""Threads that commit what was submitted: one commits while the other waits for the mount, and for
the loop that is told."""


class Table(enum.StrEnum):
    """Every table of the index; key encodings are in docs/on-disk-format.md."""

    META = "meta"
    BUCKETS = "buckets"
    DENTRIES = "dentries"
    INODES = "inodes"
    OBJECTS = "objects"
    XATTRS = "xattrs"
    INLINE = "inline"
    EXTENTS = "extents"
    RESIDENTS = "residents"
    GHOSTS = "ghosts"
    SEGMENTS = "segments"
    QUEUE = "queue"
    QUEUED = "queued"
    SETTLED = "settled"
    AWAY = "away"
    MOVING = "moving"
    COPIES = "copies"
    ORPHANS = "orphans"
    LINKS = "links"
    UPLOADS = "uploads"
    PARTS = "parts"
    KEYS = "keys"
    USERS = "users"
    GROUPS = "groups"
    BUCKET_LINKS = "bucket_links"


class Txn:
    """A read or write transaction; values it returns are copies and outlive it."""

    __slots__ = ("_raw", "_tables", "changes", "inodes")

    def __init__(self, raw: lmdb.Transaction, tables: dict[Table, lmdb._Database]) -> None:
        self._raw = raw
        self._tables = tables
        self.changes: list[changes.Change] = []
        """What the mount's kernel may hold wrongly once this is committed."""
        self.inodes: dict[int, Inode] = {}
        """Those that cache/namespace.py has read or written here: a change comes by the same
        directories a dozen times."""

    def get(self, table: Table, key: bytes) -> bytes | None:
        # Not cast(), which is a call like any other; copies, as no transaction here has buffers.
        return self._raw.get(key, None, self._tables[table])  # type: ignore[return-value]

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._raw.put(key, value, db=self._tables[table])

    def delete(self, table: Table, key: bytes) -> bool:
        """Remove a row; False if there was none."""
        return bool(self._raw.delete(key, db=self._tables[table]))

    def record(self, table: Table, key: bytes, kind: type[R]) -> R | None:
        value = self.get(table, key)
        return None if value is None else unpack(value, kind)

    def put_record(self, table: Table, key: bytes, record: msgspec.Struct) -> None:
        self._raw.put(key, pack(record), db=self._tables[table])

    def scan(
        self, table: Table, start: bytes = b"", prefix: bytes = b""
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows from key `start` on, in order, while the key begins with `prefix`.

        Rows may be deleted while scanning only by a caller that re-seeks; collect first.
        """
        with self._raw.cursor(db=self._tables[table]) as cursor:
            found = cursor.set_range(start) if start else cursor.first()
            if not found:
                return
            for key, value in cast("Iterator[tuple[bytes, bytes]]", cursor):
                if not key.startswith(prefix):
                    return
                yield key, value

    def before(self, table: Table, bound: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The last row whose key is below `bound`, if it begins with prefix."""
        with self._raw.cursor(db=self._tables[table]) as cursor:
            found = cursor.prev() if cursor.set_range(bound) else cursor.last()
            if not found:
                return None
            key, value = cast("tuple[bytes, bytes]", cursor.item())
            return (key, value) if key.startswith(prefix) else None

    def next_id(self, counter: bytes = b"next_id") -> int:
        """A number never given before: for inodes, segments, queue entries."""
        value = self.get(Table.META, counter)
        number = int.from_bytes(value, "big") if value else 2
        self.put(Table.META, counter, (number + 1).to_bytes(8, "big"))
        return number

    @property
    def number(self) -> int:
        """Of the commit that a read transaction sees as the last one."""
        return int(self._raw.id())

    def count(self, table: Table) -> int:
        return int(self._raw.stat(self._tables[table])["entries"])

    def close(self) -> None:
        """End a read transaction. Its reader slot is free once LMDB's object is gone, and a
        traceback keeps the Txn: a storm of errors would else take all the slots of the node."""
        self._raw.abort()
        del self._raw

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def used_bytes(self) -> int:
        """Bytes of the map in use by live pages, the free list left out."""
        pages = 0
        size = 4096
        for table in self._tables.values():
            stat = self._raw.stat(table)
            size = stat["psize"]
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return pages * size


class Syncable(Protocol):
    """Where a change's bytes lie: synced before the commit that names them."""

    def sync(self) -> None: ...


class Request(Generic[T]):
    """A change on its way into the index."""

    __slots__ = ("batch", "change", "durable", "error", "grows", "recipient", "result", "syncs")

    def __init__(
        self,
        change: Callable[[Txn], T],
        syncs: Sequence[Syncable],
        *,
        grows: bool,
        durable: bool = True,
        recipient: Recipient | None = None,
    ) -> None:
        self.change = change
        self.syncs = syncs
        self.grows = grows
        self.durable = durable
        self.recipient = recipient
        self.batch: _Batch | None = None
        self.result: T
        self.error: BaseException | None = None

    def outcome(self) -> T:
        """What the change returned; raises what it, or the commit, raised. Once it is over."""
        if self.error is not None:
            raise self.error
        return self.result


class Recipient(Protocol):
    """Who submits changes without waiting for them."""

    def take(self, done: Sequence[Request[Any]]) -> None:
        """Some that were submitted are durable and told, or failed (`error`). Called in a thread
        that others wait for: must not block, nor raise."""


class _Batch:
    """Requests that were committed together, and what the mount must forget because of them."""

    def __init__(self, requests: Sequence[Request[Any]]) -> None:
        self._submitted = [request for request in requests if request.recipient is not None]
        self.changes: list[changes.Change] = []
        self.notice: changes.Notice | None = None  # of a commit that the mount was warned of
        self._lock = threading.Lock()

    def announce(self) -> None:
        """Tell the mount once for the whole batch; every member waits until it is done."""
        if self.notice is None:
            return
        with self._lock:
            if self.notice is not None:
                self.notice.confirm()
                self.notice = None

    def hand_back(self) -> None:
        """To whoever submitted them: once, by the leader, after announce()."""
        by_recipient: dict[int, list[Request[Any]]] = {}
        for request in self._submitted:
            by_recipient.setdefault(id(request.recipient), []).append(request)
        for requests in by_recipient.values():
            recipient = requests[0].recipient
            assert recipient is not None
            recipient.take(requests)


class Index:
    """See the module docstring. One per process and path; never carried across a fork."""

    def __init__(
        self,
        path: Path,
        *,
        cap_bytes: int,
        sync: bool = True,
        sink: changes.ChangeSink = changes.NOBODY,
    ) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._opened = Opened(path, sync=sync)
        self._point = self._opened.point
        self._cap_bytes = cap_bytes
        self._turn = Turn(path / "turn")
        self._lmdb_syncs = sync and not self._point.is_kept
        # Headroom above the cap, so that deletes still find pages to copy on write.
        map_bytes = cap_bytes + max(16 << 20, cap_bytes // 16)
        self._env = lmdb.open(
            str(path),
            map_size=map_bytes,
            max_dbs=len(Table) + 4,
            max_readers=1022,
            mode=0o600,
            sync=self._lmdb_syncs,
            metasync=self._lmdb_syncs,
            writemap=False,  # a full disk would be SIGBUS
            readahead=False,
            max_spare_txns=16,
        )
        self._env.reader_check()
        self._headroom = Headroom(path / "data.mdb", map_bytes)
        self._point.begin(self._env)
        with self._point.committing(wait=True):
            self._tables: dict[Table, lmdb._Database] = {
                table: self._env.open_db(table.value.encode()) for table in Table
            }
        self._point.keep()
        self._sink = sink
        self._leader = threading.Lock()
        self._queue_lock = threading.Lock()
        self._waiting: list[Request[object]] = []
        self._is_called = False  # a committer, for what was submitted; with _queue_lock
        self._calls: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._committers: list[threading.Thread] = []
        self._check_format()
        self.identity = self._identify()
        """A random name that was made with the index, and is lost with it."""

    def _check_format(self) -> None:
        with self.read() as txn:
            found = txn.get(Table.META, b"format")
        if found is None:
            # Two processes may start on an empty index at once; both write the same.
            self.commit(lambda txn: txn.put(Table.META, b"format", FORMAT))
        elif found != FORMAT:
            raise FormatMismatch(f"index is of format {found!r}, this is {FORMAT!r}")

    def _identify(self) -> str:
        def make(txn: Txn) -> bytes:
            found = txn.get(Table.META, b"identity") or secrets.token_hex(8).encode()
            txn.put(Table.META, b"identity", found)
            return found

        with self.read() as txn:
            found = txn.get(Table.META, b"identity")
        return (found or self.commit(make)).decode()

    def read(self) -> Txn:
        """A snapshot, to be closed by `with`. Keep it short: it pins every page that is replaced
        meanwhile."""
        return Txn(self._env.begin(), self._tables)

    def commit(
        self,
        change: Callable[[Txn], T],
        *,
        syncs: Sequence[Syncable] = (),
        grows: bool = True,
        durable: bool = True,
        wait: bool = True,
    ) -> T:
        """Run `change` in a write transaction; return its result once it is durable and told.

        syncs: what holds the bytes that the change names. grows: False for changes that only
        remove, which are let through when the index is at its cap. durable: False for what need
        not outlive a power cut before a later commit, or make_durable, does; others see it all the
        same. wait: False for an event loop: WouldWait where somebody would have to be waited for;
        only without syncs, not durable, and where no other process has the mount.

        Blocks: a sync, a commit, and the mount's answer. Raises what the change raised,
        OutOfSpace or IndexFull when there is no room, OSError when a sync failed. Then nothing was
        changed, but for OutOfSpace where the disk failed behind the commit: it takes no more.
        """
        request = Request(change, syncs, grows=grows, durable=durable)
        if not wait:
            return self._commit_now(request)
        with self._queue_lock:
            self._waiting.append(request)  # type: ignore[arg-type]
        led = None
        with self._leader:
            if request.batch is None:
                led = self._commit_waiting()
        assert request.batch is not None
        request.batch.announce()
        if led is not None:
            led.hand_back()
        return request.outcome()

    def _commit_now(self, request: Request[T]) -> T:
        assert not request.syncs, "a sync waits for the disk"
        assert not request.durable, "as does this"
        if self._lmdb_syncs or not self._leader.acquire(blocking=False):
            raise WouldWait("this process commits in another thread")
        try:
            self._commit_batch([request], wait=False)  # type: ignore[list-item]
        finally:
            self._leader.release()
        return request.outcome()

    def submit(
        self, change: Callable[[Txn], T], recipient: Recipient, *, grows: bool = True
    ) -> Request[T]:
        """As commit, without waiting: the recipient gets the request that is returned here, with
        the change's result or error, from another thread. For bytes that are in the change itself.
        """
        request = Request(change, (), grows=grows, recipient=recipient)
        with self._queue_lock:
            self._waiting.append(request)  # type: ignore[arg-type]
            is_called, self._is_called = self._is_called, True
        if not is_called:
            if not self._committers:
                self._start_committers()
            self._calls.put(True)
        return request

    def _start_committers(self) -> None:
        for number in range(_COMMITTERS):
            thread = threading.Thread(
                target=self._commit_submitted, name=f"commit-{number}", daemon=True
            )
            self._committers.append(thread)
            thread.start()

    def _commit_submitted(self) -> None:
        while self._calls.get():
            with self._leader:
                led = self._commit_waiting()
            if led is not None:
                led.announce()
                led.hand_back()

    def _commit_waiting(self) -> _Batch | None:
        """Commit all that wait: the batch, for whoever holds _leader to announce and hand back.
        None if others committed them already."""
        with self._queue_lock:
            requests, self._waiting = self._waiting, []
            self._is_called = False
        return self._commit_batch(requests, wait=True) if requests else None

    def _commit_batch(self, requests: list[Request[object]], *, wait: bool) -> _Batch:
        batch = _Batch(requests)
        metrics.COMMIT_BATCH.observe(len(requests))
        for request in requests:
            request.batch = batch
        ready = self._sync_segments(requests)
        if not ready:
            return batch
        try:
            with metrics.COMMIT_SECONDS.time(), self._point.committing(wait=wait):
                full = self._make_room(wait=wait)
                with self._turn.taken(wait=wait):
                    self._commit_ready(ready, batch, full)
                # By the leader: what comes meanwhile shares the next commit.
                if any(request.durable for request in ready):
                    self._point.reach()
                else:
                    self._point.owe()
        except BaseException as exc:  # noqa: BLE001  every waiting thread raises it as its own
            # The commit itself failed: nobody's change is there; or its sync, and nobody knows.
            error = _no_room(exc) if isinstance(exc, lmdb.Error) else exc
            batch.changes.clear()
            for request in ready:
                request.error = request.error or error
        return batch

    def _commit_ready(
        self, ready: list[Request[object]], batch: _Batch, full: CacheError | None
    ) -> None:
        notice = self._sink.notice()
        raw = self._env.begin(write=True)
        try:
            for request in ready:
                self._apply(raw, request, alone=len(ready) == 1, full=full, batch=batch)
        except BaseException:
            raw.abort()
            notice.withdraw()
            raise
        try:
            if all(request.error is not None for request in ready):
                raw.abort()
            else:
                if batch.changes:
                    # Before, not after: we may be killed behind the commit (cache/changes.py).
                    notice.warn(list(dict.fromkeys(batch.changes)))
                raw.commit()
        except BaseException:
            notice.withdraw()
            raise
        if batch.changes:
            batch.notice = notice
        else:
            notice.withdraw()

    def make_durable(self) -> None:
        """Return once all commits so far outlive a power cut, whoever made them. Costs a
        microsecond where they do already, else it blocks. OutOfSpace when the disk failed."""
        self._point.reach()

    @staticmethod
    def _sync_segments(requests: list[Request[object]]) -> list[Request[object]]:
        """Sync each segment once; requests whose bytes could not be synced are failed here."""
        outcome: dict[int, BaseException | None] = {}
        ready = []
        for request in requests:
            for segment in request.syncs:
                if id(segment) not in outcome:
                    try:
                        segment.sync()
                        outcome[id(segment)] = None
                    except OSError as exc:
                        outcome[id(segment)] = exc
                request.error = request.error or outcome[id(segment)]
            if request.error is None:
                ready.append(request)
        return ready

    def _apply(
        self,
        raw: lmdb.Transaction,
        request: Request[object],
        *,
        alone: bool,
        full: CacheError | None,
        batch: _Batch,
    ) -> None:
        """Run one change; in company inside a nested transaction, so that it can fail alone. full:
        why it is refused if it adds something."""
        if full is not None and request.grows:
            request.error = full
            return
        nested = raw if alone else self._env.begin(parent=raw, write=True)
        txn = Txn(nested, self._tables)
        try:
            request.result = request.change(txn)
            if not alone:
                nested.commit()
            batch.changes += txn.changes
        except lmdb.Error as exc:
            request.error = _no_room(exc)
        except CacheError as exc:
            request.error = exc
        except Exception as exc:
            log.exception("a change of the index failed")
            request.error = exc
        if request.error is not None and not alone:
            nested.abort()

    def _make_room(self, *, wait: bool) -> CacheError | None:
        """Before a commit: where the file can hardly grow, have the pages used again that were
        replaced. Why nothing may be added, if so."""
        reached = (int(self._env.info()["last_pgno"]) + 1) * 4096
        left = self._headroom.left(reached)
        if left < LOW_BYTES:
            if not wait:
                raise WouldWait("what was replaced is not free yet")
            self._point.reach()
            room = reached + left
            if room < self._cap_bytes and is_full(room, self.used_bytes()):
                return OutOfSpace("the disk that the index is on is full")
        # Past the cap only by pages that were used once; what counts is what is live now.
        if reached >= self._cap_bytes and self.used_bytes() >= self._cap_bytes * 0.98:
            return IndexFull("the index is at its cap (cache.index_bytes)")
        return None

    @property
    def last_change(self) -> int:
        """The number of the last commit, of whatever process: while it is the same, so is
        everything that was read. Not Environment.info(), which runs ahead of what readers see."""
        with self.read() as txn:
            return txn.number

    def clear_stale_readers(self) -> int:
        """Free the slots of readers that died; their pages could never be reused else."""
        return int(self._env.reader_check())

    def used_bytes(self) -> int:
        with self.read() as txn:
            return txn.used_bytes()

    def close(self) -> None:
        """Nothing may be submitted any more. What was is committed first."""
        for _ in self._committers:
            self._calls.put(False)
        for thread in self._committers:
            thread.join()
        whole = self._point.close()
        self._env.close()
        self._headroom.close()
        self._turn.close()
        self._opened.close(whole=whole)


def _no_room(exc: lmdb.Error) -> CacheError:
    if isinstance(exc, lmdb.MapFullError):
        return IndexFull("the index map is full (cache.index_bytes)")
    # LMDB reports ENOSPC in a commit as an I/O error.
    if exc.args and ("No space" in str(exc) or str(errno.ENOSPC) in str(exc)):
        return OutOfSpace(str(exc))
    return OutOfSpace(f"the index could not be written: {exc}")
