"""The inodes that are open through the mount: one OpenFile each, however often it is open.

Only the mount process uses this. What an open file does is in cache/open_file.py. Blocking but for
what ends in `_now`, thread-safe.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from cache import namespace, retention
from cache.admission import Admission
from cache.buckets import Buckets
from cache.contents import Contents
from cache.errors import CacheError, IsADirectory, SealedContent
from cache.fetch import Fetcher
from cache.index import Index, Table
from cache.open_file import OpenFile
from cache.persist import Persister
from cache.records import Inode
from cache.running_md5 import EarlyRoom
from cache.segments import Segments

log = logging.getLogger(__name__)


class OpenFiles:
    def __init__(
        self,
        index: Index,
        segments: Segments,
        contents: Contents,
        buckets: Buckets,
        fetcher: Fetcher,
        persister: Persister,
        admission: Admission,
    ) -> None:
        self.index = index
        self.segments = segments
        self.contents = contents
        self.buckets = buckets
        self.fetcher = fetcher
        self.persister = persister
        self.admission = admission
        self.hashing = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="md5")
        self.early = EarlyRoom()
        self._lock = threading.Lock()
        self._open: dict[int, OpenFile] = {}

    def open(self, inode: int, *, write: bool) -> OpenFile:
        """The inode's OpenFile, counted; release() it once for each open. NoSuchInode,
        IsADirectory, NotPermitted in a read-only bucket, ObjectLocked, SealedContent."""
        # Looked up under the lock: else its last user may publish and close in between, and this
        # one would go on with what the file was before.
        with self._lock, self.index.read() as txn:
            record = namespace.get(txn, inode)
            if record.is_dir:
                raise IsADirectory(f"inode {inode}")
            if record.overhead:
                # Without the client's request there is no key, and no word on who may use one.
                log.warning("inode %d (%r) is encrypted: only S3 reads it", inode, record.name)
                raise SealedContent(f"inode {inode} is encrypted")
            if write and record.nlink:
                root = namespace.bucket_of(txn, record.parent)
                self.buckets.check_writable(self.buckets.of_root(txn, root))
                attributes = namespace.object_attributes(txn, record)
                retention.check_removable(attributes, bypass=False)
            found = self._open.get(inode)
            if found is None:
                inline = txn.get(Table.INLINE, namespace.key_bytes(inode))
                found = self._open[inode] = OpenFile(self, record, inline or b"")
            found.users += 1
            return found

    def release(self, file: OpenFile) -> None:
        """Count down; the last one publishes what is left and forgets the file."""
        with self._lock:
            file.users -= 1
            if file.users:
                return
        try:
            file.publish()
        except CacheError as exc:
            # Nobody hears of an error here: close(2) has published before. What is left is what
            # the kernel handed over later, of a mapping that outlived its descriptor.
            log.error("the last bytes written to inode %d are lost: %s", file.inode_id, exc)
            raise
        finally:
            with self._lock:
                if not file.users:
                    self._open.pop(file.inode_id, None)
                    file.give_up()

    def close(self) -> None:
        """No file is written any more."""
        self.hashing.shutdown()

    def held(self) -> set[int]:
        """Inodes that are open."""
        with self._lock:
            return set(self._open)

    @contextlib.contextmanager
    def _opened(self, inode: int) -> Iterator[OpenFile]:
        file = self.open(inode, write=True)
        try:
            yield file
        finally:
            self.release(file)

    def truncate(self, inode: int, size: int, *, touches: bool = False) -> Inode:
        """See OpenFile.truncate."""
        with self._opened(inode) as file:
            return file.truncate(size, touches=touches)

    def is_open(self, inode: int) -> bool:
        return inode in self._open

    def size_of(self, inode: Inode) -> Inode:
        """The attributes with what is written and not published yet."""
        file = self._open.get(inode.id)
        return inode if file is None else file.attributes(inode)

    def release_now(self, file: OpenFile) -> bool:
        """As release, where nothing is left to publish. Never blocks; False: nothing was done."""
        with self._lock:
            if file.users == 1:
                if file.may_change():
                    return False
                self._open.pop(file.inode_id, None)
                file.give_up()
            file.users -= 1
            return True

    def set_mtime_now(self, inode: int, mtime_ns: int) -> bool:
        """Give a file with unpublished bytes the time that it is to have; its publication, which
        is to come, makes that durable. Never blocks; False: nothing was done, use set_mtime."""
        file = self._open.get(inode)
        return file is not None and file.set_mtime_now(mtime_ns)

    def set_mtime(self, inode: int, mtime_ns: int) -> None:
        """The time that the next publication of an open file gives it; Files.set_attributes is
        for what is published. What is written from then on leaves it: the kernel tells the time of
        every write, and may do so before the write itself comes."""
        with self._lock:
            file = self._open.get(inode)
        if file is not None:
            file.set_mtime(mtime_ns)
