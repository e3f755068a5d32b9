"""An inode as the kernel is told about it: stat fields, and for how long they may be believed.

Forever: nothing the kernel knows goes stale by time. What changes without the kernel's doing is
announced to it before the change is acknowledged to whoever made it (docs/semantics.md; the change
bus and `fuse/kernel.py`). Pure.
"""

from __future__ import annotations

import stat

import pyfuse3

from cache.records import Inode, Kind

FOREVER_S = 1_000_000
"""Timeout of entries and attributes: eleven days, then the kernel merely asks again."""

BLOCK_BYTES = 4096
NAME_MAX = 255

FILE_TYPE: dict[int, int] = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
KIND = {file_type: Kind(kind) for kind, file_type in FILE_TYPE.items()}


def of(inode: Inode) -> pyfuse3.EntryAttributes:
    """What lookup, getattr and readdir answer for an inode."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode.id
    # Ids are never used twice, so one generation is enough (NFS export asks for the pair).
    entry.generation = 0
    entry.entry_timeout = FOREVER_S
    entry.attr_timeout = FOREVER_S
    entry.st_mode = FILE_TYPE[inode.kind] | inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    # A directory has none here, whatever S3 clients put under its key.
    size = 0 if inode.is_dir else inode.size
    entry.st_size = 0 if inode.is_dir else inode.visible_size
    entry.st_blksize = BLOCK_BYTES
    # 512-byte units whatever the block size, stat(2). Holes are not told apart: du(1) shows what
    # the file would take in the store.
    entry.st_blocks = -(-size // 512)
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry


def of_nothing() -> pyfuse3.EntryAttributes:
    """The answer of lookup for a name that does not exist: the kernel remembers that too."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = FOREVER_S
    return entry


def unprivileged(inode: Inode) -> int | None:
    """The mode without set-user-ID, and without set-group-ID where that is for executing; None if
    there is nothing to take away (setattr_should_drop_suidgid in the kernel)."""
    if inode.kind != Kind.FILE:
        return None
    mode = inode.mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return None if mode == inode.mode else mode
