"""Renames inside the store that were begun: which inode is on its way, and to where.

The store may be asked to rename, and the node be killed before it hears or notes the answer. So the
target is noted before the store is asked: from then on the inode's bytes, and for a directory all
that is below it, are at one of two places, and nothing is done at either, or below, before it was
found out at which (namespace.unsettled, cache/relocation.py). The target is the inode's in `away`
as long as that takes.

Functions of a transaction.
"""

from __future__ import annotations

from cache import dirty
from cache.errors import StoreUnavailable
from cache.index import Table, Txn


def begin(txn: Txn, inode: int, parent: int, name: bytes) -> None:
    """Note that the store is about to be asked. StoreUnavailable while the target is another's."""
    if dirty.away_at(txn, parent, name) not in (None, inode):
        raise StoreUnavailable(f"{name!r} was taken while it was being persisted")
    txn.put(Table.MOVING, inode.to_bytes(8, "big"), parent.to_bytes(8, "big") + name)
    dirty.send_away(txn, parent, name, inode)


def target(txn: Txn, inode: int) -> tuple[int, bytes] | None:
    """(parent, name) that the inode may have reached; None if it is at rest."""
    value = txn.get(Table.MOVING, inode.to_bytes(8, "big"))
    return None if value is None else (int.from_bytes(value[:8], "big"), value[8:])


def end(txn: Txn, inode: int) -> None:
    """It is known where the inode is, which the caller notes; or nobody needs to know."""
    at = target(txn, inode)
    if at is not None:
        txn.delete(Table.MOVING, inode.to_bytes(8, "big"))
        dirty.come_home(txn, *at, inode)
