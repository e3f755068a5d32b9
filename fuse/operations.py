"""What the kernel asks, passed on to the cache: one short handler for each FUSE operation.

A handler decides nothing about files. It turns the kernel's request into a call of `Files`,
`Renames` or `OpenFiles`, chooses where that runs, and turns the answer back:

- inline: reads of the warm index (microseconds), bytes that are in the page cache, and commits that
  wait for nobody (`Lane.change`, `OpenFile.flush_now`);
- the metadata lane: commits that wait, what syncs names, or may ask the store for names;
- the data lane: bytes, and the close or fsync that publishes them.

The kernel checks permissions (mount option default_permissions), applies the umask, takes
set-user-ID bits away from files that are written to or change hands, places what is appended, and
keeps size and times of a file that is open for writing (writeback cache). O_TRUNC it leaves to us
(libfuse asks for FUSE_ATOMIC_O_TRUNC).

Every handler is wrapped by `answered` (fuse/answers.py). All run on the loop's thread.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyfuse3
import trio

from cache.access_times import AccessTimes
from cache.changes import Change
from cache.errors import CacheError, NameExists, NoSuchKey, WouldWait
from cache.files import Files, SetAttributes
from cache.open_file import OpenFile
from cache.open_files import OpenFiles
from cache.records import Inode, Kind
from cache.renames import Renames
from cache.xattrs import FACTS_PREFIX, ExtendedAttributes
from fuse import attributes
from fuse.answers import answered
from fuse.handles import DirectoryHandle, FileHandle, Handles, LookupCounts, Stragglers
from fuse.interrupts import ASKER
from fuse.kernel import KernelCache
from fuse.links import Removals
from fuse.listings import Listings
from fuse.refusals import Refusals
from fuse.threads import GivenUp, Lane
from fuse.told import Told

T = TypeVar("T")

log = logging.getLogger(__name__)

_RENAME_FLAGS = pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE
_BATCH_MAX = 1024
_READ_BYTES = 1 << 20
"""What the kernel asks for at most, as far as known; more is made room for."""

_Name = tuple[int, bytes]
"""The parent's inode and the name in it."""


class Operations(pyfuse3.Operations):
    supports_dot_lookup = True
    enable_writeback_cache = True
    enable_acl = False

    def __init__(
        self,
        files: Files,
        renames: Renames,
        open_files: OpenFiles,
        kernel: KernelCache,
        *,
        metadata: Lane,
        data: Lane,
        xattrs: ExtendedAttributes | None,
        access_times: AccessTimes | None,
    ) -> None:
        super().__init__()
        self._files = files
        self._renames = renames
        self._open_files = open_files
        self._kernel = kernel
        self._metadata = metadata
        self._data = data
        self._xattrs = xattrs
        self._lookups = LookupCounts()
        self._open: Handles[FileHandle] = Handles()
        self._directories: Handles[DirectoryHandle] = Handles()
        self._room = memoryview(bytearray(_READ_BYTES))
        self._stragglers = Stragglers()
        self._refusals = Refusals(files, open_files, kernel)
        self._removals = Removals()
        self._told = Told(files, open_files, access_times, self._removals)
        self._listings = Listings(files, self._told, metadata)
        self.greeted = trio.Event()
        """Set when the kernel and we have agreed on the protocol (FUSE_INIT)."""

    def init(self) -> None:
        """Called by pyfuse3 in the loop just before it answers FUSE_INIT; whoever waits for
        `greeted` runs after that."""
        self.greeted.set()

    # ------------------------------------------------------------------ names

    @answered
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if len(name) > attributes.NAME_MAX:
            raise pyfuse3.FUSEError(errno.ENAMETOOLONG)  # and not remembered as missing
        try:
            if name in (b".", b".."):  # NFS export finds its way by number
                inode = dict(self._dots(parent_inode))[name]
            else:
                inode = await self._metadata.change(
                    lambda wait: self._files.lookup(parent_inode, name, wait=wait)
                )
        except NoSuchKey:
            return attributes.of_nothing()
        return self._handed_out(inode, ctx)

    @answered
    async def mknod(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        kind = attributes.KIND.get(stat.S_IFMT(mode) or stat.S_IFREG)
        if kind is None:
            raise pyfuse3.FUSEError(errno.EINVAL)
        return await self._make(parent_inode, name, kind, mode, ctx, rdev=rdev)

    @answered
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return await self._make(parent_inode, name, Kind.DIRECTORY, mode, ctx)

    @answered
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return await self._make(parent_inode, name, Kind.SYMLINK, 0o777, ctx, target=target)

    @answered
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        self._told.read(inode)
        return self._files.get(inode).target

    @answered
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        linked = await self._change(
            lambda wait: self._files.link(inode, new_parent_inode, new_name, wait=wait),
            (new_parent_inode, new_name),
        )
        return self._handed_out(linked, ctx)

    @answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        place = (parent_inode, name)
        await self._removing(
            place, lambda wait: self._files.unlink(*place, wait=wait), place, ctx=ctx
        )

    @answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        place = (parent_inode, name)
        await self._change(lambda wait: self._files.rmdir(*place, wait=wait), place)

    @answered
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        if flags & ~_RENAME_FLAGS:
            raise pyfuse3.FUSEError(errno.EINVAL)
        exchange = bool(flags & pyfuse3.RENAME_EXCHANGE)
        old, new = (parent_inode_old, name_old), (parent_inode_new, name_new)

        def change(wait: bool) -> None:
            if not wait:
                raise WouldWait("a rename asks the store, and takes locks")
            replace = not flags & pyfuse3.RENAME_NOREPLACE
            self._renames.rename(*old, *new, exchange=exchange, replace=replace)

        if exchange:
            await self._change(change, old, new)
        else:
            await self._removing(new, change, old, new, ctx=ctx)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Not `answered`: nobody waits for an answer, and not even FUSEError may leave."""
        for inode in self._lookups.forget(inode_list):
            try:
                self._files.drop(inode)
            except Exception:
                log.exception("letting go of inode %d failed", inode)

    # ------------------------------------------------------------------ attributes

    @answered
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        await self._removals.over(inode, ctx.pid)
        return self._told.of(self._files.get(inode), ctx)

    @answered
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        self._removals.asks(inode, ctx.pid)
        change = SetAttributes(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        size = attr.st_size if fields.update_size else None
        if size is None and change.only_mtime:
            timed = self._told.timed(inode, attr.st_mtime_ns)
            if timed is not None:
                return timed
        lane = self._metadata if size is None else self._data
        changed = await lane.change(
            lambda wait: self._set_attributes(inode, change, size, wait=wait),
            lambda _: self._kernel.forget_soon([Change(0, b"", inode)]),
        )
        return self._told.as_written(changed)

    @answered
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """The kernel decides (default_permissions) and does not ask."""
        return True

    @answered
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        xattrs = self._offered(name)
        if name.startswith(FACTS_PREFIX):  # may count the pieces of a huge file
            return await self._metadata.run(lambda: xattrs.get(inode, name))
        return xattrs.get(inode, name)

    @answered
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        """XATTR_CREATE and XATTR_REPLACE are tested by pyfuse3, with getxattr, before this."""
        xattrs = self._offered(name)
        await self._metadata.run(
            lambda: xattrs.set(inode, name, value, create=False, replace=False)
        )

    @answered
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        return self._offered().names(inode)

    @answered
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        xattrs = self._offered(name)
        await self._metadata.run(lambda: xattrs.remove(inode, name))

    @answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        figures = await self._metadata.run(self._files.statfs)
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = attributes.BLOCK_BYTES
        answer.f_blocks = figures.total_bytes // attributes.BLOCK_BYTES
        answer.f_bfree = answer.f_bavail = figures.free_bytes // attributes.BLOCK_BYTES
        # Inodes are rows of the index: as many as it has room for, which nobody can count.
        answer.f_files = figures.files
        answer.f_namemax = attributes.NAME_MAX
        return answer

    # ------------------------------------------------------------------ open files

    @answered
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        writable = flags & os.O_ACCMODE != os.O_RDONLY

        def open_() -> OpenFile:
            file = self._open_files.open(inode, write=writable)
            if flags & os.O_TRUNC:
                try:
                    self._truncate_opened(inode, privileged=ctx.uid == 0)
                except BaseException:
                    file.release()
                    raise
            return file

        # O_TRUNC publishes; else these are a few looks into the index.
        truncates = flags & os.O_TRUNC
        file = await self._data.run(open_, _release_late) if truncates else open_()
        return self._opened(FileHandle(file, writable, ctx.pid))

    @answered
    async def create(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        def make(wait: bool) -> tuple[Inode, OpenFile]:
            made = self._create(parent_inode, name, Kind.FILE, mode, ctx, wait=wait)
            return made, self._open_files.open(made.id, write=True)

        def too_late(made: tuple[Inode, OpenFile] | None) -> None:
            self._kernel.forget_soon([Change(parent_inode, name, 0)])
            _release_late(made[1] if made is not None else None)

        try:
            made, file = await self._metadata.change(make, too_late)
        except NameExists:
            if flags & os.O_EXCL:
                raise
            # It came into being over S3 just now. The kernel checks nobody's rights to an
            # existing file on this way; ESTALE makes it look the path up again, and open.
            raise pyfuse3.FUSEError(errno.ESTALE) from None
        entry = self._handed_out(made)
        return self._opened(FileHandle(file, True, ctx.pid)), entry

    @answered
    async def read(  # type: ignore[override]  # pyfuse3 declares bytes and takes any buffer
        self, fh: int, off: int, size: int
    ) -> bytes | memoryview:
        handle = self._open[fh]
        file = handle.file
        if handle.accesses(trio.current_time()):
            self._told.read(file.inode_id)
        if size > len(self._room):
            self._room = memoryview(bytearray(size))
        # Answered before anything else is read into the room: nothing is awaited on that way.
        found = file.cached(off, self._room[:size])
        if found is None:
            return await self._data.run(lambda: file.read(off, size))
        return found

    @answered
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        file = self._open[fh].file
        self._stragglers.check(file)
        end = threading.Event()
        try:
            if file.write_now(off, buf):
                return len(buf)
            return await self._data.run(lambda: file.write(off, buf), lambda _: end.set(), row=file)
        except CacheError as exc:
            self._refusals.note(file)
            if isinstance(exc, GivenUp):
                self._stragglers.add(file, end)
            raise

    @answered
    async def flush(self, fh: int) -> None:
        handle = self._open[fh]
        ASKER.set(handle.asker)
        if handle.writable and not handle.file.flush_now():
            await self._data.run(handle.file.flush)

    @answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        handle = self._open[fh]
        ASKER.set(handle.asker)
        await self._data.run(handle.file.sync)

    @answered
    async def release(self, fh: int) -> None:
        file = self._open.remove(fh).file
        try:
            if not file.release_now():
                await self._data.run(file.release)
        except CacheError:
            self._refusals.note(file)
            raise
        finally:
            self._refusals.closed(file)

    # ------------------------------------------------------------------ directories

    @answered
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return self._directories.add(DirectoryHandle(inode, ctx.pid))

    @answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Fill one answer (a page or more) with the entries after `start_id`."""
        directory = self._directories[fh]
        ASKER.set(directory.asker)
        cookie = start_id
        if cookie == DirectoryHandle.START:
            self._told.read(directory.inode)
            directory.rewind()
        for place, (name, inode) in enumerate(self._dots(directory.inode)):
            if cookie == place:
                next_cookie = directory.next_cookie(cookie, b"")
                if not pyfuse3.readdir_reply(token, name, attributes.of(inode), next_cookie):
                    return
                cookie = next_cookie
        sent = 0
        while True:
            after = directory.position(cookie)
            limit = min(_BATCH_MAX, directory.batch)
            entries = await self._listings.entries(directory.inode, after, limit)
            for name, position, inode, told in entries:
                next_cookie = directory.next_cookie(cookie, position)
                if not pyfuse3.readdir_reply(token, name, told, next_cookie):
                    directory.batch = sent + 1
                    return
                cookie = next_cookie
                sent += 1
                self._count(inode)
            if len(entries) < limit:
                return

    @answered
    async def releasedir(self, fh: int) -> None:
        self._directories.remove(fh)

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        directory = self._directories[fh]
        ASKER.set(directory.asker)
        await self._data.run(lambda: self._files.sync(directory.inode))

    # ------------------------------------------------------------------ the end

    def close_all(self) -> None:
        """After the loop: release what is still open, which publishes it, and let go of all inodes.

        Blocks; does not wait for the store: what is published is in the queue. The kernel is gone,
        so nobody is left to be told of an error but the log.
        """
        for handle in self._open.drain():
            try:
                handle.file.release()
            except CacheError as exc:
                log.error("a file that was open: %s", exc)
        self._directories.drain()
        for inode in self._lookups.known():
            self._files.drop(inode)

    # ------------------------------------------------------------------ parts of handlers

    async def _change(self, change: Callable[[bool], T], *names: _Name, inode: int = 0) -> T:
        """Run a change of names. One that comes true after it was given up on is not what the
        kernel was told about these names, nor about the link count of an inode."""
        changes = [Change(parent, name, 0) for parent, name in names]
        if inode:
            changes.append(Change(0, b"", inode))
        return await self._metadata.change(change, lambda _: self._kernel.forget_soon(changes))

    async def _removing(
        self,
        removed: _Name,
        change: Callable[[bool], None],
        *names: _Name,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """As _change, for one that takes a name from whatever has it: of a file that has others
        the kernel then lowers the link count (fuse/links.py)."""
        found = self._files.lookup_now(*removed)
        if found is None or found.is_dir or found.nlink < 2:
            await self._change(change, *names)
            return
        removal = self._removals.begin(found, ctx.pid)
        try:
            await self._change(change, *names, inode=found.id)
        finally:
            # The directory is locked until the kernel is done with what we answer now. The
            # attributes: the other door may have replaced the name after we looked.
            changes = [Change(*removed, 0), Change(0, b"", found.id)]
            self._kernel.forget_soon(changes, self._removals.answered(removal))

    async def _make(
        self,
        parent: int,
        name: bytes,
        kind: Kind,
        mode: int,
        ctx: pyfuse3.RequestContext,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> pyfuse3.EntryAttributes:
        made = await self._change(
            lambda wait: self._create(
                parent, name, kind, mode, ctx, rdev=rdev, target=target, wait=wait
            ),
            (parent, name),
        )
        return self._handed_out(made)

    def _create(
        self,
        parent: int,
        name: bytes,
        kind: Kind,
        mode: int,
        ctx: pyfuse3.RequestContext,
        *,
        rdev: int = 0,
        target: bytes = b"",
        wait: bool,
    ) -> Inode:
        """Make a name, owned by the caller."""
        return self._files.create(
            parent,
            name,
            kind=kind,
            mode=stat.S_IMODE(mode),
            uid=ctx.uid,
            gid=ctx.gid,
            rdev=rdev,
            target=target,
            wait=wait,
        )

    def _set_attributes(
        self, inode: int, change: SetAttributes, size: int | None, *, wait: bool
    ) -> Inode:
        """Size first, so that the times have the last word."""
        if not wait and (size is not None or self._open_files.is_open(inode)):
            raise WouldWait(f"inode {inode} may be written just now")
        if change.atime_ns is not None:
            self._told.access_set(inode)
        if size is not None:
            changed = self._open_files.truncate(inode, size)
            if change == SetAttributes():
                return changed
        if change.mtime_ns is not None:
            # Before the index: a publication in between would put the time of the write there.
            self._open_files.set_mtime(inode, change.mtime_ns)
        return self._files.set_attributes(inode, change, wait=wait)

    def _truncate_opened(self, inode: int, *, privileged: bool) -> None:
        """In a thread: open(2) with O_TRUNC. The kernel leaves it to us, and with it to take
        set-user-ID bits away; the answer to open carries no mode, so the kernel must hear of it.
        """
        mode = attributes.unprivileged(self._open_files.truncate(inode, 0, touches=True))
        if mode is not None and not privileged:
            self._files.set_attributes(inode, SetAttributes(mode=mode))
            self._kernel.forget_soon([Change(0, b"", inode)])

    def _handed_out(
        self, inode: Inode, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        """The answer that gives the kernel one more reference to an inode."""
        entry = self._told.of(inode, ctx)
        self._count(inode)
        return entry

    def _count(self, inode: Inode) -> None:
        if self._lookups.add(inode.id):
            self._files.hold(inode.id)

    def _opened(self, handle: FileHandle) -> pyfuse3.FileInfo:
        """Cached pages stay good from one open to the next: an inode's bytes change only here."""
        return pyfuse3.FileInfo(fh=self._open.add(handle), keep_cache=True)

    def _offered(self, name: bytes = b"") -> ExtendedAttributes:
        """ENOSYS makes the kernel ask no more, for as long as it is mounted. ENOTSUP for system.*:
        an ACL that is stored and not enforced would be a lie."""
        if self._xattrs is None:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        if name.startswith(b"system."):
            raise pyfuse3.FUSEError(errno.ENOTSUP)
        return self._xattrs

    def _dots(self, directory: int) -> list[tuple[bytes, Inode]]:
        """The first two entries of a listing. They do not count as handed out."""
        itself = self._files.get(directory)
        above = self._files.get(itself.parent) if itself.parent else itself
        return [(b".", itself), (b"..", above)]


def _release_late(file: OpenFile | None) -> None:
    """Close what nobody waits for any more."""
    if file is not None:
        file.release()
