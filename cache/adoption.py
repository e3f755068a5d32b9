"""How an object that the store shows becomes an inode: clean, without cached bytes.

Whoever asked the store (cache/discovery.py, cache/reconcile.py) has made sure that the name is the
store's to say. A changed object gives its name a new inode, as rename(2) over it would (design,
invariant 4); one that is known from a listing only is UNSEEN until its attributes are asked for.
All is part of the caller's transaction.
"""

from __future__ import annotations

import hashlib

import msgspec

from cache import encryption, markers, names, namespace
from cache.buckets import Buckets
from cache.bytes_told import with_bytes_told
from cache.changes import Change
from cache.config import CacheConfig
from cache.index import Txn
from cache.namespace import Place
from cache.own_attributes import learned
from cache.records import Dentry, Inode, InodeFlag, Kind, ObjectAttributes, Stored
from cache.stores.base import StoredAttributes, StoredObject


class Adoption:
    def __init__(self, buckets: Buckets, config: CacheConfig) -> None:
        self._buckets = buckets
        self._config = config

    def adopt(self, txn: Txn, place: Place, found: StoredObject) -> None:
        """Make the index show what the store has under a name that is not ours to say."""
        dentry = names.find(txn, place.parent, place.name)
        old: Inode | None = None
        if dentry is not None:
            old = namespace.get(txn, dentry.inode)
            if old.stored is not None and old.stored.version == found.version:
                if old.flags & InodeFlag.UNSEEN and found.attributes is not None:
                    self._see(txn, place, old, found)
                return
            if old.stored is None and not old.is_dir:
                return  # transient: never in the store
            if self._is_another_name(old, place) and found.size_bytes == old.size:
                return  # its object is a copy, and its version nowhere noted
        if place.name.endswith(b"/"):
            self._adopt_directory(txn, place, old, found)
            return
        if old is not None:
            namespace.leave(txn, place.parent, place.name, old)
        inode = self._inode(txn, place, found)
        _enter(txn, place.parent, place.name, inode)

    def adopt_implied(self, txn: Txn, parent: int, name: bytes) -> None:
        """Enter a directory that the store shows only by the keys in it, unless it is there."""
        if names.find(txn, parent, name) is not None:
            return
        inode = namespace.new_inode(
            txn,
            Kind.DIRECTORY,
            mode=self._config.directory_mode,
            uid=self._config.default_uid,
            gid=self._config.default_gid,
        )
        _enter(txn, parent, name, msgspec.structs.replace(inode, explicit=False))

    @staticmethod
    def _is_another_name(inode: Inode, place: Place) -> bool:
        """Whether the place is one of a file's hard links, and not the one that leads to its bytes
        in the store."""
        return (
            not inode.is_dir
            and inode.nlink > 1
            and (inode.parent, inode.name) != (place.parent, place.name)
        )

    def _adopt_directory(
        self, txn: Txn, place: Place, old: Inode | None, found: StoredObject
    ) -> None:
        if old is None:
            inode = self._inode(txn, place, found)
            path = namespace.path_of(txn, place.parent, place.name)[1]
            # Nobody makes directories among the versions: they go with the last of these.
            among_versions = path.startswith(names.VERSIONS)
            inode = msgspec.structs.replace(inode, explicit=not among_versions)
            _enter(txn, place.parent, place.name, inode)
            return
        # Where directories are real, every implied one is there too, and says nothing by it.
        store = self._buckets.store(self._buckets.of_root(txn, place.bucket))
        if old.size or found.size_bytes:
            inode = self._described(txn, markers.without_bytes(txn, old), place, found)
        else:
            stored = _stored_at(place, old, found)
            inode = msgspec.structs.replace(old, stored=stored, **self._posix_of(place, found))
        explicit = old.explicit or not store.capabilities.native_directories or inode.size > 0
        namespace.put(txn, msgspec.structs.replace(inode, explicit=explicit))
        namespace.announce(txn, place.parent, place.name)

    def _inode(self, txn: Txn, place: Place, found: StoredObject) -> Inode:
        kind = Kind.DIRECTORY if place.name.endswith(b"/") else Kind.FILE
        inode = namespace.new_inode(txn, kind, mode=0, uid=0, gid=0)
        return self._described(txn, inode, place, found)

    def _see(self, txn: Txn, place: Place, inode: Inode, found: StoredObject) -> None:
        """Give an inode that was known from a listing only the attributes of its object."""
        inode = self._described(txn, inode, place, found)
        namespace.put(txn, inode)
        names.put(txn, place.parent, place.name, Dentry(inode.id, inode.kind))
        namespace.announce(txn, place.parent, place.name)
        txn.changes.append(Change(0, b"", inode.id))

    def _described(self, txn: Txn, inode: Inode, place: Place, found: StoredObject) -> Inode:
        """The inode as the store describes its object."""
        attributes = found.attributes or StoredAttributes()
        kind = Kind.DIRECTORY if place.name.endswith(b"/") else attributes.kind
        posix = self._posix_of(place, found)
        target = attributes.symlink_target or b""
        size = len(target) if kind == Kind.SYMLINK else found.size_bytes
        unseen = InodeFlag.UNSEEN if found.attributes is None else 0
        inode = msgspec.structs.replace(
            inode,
            kind=kind,
            flags=inode.flags & ~InodeFlag.UNSEEN | unseen,
            size=size,
            ctime_ns=posix["mtime_ns"],
            atime_ns=posix["mtime_ns"],
            rdev=attributes.rdev,
            target=target,
            etag=attributes.s3_etag or etag_of_version(found.version),
            stored=_stored_at(place, inode, found),
            **posix,
        )
        known = learned(
            ObjectAttributes(
                content_type=attributes.content_type or "",
                headers=dict(attributes.headers),
                metadata=dict(attributes.metadata),
                tags=dict(attributes.tags),
            ),
            attributes.own,
        )
        known = with_bytes_told(known, attributes.checksums, size)
        inode = msgspec.structs.replace(inode, overhead=encryption.overhead(known, size))
        return namespace.put_object_attributes(txn, inode, encryption.with_part_sizes(known, size))

    def _posix_of(self, place: Place, found: StoredObject) -> dict[str, int]:
        """Mode, owner and mtime as the store has them, or as they are by default."""
        config = self._config
        attributes = found.attributes or StoredAttributes()
        is_dir = place.name.endswith(b"/")
        default_mode = config.directory_mode if is_dir else config.file_mode
        mtime_ns = attributes.mtime_ns
        return {
            "mode": default_mode if attributes.mode is None else attributes.mode & 0o7777,
            "uid": config.default_uid if attributes.uid is None else attributes.uid,
            "gid": config.default_gid if attributes.gid is None else attributes.gid,
            "mtime_ns": found.modified_ns if mtime_ns is None else mtime_ns,
        }


def _stored_at(place: Place, inode: Inode, found: StoredObject) -> Stored:
    return Stored(
        place.parent,
        place.name,
        found.version,
        found.size_bytes,
        inode.revision,
        inode.attributes_revision,
    )


def _enter(txn: Txn, parent: int, name: bytes, inode: Inode) -> None:
    """Give what the store has its name. To learn of it first is no change of the directory: that
    keeps the times that it has in the store."""
    above = namespace.get(txn, parent)
    namespace.enter(txn, parent, name, inode)
    if not above.listed_ns:
        now = namespace.get(txn, parent)
        namespace.update(txn, now, mtime_ns=above.mtime_ns, ctime_ns=above.ctime_ns)


def etag_of_version(version: str) -> str:
    """An ETag for an object that others wrote into the store: its ETag there, or on a file system
    the token of its state, made to look like no MD5."""
    cleaned = version.strip('"')
    if cleaned and all(c in "0123456789abcdef-" for c in cleaned) and len(cleaned) >= 32:
        return cleaned
    return hashlib.md5(version.encode(), usedforsecurity=False).hexdigest() + "-0"
