"""Listings of a posix store in the order of keys.

Within a directory, entries sort by the name that their keys continue with: a directory `a` as
`a/`, which is after a file `a-b`; an escaped entry as the component that it stands for. Walking
the sorted directories depth first then is the byte order of whole keys, and a marker tells which
directories to skip and where to begin in the others: a page reads the directories on the way to
its entries, never the whole tree.

A directory of very many entries would be read and sorted once for each page; the names of the
last few large ones are kept, and used again while the directory's mtime says it is unchanged.

Runs in the store's threads; a page is one call with one deadline.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from cache.errors import StoreUnavailable
from cache.stores import posix_attributes, posix_directories
from cache.stores.base import ListPage, StoredObject, StoredPrefix
from cache.stores.beneath import open_directory, open_leaf
from cache.stores.posix_names import component_of, forms, is_continuation, piece_of
from cache.stores.posix_root import PosixRoot

log = logging.getLogger(__name__)

Path = tuple[bytes, ...]

_REMEMBERED_DIRECTORIES = 4
_REMEMBERED_FROM_ENTRIES = 2000
_SETTLED_NS = 2 * 10**9
"""A directory that changed within this time may change again without a new mtime: ext4 stamps
with the kernel's tick (4 ms), NFS clients cache attributes for seconds."""
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class _Entry(NamedTuple):
    """What continues a key, and where it lies. Of two with one name the native one is first. A
    tuple, since a million of them are sorted before the first is shown."""

    suffix: bytes  # the component, with / for a directory
    is_escaped: bool
    path: Path


class Listing:
    """Lists one store. Any of the store's threads may call."""

    def __init__(self, root: PosixRoot) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._remembered: OrderedDict[tuple[Path, ...], tuple[list[int], list[_Entry]]] = (
            OrderedDict()
        )

    def page(self, prefix: bytes, *, delimiter: bool, marker: bytes, limit: int) -> ListPage:
        """See `base.Store.list`."""
        self._root.check()
        base, slash, _ = prefix.rpartition(b"/")
        base += slash
        entries: list[StoredObject | StoredPrefix] = []
        for key, place in self._keys(self._directories(base), base, prefix, marker, delimiter):
            stored = self._describe(key, place)
            if stored is None:
                continue  # removed since its directory was read
            if len(entries) == limit:
                return ListPage(entries, entries[-1].key)
            entries.append(stored)
        self._root.check()  # an empty answer from a root that vanished meanwhile is no answer
        return ListPage(entries, None)

    def _directories(self, base: bytes) -> list[Path]:
        """The directories that hold the keys beginning with base (b"" or ending in /)."""
        paths: list[Path] = [()]
        for depth, name in enumerate(base.split(b"/")[:-1]):
            choices = forms(name, is_directory=True, at_root=depth == 0)
            paths = [(*path, *form) for path in paths for form in choices]
            if depth % 8 == 7:
                paths = [path for path in paths if self._exists(path)]
        return [path for path in paths if self._exists(path)]

    def _exists(self, path: Path) -> bool:
        descriptor = self._open(path)
        if descriptor is None:
            return False
        os.close(descriptor)
        return True

    def _open(self, path: Path) -> int | None:
        try:
            return open_directory(self._root.descriptor, path)
        except OSError as exc:
            if exc.errno in _GONE:
                return None
            raise

    def _keys(
        self, directories: list[Path], base: bytes, prefix: bytes, marker: bytes, delimiter: bool
    ) -> Iterator[tuple[bytes, Path]]:
        """(key, path) of everything that may be listed, in order, from the marker on.

        A stack of iterators instead of recursion: a key can have 1024 components."""
        # The prefix itself, when it is a directory: S3 lists the marker `a/` under prefix `a/`.
        if base and base == prefix and directories and base > marker:
            yield base, directories[0]
        stack = [self._grouped(directories, base, _first(base, prefix, marker))]
        while stack:
            found = next(stack[-1], None)
            if found is None:
                stack.pop()
                continue
            key, paths = found
            is_directory = key.endswith(b"/")
            if key < prefix and not (is_directory and prefix.startswith(key)):
                continue
            if not key.startswith(prefix) and not prefix.startswith(key):
                if key > prefix:
                    stack.pop()  # sorted: nothing that follows begins with the prefix
                continue
            if key > marker and key.startswith(prefix):
                yield key, paths[0]
            if is_directory and not delimiter and (key > marker or marker.startswith(key)):
                stack.append(self._grouped(paths, key, _first(key, prefix, marker)))

    def _grouped(
        self, directories: list[Path], base: bytes, first: bytes
    ) -> Iterator[tuple[bytes, list[Path]]]:
        """The entries of one directory of keys, sorted, from the suffix `first` on; entries of one
        key together."""
        group: list[Path] = []
        suffix = b""
        entries = self._entries(tuple(directories))
        for index in range(bisect_left(entries, first, key=attrgetter("suffix")), len(entries)):
            entry = entries[index]
            if group and entry.suffix != suffix:
                yield base + suffix, group
                group = []
            suffix = entry.suffix
            group.append(entry.path)
        if group:
            yield base + suffix, group

    def _entries(self, directories: tuple[Path, ...]) -> list[_Entry]:
        with self._lock:
            remembered = self._remembered.get(directories)
        now_ns = time.time_ns()
        mtimes: list[int] = []
        entries: list[_Entry] = []
        opened: list[tuple[Path, int]] = []
        try:
            for path in directories:
                descriptor = self._open(path)
                if descriptor is not None:
                    opened.append((path, descriptor))
                    mtimes.append(os.fstat(descriptor).st_mtime_ns)
            if remembered is not None and remembered[0] == mtimes:
                return remembered[1]
            for path, descriptor in opened:
                entries.extend(self._scan(path, descriptor, b"", at_root=not path))
        finally:
            for _, descriptor in opened:
                os.close(descriptor)
        entries.sort()
        settled = all(now_ns - mtime_ns > _SETTLED_NS for mtime_ns in mtimes)
        # Long names lie in directories of their own, whose changes this mtime does not show.
        plain = all(len(entry.path) == len(directories[0]) + 1 for entry in entries)
        with self._lock:
            self._remembered.pop(directories, None)
            if len(entries) >= _REMEMBERED_FROM_ENTRIES and settled and plain:
                self._remembered[directories] = (mtimes, entries)
                while len(self._remembered) > _REMEMBERED_DIRECTORIES:
                    self._remembered.popitem(last=False)
        return entries

    def _scan(self, path: Path, descriptor: int, lead: bytes, *, at_root: bool) -> Iterator[_Entry]:
        """The entries of one real directory; `lead` is the beginning of a long name."""
        with os.scandir(descriptor) as found:
            for item in found:
                name = os.fsencode(item.name)
                is_directory = item.is_dir(follow_symlinks=False)
                if is_directory and is_continuation(name):
                    piece = piece_of(name)
                    if piece is not None:
                        yield from self._scan_long((*path, name), lead + piece)
                    continue
                component = component_of(name, is_directory=is_directory, at_root=at_root)
                is_escaped = component != name
                if component is None or (lead and not is_escaped):
                    if not at_root:
                        log.debug("%r is no name of ours: not listed", name)
                    continue
                if name == posix_directories.BODY and not lead:
                    continue  # bytes of the directory's own key
                suffix = lead + component + (b"/" if is_directory else b"")
                yield _Entry(suffix, is_escaped, (*path, name))

    def _scan_long(self, path: Path, lead: bytes) -> Iterator[_Entry]:
        descriptor = self._open(path)
        if descriptor is None:
            return
        try:
            yield from self._scan(path, descriptor, lead, at_root=False)
        finally:
            os.close(descriptor)

    def _describe(self, key: bytes, path: Path) -> StoredObject | None:
        """The object at the path; None if it is gone."""
        directory = self._open(path[:-1])
        if directory is None:
            return None
        try:
            return describe_at(directory, path[-1] if path else b".", key)
        except FileNotFoundError:
            return None
        finally:
            os.close(directory)


def _first(base: bytes, prefix: bytes, marker: bytes) -> bytes:
    """The first suffix in the directory of the keys `base` that may be listed, or may have below it
    what is. Without it each page would walk over all that came before."""
    first = b""
    if marker.startswith(base):
        component, slash, _ = marker[len(base) :].partition(b"/")
        first = component + slash
    if prefix.startswith(base):
        component, slash, _ = prefix[len(base) :].partition(b"/")
        first = max(first, component + slash)
    return first


def describe_at(directory: int, name: bytes, key: bytes) -> StoredObject:
    """The object that the entry `name` of an open directory is, with its attributes."""
    status = os.lstat(name, dir_fd=directory)
    target: bytes | None = None
    xattrs: dict[str, bytes] = {}
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(name, dir_fd=directory)
    elif stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        try:
            descriptor = open_leaf(directory, name)
        except PermissionError:
            # Forebay may list it and not read it: what stat says is still true.
            return posix_attributes.described(key, status, None, {})
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise StoreUnavailable(f"{key!r} changed while it was looked at") from exc
            raise
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                return posix_directories.described(key, descriptor)
            xattrs = posix_attributes.read_xattrs(descriptor)
        finally:
            os.close(descriptor)
    return posix_attributes.described(key, status, target, xattrs)
