"""Directories as the POSIX door changes them: what must hold before a name in one is made, moved or
removed, and what is noted after.

`Files` and `Renames` are made of these steps. Methods that take a transaction are part of the
caller's change; learn() asks the store and blocks.
"""

from __future__ import annotations

from cache import marking, names, namespace
from cache.buckets import Buckets
from cache.discovery import Discovery
from cache.errors import InvalidName, NoSuchInode, NoSuchKey, NotPermitted, WouldWait
from cache.index import Index, Txn
from cache.namespace import Place
from cache.records import ROOT, Bucket, Inode
from cache.versioning import Versioning


class Directories:
    def __init__(
        self, index: Index, buckets: Buckets, discovery: Discovery, versioning: Versioning
    ) -> None:
        self._index = index
        self._buckets = buckets
        self._discovery = discovery
        self._versioning = versioning

    def is_known(self, directory: int) -> bool:
        """Whether a name that is not in the index is known to be missing."""
        with self._index.read() as txn:
            return self._discovery.is_known(txn, namespace.get(txn, directory))

    def learn(self, directory: int, *, wait: bool = True) -> None:
        """Before a name is made or removed: what the store has there must be known. Blocks where
        it is not; wait: False for WouldWait instead. StoreUnavailable."""
        known, bucket = self._look(directory)
        if not known:
            if not wait:
                raise WouldWait(f"directory {directory} is not known")
            self._discovery.learn_directory(directory)
            _, bucket = self._look(directory)
        if bucket is not None:
            self._versioning.prepare(bucket, directory, wait=wait)

    def _look(self, directory: int) -> tuple[bool, Bucket | None]:
        """Whether it is known, and its bucket; the root has none."""
        with self._index.read() as txn:
            known = self._discovery.is_known(txn, namespace.get(txn, directory))
            if directory == ROOT:
                return known, None
            return known, self._buckets.of_root(txn, namespace.bucket_of(txn, directory))

    # ------------------------------------------------------------------ before

    def existing(self, txn: Txn, parent: int, name: bytes) -> tuple[bytes, Inode]:
        """The name as its dentry has it, and its inode. NoSuchKey, NotADirectory."""
        namespace.require_directory(namespace.get(txn, parent))
        found = namespace.lookup(txn, parent, name)
        if found is None:
            raise NoSuchKey(name)
        return found

    def alive(self, txn: Txn, inode: int) -> Inode:
        """The directory that a name is to be made in. NoSuchInode if it was removed."""
        directory = namespace.require_directory(namespace.get(txn, inode))
        if not directory.nlink:
            raise NoSuchInode(inode)
        return directory

    def place(self, txn: Txn, parent: int, name: bytes) -> Place:
        """Where a name is about to change. NotPermitted, InvalidName."""
        if parent == ROOT:
            raise NotPermitted("the root holds buckets only")
        if namespace.is_reserved(txn, parent, name.removesuffix(b"/")):
            raise InvalidName(f"{name!r} is reserved")
        place = Place(namespace.bucket_of(txn, parent), parent, name)
        self._buckets.check_writable(self.bucket(txn, place))
        return place

    def bucket(self, txn: Txn, place: Place) -> Bucket:
        return self._buckets.of_root(txn, place.bucket)

    # ------------------------------------------------------------------ after

    def mark(self, txn: Txn, place: Place, size: int = 0, former: Inode | None = None) -> None:
        """As namespace.mark, where the bucket persists."""
        marking.mark(txn, self._buckets, place, size, former)

    def keep(self, txn: Txn, directory: int) -> None:
        """A directory that the mount empties stays, though only its keys implied it."""
        inode = namespace.get(txn, directory)
        if not inode.explicit and names.is_empty(txn, directory):
            self.make_explicit(txn, inode)

    def make_explicit(self, txn: Txn, inode: Inode) -> Inode:
        """Let a directory be there whether or not it holds anything: an object of its own."""
        inode = namespace.update(txn, inode, explicit=True)
        if inode.parent not in (0, ROOT) and inode.nlink:
            bucket = namespace.bucket_of(txn, inode.parent)
            self.mark(txn, Place(bucket, inode.parent, inode.name))
        return inode


def check_new_name(name: bytes) -> None:
    """InvalidName, NameTooLong."""
    namespace.check_name(name)
    if not names.is_posix_name(name) or b"/" in name:
        raise InvalidName(repr(name))
