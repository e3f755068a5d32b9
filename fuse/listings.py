"""What readdir answers, and what was looked up for it, for as long as the index is the same.

The kernel asks for names and attributes together, each time somebody lists a directory
(READDIRPLUS; pyfuse3 leaves it no choice). To look an entry up and put it into the kernel's terms
costs several microseconds, to hand it out once more less than one.

What is kept counts only while nothing at all was committed to the index: then it is what a new look
would find. While we work on an answer the kernel holds the directory's lock, and whoever replaces a
name waits for it before the old entry is forgotten (KernelCache), so what is handed out late would
come too late for that. On the loop's thread; answers inline where the index alone can.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import pyfuse3

from cache.files import Files
from cache.records import Inode
from fuse.threads import Lane
from fuse.told import Told

_KEPT_MAX = 32_768
"""Entries, of some 800 bytes."""


class Entry(NamedTuple):
    name: bytes
    position: bytes
    """The `after` that continues a listing behind it."""
    inode: Inode
    told: pyfuse3.EntryAttributes


class Listings:
    def __init__(self, files: Files, told: Told, lane: Lane) -> None:
        self._files = files
        self._told = told
        self._lane = lane
        self._kept: OrderedDict[tuple[int, bytes, int], list[Entry]] = OrderedDict()
        self._kept_entries = 0
        self._change = -1

    async def entries(self, directory: int, after: bytes, limit: int) -> list[Entry]:
        """At most `limit` entries of a directory behind `after`."""
        change = self._files.last_change
        if change != self._change:
            self._forget()
            self._change = change
        kept = self._kept.get((directory, after, limit))
        if kept is not None and self._files.is_known(directory):
            self._kept.move_to_end((directory, after, limit))
            return [self._as_of_now(entry) for entry in kept]
        found = self._files.entries_now(directory, after, limit)
        if found is None:
            found = await self._lane.run(lambda: self._files.entries(directory, after, limit))
        entries = [
            Entry(name, self._files.position(name, inode), inode, self._told.of(inode))
            for name, inode in found
        ]
        if change == self._change == self._files.last_change:
            self._keep((directory, after, limit), entries)
        return entries

    def _as_of_now(self, entry: Entry) -> Entry:
        if self._told.is_as_recorded(entry.inode):
            return entry
        return entry._replace(told=self._told.of(entry.inode))

    def _keep(self, key: tuple[int, bytes, int], entries: list[Entry]) -> None:
        if not all(self._told.is_as_recorded(entry.inode) for entry in entries):
            return
        # There may be one already, of a directory that had to be asked about again.
        self._kept_entries += len(entries) - len(self._kept.get(key, ()))
        self._kept[key] = entries
        while self._kept_entries > _KEPT_MAX:
            _, dropped = self._kept.popitem(last=False)
            self._kept_entries -= len(dropped)

    def _forget(self) -> None:
        self._kept.clear()
        self._kept_entries = 0
