"""A body on its way to a key: what a PUT writes to, and how it becomes an object.

In write_through the body goes to the store while it arrives, and to the cache beside; in
write_around to the store only; else to the cache, and to the store later, unless it is larger than
what may wait for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from cache.errors import CacheError, StoreUnavailable
from cache.index import Recipient, Request, Txn
from cache.namespace import Place
from cache.persist import Persister
from cache.publishing import Check, Object, Publication, Publisher
from cache.records import Bucket, Inode, InodeFlag, ObjectAttributes, WriteMode
from cache.staging import Staged, publish, stage
from cache.stores.base import StoredObject, Upload
from cache.uploading import uploaded_attributes

log = logging.getLogger(__name__)

Precheck = Callable[[Bucket, bytes, Check | None], None]
"""Evaluates a condition before the store is changed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a body goes."""

    bucket: Bucket
    key: bytes
    mode: WriteMode
    store_key: bytes = b""  # of `upload`, when it was begun
    upload: Upload | None = None


class ObjectWriter:
    """One thread at a time; nothing is visible before commit()."""

    def __init__(
        self,
        target: Target,
        staged: Staged | None,
        publisher: Publisher,
        persister: Persister,
        precheck: Precheck,
    ) -> None:
        self._target = target
        self._staged = staged
        self._upload = target.upload
        self._publisher = publisher
        self._persister = persister
        self._precheck = precheck
        self._size = 0

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append; the chunk may be reused afterwards. CacheFull when there is no room here and
        the store does not get the bytes either; a StoreError when it refuses them."""
        self._staged = stage(self._staged, chunk, needed=self._upload is None)
        if self._upload is not None:
            self._upload.write(chunk)
        self._size += len(chunk)

    def commit(
        self, *, etag: str, attributes: ObjectAttributes, check: Check | None = None
    ) -> Object:
        """Publish the body under its key and return once that is durable. Raises what `check`
        raises, and then nothing was changed."""
        target = self._target
        new = self._finished(etag, attributes, check)
        try:
            self._precheck(target.bucket, target.key, check)
            if self._upload is None:
                return self._commit_here(new)
            return self._commit_through(self._upload, new)
        finally:
            if self._staged is not None:
                self._staged.release()

    def submit(
        self, recipient: Recipient, *, etag: str, attributes: ObjectAttributes
    ) -> Request[Object]:
        """As commit, for a writer of Objects.writer_now, without waiting: see Index.submit."""
        assert self._staged is not None
        assert self._staged.inline is not None
        assert not self._target.mode.waits_for_store
        new = self._finished(etag, attributes, None)
        publisher = self._publisher
        return publisher.index.submit(
            lambda txn: publisher.publish(txn, new, self._fill)[0], recipient
        )

    def _finished(
        self, etag: str, attributes: ObjectAttributes, check: Check | None
    ) -> Publication:
        """No more bytes will come: what is to be published."""
        target = self._target
        if self._staged is not None:
            self._staged.finish()
        return Publication(
            target.bucket,
            target.key,
            self._size,
            etag,
            attributes,
            check,
            persist=target.mode.persists,
        )

    def abort(self) -> None:
        """Give the body up, if it was not committed. Idempotent."""
        if self._staged is not None:
            self._staged.release()
        if self._upload is not None:
            self._upload.abort()
            self._upload = None

    def _commit_here(self, new: Publication) -> Object:
        found, place = self._publish(new)
        if self._target.mode.waits_for_store:
            self._persister.persist(place)
        return found

    def _commit_through(self, upload: Upload, new: Publication) -> Object:
        """The store first, then the index. Killed in between, the index still has the old object
        and a queue entry that makes the mover look at both (persist)."""
        place = self._publisher.intend(new.bucket, new.key)
        with self._persister.claiming(place) as key:
            # Of a versioned bucket the store has the version that is to be replaced, too.
            if key == self._target.store_key and not self._publisher.keeps_versions(new.bucket):
                self._publisher.confirm(new, place)
                stored = upload.commit(uploaded_attributes(new.attributes, new.etag))
                self._upload = None
                try:
                    return self._publish(new, stored, place)[0]
                except CacheError:
                    # Somebody else was faster: the queue entry stays and puts the store right.
                    log.info("%r lost a race after its upload", new.key)
                    raise
        # A directory on the way was renamed while the body arrived, or versioning was enabled.
        upload.abort()
        self._upload = None
        if self._staged is None:
            raise StoreUnavailable(f"the place of {new.key!r} changed meanwhile")
        return self._commit_here(new)

    def _publish(
        self,
        new: Publication,
        stored: StoredObject | None = None,
        claimed: Place | None = None,
    ) -> tuple[Object, Place]:
        # Bytes that the store confirmed need no sync here: lost, they are fetched again.
        syncs = [] if self._staged is None or stored is not None else self._staged.segments
        return self._publisher.index.commit(
            lambda txn: self._publisher.publish(txn, new, self._fill, stored, claimed), syncs=syncs
        )

    def _fill(self, txn: Txn, inode: Inode) -> InodeFlag:
        if self._staged is None:
            return InodeFlag(inode.flags) & ~InodeFlag.INLINE
        return publish(txn, inode, self._staged)
