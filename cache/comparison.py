"""Both sides of a name: what the index says of it, and what it knows of the store's.

Nothing is changed and the store is not asked here. A Task is true for the transaction that read
it: whoever acts on one takes the locks first and looks again (cache/persist.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from cache import dirty, names, namespace
from cache.buckets import Buckets
from cache.index import Index, Txn
from cache.namespace import Place
from cache.records import Inode, ObjectAttributes, WriteMode
from cache.stores.base import Store

_ASIDE = b".forebay-moving-"
NOT_QUEUED = -1
"""As `touched` of a name that does not wait: no entry has it."""


@dataclass(slots=True)
class Task:
    """What both sides say about a name, read in one transaction."""

    place: Place
    store: Store
    key: bytes  # in the store
    mode: WriteMode
    touched: int  # of the queue entry; NOT_QUEUED clears none that came in meanwhile
    base: str  # version of what lies there, if that is not the inode's
    intent: bool  # see QueueEntry
    inode: Inode | None  # None: the name is gone
    attributes: ObjectAttributes
    foreign: int | None
    """An inode that must go first: its bytes lie at this place, or above it; or nobody knows where
    it went, and this with it."""
    rival: Place | None
    """What waits to leave the name that this one, or a directory on the way to it, takes in the
    store, and is of the other kind."""
    owned: bool  # the key is some live name's

    @property
    def has_moved(self) -> bool:
        """Whether the store has the inode's bytes elsewhere than under this name."""
        stored = self.inode.stored if self.inode else None
        return stored is not None and (stored.parent, stored.name) != (
            self.place.parent,
            self.place.name,
        )


class Comparison:
    """Blocks for a read transaction at the most; thread-safe."""

    def __init__(self, index: Index, buckets: Buckets) -> None:
        self._index = index
        self._buckets = buckets

    def look(self, place: Place, *, taking: bool = False) -> Task:
        """taking: something is put there now, whatever the index has. NoSuchInode, NoSuchBucket
        when the place itself is gone."""
        with self._index.read() as txn:
            return self._look_in(txn, place, taking)

    def _look_in(self, txn: Txn, place: Place, taking: bool) -> Task:
        entry = dirty.find(txn, place.parent, place.name)
        bucket = self._buckets.of_root(txn, place.bucket)
        _, index_key = namespace.path_of(txn, place.parent, place.name)
        key = namespace.store_path_of(txn, place.parent, place.name)
        dentry = names.find(txn, place.parent, place.name)
        inode = None if dentry is None else namespace.get(txn, dentry.inode)
        return Task(
            place=place,
            store=self._buckets.store(bucket),
            key=key,
            mode=self._buckets.mode_of(bucket, index_key),
            touched=NOT_QUEUED if entry is None else entry.touched,
            base="" if entry is None else entry.base,
            intent=entry is not None and entry.intent,
            inode=inode,
            attributes=namespace.NO_ATTRIBUTES
            if inode is None
            else namespace.object_attributes(txn, inode),
            foreign=self._foreign(txn, place, inode),
            rival=self._rival(txn, place) if taking or inode is not None else None,
            owned=namespace.store_owner(txn, place.bucket, key) is not None,
        )

    def _rival(self, txn: Txn, place: Place) -> Place | None:
        """The directory of a file's name, or the file of a directory's, if it is gone here and
        still waits to go there. A file system has one name for both (cache/stores/posix_names),
        and makes the directories on the way to what is put."""
        while True:
            plain = place.name.removesuffix(b"/")
            other = plain if plain != place.name else plain + b"/"
            is_gone = names.find(txn, place.parent, other) is None
            if is_gone and dirty.find(txn, place.parent, other) is not None:
                return Place(place.bucket, place.parent, other)
            above = namespace.get(txn, place.parent)
            if above.id == place.bucket or above.stored is not None:  # the store has it
                return None
            place = Place(place.bucket, above.parent, above.name)

    @staticmethod
    def _foreign(txn: Txn, place: Place, inode: Inode | None) -> int | None:
        own = [] if inode is None else [inode.id]
        lost = namespace.unsettled(txn, place.bucket, place.parent, *own)
        if lost is not None:
            return lost
        own_id = None if inode is None or _lies_at_further_name(inode, place) else inode.id
        return namespace.in_the_way(txn, place, own_id)

    def again(self, task: Task, *, taking: bool = False) -> Task | None:
        """The task as it is now that the locks are held; None if they are not those it needs, or
        if somebody else goes first by now."""
        now = self.look(task.place, taking=taking)
        if now.key != task.key or now.foreign is not None or now.rival is not None:
            return None
        before, inode = task.inode, now.inode
        same = inode is before if inode is None or before is None else inode.id == before.id
        return now if same else None


def _lies_at_further_name(inode: Inode, place: Place) -> bool:
    """Whether the store has a file's bytes under this further name of it, which was its first one
    before: a copy that is put there would replace what it is made of."""
    at, stored = (place.parent, place.name), inode.stored
    is_there = stored is not None and (stored.parent, stored.name) == at
    return is_there and not inode.is_dir and (inode.parent, inode.name) != at


def aside_name(inode: Inode) -> bytes:
    """The name of the store's own place for an inode that steps aside, in the bucket's root."""
    return _ASIDE + str(inode.id).encode() + (b"/" if inode.is_dir else b"")
