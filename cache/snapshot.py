"""The bytes of one version of an inode, read: what is on this disk, and through the filler what is
not.

A snapshot stays what it was: it holds the descriptors of its segments, so that neither an overwrite
nor a reclaim can change or end it. Every stored extent is verified against its checksum the first
time this process reads it (cache/contents.py); after that it is sent from the page cache without
another look (sendfile).
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache import disk, extents
from cache.config import MIB
from cache.disk import SegmentFile
from cache.errors import StaleContent
from cache.index import Txn
from cache.records import ZEROS, Extent, Inode
from cache.segments import EXTENT_MAX

if TYPE_CHECKING:
    from cache.contents import Contents

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
        """Whether the index has all bytes [start, stop) still, and where `syncs` synced them; else
        some were evicted, or moved, since this snapshot was taken, and maybe fetched again: what
        was put into one of its segments later may not be synced."""
        here = extents.overlapping(txn, self.inode.id, start, stop)
        known = {(e.segment, e.offset) for e in self._extents}
        is_synced = all(e.segment == ZEROS or (e.segment, e.offset) in known for e in here)
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
            file = self._files.get(extent.segment)
            if extent.segment == ZEROS or self._contents.verify(self.inode, extent, file):
                yield from self._extent_pieces(extent)
            else:
                yield from self._fetched(extent.start, extent.stop)
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
            part = piece.part(offset, MIB)
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
