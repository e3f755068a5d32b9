"""A volume to test: small segments, a directory as its store, and the verbs that tests repeat."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import namespace
from cache.config import MIB, BucketConfig, CacheConfig, PrefixMode, VolumeConfig
from cache.errors import StoreNotFound
from cache.files import SetAttributes
from cache.index import Table, Txn
from cache.publishing import Check, Object
from cache.records import (
    ROOT,
    Inode,
    Kind,
    ObjectAttributes,
    Part,
    UploadRecord,
    WriteMode,
    unpack,
)
from cache.recovery import Report
from cache.stores.base import Store, StoredObject
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from tests.support.fault_store import FaultStore

BUCKET = "bucket"
DRAIN_DEADLINE_S = 60.0


def some_bytes(size: int, seed: object = 0) -> bytes:
    """Bytes that do not repeat, the same for the same seed."""
    return random.Random(f"{seed}/{size}").randbytes(size)


class TestVolume:
    """An open Volume with one bucket, `bucket`; every path below `root`, nothing elsewhere."""

    __test__ = False

    def __init__(
        self,
        root: Path,
        *,
        write_mode: WriteMode = WriteMode.WRITE_BACK,
        revalidate: str = "never",
        prefixes: tuple[PrefixMode, ...] = (),
        store: Store | None = None,
        read_only: bool = False,
        **cache: object,
    ) -> None:
        self.store_dir = root / "store"
        self.store_dir.mkdir(parents=True, exist_ok=True)
        settings: dict[str, object] = {
            "capacity_bytes": 64 * MIB,
            "segment_bytes": MIB,
            "index_bytes": 64 * MIB,
            "persist_delay_ms": 0,
            "sync": False,
        }
        self.config = VolumeConfig(
            cache=CacheConfig(state_dir=root / "state", **(settings | cache)),  # type: ignore[arg-type]
            buckets=(
                BucketConfig(
                    BUCKET,
                    "store",
                    write_mode=write_mode,
                    revalidate=revalidate,
                    prefixes=prefixes,
                    read_only=read_only,
                ),
            ),
        )
        self._own_store = store is None
        inner = PosixStore(PosixStoreConfig(path=self.store_dir)) if store is None else store
        self.store = FaultStore(inner)
        self.volume = self._open()

    def _open(self) -> Volume:
        volume = Volume.open(self.config, {"store": self.store})
        self.store.calls.clear()  # a bucket that the index does not know was looked up just now
        # What the mover does when it starts.
        volume.reclaimer.seal_abandoned()
        volume.reclaimer.drop_unknown_files()
        return volume

    @property
    def root(self) -> int:
        """Inode id of the bucket's directory."""
        return self.volume.buckets.get(BUCKET).root

    def close(self) -> None:
        self.volume.close()
        self.store.before = self.store.after = lambda operation, key: None
        if self._own_store:
            self.store.close()

    def restart(self) -> None:
        """Close the volume and open it again over what is on the disks."""
        self.volume.close()
        self.volume = self._open()

    def forget_all(self) -> None:
        """Lose the whole cache, the index with it: only the store is left."""
        self.volume.close()
        shutil.rmtree(self.config.cache.state_dir)
        self.volume = self._open()

    # ------------------------------------------------------------------ the S3 door

    def put(
        self,
        key: bytes,
        data: bytes = b"",
        *,
        attributes: ObjectAttributes | None = None,
        check: Check | None = None,
        chunk_bytes: int = 1 << 16,
    ) -> Object:
        writer = self.volume.objects.writer(BUCKET, key, size_bytes=len(data))
        try:
            for start in range(0, len(data), chunk_bytes):
                writer.write(data[start : start + chunk_bytes])
            return writer.commit(
                etag=hashlib.md5(data).hexdigest(),
                attributes=attributes or ObjectAttributes(),
                check=check,
            )
        finally:
            writer.abort()

    def get(self, key: bytes, start: int = 0, stop: int | None = None) -> bytes:
        found, snapshot = self.volume.objects.open(BUCKET, key)
        with snapshot:
            assert snapshot.size == found.size
            return snapshot.read(start, snapshot.size if stop is None else stop)

    def send_part(self, upload: UploadRecord, number: int, data: bytes) -> Part:
        """A part of a multipart upload; its ETag is `e` and the number."""
        writer = self.volume.uploads.part_writer(upload, number, size_bytes=len(data))
        try:
            writer.write(data)
            return writer.commit(etag=f"e{number}", checksums={})
        finally:
            writer.abort()

    def delete(self, key: bytes) -> None:
        self.volume.objects.delete(BUCKET, key)

    def listed(self, prefix: bytes = b"", delimiter: bytes = b"") -> list[bytes]:
        listing = self.volume.objects.list(
            BUCKET, prefix=prefix, delimiter=delimiter, limit=100_000
        )
        return [entry.key for entry in listing.entries]

    # ------------------------------------------------------------------ the POSIX door

    def inode(self, path: bytes) -> Inode:
        """What the mount shows under a path in the bucket; b"" is the bucket itself."""
        found = self.volume.files.get(self.root)
        for name in path.split(b"/") if path else ():
            found = self.volume.files.lookup(found.id, name)
        return found

    def parent_of(self, path: bytes) -> tuple[int, bytes]:
        """(inode of the directory, name). NotADirectory, as the kernel would find."""
        above, _, name = path.rpartition(b"/")
        return namespace.require_directory(self.inode(above)).id, name

    def create(
        self, path: bytes, kind: Kind = Kind.FILE, *, target: bytes = b"", mode: int = 0o644
    ) -> Inode:
        parent, name = self.parent_of(path)
        return self.volume.files.create(
            parent, name, kind=kind, mode=mode, uid=0, gid=0, target=target
        )

    def mkdir(self, path: bytes) -> Inode:
        return self.create(path, Kind.DIRECTORY, mode=0o755)

    def write(self, path: bytes, data: bytes, start: int = 0) -> None:
        """Write and close; the file must exist."""
        file = self.volume.open_files.open(self.inode(path).id, write=True)
        try:
            file.write(start, data)
            file.flush()
        finally:
            file.release()

    def read(self, path: bytes, start: int = 0, length: int = 1 << 30) -> bytes:
        file = self.volume.open_files.open(self.inode(path).id, write=False)
        try:
            return file.read(start, length)
        finally:
            file.release()

    def unlink(self, path: bytes) -> None:
        self.volume.files.unlink(*self.parent_of(path))

    def rmdir(self, path: bytes) -> None:
        self.volume.files.rmdir(*self.parent_of(path))

    def rename(self, old: bytes, new: bytes, **options: bool) -> None:
        self.volume.renames.rename(*self.parent_of(old), *self.parent_of(new), **options)

    def link(self, old: bytes, new: bytes) -> None:
        self.volume.files.link(self.inode(old).id, *self.parent_of(new))

    def chmod(self, path: bytes, mode: int) -> None:
        self.volume.files.set_attributes(self.inode(path).id, SetAttributes(mode=mode))

    def names(self, path: bytes = b"") -> list[bytes]:
        """readdir."""
        return [n for n, _ in self.volume.files.entries(self.inode(path).id, b"", 1 << 20)]

    # ------------------------------------------------------------------ housekeeping

    def drain(self) -> None:
        """Persist until nothing waits; fails with what is left at the deadline."""
        queue = self.volume.queue
        end = time.monotonic() + DRAIN_DEADLINE_S
        while True:
            started = queue.run_once(hurry=True)
            while not queue.is_idle():
                assert time.monotonic() < end, queue.backlog()
                time.sleep(0.0005)
            backlog = queue.backlog()
            if not started and not backlog.names:
                return
            assert time.monotonic() < end, backlog

    def evict(self) -> None:
        """Drop every clean byte from the cache."""
        self.volume.segments.close()
        self.volume.reclaimer.seal_abandoned()
        self.volume.reclaimer.evict_all()

    def reap(self) -> int:
        """Remove what has no name and is not open: an orphan dies in the second pass."""
        reaped = 0
        for _ in range(2):
            held = self.volume.open_files.held() | self.volume.files.held()
            reaped += self.volume.reaper.run_as_mount(held)
        return reaped

    def age(self) -> None:
        """As if every directory had been listed long ago."""

        def change(txn: Txn) -> None:
            for _, value in list(txn.scan(Table.INODES)):
                inode = unpack(value, Inode)
                if inode.is_dir and inode.listed_ns and inode.id != ROOT:
                    namespace.update(txn, inode, listed_ns=1)

        self.volume.index.commit(change)

    def fsck(self, *, read_data: bool = False) -> Report:
        return self.volume.fsck.run(read_data=read_data)

    def check(self) -> None:
        """fsck with data finds nothing."""
        assert self.fsck(read_data=True).problems == []

    # ------------------------------------------------------------------ the store

    def stored(self) -> dict[bytes, StoredObject]:
        """Everything in the store, directory markers included."""
        found: dict[bytes, StoredObject] = {}
        marker = b""
        while True:
            page = self.store.store.list(b"", delimiter=False, marker=marker)
            found |= {e.key: e for e in page.entries if isinstance(e, StoredObject)}
            if page.next_marker is None:
                return found
            marker = page.next_marker

    def stored_bytes(self, key: bytes) -> bytes:
        head = self.store.store.head(key)
        return b"".join(self.store.store.read(key, 0, head.size_bytes, head.version))

    def is_stored(self, key: bytes) -> bool:
        try:
            self.store.store.head(key)
        except StoreNotFound:
            return False
        return True


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestVolume]:
    """A volume in write_back."""
    volume = TestVolume(tmp_path)
    yield volume
    volume.close()


@pytest.fixture
def through(tmp_path: Path) -> Iterator[TestVolume]:
    """A volume in write_through."""
    volume = TestVolume(tmp_path, write_mode=WriteMode.WRITE_THROUGH)
    yield volume
    volume.close()
