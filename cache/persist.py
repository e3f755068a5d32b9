"""Making the store agree with the index, one name at a time.

persist(place) looks at both sides and does what is missing: upload, follow a rename, change
attributes, delete. It is convergent: repeating it, being killed in the middle of it, or two
processes racing for it end in the same state. Rules that keep it so:

- One process works on a key of the store at a time (node lock on bucket and key); renaming a
  directory excludes all other work in its bucket.
- Before a place in the store is written or deleted, whatever inode still has its bytes there
  although its name moved on (`away`) is brought home first. That holds for the directories on the
  way too: a renamed directory moves before anything is put where it was. Where renames form a
  circle, one inode steps aside under a name of its own.
- A deletion leaves a key alone that belongs to a live name.
- An upload is conditional on the version the index knew. If others changed the object meanwhile,
  theirs is kept under lost+found/ and ours takes the place.

Blocking, thread-safe. Raises StoreError classes; the caller retries (node/mover.py) or tells its
client (write_through).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import msgspec

from cache import dirty, extents, metrics, names, namespace
from cache.buckets import Buckets
from cache.config import CacheConfig
from cache.contents import Contents, chunks, is_dirty
from cache.discovery import Discovery
from cache.errors import (
    NoSuchBucket,
    NoSuchInode,
    StaleContent,
    StoreChanged,
    StoreNotFound,
    StoreUnavailable,
)
from cache.fetch import Fetcher
from cache.index import Index, Table, Txn
from cache.locks import NodeLocks
from cache.namespace import Place
from cache.records import (
    ROOT,
    Inode,
    InodeFlag,
    Kind,
    ObjectAttributes,
    QueueEntry,
    Stored,
    WriteMode,
)
from cache.stores.base import ABSENT, Store, StoredAttributes, StoredObject

log = logging.getLogger(__name__)

_LOOKS_MAX = 100
LOST_AND_FOUND = b"lost+found/"
_ASIDE = b".forebay-moving-"
_NOT_QUEUED = -1
"""As `touched` of a name that does not wait: no entry has it."""


@dataclass(slots=True)
class _Task:
    """What both sides say about a name, read in one transaction."""

    place: Place
    store: Store
    key: bytes  # in the store
    mode: WriteMode
    touched: int  # of the queue entry; _NOT_QUEUED clears none that came in meanwhile
    base: str  # version of what lies there, if that is not the inode's
    intent: bool  # see QueueEntry
    inode: Inode | None  # None: the name is gone
    attributes: ObjectAttributes
    foreign: int | None  # an inode whose bytes lie at this place, or above it, and must go first
    owned: bool  # the key is some live name's
    stepping: int | None  # the inode, if it was killed while it stepped aside


def stored_attributes(inode: Inode, attributes: ObjectAttributes) -> StoredAttributes:
    """What the store is told beside the bytes."""
    return StoredAttributes(
        kind=Kind(inode.kind),
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        mtime_ns=inode.mtime_ns,
        rdev=inode.rdev,
        symlink_target=inode.target if inode.kind == Kind.SYMLINK else None,
        content_type=attributes.content_type or None,
        headers=attributes.headers,
        metadata=attributes.metadata,
        tags=attributes.tags,
        s3_etag=inode.etag or None,
    )


def uploaded_attributes(attributes: ObjectAttributes, etag: str = "") -> StoredAttributes:
    """What the store is told with a body that passes through to it as it arrives from an S3
    client: nothing that is known only afterwards but the ETag. Mode, owner and time are left to
    the store's defaults, as any other S3 client leaves them."""
    return StoredAttributes(
        content_type=attributes.content_type or None,
        headers=attributes.headers,
        metadata=attributes.metadata,
        tags=attributes.tags,
        s3_etag=etag or None,
    )


class Persister:
    def __init__(
        self,
        index: Index,
        contents: Contents,
        buckets: Buckets,
        fetcher: Fetcher,
        discovery: Discovery,
        locks: NodeLocks,
        config: CacheConfig,
    ) -> None:
        self._index = index
        self._contents = contents
        self._buckets = buckets
        self._fetcher = fetcher
        self._discovery = discovery
        self._locks = locks
        self._deadline_s = config.fetch_deadline_s * 4

    def persist(self, place: Place, waiting: frozenset[int] = frozenset()) -> None:
        """Make the store agree about a name, and take it out of the queue.

        waiting: inodes that cannot move before this is done (see _bring_home)."""
        for _ in range(_LOOKS_MAX):
            try:
                task = self._look(place)
            except (NoSuchInode, NoSuchBucket):
                # The directory is gone and the reaper waited for its turn: nothing is left to do.
                self._index.commit(lambda txn: dirty.clear(txn, place.parent, place.name))
                return
            if task.foreign is not None:
                self._bring_home(task.foreign, waiting)
                continue
            if task.stepping is not None:
                self._step_aside(task.stepping, place.bucket)
                continue
            if task.inode is not None and task.inode.is_dir and self._has_moved(task):
                with self._locks.hold("bucket", place.bucket, deadline_s=self._deadline_s):
                    now = self._look(place)
                    done = self._still(task) and self._has_moved(now) and self._move_directory(now)
            else:
                with self._holding(place.bucket, task.key):
                    done = self._still(task) and self._reconcile(task)
            if done:
                return
        raise StoreUnavailable(f"{place.name!r} changes faster than it can be persisted")

    @contextlib.contextmanager
    def claiming(self, place: Place) -> Iterator[bytes]:
        """Hold the locks under which the object of a place is written, after whoever still has
        bytes there went home; yields its key in the store. Blocks."""
        for _ in range(_LOOKS_MAX):
            task = self._look(place)
            if task.foreign is not None:
                self._bring_home(task.foreign, frozenset())
                continue
            if task.inode is not None and task.inode.nlink > 1 and not task.inode.is_dir:
                self._take_along(task.inode, place)
            with self._holding(place.bucket, task.key):
                now = self._look(place)
                if now.key == task.key and now.foreign is None:
                    yield task.key
                    return
        raise StoreUnavailable(f"{place.name!r} changes faster than it can be written")

    @contextlib.contextmanager
    def _holding(self, bucket: int, key: bytes) -> Iterator[None]:
        """The locks under which one key of the store is written."""
        deadline_s = self._deadline_s
        with (
            self._locks.hold("bucket", bucket, shared=True, deadline_s=deadline_s),
            self._locks.hold("key", bucket, key, deadline_s=deadline_s),
        ):
            yield

    # ------------------------------------------------------------------ looking

    def _look(self, place: Place) -> _Task:
        """NoSuchInode, NoSuchBucket when the place itself is gone."""
        with self._index.read() as txn:
            return self._look_in(txn, place)

    def _look_in(self, txn: Txn, place: Place) -> _Task:
        entry = dirty.find(txn, place.parent, place.name)
        bucket = self._buckets.of_root(txn, place.bucket)
        _, index_key = namespace.path_of(txn, place.parent, place.name)
        key = namespace.store_path_of(txn, place.parent, place.name)
        dentry = names.find(txn, place.parent, place.name)
        inode = None if dentry is None else namespace.get(txn, dentry.inode)
        return _Task(
            place=place,
            store=self._buckets.store(bucket),
            key=key,
            mode=self._buckets.mode_of(bucket, index_key),
            touched=_NOT_QUEUED if entry is None else entry.touched,
            base="" if entry is None else entry.base,
            intent=entry is not None and entry.intent,
            inode=inode,
            attributes=namespace.NO_ATTRIBUTES
            if inode is None
            else namespace.object_attributes(txn, inode),
            foreign=namespace.in_the_way(txn, place, None if inode is None else inode.id),
            owned=namespace.store_owner(txn, place.bucket, key) is not None,
            stepping=None if inode is None else self._stepping(txn, place.bucket, inode),
        )

    @staticmethod
    def _stepping(txn: Txn, root: int, inode: Inode) -> int | None:
        """The inode's id if _step_aside was begun and not noted as done."""
        if inode.stored is None or inode.stored.name == _aside(inode):
            return None
        return inode.id if dirty.away_at(txn, root, _aside(inode)) == inode.id else None

    def _still(self, task: _Task) -> bool:
        """Whether what was seen before the lock was taken still holds."""
        now = self._look(task.place)
        if now.key != task.key or now.foreign is not None:
            return False
        if now.inode is None or task.inode is None:
            return now.inode is task.inode
        return now.inode.id == task.inode.id

    @staticmethod
    def _has_moved(task: _Task) -> bool:
        stored = task.inode.stored if task.inode else None
        return stored is not None and (stored.parent, stored.name) != (
            task.place.parent,
            task.place.name,
        )

    def _take_along(self, inode: Inode, place: Place) -> None:
        """Another name of the file is about to be all that is left of it, and its bytes in the
        store to be written over: have them here."""
        stored = inode.stored
        if stored is None or (stored.parent, stored.name) != (place.parent, place.name):
            return

        def mark(txn: Txn, current: Inode) -> None:
            for parent, name in namespace.links(txn, current):
                dirty.mark(txn, place.bucket, parent, name, current.size)

        self._keep_here(inode, mark)

    def _keep_here(self, inode: Inode, then: Callable[[Txn, Inode], None] | None = None) -> None:
        """Make the cache the one keeper of an inode's bytes: fetched, synced, and no longer the
        store's. StoreUnavailable if it cannot be done now."""
        if inode.kind == Kind.FILE:
            self._fetcher.fill_all(inode)
        snapshot = self._contents.open(inode.id)
        if snapshot is None:
            return

        def change(txn: Txn) -> None:
            current = namespace.get(txn, inode.id)
            here = extents.overlapping(txn, current.id)
            whole = current.kind != Kind.FILE or current.flags & InodeFlag.INLINE
            if not whole and (
                extents.holes(here, 0, current.size) or not snapshot.covers_segments_of(here)
            ):
                raise StoreUnavailable(f"inode {current.id} was evicted meanwhile")
            if current.stored is not None:
                dirty.come_home(txn, current.stored.parent, current.stored.name, current.id)
            current = namespace.update(txn, current, stored=None)
            if then is not None:
                then(txn, current)

        snapshot.warms = False
        with snapshot:
            self._index.commit(change, syncs=snapshot.syncs)

    def _bring_home(self, inode_id: int, waiting: frozenset[int]) -> None:
        """Persist an inode that is away under its present name, so that its old place is free.
        waiting: inodes whose own move waits for this one."""
        with self._index.read() as txn:
            try:
                inode = namespace.get(txn, inode_id)
            except NoSuchInode:
                return
            place = None
            below: list[QueueEntry] = []
            if inode.stored is not None and (inode.nlink or inode.is_dir):
                root = namespace.bucket_of(txn, inode.parent)
                place = Place(root, inode.parent, inode.name)
                below = [] if inode.nlink else dirty.entries_of(txn, inode_id)
        if place is None:
            self._forget_place(inode)
        elif inode_id in waiting:
            self._step_aside(inode_id, place.bucket)
        elif inode.nlink:
            self.persist(place, waiting | {inode_id})
        else:
            # A directory that was removed: with what waits below it, it leaves the store.
            for entry in below:
                self.persist(place_of(entry), waiting | {inode_id})
            self._forget_place(inode)

    def _step_aside(self, inode_id: int, root: int) -> None:
        """Names were exchanged, in a circle or with a directory's own child: nobody can go first.
        So one leaves its place in the store for a name of its own, until its turn comes."""
        with self._locks.hold("bucket", root, deadline_s=self._deadline_s):
            aside = self._index.commit(partial(self._plan_aside, inode_id=inode_id, root=root))
            if aside is None:
                return
            store, old, new = aside
            log.info("the store moves %r out of the way, to %r", old, new)
            found: StoredObject | None = None
            try:
                found = store.rename(old, new)
            except StoreNotFound:
                # Killed behind this rename the last time, or never persisted.
                with contextlib.suppress(StoreNotFound):
                    found = store.head(new)

            def change(txn: Txn) -> None:
                inode = namespace.get(txn, inode_id)
                assert inode.stored is not None
                dirty.come_home(txn, inode.stored.parent, inode.stored.name, inode_id)
                version = inode.stored.version if found is None else found.version
                stored = msgspec.structs.replace(
                    inode.stored, parent=root, name=new, version=version
                )
                namespace.update(txn, inode, stored=stored)

            self._index.commit(change)
            if new.endswith(b"/") and not store.capabilities.native_rename:
                self._learn_versions(root, store, new)

    def _plan_aside(self, txn: Txn, inode_id: int, root: int) -> tuple[Store, bytes, bytes] | None:
        """Note where the inode's bytes will be before they move; (store, from, to) in the store.
        The note's queue entry removes them from there should the inode vanish meanwhile."""
        inode = namespace.get(txn, inode_id)
        new = _aside(inode)
        if inode.stored is None or inode.stored.name == new:
            return None
        old = namespace.store_path_of(txn, inode.stored.parent, inode.stored.name)
        dirty.send_away(txn, root, new, inode_id)
        dirty.mark(txn, root, root, new, 0)
        return self._buckets.store(self._buckets.of_root(txn, root)), old, new

    def _forget_place(self, inode: Inode) -> None:
        """The inode no longer needs its bytes in the store: they are here, or unlinked."""

        def change(txn: Txn) -> None:
            current = namespace.get(txn, inode.id)
            if current.stored is not None:
                dirty.come_home(txn, current.stored.parent, current.stored.name, current.id)
                if current.nlink:
                    namespace.update(txn, current, stored=None)

        self._index.commit(change)

    # ------------------------------------------------------------------ doing

    def _reconcile(self, task: _Task) -> bool:
        """Under the key's lock; False when it must be looked at again."""
        task = self._look(task.place)
        if task.mode == WriteMode.TRANSIENT:
            if task.inode is not None and not task.inode.is_dir and self._has_moved(task):
                # Renamed from where things are persisted: what is here now stays here only.
                self._keep_here(task.inode)
            self._clear(task)
            return True
        if task.inode is None:
            return self._remove(task)
        inode = task.inode
        if inode.is_dir:
            return self._put_directory(task, inode)
        if inode.nlink > 1 and (inode.parent, inode.name) != (task.place.parent, task.place.name):
            self._upload(task, inode, expected=None)
            self._clear(task)
            return True
        if is_dirty(inode):
            return self._finish(task, inode, self._upload_checked(task, inode))
        if self._has_moved(task):
            return self._finish(task, inode, self._follow(task, inode))
        assert inode.stored is not None
        if inode.stored.attributes_revision != inode.attributes_revision:
            return self._change_attributes(task, inode)
        return self._verify(task, inode)

    def _remove(self, task: _Task) -> bool:
        if task.intent:
            return self._see_intent(task)
        if not task.owned:
            task.store.delete(task.key)
        elif task.base:
            self._index.commit(partial(self._hand_over, task=task), grows=False)
        self._clear(task)
        return True

    @staticmethod
    def _hand_over(txn: Txn, task: _Task) -> None:
        """The key is a live name's by now, in a directory that took the name of one that is gone:
        what lies there is what the live one is to replace."""
        owner = namespace.store_owner(txn, task.place.bucket, task.key)
        if owner is None:
            return
        inode = namespace.get(txn, owner)
        entry = dirty.find(txn, inode.parent, inode.name)
        if inode.stored is None and entry is not None and not entry.base:
            dirty.rebase(txn, inode.parent, inode.name, task.base)

    def _is_leftover(self, task: _Task, version: str) -> bool:
        """Whether an object was deleted here with its directory, and waits to be deleted there."""
        with self._index.read() as txn:
            for directory, _ in txn.scan(Table.ORPHANS):
                entry = dirty.find(txn, int.from_bytes(directory, "big"), task.place.name)
                if entry is not None and entry.base == version:
                    return True
        return False

    def _see_intent(self, task: _Task) -> bool:
        """An upload was begun and never came to the index: what the store has there, ours or not,
        counts. Nothing is removed."""
        found: StoredObject | None = None
        with contextlib.suppress(StoreNotFound):
            found = task.store.head(task.key)

        def change(txn: Txn) -> None:
            place = task.place
            cleared = dirty.clear(txn, place.parent, place.name, task.touched)
            if cleared and found is not None and namespace.get(txn, place.parent).nlink:
                self._discovery.adopt(txn, place, found)
            namespace.prune(txn, place.bucket, place.parent)

        self._index.commit(change, grows=False)
        self._look_for_more(task.place.parent)
        return True

    def _verify(self, task: _Task, inode: Inode) -> bool:
        """A clean name in the queue: a write_through was cut off between the store and the index.
        Nobody was told that it succeeded; the store has it, so it counts."""
        assert inode.stored is not None
        try:
            found = task.store.head(task.key)
        except StoreNotFound:
            return self._finish(task, inode, self._upload(task, inode, ABSENT))

        def change(txn: Txn) -> None:
            place = task.place
            if dirty.clear(txn, place.parent, place.name, task.touched):
                self._discovery.adopt(txn, place, found)

        self._index.commit(change)
        return True

    def _put_directory(self, task: _Task, inode: Inode) -> bool:
        if not inode.explicit and not task.store.capabilities.native_directories:
            if inode.stored is not None:
                task.store.delete(task.key)  # the marker that it had when it was explicit
                self._forget_place(inode)
            self._clear(task)
            return True
        if is_dirty(inode) or (
            inode.stored is not None
            and inode.stored.attributes_revision != inode.attributes_revision
        ):
            found = task.store.put(task.key, (), 0, stored_attributes(inode, task.attributes))
            return self._finish(task, inode, found)
        if inode.explicit and task.store.capabilities.native_directories:
            # Marked because something was put into it or taken out: its time again. If it is not
            # there, it is on its way to or from another name, and marked for that.
            with contextlib.suppress(StoreNotFound):
                task.store.set_attributes(task.key, stored_attributes(inode, task.attributes))
        self._clear(task)
        return True

    def _move_directory(self, task: _Task) -> bool:
        """Under the bucket's lock: nothing below either place is touched by others."""
        inode = task.inode
        assert inode is not None
        assert inode.stored is not None
        with self._index.read() as txn:
            old = namespace.store_path_of(txn, inode.stored.parent, inode.stored.name)
            new = namespace.store_path_of(txn, task.place.parent, task.place.name)
        log.info("the store follows a rename: %r -> %r", old, new)
        try:
            task.store.rename(old, new)
        except StoreNotFound:
            log.debug("%r was not in the store yet", old)
        found = StoredObject(new, 0, inode.stored.version, time.time_ns())
        if inode.explicit:
            found = task.store.put(new, (), 0, stored_attributes(inode, task.attributes))
        done = self._finish(task, inode, found)
        if not task.store.capabilities.native_rename:
            self._learn_versions(task.place.bucket, task.store, new)
        return done

    def _learn_versions(self, bucket: int, store: Store, prefix: bytes) -> None:
        """Copies may have other ETags than their originals: note those of a moved directory."""
        marker = b""
        while True:
            page = store.list(prefix, delimiter=False, marker=marker)
            objects = [e for e in page.entries if isinstance(e, StoredObject)]

            def change(txn: Txn, objects: list[StoredObject] = objects) -> None:
                for found in objects:
                    owner = namespace.store_owner(txn, bucket, found.key)
                    if owner is None:
                        continue
                    inode = namespace.get(txn, owner)
                    if inode.stored is not None and inode.stored.size == found.size_bytes:
                        stored = msgspec.structs.replace(inode.stored, version=found.version)
                        namespace.update(txn, inode, stored=stored)

            self._index.commit(change)
            if page.next_marker is None:
                return
            marker = page.next_marker

    def _upload_checked(self, task: _Task, inode: Inode) -> StoredObject:
        """Upload unless others changed the object; then keep theirs beside, and upload."""
        if inode.stored is not None and not self._has_moved(task):
            expected: str | None = inode.stored.version  # newer than what the entry may know
        elif task.base:
            expected = task.base
        else:
            expected = self._expect_new(task)
        try:
            return self._upload(task, inode, expected)
        except (StoreChanged, StaleContent) as exc:
            try:
                theirs = task.store.head(task.key)
            except StoreNotFound:
                return self._upload(task, inode, ABSENT)
            if self._is_ours(inode, theirs):
                # We were killed between the store's answer and our own note of it; attributes may
                # have changed since.
                return task.store.set_attributes(
                    task.key, stored_attributes(inode, task.attributes), expected=theirs.version
                )
            if isinstance(exc, StaleContent):
                raise  # bytes that were never cached, and that the store has no more
            if self._is_leftover(task, theirs.version):
                return self._upload(task, inode, theirs.version)
            aside = LOST_AND_FOUND + task.key + b"." + theirs.version.strip('"').encode()[:40]
            log.error("conflict: %r was changed by others; theirs is kept as %r", task.key, aside)
            task.store.copy(
                task.key, theirs.version, aside, theirs.attributes or StoredAttributes()
            )
            return self._upload(task, inode, theirs.version)

    @staticmethod
    def _is_ours(inode: Inode, found: StoredObject) -> bool:
        attributes = found.attributes
        if inode.kind != Kind.FILE:
            # A file system keeps no ETag with these; what they are is in their attributes.
            return attributes is not None and (
                (attributes.kind, attributes.symlink_target or b"", attributes.rdev)
                == (inode.kind, inode.target, inode.rdev)
            )
        return (
            bool(inode.etag)
            and found.size_bytes == inode.size
            and (
                found.version.strip('"') == inode.etag
                or (attributes is not None and attributes.s3_etag == inode.etag)
            )
        )

    def _expect_new(self, task: _Task) -> str | None:
        """A name that is new here must be new there too, if the directory's listing is known."""
        with self._index.read() as txn:
            known = namespace.get(txn, task.place.parent).listed_ns
        return ABSENT if known else None

    def _upload(self, task: _Task, inode: Inode, expected: str | None) -> StoredObject:
        if inode.kind != Kind.FILE:
            return task.store.put(
                task.key, (), 0, stored_attributes(inode, task.attributes), expected=expected
            )
        snapshot = self._contents.open(inode.id)
        if snapshot is None or snapshot.inode.revision != inode.revision:
            raise StoreUnavailable(f"{task.key!r} changed while it was being persisted")
        snapshot.warms = False
        with snapshot:
            found = task.store.put(
                task.key,
                chunks(snapshot, 0, snapshot.size),
                inode.size,
                stored_attributes(inode, task.attributes),
                expected=expected,
            )
        metrics.PERSISTED_BYTES.inc(inode.size)
        return found

    def _follow(self, task: _Task, inode: Inode) -> StoredObject:
        """A clean file was renamed: its object moves inside the store."""
        assert inode.stored is not None
        with self._index.read() as txn:
            old = namespace.store_path_of(txn, inode.stored.parent, inode.stored.name)
        try:
            if task.store.capabilities.native_rename:
                return self._rename(task, inode, old)
            return task.store.copy(
                old,
                inode.stored.version,
                task.key,
                stored_attributes(inode, task.attributes),
            )
        except (StoreNotFound, StoreChanged) as exc:
            log.warning("%r is not in the store as it was (%s); uploading", old, exc)
            try:
                return self._upload(task, inode, None)
            except StaleContent as stale:
                raise StoreChanged(f"{old!r} was changed by others and is not cached") from stale

    def _rename(self, task: _Task, inode: Inode, old: bytes) -> StoredObject:
        """The file that a clean inode is moves in one step, with the attributes that changed."""
        assert inode.stored is not None
        attributes = stored_attributes(inode, task.attributes)
        try:
            there = task.store.head(old)
        except StoreNotFound:
            # Killed between the store's answer and our own note of it?
            there = task.store.head(task.key)
            if not self._looks_like(inode, there):
                raise
            return task.store.set_attributes(task.key, attributes, expected=there.version)
        if there.version != inode.stored.version:
            raise StoreChanged(f"{old!r} is {there.version}, not {inode.stored.version}")
        found = task.store.rename(old, task.key)
        assert found is not None, "only the rename of a directory has no answer"
        if inode.stored.attributes_revision != inode.attributes_revision:
            found = task.store.set_attributes(task.key, attributes, expected=found.version)
        return found

    def _looks_like(self, inode: Inode, found: StoredObject) -> bool:
        """Whether an object where a clean inode was to go is that inode's: others than we leave
        no ETag with a file, which then is known by its size and time."""
        if self._is_ours(inode, found):
            return True
        attributes = found.attributes
        return (
            attributes is not None
            and attributes.s3_etag is None
            and (attributes.kind, found.size_bytes, attributes.mtime_ns)
            == (inode.kind, inode.size, inode.mtime_ns)
        )

    def _change_attributes(self, task: _Task, inode: Inode) -> bool:
        assert inode.stored is not None
        attributes = stored_attributes(inode, task.attributes)
        try:
            found = task.store.set_attributes(task.key, attributes, expected=inode.stored.version)
        except StoreNotFound:
            found = self._upload_checked(task, inode)
        except StoreChanged:
            theirs = task.store.head(task.key)
            if not self._is_ours(inode, theirs):
                return self._take_theirs(task, inode, theirs)
            found = task.store.set_attributes(task.key, attributes, expected=theirs.version)
        return self._finish(task, inode, found)

    def _take_theirs(self, task: _Task, inode: Inode, theirs: StoredObject) -> bool:
        """Others changed the bytes of a file of which we have other permissions only (or we were
        killed after we gave it those): their bytes, our permissions."""
        attributes = dataclasses.replace(
            theirs.attributes or StoredAttributes(),
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
        )
        task.store.set_attributes(task.key, attributes, expected=theirs.version)
        found = task.store.head(task.key)

        def change(txn: Txn) -> None:
            place = task.place
            if dirty.clear(txn, place.parent, place.name, task.touched):
                self._discovery.adopt(txn, place, found)

        self._index.commit(change)
        return True

    def _finish(self, task: _Task, seen: Inode, found: StoredObject) -> bool:
        """Note what the store has now. True if that is what the index has too."""

        def change(txn: Txn) -> bool:
            place = task.place
            try:
                inode = namespace.get(txn, seen.id)
            except NoSuchInode:
                dirty.rebase(txn, place.parent, place.name, found.version)
                return True
            if inode.stored is not None:
                dirty.come_home(txn, inode.stored.parent, inode.stored.name, inode.id)
            stored = Stored(
                place.parent,
                place.name,
                found.version,
                found.size_bytes,
                seen.revision,
                seen.attributes_revision,
            )
            dentry = names.find(txn, place.parent, place.name)
            if dentry is None or dentry.inode != inode.id:
                # Renamed or replaced meanwhile: the bytes lie where the name was.
                if inode.nlink:
                    dirty.send_away(txn, place.parent, place.name, inode.id)
                else:
                    dirty.rebase(txn, place.parent, place.name, found.version)
                namespace.update(txn, inode, stored=stored)
                return False
            namespace.update(txn, inode, stored=stored)
            if not seen.is_dir or seen.stored is None or self._has_moved(task):
                self._mark_above(txn, task)
            same = (inode.revision, inode.attributes_revision) == (
                seen.revision,
                seen.attributes_revision,
            )
            if same:
                dirty.clear(txn, place.parent, place.name, task.touched)
            return same

        return self._index.commit(change, grows=False)

    def _clear(self, task: _Task) -> None:
        place = task.place

        def change(txn: Txn) -> None:
            dirty.clear(txn, place.parent, place.name, task.touched)
            if task.inode is None:
                # A write that failed may have left implicit directories for its key.
                namespace.prune(txn, place.bucket, place.parent)
                self._follow_up(txn, place)
            if task.inode is None or not task.inode.is_dir:
                self._mark_above(txn, task)

        self._index.commit(change, grows=False)
        if task.inode is None:
            self._look_for_more(place.parent)

    @staticmethod
    def _mark_above(txn: Txn, task: _Task) -> None:
        """What is put into a real directory, or taken out, changes its time in the store; that may
        have been set here before, and has to be set there again."""
        if not task.store.capabilities.native_directories:
            return
        key = namespace.key_bytes(task.place.parent)
        above = txn.record(Table.INODES, key, Inode)
        if above is None or not above.explicit or not above.nlink or above.parent in (0, ROOT):
            return
        stored = above.stored
        if stored is None or (stored.parent, stored.name) == (above.parent, above.name):
            namespace.mark(txn, Place(task.place.bucket, above.parent, above.name), 0)

    def _look_for_more(self, directory: int) -> None:
        """An implicit directory lost the last key that we know of, and nobody ever asked the store
        what else it has: ask, so that it goes, or shows what keeps it."""
        with self._index.read() as txn:
            inode = txn.record(Table.INODES, namespace.key_bytes(directory), Inode)
            unsure = (
                inode is not None
                and not inode.explicit
                and not inode.listed_ns
                and inode.nlink
                and names.is_empty(txn, directory)
            )
        if unsure:
            # No answer: it stays, empty, until somebody looks into it.
            with contextlib.suppress(StoreUnavailable):
                self._discovery.learn_directory(directory)

    @staticmethod
    def _follow_up(txn: Txn, place: Place) -> None:
        """The last name of a directory that is gone left the store: now the directory can, which
        may have been tried in vain before."""
        above = namespace.get(txn, place.parent)
        if above.nlink or dirty.waits_below(txn, above.id):
            return
        if above.stored is not None:  # where the store has it
            dirty.mark(txn, place.bucket, above.stored.parent, above.stored.name, 0)
        else:
            dirty.mark(txn, place.bucket, above.parent, above.name, 0)


def _aside(inode: Inode) -> bytes:
    """The name of the store's own place for an inode that steps aside, in the bucket's root."""
    return _ASIDE + str(inode.id).encode() + (b"/" if inode.is_dir else b"")


def place_of(entry: QueueEntry) -> Place:
    return Place(entry.bucket, entry.parent, entry.name)
