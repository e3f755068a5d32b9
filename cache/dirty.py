"""The persist queue: which names differ between the index and the store, in order.

A row says only that the object under a name *may* differ; what to do is found by looking at both
sides (cache/persist.py). So marking is idempotent, a name is in the queue once, and losing the
race against another persister costs one look. Two tables: `queue` (sequence) -> QueueEntry, and
`queued` (parent, digest of name) -> sequence. `away` maps a place in the store to the inode whose
bytes still lie there although its name is elsewhere by now.

Functions of a transaction. The sum of dirty bytes is kept beside the queue.
"""

from __future__ import annotations

import hashlib
import time

import msgspec

from cache.index import Table, Txn
from cache.records import QueueEntry, unpack

_DIRTY_BYTES = b"dirty_bytes"


def place_key(parent: int, name: bytes) -> bytes:
    """A name as a key of fixed size; names are longer than LMDB's keys."""
    return parent.to_bytes(8, "big") + hashlib.blake2b(name, digest_size=16).digest()


def mark(
    txn: Txn,
    bucket: int,
    parent: int,
    name: bytes,
    size: int,
    base: str = "",
    *,
    intent: bool = False,
) -> None:
    """Note that the name's object may differ from the store's by `size` bytes.

    base: the version of what the store is known to have under the name, when the name has just
    lost the inode that knew it. The first one counts: it is what is still there.

    intent: an upload is about to begin, and the index is as it was. Should it come to nothing, what
    the store has there stays: nobody asked for its removal.

    A name that waits already keeps its turn; one that a persister is just working on is worked on
    again, because `touched` is compared when it is cleared.
    """
    waiting = _row(txn, parent, name)
    if waiting is not None:
        sequence, entry = waiting
        size = max(size, entry.size)
        _add_bytes(txn, size - entry.size)
        entry = msgspec.structs.replace(
            entry,
            size=size,
            touched=entry.touched + 1,
            base=entry.base or base,
            intent=entry.intent and intent,
        )
        txn.put_record(Table.QUEUE, sequence, entry)
        return
    place = place_key(parent, name)
    base = base or (txn.get(Table.COPIES, place) or b"").decode()
    sequence = txn.next_id(b"next_sequence").to_bytes(8, "big")
    entry = QueueEntry(
        bucket, parent, name, since_ns=time.time_ns(), size=size, base=base, intent=intent
    )
    txn.put_record(Table.QUEUE, sequence, entry)
    txn.put(Table.QUEUED, place, sequence)
    _add_bytes(txn, size)


def find(txn: Txn, parent: int, name: bytes) -> QueueEntry | None:
    waiting = _row(txn, parent, name)
    return None if waiting is None else waiting[1]


def _row(txn: Txn, parent: int, name: bytes) -> tuple[bytes, QueueEntry] | None:
    """(sequence, entry) of a name that waits."""
    sequence = txn.get(Table.QUEUED, place_key(parent, name))
    if sequence is None:
        return None
    entry = txn.record(Table.QUEUE, sequence, QueueEntry)
    assert entry is not None, "queued row without its queue row"
    return sequence, entry


def entries_of(txn: Txn, directory: int) -> list[QueueEntry]:
    """The entries of names of this very directory."""
    prefix = directory.to_bytes(8, "big")
    rows = [sequence for _, sequence in txn.scan(Table.QUEUED, prefix, prefix)]
    found = [txn.record(Table.QUEUE, sequence, QueueEntry) for sequence in rows]
    return [entry for entry in found if entry is not None]


def waits_below(txn: Txn, directory: int) -> bool:
    """Whether a name of this very directory waits."""
    prefix = directory.to_bytes(8, "big")
    return next(txn.scan(Table.QUEUED, prefix, prefix), None) is not None


def clear(txn: Txn, parent: int, name: bytes, touched: int | None = None) -> bool:
    """Take the name out, unless it was marked again since its entry had `touched`. Whoever calls
    this knows what the store has under the name: a copy noted before is none any more."""
    place = place_key(parent, name)
    waiting = _row(txn, parent, name)
    if waiting is None:
        txn.delete(Table.COPIES, place)
        return True
    sequence, entry = waiting
    if touched is not None and entry.touched != touched:
        return False
    txn.delete(Table.QUEUE, sequence)
    txn.delete(Table.QUEUED, place)
    txn.delete(Table.COPIES, place)
    txn.put(Table.SETTLED, place, time.monotonic_ns().to_bytes(8, "big"))
    _add_bytes(txn, -entry.size)
    return True


def note_copy(txn: Txn, parent: int, name: bytes, version: str) -> None:
    """Note what the store has under one of a file's other links: a copy, of which the inode says
    nothing. It is the base of whatever takes the name next."""
    txn.put(Table.COPIES, place_key(parent, name), version.encode())


def settled_since(txn: Txn, parent: int, name: bytes, since_ns: int) -> bool:
    """Whether a change of the name reached the store at `since_ns` (monotonic) or later: an answer
    that the store was asked for before that may be older than what the index knows."""
    value = txn.get(Table.SETTLED, place_key(parent, name))
    return value is not None and int.from_bytes(value, "big") >= since_ns


def forget_settled(txn: Txn, oldest_ns: int, newest_ns: int, limit: int = 2000) -> int:
    """Drop notes of settled names from outside [oldest_ns, newest_ns] (monotonic), at most
    `limit`; the number dropped. One from the future is another boot's and means nothing."""
    old = []
    for key, value in txn.scan(Table.SETTLED):
        if not oldest_ns <= int.from_bytes(value, "big") <= newest_ns:
            old.append(key)
            if len(old) >= limit:
                break
    for key in old:
        txn.delete(Table.SETTLED, key)
    return len(old)


def rebase(txn: Txn, parent: int, name: bytes, version: str) -> None:
    """The name lost its inode while that was on its way to the store, which has it now: what is
    there is ours, and the next upload may replace it."""
    waiting = _row(txn, parent, name)
    if waiting is not None:
        sequence, entry = waiting
        txn.put_record(Table.QUEUE, sequence, msgspec.structs.replace(entry, base=version))


def failed(txn: Txn, parent: int, name: bytes, error: str, retry_at_ns: int) -> None:
    """Note a failed attempt, to be repeated from retry_at_ns on."""
    waiting = _row(txn, parent, name)
    if waiting is None:
        return
    sequence, entry = waiting
    entry = msgspec.structs.replace(
        entry, attempts=entry.attempts + 1, error=error, not_before_ns=retry_at_ns
    )
    txn.put_record(Table.QUEUE, sequence, entry)


def put_off(txn: Txn, parent: int, name: bytes, until_ns: int) -> None:
    """Let a name that is about to change again wait until then, or no longer with 0; one that
    failed has its own time."""
    waiting = _row(txn, parent, name)
    if waiting is not None and not waiting[1].attempts:
        sequence, entry = waiting
        entry = msgspec.structs.replace(entry, not_before_ns=until_ns)
        txn.put_record(Table.QUEUE, sequence, entry)


def entries(txn: Txn, limit: int | None = None) -> list[QueueEntry]:
    """The queue in order, at most `limit` entries of it."""
    found = []
    for _, value in txn.scan(Table.QUEUE):
        found.append(unpack(value, QueueEntry))
        if limit is not None and len(found) >= limit:
            break
    return found


def waiting_in(txn: Txn, bucket: int, since: bytes = b"") -> list[QueueEntry]:
    """The entries of a bucket (its root's id), in order; since: only those queued after that
    last_sequence()."""
    rows = txn.scan(Table.QUEUE, since)
    found = (unpack(value, QueueEntry) for _, value in rows)
    return [entry for entry in found if entry.bucket == bucket]


def last_sequence(txn: Txn) -> bytes:
    """Where the next entry of the queue will be put, at the earliest."""
    return txn.get(Table.META, b"next_sequence") or b""


def dirty_bytes(txn: Txn) -> int:
    value = txn.get(Table.META, _DIRTY_BYTES)
    return int.from_bytes(value, "big") if value else 0


def length(txn: Txn) -> int:
    return txn.count(Table.QUEUE)


def _add_bytes(txn: Txn, delta: int) -> None:
    if delta:
        total = max(0, dirty_bytes(txn) + delta)
        txn.put(Table.META, _DIRTY_BYTES, total.to_bytes(8, "big"))


def send_away(txn: Txn, parent: int, name: bytes, inode: int) -> None:
    """Note that the inode's bytes in the store lie under a name that is no longer its own."""
    txn.put(Table.AWAY, place_key(parent, name), inode.to_bytes(8, "big"))


def away_at(txn: Txn, parent: int, name: bytes) -> int | None:
    value = txn.get(Table.AWAY, place_key(parent, name))
    return None if value is None else int.from_bytes(value, "big")


def come_home(txn: Txn, parent: int, name: bytes, inode: int) -> None:
    """The inode no longer depends on that place."""
    if away_at(txn, parent, name) == inode:
        txn.delete(Table.AWAY, place_key(parent, name))
