"""One inode that is open through the mount: reads, and writes that are not published yet.

What is written goes to the dirty segments at once and into an overlay over the published bytes;
close, fsync and a bound on the overlay publish it in one change, from which on the S3 door sees it.
Made by OpenFiles only (cache/open_files.py), in the mount process. Blocking but for what ends in
`_now`, thread-safe; the lock is held over disk writes and the publication.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from cache import extents, namespace, retention
from cache.errors import NoSuchInode, WouldWait
from cache.index import Table, Txn
from cache.marking import mark_all, put_off_all, through_places
from cache.overlay import Overlay
from cache.records import EMPTY_ETAG, ZEROS, Extent, Inode, InodeFlag
from cache.running_md5 import RunningMd5
from cache.segments import Reservation
from cache.snapshot import Snapshot, read_nowait
from cache.staging import INLINE_MAX

if TYPE_CHECKING:
    from cache.open_files import OpenFiles

_OVERLAY_MAX = 2048
_UNPUBLISHED_MAX = 2 << 30
"""What is not published counts as dirty nowhere, and a crash of ours loses it."""
_MORE_COMES_NS = 30 * 10**9
"""Longest that the store waits for the rest of a file of which only the beginning is published."""
_ADMIT_EVERY_BYTES = 8 << 20
_SNAPSHOT_AGE_S = 1.0
_READ_AHEAD_MAX = 32 << 20
_IN_ORDER_BYTES = 2 << 20
"""The kernel's own read-ahead comes in pieces of at most 1 MiB, and not always in order."""
_LOOKED_UP_AT_ONCE_MAX = 16 << 20


class OpenFile:
    """See the module docstring. Counted by `users`."""

    def __init__(self, shared: OpenFiles, inode: Inode, inline: bytes) -> None:
        self._shared = shared
        self.inode_id = inode.id
        self.users = 0
        self._lock = threading.RLock()
        self._size = inode.size
        self._mtime_ns = 0  # of the last write that is not published
        self._is_timed = False  # by the kernel, which tells the time of each write sooner or later
        self._overlay = Overlay()
        self._unpublished = 0  # bytes in the overlay, also those that were written over
        self._more_comes = False  # the queue was told to wait for the rest
        self._reservations: dict[tuple[int, int], Reservation] = {}
        self._run: Reservation | None = None
        self._run_start = 0
        self._image: bytearray | None = None  # the whole file, while it is small enough for inline
        self._changed = False
        self._md5: RunningMd5 | None = None  # as long as the file is written front to back
        self._unadmitted = _ADMIT_EVERY_BYTES
        self._snapshot: Snapshot | None = None
        self._snapshot_until = 0.0
        self._read_stop = -1
        self._ahead_stop = 0
        self._ahead = 0
        if inode.size <= INLINE_MAX and (inode.size == 0 or inode.flags & InodeFlag.INLINE):
            self._image = bytearray(inline)

    # ------------------------------------------------------------------ reading

    def cached(self, start: int, room: memoryview) -> memoryview | None:
        """The bytes from `start` on, as far as `room` goes, if they are in memory: never blocks.
        What is returned may lie in `room`. None: call read() in a thread."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            stop = min(self._size, start + len(room))
            if start >= stop:
                return room[:0]
            if self._image is not None:
                return memoryview(bytes(self._image[start:stop]))
            snapshot = None if self._overlay else self._snapshot_now()
            if snapshot is None:
                return None
            pieces = snapshot.cached(start, stop)
        finally:
            self._lock.release()
        if pieces is None:
            return None
        return read_nowait(pieces, room)

    def _snapshot_now(self) -> Snapshot | None:
        """What is published, if it is known, or can be looked up at once: a large file has
        thousands of extents."""
        if self._size <= _LOOKED_UP_AT_ONCE_MAX:
            return self._current_snapshot()
        return self._snapshot if time.monotonic() <= self._snapshot_until else None

    def read(self, start: int, length: int) -> bytes:
        """Up to length bytes from `start`; shorter only at the end of the file. Blocks, may fetch.

        StaleContent, ExtentCorrupt, a StoreError."""
        with self._lock:
            stop = min(self._size, start + length)
            if start >= stop:
                return b""
            if self._image is not None:
                return bytes(self._image[start:stop])
            over = self._overlay.within(start, stop)
            parts = [(e.start, self._read_extent(e)) for e in over]
            snapshot = self._current_snapshot()
            gaps = extents.holes(over, start, stop)
        self._read_ahead(snapshot, start, stop)
        for gap_start, gap_stop in gaps:
            parts.append((gap_start, self._read_published(snapshot, gap_start, gap_stop)))
        parts.sort()
        return b"".join(data for _, data in parts)

    def _read_published(self, snapshot: Snapshot, start: int, stop: int) -> bytes:
        published = min(stop, snapshot.size)
        data = snapshot.read(start, published) if start < published else b""
        return data + bytes(stop - start - len(data))

    def _read_extent(self, extent: Extent) -> bytes:
        if extent.segment == ZEROS:
            return bytes(extent.length)
        reservation = self._reservations[extent.segment, extent.offset]
        return os.pread(reservation.segment.fd, extent.length, extent.file_offset)

    def _current_snapshot(self) -> Snapshot:
        """What is published, as of at most a moment ago: the reclaimer moves extents, and a
        snapshot held for long would keep dead segments on the disk."""
        now = time.monotonic()
        if self._snapshot is None or now > self._snapshot_until:
            snapshot = self._shared.contents.open(self.inode_id)
            if snapshot is None:
                raise NoSuchInode(self.inode_id)
            self._snapshot = snapshot
            self._snapshot_until = now + _SNAPSHOT_AGE_S
        return self._snapshot

    def _read_ahead(self, snapshot: Snapshot, start: int, stop: int) -> None:
        """Fetch ahead of a reader in order, twice as far each time it comes to the end of that."""
        in_order = abs(start - self._read_stop) <= _IN_ORDER_BYTES
        if not in_order:
            self._ahead, self._ahead_stop = 0, stop
        self._read_stop = stop
        if not snapshot.missing(start, min(snapshot.size, stop)):
            ahead = snapshot.missing(stop, min(snapshot.size, stop + (self._ahead or 1)))
            if not ahead:
                return
        self._snapshot_until = 0.0  # what is fetched now is in the next snapshot
        if in_order and stop + self._ahead // 2 >= self._ahead_stop:
            self._ahead = min(_READ_AHEAD_MAX, max(2 * self._ahead, 4 << 20))
            begin = max(stop, self._ahead_stop)
            end = min(snapshot.size, stop + self._ahead)
            if begin < end and snapshot.inode.stored is not None:
                self._shared.fetcher.prefetch(snapshot.inode, begin, end)
                self._ahead_stop = end

    # ------------------------------------------------------------------ writing

    def write_now(self, start: int, data: bytes) -> bool:
        """As write, for a file so small that it stays in memory until it is published. Never
        blocks; False: nothing was done."""
        if start + len(data) > INLINE_MAX or not self._lock.acquire(blocking=False):
            return False
        try:
            due = self._unadmitted + len(data) >= _ADMIT_EVERY_BYTES
            if self._image is None or (due and self._shared.admission.slows()):
                return False
            self.write(start, data)
            return True
        finally:
            self._lock.release()

    def write(self, start: int, data: bytes) -> int:
        """Write at `start`; zeros fill a gap behind the end. No bytes change nothing, as pwrite(2)
        says. Blocks. OutOfSpace classes."""
        if not data:
            return 0
        with self._lock:
            self._admit(len(data))
            if start > self._size:
                self._extend(start)
            if not self._is_timed:
                self._mtime_ns = time.time_ns()
            self._changed = True
            stop = start + len(data)
            if self._image is not None and stop <= INLINE_MAX:
                self._image[start:stop] = data
                self._size = max(self._size, stop)
                return len(data)
            self._spill()
            self._hash(start, data)
            try:
                self._append(start, memoryview(data))
            except BaseException:
                self._end_md5()  # which has these bytes
                raise
            self._size = max(self._size, stop)
            self._unpublished += len(data)
            if self._unpublished >= _UNPUBLISHED_MAX or len(self._overlay) >= _OVERLAY_MAX:
                self.publish(more_comes=True)
            return len(data)

    def _admit(self, length: int) -> None:
        self._unadmitted += length
        if self._unadmitted >= _ADMIT_EVERY_BYTES:
            self._shared.admission.admit_patiently()
            self._unadmitted = 0

    def _extend(self, size: int) -> None:
        """Zeros from the present end on."""
        if self._image is not None and size <= INLINE_MAX:
            self._image += bytes(size - len(self._image))
        else:
            self._spill()
            self._overlay.insert(Extent(self._size, size - self._size, ZEROS, 0, 0, 0, 0, 0))
        self._size = size
        self._changed = True

    def _spill(self) -> None:
        """The file outgrows memory. OutOfSpace classes; then it stays there."""
        if self._image is None:
            return
        image = bytes(self._image)
        self._append(0, memoryview(image))
        self._image = None
        self._md5 = RunningMd5(self._shared.hashing, self._shared.early, image)

    def _hash(self, start: int, data: bytes) -> None:
        """The ETag is the MD5 as long as the file is written front to back."""
        if self._md5 is not None and not self._md5.add(start, data):
            self._end_md5()

    def _end_md5(self) -> None:
        if self._md5 is not None:
            self._md5.close()
            self._md5 = None

    def _append(self, start: int, view: memoryview) -> None:
        """All of it, or none: what got into a segment before there was no room is in no extent."""
        appended = []
        while view:
            run = self._run
            if run is None or not run.room or self._run_start + run.written != start:
                run = self._begin_run(start, len(view))
            part = view[: run.room]
            run.write(part)
            appended.append(
                Extent(
                    start,
                    len(part),
                    run.segment.id,
                    run.offset,
                    run.length,
                    0,
                    start - self._run_start,
                    0,
                )
            )
            start += len(part)
            view = view[len(part) :]
        for extent in appended:
            self._overlay.insert(extent)

    def _begin_run(self, start: int, length: int) -> Reservation:
        follows = self._run is not None and self._run_start + self._run.written == start
        if follows and self._run is not None:
            length = max(length, 2 * self._run.length)
        self._end_run()
        stream = self._shared.segments.dirty
        run = stream.reserve(min(length, self._shared.segments.extent_max), passing=True)
        self._run, self._run_start = run, start
        self._reservations[run.segment.id, run.offset] = run
        return run

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.trim()
            self._run = None

    def set_mtime_now(self, mtime_ns: int) -> bool:
        """See OpenFiles.set_mtime_now."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._changed:
                self.set_mtime(mtime_ns)
            return self._changed
        finally:
            self._lock.release()

    def may_change(self) -> bool:
        """Whether something is to be published, or the store to be let have it, or somebody is just
        writing."""
        if not self._lock.acquire(blocking=False):
            return True
        self._lock.release()
        return self._changed or self._more_comes

    def set_mtime(self, mtime_ns: int) -> None:
        """See OpenFiles.set_mtime."""
        with self._lock:
            self._mtime_ns, self._is_timed = mtime_ns, True

    def truncate(self, size: int, *, touches: bool = False) -> Inode:
        """Cut, or extend with zeros, published at once. Where the size is this already the time of
        the last change stays, unless `touches`: so truncate(2), not so O_TRUNC. Blocks."""
        with self._lock:
            if size == self._size and not touches:
                return self.publish()
            if size == self._size and not self._changed:
                return self._shared.index.commit(self._touch, durable=False)
            if size < self._size:
                self._cut(size)
            elif size > self._size:
                self._extend(size)
            self._mtime_ns = time.time_ns()
            self._changed = True
            return self.publish()

    def _touch(self, txn: Txn) -> Inode:
        """A file that is cut to what it is: its times move, its ETag stays."""
        inode = namespace.get(txn, self.inode_id)
        retention.check_removable(namespace.object_attributes(txn, inode), bypass=False)
        now = time.time_ns()
        revision = inode.attributes_revision + 1
        inode = namespace.update(
            txn, inode, mtime_ns=now, ctime_ns=now, attributes_revision=revision
        )
        mark_all(txn, self._shared.buckets, inode)
        return inode

    def _cut(self, size: int) -> None:
        if self._image is not None:
            del self._image[size:]
            self._size = size
        else:
            self.publish()
            self._publish_cut(size)
        self._end_md5()
        if size == 0:
            self._image = bytearray()

    def _publish_cut(self, size: int) -> None:
        def change(txn: Txn) -> None:
            inode = _changing(txn, self.inode_id)
            extents.punch(txn, inode.id, size, max(size, inode.size))
            # At once: an S3 client may read between this and the publication that follows.
            state = hashlib.md5(f"{inode.etag} {size}".encode(), usedforsecurity=False)
            inode = namespace.update(
                txn,
                inode,
                size=size,
                revision=inode.revision + 1,
                etag=f"{state.hexdigest()}-1" if size else EMPTY_ETAG,
            )
            mark_all(txn, self._shared.buckets, inode)

        self._shared.index.commit(change, durable=False)
        self._size = size
        self._snapshot = None

    # ------------------------------------------------------------------ publishing

    def publish(self, *, wait: bool = True, more_comes: bool = False) -> Inode:
        """Make what was written the inode's bytes: synced, then committed, then visible at the
        other door; durable with sync(), or in a moment. Returns the inode. Blocks; wait: False
        for WouldWait where there are bytes to sync, or somebody else commits. more_comes: the
        store need not have it before the next publication."""
        with self._lock:
            if not self._changed:
                if self._more_comes:
                    self._shared.index.commit(
                        self._nothing_more_comes, grows=False, durable=False, wait=wait
                    )
                    self._more_comes = False
                with self._shared.index.read() as txn:
                    return namespace.get(txn, self.inode_id)
            if not wait and self._image is None:
                raise WouldWait("segments must be synced")
            self._end_run()
            if self._md5 is not None:
                self._md5.settle()  # not in the transaction
            used = {(e.segment, e.offset) for e in self._overlay if e.segment != ZEROS}
            final = [self._final(extent) for extent in self._overlay]
            syncs = [self._reservations[key].segment for key in used]
            inode = self._shared.index.commit(
                lambda txn: self._publish_in(txn, final, more_comes),
                syncs=syncs,
                durable=False,
                wait=wait,
            )
            self._more_comes = more_comes
            for extent in final:
                self._shared.contents.mark_verified(extent)
            self._overlay.clear()
            for reservation in self._reservations.values():
                reservation.release()
            self._reservations = {}
            self._unpublished = 0
            self._changed = False
            self._snapshot = None
            return inode

    def _nothing_more_comes(self, txn: Txn) -> None:
        put_off_all(txn, self._shared.buckets, namespace.get(txn, self.inode_id), 0)

    def give_up(self) -> None:
        """Let go of the segments, also of what could not be published, and of what comes too early.
        Nobody uses it any more."""
        self._end_run()
        self._end_md5()
        for reservation in self._reservations.values():
            reservation.release()
        self._reservations = {}

    def _final(self, extent: Extent) -> Extent:
        if extent.segment == ZEROS:
            return extent
        reservation = self._reservations[extent.segment, extent.offset]
        return extent._replace(stored_length=reservation.written, checksum=reservation.checksum)

    def _publish_in(self, txn: Txn, final: list[Extent], more_comes: bool) -> Inode:
        inode = _changing(txn, self.inode_id)
        revision = inode.revision + 1
        key = namespace.key_bytes(inode.id)
        flags = InodeFlag(inode.flags) & ~InodeFlag.INLINE
        if self._image is not None:
            extents.drop(txn, inode.id)
            if self._image:
                txn.put(Table.INLINE, key, bytes(self._image))
                flags |= InodeFlag.INLINE
            else:
                txn.delete(Table.INLINE, key)
        else:
            txn.delete(Table.INLINE, key)
            extents.attach(txn, inode.id, [e._replace(revision=revision) for e in final])
        now = time.time_ns()
        inode = namespace.update(
            txn,
            inode,
            size=self._size,
            flags=int(flags),
            revision=revision,
            mtime_ns=self._mtime_ns or now,
            ctime_ns=now,
            etag=self._etag(inode, final),
        )
        written = len(self._image or b"") + sum(e.length for e in final if e.segment != ZEROS)
        mark_all(txn, self._shared.buckets, inode, written)
        if more_comes:
            put_off_all(txn, self._shared.buckets, inode, now + _MORE_COMES_NS)
        elif self._more_comes:
            put_off_all(txn, self._shared.buckets, inode, 0)
        return inode

    def _etag(self, inode: Inode, final: list[Extent]) -> str:
        if self._image is not None:
            return hashlib.md5(self._image, usedforsecurity=False).hexdigest()
        if self._md5 is not None and self._md5.size == self._size:
            return self._md5.hexdigest()
        # Not an MD5 of the bytes, and marked by `-` as S3 marks those: it names the state that was
        # and what was written over it.
        digest = hashlib.md5(inode.etag.encode(), usedforsecurity=False)
        digest.update(str(self._size).encode())
        for extent in final:
            digest.update(repr((extent.start, extent.length, extent.checksum)).encode())
        return f"{digest.hexdigest()}-{max(1, len(final))}"

    def attributes(self, inode: Inode) -> Inode:
        """The inode's attributes with the unpublished size and time."""
        if not self._changed:
            return inode
        mtime_ns = self._mtime_ns or inode.mtime_ns
        return msgspec.structs.replace(
            inode, size=self._size, mtime_ns=mtime_ns, ctime_ns=max(mtime_ns, inode.ctime_ns)
        )

    def flush(self) -> None:
        """close(2) of one descriptor: publish; in write_through the store has it too, or its error
        is raised."""
        inode = self.publish()
        self._persist(inode)

    def flush_now(self) -> bool:
        """As flush, where neither the disk nor a store is to be waited for. Never blocks; False:
        something is left to do."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            inode = self.publish(wait=False)
        except WouldWait:
            return False
        finally:
            self._lock.release()
        return not through_places(self._shared.index, self._shared.buckets, inode)

    def sync(self) -> None:
        """fsync(2): as flush, and durable."""
        self.flush()
        self._shared.index.make_durable()

    def _persist(self, inode: Inode) -> None:
        for place in through_places(self._shared.index, self._shared.buckets, inode):
            self._shared.persister.persist(place)

    def release(self) -> None:
        """One open less; see OpenFiles.release."""
        self._shared.release(self)

    def release_now(self) -> bool:
        """See OpenFiles.release_now."""
        return self._shared.release_now(self)


def _changing(txn: Txn, inode_id: int) -> Inode:
    """The inode whose bytes are about to change. ObjectLocked: it may have been since it was
    opened."""
    inode = namespace.get(txn, inode_id)
    retention.check_removable(namespace.object_attributes(txn, inode), bypass=False)
    return namespace.forget_checksums(txn, inode)
