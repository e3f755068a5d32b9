"""The limit of the mount's way: a file system on pyfuse3 that keeps all in memory, nothing else.

`python -m bench.bare MOUNTPOINT`: no index, no disk, no checks, no second door; requests are
waited for as Forebay's mount does. What it takes is what the kernel, pyfuse3 and trio take.
"""

from __future__ import annotations

import errno
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import pyfuse3
import trio

from fuse import arrivals

_FOREVER_S = 1e6


@dataclass
class _Node:
    number: int
    mode: int
    content: bytearray = field(default_factory=bytearray)
    names: dict[bytes, _Node] = field(default_factory=dict)
    mtime_ns: int = field(default_factory=time.time_ns)


class Bare(pyfuse3.Operations):
    """Inodes are never taken back; a rename does not look whether it may."""

    enable_writeback_cache = True

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(int(pyfuse3.ROOT_INODE))
        self._nodes: dict[int, _Node] = {}
        self._new(stat.S_IFDIR | 0o755)

    def _new(self, mode: int) -> _Node:
        node = _Node(next(self._numbers), mode)
        self._nodes[node.number] = node
        return node

    def _told(self, node: _Node) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(node.number)
        entry.st_mode = pyfuse3.ModeT(node.mode)
        entry.st_nlink = 1
        entry.st_size = len(node.content)
        entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = node.mtime_ns
        entry.entry_timeout = entry.attr_timeout = _FOREVER_S
        return entry

    def _named(self, parent: int, name: bytes) -> _Node:
        try:
            return self._nodes[parent].names[name]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._told(self._named(parent_inode, name))

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._told(self._nodes[inode])

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        node = self._nodes[inode]
        if fields.update_size:
            del node.content[attr.st_size :]
        if fields.update_mtime:
            node.mtime_ns = attr.st_mtime_ns
        return self._told(node)

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        node = self._nodes[parent_inode].names[name] = self._new(stat.S_IFDIR | mode)
        return self._told(node)

    async def create(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        node = self._nodes[parent_inode].names[name] = self._new(stat.S_IFREG | mode)
        return self._opened(node.number), self._told(node)

    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._named(parent_inode, name)
        del self._nodes[parent_inode].names[name]

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        node = self._nodes[parent_inode_old].names.pop(name_old)
        self._nodes[parent_inode_new].names[name_new] = node

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        raise pyfuse3.FUSEError(errno.ENODATA)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return self._opened(inode)

    @staticmethod
    def _opened(inode: int) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    async def read(  # type: ignore[override]  # pyfuse3 declares bytes and takes any buffer
        self, fh: int, off: int, size: int
    ) -> memoryview:
        return memoryview(self._nodes[fh].content)[off : off + size].toreadonly()

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        content = self._nodes[fh].content
        content[off : off + len(buf)] = buf
        return len(buf)

    async def flush(self, fh: int) -> None:
        pass

    async def fsync(self, fh: int, datasync: bool) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        entries = list(self._nodes[fh].names.items())[start_id:]
        for place, (name, node) in enumerate(entries, start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self._told(node), place):
                return

    async def releasedir(self, fh: int) -> None:
        pass

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        pass


def main(place: str) -> None:
    """Mount there and serve until it is unmounted."""
    pyfuse3.init(Bare(), place, {"fsname=bare", "default_permissions"})
    arrivals.install()
    try:
        trio.run(pyfuse3.main, 8, 100)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main(sys.argv[1])
