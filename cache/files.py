"""The verbs of the POSIX door: names and attributes, by inode. (rename(2) is cache/renames.py.)

The root's children are the buckets: mkdir and rmdir there make and remove them. Permissions are
the kernel's business (default_permissions); what POSIX says of link counts, times, types and
emptiness is done here. Each change is one transaction. Blocking, thread-safe; get() and lookup()
in a known directory take microseconds and may be called inline, and what has a `wait` with False:
it raises WouldWait, and has done nothing, where it would block.
"""

from __future__ import annotations

import hashlib
import stat
import time
from dataclasses import dataclass

import msgspec

from cache import markers, names, namespace
from cache.buckets import Buckets
from cache.directories import Directories, check_new_name
from cache.discovery import Discovery
from cache.errors import (
    CrossesBucket,
    InvalidName,
    IsADirectory,
    NameExists,
    NoSuchInode,
    NoSuchKey,
    NotPermitted,
    TooManyLinks,
    WouldWait,
)
from cache.index import Index, Table, Txn
from cache.marking import mark_all, through_places, through_places_in
from cache.persist import Persister
from cache.records import EMPTY_ETAG, ROOT, Inode, InodeFlag, Kind
from cache.stores.base import Store
from cache.versions import Versions, has_versions, is_versioned

LINK_MAX = 65_000
_LINKS_QUICK = 64


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """What to change; None leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None

    @property
    def only_mtime(self) -> bool:
        """Nothing but the time of the last write, and with it that of the change."""
        others = (self.mode, self.uid, self.gid, self.atime_ns)
        return self.mtime_ns is not None and others == (None, None, None, None)


@dataclass(frozen=True, slots=True)
class Statfs:
    total_bytes: int
    free_bytes: int
    files: int


class Files:
    def __init__(
        self,
        index: Index,
        buckets: Buckets,
        directories: Directories,
        discovery: Discovery,
        persister: Persister,
        keeper: Versions,
    ) -> None:
        self._index = index
        self._buckets = buckets
        self._directories = directories
        self._discovery = discovery
        self._persister = persister
        self._versions = keeper
        self._held: dict[int, int] = {}

    # ------------------------------------------------------------------ looking

    def get(self, inode: int) -> Inode:
        """NoSuchInode."""
        with self._index.read() as txn:
            return namespace.get(txn, inode)

    def names_of(self, inode: int) -> list[tuple[int, bytes]]:
        """All (parent, name) of a file; none if it has none any more."""
        with self._index.read() as txn:
            try:
                found = namespace.get(txn, inode)
            except NoSuchInode:
                return []
            return namespace.links(txn, found) if found.nlink else []

    def lookup_now(self, parent: int, name: bytes) -> Inode | None:
        """As lookup, from the index alone and without blocking; None if it has nothing there."""
        with self._index.read() as txn:
            found = namespace.lookup(txn, parent, name)
        return None if found is None else found[1]

    def lookup(self, parent: int, name: bytes, *, wait: bool = True) -> Inode:
        """What the mount shows under a name. NoSuchKey; where only the store would know it is
        asked, or StoreUnavailable; wait: False for WouldWait instead."""
        learned = seen = False
        while True:
            with self._index.read() as txn:
                directory = namespace.require_directory(namespace.get(txn, parent))
                found = namespace.lookup(txn, parent, name)
                # Learned just now counts, though a store that is down left it as old as it was.
                if found is None and (learned or self._discovery.is_known(txn, directory)):
                    raise NoSuchKey(name)
            if found is not None and (seen or not found[1].flags & InodeFlag.UNSEEN):
                return found[1]
            if not wait:
                raise WouldWait(name)
            if found is None:
                self._discovery.learn_directory(parent)
                learned = True
            else:
                self._discovery.see([found[1]])
                seen = True

    def position(self, name: bytes, inode: Inode) -> bytes:
        """The `after` that continues a listing behind this entry."""
        return name + b"/" if inode.is_dir else name

    def entries(self, directory: int, after: bytes, limit: int) -> list[tuple[bytes, Inode]]:
        """Names and inodes of a directory, in the order of their positions, behind `after`."""
        found = self.entries_now(directory, after, limit)
        if found is not None:
            return found
        if not self._directories.is_known(directory):
            self._discovery.learn_directory(directory)
        with self._index.read() as txn:
            found = self._entries(txn, directory, after, limit)
        self._discovery.see([inode for _, inode in found if inode.flags & InodeFlag.UNSEEN])
        with self._index.read() as txn:
            return self._entries(txn, directory, after, limit)

    @property
    def last_change(self) -> int:
        """See Index.last_change."""
        return self._index.last_change

    def is_known(self, directory: int) -> bool:
        """Whether the index alone can answer for a directory now. NoSuchInode. Inline."""
        return self._directories.is_known(directory)

    def entries_now(
        self, directory: int, after: bytes, limit: int
    ) -> list[tuple[bytes, Inode]] | None:
        """As entries, from the index alone and without blocking; None when the store must be
        asked."""
        with self._index.read() as txn:
            inode = namespace.require_directory(namespace.get(txn, directory))
            if not self._discovery.is_known(txn, inode):
                return None
            found = self._entries(txn, directory, after, limit)
        unseen = any(inode.flags & InodeFlag.UNSEEN for _, inode in found)
        return None if unseen else found

    @staticmethod
    def _entries(txn: Txn, directory: int, after: bytes, limit: int) -> list[tuple[bytes, Inode]]:
        found: list[tuple[bytes, Inode]] = []
        for name, dentry in names.scan(txn, directory, after):
            if len(found) >= limit:
                break
            plain = name.removesuffix(b"/")
            if name == after or not names.is_posix_name(plain):
                continue
            # Beside a directory of the same name, the file is hidden.
            if plain is name and names.find(txn, directory, name + b"/") is not None:
                continue
            if namespace.is_reserved(txn, directory, plain):
                continue
            found.append((plain, namespace.get(txn, dentry.inode)))
        return found

    # ------------------------------------------------------------------ holding

    def hold(self, inode: int) -> None:
        """Keep an inode alive without a name; drop() as often."""
        self._held[inode] = self._held.get(inode, 0) + 1

    def drop(self, inode: int) -> None:
        left = self._held.get(inode, 0) - 1
        if left > 0:
            self._held[inode] = left
        else:
            self._held.pop(inode, None)

    def held(self) -> set[int]:
        """Inodes that the mount's kernel still uses: not to be reaped."""
        return set(self._held)

    # ------------------------------------------------------------------ making and removing

    def create(  # noqa: PLR0913  what mknod(2) and symlink(2) are told
        self,
        parent: int,
        name: bytes,
        *,
        kind: Kind,
        mode: int,
        uid: int,
        gid: int,
        rdev: int = 0,
        target: bytes = b"",
        wait: bool = True,
    ) -> Inode:
        """Make a file, directory, symlink or special file. NameExists, NameTooLong, InvalidName;
        NoSuchInode in a directory that was removed."""
        check_new_name(name)
        if parent == ROOT:
            if not wait:
                raise WouldWait("the store of a bucket is asked")
            return self._create_bucket(name, kind, mode, uid, gid)
        self._directories.learn(parent, wait=wait)

        def change(txn: Txn) -> Inode:
            directory = self._directories.alive(txn, parent)
            dentry_name = name + b"/" if kind == Kind.DIRECTORY else name
            place = self._directories.place(txn, parent, dentry_name)
            if namespace.lookup(txn, parent, name) is not None:
                raise NameExists(repr(name))
            inode = namespace.new_inode(
                txn,
                kind,
                mode=_inherited_mode(directory, kind, mode),
                uid=uid,
                gid=directory.gid if directory.mode & stat.S_ISGID else gid,
            )
            inode = msgspec.structs.replace(
                inode,
                rdev=rdev,
                target=target,
                size=len(target),
                etag=EMPTY_ETAG if kind == Kind.FILE else _md5(target),
                listed_ns=time.time_ns() if kind == Kind.DIRECTORY else 0,
            )
            inode = namespace.enter(txn, parent, place.name, inode)
            inode = self._versions.renew(txn, self._directories.bucket(txn, place), place, inode)
            self._directories.mark(txn, place)
            return inode

        return self._index.commit(change, durable=False, wait=wait)

    def _create_bucket(self, name: bytes, kind: Kind, mode: int, uid: int, gid: int) -> Inode:
        if kind != Kind.DIRECTORY:
            raise NotPermitted("the root holds buckets only")
        try:
            text = name.decode()
        except UnicodeDecodeError as exc:
            raise InvalidName(f"not a bucket name: {name!r}") from exc
        bucket = self._buckets.create(text, "")
        change = SetAttributes(mode=mode, uid=uid, gid=gid)
        return self.set_attributes(bucket.root, change)

    def link(self, inode: int, parent: int, name: bytes, *, wait: bool = True) -> Inode:
        """One more name for a file."""
        check_new_name(name)
        self._directories.learn(parent, wait=wait)

        def change(txn: Txn) -> Inode:
            self._directories.alive(txn, parent)
            found = namespace.get(txn, inode)
            if found.is_dir:
                raise NotPermitted("a directory has one name")
            if found.nlink >= LINK_MAX:
                raise TooManyLinks(f"inode {inode}")
            if not found.nlink:
                raise NoSuchInode(inode)
            _check_quick(found, wait)
            place = self._directories.place(txn, parent, name)
            if place.bucket != namespace.bucket_of(txn, found.parent):
                raise CrossesBucket("a link stays in its bucket")
            if namespace.lookup(txn, parent, name) is not None:
                raise NameExists(repr(name))
            found = namespace.add_link(txn, found, parent, name)
            self._directories.mark(txn, place)
            return found

        with self._persister.standing_still([inode], wait=wait):
            return self._index.commit(change, durable=False, wait=wait)

    def unlink(self, parent: int, name: bytes, *, wait: bool = True) -> None:
        """Remove a name of a file. IsADirectory."""
        self._directories.learn(parent, wait=wait)

        def change(txn: Txn) -> None:
            dentry_name, inode = self._directories.existing(txn, parent, name)
            if inode.is_dir:
                raise IsADirectory(repr(name))
            _check_quick(inode, wait)
            place = self._directories.place(txn, parent, dentry_name)
            bucket = self._directories.bucket(txn, place)
            if is_versioned(bucket) and has_versions(inode):
                key = namespace.path_of(txn, parent, dentry_name)[1]
                self._versions.cover(txn, bucket, place, key)
            else:
                namespace.leave(txn, parent, dentry_name, inode)
                self._directories.mark(txn, place, former=inode)
            self._directories.keep(txn, parent)

        self._index.commit(change, grows=False, durable=False, wait=wait)

    def rmdir(self, parent: int, name: bytes, *, wait: bool = True) -> None:
        """Remove an empty directory, or bucket. NotEmpty, NotADirectory."""
        self._directories.learn(parent, wait=wait)
        with self._index.read() as txn:
            _, found = self._directories.existing(txn, parent, name)
        namespace.require_directory(found)
        self._directories.learn(found.id, wait=wait)
        if parent == ROOT:
            if not wait:
                raise WouldWait("the store of a bucket is asked")
            self._buckets.delete(name.decode())
            return

        def change(txn: Txn) -> None:
            dentry_name, inode = self._directories.existing(txn, parent, name)
            namespace.require_directory(inode)
            markers.check_empty(txn, inode)
            place = self._directories.place(txn, parent, dentry_name)
            namespace.leave(txn, parent, dentry_name, inode)
            self._directories.mark(txn, place, former=inode)
            self._directories.keep(txn, parent)

        self._index.commit(change, grows=False, durable=False, wait=wait)

    # ------------------------------------------------------------------ attributes

    def set_attributes(self, inode: int, change_to: SetAttributes, *, wait: bool = True) -> Inode:
        """chmod, chown, utimens. The new inode."""
        fields = {
            name: getattr(change_to, name)
            for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns")
            if getattr(change_to, name) is not None
        }

        def change(txn: Txn) -> Inode:
            found = namespace.get(txn, inode)
            self._buckets.check_changeable(txn, found)
            _check_quick(found, wait)
            updated = namespace.update(
                txn,
                found,
                **fields,
                ctime_ns=change_to.ctime_ns or time.time_ns(),
                attributes_revision=found.attributes_revision + 1,
            )
            if ROOT not in (updated.parent, updated.id):
                if updated.is_dir:
                    updated = self._directories.make_explicit(txn, updated)
                else:
                    mark_all(txn, self._buckets, updated)
            return updated

        return self._index.commit(change, durable=False, wait=wait)

    # ------------------------------------------------------------------ syncing

    def sync(self, inode: int) -> None:
        """fsync of a directory or of an inode's attributes. Every change is durable here when it
        returns; in write_through this also waits until the store has the queued names."""
        self._index.make_durable()
        with self._index.read() as txn:
            found = namespace.get(txn, inode)
            places = through_places_in(txn, self._buckets, inode) if found.is_dir else []
        for place in (*through_places(self._index, self._buckets, found), *places):
            self._persister.persist(place)

    def statfs(self) -> Statfs:
        """The stores' capacity where they have one, else a petabyte that is all free."""
        with self._index.read() as txn:
            files = txn.count(Table.INODES)
        figures = [f for store in self._stores() if (f := store.statfs()) is not None]
        if not figures:
            return Statfs(1 << 50, 1 << 50, files)
        total, free = max(figures)
        return Statfs(total, free, files)

    def _stores(self) -> list[Store]:
        return [self._buckets.store(bucket) for bucket in self._buckets.list()]


def _check_quick(inode: Inode, wait: bool) -> None:
    """WouldWait where a loop would be busy with all the names of a file."""
    if not wait and not inode.is_dir and inode.nlink > _LINKS_QUICK:
        raise WouldWait(f"inode {inode.id} has {inode.nlink} names")


def _inherited_mode(directory: Inode, kind: Kind, mode: int) -> int:
    """A directory made in a set-group-id directory is one too (open(2), inode(7))."""
    if kind == Kind.DIRECTORY and directory.mode & stat.S_ISGID:
        return mode | stat.S_ISGID
    return mode


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
