"""Putting an inode's bytes under a key of the store, and telling our own objects from others'.

An upload is conditional on the version the index knew. If something else is there, it is either
ours (the persister was killed between the store's answer and its own note of it) or somebody
else's; theirs is kept under lost+found/ before ours takes the key. Each object carries the mark of
the inode and revision that it was made of, so the two can be told apart whatever happened to the
name since.

Called under the locks of the key (cache/persist.py). Blocking, thread-safe. Raises StoreError
classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from cache import dirty, encryption, metrics, namespace
from cache.bytes_told import bytes_told
from cache.comparison import Task
from cache.contents import Contents
from cache.errors import (
    StaleContent,
    StoreChanged,
    StoreNotFound,
    StoreUnavailable,
)
from cache.index import Index, Table, Txn
from cache.own_attributes import told
from cache.records import Inode, Kind, ObjectAttributes, Stored
from cache.snapshot import chunks
from cache.stores.base import ABSENT, StoredAttributes, StoredObject

log = logging.getLogger(__name__)

LOST_AND_FOUND = b"lost+found/"


class Origin(NamedTuple):
    """What an object of the store was made of: `StoredAttributes.origin`."""

    node: str
    """Index.identity"""
    inode: int
    revision: int

    def __str__(self) -> str:
        return f"{self.node}-{self.inode:x}-{self.revision:x}"

    @classmethod
    def read(cls, text: str | None) -> Origin | None:
        """None for what no Forebay wrote."""
        fields = (text or "").split("-")
        try:
            return cls(fields[0], int(fields[1], 16), int(fields[2], 16))
        except (IndexError, ValueError):
            return None


def uploaded_attributes(attributes: ObjectAttributes, etag: str = "") -> StoredAttributes:
    """What the store is told with a body that passes through to it as it arrives from an S3
    client: nothing that is known only afterwards but ETag and checksums. Mode, owner and time are
    left to the store's defaults, as any other S3 client leaves them."""
    return StoredAttributes(
        content_type=attributes.content_type or None,
        headers=attributes.headers,
        metadata=attributes.metadata,
        tags=attributes.tags,
        own=told(attributes),
        s3_etag=etag or None,
        checksums=bytes_told(attributes),
        # Of an encrypted body the ETag tells nothing about the bytes that the store has.
        md5=etag or None if encryption.OWN_NAME not in attributes.own else None,
    )


def is_ours(inode: Inode, found: StoredObject) -> bool:
    """Whether an object is what the inode is now, so that nothing is left to upload."""
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


class Uploader:
    def __init__(self, index: Index, contents: Contents) -> None:
        self._index = index
        self._contents = contents

    def attributes_of(self, inode: Inode, attributes: ObjectAttributes) -> StoredAttributes:
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
            own=told(attributes),
            s3_etag=inode.etag or None,
            checksums=bytes_told(attributes),
            origin=str(Origin(self._index.identity, inode.id, inode.revision)),
        )

    def upload(self, task: Task, inode: Inode, expected: str | None) -> StoredObject:
        """StoreChanged if the key is not at `expected` (None: whatever is there is replaced);
        StaleContent if bytes of the inode are neither here nor in the store."""
        attributes = self.attributes_of(inode, task.attributes)
        if inode.kind != Kind.FILE and not (inode.is_dir and inode.size):
            return task.store.put(task.key, (), 0, attributes, expected=expected)
        snapshot = self._contents.open(inode.id)
        if snapshot is None or snapshot.inode.revision != inode.revision:
            raise StoreUnavailable(f"{task.key!r} changed while it was being persisted")
        snapshot.warms = False

        def read(start: int, stop: int) -> Iterator[bytes]:
            for chunk in chunks(snapshot, start, stop):
                metrics.PERSISTED_BYTES.inc(len(chunk))
                yield chunk

        stored = inode.stored
        with snapshot:
            if stored is None or task.has_moved or expected != stored.version:
                return task.store.put(
                    task.key, read(0, inode.size), inode.size, attributes, expected=expected
                )
            changed = snapshot.changed_since(stored.revision)
            if inode.size > stored.size:
                changed.append((stored.size, inode.size))
            return task.store.patch(
                task.key, changed, read, inode.size, attributes, version=stored.version
            )

    def upload_checked(self, task: Task, inode: Inode) -> StoredObject:
        """Upload unless others changed the object; then keep theirs beside, and upload."""
        try:
            return self.upload(task, inode, self._expected(task, inode))
        except (StoreChanged, StaleContent) as exc:
            try:
                theirs = task.store.head(task.key)
            except StoreNotFound:
                return self.upload(task, inode, ABSENT)
            if is_ours(inode, theirs):
                # We were killed between the store's answer and our own note of it; attributes may
                # have changed since.
                return task.store.set_attributes(
                    task.key,
                    self.attributes_of(inode, task.attributes),
                    expected=theirs.version,
                )
            origin = self._own_origin(theirs)
            if origin is not None and origin.inode == inode.id:
                inode = self._believe(task, inode, theirs, origin.revision)
            elif isinstance(exc, StaleContent) or not self._is_whole(inode):
                # Bytes that were never cached, and that the store has no more.
                raise StaleContent(f"{task.key!r} was changed by others and is not cached") from exc
            elif not self._is_outlived(task, inode, theirs, origin):
                self._keep_aside(task, theirs)
            return self.upload(task, inode, theirs.version)

    def _expected(self, task: Task, inode: Inode) -> str | None:
        """The version that the key is believed to be at."""
        if inode.stored is not None and not task.has_moved:
            return inode.stored.version  # newer than what the entry may know
        if task.base:
            return task.base
        # A name that is new here must be new there too, if the directory's listing is known.
        with self._index.read() as txn:
            known = namespace.get(txn, task.place.parent).listed_ns
        return ABSENT if known else None

    def _is_whole(self, inode: Inode) -> bool:
        """Whether all bytes are here."""
        snapshot = self._contents.open(inode.id)
        if snapshot is None:
            return False
        with snapshot:
            return not snapshot.missing(0, snapshot.size)

    def _own_origin(self, found: StoredObject) -> Origin | None:
        """What of this node's the object was made of; None for an object of others."""
        origin = Origin.read(found.attributes.origin if found.attributes is not None else None)
        return origin if origin is not None and origin.node == self._index.identity else None

    def _is_outlived(
        self, task: Task, inode: Inode, theirs: StoredObject, origin: Origin | None
    ) -> bool:
        """Whether an object is nothing but a version of ours that was replaced or deleted here, or
        that is still here under another name."""
        with self._index.read() as txn:
            if origin is not None:
                author = txn.record(Table.INODES, namespace.key_bytes(origin.inode), Inode)
                if author is None or not author.nlink or author.id == inode.id:
                    return True
                if author.revision == origin.revision:
                    return True
            # Deleted here with its directory, and waiting to be deleted there.
            for directory, _ in txn.scan(Table.ORPHANS):
                entry = dirty.find(txn, int.from_bytes(directory, "big"), task.place.name)
                if entry is not None and entry.base == theirs.version:
                    return True
        return False

    @staticmethod
    def _keep_aside(task: Task, theirs: StoredObject) -> None:
        aside = LOST_AND_FOUND + task.key + b"." + theirs.version.strip('"').encode()[:40]
        log.error("conflict: %r was changed by others; theirs is kept as %r", task.key, aside)
        task.store.copy(task.key, theirs.version, aside, theirs.attributes or StoredAttributes())

    def _believe(self, task: Task, inode: Inode, found: StoredObject, revision: int) -> Inode:
        """Note an upload of ours that nobody noted. Bytes that are not cached are in it as in what
        it replaced, since it was made of all of the inode."""

        def change(txn: Txn) -> Inode:
            place = task.place
            current = namespace.get(txn, inode.id)
            if current.stored != inode.stored:
                raise StoreUnavailable(f"{task.key!r} changed while it was being persisted")
            if current.stored is not None:
                dirty.come_home(txn, current.stored.parent, current.stored.name, current.id)
            # Of its attributes nothing is known: the upload that follows brings them.
            stored = Stored(place.parent, place.name, found.version, found.size_bytes, revision)
            return namespace.update(txn, current, stored=stored)

        return self._index.commit(change)
