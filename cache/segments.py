"""Segment files: where the bytes are.

A segment is reserved whole, filled front to back by one process, and dies by unlink; its id is
never used again. A writer reserves a stretch, writes it, and a later change of the index attaches
it as an extent; until then the bytes belong to nobody. The file's first BLOCK bytes are a header.

While a writer may still attach extents of a segment it holds the file's flock (cache/disk.py);
everybody else leaves such a segment alone, and a segment nobody holds is sealed by the mover.
Thread-safe. Streams keep apart what lives differently long: `dirty`, `fill` (new to the cache),
`main` (filled again, known to be popular), `kept` (rescued by the reclaimer).
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections import OrderedDict
from pathlib import Path

import xxhash

from cache import disk
from cache.config import MIB, CacheConfig, CacheDirectory
from cache.errors import CacheFull, FormatMismatch
from cache.index import Index, Table, Txn
from cache.records import SegmentRecord, SegmentState, unpack

log = logging.getLogger(__name__)

BLOCK = 4096
"""Extents begin at multiples of this: no write ever touches a block that holds committed bytes."""
EXTENT_MAX = 4 * MIB
EARLY_BYTES = 2 * MIB
"""Extents from this length on are on their way to the disk as soon as they are full."""
PASSING_BYTES = MIB
"""What a writer brings into extents from this length on leaves memory when it is on the disk. Not
what is fetched for a reader, or was popular enough to be moved."""
_HEADER = struct.Struct(">8sIQ")
_MAGIC = b"FBSEGM01"
_OPEN_FILES = 512
_WAIT_FOR_ROOM_S = 5.0


def _blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def segment_key(segment: int) -> bytes:
    return segment.to_bytes(4, "big")


class ActiveSegment:
    """A segment that this process is filling."""

    def __init__(self, segment: int, fd: int, size_bytes: int) -> None:
        self.id = segment
        self.fd = fd
        self.size_bytes = size_bytes
        self.next_offset = BLOCK
        self.outstanding = 0  # reservations neither attached nor given up
        self.full = False
        self.closed = False
        self._sync_lock = threading.Lock()
        self._writes = 0  # counted up after each write
        self._synced_writes = 0
        self._broken = False

    def wrote(self) -> None:
        self._writes += 1

    def sync(self) -> None:
        """fdatasync what was written; one call serves all that wrote before it.

        After a failed sync the page cache proves nothing, so the segment takes no further
        acknowledgement: every later sync of it fails too.
        """
        wanted = self._writes
        with self._sync_lock:
            if self._broken:
                raise OSError(5, f"segment {self.id} failed to sync before")
            if self._synced_writes >= wanted:
                return
            covered = self._writes
            try:
                disk.sync_data(self.fd)
            except OSError:
                self._broken = True
                self.full = True
                raise
            self._synced_writes = covered


class Reservation:
    """A stretch of a segment that one writer fills, one thread at a time. Release it once its
    extent is attached by a commit, or was given up."""

    def __init__(
        self,
        stream: SegmentStream,
        segment: ActiveSegment,
        offset: int,
        length: int,
        *,
        passing: bool,
    ) -> None:
        self._stream = stream
        self.segment = segment
        self.offset = offset
        self.length = length
        self.written = 0
        self._passes = passing and length >= PASSING_BYTES
        self._hash = xxhash.xxh3_64()
        self._released = False

    @property
    def room(self) -> int:
        return self.length - self.written

    @property
    def checksum(self) -> int:
        return int(self._hash.intdigest())

    def write(self, data: memoryview) -> None:
        """Append; data must fit into `room`. OSError if the disk fails."""
        assert len(data) <= self.room
        disk.write_at(self.segment.fd, data, self.offset + self.written, passing=self._passes)
        self._hash.update(data)
        self.written += len(data)
        self.segment.wrote()
        if not self.room and self.length >= EARLY_BYTES and self._stream.name == "dirty":
            # The disk works while the rest of the body comes; the commit waits for what is left.
            disk.start_writing(self.segment.fd, self.offset, self.length)

    def trim(self) -> None:
        """Give back what was not written, if nothing was reserved behind it."""
        self._stream.trim(self)

    def release(self) -> None:
        """Idempotent."""
        if not self._released:
            self._released = True
            self._stream.release(self.segment)


class SegmentStream:
    """One of a process's streams of segments; hands out reservations."""

    def __init__(self, segments: Segments, name: str) -> None:
        self._segments = segments
        self.name = name
        self._lock = threading.Lock()
        self._active: ActiveSegment | None = None
        self._refuse_until = 0.0

    def reserve(self, length: int, *, passing: bool = False) -> Reservation:
        """A stretch of `length` bytes; a new extent takes at most extent_max. passing: nobody waits
        to read them (PASSING_BYTES).

        Blocks for a commit when a new segment is begun. CacheFull when no directory has room for
        one; writers of dirty bytes wait a while for the evictor first, because nothing else can
        take them. After a wait in vain the next ones are refused at once: a program that writes on
        would else wait for each page."""
        assert 0 < length <= self._segments.segment_bytes - BLOCK
        now = time.monotonic()
        patient = self.name == "dirty" and now >= self._refuse_until
        end = now + (_WAIT_FOR_ROOM_S if patient else 0)
        while True:
            try:
                return self._reserve(length, passing)
            except CacheFull:
                if time.monotonic() >= end:
                    if patient:
                        self._refuse_until = time.monotonic() + _WAIT_FOR_ROOM_S
                    raise
                time.sleep(0.05)

    def _reserve(self, length: int, passing: bool) -> Reservation:
        with self._lock:
            active = self._active
            if active is None or active.full or active.next_offset + length > active.size_bytes:
                if active is not None:
                    active.full = True
                    self._close_if_done(active)
                    self._active = None
                active = self._active = self._segments.begin(self.name)
            offset = active.next_offset
            active.next_offset += _blocks(length)
            active.outstanding += 1
            return Reservation(self, active, offset, length, passing=passing)

    def trim(self, reservation: Reservation) -> None:
        with self._lock:
            segment = reservation.segment
            if segment.next_offset == reservation.offset + _blocks(reservation.length):
                segment.next_offset = reservation.offset + _blocks(reservation.written)
                reservation.length = reservation.written

    def release(self, segment: ActiveSegment) -> None:
        with self._lock:
            segment.outstanding -= 1
            self._close_if_done(segment)

    @staticmethod
    def _close_if_done(segment: ActiveSegment) -> None:
        if segment.full and segment.outstanding == 0 and not segment.closed:
            segment.closed = True
            os.close(segment.fd)  # drops the flock: the mover may seal it

    def close(self) -> None:
        with self._lock:
            if self._active is not None:
                self._active.full = True
                self._close_if_done(self._active)
                self._active = None


class _Directory:
    def __init__(self, number: int, config: CacheDirectory) -> None:
        self.number = number
        self.path = config.path
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if config.capacity_bytes is None:
            stat = os.statvfs(self.path)
            self.capacity_bytes = int(stat.f_blocks * stat.f_frsize * 0.8)
        else:
            self.capacity_bytes = config.capacity_bytes

    def file(self, segment: int) -> Path:
        return self.path / f"{segment:08d}.seg"


class Segments:
    """All segment files of the node, as this process uses them."""

    def __init__(self, index: Index, config: CacheConfig) -> None:
        self._index = index
        directories = config.directories or (
            CacheDirectory(config.state_dir / "segments", config.capacity_bytes),
        )
        self._directories = [_Directory(n, directory) for n, directory in enumerate(directories)]
        smallest = min(directory.capacity_bytes for directory in self._directories)
        self.segment_bytes = config.segment_bytes or max(
            MIB, min(256 * MIB, smallest // 64 // BLOCK * BLOCK)
        )
        self.extent_max = min(EXTENT_MAX, (self.segment_bytes - BLOCK) // 4 // BLOCK * BLOCK)
        self.dirty = SegmentStream(self, "dirty")
        self.fill = SegmentStream(self, "fill")
        self.main = SegmentStream(self, "main")
        self.kept = SegmentStream(self, "kept")
        self._files_lock = threading.Lock()
        self._files: OrderedDict[int, disk.SegmentFile] = OrderedDict()

    @property
    def capacity_bytes(self) -> int:
        return sum(directory.capacity_bytes for directory in self._directories)

    def reserve_bytes(self, stream: str) -> int:
        """Capacity that a stream must leave for others: fills leave room for writers, writers for
        the reclaimer, without which nothing would ever become free again."""
        return {"fill": 4, "main": 4, "dirty": 2, "kept": 0}[stream] * self.segment_bytes

    def begin(self, stream: str) -> ActiveSegment:
        """Make a new segment in the directory with the most room. CacheFull when none has any."""

        def change(txn: Txn) -> SegmentRecord:
            used = [0] * len(self._directories)
            for record in self.records(txn):
                if record.directory < len(used):
                    used[record.directory] += record.size
            room = [d.capacity_bytes - used[d.number] for d in self._directories]
            best = max(range(len(room)), key=room.__getitem__)
            if (
                sum(max(0, r) for r in room) < self.segment_bytes + self.reserve_bytes(stream)
                or room[best] < self.segment_bytes
            ):
                raise CacheFull(f"no room for a {stream} segment of {self.segment_bytes} bytes")
            record = SegmentRecord(
                id=txn.next_id(b"next_segment"),
                directory=best,
                size=self.segment_bytes,
                stream=stream,
                state=SegmentState.ACTIVE,
                live=0,
                created_ns=time.time_ns(),
            )
            txn.put_record(Table.SEGMENTS, segment_key(record.id), record)
            return record

        record = self._index.commit(change)
        path = self._directories[record.directory].file(record.id)
        header = _HEADER.pack(_MAGIC, record.id, record.size)
        try:
            fd = disk.create_segment(path, record.size, header)
        except OSError as exc:
            self._index.commit(lambda txn: self.forget(txn, record.id), grows=False)
            raise CacheFull(f"cannot reserve {path.name}: {exc}") from exc
        return ActiveSegment(record.id, fd, record.size)

    @staticmethod
    def records(txn: Txn) -> list[SegmentRecord]:
        return [unpack(value, SegmentRecord) for _, value in txn.scan(Table.SEGMENTS)]

    @staticmethod
    def forget(txn: Txn, segment: int) -> None:
        txn.delete(Table.SEGMENTS, segment_key(segment))

    def path(self, record: SegmentRecord) -> Path:
        return self._directories[record.directory].file(record.id)

    def paths(self) -> list[Path]:
        """Every segment file on disk, whether the index knows it or not."""
        return [p for d in self._directories for p in sorted(d.path.glob("*.seg"))]

    def file(self, segment: int) -> disk.SegmentFile | None:
        """The segment open for reading, from the descriptor cache. FileNotFoundError once it was
        reclaimed: look the extents up again. None if the index has it and the disk has lost it."""
        with self._files_lock:
            found = self._files.get(segment)
            if found is not None:
                self._files.move_to_end(segment)
                return found
        path = self._path_of(segment)
        try:
            opened = disk.SegmentFile(path, "rb")
        except FileNotFoundError:
            # The reclaimer forgets a segment before it unlinks it: still known, it was not him.
            self._path_of(segment)
            log.error("segment %d: %s is missing", segment, path)
            return None
        magic, number, _ = _HEADER.unpack(os.pread(opened.fileno(), _HEADER.size, 0))
        if magic != _MAGIC or number != segment:
            raise FormatMismatch(f"{path} is not segment {segment}")
        with self._files_lock:
            self._files[segment] = opened
            while len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        return opened

    def _path_of(self, segment: int) -> Path:
        with self._index.read() as txn:
            record = txn.record(Table.SEGMENTS, segment_key(segment), SegmentRecord)
        if record is None:
            raise FileNotFoundError(f"segment {segment} was reclaimed")
        return self.path(record)

    def drop_dead_files(self) -> None:
        """Close cached descriptors of segments that were unlinked: their space becomes free when
        the last process lets go."""
        with self._files_lock:
            for segment, file in list(self._files.items()):
                if os.fstat(file.fileno()).st_nlink == 0:
                    del self._files[segment]

    def close(self) -> None:
        for stream in (self.dirty, self.fill, self.main, self.kept):
            stream.close()
        with self._files_lock:
            self._files.clear()
