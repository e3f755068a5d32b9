"""Which names a change puts into the persist queue, and for which of them its caller waits.

The write mode of the key that a name is part of decides: nothing is queued in a transient place,
and in write_through the caller returns when the store has what was queued. What a row of the queue
says is `cache/dirty.py`'s business. Any thread; looks at the index only.
"""

from __future__ import annotations

from collections.abc import Iterator

from cache import dirty, namespace
from cache.buckets import Buckets
from cache.index import Index, Txn
from cache.namespace import Place
from cache.records import ROOT, Inode, WriteMode


def mode_at(txn: Txn, buckets: Buckets, place: Place) -> WriteMode:
    """The write mode of the key that has its name at this place."""
    bucket = buckets.of_root(txn, place.bucket)
    if not buckets.config(bucket).prefixes:  # as mostly: no need to walk up to the key
        return buckets.config(bucket).write_mode
    _, key = namespace.path_of(txn, place.parent, place.name)
    return buckets.mode_of(bucket, key)


def mark(
    txn: Txn, buckets: Buckets, place: Place, size: int = 0, former: Inode | None = None
) -> None:
    """As namespace.mark, where the bucket persists."""
    if mode_at(txn, buckets, place).persists:
        namespace.mark(txn, place, size, former)


def mark_all(txn: Txn, buckets: Buckets, inode: Inode, written: int = 0) -> None:
    """Queue every name of an inode that changed, where its bucket persists. written: bytes that the
    change put on our disk and the store does not have; with the first name they are counted."""
    for place, mode in _places(txn, buckets, inode):
        if mode.persists:
            first = (place.parent, place.name) == (inode.parent, inode.name)
            size = min(inode.size, waiting_bytes(txn, place) + written) if first else 0
            namespace.mark(txn, place, size)


def put_off_all(txn: Txn, buckets: Buckets, inode: Inode, until_ns: int) -> None:
    """Let every queued name of an inode wait until then: more of it is to come. 0: it has come."""
    for place, _ in _places(txn, buckets, inode):
        dirty.put_off(txn, place.parent, place.name, until_ns)


def waiting_bytes(txn: Txn, place: Place) -> int:
    """What is counted as dirty under a name."""
    entry = dirty.find(txn, place.parent, place.name)
    return 0 if entry is None else entry.size


def through_places(index: Index, buckets: Buckets, inode: Inode) -> list[Place]:
    """The queued names of an inode that the caller must see persisted: write_through."""
    if inode.parent in (0, ROOT):
        return []  # the root and the directories of buckets are in no store
    with index.read() as txn:
        return [
            place
            for place, mode in _places(txn, buckets, inode)
            if mode.waits_for_store and dirty.find(txn, place.parent, place.name) is not None
        ]


def through_places_in(txn: Txn, buckets: Buckets, directory: int) -> list[Place]:
    """As through_places, of the names in a directory."""
    places = [Place(e.bucket, e.parent, e.name) for e in dirty.entries_of(txn, directory)]
    return [place for place in places if mode_at(txn, buckets, place).waits_for_store]


def _places(txn: Txn, buckets: Buckets, inode: Inode) -> Iterator[tuple[Place, WriteMode]]:
    if not inode.nlink:
        return
    for parent, name in namespace.links(txn, inode):
        place = Place(namespace.bucket_of(txn, parent), parent, name)
        yield place, mode_at(txn, buckets, place)
