"""The verbs of the POSIX door: names and attributes, by inode.

The root's children are the buckets: mkdir and rmdir there make and remove them. Permissions are
the kernel's business (default_permissions); what POSIX says of link counts, times, types and
emptiness is done here. Each change is one durable transaction. Blocking, thread-safe; get() and
lookup() in a known directory take microseconds and may be called inline.
"""

from __future__ import annotations

import hashlib
import stat
import time
from dataclasses import dataclass

import msgspec

from cache import names, namespace, retention, versions
from cache.buckets import Buckets
from cache.config import CacheConfig
from cache.discovery import Discovery
from cache.errors import (
    CrossesBucket,
    InvalidName,
    IsADirectory,
    NameExists,
    NoSuchInode,
    NoSuchKey,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    RenameIntoItself,
    TooManyLinks,
)
from cache.index import Index, Table, Txn
from cache.namespace import Place
from cache.open_files import mark_all, through_places
from cache.persist import Persister, place_of
from cache.records import (
    EMPTY_ETAG,
    ROOT,
    Bucket,
    Inode,
    InodeFlag,
    Kind,
    QueueEntry,
    WriteMode,
)
from cache.segments import Segments
from cache.stores.base import Store
from cache.versioning import Versioning, locking_of
from cache.versions import Versions, has_versions, is_versioned

LINK_MAX = 65_000


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """What to change; None leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Statfs:
    total_bytes: int
    free_bytes: int
    files: int


class Files:
    def __init__(
        self,
        index: Index,
        segments: Segments,
        buckets: Buckets,
        discovery: Discovery,
        persister: Persister,
        keeper: Versions,
        versioning: Versioning,
        config: CacheConfig,
    ) -> None:
        self._index = index
        self._segments = segments
        self._buckets = buckets
        self._discovery = discovery
        self._persister = persister
        self._versions = keeper
        self._versioning = versioning
        self._config = config
        self._held: dict[int, int] = {}

    # ------------------------------------------------------------------ looking

    def get(self, inode: int) -> Inode:
        """NoSuchInode."""
        with self._index.read() as txn:
            return namespace.get(txn, inode)

    def known(self, parent: int, name: bytes) -> bool:
        """Whether lookup() answers for this name without asking the store."""
        with self._index.read() as txn:
            found = namespace.lookup(txn, parent, name)
            if found is not None:
                return not found[1].flags & InodeFlag.UNSEEN
            return self._discovery.is_known(txn, namespace.get(txn, parent))

    def lookup_now(self, parent: int, name: bytes) -> Inode | None:
        """As lookup, from the index alone and without blocking; None if it has nothing there."""
        with self._index.read() as txn:
            found = namespace.lookup(txn, parent, name)
        return None if found is None else found[1]

    def lookup(self, parent: int, name: bytes) -> Inode:
        """What the mount shows under a name. NoSuchKey; StoreUnavailable when only the store
        would know."""
        learned = seen = False
        while True:
            with self._index.read() as txn:
                directory = namespace.require_directory(namespace.get(txn, parent))
                found = namespace.lookup(txn, parent, name)
                # Learned just now counts, though a store that is down left it as old as it was.
                if found is None and (learned or self._discovery.is_known(txn, directory)):
                    raise NoSuchKey(name)
            if found is None:
                self._discovery.learn_directory(parent)
                learned = True
            elif found[1].flags & InodeFlag.UNSEEN and not seen:
                self._discovery.see([found[1]])
                seen = True
            else:
                return found[1]

    def position(self, name: bytes, inode: Inode) -> bytes:
        """The `after` that continues a listing behind this entry."""
        return name + b"/" if inode.is_dir else name

    def entries(self, directory: int, after: bytes, limit: int) -> list[tuple[bytes, Inode]]:
        """Names and inodes of a directory, in the order of their positions, behind `after`."""
        found = self.entries_now(directory, after, limit)
        if found is not None:
            return found
        if not self._is_known(directory):
            self._discovery.learn_directory(directory)
        with self._index.read() as txn:
            found = self._entries(txn, directory, after, limit)
        self._discovery.see([inode for _, inode in found if inode.flags & InodeFlag.UNSEEN])
        with self._index.read() as txn:
            return self._entries(txn, directory, after, limit)

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

    def create(
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
    ) -> Inode:
        """Make a file, directory, symlink or special file. NameExists, NameTooLong, InvalidName;
        NoSuchInode in a directory that was removed."""
        _check_new_name(name)
        if parent == ROOT:
            return self._create_bucket(name, kind, mode, uid, gid)
        self._learn(parent)

        def change(txn: Txn) -> Inode:
            directory = self._live_directory(txn, parent)
            place = self._place(txn, parent, name + b"/" if kind == Kind.DIRECTORY else name)
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
            inode = self._versions.renew(txn, self._bucket(txn, place), place, inode)
            self._mark(txn, place)
            return inode

        return self._index.commit(change)

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

    def link(self, inode: int, parent: int, name: bytes) -> Inode:
        """One more name for a file."""
        _check_new_name(name)
        self._learn(parent)

        def change(txn: Txn) -> Inode:
            self._live_directory(txn, parent)
            found = namespace.get(txn, inode)
            if found.is_dir:
                raise NotPermitted("a directory has one name")
            if found.nlink >= LINK_MAX:
                raise TooManyLinks(f"inode {inode}")
            if not found.nlink:
                raise NoSuchInode(inode)
            place = self._place(txn, parent, name)
            if place.bucket != namespace.bucket_of(txn, found.parent):
                raise CrossesBucket("a link stays in its bucket")
            if namespace.lookup(txn, parent, name) is not None:
                raise NameExists(repr(name))
            found = namespace.add_link(txn, found, parent, name)
            self._mark(txn, place, found.size)
            return found

        return self._index.commit(change)

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name of a file. IsADirectory."""
        self._learn(parent)

        def change(txn: Txn) -> None:
            dentry_name, inode = self._existing(txn, parent, name)
            if inode.is_dir:
                raise IsADirectory(repr(name))
            place = self._place(txn, parent, dentry_name)
            bucket = self._bucket(txn, place)
            if is_versioned(bucket) and has_versions(inode):
                key = namespace.path_of(txn, parent, dentry_name)[1]
                self._versions.cover(txn, bucket, place, key)
            else:
                namespace.leave(txn, parent, dentry_name, inode)
                self._mark(txn, place, former=inode)
            self._keep_directory(txn, parent)

        self._index.commit(change, grows=False)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory, or bucket. NotEmpty, NotADirectory."""
        self._learn(parent)
        with self._index.read() as txn:
            _, found = self._existing(txn, parent, name)
        namespace.require_directory(found)
        self._learn(found.id)
        if parent == ROOT:
            self._buckets.delete(name.decode())
            return

        def change(txn: Txn) -> None:
            dentry_name, inode = self._existing(txn, parent, name)
            namespace.require_directory(inode)
            if not names.is_empty(txn, inode.id):
                raise NotEmpty(repr(name))
            place = self._place(txn, parent, dentry_name)
            namespace.leave(txn, parent, dentry_name, inode)
            self._mark(txn, place, former=inode)
            self._keep_directory(txn, parent)

        self._index.commit(change, grows=False)

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
        _check_new_name(new_name)
        if ROOT in (parent, new_parent):
            raise NotPermitted("a bucket keeps its name")
        self._learn(parent)
        self._learn(new_parent)
        with self._index.read() as txn:
            target = namespace.lookup(txn, new_parent, new_name)
            moving = self._passing_through(txn, parent, name)
            if exchange:
                moving += self._passing_through(txn, new_parent, new_name)
        if target is not None and target[1].is_dir:
            self._learn(target[1].id)

        def change(txn: Txn) -> None:
            source_name, source = self._existing(txn, parent, name)
            self._live_directory(txn, new_parent)
            old = self._place(txn, parent, source_name)
            suffix = b"/" if source.is_dir else b""
            new = self._place(txn, new_parent, new_name + suffix)
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
                self._exchange(
                    txn, old, source, Place(new.bucket, new.parent, target[0]), target[1]
                )
                return
            if target is not None:
                if not replace:
                    raise NameExists(repr(new_name))
                if target[1].id == source.id:
                    return  # two links of one file: rename(2) does nothing
                self._displace(txn, source, Place(new.bucket, new.parent, target[0]), target[1])
            self._move(txn, source, old, new)
            self._keep_directory(txn, parent)

        with self._persister.standing_still(moving):
            self._index.commit(change)

    def _passing_through(self, txn: Txn, parent: int, name: bytes) -> list[Place]:
        """The place of a file that S3 clients may be uploading over at this moment, straight into
        the store."""
        dentry = names.find(txn, parent, name)
        if dentry is None or dentry.kind != Kind.FILE:
            return []
        root, key = namespace.path_of(txn, parent, name)
        mode = self._buckets.mode_of(self._buckets.of_root(txn, root), key)
        through = mode in (WriteMode.WRITE_THROUGH, WriteMode.WRITE_AROUND)
        return [Place(root, parent, name)] if through else []

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
            bucket = self._bucket(txn, place)
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
            if not names.is_empty(txn, target.id):
                raise NotEmpty(repr(place.name))
        elif source.is_dir:
            raise NotADirectory(repr(place.name))
        self._versions.make_way(txn, self._bucket(txn, place), place, target)
        self._mark(txn, place, former=target)

    def _move(self, txn: Txn, inode: Inode, old: Place, new: Place) -> None:
        inode = namespace.get(txn, inode.id)
        bucket = self._bucket(txn, old)
        _check_movable(txn, inode)
        inode = namespace.move(txn, inode, old, new)
        inode = self._versions.renew(txn, bucket, new, inode)
        self._versions.left_behind(txn, bucket, old)
        self._mark(txn, old, former=inode)
        self._mark(txn, new, inode.size if inode.kind == Kind.FILE else 0)

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
        bucket = self._bucket(txn, first)
        for place, inode in ((first, one), (second, other)):
            _check_movable(txn, inode)
            if inode.is_dir:
                self._check_without_versions(txn, place, to_first, to_second)
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
        if primary_one:
            one = namespace.moved(txn, one, first, to_second)
        if primary_other:
            other = namespace.moved(txn, other, second, to_first)
        self._versions.renew(txn, bucket, to_second, one)
        self._versions.renew(txn, bucket, to_first, other)
        for place in {first, second} - {to_first, to_second}:
            self._versions.left_behind(txn, bucket, place)
        # What the store has under the two names stays there where the file is uploaded under its
        # new one: whoever has the old one now replaces that.
        self._mark(txn, first, former=one)
        self._mark(txn, second, former=other)
        for place in {to_first, to_second} - {first, second}:
            self._mark(txn, place)

    # ------------------------------------------------------------------ attributes

    def set_attributes(self, inode: int, change_to: SetAttributes) -> Inode:
        """chmod, chown, utimens. The new inode."""
        fields = {
            name: getattr(change_to, name)
            for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns")
            if getattr(change_to, name) is not None
        }

        def change(txn: Txn) -> Inode:
            found = namespace.get(txn, inode)
            self._buckets.check_changeable(txn, found)
            updated = namespace.update(
                txn,
                found,
                **fields,
                ctime_ns=change_to.ctime_ns or time.time_ns(),
                attributes_revision=found.attributes_revision + 1,
            )
            if ROOT not in (updated.parent, updated.id):
                if updated.is_dir:
                    updated = self._make_explicit(txn, updated)
                else:
                    mark_all(txn, self._buckets, updated)
            return updated

        return self._index.commit(change)

    # ------------------------------------------------------------------ syncing

    def sync(self, inode: int) -> None:
        """fsync of a directory or of an inode's attributes. Every change is durable here when it
        returns; in write_through this also waits until the store has the queued names."""
        with self._index.read() as txn:
            found = namespace.get(txn, inode)
            places = self._queued_in(txn, inode) if found.is_dir else []
        for place in (*through_places(self._index, self._buckets, found), *places):
            self._persister.persist(place)

    def _queued_in(self, txn: Txn, directory: int) -> list[Place]:
        prefix = directory.to_bytes(8, "big")
        found = []
        for _, sequence in txn.scan(Table.QUEUED, prefix, prefix):
            entry = txn.record(Table.QUEUE, sequence, QueueEntry)
            if entry is None:
                continue
            root, key = namespace.path_of(txn, entry.parent, entry.name)
            mode = self._buckets.mode_of(self._buckets.of_root(txn, root), key)
            if mode in (WriteMode.WRITE_THROUGH, WriteMode.WRITE_AROUND):
                found.append(place_of(entry))
        return found

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

    # ------------------------------------------------------------------ helpers

    def _learn(self, directory: int) -> None:
        """Before a name is made or removed: what the store has there must be known."""
        if not self._is_known(directory):
            self._discovery.learn_directory(directory)
        self._versioning.prepare(directory)

    def _is_known(self, directory: int) -> bool:
        with self._index.read() as txn:
            return self._discovery.is_known(txn, namespace.get(txn, directory))

    def _existing(self, txn: Txn, parent: int, name: bytes) -> tuple[bytes, Inode]:
        namespace.require_directory(namespace.get(txn, parent))
        found = namespace.lookup(txn, parent, name)
        if found is None:
            raise NoSuchKey(name)
        return found

    @staticmethod
    def _live_directory(txn: Txn, inode: int) -> Inode:
        directory = namespace.require_directory(namespace.get(txn, inode))
        if not directory.nlink:
            raise NoSuchInode(inode)
        return directory

    def _place(self, txn: Txn, parent: int, name: bytes) -> Place:
        if parent == ROOT:
            raise NotPermitted("the root holds buckets only")
        if namespace.is_reserved(txn, parent, name.removesuffix(b"/")):
            raise InvalidName(f"{name!r} is reserved")
        root = namespace.bucket_of(txn, parent)
        self._buckets.check_writable(self._buckets.of_root(txn, root))
        return Place(root, parent, name)

    def _bucket(self, txn: Txn, place: Place) -> Bucket:
        return self._buckets.of_root(txn, place.bucket)

    def _mark(self, txn: Txn, place: Place, size: int = 0, former: Inode | None = None) -> None:
        _, key = namespace.path_of(txn, place.parent, place.name)
        bucket = self._buckets.of_root(txn, place.bucket)
        if self._buckets.mode_of(bucket, key) != WriteMode.TRANSIENT:
            namespace.mark(txn, place, size, former)

    def _keep_directory(self, txn: Txn, directory: int) -> None:
        """A directory that the mount empties stays, though only its keys implied it."""
        inode = namespace.get(txn, directory)
        if not inode.explicit and names.is_empty(txn, directory):
            self._make_explicit(txn, inode)

    def _make_explicit(self, txn: Txn, inode: Inode) -> Inode:
        inode = namespace.update(txn, inode, explicit=True)
        if inode.parent not in (0, ROOT) and inode.nlink:
            self._mark(
                txn,
                Place(namespace.bucket_of(txn, inode.parent), inode.parent, inode.name),
            )
        return inode


def _suffix(inode: Inode) -> bytes:
    return b"/" if inode.is_dir else b""


def _check_new_name(name: bytes) -> None:
    namespace.check_name(name)
    if not names.is_posix_name(name) or b"/" in name:
        raise InvalidName(repr(name))


def _check_not_below(txn: Txn, directory: int, place: int) -> None:
    """RenameIntoItself if `place` is the directory or below it."""
    while place not in (0, ROOT):
        if place == directory:
            raise RenameIntoItself(f"inode {directory}")
        place = namespace.get(txn, place).parent


def _check_movable(txn: Txn, inode: Inode) -> None:
    """ObjectLocked for a version that must stay where it is."""
    retention.check_removable(namespace.object_attributes(txn, inode), bypass=False)


def _inherited_mode(directory: Inode, kind: Kind, mode: int) -> int:
    """A directory made in a set-group-id directory is one too (open(2), inode(7))."""
    if kind == Kind.DIRECTORY and directory.mode & stat.S_ISGID:
        return mode | stat.S_ISGID
    return mode


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
