"""The bytes of inodes on this disk: staging new ones, reading those that are there.

A writer stages a body: bytes go to segments, extents are remembered, nothing is visible. A change
of the index then publishes them (extents.attach). A reader takes a snapshot, which stays what it
was: it holds the descriptors of its segments, so that neither an overwrite nor a reclaim can
change or end it. What is not cached comes through the `Filler` (cache/fetch.py).

Every stored extent is verified against its checksum the first time this process reads it; after
that it is sent from the page cache without another look (sendfile). Thread-safe except where an
object says otherwise.
"""

from __future__ import annotations

import bisect
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import xxhash

from cache import disk, extents, ghosts, metrics
from cache.config import MIB
from cache.disk import SegmentFile
from cache.errors import CacheError, CacheFull, ExtentCorrupt, StaleContent
from cache.index import Index, Table, Txn
from cache.namespace import key_bytes
from cache.records import ZEROS, Extent, Inode, InodeFlag, Kind
from cache.segments import EXTENT_MAX, ActiveSegment, Reservation, Segments, SegmentStream

log = logging.getLogger(__name__)

INLINE_MAX = 4096
"""Bodies up to this live in the index: one commit makes them durable and one get serves them."""
_VERIFIED_MAX = 1 << 20
_LISTED_AT_ONCE_MAX = 64 << 20
"""More is given piece by piece, in a thread: a hole may be of a million of them."""
_ZERO_PIECE = bytes(MIB)


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of a segment file, for sendfile or pread; good as long as its snapshot is open."""

    file: SegmentFile
    offset: int
    length: int

    def part(self, start: int, length: int) -> FileRange:
        """`length` bytes of it, from its byte `start` on; fewer at its end."""
        return FileRange(self.file, self.offset + start, min(length, self.length - start))

    def waits_for_disk(self) -> bool:
        """Whether reading it would; see disk.waits_for_disk. Never blocks."""
        return disk.waits_for_disk(self.file.fileno(), self.offset, self.length)

    def load(self, ahead_bytes: int) -> None:
        """Have it in memory, and that much of what lies behind it on its way there. Blocks."""
        disk.load(self.file.fileno(), self.offset, self.length, ahead_bytes)

    def read(self) -> bytes:
        """The bytes; blocks on the disk."""
        data = os.pread(self.file.fileno(), self.length, self.offset)
        if len(data) != self.length:
            raise StaleContent("a segment file is shorter than its extents")
        return data

    def read_passing(self) -> bytes:
        """As read, of bytes that need not stay in memory."""
        data = disk.read_passing(self.file.fileno(), self.length, self.offset)
        if len(data) != self.length:
            raise StaleContent("a segment file is shorter than its extents")
        return data


Piece = FileRange | bytes


class Filler(Protocol):
    """Who gets the bytes that are not cached."""

    def stream(self, inode: Inode, start: int, stop: int) -> Iterator[bytes]:
        """Yield exactly the bytes [start, stop) of this version, and keep them if there is room.
        StaleContent when the store has them no more."""


def is_dirty(inode: Inode) -> bool:
    """Whether the store lacks the present bytes of the inode."""
    return inode.stored is None or inode.stored.revision != inode.revision


class Staged:
    """A body on its way to disk: use from one thread at a time. Give `extents` or `inline` to a
    change together with `segments` to sync, then release(); or release() to give it up."""

    def __init__(
        self,
        stream: SegmentStream,
        segments: Segments,
        size_bytes: int | None,
        *,
        passing: bool,
    ) -> None:
        self._stream = stream
        self._passing = passing
        self._extent_max = segments.extent_max
        self._expected = size_bytes
        self._small = bytearray()
        self._reservation: Reservation | None = None
        self._done: list[tuple[Reservation, int]] = []
        self._inline_max = INLINE_MAX
        self.size = 0

    def never_inline(self) -> None:
        """The body is a part of an object: it goes to a segment however small it is."""
        self._inline_max = 0

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append. Blocks on the disk. CacheFull when there is no room, OSError if it fails."""
        view = memoryview(chunk)
        if self._reservation is None and not self._done:
            if self.size + len(view) <= self._inline_max:
                self._small += view
                self.size += len(view)
                return
            self._append(memoryview(bytes(self._small)))
            self._small.clear()
            self._append(view)
            self.size += len(view)
            return
        self._append(view)
        self.size += len(view)

    def _append(self, view: memoryview) -> None:
        while view:
            if self._reservation is None:
                length = self._extent_max
                if self._expected is not None:
                    left = self._expected - sum(r.written for r, _ in self._done)
                    length = max(len(view) if left <= 0 else left, 1)
                self._reservation = self._stream.reserve(
                    min(length, self._extent_max), passing=self._passing
                )
            part = view[: self._reservation.room]
            self._reservation.write(part)
            view = view[len(part) :]
            if not self._reservation.room:
                self._finish_extent()

    def _finish_extent(self) -> None:
        reservation = self._reservation
        if reservation is not None:
            start = sum(r.written for r, _ in self._done)
            self._done.append((reservation, start))
            self._reservation = None

    def finish(self) -> None:
        """No more bytes will come."""
        if self._reservation is not None:
            self._reservation.trim()
            self._finish_extent()

    @property
    def inline(self) -> bytes | None:
        """The whole body, if it is small enough for the index."""
        return None if self._done else bytes(self._small)

    def extents(self, revision: int, at: int = 0) -> list[Extent]:
        """The staged bytes as extents of an inode, from byte `at` on."""
        return [
            Extent(
                start=at + start,
                length=reservation.written,
                segment=reservation.segment.id,
                offset=reservation.offset,
                stored_length=reservation.written,
                checksum=reservation.checksum,
                skip=0,
                revision=revision,
            )
            for reservation, start in self._done
        ]

    @property
    def segments(self) -> list[ActiveSegment]:
        """What must be synced before a commit names the extents."""
        return list({r.segment.id: r.segment for r, _ in self._done}.values())

    def read_back(self, start: int, length: int) -> bytes:
        """Staged bytes of a body that never was small enough for the index."""
        parts = []
        position = 0
        open_one = [] if self._reservation is None else [self._reservation]
        for reservation in [*(r for r, _ in self._done), *open_one]:
            low = max(start, position)
            high = min(start + length, position + reservation.written)
            if low < high:
                offset = reservation.offset + low - position
                parts.append(os.pread(reservation.segment.fd, high - low, offset))
            position += reservation.written
        return b"".join(parts)

    def release(self) -> None:
        """Let go of the segments: after the commit, or to give the body up. Idempotent."""
        if self._reservation is not None:
            self._reservation.trim()
            self._reservation.release()
            self._reservation = None
        for reservation, _ in self._done:
            reservation.release()


def stage(
    staged: Staged | None, chunk: bytes | bytearray | memoryview, *, needed: bool
) -> Staged | None:
    """Append to the copy that is made here, if one is made still; what there is of it then.

    needed: False if the store gets every byte anyway, so that a body goes on without a copy when
    there is no room for it. CacheFull, as Staged.write.
    """
    if staged is None:
        return None
    try:
        staged.write(chunk)
    except CacheFull:
        if needed:
            raise
        staged.release()
        return None
    return staged


def publish(txn: Txn, inode: Inode, staged: Staged) -> InodeFlag:
    """Make the staged body all of the inode's bytes; the flags that the inode must have then."""
    flags = InodeFlag(inode.flags) & ~InodeFlag.INLINE
    extents.drop(txn, inode.id)
    if staged.inline is not None:
        if staged.size:
            txn.put(Table.INLINE, key_bytes(inode.id), staged.inline)
            flags |= InodeFlag.INLINE
    else:
        txn.delete(Table.INLINE, key_bytes(inode.id))
        extents.attach(txn, inode.id, staged.extents(inode.revision))
    return flags


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

    def verify(self, inode: Inode, extent: Extent, file: SegmentFile | None) -> None:
        """Compare a stored extent, or a slice of it, with its checksum, once in this process.
        file: None if the segment's file is lost.

        Bad clean bytes are dropped from the index and raise CorruptClean: they come from the
        store. Bad dirty bytes exist nowhere else: ExtentCorrupt, and an alarm.
        """
        if file is not None and self.is_verified(extent):
            return
        if file is not None and checksum_matches(extent, file):
            self.mark_verified(extent)
            return
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
        raise CorruptClean(extent)

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


class CorruptClean(CacheError):
    """Bytes on the cache disk were bad and are dropped; the store has them. Never leaves cache."""

    temporary = True

    def __init__(self, extent: Extent) -> None:
        super().__init__(f"clean extent in segment {extent.segment} was corrupt")
        self.extent = extent


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


@dataclass(frozen=True, slots=True)
class _FilledSegment:
    """A segment of any process, as index.Syncable."""

    file: SegmentFile

    def sync(self) -> None:
        disk.sync_data(self.file.fileno())


class Snapshot:
    """The bytes of one version of an inode, or a range of them: to ask for others is an error. Use
    from one thread at a time; close it."""

    def __init__(
        self,
        contents: Contents,
        inode: Inode,
        within: tuple[int, int],
        inline: bytes | None,
        found: list[Extent],
        files: dict[int, SegmentFile],
    ) -> None:
        self._contents = contents
        self._begin, self._end = within
        self.inode = inode
        self.size = inode.size
        self.warms = True
        """Reading counts for what is evicted last, and what was read stays in memory. Not the
        node's own reading: the persister looks at every byte once, and if that counted, nothing
        would be colder than anything else."""
        self._inline = inline
        self._extents = found
        self._starts = [extent.start for extent in found]
        self._files = files
        self._closed = False

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the segments go. Reading on is an error: a segment missing here is not a lost one."""
        self._closed = True
        self._files = {}

    @property
    def syncs(self) -> list[_FilledSegment]:
        """What to sync before these bytes may be the only ones: what was fetched is not."""
        return [_FilledSegment(file) for file in self._files.values()]

    def still_holds(self, txn: Txn, start: int, stop: int) -> bool:
        """Whether the index has all bytes [start, stop) still, and where `syncs` syncs them; else
        some were evicted, or moved, since this snapshot was taken."""
        here = extents.overlapping(txn, self.inode.id, start, stop)
        is_synced = {e.segment for e in here} <= {ZEROS, *self._files}
        return self._inline is not None or (is_synced and not extents.holes(here, start, stop))

    def _within(self, start: int, stop: int) -> list[Extent]:
        assert start >= stop or self._begin <= start < stop <= self._end, "not of this snapshot"
        first = max(0, bisect.bisect_right(self._starts, start) - 1)
        last = bisect.bisect_left(self._starts, stop)
        return [
            e.slice(max(e.start, start), min(e.stop, stop))
            for e in self._extents[first:last]
            if e.stop > start
        ]

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of [start, stop) that must be fetched."""
        if self._inline is not None:
            return []
        return extents.holes(self._within(start, stop), start, stop)

    def changed_since(self, revision: int) -> list[tuple[int, int]]:
        """The ranges that were written after this revision of the inode: its other bytes are as
        they were, cached or not, up to the size that it had. Of a whole snapshot."""
        if self._inline is not None:
            return [(0, self.size)]
        return [(e.start, e.stop) for e in self._extents if e.revision > revision]

    def cached(self, start: int, stop: int) -> list[Piece] | None:
        """The bytes [start, stop), if all are on this disk and verified, and not too many to list.
        Does not block."""
        if self._inline is not None:
            return [self._inline[start:stop]]
        if stop - start > _LISTED_AT_ONCE_MAX:
            return None
        pieces: list[Piece] = []
        position = start
        for extent in self._within(start, stop):
            if extent.start != position or not self._contents.is_verified(extent):
                return None
            if extent.segment != ZEROS and extent.segment not in self._files:
                return None
            for piece in self._extent_pieces(extent):
                joined = _joined(pieces[-1], piece) if pieces else None
                if joined is None:
                    pieces.append(piece)
                else:
                    pieces[-1] = joined
            position = extent.stop
        if position != stop:
            return None
        return pieces

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The bytes [start, stop) in order, fetched where they are not cached. Blocks.

        Exactly that range, or an exception: StaleContent, ExtentCorrupt, a StoreError.
        """
        if self._inline is not None:
            yield self._inline[start:stop]
            return
        position = start
        for extent in self._within(start, stop):
            if self._closed:
                raise StaleContent(f"inode {self.inode.id} is read from a closed snapshot")
            if extent.start > position:
                yield from self._fetched(position, extent.start)
            position = extent.stop
            taken = None if self.warms else self._taken(extent)
            if taken is not None:
                yield from taken
                continue
            try:
                if extent.segment != ZEROS:
                    self._contents.verify(self.inode, extent, self._files.get(extent.segment))
            except CorruptClean:
                yield from self._fetched(extent.start, extent.stop)
            else:
                yield from self._extent_pieces(extent)
        if position < stop:
            yield from self._fetched(position, stop)

    def _taken(self, extent: Extent) -> list[bytes] | None:
        """A whole extent, read and verified in one go for the node itself; None if it was verified
        before, or is to be looked at in the ordinary way."""
        file = self._files.get(extent.segment)
        whole = extent.skip == 0 and extent.length == extent.stored_length <= EXTENT_MAX
        if file is None or not whole or self._contents.is_verified(extent):
            return None
        return self._contents.take(extent, file)

    def _fetched(self, start: int, stop: int) -> Iterator[bytes]:
        filler = self._contents.filler
        if filler is None or self.inode.stored is None:
            raise StaleContent(f"inode {self.inode.id}: bytes from {start} are nowhere")
        return filler.stream(self.inode, start, stop)

    def _extent_pieces(self, extent: Extent) -> Iterator[Piece]:
        if self.warms:
            self._contents.touch(extent)
        if extent.segment != ZEROS:
            yield FileRange(self._files[extent.segment], extent.file_offset, extent.length)
            return
        for offset in range(0, extent.length, MIB):
            yield _ZERO_PIECE[: min(MIB, extent.length - offset)]

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop) at once. Blocks, fetches."""
        return b"".join(
            piece if isinstance(piece, bytes) else piece.read()
            for piece in self.pieces(start, stop)
        )


def _joined(first: Piece, second: Piece) -> FileRange | None:
    """Two pieces as one, if the second lies right behind the first: the extents of a large body,
    mostly."""
    if (
        isinstance(first, FileRange)
        and isinstance(second, FileRange)
        and first.file is second.file
        and first.offset + first.length == second.offset
    ):
        return FileRange(first.file, first.offset, first.length + second.length)
    return None


def chunks(snapshot: Snapshot, start: int, stop: int) -> Iterator[bytes]:
    """The bytes [start, stop) in pieces of at most 1 MiB. Blocks, fetches."""
    for piece in snapshot.pieces(start, stop):
        if isinstance(piece, bytes):
            yield piece
            continue
        for offset in range(0, piece.length, MIB):
            length = min(MIB, piece.length - offset)
            part = FileRange(piece.file, piece.offset + offset, length)
            yield part.read() if snapshot.warms else part.read_passing()


def read_nowait(pieces: list[Piece], room: memoryview) -> memoryview | None:
    """All pieces, put into `room`, if the page cache has them. Never blocks."""
    end = 0
    for piece in pieces:
        if isinstance(piece, bytes):
            room[end : end + len(piece)] = piece
            end += len(piece)
            continue
        part = room[end : end + piece.length]
        try:
            count = os.preadv(piece.file.fileno(), [part], piece.offset, os.RWF_NOWAIT)
        except OSError:
            # EAGAIN: not there. EOPNOTSUPP: tmpfs, some network file systems never do it so. What
            # else is wrong, the read that may block will say.
            return None
        if count != piece.length:
            return None
        end += count
    return room[:end]
