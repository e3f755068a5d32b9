"""Versions of an object: where they lie, and what becomes of them when its key changes.

The current version of a key is what its name leads to, as in a bucket without versions. Each other
one is a file of a hidden directory of the bucket that mirrors the key's directories:

    .forebay-versions/DIRECTORIES/NAME ORDER      a noncurrent version
    .forebay-versions/DIRECTORIES/NAME ORDER-     a delete marker, empty

ORDER is 32 hexadecimal digits: 2**63 - 1 less the time in ns at which the version was made, and 16
random ones; so names sort newest first. It is the version's id, too; sixteen zeros at its end mean
the null version. A version that is replaced is *renamed*: what holds for renames (cache/persist.py)
moves its object in the store, is safe against crashes, and needs no other copy of its bytes.

What always holds, unless others change the store: a key that leads to something leads to its newest
version; else its newest version is a delete marker, or there is none.

Functions of a transaction; the directories on the way are known (Discovery.learn_directory) where a
null version is looked for or a version removed. Keys that end in `/`, and special files, have no
versions.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from cache import names, namespace, retention
from cache.buckets import Buckets
from cache.config import CacheConfig
from cache.errors import NameTooLong, StoreUnavailable
from cache.index import Txn
from cache.namespace import Place
from cache.records import Bucket, Inode, InodeFlag, Kind, ObjectAttributes

STATUS = "versioning"
"""Name of the bucket's setting."""
ENABLED = "Enabled"
SUSPENDED = "Suspended"
NULL = "null"
"""The id of a version that was made while its bucket was not versioned."""

KEY_MAX = namespace.KEY_MAX - len(names.VERSIONS) - len(" -") - 32
"""A version's name in the store is longer than its key."""

_TIME_MAX = 2**63 - 1
_NULL_TAIL = "0" * 16
_LEAF = re.compile(rb"(.+) ([0-9a-f]{32})(-?)", re.DOTALL)
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


def status_of(bucket: Bucket) -> str:
    """Empty for a bucket that never was versioned, ENABLED or SUSPENDED."""
    status = bucket.settings.get(STATUS)
    return "" if status is None else status.decode()


def is_versioned(bucket: Bucket) -> bool:
    """Whether the bucket is or was versioned."""
    return STATUS in bucket.settings


def is_version_id(text: str) -> bool:
    """Whether this may be the id of a version."""
    return text == NULL or _ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Leaf:
    """The name of a version in its hidden directory."""

    name: bytes  # last component of the key
    order: str
    is_marker: bool

    @property
    def version_id(self) -> str:
        return NULL if self.order.endswith(_NULL_TAIL) else self.order

    @property
    def made_ns(self) -> int:
        return _TIME_MAX - int(self.order[:16], 16)

    @property
    def dentry_name(self) -> bytes:
        return self.name + b" " + self.order.encode() + (b"-" if self.is_marker else b"")

    @classmethod
    def parse(cls, dentry_name: bytes) -> Leaf | None:
        """None for a name that others gave a file of the hidden directory."""
        match = _LEAF.fullmatch(dentry_name)
        return None if match is None else cls(match[1], match[2].decode(), bool(match[3]))


@dataclass(frozen=True, slots=True)
class Version:
    """A version that is not the current one, or a delete marker."""

    place: Place
    leaf: Leaf
    inode: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion made or removed, and the names that it changed."""

    version_id: str | None = None  # None in a bucket that never was versioned
    is_marker: bool = False
    places: tuple[Place, ...] = ()


def directory_of(txn: Txn, root: int, key: bytes) -> int | None:
    """The hidden directory of a key's versions; None if there is none."""
    parent = root
    for name in (names.VERSIONS, *names.split_key(key)[0]):
        dentry = names.find(txn, parent, name)
        if dentry is None:
            return None
        parent = dentry.inode
    return parent


def others(txn: Txn, root: int, key: bytes) -> Iterator[Version]:
    """The versions of a key but the current one, and its delete markers, newest first."""
    directory = directory_of(txn, root, key)
    if directory is None or key.endswith(b"/"):
        return
    yield from in_directory(txn, root, directory, names.split_key(key)[1])


def in_directory(
    txn: Txn, root: int, directory: int, name: bytes, *, after: str = ""
) -> Iterator[Version]:
    """As others, of a name in its hidden directory, behind the one of this order."""
    # An order begins with 0 to 7. Names of other keys may lie between.
    stop = name + b" 8"
    start = name + b" " + (after.encode() + b"." if after else b"0")
    for dentry_name, dentry in names.scan(txn, directory, start):
        if dentry_name >= stop:
            return
        leaf = Leaf.parse(dentry_name)
        if leaf is not None and leaf.name == name:
            yield Version(Place(root, directory, dentry_name), leaf, dentry.inode)


def find_other(txn: Txn, root: int, key: bytes, version_id: str) -> Version | None:
    """A version of a key that is not the current one, or a delete marker, by its id."""
    if version_id == NULL:
        return next((v for v in others(txn, root, key) if v.leaf.version_id == NULL), None)
    directory = directory_of(txn, root, key)
    if directory is None:
        return None
    name = names.split_key(key)[1]
    for is_marker in (False, True):
        leaf = Leaf(name, version_id, is_marker)
        dentry = names.find(txn, directory, leaf.dentry_name)
        if dentry is not None:
            return Version(Place(root, directory, leaf.dentry_name), leaf, dentry.inode)
    return None


class Versions:
    """What a change of a key's current version does with the other ones."""

    def __init__(self, buckets: Buckets, config: CacheConfig) -> None:
        self._buckets = buckets
        self._config = config

    def make_way(self, txn: Txn, bucket: Bucket, place: Place, old: Inode | None) -> str:
        """Take the name from the version that has it, because a new one comes: kept as a
        noncurrent one, or dropped, as the bucket's versioning says. The new one's id, empty for
        the null version. The caller queues the place."""
        status = status_of(bucket)
        if not status or place.name.endswith(b"/"):
            if old is not None:
                namespace.leave(txn, place.parent, place.name, old)
            return ""
        key = self._key(txn, place)
        _check_length(key)
        enabled = _is_enabled(bucket)
        if not enabled:
            self._drop_null(txn, bucket, key)
        if old is not None:
            self._set_aside(txn, bucket, place, key, old, keep_null=enabled)
        return self._new_order(txn, place.bucket, key) if enabled else ""

    def next_id(self, txn: Txn, bucket: Bucket, key: bytes) -> str:
        """The id of a new version of a key, empty for the null version."""
        if not status_of(bucket) or key.endswith(b"/") or not _is_enabled(bucket):
            return ""
        _check_length(key)
        return self._new_order(txn, bucket.root, key)

    def cover(self, txn: Txn, bucket: Bucket, place: Place | None, key: bytes) -> Deleted:
        """Delete a key of a versioned bucket, which leaves a delete marker. place: where the key's
        name is; None if there is none. The caller prunes its directory."""
        _check_length(key)
        enabled = _is_enabled(bucket)
        dentry = None if place is None else names.find(txn, place.parent, place.name)
        old = None if dentry is None else namespace.get(txn, dentry.inode)
        if not enabled:
            self._drop_null(txn, bucket, key)
        changed = []
        if place is not None and old is not None:
            self._set_aside(txn, bucket, place, key, old, keep_null=enabled)
            self._mark(txn, bucket, key, place, 0, former=old)
            changed.append(place)
        order = self._new_order(txn, bucket.root, key, null=not enabled)
        leaf = Leaf(names.split_key(key)[1], order, is_marker=True)
        marker = self._make_place(txn, bucket, key, leaf)
        inode = namespace.new_inode(
            txn,
            Kind.FILE,
            mode=self._config.file_mode,
            uid=self._config.default_uid,
            gid=self._config.default_gid,
        )
        namespace.enter(txn, marker.parent, marker.name, inode)
        self._mark(txn, bucket, key, marker, 0)
        return Deleted(leaf.version_id, True, (*changed, marker))

    def remove_current(
        self, txn: Txn, bucket: Bucket, place: Place, key: bytes, *, bypass: bool
    ) -> tuple[Place, ...]:
        """Remove the current version for good; the newest other one becomes current. The names
        that changed. ObjectLocked."""
        dentry = names.find(txn, place.parent, place.name)
        assert dentry is not None
        old = namespace.get(txn, dentry.inode)
        retention.check_removable(namespace.object_attributes(txn, old), bypass=bypass)
        namespace.leave(txn, place.parent, place.name, old)
        self._mark(txn, bucket, key, place, 0, former=old)
        changed = self._promote(txn, bucket, key)
        namespace.prune(txn, place.bucket, place.parent)
        return (*changed, place)

    def remove_other(
        self, txn: Txn, bucket: Bucket, key: bytes, version: Version, *, bypass: bool
    ) -> tuple[Place, ...]:
        """Remove a noncurrent version or a delete marker for good; if that was what hid the newest
        version, this becomes current. The names that changed. ObjectLocked."""
        self._drop(txn, bucket, key, version, bypass=bypass)
        place = namespace.locate(txn, bucket.root, key)
        is_hidden = place is None or names.find(txn, place.parent, place.name) is None
        changed = self._promote(txn, bucket, key) if is_hidden else ()
        return (*changed, version.place)

    def renew(self, txn: Txn, bucket: Bucket, place: Place, inode: Inode) -> Inode:
        """Give a file that came to a name by a rename, or was just made there, the id of a new
        version of its key; the inode, stored."""
        status = status_of(bucket)
        attributes = namespace.object_attributes(txn, inode)
        if not (status or attributes.version_id) or not has_versions(inode):
            return inode
        key = self._key(txn, place)
        if status and not _is_enabled(bucket):
            self._drop_null(txn, bucket, key)
        return self._number(txn, inode, self.next_id(txn, bucket, key))

    def left_behind(self, txn: Txn, bucket: Bucket, place: Place) -> None:
        """After a rename took a key's current version away: what else there is of it stays hidden,
        under a delete marker."""
        if not status_of(bucket) or place.name.endswith(b"/"):
            return
        key = self._key(txn, place)
        newest = next(others(txn, bucket.root, key), None)
        if newest is not None and not newest.leaf.is_marker:
            self.cover(txn, bucket, None, key)

    # ------------------------------------------------------------------ steps

    def _key(self, txn: Txn, place: Place) -> bytes:
        return namespace.path_of(txn, place.parent, place.name)[1]

    def _mark(
        self,
        txn: Txn,
        bucket: Bucket,
        key: bytes,
        place: Place,
        size: int,
        former: Inode | None = None,
    ) -> None:
        stored = former is not None and former.stored is not None
        if stored or self._buckets.mode_of(bucket, key).persists:
            namespace.mark(txn, place, size, former)

    @staticmethod
    def _new_order(txn: Txn, root: int, key: bytes, *, null: bool = False) -> str:
        """Of a version that is newer than all that are not current, whatever the clock says."""
        made_ns = time.time_ns()
        newest = next(others(txn, root, key), None)
        if newest is not None:
            made_ns = max(made_ns, newest.leaf.made_ns + 1)
        return f"{_TIME_MAX - made_ns:016x}" + (_NULL_TAIL if null else secrets.token_hex(8))

    def _make_place(self, txn: Txn, bucket: Bucket, key: bytes, leaf: Leaf) -> Place:
        directories = [names.VERSIONS, *names.split_key(key)[0]]
        parent = namespace.make_directories(txn, bucket.root, directories, self._config)
        return Place(bucket.root, parent, leaf.dentry_name)

    def _set_aside(
        self,
        txn: Txn,
        bucket: Bucket,
        place: Place,
        key: bytes,
        old: Inode,
        *,
        keep_null: bool,
    ) -> None:
        """Make the current version a noncurrent one; or drop it, if it is the null version and
        that is not kept."""
        if old.flags & InodeFlag.UNSEEN:
            raise StoreUnavailable(f"which version {key!r} is was not asked yet")
        attributes = namespace.object_attributes(txn, old)
        if not has_versions(old) or not (attributes.version_id or keep_null):
            namespace.leave(txn, place.parent, place.name, old)
            return
        order = attributes.version_id or self._new_order(txn, bucket.root, key, null=True)
        leaf = Leaf(names.split_key(key)[1], order, is_marker=False)
        to = self._make_place(txn, bucket, key, leaf)
        old = namespace.move(txn, old, place, to)
        self._mark(txn, bucket, key, to, old.size if old.kind == Kind.FILE else 0)

    def _drop_null(self, txn: Txn, bucket: Bucket, key: bytes) -> None:
        """There is one null version, or null delete marker, of a key."""
        version = find_other(txn, bucket.root, key, NULL)
        if version is not None:
            self._drop(txn, bucket, key, version, bypass=False)

    def _drop(
        self, txn: Txn, bucket: Bucket, key: bytes, version: Version, *, bypass: bool
    ) -> None:
        inode = namespace.get(txn, version.inode)
        retention.check_removable(namespace.object_attributes(txn, inode), bypass=bypass)
        place = version.place
        namespace.leave(txn, place.parent, place.name, inode)
        self._mark(txn, bucket, key, place, 0, former=inode)
        self._prune(txn, bucket, key, place)

    def _promote(self, txn: Txn, bucket: Bucket, key: bytes) -> tuple[Place, ...]:
        """Make the newest version the current one, unless a delete marker hides it."""
        newest = next(others(txn, bucket.root, key), None)
        if newest is None or newest.leaf.is_marker:
            return ()
        directories, last = names.split_key(key)
        parent = namespace.make_directories(txn, bucket.root, directories, self._config)
        place = Place(bucket.root, parent, last)
        inode = namespace.get(txn, newest.inode)
        old = newest.place
        inode = namespace.move(txn, inode, old, place)
        version_id = newest.leaf.version_id
        inode = self._number(txn, inode, "" if version_id == NULL else version_id)
        self._mark(txn, bucket, key, old, 0, former=inode)
        self._mark(txn, bucket, key, place, inode.size if inode.kind == Kind.FILE else 0)
        self._prune(txn, bucket, key, old)
        return (place, old)

    def _prune(self, txn: Txn, bucket: Bucket, key: bytes, place: Place) -> None:
        """After a version left its hidden directory: where there is a store, the persister removes
        an empty one, behind the version. Objects that move to and fro between a directory that is
        gone and one of its name would have to step aside for each other, in the store."""
        if not self._buckets.mode_of(bucket, key).persists:
            namespace.prune(txn, place.bucket, place.parent)

    @staticmethod
    def _number(txn: Txn, inode: Inode, version_id: str) -> Inode:
        attributes = namespace.object_attributes(txn, inode)
        if attributes.version_id == version_id:
            return inode
        inode = namespace.put_object_attributes(txn, inode, with_version_id(attributes, version_id))
        return namespace.update(txn, inode, attributes_revision=inode.attributes_revision + 1)


def with_version_id(attributes: ObjectAttributes, version_id: str) -> ObjectAttributes:
    """The attributes of a version with this id; empty for the null version."""
    own = {name: value for name, value in attributes.own.items() if name != "version-id"}
    if version_id:
        own["version-id"] = version_id
    return msgspec.structs.replace(attributes, own=own)


def has_versions(inode: Inode) -> bool:
    """Whether an inode is of a kind whose versions are kept."""
    return inode.kind in (Kind.FILE, Kind.SYMLINK)


def _is_enabled(bucket: Bucket) -> bool:
    return status_of(bucket) == ENABLED


def _check_length(key: bytes) -> None:
    if len(key) > KEY_MAX:
        raise NameTooLong(f"{len(key)} bytes; a key of a versioned bucket has at most {KEY_MAX}")
