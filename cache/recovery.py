"""Housekeeping after crashes, and fsck. Nothing here must end before the node serves.

Recovery is reading the index: what remains is to seal the segments of dead writers, to unlink
segment files that the index never learned of, to reap inodes that lost their last name, and to
clear the reader slots of dead processes. Blocking; one thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cache import dirty, extents, moving, names, namespace
from cache.contents import checksum_matches, drop_bytes
from cache.index import Index, Table, Txn
from cache.records import (
    ROOT,
    ZEROS,
    Inode,
    InodeFlag,
    Kind,
    QueueEntry,
    SegmentRecord,
    unpack,
)
from cache.segments import BLOCK, Segments

log = logging.getLogger(__name__)

_BATCH = 256


class Reaper:
    """Removes inodes without names. While a mount runs, its process does this, because only it
    knows which are still open; else the mover.

    An orphan is reaped in the second pass that finds it unused: a request that just looked its
    name up may be about to open it.
    """

    def __init__(self, index: Index, run_dir: Path) -> None:
        self._index = index
        self._lock_path = run_dir / "mount.lock"
        self._seen: set[int] = set()

    def run_as_mount(self, held: set[int]) -> int:
        """Reap the orphans that are not held. Call with the mount lock taken (claim_mount)."""
        return self._reap(held)

    def run_without_mount(self) -> int:
        """Reap the orphans, unless a mount runs."""
        fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            return self._reap(set())
        finally:
            os.close(fd)

    def claim_mount(self) -> int:
        """Take the mount lock for the life of this process; its descriptor."""
        fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def _reap(self, held: set[int]) -> int:
        with self._index.read() as txn:
            first = _first_queued(txn)
            found: set[int] = set()
            for key, sequence in txn.scan(Table.ORPHANS):
                number = int.from_bytes(key, "big")
                if number in held:
                    continue
                inode = txn.record(Table.INODES, key, Inode)
                if inode is not None and _leads_to_queued(inode, sequence, first):
                    continue
                found.add(number)
                if len(found) >= 16 * _BATCH:
                    break
        ready = sorted(found & self._seen)
        self._seen = found
        for start in range(0, len(ready), _BATCH):
            batch = ready[start : start + _BATCH]
            self._index.commit(partial(self._discard_all, batch=batch), grows=False)
        return len(ready)

    @staticmethod
    def _discard_all(txn: Txn, batch: list[int]) -> None:
        first = _first_queued(txn)
        for number in batch:
            key = namespace.key_bytes(number)
            inode = txn.record(Table.INODES, key, Inode)
            if inode is None:
                txn.delete(Table.ORPHANS, key)
                continue
            # Once more: a name may have been queued below it since.
            needed = _leads_to_queued(inode, txn.get(Table.ORPHANS, key) or b"", first)
            if inode.nlink == 0 and not needed and not dirty.waits_below(txn, number):
                drop_bytes(txn, number)
                namespace.discard(txn, inode)


def _first_queued(txn: Txn) -> bytes | None:
    row = next(txn.scan(Table.QUEUE), None)
    return None if row is None else row[0]


def _leads_to_queued(inode: Inode, sequence: bytes, first: bytes | None) -> bool:
    """Whether an entry of the queue may still need the path of a removed directory, because it is
    older than the sequence noted with it (namespace.keep_above)."""
    return inode.is_dir and first is not None and first < sequence


@dataclass(slots=True)
class Report:
    """What fsck looked at and found."""

    inodes: int = 0
    extents: int = 0
    segments: int = 0
    bytes_checked: int = 0
    problems: list[str] = field(default_factory=list)


class Fsck:
    """Checks that the tables agree with each other and with the segment files. Changes nothing."""

    def __init__(self, index: Index, segments: Segments) -> None:
        self._index = index
        self._segments = segments

    def run(
        self, *, read_data: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> Report:
        """Check everything; read_data: also every stored extent against its checksum."""
        report = Report()
        with self._index.read() as txn:
            total = txn.count(Table.INODES) + txn.count(Table.SEGMENTS)
            done = 0
            for done, problem in enumerate(self._check(txn, report, read_data), 1):
                if problem:
                    report.problems.append(problem)
                if progress is not None and done % 256 == 0:
                    progress(min(done, total), total)
            if progress is not None:
                progress(total, total)
        return report

    def _check(self, txn: Txn, report: Report, read_data: bool) -> Iterator[str]:
        named = yield from self._check_names(txn)
        for key, value in txn.scan(Table.INODES):
            report.inodes += 1
            inode = unpack(value, Inode)
            yield from self._check_inode(txn, inode, named.get(inode.id, 0), key)
        yield from self._check_extents(txn, report)
        yield from self._check_segments(txn, report, read_data)
        yield from self._check_queue(txn)
        yield from self._check_places(txn)

    @staticmethod
    def _check_names(txn: Txn) -> Generator[str, None, dict[int, int]]:
        named: dict[int, int] = {}
        waiting = [int(ROOT)]
        while waiting:
            directory = waiting.pop()
            for name, dentry in names.scan(txn, directory):
                yield ""
                named[dentry.inode] = named.get(dentry.inode, 0) + 1
                inode = txn.record(Table.INODES, namespace.key_bytes(dentry.inode), Inode)
                if inode is None:
                    yield f"name {name!r} in {directory} leads to no inode"
                elif inode.is_dir != name.endswith(b"/"):
                    yield f"name {name!r} in {directory} leads to the wrong kind"
                elif inode.is_dir:
                    if (inode.parent, inode.name) != (directory, name):
                        yield f"directory {inode.id} does not know its name {name!r}"
                    waiting.append(inode.id)
        return named

    @staticmethod
    def _check_inode(  # noqa: C901  one rule after the other
        txn: Txn, inode: Inode, count: int, key: bytes
    ) -> Iterator[str]:
        yield ""
        if inode.id == ROOT:
            return
        orphan = txn.get(Table.ORPHANS, key) is not None
        if inode.nlink == 0 and not orphan:
            yield f"inode {inode.id} has no name and is not an orphan"
        if inode.kind == Kind.DIRECTORY:
            if inode.nlink and count != 1:
                yield f"directory {inode.id} has {count} names"
            return
        if inode.mode == 0 and count == 0 and inode.nlink == 1:
            return  # a part of a multipart upload
        if inode.nlink != count:
            yield f"inode {inode.id} has {count} names and counts {inode.nlink}"
        if inode.kind != Kind.FILE:
            return
        if inode.flags & InodeFlag.INLINE:
            row = txn.get(Table.INLINE, key)
            if row is None or len(row) != inode.size:
                yield f"inode {inode.id}: inline bytes missing or of the wrong size"
            return
        found = extents.overlapping(txn, inode.id)
        holes = extents.holes(found, 0, inode.size)
        if holes and inode.stored is None and inode.nlink:
            yield f"inode {inode.id}: bytes {holes[0]} are neither here nor in the store"
        for extent in found:
            if extent.stop > inode.size:
                yield f"inode {inode.id}: an extent ends at {extent.stop} behind {inode.size}"

    @staticmethod
    def _check_extents(txn: Txn, report: Report) -> Iterator[str]:
        for key, _ in txn.scan(Table.EXTENTS):
            yield ""
            report.extents += 1
            number, start = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
            extent = extents.extent_at(txn, number, start)
            assert extent is not None
            if extent.segment == ZEROS:
                continue
            if txn.get(Table.INODES, key[:8]) is None:
                yield f"extent at {start} of inode {number}, which does not exist"
            if not extents.is_resident(txn, number, extent):
                yield f"inode {number}: extent at {start} is not noted in its segment"

    def _check_segments(self, txn: Txn, report: Report, read_data: bool) -> Iterator[str]:
        for record in self._segments.records(txn):
            yield ""
            report.segments += 1
            live: dict[int, int] = {}
            for resident in extents.residents(txn, record.id):
                extent = extents.extent_at(txn, resident.inode, resident.start)
                if extent is None or (extent.segment, extent.offset) != (
                    record.id,
                    resident.offset,
                ):
                    yield f"segment {record.id}: byte {resident.offset} is noted and not used"
                    continue
                if resident.offset not in live and read_data:
                    report.bytes_checked += extent.stored_length
                    file = self._segments.file(record.id)
                    if file is None or not checksum_matches(extent, file):
                        yield f"segment {record.id}: byte {resident.offset} fails its checksum"
                live[resident.offset] = -(-extent.stored_length // BLOCK) * BLOCK
            if sum(live.values()) != record.live:
                yield f"segment {record.id}: {sum(live.values())} live bytes, {record.live} noted"
            yield from self._check_file(record)

    def _check_file(self, record: SegmentRecord) -> Iterator[str]:
        path = self._segments.path(record)
        if not path.exists():
            if record.live:
                yield f"segment {record.id}: {path.name} is missing"
        elif path.stat().st_size != record.size:
            yield f"segment {record.id}: {path.name} has {path.stat().st_size} bytes"

    @staticmethod
    def _check_queue(txn: Txn) -> Iterator[str]:
        total = 0
        for sequence, value in txn.scan(Table.QUEUE):
            yield ""
            entry = unpack(value, QueueEntry)
            total += entry.size
            place = dirty.place_key(entry.parent, entry.name)
            if txn.get(Table.QUEUED, place) != sequence:
                yield f"queue entry for {entry.name!r} is not found by its name"
        if total != dirty.dirty_bytes(txn):
            yield f"the queue holds {total} dirty bytes and counts {dirty.dirty_bytes(txn)}"

    @staticmethod
    def _check_places(txn: Txn) -> Iterator[str]:
        """What is noted of places in the store that are not their inodes' names: a row that leads
        nowhere would keep whatever takes the place from being persisted."""
        for key, value in txn.scan(Table.AWAY):
            yield ""
            number, inode = int.from_bytes(value, "big"), txn.record(Table.INODES, value, Inode)
            if inode is None:
                yield f"a place in the store is kept for inode {number}, which does not exist"
                continue
            places = [moving.target(txn, number)]
            if inode.stored is not None:
                places.append((inode.stored.parent, inode.stored.name))
            if key not in [dirty.place_key(*place) for place in places if place is not None]:
                yield f"a place in the store is kept for inode {number}, which is not there"
        for key, _ in txn.scan(Table.MOVING):
            yield ""
            number, inode = int.from_bytes(key, "big"), txn.record(Table.INODES, key, Inode)
            at = moving.target(txn, number)
            assert at is not None
            if inode is None or inode.stored is None:
                yield f"inode {number} is moving in the store, and is not there"
            elif txn.get(Table.INODES, namespace.key_bytes(at[0])) is None:
                yield f"inode {number} is moving to directory {at[0]}, which does not exist"
            elif number != dirty.away_at(txn, *at):
                yield f"inode {number} is moving to {at[1]!r}, which is not kept for it"
