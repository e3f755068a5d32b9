"""Buckets: the directories at the root, each bound to a place in a store.

Configured buckets exist because the configuration says so; others are made and removed by clients
under the store that is marked creatable. What a bucket is beyond its objects (its owner, and the
settings that front ends keep with it) is in the index, and in the store, from where it is read
when the index does not know the bucket (`cache/bucket_documents.py`). Blocking, thread-safe.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache, partial

import msgspec

from cache import bucket_documents, dirty, names, namespace
from cache.bucket_documents import Kept
from cache.config import BucketConfig, ConfigError, VolumeConfig
from cache.errors import (
    BucketExists,
    BucketNotEmpty,
    InvalidName,
    NoSuchBucket,
    NotPermitted,
    StoreError,
    StoreNotCreatable,
    StoreUnavailable,
)
from cache.index import Index, Table, Txn
from cache.locks import NodeLocks
from cache.records import ROOT, Bucket, Inode, Kind, WriteMode, unpack
from cache.stores.base import Store, StoredAttributes
from cache.stores.bucket_part import BucketPart

log = logging.getLogger(__name__)

Changes = Mapping[str, bytes | None]
"""Documents of a bucket by name: their new text (UTF-8), or None to remove them."""

_NAME = re.compile(r"^(?!xn--)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")


class Buckets:
    def __init__(
        self, index: Index, config: VolumeConfig, stores: Mapping[str, Store], locks: NodeLocks
    ) -> None:
        self._index = index
        self._locks = locks
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
                with self._hold_settings(bucket.name):
                    self._make_missing(bucket.name, bucket.store, bucket.prefix)

    def _make_missing(self, name: str, store: str, location: str) -> None:
        """Under the lock of its settings: enter a bucket that exists already, unless another
        process was faster. If its store does not say what its settings are, nobody gets at it
        before it does (get)."""
        try:
            kept = bucket_documents.read(self._stores[store], location.encode())
            unread = False
        except StoreError as exc:
            log.warning("bucket %s: its settings cannot be read yet: %s", name, exc)
            kept, unread = Kept(), True

        def change(txn: Txn) -> None:
            if txn.record(Table.BUCKETS, name.encode(), Bucket) is None:
                bucket = _make(txn, name, store, location, kept, listed=False)
                if unread:
                    bucket = msgspec.structs.replace(bucket, unread=True)
                    txn.put_record(Table.BUCKETS, name.encode(), bucket)

        self._index.commit(change)

    def read_unread(self) -> int:
        """Read the settings of buckets whose store did not answer when they were entered; the
        number read. StoreError when one still does not."""
        unread = [bucket for bucket in self.list() if bucket.unread]
        for bucket in unread:
            with self._hold_settings(bucket.name):
                self._read_now(bucket)
        return len(unread)

    def _read_now(self, bucket: Bucket) -> None:
        kept = bucket_documents.read(self._stores[bucket.store], bucket.location.encode())

        def change(txn: Txn) -> None:
            found = txn.record(Table.BUCKETS, bucket.name.encode(), Bucket)
            if found is not None and found.unread and found.root == bucket.root:
                found = msgspec.structs.replace(
                    found,
                    owner=kept.owner,
                    created_ns=kept.created_ns or found.created_ns,
                    settings=kept.settings,
                    unread=False,
                )
                txn.put_record(Table.BUCKETS, found.name.encode(), found)

        self._index.commit(change)

    def list(self) -> list[Bucket]:
        """All buckets, by name."""
        with self._index.read() as txn:
            return [unpack(value, Bucket) for _, value in txn.scan(Table.BUCKETS)]

    def get(self, name: str) -> Bucket:
        """NoSuchBucket; StoreUnavailable while its settings could not be read from its store.
        Inline: does not block."""
        with self._index.read() as txn:
            return self.find(txn, name)

    def find(self, txn: Txn, name: str) -> Bucket:
        """As get."""
        bucket = _recorded(txn, name)
        if bucket.unread:
            raise StoreUnavailable(f"the settings of bucket {name} could not be read yet")
        return bucket

    def of_root(self, txn: Txn, root: int) -> Bucket:
        """The bucket whose root directory has this inode id."""
        return _recorded(txn, namespace.get(txn, root).name[:-1].decode())

    def create(self, name: str, owner: str, settings: Mapping[str, bytes] | None = None) -> Bucket:
        """BucketExists (with its owner), StoreNotCreatable, InvalidName; a StoreError if the store
        cannot note the bucket. settings: documents that it has from the start."""
        check_bucket_name(name)
        store = self._config.creatable_store
        if store is None:
            raise StoreNotCreatable("no store is marked creatable")

        kept = Kept(owner, time.time_ns(), dict(settings or {}))

        def change(txn: Txn) -> Bucket:
            found = txn.record(Table.BUCKETS, name.encode(), Bucket)
            if found is not None:
                raise BucketExists(name, found.owner)
            return _make(txn, name, store, place.decode(), kept, listed=not left_over)

        place = name.encode() + b"/"
        with self._hold_settings(name):
            with self._index.read() as txn:
                found = txn.record(Table.BUCKETS, name.encode(), Bucket)
                linked = txn.get(Table.BUCKET_LINKS, name.encode()) is not None
            if found is not None or linked:
                raise BucketExists(name, "" if found is None else found.owner)
            # Asked first: the place may hold objects, and a store that does not answer gets no
            # bucket.
            left_over = bool(self._stores[store].list(place, delimiter=False, limit=2).entries)
            directory = StoredAttributes(kind=Kind.DIRECTORY, mode=0o755)
            self._stores[store].put(place, (), 0, directory)
            made = Bucket(name, 0, store, place.decode(), kept.created_ns, owner, kept.settings)
            if self._persists(made):
                bucket_documents.write(self._stores[store], made)
            return self._index.commit(change)

    @property
    def are_unknown(self) -> bool:
        """Whether the creatable store may have buckets and none is known: so in a new index."""
        if self._config.creatable_store is None:
            return False
        return all(bucket.name in self._configured for bucket in self.list())

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
                    found += self._adopt(name, store)
            if page.next_marker is None:
                return found
            marker = page.next_marker

    def _adopt(self, name: str, store: str) -> bool:
        """Unless it was being deleted when it was found."""
        place = name + "/"
        with self._hold_settings(name):
            if not self._stores[store].list(place.encode(), delimiter=False, limit=1).entries:
                return False
            self._make_missing(name, store, place)
        return True

    def delete(self, name: str) -> None:
        """NoSuchBucket, BucketNotEmpty, NotPermitted for a configured one; a StoreError if what
        was deleted in it cannot be deleted in the store first, from where it would come back into
        a new bucket of the name. The caller has made sure that the root directory is known
        (discovery)."""
        if name in self._configured:
            raise NotPermitted(f"bucket {name} is part of the configuration")
        bucket = self.get(name)
        store = self._stores[bucket.store]
        self._drop_versions_place(bucket)
        while True:
            with self._index.read() as txn:
                root = self._empty_root(txn, name)
                waiting = dirty.waiting_in(txn, root.id)
                seen = dirty.last_sequence(txn)
            for entry in waiting:
                self.persist(namespace.Place(entry.bucket, entry.parent, entry.name))
            if waiting:
                continue
            with self._hold_settings(name):
                removed = partial(self._remove, name=name, seen=seen)
                if self._index.commit(removed, grows=False):
                    bucket_documents.remove(store, bucket)
                    store.delete(name.encode() + b"/")
                    return

    def _drop_versions_place(self, bucket: Bucket) -> None:
        """The hidden directories of versions that were removed are removed behind these, by the
        persister: have it done now, unless there are versions."""
        with self._index.read() as txn:
            hidden = names.find(txn, bucket.root, names.VERSIONS)
            if hidden is None or _holds_files(txn, hidden.inode):
                return
            waiting = dirty.waiting_in(txn, bucket.root)
        for entry in waiting:
            self.persist(namespace.Place(entry.bucket, entry.parent, entry.name))

    @staticmethod
    def _empty_root(txn: Txn, name: str) -> Inode:
        root = namespace.get(txn, _recorded(txn, name).root)
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

    def change_settings(self, name: str, changes: Changes | Callable[[Bucket], Changes]) -> Bucket:
        """Change documents that a front end keeps with a bucket; the bucket as it is then.

        The one way to change a bucket's settings: it persists them. They are in the bucket's
        store when this returns, and come back when the index is lost; if the store does not take
        them, nothing is changed. (Not of a read_only or transient bucket, whose store is not
        written: theirs are in the index only.)

        changes: new texts by name, UTF-8, None to remove one; or a function of the bucket as it
        is, which may raise to stop the change: nobody else changes the bucket meanwhile. Blocks.
        NoSuchBucket, StoreError, DeadlineExceeded."""
        with self._hold_settings(name):
            before = self.get(name)
            documents = changes(before) if callable(changes) else changes
            settings = {k: v for k, v in {**before.settings, **documents}.items() if v is not None}
            if settings == before.settings:
                return before
            changed = msgspec.structs.replace(before, settings=settings)
            if self._persists(changed):
                bucket_documents.write(self._stores[changed.store], changed)

            def change(txn: Txn) -> None:
                if self.find(txn, name).root != before.root:
                    raise NoSuchBucket(name)
                txn.put_record(Table.BUCKETS, name.encode(), changed)

            self._index.commit(change)
            return changed

    def _hold_settings(self, name: str) -> AbstractContextManager[bool]:
        deadline_s = self._config.cache.fetch_deadline_s
        return self._locks.hold("settings", name, deadline_s=deadline_s)

    def _persists(self, bucket: Bucket) -> bool:
        """Whether the bucket's store is ever written."""
        config = self.config(bucket)
        return not config.read_only and config.write_mode.persists

    def config(self, bucket: Bucket) -> BucketConfig:
        """The configuration of a bucket; that of the creatable store for one made by a client."""
        found = self._configured.get(bucket.name)
        if found is None:
            mode = self._config.creatable_write_mode
            found = _config_of_creatable(bucket.name, bucket.store, bucket.location, mode)
        return found

    def mode_of(self, bucket: Bucket, key: bytes) -> WriteMode:
        """How writes of a key are acknowledged; the longest configured prefix wins. A version's
        are those of its key."""
        key = key.removeprefix(names.VERSIONS)
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

    def check_changeable(self, txn: Txn, inode: Inode) -> None:
        """NotPermitted for what is in a read-only bucket."""
        if inode.id != ROOT and inode.nlink:
            root = inode.id if inode.parent == ROOT else namespace.bucket_of(txn, inode.parent)
            self.check_writable(self.of_root(txn, root))

    def store(self, bucket: Bucket) -> Store:
        """The bucket's part of its store: its objects, by their keys."""
        view = self._views.get(bucket.name)
        if view is None:
            view = BucketPart(self._stores[bucket.store], bucket.location.encode())
            self._views[bucket.name] = view
        return view

    def open_stores(self) -> None:
        """Have each store opened that waits for its first use (node/volumes.py), so that no
        request waits for its client to load. Blocks."""
        for name, store in self._stores.items():
            try:
                log.debug("store %s is open: %s", name, store.capabilities)
            except StoreError as exc:
                log.warning("store %s: %s", name, exc)


def _recorded(txn: Txn, name: str) -> Bucket:
    value = txn.get(Table.BUCKETS, name.encode())
    if value is None:
        raise NoSuchBucket(name)
    return _decoded(value)


@lru_cache(1024)
def _decoded(value: bytes) -> Bucket:
    """Every request asks for its bucket several times, and a bucket may have a long policy."""
    return unpack(value, Bucket)


@lru_cache(1024)
def _config_of_creatable(name: str, store: str, location: str, mode: WriteMode) -> BucketConfig:
    return BucketConfig(name, store, location, write_mode=mode)


def _holds_files(txn: Txn, directory: int) -> bool:
    """Whether anything but directories is below a directory."""
    return any(
        dentry.kind != Kind.DIRECTORY or _holds_files(txn, dentry.inode)
        for _, dentry in names.scan(txn, directory)
    )


def _nobody_persists(place: namespace.Place) -> None:
    raise StoreUnavailable(f"nobody here persists {place.name!r}")


def _make(txn: Txn, name: str, store: str, location: str, kept: Kept, *, listed: bool) -> Bucket:
    now = time.time_ns()
    root = namespace.new_inode(txn, Kind.DIRECTORY, mode=0o755, uid=0, gid=0, now_ns=now)
    root = msgspec.structs.replace(root, listed_ns=now if listed else 0)
    namespace.enter(txn, ROOT, name.encode() + b"/", root)
    created_ns = kept.created_ns or now
    bucket = Bucket(name, root.id, store, location, created_ns, kept.owner, kept.settings)
    txn.put_record(Table.BUCKETS, name.encode(), bucket)
    return bucket


def check_bucket_name(name: str) -> None:
    """InvalidName unless a bucket may have this name."""
    if not _NAME.match(name) or re.match(r"^\d+\.\d+\.\d+\.\d+$", name):
        raise InvalidName(f"not a bucket name: {name}")
