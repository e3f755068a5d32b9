"""Multipart uploads: parts arrive in any order through any process, and become one object.

A part is an inode without a name that holds the part's extents. Completing gives those extents to
the object: no byte moves, whatever its size. In write_through a part also passes through to a
multipart upload of the store as it arrives, so that completing costs one round trip there. So do
the parts of an upload that has outgrown what may wait here for the store; those before follow when
it is completed. Blocking, thread-safe; a part writer belongs to one thread at a time.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from cache import encryption, extents, markers, namespace
from cache.admission import Admission
from cache.buckets import Buckets
from cache.contents import Contents, drop_bytes
from cache.errors import (
    InvalidPart,
    NoSuchUpload,
    NotFound,
    StaleContent,
    StoreError,
)
from cache.fitting import check_fits
from cache.index import Index, Table, Txn
from cache.namespace import Place
from cache.objects import Objects
from cache.parts import PartWriter
from cache.persist import Persister
from cache.publishing import Check, Object, Publication, Publisher
from cache.records import (
    Bucket,
    Inode,
    InodeFlag,
    Kind,
    ObjectAttributes,
    Part,
    UploadRecord,
    unpack,
)
from cache.snapshot import Snapshot, chunks
from cache.staging import Staged
from cache.stores.base import PartUpload, StoredObject
from cache.uploading import uploaded_attributes

log = logging.getLogger(__name__)

PART_NUMBER_MAX = 10_000
_BROUGHT_AT_ONCE = 4
"""Parts that follow an upload to the store at the same time."""

Parts = list[Part]
UploadRecords = list[UploadRecord]


def _upload_key(bucket: str, upload_id: str) -> bytes:
    return bucket.encode() + b"\0" + upload_id.encode("utf-8", "replace")[:64]


def _part_key(upload_id: str, number: int) -> bytes:
    return upload_id.encode() + number.to_bytes(2, "big")


class Uploads:
    def __init__(
        self,
        index: Index,
        contents: Contents,
        buckets: Buckets,
        objects: Objects,
        persister: Persister,
        publisher: Publisher,
        admission: Admission,
    ) -> None:
        self._index = index
        self._contents = contents
        self._buckets = buckets
        self._objects = objects
        self._persister = persister
        self._publisher = publisher
        self._admission = admission

    def create(
        self,
        bucket: str,
        key: bytes,
        *,
        owner: str,
        attributes: ObjectAttributes,
        checksum_algorithm: str = "",
        layout_key: bytes = b"",
    ) -> UploadRecord:
        """Begin an upload. NoSuchBucket, InvalidKey; NotSupported where a key that ends in `/`
        cannot have bytes; StoreUnavailable in write_through."""
        namespace.check_key(key)
        record = self._buckets.get(bucket)
        self._buckets.check_writable(record)
        store = self._buckets.store(record)
        markers.check_kept(record, key, None, store.capabilities)
        markers.check_unversioned(record, key, 1)
        if self._buckets.mode_of(record, key).persists:
            check_fits(self._buckets.store(record), attributes)
        store_key, token = b"", ""
        if self._buckets.mode_of(record, key).waits_for_store:
            store_key, token = self._begin_at_store(record, key, attributes)
        upload = UploadRecord(
            id=str(uuid.uuid4()),
            bucket=bucket,
            key=key,
            initiated_ns=time.time_ns(),
            owner=owner,
            attributes=attributes,
            checksum_algorithm=checksum_algorithm,
            store_token=token,
            store_key=store_key,
            layout_key=layout_key,
        )
        self._index.commit(
            lambda txn: txn.put_record(Table.UPLOADS, _upload_key(bucket, upload.id), upload)
        )
        return upload

    def _begin_at_store(
        self, bucket: Bucket, key: bytes, attributes: ObjectAttributes
    ) -> tuple[bytes, str]:
        """(key, token) of an upload there; empty where the body goes there later."""
        if markers.goes_later(bucket, key):
            return b"", ""
        with self._index.read() as txn:
            store_key = namespace.store_key_of(txn, bucket.root, key)
        store = self._buckets.store(bucket)
        return store_key, store.begin_parts(store_key, uploaded_attributes(attributes)).token

    def get(self, bucket: str, key: bytes, upload_id: str) -> UploadRecord:
        """NoSuchBucket, NoSuchUpload; also for an upload of another key."""
        with self._index.read() as txn:
            self._buckets.find(txn, bucket)
            return self._find(txn, bucket, key, upload_id)

    @staticmethod
    def _find(txn: Txn, bucket: str, key: bytes, upload_id: str) -> UploadRecord:
        upload = txn.record(Table.UPLOADS, _upload_key(bucket, upload_id), UploadRecord)
        if upload is None or upload.key != key or upload.id != upload_id:
            raise NoSuchUpload(upload_id)
        return upload

    def list(self, bucket: str) -> UploadRecords:
        """The uploads of a bucket, by key, then by time."""
        prefix = _upload_key(bucket, "")
        with self._index.read() as txn:
            self._buckets.find(txn, bucket)
            found = [unpack(v, UploadRecord) for _, v in txn.scan(Table.UPLOADS, prefix, prefix)]
        return sorted(found, key=lambda upload: (upload.key, upload.initiated_ns, upload.id))

    def abort_stale(self, age_max_s: float) -> int:
        """Abort the uploads that began, and got their last part, at least age_max_s seconds ago;
        their number. One that cannot be aborted now is left for the next time."""
        before_ns = time.time_ns() - int(age_max_s * 1e9)
        with self._index.read() as txn:
            stale = [
                upload
                for upload in (unpack(value, UploadRecord) for _, value in txn.scan(Table.UPLOADS))
                if upload.initiated_ns <= before_ns
                and all(
                    part.modified_ns <= before_ns
                    for part in self._parts(txn, upload, 0, PART_NUMBER_MAX)
                )
            ]
        aborted = 0
        for upload in stale:
            try:
                self.abort(upload)
            except NotFound:
                continue  # completed or aborted meanwhile, or its bucket is gone
            except StoreError as exc:
                log.warning("the stale upload %s is not aborted: %s", upload.id, exc)
                continue
            log.info("aborted the stale upload %s of %r", upload.id, upload.key)
            aborted += 1
        return aborted

    def parts(self, upload: UploadRecord, *, after: int = 0, limit: int = 1000) -> Parts:
        """Parts with numbers above `after`, in order."""
        with self._index.read() as txn:
            self._find(txn, upload.bucket, upload.key, upload.id)
            return self._parts(txn, upload, after, limit)

    @staticmethod
    def _parts(txn: Txn, upload: UploadRecord, after: int, limit: int) -> Parts:
        found: Parts = []
        start = _part_key(upload.id, min(after + 1, 0xFFFF))
        for _, value in txn.scan(Table.PARTS, start, upload.id.encode()):
            if len(found) >= limit:
                break
            found.append(unpack(value, Part))
        return found

    def part_writer(self, upload: UploadRecord, number: int, *, size_bytes: int) -> PartWriter:
        """Begin a part of exactly size_bytes; one with which the upload outgrows what may be dirty
        goes to the store only. DirtyLimit, also where it may not go there; InvalidPart for a bad
        number; NoSuchUpload, StoreUnavailable."""
        if not 1 <= number <= PART_NUMBER_MAX:
            raise InvalidPart(f"part number {number}")
        # Parts are mostly of one size, so the number says how much it is with those under way.
        outgrown = self._admission.is_too_large(number * size_bytes)
        if outgrown and not upload.store_token:
            upload = self._pass_on(upload)
        passing = self._resume(upload) if upload.store_token else None
        staged = None
        if passing is None:
            self._admission.admit(size_bytes)
            staged = self._contents.stage(size_bytes)
        elif not outgrown:
            staged = self._contents.stage(size_bytes, stream="fill")

        def enter(
            staged: Staged | None, etag: str, checksums: dict[str, str], store_tag: str
        ) -> Part:
            return self._enter_part(upload, number, size_bytes, staged, etag, checksums, store_tag)

        return PartWriter(number, size_bytes, staged, passing, enter)

    def _pass_on(self, upload: UploadRecord) -> UploadRecord:
        """Have the parts from now on pass through to the store, where they may: the upload as it is
        then."""
        bucket = self._buckets.get(upload.bucket)
        if not self._buckets.mode_of(bucket, upload.key).persists:
            return upload
        store_key, token = self._begin_at_store(bucket, upload.key, upload.attributes)
        if not token:
            return upload
        passing = msgspec.structs.replace(upload, store_key=store_key, store_token=token)

        def change(txn: Txn) -> UploadRecord:
            current = self._find(txn, upload.bucket, upload.key, upload.id)
            if current.store_token:
                return current  # another part was first
            txn.put_record(Table.UPLOADS, _upload_key(upload.bucket, upload.id), passing)
            return passing

        current = None
        try:
            current = self._index.commit(change)
        finally:
            if current is passing:
                log.info("upload %s of %r outgrows the cache", upload.id, upload.key)
            else:
                self._resume(passing).abort()
        return current

    def _enter_part(
        self,
        upload: UploadRecord,
        number: int,
        size_bytes: int,
        staged: Staged | None,
        etag: str,
        checksums: dict[str, str],
        store_tag: str,
    ) -> Part:
        def change(txn: Txn) -> Part:
            inode = self._new_part_inode(txn, size_bytes)
            if staged is not None:
                extents.attach(txn, inode.id, staged.extents(inode.revision))
            return self._put_part(txn, upload, number, inode, etag, checksums, store_tag)

        # Bytes that the store confirmed need no sync here: lost, they are fetched again.
        syncs = [] if staged is None or store_tag else staged.segments
        return self._index.commit(change, syncs=syncs)

    def copy_part(
        self,
        upload: UploadRecord,
        number: int,
        source: Object,
        start: int,
        stop: int,
        *,
        etag: str = "",
    ) -> Part:
        """A part from bytes [start, stop) of an object: cached extents are shared where nothing
        has to pass through to a store. etag: the MD5 of those bytes; "" if they are to be read
        for it, which happens once. StaleContent when the source was replaced; DirtyLimit."""
        snapshot = self._contents.open(source.inode.id, start, stop)
        if snapshot is None or snapshot.inode.revision != source.inode.revision:
            raise StaleContent(f"{source.key!r} was replaced while it was copied")
        with snapshot:
            shared = not upload.store_token and not snapshot.missing(start, stop)
            inline = source.inode.flags & InodeFlag.INLINE
            if shared and source.inode.kind == Kind.FILE and not inline:
                etag = etag or _md5(chunks(snapshot, start, stop))
                part = self._share_part(upload, number, snapshot, start, stop, etag)
                if part is not None:
                    return part
            return self._copy_bytes(upload, number, snapshot, start, stop, etag)

    def _copy_bytes(
        self,
        upload: UploadRecord,
        number: int,
        snapshot: Snapshot,
        start: int,
        stop: int,
        etag: str,
    ) -> Part:
        writer = self.part_writer(upload, number, size_bytes=stop - start)
        md5 = hashlib.md5(usedforsecurity=False)
        try:
            for chunk in chunks(snapshot, start, stop):
                if not etag:
                    md5.update(chunk)
                writer.write(chunk)
            return writer.commit(etag=etag or md5.hexdigest(), checksums={})
        finally:
            writer.abort()

    def _share_part(
        self,
        upload: UploadRecord,
        number: int,
        snapshot: Snapshot,
        start: int,
        stop: int,
        etag: str,
    ) -> Part | None:
        """None if bytes of the source left the index meanwhile; the snapshot has them still."""

        def change(txn: Txn) -> Part | None:
            current = namespace.get(txn, snapshot.inode.id)
            if current.revision != snapshot.inode.revision:
                raise StaleContent(f"inode {current.id} was replaced while it was copied")
            if not snapshot.still_holds(txn, start, stop):
                return None
            inode = self._new_part_inode(txn, stop - start)
            extents.share(txn, current.id, start, stop, inode.id, 0, inode.revision)
            return self._put_part(txn, upload, number, inode, etag, {}, "")

        # What the source can fetch again, and was never synced for that, the part cannot.
        return self._index.commit(change, syncs=snapshot.syncs)

    @staticmethod
    def _new_part_inode(txn: Txn, size: int) -> Inode:
        inode = namespace.new_inode(txn, Kind.FILE, mode=0, uid=0, gid=0)
        return msgspec.structs.replace(inode, size=size)

    def _put_part(
        self,
        txn: Txn,
        upload: UploadRecord,
        number: int,
        inode: Inode,
        etag: str,
        checksums: dict[str, str],
        store_tag: str,
    ) -> Part:
        """Enter a part, in place of an earlier one of its number."""
        self._find(txn, upload.bucket, upload.key, upload.id)
        key = _part_key(upload.id, number)
        earlier = txn.record(Table.PARTS, key, Part)
        if earlier is not None:
            _drop_part(txn, earlier)
        namespace.put(txn, inode)
        part = Part(
            number,
            inode.id,
            inode.size,
            etag,
            time.time_ns(),
            checksums,
            store_tag,
            encryption.overhead(upload.attributes, inode.size),
        )
        txn.put_record(Table.PARTS, key, part)
        return part

    def complete(
        self,
        upload: UploadRecord,
        parts: Parts,
        *,
        etag: str,
        attributes: ObjectAttributes,
        check: Check | None = None,
    ) -> Object:
        """Make the object of the parts, in their order. InvalidPart when one was replaced since
        it was listed; raises what `check` raises. O(extents)."""
        bucket = self._buckets.get(upload.bucket)
        mode = self._buckets.mode_of(bucket, upload.key)
        self._objects.precheck(bucket, upload.key, check)
        size = sum(part.size for part in parts)
        persist = mode.persists
        new = Publication(bucket, upload.key, size, etag, attributes, check, persist)
        if upload.store_token:
            return self._complete_through(upload, self._all_brought(upload, parts), new)
        found, place = self._index.commit(lambda txn: self._publish(txn, upload, parts, new))
        if mode.waits_for_store:
            self._persister.persist(place)
        return found

    def _all_brought(self, upload: UploadRecord, parts: Parts) -> Parts:
        """The parts, when the store has those too that came before the upload was passed on."""
        here_only = [part for part in parts if not part.store_tag]
        with ThreadPoolExecutor(_BROUGHT_AT_ONCE, thread_name_prefix="part") as pool:
            brought = pool.map(lambda part: self._bring(upload, part), here_only)
            by_number = {part.number: part for part in brought}
        return [by_number.get(part.number, part) for part in parts]

    def _bring(self, upload: UploadRecord, part: Part) -> Part:
        """Give the store a part that is here only. What it has then it keeps, should the upload not
        be completed now."""
        snapshot = self._contents.open(part.inode)
        if snapshot is None:
            raise InvalidPart(f"part {part.number} was replaced")
        snapshot.warms = False
        with snapshot:
            body = chunks(snapshot, 0, part.size)
            tag = self._resume(upload).write_part(part.number, body, part.size)
        brought = msgspec.structs.replace(part, store_tag=tag)

        def change(txn: Txn) -> None:
            self._check(txn, upload, [part])
            txn.put_record(Table.PARTS, _part_key(upload.id, part.number), brought)

        self._index.commit(change)
        return brought

    def _complete_through(self, upload: UploadRecord, parts: Parts, new: Publication) -> Object:
        place = self._publisher.intend(new.bucket, new.key)
        with self._persister.claiming(place) as key:
            if key != upload.store_key:
                raise StaleContent(f"a directory above {new.key!r} was renamed meanwhile")
            with self._index.read() as txn:
                self._check(txn, upload, parts)
            self._publisher.confirm(new, place)
            if self._publisher.keeps_versions(new.bucket):  # since the upload was begun
                self._persister.part_with(place)
                new = self._publisher.numbered(new)
            stored = self._resume(upload).commit(
                [(part.number, part.store_tag) for part in parts],
                uploaded_attributes(new.attributes, new.etag),
            )
            return self._index.commit(
                lambda txn: self._publish(txn, upload, parts, new, stored, place)
            )[0]

    def _publish(
        self,
        txn: Txn,
        upload: UploadRecord,
        parts: Parts,
        new: Publication,
        stored: StoredObject | None = None,
        claimed: Place | None = None,
    ) -> tuple[Object, Place]:
        self._check(txn, upload, parts)

        def fill(txn: Txn, inode: Inode) -> InodeFlag:
            extents.drop(txn, inode.id)
            at = 0
            for part in parts:
                extents.move(txn, part.inode, inode.id, at, inode.revision)
                at += part.size
            return InodeFlag(inode.flags) & ~InodeFlag.INLINE

        result = self._publisher.publish(txn, new, fill, stored, claimed)
        _forget(txn, upload)
        return result

    def _check(self, txn: Txn, upload: UploadRecord, parts: Parts) -> None:
        """NoSuchUpload; InvalidPart if one is not what it was when it was listed."""
        if self._find(txn, upload.bucket, upload.key, upload.id) != upload:
            raise StaleContent(f"upload {upload.id} has just outgrown the cache")
        for part in parts:
            if txn.record(Table.PARTS, _part_key(upload.id, part.number), Part) != part:
                raise InvalidPart(f"part {part.number} was replaced")

    def abort(self, upload: UploadRecord) -> None:
        """Forget the upload and free its parts, here and in the store. NoSuchUpload if another
        did. A part that arrives later is refused."""
        upload = self.get(upload.bucket, upload.key, upload.id)

        def change(txn: Txn) -> None:
            self._find(txn, upload.bucket, upload.key, upload.id)
            _forget(txn, upload)

        if upload.store_token:
            self._resume(upload).abort()
        self._index.commit(change, grows=False)

    def _resume(self, upload: UploadRecord) -> PartUpload:
        bucket = self._buckets.get(upload.bucket)
        return self._buckets.store(bucket).resume_parts(upload.store_key, upload.store_token)


def _md5(chunks: Iterable[bytes]) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        md5.update(chunk)
    return md5.hexdigest()


def _drop_part(txn: Txn, part: Part) -> None:
    drop_bytes(txn, part.inode)
    namespace.erase(txn, part.inode)


def _forget(txn: Txn, upload: UploadRecord) -> None:
    prefix = upload.id.encode()
    for key, value in list(txn.scan(Table.PARTS, prefix, prefix)):
        _drop_part(txn, unpack(value, Part))
        txn.delete(Table.PARTS, key)
    txn.delete(Table.UPLOADS, _upload_key(upload.bucket, upload.id))
