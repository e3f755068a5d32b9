"""The bytes of inodes on this disk: bodies are begun here, what is there is opened and verified.

Every stored extent is verified against its checksum the first time this process reads it; after
that it is sent from the page cache without another look. What is not cached comes through the
`Filler` (cache/fetch.py). Thread-safe.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from typing import Protocol

import xxhash

from cache import disk, extents, ghosts, metrics
from cache.config import MIB
from cache.disk import SegmentFile
from cache.errors import ExtentCorrupt
from cache.index import Index, Table, Txn
from cache.namespace import key_bytes
from cache.records import ZEROS, Extent, Inode, InodeFlag, Kind
from cache.segments import Segments
from cache.snapshot import Snapshot
from cache.staging import Staged

log = logging.getLogger(__name__)

_VERIFIED_MAX = 1 << 20


class Filler(Protocol):
    """Who gets the bytes that are not cached."""

    def stream(self, inode: Inode, start: int, stop: int) -> Iterator[bytes]:
        """Yield exactly the bytes [start, stop) of this version, and keep them if there is room.
        StaleContent when the store has them no more."""


def is_dirty(inode: Inode) -> bool:
    """Whether the store lacks the present bytes of the inode."""
    return inode.stored is None or inode.stored.revision != inode.revision


def drop_bytes(txn: Txn, inode: int) -> None:
    """Forget all cached bytes of an inode."""
    txn.delete(Table.INLINE, key_bytes(inode))
    extents.drop(txn, inode)


class Contents:
    """Staging and reading; one per process."""

    def __init__(self, index: Index, segments: Segments) -> None:
        self._index = index
        self._segments = segments
        self.filler: Filler | None = None
        self._verified: set[tuple[int, int]] = set()
        self._heat_lock = threading.Lock()
        self._heat: set[tuple[int, int]] = set()
        self._filled: set[tuple[int, int]] = set()

    def stage(
        self, size_bytes: int | None = None, *, stream: str = "dirty", for_reader: bool = False
    ) -> Staged:
        """Begin a body; size_bytes is a hint that spares space in the segment. for_reader: somebody
        follows behind it, and reads."""
        return Staged(
            getattr(self._segments, stream), self._segments, size_bytes, passing=not for_reader
        )

    def snapshot(self, txn: Txn, inode: Inode, start: int = 0, stop: int | None = None) -> Snapshot:
        """The bytes [start, stop) of the inode, to its end by default, as this transaction sees
        them; costs a microsecond for each of their extents, of which a large file has thousands.
        FileNotFoundError when a segment was reclaimed since the transaction began: begin again."""
        within = start, inode.size if stop is None else stop
        if inode.kind == Kind.SYMLINK:
            return Snapshot(self, inode, within, inode.target, [], {})
        inline = txn.get(Table.INLINE, key_bytes(inode.id)) if inode.has(InodeFlag.INLINE) else None
        found = [] if inline is not None else extents.overlapping(txn, inode.id, *within)
        files: dict[int, SegmentFile] = {}
        for segment in {e.segment for e in found if e.segment != ZEROS}:
            file = self._segments.file(segment)
            if file is not None:
                files[segment] = file
        return Snapshot(self, inode, within, inline, found, files)

    def open(self, inode: int, start: int = 0, stop: int | None = None) -> Snapshot | None:
        """A snapshot of the inode's present bytes [start, stop), to its end by default; None if the
        inode is gone."""
        while True:
            try:
                with self._index.read() as txn:
                    record = txn.record(Table.INODES, key_bytes(inode), Inode)
                    return None if record is None else self.snapshot(txn, record, start, stop)
            except FileNotFoundError:
                continue  # a segment was reclaimed under us: the index has newer places

    def mark_verified(self, extent: Extent) -> None:
        """This process read it and found it right, or wrote it itself, from memory that it had
        checked."""
        if len(self._verified) >= _VERIFIED_MAX:
            self._verified.clear()
        self._verified.add((extent.segment, extent.offset))

    def is_verified(self, extent: Extent) -> bool:
        return extent.segment == ZEROS or (extent.segment, extent.offset) in self._verified

    def verify(self, inode: Inode, extent: Extent, file: SegmentFile | None) -> bool:
        """Compare a stored extent, or a slice of it, with its checksum, once in this process.
        file: None if the segment's file is lost.

        False: clean bytes were bad and are dropped from the index; the store has them. Bad dirty
        bytes exist nowhere else: ExtentCorrupt, and an alarm.
        """
        if file is not None and self.is_verified(extent):
            return True
        if file is not None and checksum_matches(extent, file):
            self.mark_verified(extent)
            return True
        clean = inode.stored is not None and extent.revision <= inode.stored.revision
        metrics.CORRUPT_EXTENTS.labels("clean" if clean else "dirty").inc()
        if not clean:
            log.error(
                "segment %d byte %d: dirty bytes of inode %d fail their checksum; there is no "
                "other copy",
                extent.segment,
                extent.offset,
                inode.id,
            )
            raise ExtentCorrupt(extent.segment, extent.offset)
        log.warning(
            "segment %d byte %d: clean bytes of inode %d fail their checksum; dropped",
            extent.segment,
            extent.offset,
            inode.id,
        )
        self._index.commit(lambda txn: extents.drop_stored(txn, inode.id, extent), grows=False)
        return False

    def take(self, extent: Extent, file: SegmentFile) -> list[bytes] | None:
        """A stored extent in pieces of at most 1 MiB, which leave no trace in memory, verified;
        None if it fails its checksum."""
        pieces = []
        digest = xxhash.xxh3_64()
        for offset in range(0, extent.stored_length, MIB):
            length = min(MIB, extent.stored_length - offset)
            pieces.append(disk.read_passing(file.fileno(), length, extent.offset + offset))
            digest.update(pieces[-1])
        if int(digest.intdigest()) != extent.checksum:
            return None
        self.mark_verified(extent)
        return pieces

    def touch(self, extent: Extent) -> None:
        """Note a read of an extent, for eviction."""
        if extent.segment != ZEROS:
            self._heat.add((extent.segment, extent.offset))

    def mark_filled(self, extent: Extent) -> None:
        """This process has just fetched the extent: what follows at once belongs to that read."""
        self.mark_verified(extent)
        self._filled.add((extent.segment, extent.offset))

    def fold_heat(self) -> None:
        """Write the reads noted since the last call into the index, in one change.

        All of an extent count as one: a program that reads a file in small pieces reads it once.
        """
        with self._heat_lock:
            noted, self._heat = self._heat, set()
            filled, self._filled = self._filled, set()
        read = noted - filled  # a copy: a thread that still has the old set may add to it

        def change(txn: Txn) -> None:
            turn = ghosts.state(txn).turn
            for segment, offset in read:
                extents.warm(txn, segment, offset, turn)

        if read:
            self._index.commit(change)


def checksum_matches(extent: Extent, file: SegmentFile) -> bool:
    digest = xxhash.xxh3_64()
    position, end = extent.offset, extent.offset + extent.stored_length
    while position < end:
        data = os.pread(file.fileno(), min(MIB, end - position), position)
        if not data:
            return False
        digest.update(data)
        position += len(data)
    return int(digest.intdigest()) == extent.checksum
