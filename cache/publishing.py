"""How new bytes get their key: the one change of the index that publishes an object.

PUT, CopyObject and CompleteMultipartUpload end here. The key gets a new inode, as rename(2) over
it would; whoever reads the old one reads it to its end. Before that, a body that passed through to
the store is noted in the persist queue, so that a crash between the two leaves a note (intend).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from cache import dirty, encryption, markers, names, namespace, versions
from cache.buckets import Buckets
from cache.config import CacheConfig
from cache.errors import NoSuchBucket, StoreUnavailable
from cache.fitting import check_fits
from cache.index import Index, Table, Txn
from cache.namespace import Place
from cache.records import Bucket, Inode, InodeFlag, Kind, ObjectAttributes, Stored
from cache.stores.base import StoredObject
from cache.versions import NULL, Versions


@dataclass(frozen=True, slots=True)
class Object:
    """What a key leads to."""

    bucket: str
    key: bytes
    inode: Inode
    attributes: ObjectAttributes

    version_id: str | None = None  # None in a bucket that never was versioned
    is_marker: bool = False  # a delete marker: only to be had by its version id

    @property
    def size(self) -> int:
        """As clients know it: the cache's own is inode.size."""
        return self.inode.visible_size

    @property
    def is_sealed(self) -> bool:
        """Encrypted: what clients know as a range of it lies elsewhere in the bytes here."""
        return encryption.OWN_NAME in self.attributes.own

    @property
    def etag(self) -> str:
        return self.inode.etag

    @property
    def modified_ns(self) -> int:
        return self.inode.mtime_ns


Check = Callable[[Object | None], None]
"""Evaluated inside the commit against the current object; raises to stop it."""

Fill = Callable[[Txn, Inode], InodeFlag]
"""Attaches the bytes to the new inode, inside the commit; the flags that the inode has then."""


def find(txn: Txn, bucket: Bucket, key: bytes) -> Object | None:
    """What the index knows under a key."""
    inode = namespace.resolve(txn, bucket.root, key)
    if inode is None or inode.kind not in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK):
        return None
    attributes = namespace.object_attributes(txn, inode)
    version_id = shown_id(bucket, key, attributes)
    return Object(bucket.name, key, inode, attributes, version_id)


def find_version(txn: Txn, bucket: Bucket, key: bytes, version_id: str) -> Object | None:
    """What the index knows of a version of a key, which may be a delete marker."""
    current = find(txn, bucket, key)
    if current is not None and (current.attributes.version_id or NULL) == version_id:
        return dataclasses.replace(current, version_id=version_id)
    found = versions.find_other(txn, bucket.root, key, version_id)
    if found is None:
        return None
    inode = namespace.get(txn, found.inode)
    attributes = namespace.object_attributes(txn, inode)
    return Object(bucket.name, key, inode, attributes, version_id, found.leaf.is_marker)


def find_newest(txn: Txn, bucket: Bucket, key: bytes) -> Object | None:
    """The current version of a key, also if that is a delete marker."""
    found = find(txn, bucket, key)
    if found is not None or not versions.is_versioned(bucket):
        return found
    newest = next(versions.others(txn, bucket.root, key), None)
    if newest is None or not newest.leaf.is_marker:
        return None
    inode = namespace.get(txn, newest.inode)
    attributes = namespace.object_attributes(txn, inode)
    return Object(bucket.name, key, inode, attributes, newest.leaf.version_id, is_marker=True)


def shown_id(bucket: Bucket, key: bytes, attributes: ObjectAttributes) -> str | None:
    """The version id that clients see of a current version."""
    if not versions.is_versioned(bucket) or key.endswith(b"/"):
        return None
    return attributes.version_id or NULL


@dataclass(frozen=True, slots=True)
class Publication:
    """An object about to be: everything but its bytes."""

    bucket: Bucket
    key: bytes
    size: int
    etag: str
    attributes: ObjectAttributes
    check: Check | None
    persist: bool  # False in a transient place: the store never learns of it
    version_id: str = ""  # that the store was told already


class Publisher:
    def __init__(
        self, index: Index, buckets: Buckets, keeper: Versions, config: CacheConfig
    ) -> None:
        self.index = index
        self._buckets = buckets
        self.versions = keeper
        self._config = config

    def intend(self, bucket: Bucket, key: bytes) -> Place:
        """Queue a name before the store is changed, so that a crash leaves a note. Blocks."""

        def change(txn: Txn) -> Place:
            place = self.make_place(txn, bucket, key)
            dirty.mark(txn, place.bucket, place.parent, place.name, 0, intent=True)
            return place

        return self.index.commit(change)

    def confirm(self, new: Publication, place: Place) -> None:
        """Under the locks of the place, just before the store is changed: the condition holds,
        and the note of intend() stands, which the persister or an upload that came first may have
        cleared. Raises what the check raises."""
        with self.index.read() as txn:
            if new.check is not None:
                new.check(find(txn, new.bucket, new.key))
            noted = dirty.find(txn, place.parent, place.name) is not None
        if not noted and self.intend(new.bucket, new.key) != place:
            raise StoreUnavailable(f"a directory above {new.key!r} was renamed meanwhile")
        self.index.make_durable()  # the note may be one that nobody has waited for

    @staticmethod
    def present(txn: Txn, bucket: Bucket) -> Bucket:
        """The bucket as it is now. NoSuchBucket if it was removed since it was looked up."""
        present = txn.record(Table.BUCKETS, bucket.name.encode(), Bucket)
        if present is None or present.root != bucket.root:
            raise NoSuchBucket(bucket.name)
        return present

    def keeps_versions(self, bucket: Bucket) -> bool:
        """Whether the bucket is versioned by now."""
        with self.index.read() as txn:
            return versions.is_versioned(self.present(txn, bucket))

    def numbered(self, new: Publication) -> Publication:
        """The publication with the id that its version gets, if it gets one: for an upload whose
        attributes the store must be told before it is published. Under the locks of its key."""
        with self.index.read() as txn:
            bucket = self.present(txn, new.bucket)
            version_id = self.versions.next_id(txn, bucket, new.key)
        attributes = versions.with_version_id(new.attributes, version_id)
        return dataclasses.replace(new, attributes=attributes, version_id=version_id)

    def make_place(self, txn: Txn, bucket: Bucket, key: bytes) -> Place:
        """Where the key's dentry is, directories made where they are missing. NoSuchBucket if the
        bucket was removed since it was looked up."""
        return self._make_place(txn, self.present(txn, bucket), key)

    def _make_place(self, txn: Txn, bucket: Bucket, key: bytes) -> Place:
        directories, last = names.split_key(key)
        parent = namespace.make_directories(txn, bucket.root, directories, self._config)
        return Place(bucket.root, parent, last)

    def publish(
        self,
        txn: Txn,
        new: Publication,
        fill: Fill,
        stored: StoredObject | None = None,
        claimed: Place | None = None,
    ) -> tuple[Object, Place]:
        """Put a new inode under a key. Raises what the publication's check raises.

        stored: what the store already has of these very bytes, at the place that was `claimed`;
        else the name is queued. StoreUnavailable if the key leads elsewhere by now."""
        if new.check is not None:
            new.check(find(txn, new.bucket, new.key))
        bucket = self.present(txn, new.bucket)
        place = self._make_place(txn, bucket, new.key)
        if claimed is not None and claimed != place:
            raise StoreUnavailable(f"a directory above {new.key!r} was renamed meanwhile")
        dentry = names.find(txn, place.parent, place.name)
        old = None if dentry is None else namespace.get(txn, dentry.inode)
        overhead = encryption.overhead(new.attributes, new.size)
        is_dir = place.name.endswith(b"/")
        if is_dir:
            leaving = 0 if old is None else old.visible_size
            markers.check_unversioned(bucket, new.key, new.size - overhead or leaving)
        inode = self._marker(txn, place, old) if is_dir else self._file(txn)
        attributes = new.attributes
        if not is_dir:
            if stored is not None and old is not None and versions.is_versioned(bucket):
                _check_parted(place, old)
            version_id = self.versions.make_way(txn, bucket, place, old)
            version_id = new.version_id or version_id
            attributes = versions.with_version_id(attributes, version_id)
        inode = msgspec.structs.replace(
            inode,
            size=new.size,
            etag=new.etag,
            overhead=overhead,
        )
        inode = msgspec.structs.replace(inode, flags=int(fill(txn, inode)))
        if stored is None and new.persist:
            check_fits(self._buckets.store(bucket), attributes)
        inode = namespace.put_object_attributes(txn, inode, attributes)
        if stored is not None:
            inode = msgspec.structs.replace(inode, stored=_stored_at(place, inode, stored))
        if inode.is_dir and old is not None:
            namespace.put(txn, inode)
            namespace.announce(txn, place.parent, place.name)
        else:
            inode = namespace.enter(txn, place.parent, place.name, inode)
        if stored is not None:
            dirty.clear(txn, place.parent, place.name)
        elif new.persist:
            namespace.mark(txn, place, new.size, former=old)
        shown = shown_id(bucket, new.key, attributes)
        return Object(bucket.name, new.key, inode, attributes, shown), place

    def _file(self, txn: Txn) -> Inode:
        config = self._config
        return namespace.new_inode(
            txn,
            Kind.FILE,
            mode=config.file_mode,
            uid=config.default_uid,
            gid=config.default_gid,
        )

    def _marker(self, txn: Txn, place: Place, old: Inode | None) -> Inode:
        """The directory that a PUT of `dir/` makes, or makes explicit."""
        if old is None:
            config = self._config
            above = namespace.get(txn, place.parent)
            inode = namespace.new_inode(
                txn,
                Kind.DIRECTORY,
                mode=config.directory_mode,
                uid=config.default_uid,
                gid=config.default_gid,
            )
            return msgspec.structs.replace(
                inode, listed_ns=time.time_ns() if above.listed_ns else 0
            )
        return markers.replaced(txn, old)


def _check_parted(place: Place, old: Inode) -> None:
    """StoreUnavailable if the store had the only copy of the version that was replaced in it."""
    stored = old.stored
    if stored is not None and (stored.parent, stored.name) == (place.parent, place.name):
        raise StoreUnavailable(f"{place.name!r} was not to be replaced in the store")


def _stored_at(place: Place, inode: Inode, found: StoredObject) -> Stored:
    return Stored(
        place.parent,
        place.name,
        found.version,
        found.size_bytes,
        inode.revision,
        inode.attributes_revision,
    )
