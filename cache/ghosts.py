"""What was evicted lately: without its bytes, but with its heat. Functions of a transaction.

When it is read again, it is known not to be new (cache/eviction.py). The unit is a cell of the
fetcher. Ghosts are noted in generations: when the present one stands for as many bytes as the
cache has, or has as many rows as the cache has extents, the next begins, and the one before last
is forgotten. So there are never more ghosts than twice the extents, and two transactions of a
killed mover are not needed to agree: rows of old generations are found by their keys.

Noted and forgotten by the mover, looked up by whoever fills.
"""

from __future__ import annotations

import struct
from itertools import islice

import msgspec

from cache import heat
from cache.heat import Heat
from cache.index import Table, Txn
from cache.records import EvictionState

_KEY = struct.Struct(">IQQ")
_GENERATION = struct.Struct(">I")
_STATE = b"eviction"
_ROWS_MIN = 1024
"""In a nearly empty index the number of extents says little of what will be."""


def state(txn: Txn) -> EvictionState:
    return txn.record(Table.META, _STATE, EvictionState) or EvictionState()


def put_state(txn: Txn, new: EvictionState) -> None:
    txn.put_record(Table.META, _STATE, new)


def find(txn: Txn, present: EvictionState, inode: int, cell: int) -> Heat | None:
    """The heat with which the cell was evicted lately; None if it was not."""
    for generation in (present.generation, present.generation - 1):
        value = txn.get(Table.GHOSTS, _KEY.pack(generation, inode, cell))
        if value is not None:
            return heat.unpack(value)
    return None


def note(
    txn: Txn, present: EvictionState, inode: int, cell: int, left: Heat, length_bytes: int
) -> EvictionState:
    """Note a cell that is evicted; the state to go on with, which is to be put."""
    key = _KEY.pack(present.generation, inode, cell)
    known = txn.get(Table.GHOSTS, key)
    if known is None or heat.unpack(known).now(present.turn) < left.now(present.turn):
        txn.put(Table.GHOSTS, key, left.pack())
    return msgspec.structs.replace(
        present,
        ghosts=present.ghosts + (known is None),
        ghost_bytes=present.ghost_bytes + length_bytes,
    )


def is_full(txn: Txn, present: EvictionState, capacity_bytes: int) -> bool:
    """Whether the next generation must begin."""
    rows_max = max(_ROWS_MIN, txn.count(Table.RESIDENTS))
    return present.ghost_bytes >= capacity_bytes or present.ghosts >= rows_max


def next_generation(present: EvictionState) -> EvictionState:
    return msgspec.structs.replace(
        present, generation=present.generation + 1, ghosts=0, ghost_bytes=0
    )


def has_old(txn: Txn) -> bool:
    """Whether there are rows of generations that nobody looks at."""
    return bool(_old(txn, 1))


def forget_old(txn: Txn, limit: int) -> None:
    """Remove up to `limit` of them."""
    for key in _old(txn, limit):
        txn.delete(Table.GHOSTS, key)


def _old(txn: Txn, limit: int) -> list[bytes]:
    oldest = _GENERATION.pack(state(txn).generation - 1)
    found = []
    for key, _ in islice(txn.scan(Table.GHOSTS), limit):
        if key[: _GENERATION.size] >= oldest:
            break
        found.append(key)
    return found
