"""Names: what leads to which inode, for both doors.

Functions of a transaction over the dentry tree of cache/names.py. They keep what must always hold:
a directory's link count, the times of a directory whose names change, that an implicit directory
vanishes with its last name, that an inode without a name becomes an orphan, that a name that
differs from the store is in the queue, and that the mount learns what its kernel must forget.

`a` and `a/` may both exist, as S3 allows; the mount shows the directory.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec

from cache import dirty, moving, names
from cache.changes import Change
from cache.config import CacheConfig
from cache.errors import InvalidKey, NameTooLong, NoSuchInode, NotADirectory
from cache.index import Table, Txn
from cache.records import (
    ROOT,
    Dentry,
    Inode,
    InodeFlag,
    InodeId,
    Kind,
    ObjectAttributes,
    Stored,
)

NO_ATTRIBUTES = ObjectAttributes()
KEY_MAX = 1024
NOT_STORED = -1
"""As the revision of a Stored: what is below the place is there, the directory's own object need
not be."""
_RESERVED = names.VERSIONS[:-1]


class Place(NamedTuple):
    """A name in the tree: its dentry's parent and name (with `/` for a directory)."""

    bucket: int  # inode id of the bucket's root directory
    parent: int
    name: bytes


def key_bytes(inode: int) -> bytes:
    return inode.to_bytes(8, "big")


def get(txn: Txn, inode: int) -> Inode:
    found = txn.inodes.get(inode)
    if found is None:
        found = txn.record(Table.INODES, key_bytes(inode), Inode)
        if found is None:
            raise NoSuchInode(inode)
        txn.inodes[inode] = found
    return found


def put(txn: Txn, inode: Inode) -> None:
    txn.put_record(Table.INODES, key_bytes(inode.id), inode)
    txn.inodes[inode.id] = inode


def erase(txn: Txn, inode: int) -> None:
    """Remove the inode's own row, and no other."""
    txn.delete(Table.INODES, key_bytes(inode))
    txn.inodes.pop(inode, None)


def update(txn: Txn, inode: Inode, **fields: object) -> Inode:
    changed = msgspec.structs.replace(inode, **fields)
    put(txn, changed)
    return changed


def new_inode(
    txn: Txn, kind: Kind, *, mode: int, uid: int, gid: int, now_ns: int | None = None
) -> Inode:
    """An inode without a name yet; not stored."""
    now_ns = time.time_ns() if now_ns is None else now_ns
    return Inode(
        id=txn.next_id(),
        kind=kind,
        mode=mode,
        uid=uid,
        gid=gid,
        size=0,
        nlink=2 if kind == Kind.DIRECTORY else 1,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        revision=1,
        attributes_revision=1,
    )


def object_attributes(txn: Txn, inode: Inode) -> ObjectAttributes:
    if not inode.has(InodeFlag.OBJECT):
        return NO_ATTRIBUTES
    found = txn.record(Table.OBJECTS, key_bytes(inode.id), ObjectAttributes)
    return found if found is not None else NO_ATTRIBUTES


def put_object_attributes(txn: Txn, inode: Inode, attributes: ObjectAttributes) -> Inode:
    """Attach attributes; returns the inode with its flag, which the caller stores."""
    if attributes == NO_ATTRIBUTES:
        txn.delete(Table.OBJECTS, key_bytes(inode.id))
        flags = inode.flags & ~(InodeFlag.OBJECT | InodeFlag.CLASSED)
        return msgspec.structs.replace(inode, flags=flags)
    txn.put_record(Table.OBJECTS, key_bytes(inode.id), attributes)
    classed = InodeFlag.CLASSED if "storage-class" in attributes.own else 0
    flags = inode.flags & ~InodeFlag.CLASSED | InodeFlag.OBJECT | classed
    return msgspec.structs.replace(inode, flags=flags)


def forget_checksums(txn: Txn, inode: Inode) -> Inode:
    """Before its bytes change through the mount: what S3 clients said of the old ones (checksums,
    parts) is no longer true, and they refuse bodies that do not match. As put_object_attributes."""
    attributes = object_attributes(txn, inode)
    if not (attributes.checksums or attributes.part_sizes):
        return inode
    return put_object_attributes(
        txn,
        inode,
        msgspec.structs.replace(
            attributes, checksums={}, checksum_type="", part_sizes=[], part_checksums=b""
        ),
    )


# ------------------------------------------------------------------------------------ finding


def lookup(txn: Txn, parent: int, name: bytes) -> tuple[bytes, Inode] | None:
    """What the mount shows under a name (given without `/`), with its dentry name: the directory
    where both exist."""
    if is_reserved(txn, parent, name):
        return None
    for dentry_name in (name + b"/", name):
        dentry = names.find(txn, parent, dentry_name)
        if dentry is not None:
            return dentry_name, get(txn, dentry.inode)
    return None


def is_reserved(txn: Txn, parent: int, name: bytes) -> bool:
    """Whether a name (given without `/`) is a bucket's own, and none of its files'."""
    return name == _RESERVED and get(txn, parent).parent == ROOT


def check_key(key: bytes) -> None:
    """InvalidKey unless S3 allows the key, and it is not one of ours."""
    if not 0 < len(key) <= KEY_MAX:
        raise InvalidKey(f"a key has 1 to {KEY_MAX} bytes, this one {len(key)}")
    if key.startswith(_RESERVED) and key[len(_RESERVED) : len(names.VERSIONS)] in (b"", b"/"):
        raise InvalidKey(f"{names.VERSIONS!r} is reserved")


def resolve(txn: Txn, root: int, key: bytes) -> Inode | None:
    """The inode under an S3 key; a key that ends in `/` means an explicit directory."""
    found = locate(txn, root, key)
    if found is None:
        return None
    dentry = names.find(txn, found.parent, found.name)
    if dentry is None:
        return None
    inode = get(txn, dentry.inode)
    return None if inode.is_dir and not inode.explicit else inode


def locate(txn: Txn, root: int, key: bytes) -> Place | None:
    """Where the key's dentry is, or would be: None if a directory on its way is missing."""
    directories, last = names.split_key(key)
    parent = root
    for name in directories:
        dentry = names.find(txn, parent, name)
        if dentry is None:
            return None
        parent = dentry.inode
    return Place(root, parent, last)


def path_of(txn: Txn, parent: int, name: bytes) -> tuple[int, bytes]:
    """(bucket root, key) of a dentry."""
    parts = [name]
    while True:
        inode = get(txn, parent)
        if inode.parent in (0, ROOT):
            return parent, b"".join(reversed(parts))
        parts.append(inode.name)
        parent = inode.parent


def store_path_of(txn: Txn, parent: int, name: bytes) -> bytes:
    """The key under which the store knows a dentry: a renamed directory keeps its old name there
    until the store has followed (cache/persist.py)."""
    parts = [name]
    while True:
        inode = get(txn, parent)
        if inode.parent in (0, ROOT):
            return b"".join(reversed(parts))
        if inode.stored is not None:
            parts.append(inode.stored.name)
            parent = inode.stored.parent
        else:
            parts.append(inode.name)
            parent = inode.parent


def store_key_of(txn: Txn, root: int, key: bytes) -> bytes:
    """The key under which the store knows a key, or would know it once it is there."""
    place = locate(txn, root, key)
    return key if place is None else store_path_of(txn, place.parent, place.name)


def store_owner(txn: Txn, root: int, key: bytes) -> int | None:
    """The inode whose object lies, or is to lie, under this key of the store; None if nobody's."""
    directories, last = names.split_key(key)
    node = root
    for name in [*directories, last]:
        away = dirty.away_at(txn, node, name)
        if away is None:
            dentry = names.find(txn, node, name)
            if dentry is None:
                return None
            away = dentry.inode
        node = away
    return node


def in_the_way(txn: Txn, place: Place, own: int | None) -> int | None:
    """The first inode that must move in the store before anything is done at this place: its bytes
    still lie there, or at a directory on the way, although its name is elsewhere by now, so that
    what the store has there is not the place's. Or it is a directory on the way that came out of
    the very one that is to go below it.
    own: the inode that has the place's name."""
    above = get(txn, place.parent)
    steps = [(place.parent, place.name, own)]
    came_out = None
    while above.id != place.bucket:
        if above.id == own and came_out is not None:
            return came_out
        if above.stored is None:
            steps.append((above.parent, above.name, above.id))
        else:
            steps.append((above.stored.parent, above.stored.name, above.id))
            if steps[-1][:2] != (above.parent, above.name):
                came_out = above.id
        above = get(txn, steps[-1][0])
    for parent, name, expected in reversed(steps):
        away = dirty.away_at(txn, parent, name)
        if away is not None and away != expected:
            return away
    return None


def unsettled(txn: Txn, root: int, *inodes: int) -> int | None:
    """The topmost of these inodes and the directories above them in the store that was on its way
    inside the store when somebody was killed: it and all below it are at one of two places.
    root: of the bucket."""
    for lowest in inodes:
        number, found = lowest, None
        while number != root:
            if moving.target(txn, number) is not None:
                found = number
            inode = get(txn, number)
            number = inode.parent if inode.stored is None else inode.stored.parent
        if found is not None:
            return found
    return None


def bucket_of(txn: Txn, parent: int) -> int:
    return path_of(txn, parent, b"")[0]


# ------------------------------------------------------------------------------------ changing


def make_directories(txn: Txn, root: int, directories: list[bytes], config: CacheConfig) -> int:
    """Walk to the last directory, adding implicit ones where they are missing; its inode id."""
    parent = root
    for name in directories:
        dentry = names.find(txn, parent, name)
        if dentry is not None:
            parent = dentry.inode
            continue
        above = get(txn, parent)
        inode = msgspec.structs.replace(
            new_inode(
                txn,
                Kind.DIRECTORY,
                mode=config.directory_mode,
                uid=config.default_uid,
                gid=config.default_gid,
            ),
            explicit=False,
            # What was never listed may exist in the store; below a known directory it cannot.
            listed_ns=time.time_ns() if above.listed_ns else 0,
        )
        enter(txn, parent, name, inode)
        parent = inode.id
    return parent


def enter(txn: Txn, parent: int, name: bytes, inode: Inode) -> Inode:
    """Give an inode a name that is free. Stores the inode with its back reference."""
    inode = msgspec.structs.replace(inode, parent=parent, name=name)
    put(txn, inode)
    names.put(txn, parent, name, Dentry(inode.id, inode.kind))
    _touch_parent(txn, parent, links=1 if inode.is_dir else 0)
    announce(txn, parent, name)
    return inode


def leave(txn: Txn, parent: int, name: bytes, inode: Inode) -> Inode:
    """Take a name from an inode; without any left it becomes an orphan, reaped later."""
    names.delete(txn, parent, name)
    _touch_parent(txn, parent, links=-1 if inode.is_dir else 0)
    announce(txn, parent, name)
    nlink = 0 if inode.is_dir else inode.nlink - 1
    inode = msgspec.structs.replace(inode, ctime_ns=time.time_ns(), nlink=nlink)
    txn.changes.append(Change(0, b"", inode.id))  # whoever has it open sees the link count
    if nlink == 0:
        # The back reference stays: entries of the queue below a removed directory still need
        # its path. The sequence tells when no such entry can be left (cache/recovery.py).
        sequence = txn.get(Table.META, b"next_sequence") or b""
        txn.put(Table.ORPHANS, key_bytes(inode.id), sequence)
        if inode.is_dir:
            inode = _leave_behind(txn, parent, name, inode)
    else:
        txn.delete(Table.LINKS, link_key(inode.id, parent, name))
        others = _linked(txn, inode)
        if (inode.parent, inode.name) == (parent, name):
            inode = _lead(txn, inode, others[0])
        if nlink == 1:
            txn.delete(Table.LINKS, link_key(inode.id, *others[0]))
    put(txn, inode)
    return inode


def _leave_behind(txn: Txn, parent: int, name: bytes, inode: Inode) -> Inode:
    """What the store still has below a directory that was removed is nobody else's, not even a new
    directory's of the same name: it stays in the way until the persister has removed it."""
    stored = inode.stored
    if stored is None:
        stored = Stored(parent, name, "", 0, inode.revision, inode.attributes_revision)
    if not dirty.waits_below(txn, inode.id) and moving.target(txn, inode.id) is None:
        dirty.come_home(txn, stored.parent, stored.name, inode.id)
    elif dirty.away_at(txn, stored.parent, stored.name) is None:
        dirty.send_away(txn, stored.parent, stored.name, inode.id)
    return msgspec.structs.replace(inode, stored=stored)


def keep_above(txn: Txn, inode: Inode) -> None:
    """Keep the removed directories above one, by its name and in the store: an entry was queued
    for it just now, later than they were removed, and needs their path (cache/recovery.py)."""
    sequence = dirty.last_sequence(txn)
    waiting = [inode]
    while waiting:
        below = waiting.pop()
        above = {below.parent, *([below.stored.parent] if below.stored is not None else [])}
        for key in (key_bytes(number) for number in above):
            found = txn.record(Table.INODES, key, Inode)
            if found is not None and txn.get(Table.ORPHANS, key) not in (None, sequence):
                txn.put(Table.ORPHANS, key, sequence)
                waiting.append(found)


def _lead(txn: Txn, inode: Inode, name: tuple[int, bytes]) -> Inode:
    """Make another name of a file the one that leads to its bytes in the store: they move there
    before the old place is written or removed, as after a rename."""
    stored = inode.stored
    if stored is not None and (stored.parent, stored.name) == (inode.parent, inode.name):
        dirty.send_away(txn, stored.parent, stored.name, inode.id)
        dirty.mark(txn, bucket_of(txn, name[0]), *name, 0)
    return msgspec.structs.replace(inode, parent=name[0], name=name[1])


def add_link(txn: Txn, inode: Inode, parent: int, name: bytes) -> Inode:
    """Give a file one more name. All names of an inode with several are rows of `links`."""
    for above, link in ((inode.parent, inode.name), (parent, name)):
        txn.put(Table.LINKS, link_key(inode.id, above, link), link)
    inode = update(txn, inode, nlink=inode.nlink + 1, ctime_ns=time.time_ns())
    names.put(txn, parent, name, Dentry(inode.id, inode.kind))
    _touch_parent(txn, parent, links=0)
    announce(txn, parent, name)
    txn.changes.append(Change(0, b"", inode.id))
    return inode


def detach(txn: Txn, parent: int, name: bytes, inode: Inode) -> None:
    """Take a name from an inode that is about to get another: rename."""
    names.delete(txn, parent, name)
    if inode.nlink > 1 and not inode.is_dir:
        txn.delete(Table.LINKS, link_key(inode.id, parent, name))
    _touch_parent(txn, parent, links=-1 if inode.is_dir else 0)
    announce(txn, parent, name)


def attach(txn: Txn, parent: int, name: bytes, inode: Inode, *, primary: bool) -> Inode:
    """The other half of detach. primary: the name that the back reference names moves."""
    if inode.nlink > 1 and not inode.is_dir:
        txn.put(Table.LINKS, link_key(inode.id, parent, name), name)
    fields: dict[str, object] = {"ctime_ns": time.time_ns()}
    if primary:
        fields |= {"parent": parent, "name": name}
    inode = update(txn, inode, **fields)
    names.put(txn, parent, name, Dentry(inode.id, inode.kind))
    _touch_parent(txn, parent, links=1 if inode.is_dir else 0)
    announce(txn, parent, name)
    txn.changes.append(Change(0, b"", inode.id))
    return inode


def move(txn: Txn, inode: Inode, old: Place, new: Place) -> Inode:
    """Rename: one name of an inode, which may be the one that leads to its bytes in the store.
    The caller queues both places."""
    primary = (inode.parent, inode.name) == (old.parent, old.name)
    hidden = is_hidden(txn, old, inode)
    detach(txn, old.parent, old.name, inode)
    inode = attach(txn, new.parent, new.name, inode, primary=primary)
    return moved(txn, inode, old, new, hidden=hidden) if primary else inode


def links(txn: Txn, inode: Inode) -> list[tuple[int, bytes]]:
    """All (parent, name) of a file."""
    return [(inode.parent, inode.name)] if inode.nlink == 1 else _linked(txn, inode)


def _linked(txn: Txn, inode: Inode) -> list[tuple[int, bytes]]:
    """As links, of an inode that has several, or had before the change that looks."""
    prefix = key_bytes(inode.id)
    rows = list(txn.scan(Table.LINKS, prefix, prefix))
    if not rows:
        return [(inode.parent, inode.name)]
    return [(int.from_bytes(key[8:16], "big"), name) for key, name in rows]


def link_key(inode: int, parent: int, name: bytes) -> bytes:
    return key_bytes(inode) + dirty.place_key(parent, name)


def announce(txn: Txn, parent: int, name: bytes) -> None:
    """The mount must forget what it knows under this name, and the directory's attributes."""
    plain = name.removesuffix(b"/")
    if names.is_posix_name(plain):
        txn.changes.append(Change(parent, plain, 0))
    txn.changes.append(Change(0, b"", parent))


def prune(txn: Txn, bucket: int, directory: int) -> None:
    """Remove implicit directories that became empty, upward."""
    while directory != bucket:
        inode = get(txn, directory)
        # Without a link it was pruned before: the persister comes by again, behind the store.
        if inode.explicit or not inode.nlink or not names.is_empty(txn, directory):
            return
        if not inode.listed_ns:
            return  # the store may have more below it that nobody asked for yet
        above, name = inode.parent, inode.name
        leave(txn, above, name, inode)
        # On a store with real directories the empty one must go too.
        mark(txn, Place(bucket, above, name), 0)
        directory = above


def mark(txn: Txn, place: Place, size: int, former: Inode | None = None) -> None:
    """Queue the name: its object may differ from the store's by `size` bytes. former: the inode
    that the name has just lost, whose object is the one still there."""
    base = ""
    if former is not None and former.stored is not None:
        stored = former.stored
        if (stored.parent, stored.name) == (place.parent, place.name):
            base = stored.version
    dirty.mark(txn, place.bucket, place.parent, place.name, size, base)


def is_hidden(txn: Txn, place: Place, inode: Inode) -> bool:
    """Before a rename, of an inode at this place: whether another's bytes are in the way there."""
    return inode.is_dir and in_the_way(txn, place, inode.id) is not None


def moved(txn: Txn, inode: Inode, old: Place, new: Place, *, hidden: bool) -> Inode:
    """After a rename: remember where the store has the inode, until it has followed. hidden: what
    is_hidden said before; names are exchanged one after the other, and lead in circles between."""
    stored = inode.stored
    if stored is None and inode.is_dir and not hidden:
        # It has no object there, but the keys below it carry its old name. (None of them do while
        # another's bytes are in the way there, or at a directory above: what has that place in the
        # store is the other's, and would be taken along.)
        stored = Stored(old.parent, old.name, "", 0, NOT_STORED, inode.attributes_revision)
    if stored is not None:
        if (stored.parent, stored.name) == (new.parent, new.name):
            dirty.come_home(txn, stored.parent, stored.name, inode.id)
        else:
            dirty.send_away(txn, stored.parent, stored.name, inode.id)
    return update(txn, inode, stored=stored)


def discard(txn: Txn, inode: Inode) -> None:
    """Remove all rows of an orphan but its bytes (contents.drop_bytes)."""
    key = key_bytes(inode.id)
    txn.delete(Table.ORPHANS, key)
    txn.delete(Table.OBJECTS, key)
    if inode.flags & InodeFlag.XATTRS:
        for row, _ in list(txn.scan(Table.XATTRS, key, key)):
            txn.delete(Table.XATTRS, row)
    if inode.stored is not None:
        dirty.come_home(txn, inode.stored.parent, inode.stored.name, inode.id)
    moving.end(txn, inode.id)
    erase(txn, inode.id)


def require_directory(inode: Inode) -> Inode:
    if not inode.is_dir:
        raise NotADirectory(f"inode {inode.id}")
    return inode


def check_name(name: bytes) -> None:
    """NameTooLong for what the mount cannot create."""
    if len(name) > 255:
        raise NameTooLong(f"{len(name)} bytes")


def ensure_root(txn: Txn) -> None:
    """The directory above the buckets."""
    if txn.get(Table.INODES, key_bytes(ROOT)) is None:
        now = time.time_ns()
        put(
            txn,
            Inode(
                id=InodeId(ROOT),
                kind=Kind.DIRECTORY,
                mode=0o755,
                uid=0,
                gid=0,
                size=0,
                nlink=2,
                atime_ns=now,
                mtime_ns=now,
                ctime_ns=now,
                listed_ns=now,
            ),
        )


def _touch_parent(txn: Txn, parent: int, links: int) -> None:
    above = get(txn, parent)
    now = time.time_ns()
    update(txn, above, mtime_ns=now, ctime_ns=now, nlink=above.nlink + links)
