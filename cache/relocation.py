"""Moving an inode's bytes from one place of the store to another, whatever is killed meanwhile.

A move is noted, done by the store, and noted as done (cache/moving.py). Whoever meets one that was
begun by somebody who is gone settles it first. Blocking, thread-safe; every method is called under
locks that keep others from both places. Raises StoreError classes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import partial

import msgspec

from cache import dirty, moving, names, namespace
from cache.errors import StoreNotFound, StoreRefused
from cache.index import Index, Txn
from cache.records import Inode, Stored
from cache.stores.base import Store, StoredObject

log = logging.getLogger(__name__)


class Relocation:
    def __init__(self, index: Index) -> None:
        self._index = index

    def begin(self, inode: Inode, parent: int, name: bytes) -> None:
        """Note where the inode is about to go."""
        self._index.commit(lambda txn: moving.begin(txn, inode.id, parent, name), grows=False)

    def move_file(self, store: Store, inode: Inode, old: bytes, new: bytes) -> StoredObject:
        """Have the store do what was begun; its new state. A move that the store refuses never was.
        StoreNotFound if nothing is there."""
        with self._unless_refused(inode):
            found = store.rename(old, new)
        assert found is not None, "only the rename of a directory has no answer"
        return found

    def move_directory(self, store: Store, root: int, inode: Inode, old: bytes, new: bytes) -> None:
        """As move_file, for a directory with all that is below it. It need not be in the store: it
        was never put there, or has been moved already. root: of the bucket."""
        with self._unless_refused(inode):
            try:
                store.rename(old, new)
            except StoreNotFound:
                log.debug("%r is not in the store", old)
        if not store.capabilities.native_rename:
            # Before the move is noted as done: else nobody would do this after a kill.
            self._learn_versions(root, store, new)

    @contextlib.contextmanager
    def _unless_refused(self, inode: Inode) -> Iterator[None]:
        try:
            yield
        except StoreRefused:
            self._call_off(inode)
            raise

    def _call_off(self, inode: Inode) -> None:
        """Note that the inode stays where it was."""
        self._index.commit(lambda txn: moving.end(txn, inode.id), grows=False)

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

    def settle(self, store: Store, root: int, inode: Inode) -> None:
        """Find out where a move has ended that was begun and not noted as done; that of a directory
        is completed first. Nothing above the two places is on its way."""
        with self._index.read() as txn:
            inode = namespace.get(txn, inode.id)
            at, stored = moving.target(txn, inode.id), inode.stored
            if at is None:
                return
            assert stored is not None, "what has no place in the store is on its way there"
            old = namespace.store_path_of(txn, stored.parent, stored.name)
            new = namespace.store_path_of(txn, *at)
        self._index.make_durable()  # its note: whoever made it may not have lived to see that
        log.info("the store was asked to move %r to %r, and nobody heard its answer", old, new)
        found: StoredObject | None = None
        if inode.is_dir:
            self.move_directory(store, root, inode, old, new)
        else:
            found = self._found_at_target(store, stored, old, new)
            if found is None:
                self._call_off(inode)
                return
        self._index.commit(partial(self.arrived, number=inode.id, found=found), grows=False)

    @staticmethod
    def _found_at_target(
        store: Store, stored: Stored, old: bytes, new: bytes
    ) -> StoredObject | None:
        """What a file has become that reached its target; None if it never left."""
        try:
            store.head(old)
        except StoreNotFound:
            with contextlib.suppress(StoreNotFound):
                found = store.head(new)
                # Its bytes here may have changed since. Whoever had the name before was most likely
                # of another size, should others have taken away what was to come here.
                return found if found.size_bytes == stored.size else None
        return None

    @staticmethod
    def arrived(txn: Txn, number: int, found: StoredObject | None) -> None:
        """Note that the inode is where it was to go. found: what it has become there, if the store
        says."""
        inode, at = namespace.get(txn, number), moving.target(txn, number)
        assert at is not None
        assert inode.stored is not None
        moving.end(txn, number)
        dirty.come_home(txn, inode.stored.parent, inode.stored.name, number)
        dentry = names.find(txn, *at)
        if dentry is None or dentry.inode != number:
            dirty.send_away(txn, *at, number)
        version = inode.stored.version if found is None else found.version
        stored = msgspec.structs.replace(inode.stored, parent=at[0], name=at[1], version=version)
        namespace.update(txn, inode, stored=stored)
