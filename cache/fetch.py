"""The miss path: bytes of a store on their way into the cache, and to whoever waits for them.

The unit is a cell, an aligned range of the inode of one extent's size. A cell is fetched once per
node at a time (a node lock on inode and cell), in one ranged read that is conditional on the
version, and streams to its reader while it fills. A reader of many cells has the next ones
fetched ahead in parallel; the window doubles with each cell read in order. Memory: one chunk of
at most 1 MiB for each fetch in flight, whatever the object's size.

When the cache has no room the bytes go to the reader only. Blocking, thread-safe.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from cache import extents, metrics, namespace
from cache.buckets import Buckets
from cache.config import CacheConfig
from cache.contents import Contents, Piece, Staged
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
    ) -> None:
        self._index = index
        self._contents = contents
        self._buckets = buckets
        self._locks = locks
        self._deadline_s = config.fetch_deadline_s
        self._cell_bytes = segments.extent_max
        self._workers = config.fetch_workers
        self._pool = ThreadPoolExecutor(config.fetch_workers, thread_name_prefix="fetch")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def stream(self, inode: Inode, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes [start, stop) of this version; see contents.Filler."""
        ahead: deque[Future[None]] = deque()
        window = 1
        first, last = start // self._cell_bytes, -(-stop // self._cell_bytes)
        next_ahead = first + 1
        try:
            for cell in range(first, last):
                while next_ahead < min(last, cell + window):
                    ahead.append(self._pool.submit(self._fill, inode, next_ahead))
                    next_ahead += 1
                if cell > first and ahead:
                    ahead.popleft().exception()  # whatever it is, the read below meets it again
                low = max(start, cell * self._cell_bytes)
                high = min(stop, (cell + 1) * self._cell_bytes)
                yield from self._read_cell(inode, cell, low, high)
                next_ahead = max(next_ahead, cell + 2)
                window = min(self._workers, window * 2)
        finally:
            for future in ahead:
                future.cancel()

    def fill_all(self, inode: Inode) -> None:
        """Cache every byte of the inode. CacheFull when they do not fit."""
        for cell in range(-(-inode.size // self._cell_bytes)):
            self._fill(inode, cell, must_keep=True)

    def prefetch(self, inode: Inode, start: int, stop: int) -> None:
        """Fetch cells in the background, if a worker is free; errors are for the reader to meet."""
        for cell in range(start // self._cell_bytes, -(-stop // self._cell_bytes)):
            self._pool.submit(self._fill, inode, cell)

    def _fill(self, inode: Inode, cell: int, *, must_keep: bool = False) -> None:
        low = cell * self._cell_bytes
        high = min(inode.size, low + self._cell_bytes)
        for _ in self._read_cell(inode, cell, low, high, must_keep=must_keep):
            pass

    def _read_cell(
        self, inode: Inode, cell: int, low: int, high: int, *, must_keep: bool = False
    ) -> Iterator[bytes]:
        """The bytes [low, high) of one cell: from the cache if someone was faster, else from the
        store, keeping the whole cell."""
        with self._locks.hold("fetch", inode.id, cell, deadline_s=self._deadline_s):
            current = self._contents.open(inode.id)
            if current is None or current.inode.revision != inode.revision:
                # Unlinked or rewritten meanwhile: this version's bytes are only in the store.
                yield from self._bypass(inode, low, high)
                return
            with current:
                start = cell * self._cell_bytes
                stop = min(inode.size, start + self._cell_bytes)
                position = start
                for hole_start, hole_stop in current.missing(start, stop):
                    yield from _bytes(current.pieces(*_overlap(position, hole_start, low, high)))
                    for offset, chunk in self._fetch(
                        current.inode, hole_start, hole_stop, must_keep
                    ):
                        a, b = _overlap(offset, offset + len(chunk), low, high)
                        if a < b:
                            yield chunk[a - offset : b - offset]
                    position = hole_stop
                yield from _bytes(current.pieces(*_overlap(position, stop, low, high)))

    def _bypass(self, inode: Inode, start: int, stop: int) -> Iterator[bytes]:
        if start < stop:
            for _, chunk in self._from_store(inode, start, stop):
                yield chunk

    def _fetch(
        self, inode: Inode, start: int, stop: int, must_keep: bool
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of [start, stop) from the store, and keep them."""
        staged = self._stage(inode, stop - start, must_keep)
        try:
            for offset, chunk in self._from_store(inode, start, stop):
                if staged is not None:
                    try:
                        staged.write(chunk)
                    except (CacheFull, OSError) as exc:
                        if must_keep:
                            raise
                        log.info("not caching inode %d: %s", inode.id, exc)
                        staged.release()
                        staged = None
                yield offset, chunk
            if staged is not None:
                self._keep(inode, start, staged)
        finally:
            if staged is not None:
                staged.release()

    def _stage(self, inode: Inode, size: int, must_keep: bool) -> Staged | None:
        if not must_keep and self._mode(inode) == WriteMode.WRITE_AROUND:
            return None
        staged = self._contents.stage(size, stream="fill")
        staged.never_inline()
        return staged

    def _keep(self, inode: Inode, start: int, staged: Staged) -> None:
        staged.finish()

        def change(txn: Txn) -> list[Extent]:
            current = txn.record(Table.INODES, namespace.key_bytes(inode.id), Inode)
            if current is None or current.stored != inode.stored or current.size < start:
                return []
            assert current.stored is not None
            added = staged.extents(current.stored.revision, at=start)
            for extent in added:
                extents.attach_missing(txn, inode.id, extent)
            return added

        try:
            # Not synced: after a power cut a bad clean extent fails its checksum and is read again.
            for extent in self._index.commit(change):
                self._contents.mark_verified(extent)
        except OutOfSpace as exc:
            log.info("not caching inode %d: %s", inode.id, exc)

    def _from_store(self, inode: Inode, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        if inode.stored is None:
            raise StaleContent(f"inode {inode.id} is not in the store")
        store, key, limit = self._place(inode)
        offset = start
        # Beyond the stored size a base that was extended holds zeros, which have extents; a hole
        # there is a base that changed.
        if stop > limit:
            raise StaleContent(f"inode {inode.id}: byte {stop} is beyond what the store has")
        try:
            for chunk in store.read(key, start, stop, inode.stored.version):
                metrics.FETCHED_BYTES.inc(len(chunk))
                yield offset, chunk
                offset += len(chunk)
        except (StoreChanged, StoreNotFound) as exc:
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


def _overlap(start: int, stop: int, low: int, high: int) -> tuple[int, int]:
    a = max(start, low)
    return a, max(a, min(stop, high))


def _bytes(pieces: Iterator[Piece]) -> Iterator[bytes]:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        for offset in range(0, piece.length, 1 << 20):
            length = min(1 << 20, piece.length - offset)
            yield type(piece)(piece.file, piece.offset + offset, length).read()
