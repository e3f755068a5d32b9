"""Doing what one name needs in the store: upload, follow a rename, change attributes, delete.

Called under the locks of the name's key, with the way free (cache/persist.py). Each step may be
the last before a kill: what the store answers is noted in one change, and what was done without a
note is recognised when it is met again. Blocking, thread-safe. Raises StoreError classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from functools import partial

import msgspec

from cache import dirty, moving, names, namespace
from cache.comparison import NOT_QUEUED, Comparison, Task
from cache.contents import is_dirty
from cache.discovery import Discovery
from cache.errors import (
    NoSuchInode,
    StaleContent,
    StoreChanged,
    StoreNotFound,
    StoreUnavailable,
)
from cache.index import Index, Table, Txn
from cache.keeping import Keeper
from cache.namespace import Place
from cache.records import (
    ROOT,
    Inode,
    Stored,
)
from cache.relocation import Relocation
from cache.stores.base import ABSENT, StoredAttributes, StoredObject
from cache.uploading import Uploader, is_ours

log = logging.getLogger(__name__)


class Reconciler:
    def __init__(
        self,
        index: Index,
        uploader: Uploader,
        discovery: Discovery,
        comparison: Comparison,
        keeper: Keeper,
        relocation: Relocation,
    ) -> None:
        self._index = index
        self._uploader = uploader
        self._discovery = discovery
        self._comparison = comparison
        self._keeper = keeper
        self._relocation = relocation

    def reconcile(self, task: Task) -> bool:
        """Under the key's lock, of a task that was looked at under it; False when it must be looked
        at again."""
        if task.inode is not None and task.inode.is_dir and task.has_moved:
            return False  # renamed since: that needs another lock
        self._index.make_durable()  # what that look saw: the store learns nothing else
        if task.mode.persists:
            return self._store(task)
        if task.inode is not None and not task.inode.is_dir and task.has_moved:
            # Renamed from where things are persisted: what is here now stays here only.
            self._keeper.keep_here(task.inode)
        self._clear(task)
        return True

    def _store(self, task: Task) -> bool:
        """What a name needs in a store that is to have it."""
        if task.inode is None:
            return self._remove(task)
        inode = task.inode
        if inode.is_dir:
            return self._put_directory(task, inode)
        if inode.nlink > 1 and (inode.parent, inode.name) != (task.place.parent, task.place.name):
            found = self._uploader.upload(task, inode, expected=None)
            self._index.commit(partial(self._note_copy, task=task, version=found.version))
            return True
        if is_dirty(inode):
            return self._finish(task, inode, self._uploader.upload_checked(task, inode))
        if task.has_moved:
            return self._finish(task, inode, self._follow(task, inode))
        assert inode.stored is not None
        if inode.stored.attributes_revision != inode.attributes_revision:
            return self._change_attributes(task, inode)
        if task.touched == NOT_QUEUED:
            return True  # settled while this waited for the locks, as each write_through is
        return self._verify(task, inode)

    def _note_copy(self, txn: Txn, task: Task, version: str) -> None:
        """The store has a copy of the file under one of its further names."""
        place = task.place
        if dirty.clear(txn, place.parent, place.name, task.touched):
            dirty.note_copy(txn, place.parent, place.name, version)
        else:
            dirty.rebase(txn, place.parent, place.name, version)
        self._mark_above(txn, task)

    def _remove(self, task: Task) -> bool:
        if task.intent:
            return self._see_intent(task)
        if not task.owned:
            task.store.delete(task.key)
        elif task.base:
            self._index.commit(partial(self._hand_over, task=task), grows=False)
        self._clear(task)
        return True

    @staticmethod
    def _hand_over(txn: Txn, task: Task) -> None:
        """The key is a live name's by now, in a directory that took the name of one that is gone:
        what lies there is what the live one is to replace."""
        owner = namespace.store_owner(txn, task.place.bucket, task.key)
        if owner is None:
            return
        inode = namespace.get(txn, owner)
        entry = dirty.find(txn, inode.parent, inode.name)
        if inode.stored is None and entry is not None and not entry.base:
            dirty.rebase(txn, inode.parent, inode.name, task.base)

    def _see_intent(self, task: Task) -> bool:
        """An upload was begun and never came to the index: what the store has there, ours or not,
        counts. Nothing is removed."""
        found: StoredObject | None = None
        with contextlib.suppress(StoreNotFound):
            found = task.store.head(task.key)

        def change(txn: Txn) -> None:
            place = task.place
            cleared = dirty.clear(txn, place.parent, place.name, task.touched)
            if cleared and found is not None and namespace.get(txn, place.parent).nlink:
                self._discovery.adoption.adopt(txn, place, found)
            namespace.prune(txn, place.bucket, place.parent)

        self._discovery.commit(change, grows=False)
        self._look_for_more(task.place.parent)
        return True

    def _verify(self, task: Task, inode: Inode) -> bool:
        """A clean name in the queue: a write_through was cut off between the store and the index.
        Nobody was told that it succeeded; the store has it, so it counts."""
        assert inode.stored is not None
        try:
            found = task.store.head(task.key)
        except StoreNotFound:
            return self._finish(task, inode, self._uploader.upload(task, inode, ABSENT))
        return self._adopt(task, found)

    def _adopt(self, task: Task, found: StoredObject) -> bool:
        """What the store has counts, unless the name was marked again since it was looked at."""

        def change(txn: Txn) -> None:
            place = task.place
            if dirty.clear(txn, place.parent, place.name, task.touched):
                self._discovery.adoption.adopt(txn, place, found)

        self._discovery.commit(change)
        return True

    def _put_directory(self, task: Task, inode: Inode) -> bool:
        if not inode.explicit and not task.store.capabilities.native_directories:
            if not task.intent:
                # The marker that it had when it was explicit, or that of whoever had the name
                # before, which may have come there without anybody's note.
                task.store.delete(task.key)
                self._keeper.forget_place(inode)
            self._clear(task)
            return True
        if is_dirty(inode) or (
            inode.stored is not None
            and inode.stored.attributes_revision != inode.attributes_revision
        ):
            return self._finish(task, inode, self._write_marker(task, inode))
        if inode.explicit and task.store.capabilities.native_directories:
            # Marked because something was put into it or taken out: its time again. It need not be
            # there, if nothing ever was below it.
            attributes = self._uploader.attributes_of(inode, task.attributes)
            try:
                task.store.set_attributes(task.key, attributes)
            except StoreNotFound:
                return self._finish(task, inode, task.store.put(task.key, (), 0, attributes))
        self._clear(task)
        return True

    def move_directory(self, task: Task) -> bool:
        """Under the bucket's lock: nothing below either place is touched by others."""
        inode = task.inode
        assert inode is not None
        assert inode.stored is not None
        with self._index.read() as txn:
            old = namespace.store_path_of(txn, inode.stored.parent, inode.stored.name)
            new = namespace.store_path_of(txn, task.place.parent, task.place.name)
        log.info("the store follows a rename: %r -> %r", old, new)
        self._relocation.begin(inode, task.place.parent, task.place.name)
        self._relocation.move_directory(task.store, task.place.bucket, inode, old, new)
        found = StoredObject(new, 0, inode.stored.version, time.time_ns())
        if inode.explicit:
            found = self._write_marker(task, inode)
        elif not task.store.capabilities.native_directories:
            # It has no marker of its own, and one that came along, or was here before, must go.
            inode = msgspec.structs.replace(inode, revision=namespace.NOT_STORED)
        return self._finish(task, inode, found)

    def _write_marker(self, task: Task, inode: Inode) -> StoredObject:
        """Give the store the directory as it is, and what S3 clients put under its key."""
        if inode.size and not is_dirty(inode):
            with contextlib.suppress(StoreNotFound):
                return task.store.set_attributes(
                    task.key, self._uploader.attributes_of(inode, task.attributes)
                )
        return self._uploader.upload(task, inode, expected=None)

    def _follow(self, task: Task, inode: Inode) -> StoredObject:
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
                self._uploader.attributes_of(inode, task.attributes),
            )
        except (StoreNotFound, StoreChanged) as exc:
            log.warning("%r is not in the store as it was (%s); uploading", old, exc)
            try:
                return self._uploader.upload(task, inode, None)
            except StaleContent as stale:
                raise StoreChanged(f"{old!r} was changed by others and is not cached") from stale

    def _rename(self, task: Task, inode: Inode, old: bytes) -> StoredObject:
        """The file that a clean inode is moves in one step, with the attributes that changed."""
        assert inode.stored is not None
        attributes = self._uploader.attributes_of(inode, task.attributes)
        there = task.store.head(old)
        if there.version != inode.stored.version:
            raise StoreChanged(f"{old!r} is {there.version}, not {inode.stored.version}")
        self._relocation.begin(inode, task.place.parent, task.place.name)
        found = self._relocation.move_file(task.store, inode, old, task.key)
        if inode.stored.attributes_revision != inode.attributes_revision:
            found = task.store.set_attributes(task.key, attributes, expected=found.version)
        return found

    def _change_attributes(self, task: Task, inode: Inode) -> bool:
        assert inode.stored is not None
        attributes = self._uploader.attributes_of(inode, task.attributes)
        try:
            found = task.store.set_attributes(task.key, attributes, expected=inode.stored.version)
        except StoreNotFound:
            found = self._uploader.upload_checked(task, inode)
        except StoreChanged:
            theirs = task.store.head(task.key)
            if not is_ours(inode, theirs):
                return self._take_theirs(task, inode, theirs)
            found = task.store.set_attributes(task.key, attributes, expected=theirs.version)
        return self._finish(task, inode, found)

    def _take_theirs(self, task: Task, inode: Inode, theirs: StoredObject) -> bool:
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
        return self._adopt(task, found)

    def _finish(self, task: Task, seen: Inode, found: StoredObject) -> bool:
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
            moving.end(txn, inode.id)
            stored = Stored(
                place.parent,
                place.name,
                found.version,
                found.size_bytes,
                seen.revision,
                seen.attributes_revision,
            )
            namespace.update(txn, inode, stored=stored)
            dentry = names.find(txn, place.parent, place.name)
            if dentry is None or dentry.inode != inode.id:
                # Renamed or replaced meanwhile: the bytes lie where the name was; so do those of
                # whatever has still to leave a directory that was removed.
                if inode.nlink or (inode.is_dir and dirty.waits_below(txn, inode.id)):
                    dirty.send_away(txn, place.parent, place.name, inode.id)
                dirty.rebase(txn, place.parent, place.name, found.version)
                return False
            if not seen.is_dir or seen.stored is None or task.has_moved:
                self._mark_above(txn, task)
            same = (inode.revision, inode.attributes_revision) == (
                seen.revision,
                seen.attributes_revision,
            )
            if not same or not dirty.clear(txn, place.parent, place.name, task.touched):
                # Whoever takes the name while it waits finds this there, not what was before.
                dirty.rebase(txn, place.parent, place.name, found.version)
            return same

        return self._index.commit(change, grows=False)

    def _clear(self, task: Task) -> None:
        place = task.place

        def change(txn: Txn) -> None:
            dirty.clear(txn, place.parent, place.name, task.touched)
            if task.inode is None:
                # A write that failed may have left implicit directories for its key.
                namespace.prune(txn, place.bucket, place.parent)
                self._follow_up(txn, place)
            if task.inode is None or not task.inode.is_dir:
                self._mark_above(txn, task)

        self._discovery.commit(change, grows=False)
        if task.inode is None:
            self._look_for_more(place.parent)

    @staticmethod
    def _mark_above(txn: Txn, task: Task) -> None:
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
        namespace.keep_above(txn, above)
