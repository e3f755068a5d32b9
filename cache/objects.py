"""The verbs of the S3 door: get, put, copy, delete and list objects by bucket and key.

What an acknowledged write means is the bucket's write mode (acceptance F01): write_back: bytes
synced, then the commit synced. write_through: the store confirmed, then that. Blocking,
thread-safe; a writer belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable

from cache import extents, markers, names, namespace, versions
from cache.admission import Admission
from cache.buckets import Buckets
from cache.contents import Contents
from cache.discovery import Discovery
from cache.errors import (
    DeleteMarkerFound,
    NoSuchKey,
    NoSuchVersion,
    StaleContent,
    StoreUnavailable,
)
from cache.first_reads import FirstReads, Range
from cache.fitting import check_fits
from cache.index import Index, Table, Txn
from cache.listing import Lister, Listing
from cache.marking import mark_all, through_places
from cache.namespace import Place
from cache.persist import Persister
from cache.publishing import (
    Check,
    Object,
    Publication,
    Publisher,
    find,
    find_newest,
    find_version,
)
from cache.records import (
    Bucket,
    Inode,
    InodeFlag,
    Kind,
    ObjectAttributes,
    WriteMode,
)
from cache.snapshot import Snapshot
from cache.staging import INLINE_MAX
from cache.stores.base import Upload
from cache.uploading import uploaded_attributes
from cache.version_listing import VersionLister, VersionListing
from cache.versioning import Versioning
from cache.versions import Deleted, is_versioned
from cache.writers import ObjectWriter, Target

log = logging.getLogger(__name__)

_LOOKS_MAX = 10
_OPENED_AT_ONCE_MAX = 64 << 20
"""More of an object is opened in a thread: it may have thousands of extents."""

Part = Callable[[Object], tuple[int, int]]
"""Which of an object's bytes will be read: the first, and the one after the last."""


def _whole(found: Object) -> tuple[int, int]:
    return 0, found.inode.size


class Objects:
    def __init__(
        self,
        index: Index,
        contents: Contents,
        buckets: Buckets,
        discovery: Discovery,
        persister: Persister,
        admission: Admission,
        publisher: Publisher,
        versioning: Versioning,
    ) -> None:
        self._index = index
        self._contents = contents
        self._buckets = buckets
        self._discovery = discovery
        self._persister = persister
        self._admission = admission
        self._publisher = publisher
        self._versioning = versioning
        self.first_reads: FirstReads
        """Set by the volume: with it an unknown object costs one trip to the store."""
        self._lister = Lister(index, discovery)
        self._version_lister = VersionLister(index, discovery)

    # ------------------------------------------------------------------ reading

    def get(
        self,
        bucket: str,
        key: bytes,
        version_id: str | None = None,
        *,
        reading: Range | None = None,
    ) -> Object:
        """The current version, or the one of this id, which may be a delete marker. NoSuchBucket,
        NoSuchKey (DeleteMarkerFound), NoSuchVersion; StoreUnavailable when only the store would
        know. reading: the bytes that will be read next, so that the store need not be asked twice.
        """
        if version_id is not None:
            return self._get_version(bucket, key, version_id)
        found = self.get_now(bucket, key)
        if found is None:
            found = self._ask(self._buckets.get(bucket), key, reading)
        return found

    def get_now(self, bucket: str, key: bytes) -> Object | None:
        """As get, from the index alone and without blocking; None when the store must be asked."""
        with self._index.read() as txn:
            return self._find_settled(txn, bucket, key)

    def _find_settled(self, txn: Txn, bucket: str, key: bytes) -> Object | None:
        """What the index has under a key; None when the store must be asked. NoSuchKey when it
        must not."""
        namespace.check_key(key)
        record = self._buckets.find(txn, bucket)
        found = find(txn, record, key)
        if not self._settled(txn, record, key, found):
            return None
        if found is None:
            raise self._missing(txn, record, key)
        return found

    @staticmethod
    def _missing(txn: Txn, bucket: Bucket, key: bytes) -> NoSuchKey:
        """What is to be raised for a key that leads to nothing."""
        if is_versioned(bucket):
            newest = next(versions.others(txn, bucket.root, key), None)
            if newest is not None and newest.leaf.is_marker:
                return DeleteMarkerFound(key, newest.leaf.version_id)
        return NoSuchKey(key)

    def _get_version(self, bucket: str, key: bytes, version_id: str) -> Object:
        namespace.check_key(key)
        record = self._buckets.get(bucket)
        with contextlib.suppress(NoSuchKey):
            # Which version the current one is, only the store may know.
            current = self.get(bucket, key)
            if (current.attributes.version_id or versions.NULL) == version_id:
                return dataclasses.replace(current, version_id=version_id)
        if is_versioned(record):
            self._versioning.learn(record, key)
            for _ in range(_LOOKS_MAX):
                with self._index.read() as txn:
                    found = find_version(txn, self._buckets.find(txn, bucket), key, version_id)
                if found is None:
                    break
                if not found.inode.flags & InodeFlag.UNSEEN:
                    return found
                self._discovery.see([found.inode])
        raise NoSuchVersion(key, version_id)

    def open_now(
        self, bucket: str, key: bytes, part: Part = _whole
    ) -> tuple[Object, Snapshot] | None:
        """As open, from the index alone and without blocking; None when it cannot be."""
        with self._index.read() as txn:
            found = self._find_settled(txn, bucket, key)
            if found is None:
                return None
            start, stop = part(found)
            if stop - start > _OPENED_AT_ONCE_MAX:
                return None
            try:
                return found, self._contents.snapshot(txn, found.inode, start, stop)
            except FileNotFoundError:
                return None  # a segment was reclaimed just now: the patient way looks again

    def open(
        self,
        bucket: str,
        key: bytes,
        version_id: str | None = None,
        *,
        reading: Range | None = None,
        part: Part = _whole,
    ) -> tuple[Object, Snapshot]:
        """As get, with the bytes as of now, or that part of them. Close the snapshot."""
        while True:
            found = self.get(bucket, key, version_id, reading=reading)
            snapshot = self._contents.open(found.inode.id, *part(found))
            # Replaced and reaped, or rewritten through the mount, between the two looks: again.
            if snapshot is None:
                continue
            if snapshot.inode.revision == found.inode.revision:
                return found, snapshot
            snapshot.close()

    def _settled(self, txn: Txn, bucket: Bucket, key: bytes, found: Object | None) -> bool:
        """Whether the index alone can answer for this key."""
        if found is not None:
            seen = not found.inode.has(InodeFlag.UNSEEN)
            return seen and not self._discovery.must_check(bucket, found.inode)
        parent = bucket.root
        for name in names.split_key(key)[0]:
            dentry = names.find(txn, parent, name)
            if dentry is None:
                return self._discovery.is_known(txn, namespace.get(txn, parent))
            parent = dentry.inode
        return self._discovery.is_known(txn, namespace.get(txn, parent))

    def _ask(self, bucket: Bucket, key: bytes, reading: Range | None) -> Object:
        """Look a key up after asking the store for it. NoSuchKey, StoreUnavailable."""
        try:
            if reading is None:
                self._discovery.learn_key(bucket, key)
            else:
                self.first_reads.learn_key(bucket, key, reading)
        except StoreUnavailable:
            with self._index.read() as txn:
                known = find(txn, bucket, key)
            if known is None or known.inode.flags & InodeFlag.UNSEEN:
                raise
            log.warning("store of %s does not answer: serving what is known", bucket.name)
        with self._index.read() as txn:
            found = find(txn, bucket, key)
            if found is None:
                raise self._missing(txn, bucket, key)
        self._discovery.checked(found.inode.id)
        return found

    def list(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after: bytes = b"",
        limit: int = 1000,
        directories: bool = False,
        attributes: bool = False,
    ) -> Listing[Object]:
        """Keys in byte order, greater than `after`, at most `limit` keys and common prefixes.

        `after` may be a common prefix of an earlier page: all it stands for is skipped.
        directories: show implicit directories as objects too. attributes: of every object, which
        cost as much as the rest of an entry; else only of those that have a storage class.
        """
        record = self._buckets.get(bucket)

        def make(txn: Txn, key: bytes, inode: Inode) -> Object:
            found = namespace.NO_ATTRIBUTES
            if attributes or inode.has(InodeFlag.CLASSED):
                found = namespace.object_attributes(txn, inode)
            return Object(bucket, key, inode, found)

        return self._lister.list(
            record.root,
            make,
            prefix=prefix,
            delimiter=delimiter,
            after=after,
            limit=limit,
            directories=directories,
        )

    def list_versions(
        self,
        bucket: str,
        *,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after: bytes = b"",
        after_version: str | None = None,
        limit: int = 1000,
        directories: bool = False,
    ) -> VersionListing:
        """All versions and delete markers, by key, newest first; at most `limit` of them and
        common prefixes. Of `after` itself only those that follow after_version."""
        return self._version_lister.list(
            self._buckets.get(bucket),
            prefix=prefix,
            delimiter=delimiter,
            after=after,
            after_version=after_version,
            limit=limit,
            directories=directories,
        )

    # ------------------------------------------------------------------ writing

    def writer(
        self,
        bucket: str,
        key: bytes,
        *,
        size_bytes: int | None,
        attributes: ObjectAttributes = namespace.NO_ATTRIBUTES,
    ) -> ObjectWriter:
        """Begin a PUT. attributes: those that commit() will be given, as far as they are known.
        NoSuchBucket, InvalidKey, NotSupported, DirtyLimit, StoreUnavailable."""
        namespace.check_key(key)
        record = self._writable(bucket)
        store = self._buckets.store(record)
        markers.check_kept(record, key, size_bytes, store.capabilities)
        mode = self._buckets.mode_of(record, key)
        # What cannot wait here for the store goes there at once, whatever the mode.
        at_once = mode.persists and self._admission.is_too_large(size_bytes)
        passes_through = (mode.waits_for_store or at_once) and not markers.goes_later(record, key)
        if mode.persists:
            check_fits(store, attributes)
        if not passes_through:
            self._admission.admit(size_bytes)
        staged = (
            None
            if mode == WriteMode.WRITE_AROUND and passes_through
            else self._contents.stage(size_bytes, stream="fill" if passes_through else "dirty")
        )
        store_key = b""
        upload: Upload | None = None
        if passes_through:
            with self._index.read() as txn:
                store_key = namespace.store_key_of(txn, record.root, key)
            upload = store.begin_upload(store_key, size_bytes, uploaded_attributes(attributes))
        target = Target(record, key, mode, store_key, upload)
        return ObjectWriter(target, staged, self._publisher, self._persister, self.precheck)

    def writer_now(
        self, bucket: str, key: bytes, *, size_bytes: int, attributes: ObjectAttributes
    ) -> ObjectWriter | None:
        """As writer, for a body that goes into the index and may be submitted there
        (ObjectWriter.submit), without blocking; None where that cannot be."""
        namespace.check_key(key)
        if size_bytes > INLINE_MAX or key.endswith(b"/"):
            return None
        record = self._writable(bucket)
        mode = self._buckets.mode_of(record, key)
        if mode.waits_for_store or is_versioned(record) or self._admission.slows():
            return None
        if mode.persists:
            check_fits(self._buckets.store(record), attributes)
        staged = self._contents.stage(size_bytes)
        target = Target(record, key, mode)
        return ObjectWriter(target, staged, self._publisher, self._persister, self.precheck)

    def _writable(self, bucket: str) -> Bucket:
        record = self._buckets.get(bucket)
        self._buckets.check_writable(record)
        return record

    def precheck(self, bucket: Bucket, key: bytes, check: Check | None) -> None:
        """Evaluate a condition before the store is changed; asks the store about a key that the
        index does not know, and about versions that matter to the next one."""
        keeps_versions = is_versioned(bucket) and not key.endswith(b"/")
        if check is None and not keeps_versions:
            return
        try:
            found: Object | None = self.get(bucket.name, key)
        except NoSuchKey:
            found = None
        if check is not None:
            check(found)
        if keeps_versions:
            self._versioning.learn(bucket, key)

    def copy(
        self,
        source: Object,
        bucket: str,
        key: bytes,
        *,
        attributes: ObjectAttributes,
        etag: str | None = None,
        check: Check | None = None,
    ) -> Object:
        """Give `key` the bytes of `source`: where all are cached and the store is not waited for,
        extents are shared, and no byte moves; else all are read, fetched and written again.

        StaleContent when the source was replaced since it was looked at.
        """
        namespace.check_key(key)
        record = self._writable(bucket)
        mode = self._buckets.mode_of(record, key)
        etag = source.etag if etag is None else etag
        snapshot = self._contents.open(source.inode.id)
        if snapshot is None or snapshot.inode.revision != source.inode.revision:
            raise StaleContent(f"{source.key!r} was replaced while it was copied")
        with snapshot:
            # Of a symlink the bytes are its target, which is no extent to share.
            is_file = snapshot.inode.kind == Kind.FILE
            whole = is_file and not snapshot.missing(0, snapshot.size)
            if whole and not mode.waits_for_store:
                self._admission.admit()
                persist = mode.persists
                size = snapshot.size
                new = Publication(record, key, size, etag, attributes, check, persist)
                copied = self._share(snapshot, new)
                if copied is not None:
                    return copied
            return self._stream_copy(snapshot, record, key, attributes, etag, check)

    def _share(self, snapshot: Snapshot, new: Publication) -> Object | None:
        """None if bytes of the source left the index meanwhile; the snapshot has them still."""
        source = snapshot.inode

        def fill(txn: Txn, inode: Inode) -> InodeFlag:
            row = txn.get(Table.INLINE, namespace.key_bytes(source.id))
            if row is not None:
                txn.put(Table.INLINE, namespace.key_bytes(inode.id), row)
                return InodeFlag(inode.flags) | InodeFlag.INLINE
            extents.share(txn, source.id, 0, new.size, inode.id, 0, inode.revision)
            return InodeFlag(inode.flags)

        def change(txn: Txn) -> Object | None:
            if namespace.get(txn, source.id).revision != source.revision:
                raise StaleContent(f"the source of {new.key!r} was replaced while it was copied")
            if not snapshot.still_holds(txn, 0, new.size):
                return None
            return self._publisher.publish(txn, new, fill)[0]

        # What the source can fetch again, and was never synced for that, the copy cannot.
        return self._index.commit(change, syncs=snapshot.syncs)

    def _stream_copy(
        self,
        snapshot: Snapshot,
        bucket: Bucket,
        key: bytes,
        attributes: ObjectAttributes,
        etag: str,
        check: Check | None,
    ) -> Object:
        writer = self.writer(bucket.name, key, size_bytes=snapshot.size, attributes=attributes)
        try:
            for piece in snapshot.pieces(0, snapshot.size):
                writer.write(piece if isinstance(piece, bytes) else piece.read())
            return writer.commit(etag=etag, attributes=attributes, check=check)
        finally:
            writer.abort()

    def change_attributes(
        self,
        bucket: str,
        key: bytes,
        change_of: Callable[[Object], ObjectAttributes],
        *,
        version_id: str | None = None,
    ) -> Object:
        """Give an object, or one version of it, other attributes (tags, ACL …); its bytes, ETag
        and time stay.

        change_of is called inside the commit with the object as it is there; what it raises is
        raised. NoSuchKey, NoSuchVersion. Acknowledged as a write of the key is: write_through waits
        for the store."""
        record = self._writable(bucket)
        self.get(bucket, key, version_id)  # learned from the store, if only that knows it

        def change(txn: Txn) -> Object:
            current = self._publisher.present(txn, record)
            if version_id is None:
                found = find(txn, current, key)
                if found is None:
                    raise NoSuchKey(key)
            else:
                found = find_version(txn, current, key, version_id)
                if found is None:
                    raise NoSuchVersion(key, version_id)
            attributes = change_of(found)
            if self._buckets.mode_of(current, key).persists:
                check_fits(self._buckets.store(current), attributes)
            inode = namespace.put_object_attributes(txn, found.inode, attributes)
            revision = inode.attributes_revision + 1
            inode = namespace.update(txn, inode, attributes_revision=revision)
            mark_all(txn, self._buckets, inode)
            return dataclasses.replace(found, inode=inode, attributes=attributes)

        changed = self._index.commit(change)
        for place in through_places(self._index, self._buckets, changed.inode):
            self._persister.persist(place)
        return changed

    def delete(
        self,
        bucket: str,
        key: bytes,
        check: Check | None = None,
        *,
        version_id: str | None = None,
        bypass: bool = False,
    ) -> Deleted:
        """Remove a key, which in a versioned bucket leaves a delete marker; or one version of it
        for good. What does not exist is no error. write_through: gone from the store too; if that
        fails the key is gone here, queued, and the store's error is raised.

        check: of the current version, which may be a delete marker, or of the one of this id.
        bypass: also what object lock's GOVERNANCE retains. ObjectLocked; NoSuchVersion for an id
        in a bucket never versioned; NotSupported."""
        namespace.check_key(key)
        record = self._writable(bucket)
        mode = self._buckets.mode_of(record, key)
        self.precheck(record, key, check if version_id is None else None)

        def change(txn: Txn) -> Deleted:
            current = self._publisher.present(txn, record)
            keeps_versions = is_versioned(current) and not key.endswith(b"/")
            if keeps_versions and version_id is not None:
                return self._delete_version(txn, current, key, version_id, check, bypass)
            if version_id not in (None, versions.NULL):
                raise NoSuchVersion(key, str(version_id))
            if check is not None:
                newest = find_newest(txn, current, key)
                check(newest)
                if newest is None and keeps_versions:
                    return Deleted()  # nothing was there to fulfil it: no delete marker either
            if keeps_versions:
                place = namespace.locate(txn, current.root, key)
                covered = self._publisher.versions.cover(txn, current, place, key)
                if place is not None:
                    namespace.prune(txn, place.bucket, place.parent)
                return covered
            place = self._delete_in(txn, current, key, mode, for_good=version_id is not None)
            return Deleted(version_id, places=() if place is None else (place,))

        grows = is_versioned(record) and version_id is None  # by a delete marker
        deleted = self._index.commit(change, grows=grows)
        if mode.waits_for_store:
            for place in deleted.places:
                self._persister.persist(place)
        return deleted

    def _delete_version(
        self,
        txn: Txn,
        bucket: Bucket,
        key: bytes,
        version_id: str,
        check: Check | None,
        bypass: bool,
    ) -> Deleted:
        found = find_version(txn, bucket, key, version_id)
        if check is not None:
            check(found)
        if found is None:
            return Deleted(version_id)
        other = versions.find_other(txn, bucket.root, key, version_id)
        if other is not None and other.inode == found.inode.id:
            places = self._publisher.versions.remove_other(txn, bucket, key, other, bypass=bypass)
            return Deleted(version_id, found.is_marker, places)
        place = namespace.locate(txn, bucket.root, key)
        assert place is not None
        places = self._publisher.versions.remove_current(txn, bucket, place, key, bypass=bypass)
        return Deleted(version_id, False, places)

    def _delete_in(
        self, txn: Txn, bucket: Bucket, key: bytes, mode: WriteMode, *, for_good: bool
    ) -> Place | None:
        """Remove a key of a bucket that never was versioned, or a directory's marker; the name
        that changed. for_good: no delete marker is expected to hide it."""
        place = namespace.locate(txn, bucket.root, key)
        dentry = None if place is None else names.find(txn, place.parent, place.name)
        if place is None or dentry is None:
            return self._delete_unknown(txn, bucket, key)
        inode = namespace.get(txn, dentry.inode)
        if inode.is_dir:
            if not for_good:
                markers.check_unversioned(bucket, key, inode.visible_size)
            if inode.explicit:
                markers.removed(txn, inode)
                namespace.mark(txn, place, 0)
                namespace.prune(txn, place.bucket, inode.id)
        else:
            namespace.leave(txn, place.parent, place.name, inode)
            if inode.stored is not None or mode.persists:
                namespace.mark(txn, place, 0, former=inode)
            namespace.prune(txn, bucket.root, place.parent)
        return place

    def _delete_unknown(self, txn: Txn, bucket: Bucket, key: bytes) -> Place | None:
        """A key the index does not have may be in the store if nobody ever looked."""
        if self._settled(txn, bucket, key, None):
            return None
        place = self._publisher.make_place(txn, bucket, key)
        namespace.mark(txn, place, 0)
        return place
