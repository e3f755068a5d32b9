"""What the kernel is told of an inode: the index, and what is not in it yet.

Not yet in the index are size and time of what is being written (`OpenFiles`), when a file was read
(`AccessTimes`), and a link less that the kernel counts by itself (`Removals`). On the loop's
thread.
"""

from __future__ import annotations

import msgspec
import pyfuse3

from cache.access_times import AccessTimes
from cache.files import Files
from cache.open_files import OpenFiles
from cache.records import Inode, Kind
from fuse import attributes
from fuse.links import Removals


class Told:
    def __init__(
        self,
        files: Files,
        open_files: OpenFiles,
        access_times: AccessTimes | None,
        removals: Removals,
    ) -> None:
        """access_times: None where reading changes no time (noatime)."""
        self._files = files
        self._open_files = open_files
        self._access_times = access_times
        self._removals = removals

    def of(
        self, inode: Inode, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        """What a thread is answered about an inode, or somebody unknown."""
        if ctx is not None and ctx.pid:  # 0 may be any of several
            self._removals.asks(inode.id, ctx.pid)
        entry = self.as_written(inode)
        links = self._removals.links(inode)
        if links != inode.nlink:
            entry.st_nlink = links
            entry.attr_timeout = 0
        return entry

    def as_written(self, inode: Inode) -> pyfuse3.EntryAttributes:
        """The same to whom the number of links is no surprise."""
        inode = self._open_files.size_of(inode)
        if self._access_times is not None:
            inode = self._access_times.shown(inode)
        return attributes.of(inode)

    def timed(self, inode: int, mtime_ns: int) -> pyfuse3.EntryAttributes | None:
        """Take the kernel's word for when a file was written, without a commit, where nothing is
        lost with that; None where something is. It comes on the way of every close, about what was
        just handed over, and behind the removal of every name."""
        if self._open_files.set_mtime_now(inode, mtime_ns):
            return self.as_written(self._files.get(inode))
        found = self._files.get(inode)
        if found.nlink or found.kind != Kind.FILE:
            return None
        # Without a name for good: who has it open still is told the time by the kernel itself.
        return self.as_written(msgspec.structs.replace(found, mtime_ns=mtime_ns))

    def is_as_recorded(self, inode: Inode) -> bool:
        """Whether `of` says what the record says, and nothing of what is not in the index yet."""
        return (
            not self._open_files.is_open(inode.id)
            and self._removals.links(inode) == inode.nlink
            and (self._access_times is None or self._access_times.shown(inode) is inode)
        )

    def read(self, inode: int) -> None:
        """Somebody reads it now."""
        if self._access_times is not None:
            self._access_times.note(self._open_files.size_of(self._files.get(inode)))

    def access_set(self, inode: int) -> None:
        """The time at which it was read is about to be set."""
        if self._access_times is not None:
            self._access_times.forget(inode)
