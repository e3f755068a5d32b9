"""Buckets: the directories at the root, each bound to a place in a store.

Configured buckets exist because the configuration says so; others are made and removed by clients
under the store that is marked creatable. Blocking, thread-safe.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from cache import dirty, names, namespace
from cache.config import BucketConfig, ConfigError, VolumeConfig
from cache.errors import (
    BucketExists,
    BucketNotEmpty,
    InvalidName,
    NoSuchBucket,
    NotPermitted,
    StoreNotCreatable,
    StoreUnavailable,
)
from cache.index import Index, Table, Txn
from cache.records import ROOT, Bucket, Inode, Kind, WriteMode, unpack
from cache.stores.base import Store, StoredAttributes
from cache.stores.prefixed import Prefixed

_NAME = re.compile(r"^(?!xn--)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")


class Buckets:
    def __init__(self, index: Index, config: VolumeConfig, stores: Mapping[str, Store]) -> None:
        self._index = index
        self._config = config
        self._configured = {bucket.name: bucket for bucket in config.buckets}
        self._stores = stores
        self._views: dict[str, Store] = {}
        self.persist: Callable[[namespace.Place], None] = _nobody_persists
        """Makes the store agree about a name; given by the volume, which is made of both."""
        for bucket in config.buckets:
            if bucket.store not in stores:
                raise ConfigError(f"bucket {bucket.name}: store {bucket.store!r} is not configured")
        index.commit(namespace.ensure_root)
        self._make_configured()

    def _make_configured(self) -> None:
        present = {bucket.name for bucket in self.list()}
        for bucket in self._configured.values():
            if bucket.name not in present:
                self._make_missing(bucket.name, bucket.store, bucket.prefix)

    def _make_missing(self, name: str, store: str, location: str) -> None:
        """Enter a bucket that exists already, unless another process was faster."""

        def change(txn: Txn) -> None:
            if txn.record(Table.BUCKETS, name.encode(), Bucket) is None:
                _make(txn, name, store, location, "", listed=False)

        self._index.commit(change)

    def list(self) -> list[Bucket]:
        """All buckets, by name."""
        with self._index.read() as txn:
            return [unpack(value, Bucket) for _, value in txn.scan(Table.BUCKETS)]

    def get(self, name: str) -> Bucket:
        """NoSuchBucket. Inline: does not block."""
        with self._index.read() as txn:
            return self.find(txn, name)

    def find(self, txn: Txn, name: str) -> Bucket:
        bucket = txn.record(Table.BUCKETS, name.encode(), Bucket)
        if bucket is None:
            raise NoSuchBucket(name)
        return bucket

    def of_root(self, txn: Txn, root: int) -> Bucket:
        """The bucket whose root directory has this inode id."""
        return self.find(txn, namespace.get(txn, root).name[:-1].decode())

    def create(self, name: str, owner: str) -> Bucket:
        """BucketExists (with its owner), StoreNotCreatable, InvalidName."""
        if not _NAME.match(name) or re.match(r"^\d+\.\d+\.\d+\.\d+$", name):
            raise InvalidName(f"not a bucket name: {name}")
        store = self._config.creatable_store
        if store is None:
            raise StoreNotCreatable("no store is marked creatable")

        def change(txn: Txn) -> Bucket:
            found = txn.record(Table.BUCKETS, name.encode(), Bucket)
            if found is not None:
                raise BucketExists(name, found.owner)
            return _make(txn, name, store, name + "/", owner, listed=not left_over)

        # Asked first: the place may hold objects, and a store that does not answer gets no bucket.
        place = name.encode() + b"/"
        left_over = bool(self._stores[store].list(place, delimiter=False, limit=2).entries)
        bucket = self._index.commit(change)
        self._stores[store].put(place, (), 0, StoredAttributes(kind=Kind.DIRECTORY, mode=0o755))
        return bucket

    def adopt(self) -> int:
        """Make buckets of what lies at the top of the creatable store, so that they are there
        after the index is lost; their number. StoreError when the store does not answer."""
        store = self._config.creatable_store
        if store is None:
            return 0
        found = 0
        present = {bucket.name for bucket in self.list()}
        marker = b""
        while True:
            page = self._stores[store].list(b"", delimiter=True, marker=marker)
            for entry in page.entries:
                name = entry.key.removesuffix(b"/").decode("utf-8", "replace")
                if entry.key.endswith(b"/") and _NAME.match(name) and name not in present:
                    self._make_missing(name, store, name + "/")
                    found += 1
            if page.next_marker is None:
                return found
            marker = page.next_marker

    def delete(self, name: str) -> None:
        """NoSuchBucket, BucketNotEmpty, NotPermitted for a configured one; a StoreError if what
        was deleted in it cannot be deleted in the store first, from where it would come back into
        a new bucket of the name. The caller has made sure that the root directory is known
        (discovery)."""
        if name in self._configured:
            raise NotPermitted(f"bucket {name} is part of the configuration")
        store = self._stores[self.get(name).store]
        while True:
            with self._index.read() as txn:
                root = self._empty_root(txn, name)
                waiting = dirty.waiting_in(txn, root.id)
                seen = dirty.last_sequence(txn)
            for entry in waiting:
                self.persist(namespace.Place(entry.bucket, entry.parent, entry.name))
            if not waiting and self._index.commit(
                partial(self._remove, name=name, seen=seen), grows=False
            ):
                store.delete(name.encode() + b"/")
                return

    @staticmethod
    def _empty_root(txn: Txn, name: str) -> Inode:
        bucket = txn.record(Table.BUCKETS, name.encode(), Bucket)
        if bucket is None:
            raise NoSuchBucket(name)
        root = namespace.get(txn, bucket.root)
        uploads = name.encode() + b"\0"
        if not names.is_empty(txn, root.id) or any(txn.scan(Table.UPLOADS, uploads, uploads)):
            raise BucketNotEmpty(name)
        return root

    def _remove(self, txn: Txn, name: str, seen: bytes) -> bool:
        """False if a name of the bucket waits in the queue, put there after `seen`."""
        root = self._empty_root(txn, name)
        if dirty.waiting_in(txn, root.id, since=seen):
            return False
        namespace.leave(txn, ROOT, root.name, root)
        txn.delete(Table.BUCKETS, name.encode())
        return True

    def update_settings(self, name: str, **documents: bytes | None) -> Bucket:
        """Set or, with None, remove documents that a front end keeps with the bucket."""

        def change(txn: Txn) -> Bucket:
            bucket = self.find(txn, name)
            settings = {k: v for k, v in (bucket.settings | documents).items() if v is not None}
            bucket = msgspec.structs.replace(bucket, settings=settings)
            txn.put_record(Table.BUCKETS, name.encode(), bucket)
            return bucket

        return self._index.commit(change)

    def config(self, bucket: Bucket) -> BucketConfig:
        """The configuration of a bucket; that of the creatable store for one made by a client."""
        found = self._configured.get(bucket.name)
        if found is None:
            found = BucketConfig(
                bucket.name,
                bucket.store,
                bucket.location,
                write_mode=self._config.creatable_write_mode,
            )
        return found

    def mode_of(self, bucket: Bucket, key: bytes) -> WriteMode:
        """How writes of a key are acknowledged; the longest configured prefix wins."""
        config = self.config(bucket)
        matching = [p for p in config.prefixes if key.startswith(p.prefix.encode())]
        if matching:
            return max(matching, key=lambda p: len(p.prefix)).write_mode
        return config.write_mode

    def modes_below(self, bucket: Bucket, prefix: bytes) -> set[WriteMode]:
        """All modes that keys with this prefix may have."""
        inner = (p for p in self.config(bucket).prefixes if p.prefix.encode().startswith(prefix))
        return {self.mode_of(bucket, prefix), *(p.write_mode for p in inner)}

    def check_writable(self, bucket: Bucket) -> None:
        """NotPermitted in a bucket that is configured read_only."""
        if self.config(bucket).read_only:
            raise NotPermitted(f"bucket {bucket.name} is read-only")

    def store(self, bucket: Bucket) -> Store:
        """The bucket's part of its store."""
        view = self._views.get(bucket.name)
        if view is None:
            store = self._stores[bucket.store]
            view = Prefixed(store, bucket.location.encode()) if bucket.location else store
            self._views[bucket.name] = view
        return view


def _nobody_persists(place: namespace.Place) -> None:
    raise StoreUnavailable(f"nobody here persists {place.name!r}")


def _make(txn: Txn, name: str, store: str, location: str, owner: str, *, listed: bool) -> Bucket:
    now = time.time_ns()
    root = namespace.new_inode(txn, Kind.DIRECTORY, mode=0o755, uid=0, gid=0, now_ns=now)
    root = msgspec.structs.replace(root, listed_ns=now if listed else 0)
    namespace.enter(txn, ROOT, name.encode() + b"/", root)
    bucket = Bucket(name, root.id, store, location, now, owner)
    txn.put_record(Table.BUCKETS, name.encode(), bucket)
    return bucket
