"""rename(2) in the mount: one transaction, however much is below a directory.

Versions of a key stay with the key: a file that moves is a new version where it arrives, and what
else there is of its old key stays hidden under a delete marker. A directory whose keys have
versions cannot move. The store follows later (cache/persist.py). Blocking, thread-safe.
"""

from __future__ import annotations

from cache import markers, marking, names, namespace, retention, versions
from cache.buckets import Buckets
from cache.directories import Directories, check_new_name
from cache.errors import (
    CrossesBucket,
    IsADirectory,
    NameExists,
    NoSuchKey,
    NotADirectory,
    NotPermitted,
    RenameIntoItself,
)
from cache.index import Index, Txn
from cache.namespace import Place
from cache.persist import Persister
from cache.records import ROOT, Inode, Kind, WriteMode
from cache.versioning import locking_of
from cache.versions import Versions, is_versioned


class Renames:
    def __init__(
        self,
        index: Index,
        buckets: Buckets,
        directories: Directories,
        persister: Persister,
        keeper: Versions,
    ) -> None:
        self._index = index
        self._buckets = buckets
        self._directories = directories
        self._persister = persister
        self._versions = keeper

    def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        *,
        exchange: bool = False,
        replace: bool = True,
    ) -> None:
        """rename(2), and renameat2(2)'s RENAME_EXCHANGE and RENAME_NOREPLACE. One transaction,
        however much is below a directory."""
        check_new_name(new_name)
        if ROOT in (parent, new_parent):
            raise NotPermitted("a bucket keeps its name")
        self._directories.learn(parent)
        self._directories.learn(new_parent)
        with self._index.read() as txn:
            target = namespace.lookup(txn, new_parent, new_name)
        if target is not None and target[1].is_dir:
            self._directories.learn(target[1].id)
        moving = [(parent, name), (new_parent, new_name)] if exchange else [(parent, name)]

        def change(txn: Txn) -> bool:
            """False if other files, or the store, have the names by now."""
            if _stored_at(txn, moving) != still:
                return False
            self._rename_in(
                txn, parent, name, new_parent, new_name, exchange=exchange, replace=replace
            )
            return True

        while True:
            with self._index.read() as txn:
                still = _stored_at(txn, moving)
            with self._persister.standing_still(still):
                if self._index.commit(change, durable=False):
                    return

    def _rename_in(
        self,
        txn: Txn,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        *,
        exchange: bool,
        replace: bool,
    ) -> None:
        source_name, source = self._directories.existing(txn, parent, name)
        self._directories.alive(txn, new_parent)
        old = self._directories.place(txn, parent, source_name)
        new = self._directories.place(txn, new_parent, new_name + _suffix(source))
        if old.bucket != new.bucket:
            raise CrossesBucket("a rename stays in its bucket")
        if source.is_dir:
            _check_not_below(txn, source.id, new_parent)
            self._check_same_modes(txn, old, new)
            self._check_without_versions(txn, old, new)
        target = namespace.lookup(txn, new_parent, new_name)
        if exchange:
            if target is None:
                raise NoSuchKey(new_name)
            self._exchange(txn, old, source, Place(new.bucket, new.parent, target[0]), target[1])
            return
        if target is not None:
            if not replace:
                raise NameExists(repr(new_name))
            if target[1].id == source.id:
                return  # two links of one file: rename(2) does nothing
            self._displace(txn, source, Place(new.bucket, new.parent, target[0]), target[1])
        self._move(txn, source, old, new)
        self._directories.keep(txn, parent)

    def _check_same_modes(self, txn: Txn, old: Place, new: Place) -> None:
        """CrossesBucket when a directory would leave or enter a transient place: what is below it
        was never queued, or always, and one transaction cannot visit it all."""
        bucket = self._buckets.of_root(txn, old.bucket)
        modes = [
            self._buckets.modes_below(bucket, namespace.path_of(txn, place.parent, place.name)[1])
            for place in (old, new)
        ]
        if WriteMode.TRANSIENT in modes[0] ^ modes[1] or (
            WriteMode.TRANSIENT in modes[0] and len(modes[0] | modes[1]) > 1
        ):
            raise CrossesBucket("a directory stays among persisted keys, or among transient ones")

    def _check_without_versions(self, txn: Txn, *places: Place) -> None:
        """CrossesBucket for a directory that has, or would come upon, versions of keys in it: they
        belong to the keys and stay, so that what moves must be copied and deleted one by one."""
        for place in places:
            bucket = self._directories.bucket(txn, place)
            _, path = namespace.path_of(txn, place.parent, place.name)
            if locking_of(bucket) is not None or (
                is_versioned(bucket)
                and versions.directory_of(txn, place.bucket, path + b"name") is not None
            ):
                raise CrossesBucket("keys in the directory have versions")

    def _displace(self, txn: Txn, source: Inode, place: Place, target: Inode) -> None:
        if target.is_dir:
            if not source.is_dir:
                raise IsADirectory(repr(place.name))
            markers.check_empty(txn, target)
        elif source.is_dir:
            raise NotADirectory(repr(place.name))
        self._versions.make_way(txn, self._directories.bucket(txn, place), place, target)
        self._directories.mark(txn, place, former=target)

    def _move(self, txn: Txn, inode: Inode, old: Place, new: Place) -> None:
        inode = namespace.get(txn, inode.id)
        bucket = self._directories.bucket(txn, old)
        _check_movable(txn, inode)
        inode = namespace.move(txn, inode, old, new)
        inode = self._versions.renew(txn, bucket, new, inode)
        self._versions.left_behind(txn, bucket, old)
        waiting = marking.waiting_bytes(txn, old)
        self._directories.mark(txn, old, former=inode)
        self._directories.mark(txn, new, waiting)

    def _exchange(self, txn: Txn, first: Place, one: Inode, second: Place, other: Inode) -> None:
        if one.id == other.id:
            return
        if other.is_dir:
            _check_not_below(txn, other.id, first.parent)
        plain_first = first.name.removesuffix(b"/")
        plain_second = second.name.removesuffix(b"/")
        to_second = Place(second.bucket, second.parent, plain_second + _suffix(one))
        to_first = Place(first.bucket, first.parent, plain_first + _suffix(other))
        for to, leaving in ((to_first, first), (to_second, second)):
            if to != leaving and names.find(txn, to.parent, to.name) is not None:
                # Beside a directory an object may hide under the same name (namespace.lookup).
                raise NameExists(f"{to.name!r} is taken by a hidden object")
        primary_one = (one.parent, one.name) == (first.parent, first.name)
        primary_other = (other.parent, other.name) == (second.parent, second.name)
        bucket = self._directories.bucket(txn, first)
        for place, inode in ((first, one), (second, other)):
            _check_movable(txn, inode)
            if inode.is_dir:
                self._check_without_versions(txn, place, to_first, to_second)
        one_hidden = namespace.is_hidden(txn, first, one)
        other_hidden = namespace.is_hidden(txn, second, other)
        namespace.detach(txn, first.parent, first.name, one)
        namespace.detach(txn, second.parent, second.name, other)
        one = namespace.attach(
            txn, to_second.parent, to_second.name, namespace.get(txn, one.id), primary=primary_one
        )
        other = namespace.attach(
            txn,
            to_first.parent,
            to_first.name,
            namespace.get(txn, other.id),
            primary=primary_other,
        )
        # That which has no place in the store goes first: the other's may be where it comes from,
        # and is only in the way there until it has come home.
        if primary_one and one.stored is None:
            one = namespace.moved(txn, one, first, to_second, hidden=one_hidden)
            primary_one = False
        if primary_other:
            other = namespace.moved(txn, other, second, to_first, hidden=other_hidden)
        if primary_one:
            one = namespace.moved(txn, one, first, to_second, hidden=one_hidden)
        self._versions.renew(txn, bucket, to_second, one)
        self._versions.renew(txn, bucket, to_first, other)
        for place in {first, second} - {to_first, to_second}:
            self._versions.left_behind(txn, bucket, place)
        # What the store has under the two names stays there where the file is uploaded under its
        # new one: whoever has the old one now replaces that.
        self._directories.mark(txn, first, former=one)
        self._directories.mark(txn, second, former=other)
        for place in {to_first, to_second} - {first, second}:
            self._directories.mark(txn, place)


def _stored_at(txn: Txn, places: list[tuple[int, bytes]]) -> set[int]:
    """The files under some names, of those that the store has: it may be alone with their bytes."""
    dentries = (names.find(txn, parent, name) for parent, name in places)
    found = (namespace.get(txn, dentry.inode) for dentry in dentries if dentry is not None)
    return {inode.id for inode in found if inode.kind == Kind.FILE and inode.stored is not None}


def _suffix(inode: Inode) -> bytes:
    return b"/" if inode.is_dir else b""


def _check_not_below(txn: Txn, directory: int, place: int) -> None:
    """RenameIntoItself if `place` is the directory or below it."""
    while place not in (0, ROOT):
        if place == directory:
            raise RenameIntoItself(f"inode {directory}")
        place = namespace.get(txn, place).parent


def _check_movable(txn: Txn, inode: Inode) -> None:
    """ObjectLocked for a version that must stay where it is."""
    retention.check_removable(namespace.object_attributes(txn, inode), bypass=False)
