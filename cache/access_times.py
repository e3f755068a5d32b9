"""When files were last read, as the mount option relatime has it: noted in memory, written later.

An access counts if the time that is shown is not after the last change, or is a day old: so a
program can tell whether a file was read since it was written, and reading costs no write each time.
What was noted is written with others' into the index in one change, some seconds later; a killed
process forgets it. It is not told to the store.

Used by the mount process only. note() and shown() take microseconds and are called on its loop;
write() blocks.
"""

from __future__ import annotations

import time

import msgspec

from cache import namespace
from cache.index import Index, Table, Txn
from cache.records import Inode

_DAY_NS = 24 * 3600 * 10**9
_NOTED_MAX = 100_000


class AccessTimes:
    def __init__(self, index: Index) -> None:
        self._index = index
        self._noted: dict[int, int] = {}

    def note(self, inode: Inode) -> None:
        """The inode, with its attributes as shown, is read now."""
        now = time.time_ns()
        shown = self.shown(inode).atime_ns
        counts = shown <= max(inode.mtime_ns, inode.ctime_ns) or now - shown >= _DAY_NS
        if counts and (len(self._noted) < _NOTED_MAX or inode.id in self._noted):
            self._noted[inode.id] = now

    def shown(self, inode: Inode) -> Inode:
        """The attributes with what is noted and not written."""
        noted = self._noted.get(inode.id)
        if noted is None or noted <= inode.atime_ns:
            return inode
        return msgspec.structs.replace(inode, atime_ns=noted)

    def forget(self, inode: int) -> None:
        """Its time is about to be set."""
        self._noted.pop(inode, None)

    def write(self) -> None:
        """Write what is noted into the index."""
        noted = dict(self._noted)
        if not noted:
            return

        def change(txn: Txn) -> None:
            for inode_id, atime_ns in noted.items():
                found = txn.record(Table.INODES, namespace.key_bytes(inode_id), Inode)
                # Set meanwhile (utimens), it is not what it was noted over.
                if found is not None and inode_id in self._noted and atime_ns > found.atime_ns:
                    namespace.update(txn, found, atime_ns=atime_ns)

        self._index.commit(change, grows=False, durable=False)
        for inode_id, atime_ns in noted.items():
            if self._noted.get(inode_id) == atime_ns:
                del self._noted[inode_id]
