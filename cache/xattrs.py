"""Extended attributes, as the mount's programs see them.

    user.forebay.NAME    what is known of a file here and in the store (FACTS): read only, and not
                         listed. `cp -a` and `rsync -X` copy what is listed; they would fail to set
                         these, or freeze in a backup what is true for this moment only. (CephFS
                         does not list its ceph.* for the same reason.)
    user.s3.…            S3 user metadata and tags (cache/s3_xattrs.py): as if set over S3, seen
                         there at once, and in the store as everything else of a file is
    all others           bytes of the index alone: user.*, security.*, trusted.*, as the kernel
                         passes them

Which names may be used on what, and by whom, the kernel has checked (xattr(7)); POSIX ACLs are
refused before this. Blocking, thread-safe; get() of what is no fact, and names(), take
microseconds and may be called inline.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cache import dirty, extents, namespace, retention, s3_xattrs
from cache.buckets import Buckets
from cache.contents import is_dirty
from cache.errors import (
    AttributeExists,
    AttributeTooLarge,
    NoSuchAttribute,
    NotSupported,
)
from cache.fitting import check_fits
from cache.index import Index, Table, Txn
from cache.marking import mark_all, mode_at
from cache.namespace import Place
from cache.publishing import shown_id
from cache.records import (
    ROOT,
    Bucket,
    Inode,
    InodeFlag,
    Kind,
    ObjectAttributes,
    QueueEntry,
)
from cache.stores.attributes import DEFAULT_TYPE

FACTS_PREFIX = b"user.forebay."
VALUE_MAX = 65_536

Change = Callable[[ObjectAttributes], ObjectAttributes]


class ExtendedAttributes:
    def __init__(self, index: Index, buckets: Buckets) -> None:
        self._index = index
        self._buckets = buckets

    def get(self, inode: int, name: bytes) -> bytes:
        """NoSuchAttribute."""
        with self._index.read() as txn:
            found = namespace.get(txn, inode)
            if name.startswith(FACTS_PREFIX):
                return self._fact(txn, found, name)
            if name.startswith(s3_xattrs.PREFIX):
                return s3_xattrs.value(namespace.object_attributes(txn, found), name)
            # The kernel asks for security.capability before every write(2): be quick to say no.
            if not found.flags & InodeFlag.XATTRS:
                raise NoSuchAttribute(name)
            value = txn.get(Table.XATTRS, _row(inode, name))
        if value is None:
            raise NoSuchAttribute(name)
        return value

    def names(self, inode: int) -> list[bytes]:
        """All but the facts."""
        prefix = namespace.key_bytes(inode)
        with self._index.read() as txn:
            found = namespace.get(txn, inode)
            shown = s3_xattrs.listed(namespace.object_attributes(txn, found))
            if found.flags & InodeFlag.XATTRS:
                shown += [key[8:] for key, _ in txn.scan(Table.XATTRS, prefix, prefix)]
        return shown

    def set(self, inode: int, name: bytes, value: bytes, *, create: bool, replace: bool) -> None:
        """AttributeExists with `create`, NoSuchAttribute with `replace`, AttributeTooLarge,
        AttributeInvalid, AttributesFull; NotSupported for a fact; NotPermitted in a read-only
        bucket. Durable here when it returns."""
        if len(name) > s3_xattrs.XATTR_NAME_MAX or len(value) > VALUE_MAX:
            raise AttributeTooLarge(repr(name))
        _check_settable(name)

        def change(txn: Txn) -> None:
            found = self._changeable(txn, inode)
            is_there = self._has(txn, found, name)
            if create and is_there:
                raise AttributeExists(repr(name))
            if replace and not is_there:
                raise NoSuchAttribute(name)
            if name.startswith(s3_xattrs.PREFIX):
                self._change_object(txn, found, name, lambda a: s3_xattrs.changed(a, name, value))
                return
            txn.put(Table.XATTRS, _row(inode, name), value)
            flags = found.flags | InodeFlag.XATTRS
            namespace.update(txn, found, flags=flags, ctime_ns=time.time_ns())

        self._index.commit(change, durable=False)

    def remove(self, inode: int, name: bytes) -> None:
        """NoSuchAttribute; else as set."""
        _check_settable(name)

        def change(txn: Txn) -> None:
            found = self._changeable(txn, inode)
            if not self._has(txn, found, name):
                raise NoSuchAttribute(name)
            if name.startswith(s3_xattrs.PREFIX):
                self._change_object(txn, found, name, lambda a: s3_xattrs.removed(a, name))
                return
            txn.delete(Table.XATTRS, _row(inode, name))
            namespace.update(txn, found, ctime_ns=time.time_ns())

        self._index.commit(change, grows=False, durable=False)

    # ------------------------------------------------------------------ parts of the verbs

    @staticmethod
    def _has(txn: Txn, inode: Inode, name: bytes) -> bool:
        if name.startswith(s3_xattrs.PREFIX):
            return name in s3_xattrs.listed(namespace.object_attributes(txn, inode))
        return txn.get(Table.XATTRS, _row(inode.id, name)) is not None

    def _changeable(self, txn: Txn, inode: int) -> Inode:
        found = namespace.get(txn, inode)
        self._buckets.check_changeable(txn, found)
        return found

    def _change_object(self, txn: Txn, inode: Inode, name: bytes, change: Change) -> None:
        """What S3 clients attached becomes something else, to be persisted as a chmod is."""
        if inode.kind not in (Kind.FILE, Kind.DIRECTORY) or ROOT in (inode.id, inode.parent):
            raise NotSupported(f"inode {inode.id} is no object that has {name!r}")
        attributes = namespace.object_attributes(txn, inode)
        if s3_xattrs.is_metadata(name):
            # Over S3 another version is needed for it; what is locked stays as it is.
            retention.check_removable(attributes, bypass=False)
        changed = change(attributes)
        place = Place(namespace.bucket_of(txn, inode.parent), inode.parent, inode.name)
        if mode_at(txn, self._buckets, place).persists:
            check_fits(self._buckets.store(self._buckets.of_root(txn, place.bucket)), changed)
        inode = namespace.update(
            txn,
            namespace.put_object_attributes(txn, inode, changed),
            explicit=True,  # a directory that has attributes is an object
            ctime_ns=time.time_ns(),
            attributes_revision=inode.attributes_revision + 1,
        )
        mark_all(txn, self._buckets, inode)

    # ------------------------------------------------------------------ facts

    def _fact(self, txn: Txn, inode: Inode, name: bytes) -> bytes:
        """NoSuchAttribute for what is unknown, or does not apply."""
        fact = FACTS.get(name.removeprefix(FACTS_PREFIX).decode("utf-8", "replace"))
        if fact is None or ROOT in (inode.id, inode.parent) or not inode.nlink:
            raise NoSuchAttribute(name)
        root, key = namespace.path_of(txn, inode.parent, inode.name)
        bucket = self._buckets.of_root(txn, root)
        known = _Known(txn, self._buckets, inode, bucket, key)
        value = fact(known)
        if value is None:
            raise NoSuchAttribute(name)
        return os.fsencode(value)


class _Known:
    """What facts are made of; good inside its transaction."""

    def __init__(
        self, txn: Txn, buckets: Buckets, inode: Inode, bucket: Bucket, key: bytes
    ) -> None:
        self._txn = txn
        self._buckets = buckets
        self._inode = inode
        self._bucket = bucket
        self._key = key
        self._is_file = inode.kind == Kind.FILE

    @property
    def _is_local(self) -> bool:
        return not self._buckets.mode_of(self._bucket, self._key).persists

    @property
    def _attributes(self) -> ObjectAttributes:
        return namespace.object_attributes(self._txn, self._inode)

    def etag(self) -> str | None:
        """As S3 clients see it, without quotes."""
        return self._inode.shown_etag if self._is_file else None

    def content_type(self) -> str | None:
        """As S3 clients see it."""
        return (self._attributes.content_type or DEFAULT_TYPE) if self._is_file else None

    def version_id(self) -> str | None:
        """`null` for the null version; nothing in a bucket that never was versioned."""
        return shown_id(self._bucket, self._key, self._attributes) if self._is_file else None

    def location(self) -> str | None:
        """Path or s3:// URL; after a rename the old one, until the store has followed."""
        if self._is_local:
            return None
        stored = self._inode.stored
        parent, name = self._inode.parent, self._inode.name
        if stored is not None:
            parent, name = stored.parent, stored.name
        key = namespace.store_path_of(self._txn, parent, name)
        return self._buckets.store(self._bucket).location(key)

    def state(self) -> str:
        """`dirty`: the store lacks bytes, attributes or a name of it; `local`: it is not meant to
        have it; else `clean`, or `partly cached` if some bytes are only there."""
        if self._is_local:
            return "local"
        if (self._is_file and is_dirty(self._inode)) or self._queued():
            return "dirty"
        if self._is_file and not self._inode.flags & InodeFlag.INLINE:
            cached = extents.overlapping(self._txn, self._inode.id)
            if extents.holes(cached, 0, self._inode.size):
                return "partly cached"
        return "clean"

    def error(self) -> str | None:
        """Why the last attempt to persist it failed, while it waits for the next one."""
        return next((entry.error for entry in self._queued() if entry.error), None)

    def _queued(self) -> list[QueueEntry]:
        places = namespace.links(self._txn, self._inode)
        return [entry for place in places if (entry := dirty.find(self._txn, *place)) is not None]


FACTS: dict[str, Callable[[_Known], str | None]] = {
    "content-type": _Known.content_type,
    "error": _Known.error,
    "etag": _Known.etag,
    "location": _Known.location,
    "state": _Known.state,
    "version-id": _Known.version_id,
}
"""user.forebay.NAME by NAME."""


def _check_settable(name: bytes) -> None:
    if name.startswith(FACTS_PREFIX):
        raise NotSupported(f"{FACTS_PREFIX.decode()}* is read-only")


def _row(inode: int, name: bytes) -> bytes:
    return namespace.key_bytes(inode) + name
