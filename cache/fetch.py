"""The miss path: bytes of a store on their way into the cache, and to whoever waits for them.

The unit is a cell, an aligned range of the inode of one extent's size. A cell is fetched once per
node at a time (a node lock on inode and cell), in one ranged read that is conditional on the
version; its readers follow while it fills (cache/cells.py). A reader of many cells has the next
ones fetched ahead in parallel; the window doubles with each cell read in order. Memory: one chunk
of at most 1 MiB for each fetch in flight and each reader, whatever the object's size.

When the cache has no room the bytes go to the reader only. Blocking, thread-safe.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from cache import extents, metrics, namespace
from cache.buckets import Buckets
from cache.cells import CellFill
from cache.config import CacheConfig
from cache.contents import Contents, Staged, chunks
from cache.errors import (
    CacheError,
    CacheFull,
    NoSuchInode,
    OutOfSpace,
    StaleContent,
    StoreChanged,
    StoreNotFound,
)
from cache.index import Index, Table, Txn
from cache.locks import NodeLocks
from cache.records import Extent, Inode, WriteMode
from cache.segments import Segments
from cache.stores.base import Store

log = logging.getLogger(__name__)


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
        self._workers = config.fetch_workers
        self._lock = threading.Lock()
        self._fills: dict[tuple[int, int, int], CellFill] = {}
        self._pool = ThreadPoolExecutor(config.fetch_workers, thread_name_prefix="fetch")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def stream(self, inode: Inode, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes [start, stop) of this version; see contents.Filler."""
        if self._mode(inode) == WriteMode.WRITE_AROUND:
            yield from self._from_store(inode, start, stop)
            return
        first, last = start // self._cell_bytes, -(-stop // self._cell_bytes)
        window = 1
        fills: deque[CellFill] = deque()
        try:
            for cell in range(first, last):
                while cell + len(fills) < min(last, cell + window):
                    fills.append(self._begin(inode, cell + len(fills)))
                low = max(start, cell * self._cell_bytes)
                high = min(stop, (cell + 1) * self._cell_bytes)
                yield from self._follow(inode, fills[0], low, high)
                fills.popleft().leave()
                window = min(self._workers, window * 2)
        finally:
            for fill in fills:
                fill.leave()

    def fill_all(self, inode: Inode) -> None:
        """Cache every byte of the inode. CacheFull when they do not fit."""
        for cell in range(-(-inode.size // self._cell_bytes)):
            fill = self._begin(inode, cell)
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
                self._begin(inode, cell).leave()

    def _begin(self, inode: Inode, cell: int) -> CellFill:
        """Join the fill of a cell, started if there is none in this process. leave() it."""
        key = (inode.id, inode.revision, cell)
        with self._lock:
            fill = self._fills.get(key)
            if fill is None:
                start = cell * self._cell_bytes
                fill = CellFill(start, min(inode.size, start + self._cell_bytes))
                self._fills[key] = fill
                fill.join()  # the filler itself
                self._pool.submit(self._run, key, inode, fill)
            fill.join()
            return fill

    def _run(self, key: tuple[int, int, int], inode: Inode, fill: CellFill) -> None:
        error: BaseException | None = None
        try:
            self._fill(inode, key[2], fill)
        except BaseException as exc:  # noqa: BLE001  the readers raise it
            error = exc
        with self._lock:
            del self._fills[key]
        fill.finish(error)
        fill.leave()

    def _fill(self, inode: Inode, cell: int, fill: CellFill) -> None:
        with self._locks.hold("fetch", inode.id, cell, deadline_s=self._deadline_s):
            current = self._contents.open(inode.id)
            if current is None or current.inode.revision != inode.revision:
                # Unlinked or rewritten meanwhile: this version's bytes are only in the store.
                raise CacheFull(f"inode {inode.id} has another version by now")
            with current:
                holes = current.missing(fill.start, fill.stop)
            for start, stop in holes:
                staged = self._contents.stage(stop - start, stream="fill")
                staged.never_inline()
                if (start, stop) == (fill.start, fill.stop):
                    fill.begin(staged)
                    for chunk in self._from_store(current.inode, start, stop):
                        fill.write(chunk)
                    self._keep(current.inode, start, staged)
                    continue
                try:
                    for chunk in self._from_store(current.inode, start, stop):
                        staged.write(chunk)
                    self._keep(current.inode, start, staged)
                finally:
                    staged.release()

    def _follow(self, inode: Inode, fill: CellFill, low: int, high: int) -> Iterator[bytes]:
        """The bytes [low, high) of a cell that is being filled."""
        position = low
        for chunk in fill.follow(low, high, self._deadline_s):
            yield chunk
            position += len(chunk)
        if position >= high:
            return
        if fill.error is None:
            # Parts of the cell were cached before, or another process filled it.
            current = self._contents.open(inode.id)
            if current is not None and current.inode.revision == inode.revision:
                with current:
                    if not current.missing(position, high):
                        yield from chunks(current, position, high)
                        return
        elif not isinstance(fill.error, CacheFull | OSError):
            raise fill.error
        # No room to keep it: for this reader only.
        yield from self._from_store(inode, position, high)

    def _keep(self, inode: Inode, start: int, staged: Staged) -> None:
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
                extents.attach_missing(txn, inode.id, extent)
            return added

        try:
            # Not synced: after a power cut a bad clean extent fails its checksum and is read again.
            for extent in self._index.commit(change):
                self._contents.mark_verified(extent)
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
            for chunk in store.read(key, start, stop, inode.stored.version):
                metrics.FETCHED_BYTES.inc(len(chunk))
                yield chunk
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
