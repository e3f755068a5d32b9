"""The verbs of the S3 door: get, put, copy, delete and list objects by bucket and key.

A PUT gives its key a new inode, as rename(2) over it would: whoever reads the old one reads it to
its end. What an acknowledged write means is the bucket's write mode (acceptance F01):
write_back: bytes synced, then the commit synced. write_through: the store confirmed, then that.
Blocking, thread-safe; a writer belongs to one thread at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from cache import contents as bytes_of
from cache import dirty, extents, names, namespace
from cache.admission import Admission
from cache.buckets import Buckets
from cache.config import CacheConfig
from cache.contents import Contents, Snapshot, Staged
from cache.discovery import Discovery
from cache.errors import (
    CacheError,
    CacheFull,
    NoSuchKey,
    StaleContent,
    StoreUnavailable,
)
from cache.index import Index, Table, Txn
from cache.listing import Lister, Listing
from cache.namespace import Place
from cache.persist import Persister, uploaded_attributes
from cache.records import (
    Bucket,
    Inode,
    InodeFlag,
    Kind,
    ObjectAttributes,
    Stored,
    WriteMode,
)
from cache.stores.base import StoredObject, Upload

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Object:
    """What a key leads to."""

    bucket: str
    key: bytes
    inode: Inode
    attributes: ObjectAttributes

    @property
    def size(self) -> int:
        return self.inode.size

    @property
    def etag(self) -> str:
        return self.inode.etag

    @property
    def modified_ns(self) -> int:
        return self.inode.mtime_ns


Check = Callable[[Object | None], None]
"""Evaluated inside the commit against the current object; raises to stop it."""


class Objects:
    def __init__(
        self,
        index: Index,
        contents: Contents,
        buckets: Buckets,
        discovery: Discovery,
        persister: Persister,
        admission: Admission,
        config: CacheConfig,
    ) -> None:
        self._index = index
        self._contents = contents
        self._buckets = buckets
        self._discovery = discovery
        self._persister = persister
        self._admission = admission
        self._config = config
        self._lister = Lister(index, discovery)

    # ------------------------------------------------------------------ reading

    def get(self, bucket: str, key: bytes) -> Object:
        """NoSuchBucket, NoSuchKey; StoreUnavailable when only the store would know."""
        found = self.get_now(bucket, key)
        if found is None:
            found = self._ask(self._buckets.get(bucket), key)
        return found

    def get_now(self, bucket: str, key: bytes) -> Object | None:
        """As get, from the index alone and without blocking; None when the store must be asked."""
        namespace.check_key(key)
        with self._index.read() as txn:
            record = self._buckets.find(txn, bucket)
            found = self.find(txn, record, key)
            if not self._settled(txn, record, key, found):
                return None
        if found is None:
            raise NoSuchKey(key)
        return found

    def open_now(self, bucket: str, key: bytes) -> tuple[Object, Snapshot] | None:
        """As open, from the index alone and without blocking; None when it cannot be."""
        namespace.check_key(key)
        with self._index.read() as txn:
            record = self._buckets.find(txn, bucket)
            found = self.find(txn, record, key)
            if not self._settled(txn, record, key, found):
                return None
            if found is None:
                raise NoSuchKey(key)
            try:
                return found, self._contents.snapshot(txn, found.inode)
            except FileNotFoundError:
                return None  # a segment was reclaimed just now: the patient way looks again

    def open(self, bucket: str, key: bytes) -> tuple[Object, Snapshot]:
        """As get, with the bytes as of now. Close the snapshot."""
        while True:
            found = self.get(bucket, key)
            snapshot = self._contents.open(found.inode.id)
            # Replaced and reaped, or rewritten through the mount, between the two looks: again.
            if snapshot is None:
                continue
            if snapshot.inode.revision == found.inode.revision:
                return found, snapshot
            snapshot.close()

    def find(self, txn: Txn, bucket: Bucket, key: bytes) -> Object | None:
        """What the index knows under a key."""
        inode = namespace.resolve(txn, bucket.root, key)
        if inode is None or inode.kind not in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK):
            return None
        return Object(bucket.name, key, inode, namespace.object_attributes(txn, inode))

    def _settled(self, txn: Txn, bucket: Bucket, key: bytes, found: Object | None) -> bool:
        """Whether the index alone can answer for this key."""
        if found is not None:
            return not self._discovery.must_check(bucket, found.inode)
        parent = bucket.root
        for name in names.split_key(key)[0]:
            dentry = names.find(txn, parent, name)
            if dentry is None:
                return self._discovery.is_known(txn, namespace.get(txn, parent))
            parent = dentry.inode
        return self._discovery.is_known(txn, namespace.get(txn, parent))

    def _ask(self, bucket: Bucket, key: bytes) -> Object:
        """Look a key up after asking the store for it. NoSuchKey, StoreUnavailable."""
        try:
            self._discovery.learn_key(bucket, key)
        except StoreUnavailable:
            with self._index.read() as txn:
                if self.find(txn, bucket, key) is None:
                    raise
            log.warning("store of %s does not answer: serving what is known", bucket.name)
        with self._index.read() as txn:
            found = self.find(txn, bucket, key)
        if found is None:
            raise NoSuchKey(key)
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
    ) -> Listing[Object]:
        """Keys in byte order, greater than `after`, at most `limit` keys and common prefixes.

        `after` may be a common prefix of an earlier page: all it stands for is skipped.
        directories: show implicit directories as objects too.
        """
        record = self._buckets.get(bucket)

        def make(key: bytes, inode: Inode) -> Object:
            return Object(bucket, key, inode, namespace.NO_ATTRIBUTES)

        return self._lister.list(
            record.root,
            make,
            prefix=prefix,
            delimiter=delimiter,
            after=after,
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
        NoSuchBucket, InvalidKey, DirtyLimit, StoreUnavailable."""
        namespace.check_key(key)
        record = self._writable(bucket)
        mode = self._buckets.mode_of(record, key)
        if mode in (WriteMode.WRITE_BACK, WriteMode.TRANSIENT):
            self._admission.admit()
        staged = (
            None
            if mode == WriteMode.WRITE_AROUND
            else self._contents.stage(
                size_bytes, stream="fill" if mode == WriteMode.WRITE_THROUGH else "dirty"
            )
        )
        upload: tuple[bytes, Upload] | None = None
        if mode in (WriteMode.WRITE_THROUGH, WriteMode.WRITE_AROUND) and not key.endswith(b"/"):
            store_key = self._store_key(record, key)
            store = self._buckets.store(record)
            upload = (
                store_key,
                store.begin_upload(store_key, size_bytes, uploaded_attributes(attributes)),
            )
        return ObjectWriter(self, record, key, mode, staged, upload)

    def _writable(self, bucket: str) -> Bucket:
        record = self._buckets.get(bucket)
        self._buckets.check_writable(record)
        return record

    def _store_key(self, bucket: Bucket, key: bytes) -> bytes:
        with self._index.read() as txn:
            place = namespace.locate(txn, bucket.root, key)
            if place is None:
                return key
            return namespace.store_path_of(txn, place.parent, place.name)

    def precheck(self, bucket: Bucket, key: bytes, check: Check | None) -> None:
        """Evaluate a condition before the store is changed; asks the store about a key that the
        index does not know."""
        if check is None:
            return
        try:
            found: Object | None = self.get(bucket.name, key)
        except NoSuchKey:
            found = None
        check(found)

    def intend(self, bucket: Bucket, key: bytes) -> tuple[Place, bytes]:
        """Queue a name before the store is changed, so that a crash leaves a note; its place and
        its key in the store."""

        def change(txn: Txn) -> tuple[Place, bytes]:
            place = self._make_place(txn, bucket, key)
            namespace.mark(txn, place, 0)
            return place, namespace.store_path_of(txn, place.parent, place.name)

        return self._index.commit(change)

    def _make_place(self, txn: Txn, bucket: Bucket, key: bytes) -> Place:
        """Where the key's dentry is, directories made where they are missing."""
        directories, last = names.split_key(key)
        parent = namespace.make_directories(
            txn,
            bucket.root,
            directories,
            mode=self._config.directory_mode,
            uid=self._config.default_uid,
            gid=self._config.default_gid,
        )
        return Place(bucket.root, parent, last)

    def publish(
        self,
        txn: Txn,
        bucket: Bucket,
        key: bytes,
        *,
        fill: Callable[[Txn, Inode], InodeFlag],
        size: int,
        etag: str,
        attributes: ObjectAttributes,
        check: Check | None,
        stored: StoredObject | None,
        mark: bool,
    ) -> tuple[Object, Place]:
        """Put a new inode under a key, with the bytes that `fill` attaches to it.

        stored: what the store already has of these very bytes; else, with `mark`, the name goes
        into the persist queue."""
        current = self.find(txn, bucket, key)
        if check is not None:
            check(current)
        config = self._config
        place = self._make_place(txn, bucket, key)
        parent, last = place.parent, place.name
        dentry = names.find(txn, parent, last)
        old = None if dentry is None else namespace.get(txn, dentry.inode)
        if last.endswith(b"/"):
            inode = self._marker(txn, place, old)
        else:
            inode = namespace.new_inode(
                txn,
                Kind.FILE,
                mode=config.file_mode,
                uid=config.default_uid,
                gid=config.default_gid,
            )
        inode = msgspec.structs.replace(inode, size=size, etag=etag)
        inode = msgspec.structs.replace(inode, flags=int(fill(txn, inode)))
        inode = namespace.put_object_attributes(txn, inode, attributes)
        if stored is not None:
            inode = msgspec.structs.replace(
                inode,
                stored=Stored(
                    parent,
                    last,
                    stored.version,
                    stored.size_bytes,
                    inode.revision,
                    inode.attributes_revision,
                ),
            )
        if inode.is_dir and old is not None:
            namespace.put(txn, inode)
            namespace.announce(txn, parent, last)
        else:
            if old is not None:
                namespace.leave(txn, parent, last, old)
            inode = namespace.enter(txn, parent, last, inode)
        if stored is not None:
            dirty.clear(txn, parent, last)
        elif mark:
            namespace.mark(txn, place, size, former=old)
        return Object(bucket.name, key, inode, attributes), place

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
        now = time.time_ns()
        return msgspec.structs.replace(
            old,
            explicit=True,
            revision=old.revision + 1,
            attributes_revision=old.attributes_revision + 1,
            mtime_ns=now,
            ctime_ns=now,
        )

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
        """Give `key` the bytes of `source`: extents are shared, no byte moves here.

        Bytes that are not cached are copied inside the store, if both are in the same one, else
        fetched. StaleContent when the source was replaced since it was looked at.
        """
        namespace.check_key(key)
        record = self._writable(bucket)
        mode = self._buckets.mode_of(record, key)
        etag = source.etag if etag is None else etag
        snapshot = self._contents.open(source.inode.id)
        if snapshot is None or snapshot.inode.revision != source.inode.revision:
            raise StaleContent(f"{source.key!r} was replaced while it was copied")
        with snapshot:
            whole = not snapshot.missing(0, snapshot.size)
            if mode in (WriteMode.WRITE_BACK, WriteMode.TRANSIENT) and whole:
                self._admission.admit()
                return self._share(source, record, key, attributes, etag, check, mode)
            return self._stream_copy(snapshot, record, key, attributes, etag, check)

    def _share(
        self,
        source: Object,
        bucket: Bucket,
        key: bytes,
        attributes: ObjectAttributes,
        etag: str,
        check: Check | None,
        mode: WriteMode,
    ) -> Object:
        def change(txn: Txn) -> Object:
            current = namespace.get(txn, source.inode.id)
            if current.revision != source.inode.revision:
                raise StaleContent(f"{source.key!r} was replaced while it was copied")

            def fill(txn: Txn, inode: Inode) -> InodeFlag:
                row = txn.get(Table.INLINE, namespace.key_bytes(current.id))
                if row is not None:
                    txn.put(Table.INLINE, namespace.key_bytes(inode.id), row)
                    return InodeFlag(inode.flags) | InodeFlag.INLINE
                extents.share(txn, current.id, 0, current.size, inode.id, 0, inode.revision)
                return InodeFlag(inode.flags)

            return self.publish(
                txn,
                bucket,
                key,
                fill=fill,
                size=current.size,
                etag=etag,
                attributes=attributes,
                check=check,
                stored=None,
                mark=mode != WriteMode.TRANSIENT,
            )[0]

        return self._index.commit(change)

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

    def delete(self, bucket: str, key: bytes, check: Check | None = None) -> None:
        """Remove a key; one that does not exist is no error. write_through: gone from the store
        too; if that fails the key is gone here, queued, and the store's error is raised."""
        namespace.check_key(key)
        record = self._writable(bucket)
        mode = self._buckets.mode_of(record, key)
        self.precheck(record, key, check)

        def change(txn: Txn) -> Place | None:
            if check is not None:
                check(self.find(txn, record, key))
            place = namespace.locate(txn, record.root, key)
            dentry = None if place is None else names.find(txn, place.parent, place.name)
            if place is None or dentry is None:
                return self._delete_unknown(txn, record, key)
            inode = namespace.get(txn, dentry.inode)
            if inode.is_dir:
                self._delete_marker(txn, place, inode)
            else:
                namespace.leave(txn, place.parent, place.name, inode)
                if inode.stored is not None or mode != WriteMode.TRANSIENT:
                    namespace.mark(txn, place, 0, former=inode)
                namespace.prune(txn, record.root, place.parent)
            return place

        place = self._index.commit(change, grows=False)
        if place is not None and mode in (WriteMode.WRITE_THROUGH, WriteMode.WRITE_AROUND):
            self._persister.persist(place)

    def _delete_unknown(self, txn: Txn, bucket: Bucket, key: bytes) -> Place | None:
        """A key the index does not have may be in the store if nobody ever looked."""
        if self._settled(txn, bucket, key, None):
            return None
        place = self._make_place(txn, bucket, key)
        namespace.mark(txn, place, 0)
        return place

    @staticmethod
    def _delete_marker(txn: Txn, place: Place, inode: Inode) -> None:
        if not inode.explicit:
            return
        inode = namespace.put_object_attributes(txn, inode, namespace.NO_ATTRIBUTES)
        bytes_of.drop_bytes(txn, inode.id)
        flags = inode.flags & ~InodeFlag.INLINE
        namespace.update(txn, inode, explicit=False, size=0, etag="", flags=flags)
        namespace.mark(txn, place, 0)
        namespace.prune(txn, place.bucket, inode.id)

    def update_attributes(
        self,
        bucket: str,
        key: bytes,
        change_attributes: Callable[[ObjectAttributes], ObjectAttributes],
        check: Check | None = None,
    ) -> Object:
        """Change what is attached to an object, and not its bytes."""
        record = self._writable(bucket)
        mode = self._buckets.mode_of(record, key)
        self.get(bucket, key)

        def change(txn: Txn) -> tuple[Object, Place]:
            found = self.find(txn, record, key)
            if check is not None:
                check(found)
            place = namespace.locate(txn, record.root, key)
            if found is None or place is None:
                raise NoSuchKey(key)
            attributes = change_attributes(found.attributes)
            inode = namespace.put_object_attributes(txn, found.inode, attributes)
            inode = namespace.update(txn, inode, attributes_revision=inode.attributes_revision + 1)
            namespace.mark(txn, place, 0)
            return Object(bucket, key, inode, attributes), place

        found, place = self._index.commit(change)
        if mode in (WriteMode.WRITE_THROUGH, WriteMode.WRITE_AROUND):
            self._persister.persist(place)
        return found


class ObjectWriter:
    """A body on its way to a key. One thread at a time; nothing is visible before commit()."""

    def __init__(
        self,
        objects: Objects,
        bucket: Bucket,
        key: bytes,
        mode: WriteMode,
        staged: Staged | None,
        upload: tuple[bytes, Upload] | None,
    ) -> None:
        self._objects = objects
        self._bucket = bucket
        self._key = key
        self._mode = mode
        self._staged = staged
        self._upload_key = b""
        self._upload: Upload | None = None
        if upload is not None:
            self._upload_key, self._upload = upload
        self._size = 0

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append; the chunk may be reused afterwards. CacheFull when there is no room here and
        the store does not get the bytes either; a StoreError when it refuses them."""
        if self._staged is not None:
            try:
                self._staged.write(chunk)
            except CacheFull:
                if self._upload is None:
                    raise
                # The store has every byte anyway: go on without a copy here.
                self._staged.release()
                self._staged = None
        if self._upload is not None:
            self._upload.write(chunk)
        self._size += len(chunk)

    def commit(
        self, *, etag: str, attributes: ObjectAttributes, check: Check | None = None
    ) -> Object:
        """Publish the body under its key and return once that is durable. Raises what `check`
        raises, and then nothing was changed."""
        if self._staged is not None:
            self._staged.finish()
        try:
            if self._upload is None:
                return self._commit_here(etag, attributes, check)
            return self._commit_through(self._upload, etag, attributes, check)
        finally:
            if self._staged is not None:
                self._staged.release()

    def abort(self) -> None:
        """Give the body up, if it was not committed. Idempotent."""
        if self._staged is not None:
            self._staged.release()
        if self._upload is not None:
            self._upload.abort()
            self._upload = None

    def _fill(self, txn: Txn, inode: Inode) -> InodeFlag:
        if self._staged is None:
            return InodeFlag(inode.flags) & ~InodeFlag.INLINE
        return bytes_of.publish(txn, inode, self._staged)

    def _commit_here(self, etag: str, attributes: ObjectAttributes, check: Check | None) -> Object:
        objects = self._objects
        objects.precheck(self._bucket, self._key, check)
        found, place = self._publish(etag, attributes, check, None, mark=True)
        if self._mode in (WriteMode.WRITE_THROUGH, WriteMode.WRITE_AROUND):
            objects._persister.persist(place)
        return found

    def _publish(
        self,
        etag: str,
        attributes: ObjectAttributes,
        check: Check | None,
        stored: StoredObject | None,
        *,
        mark: bool,
    ) -> tuple[Object, Place]:
        def change(txn: Txn) -> tuple[Object, Place]:
            return self._objects.publish(
                txn,
                self._bucket,
                self._key,
                fill=self._fill,
                size=self._size,
                etag=etag,
                attributes=attributes,
                check=check,
                stored=stored,
                mark=mark and self._mode != WriteMode.TRANSIENT,
            )

        # Bytes that the store confirmed need no sync here: lost, they are fetched again.
        syncs = [] if self._staged is None or stored is not None else self._staged.segments
        return self._objects._index.commit(change, syncs=syncs)

    def _commit_through(
        self, upload: Upload, etag: str, attributes: ObjectAttributes, check: Check | None
    ) -> Object:
        """The store first, then the index. Killed in between, the index still has the old object
        and a queue entry that makes the mover look at both (persist)."""
        objects = self._objects
        objects.precheck(self._bucket, self._key, check)
        place, key = objects.intend(self._bucket, self._key)
        if key != self._upload_key and self._staged is not None:
            # A directory on the way was renamed while the body arrived.
            upload.abort()
            self._upload = None
            return self._commit_here(etag, attributes, check)
        with objects._persister.holding(place.bucket, key):
            stored = upload.commit(uploaded_attributes(attributes, etag), expected=None)
            self._upload = None
            try:
                found, _ = self._publish(etag, attributes, check, stored, mark=False)
            except CacheError:
                # Somebody else was faster: the queue entry stays and puts the store right.
                log.info("%r lost a race after its upload", self._key)
                raise
        return found
