"""Files of which the kernel believes bytes that we did not take.

With the writeback cache write(2) is over before we are asked to take the bytes. When we then
cannot (no room, a full index, an answer that came too late), the kernel tells whoever closes or
syncs the file. But it keeps the pages and the size as if all were well, for as long as it knows the
inode: the mount would go on to show what no S3 client sees and nobody has. What we say of the size
it believes only when it meets the inode anew.

So when the last descriptor of such a file is closed, its names are forgotten, and the next who
looks sees what there is. Used from the loop's thread.
"""

from __future__ import annotations

from cache.changes import Change
from cache.files import Files
from cache.open_file import OpenFile
from cache.open_files import OpenFiles
from fuse.kernel import KernelCache


class Refusals:
    def __init__(self, files: Files, open_files: OpenFiles, kernel: KernelCache) -> None:
        self._files = files
        self._open_files = open_files
        self._kernel = kernel
        self._inodes: set[int] = set()

    def note(self, file: OpenFile) -> None:
        """Bytes of it were not taken, or could not be published."""
        self._inodes.add(file.inode_id)

    def closed(self, file: OpenFile) -> None:
        """A descriptor of it was closed."""
        inode = file.inode_id
        if inode in self._inodes and not self._open_files.is_open(inode):
            self._inodes.discard(inode)
            names = self._files.names_of(inode)
            self._kernel.forget_soon([Change(parent, name, 0) for parent, name in names])
