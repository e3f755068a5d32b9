"""Parting an inode from its bytes in the store: they are all here, or nobody needs them.

Blocking, thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable

from cache import dirty, moving, namespace
from cache.contents import Contents
from cache.errors import StoreUnavailable
from cache.fetch import Fetcher
from cache.index import Index, Txn
from cache.records import Inode, InodeFlag, Kind


class Keeper:
    def __init__(self, index: Index, contents: Contents, fetcher: Fetcher) -> None:
        self._index = index
        self._contents = contents
        self._fetcher = fetcher

    def keep_here(self, inode: Inode, then: Callable[[Txn, Inode], None] | None = None) -> None:
        """Make the cache the one keeper of an inode's bytes: fetched, synced, and no longer the
        store's. StoreUnavailable if it cannot be done now."""
        if inode.kind == Kind.FILE:
            self._fetcher.fill_all(inode)
        snapshot = self._contents.open(inode.id)
        if snapshot is None:
            return

        def change(txn: Txn) -> None:
            current = namespace.get(txn, inode.id)
            whole = current.kind != Kind.FILE or current.flags & InodeFlag.INLINE
            if not whole and not snapshot.still_holds(txn, 0, current.size):
                raise StoreUnavailable(f"inode {current.id} was evicted meanwhile")
            if current.stored is not None:
                dirty.come_home(txn, current.stored.parent, current.stored.name, current.id)
            moving.end(txn, current.id)
            current = namespace.update(txn, current, stored=None)
            if then is not None:
                then(txn, current)

        snapshot.warms = False
        with snapshot:
            self._index.commit(change, syncs=snapshot.syncs)

    def forget_place(self, inode: Inode) -> None:
        """The inode no longer needs its bytes in the store: they are here, or unlinked."""

        def change(txn: Txn) -> None:
            current = namespace.get(txn, inode.id)
            if not current.nlink and dirty.waits_below(txn, current.id):
                return  # a removed directory, below which something was queued meanwhile
            if current.nlink and (current.parent, current.name) != (inode.parent, inode.name):
                return  # renamed meanwhile: what is below it has still to follow
            moving.end(txn, current.id)
            if current.stored is not None:
                dirty.come_home(txn, current.stored.parent, current.stored.name, current.id)
                if current.nlink:
                    namespace.update(txn, current, stored=None)

        self._index.commit(change)
