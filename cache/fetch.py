"""The miss path: bytes of a store on their way into the cache, and to whoever waits for them.

The unit is a cell, an aligned range of the inode of one extent's size. A byte is fetched once per
node at a time (a node lock on inode and cell), in one ranged read that is conditional on the
version; its readers follow while it fills (cache/cells.py). A reader of many cells has the next
ones fetched ahead in parallel, the second one as soon as the first begins to come; the window
doubles with each cell read in order. Memory: one chunk of at most 1 MiB for each fetch in flight
and each reader, whatever the object's size.

How much is fetched follows what is read. Of a cell of which nothing is here a small read at random
fetches its own grains only: a reader of few places of much data would else have thirty times of it
sent. The second read that comes to the cell, or one that goes on where the cell before ends, has
all of the rest fetched: a request to the store costs as much as megabytes.

What a reader waits for and what is fetched ahead wait in lines of their own; a fetch ahead that
somebody comes to wait for changes the line. When the cache has no room the bytes go to the reader
only. Blocking, thread-safe.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from cache import eviction, extents, ghosts, metrics, namespace
from cache.buckets import Buckets
from cache.cells import CellFill
from cache.config import CacheConfig
from cache.contents import Contents
from cache.errors import (
    CacheError,
    CacheFull,
    DeadlineExceeded,
    NoSuchInode,
    OutOfSpace,
    StaleContent,
    StoreChanged,
    StoreNotFound,
)
from cache.heat import COLD, Heat
from cache.index import Index, Table, Txn
from cache.locks import NodeLocks
from cache.records import Extent, Inode, Kind, WriteMode
from cache.segments import Segments
from cache.snapshot import chunks as chunks_of
from cache.staging import Staged
from cache.stores.base import Opened, Store

log = logging.getLogger(__name__)

GRAIN_BYTES = 128 << 10
"""Of a read at random this much is fetched, and reads are aligned to it."""

_WINDOW_CELLS = 8
"""Ahead of a reader in order: at 4 MiB a cell enough for 1.6 GB/s from a store 20 ms away."""

_Cell = tuple[int, int, int]
"""Inode, revision, number of the cell."""


class Fetcher:
    """Implements contents.Filler."""

    def __init__(
        self,
        index: Index,
        segments: Segments,
        contents: Contents,
        buckets: Buckets,
        locks: NodeLocks,
        config: CacheConfig,
        on_stale: Callable[[Inode], None],
    ) -> None:
        """on_stale: told of an inode whose bytes others replaced in the store, so that its name
        leads to the new ones from then on."""
        self._on_stale = on_stale
        self._index = index
        self._contents = contents
        self._buckets = buckets
        self._locks = locks
        self._deadline_s = config.fetch_deadline_s
        self._cell_bytes = segments.extent_max
        self._has_main_queue = config.policy == "s3fifo"
        self._lock = threading.Lock()
        self._fills: dict[_Cell, list[CellFill]] = {}
        self._pool = ThreadPoolExecutor(config.fetch_workers, thread_name_prefix="fetch")
        self._ahead = ThreadPoolExecutor(config.fetch_workers, thread_name_prefix="fetch-ahead")
        self._window_max = min(_WINDOW_CELLS, config.fetch_workers)

    def close(self) -> None:
        for pool in (self._pool, self._ahead):
            pool.shutdown(wait=True, cancel_futures=True)

    def stream(self, inode: Inode, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes [start, stop) of this version; see contents.Filler."""
        if self._mode(inode) == WriteMode.WRITE_AROUND:
            yield from self._from_store(inode, start, stop)
            return
        first, last = start // self._cell_bytes, -(-stop // self._cell_bytes)
        fills: deque[CellFill] = deque()

        def begin(cell: int, window: int) -> None:
            """What is not begun yet of the cells from `cell` on."""
            for number in range(cell + len(fills), min(last, cell + window)):
                low, high = self._within(number, start, stop)
                fills.append(self._begin(inode, low, high, ahead=bool(fills)))

        window = 1
        try:
            for cell in range(first, last):
                begin(cell, window)
                self._hurry(inode, fills[0])
                for chunk in self._follow(inode, fills[0], *self._within(cell, start, stop)):
                    yield chunk
                    if window == 1:
                        # It comes. Not when it has come, or the next one would be a trip later.
                        window = min(self._window_max, 2)
                        begin(cell, window)
                fills.popleft().leave()
                if cell > first:
                    window = min(self._window_max, window * 2)
        finally:
            for fill in fills:
                fill.leave()

    def fill_all(self, inode: Inode) -> None:
        """Cache every byte of the inode. CacheFull when they do not fit."""
        for start in range(0, inode.size, self._cell_bytes):
            fill = self._begin(inode, start, min(inode.size, start + self._cell_bytes))
            try:
                fill.wait(self._deadline_s)
                if fill.error is not None:
                    raise fill.error
            finally:
                fill.leave()

    def prefetch(self, inode: Inode, start: int, stop: int) -> None:
        """Fetch cells in the background; errors are for the reader to meet."""
        if self._mode(inode) != WriteMode.WRITE_AROUND:
            for cell in range(start // self._cell_bytes, -(-stop // self._cell_bytes)):
                low, high = self._within(cell, 0, inode.size)
                self._begin(inode, low, high, ahead=True).leave()

    def first_range(self, start: int, stop: int | None) -> tuple[int, int]:
        """What to ask the store for, of an object that nobody knows, for a reader of the bytes
        [start, stop); None: to the end."""
        end = (start // self._cell_bytes + 1) * self._cell_bytes
        return self._grains(start, end if stop is None else min(max(stop, start + 1), end))

    def take(self, inode: Inode | None, opened: Opened) -> None:
        """Fill a cell with bytes that are on their way already: those of first_range(). They are
        dropped if the inode is not the object that they are of, or has them."""
        with contextlib.ExitStack() as held:
            held.callback(opened.close)
            if (
                inode is None
                or inode.kind != Kind.FILE
                or inode.stored is None
                or inode.stored.version != opened.found.version
                or inode.size != opened.found.size_bytes
            ):
                return
            cell = opened.start // self._cell_bytes
            try:
                held.enter_context(self._locks.hold("fetch", inode.id, cell, deadline_s=0))
            except DeadlineExceeded:
                return  # somebody fetches it
            key = (inode.id, inode.revision, cell)
            fill = CellFill(opened.start, opened.stop)
            with self._lock:
                self._fills.setdefault(key, []).append(fill)
            fill.join()
            self._pool.submit(self._run_taken, key, inode, fill, opened.chunks, held.pop_all())

    def _within(self, cell: int, start: int, stop: int) -> tuple[int, int]:
        """The part of [start, stop) that lies in a cell."""
        low = cell * self._cell_bytes
        return max(start, low), min(stop, low + self._cell_bytes)

    def _grains(self, start: int, stop: int) -> tuple[int, int]:
        """The grains that hold bytes [start, stop) of a cell, no further than that goes."""
        cell = start // self._cell_bytes
        begin = cell * self._cell_bytes
        low = begin + (start - begin) // GRAIN_BYTES * GRAIN_BYTES
        high = begin - (begin - stop) // GRAIN_BYTES * GRAIN_BYTES
        return self._within(cell, low, high)

    def _begin(self, inode: Inode, low: int, high: int, *, ahead: bool = False) -> CellFill:
        """Join the fill of bytes [low, high) of a cell, started if there is none in this process.
        ahead: nobody waits for it yet. leave() it."""
        cell = low // self._cell_bytes
        key = (inode.id, inode.revision, cell)
        with self._lock:
            fills = self._fills.setdefault(key, [])
            for fill in fills:
                if fill.start <= low and high <= fill.stop:
                    fill.join()
                    return fill
            start, stop = self._within(cell, 0, inode.size)
            # One on its way already is a first read, too; and each would wait for the one before.
            if not fills and not self._is_wanted_whole(inode, low, high, start, stop):
                start, stop = self._grains(low, high)
            fill = CellFill(start, min(inode.size, stop), ahead=ahead)
            fills.append(fill)
            fill.join()  # the filler itself
            fill.join()
            (self._ahead if ahead else self._pool).submit(self._run, key, inode, fill)
            return fill

    def _is_wanted_whole(self, inode: Inode, low: int, high: int, start: int, stop: int) -> bool:
        """Whether a read of [low, high) is to bring all of the cell [start, stop)."""
        if 2 * (high - low) >= stop - start:
            return True
        with self._index.read() as txn:
            if low == start:  # goes on where the cell before ends
                start = max(0, start - 1)
            return bool(extents.overlapping(txn, inode.id, start, stop))

    def _hurry(self, inode: Inode, fill: CellFill) -> None:
        """Somebody waits for a fill now."""
        with self._lock:
            if fill.ahead:
                fill.ahead = False
                key = (inode.id, inode.revision, fill.start // self._cell_bytes)
                self._pool.submit(self._run, key, inode, fill)

    def _run(self, key: _Cell, inode: Inode, fill: CellFill) -> None:
        if not fill.claim():
            return  # the other line was faster
        with (
            self._finishing(key, fill),
            self._locks.hold("fetch", inode.id, key[2], deadline_s=self._deadline_s),
        ):
            self._fill(inode, fill, None)

    def _run_taken(
        self,
        key: _Cell,
        inode: Inode,
        fill: CellFill,
        chunks: Iterator[bytes],
        held: contextlib.ExitStack,
    ) -> None:
        """held: the lock of the cell, and the connection."""
        with self._finishing(key, fill), held:
            self._fill(inode, fill, chunks)

    @contextlib.contextmanager
    def _finishing(self, key: _Cell, fill: CellFill) -> Iterator[None]:
        """Tell the readers of a fill how it ended, whatever that was."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as exc:  # noqa: BLE001  the readers raise it
            error = exc
        with self._lock:
            self._fills[key].remove(fill)
            if not self._fills[key]:
                del self._fills[key]
        fill.finish(error)
        fill.leave()

    def _fill(self, inode: Inode, fill: CellFill, chunks: Iterator[bytes] | None) -> None:
        """Fetch what of the fill's bytes is not here; the cell's lock is held. chunks: all of its
        bytes, if the store is sending them."""
        current = self._contents.open(inode.id, fill.start, fill.stop)
        if current is None or current.inode.revision != inode.revision:
            # Unlinked or rewritten meanwhile: this version's bytes are only in the store.
            raise CacheFull(f"inode {inode.id} has another version by now")
        with current:
            holes = current.missing(fill.start, fill.stop)
        if not holes:
            return
        heat, stream = self._remembered(inode.id, fill.start // self._cell_bytes)
        for start, stop in holes:
            staged = self._contents.stage(stop - start, stream=stream, for_reader=True)
            staged.never_inline()
            fill.begin(start, staged)
            if chunks is None or (start, stop) != (fill.start, fill.stop):
                arriving = self._from_store(current.inode, start, stop)
            else:
                arriving = _counted(chunks)
            for chunk in arriving:
                fill.write(chunk)
            self._keep(current.inode, start, staged, heat)

    def _follow(self, inode: Inode, fill: CellFill, low: int, high: int) -> Iterator[bytes]:
        """The bytes [low, high) of a cell that is being filled."""
        position = low
        while position < high:
            if chunk := fill.read(position, high, self._deadline_s):
                yield chunk
                position += len(chunk)
                continue
            # Cached before, maybe by another process; or the fill came to an end before.
            stop = fill.skipped_to(position, high)
            yield from self._elsewhere(inode, fill, position, stop)
            position = stop

    def _elsewhere(self, inode: Inode, fill: CellFill, low: int, high: int) -> Iterator[bytes]:
        """Bytes that a fill does not bring."""
        if fill.error is None:
            current = self._contents.open(inode.id, low, high)
            if current is not None and current.inode.revision == inode.revision:
                with current:
                    if not current.missing(low, high):
                        yield from chunks_of(current, low, high)
                        return
        elif not isinstance(fill.error, CacheFull | OSError):
            raise fill.error
        # No room to keep it: for this reader only.
        yield from self._from_store(inode, low, high)

    def _remembered(self, inode: int, cell: int) -> tuple[Heat, str]:
        """The heat of a cell that was here before, with this read, and the stream to fill."""
        with self._index.read() as txn:
            state = ghosts.state(txn)
            ghost = ghosts.find(txn, state, inode, cell)
        if ghost is None:
            return COLD, "fill"
        heat = ghost.raised(state.turn)
        admitted = self._has_main_queue and eviction.is_admitted(heat.reads, state.price)
        return heat, "main" if admitted else "fill"

    def _keep(self, inode: Inode, start: int, staged: Staged, heat: Heat) -> None:
        staged.finish()

        def change(txn: Txn) -> list[Extent]:
            current = txn.record(Table.INODES, namespace.key_bytes(inode.id), Inode)
            if current is None or current.stored != inode.stored or current.size < start:
                return []
            assert current.stored is not None
            staged_extents = staged.extents(current.stored.revision, at=start)
            # Cut off meanwhile: nothing lies behind the end.
            inside = [e for e in staged_extents if e.start < current.size]
            added = [e.slice(e.start, min(e.stop, current.size)) for e in inside]
            for extent in added:
                extents.attach_missing(txn, inode.id, extent, heat)
            return added

        try:
            # Nor are the bytes synced: after a power cut the index does not know of them, or they
            # fail their checksum; they are read again.
            for extent in self._index.commit(change, durable=False):
                self._contents.mark_filled(extent)
        except OutOfSpace as exc:
            log.info("not caching inode %d: %s", inode.id, exc)

    def _from_store(self, inode: Inode, start: int, stop: int) -> Iterator[bytes]:
        if inode.stored is None:
            raise StaleContent(f"inode {inode.id} is not in the store")
        store, key, limit = self._place(inode)
        # Beyond the stored size a base that was extended holds zeros, which have extents; a hole
        # there is a base that changed.
        if stop > limit:
            raise StaleContent(f"inode {inode.id}: byte {stop} is beyond what the store has")
        try:
            yield from _counted(store.read(key, start, stop, inode.stored.version))
        except (StoreChanged, StoreNotFound) as exc:
            self._on_stale(inode)
            raise StaleContent(f"the store has another version of {key!r}: {exc}") from exc

    def _place(self, inode: Inode) -> tuple[Store, bytes, int]:
        stored = inode.stored
        assert stored is not None
        with self._index.read() as txn:
            try:
                root = namespace.bucket_of(txn, stored.parent)
                key = namespace.store_path_of(txn, stored.parent, stored.name)
                bucket = self._buckets.of_root(txn, root)
            except (NoSuchInode, CacheError) as exc:
                raise StaleContent(f"inode {inode.id} has no place in a store: {exc}") from exc
        return self._buckets.store(bucket), key, stored.size

    def _mode(self, inode: Inode) -> WriteMode:
        stored = inode.stored
        if stored is None:
            return WriteMode.WRITE_THROUGH
        with self._index.read() as txn:
            try:
                root, key = namespace.path_of(txn, stored.parent, stored.name)
                return self._buckets.mode_of(self._buckets.of_root(txn, root), key)
            except CacheError:
                return WriteMode.WRITE_THROUGH


def _counted(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        metrics.FETCHED_BYTES.inc(len(chunk))
        yield chunk
