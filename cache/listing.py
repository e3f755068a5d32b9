"""Listing keys in S3's order: a walk over the dentry tree that seeks, and never sorts.

A page is read in one short transaction; its cost grows with the page, not with the bucket. With
delimiter `/` a subtree is skipped by one seek. A directory whose content only the store knows is
learned first (cache/discovery.py), outside of any transaction, and the walk goes on after the
last key it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from cache import names, namespace
from cache.discovery import Discovery
from cache.index import Index, Txn
from cache.records import ROOT, Inode, Kind

T = TypeVar("T")
_AFTER_ALL = b"\xff" * 1024
"""Names made through the mount may hold any byte; no component is as long as this, nor an S3 key:
`prefix + _AFTER_ALL` is behind every key with the prefix."""
_SHOWN = (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)


@dataclass(frozen=True, slots=True)
class CommonPrefix:
    """All keys up to and including the first delimiter after the listing's prefix, as one."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    entries: list[T | CommonPrefix]
    truncated: bool
    last: bytes  # the key or common prefix after which the next page begins


class Unknown(Exception):
    """The walk came to a directory that must be learned first."""

    def __init__(self, directory: int) -> None:
        self.directory = directory


class Lister:
    def __init__(self, index: Index, discovery: Discovery) -> None:
        self._index = index
        self._discovery = discovery

    def list(
        self,
        root: int,
        make: Callable[[Txn, bytes, Inode], T],
        *,
        prefix: bytes,
        delimiter: bytes,
        after: bytes,
        limit: int,
        directories: bool,
    ) -> Listing[T]:
        """See Objects.list. StoreUnavailable when a directory is unknown and stays so."""
        entries: list[T | CommonPrefix] = []
        last = after
        walk = Walk(self._discovery, directories)
        while True:
            try:
                with self._index.read() as txn:
                    for key, inode in walk.grouped(txn, root, prefix, delimiter, last):
                        if len(entries) >= limit:
                            return Listing(entries, truncated=limit > 0, last=last)
                        entries.append(
                            CommonPrefix(key) if inode is None else make(txn, key, inode)
                        )
                        last = key
                return Listing(entries, truncated=False, last=last)
            except Unknown as unknown:
                self._discovery.learn_directory(unknown.directory)
                walk.learned.add(unknown.directory)


class Walk:
    """One listing's way over the tree. What it had to learn counts as known to its end: else a
    bucket that is revalidated `always` would be stale again before the last directory came."""

    def __init__(self, discovery: Discovery, directories: bool) -> None:
        self._discovery = discovery
        self._directories = directories
        self.learned: set[int] = set()

    def grouped(
        self, txn: Txn, root: int, prefix: bytes, delimiter: bytes, after: bytes
    ) -> Iterator[tuple[bytes, Inode | None]]:
        """Yield (key, inode), and (common prefix, None)."""
        if delimiter in (b"", b"/"):
            yield from self._walk_from(txn, root, prefix, after, bool(delimiter))
            return
        after = _behind_group(after, prefix, delimiter)
        while True:
            for key, inode in self._walk_from(txn, root, prefix, after, False):
                cut = key.find(delimiter, len(prefix))
                if cut >= 0:
                    group = key[: cut + len(delimiter)]
                    yield group, None
                    after = group + _AFTER_ALL
                    break
                yield key, inode
            else:
                return

    def _walk_from(
        self,
        txn: Txn,
        root: int,
        prefix: bytes,
        after: bytes,
        delimited: bool,
    ) -> Iterator[tuple[bytes, Inode | None]]:
        base = prefix[: prefix.rfind(b"/") + 1]
        partial = prefix[len(base) :]
        directory = self.descend(txn, root, base)
        if directory is None or base.startswith(names.VERSIONS):
            return
        if after.startswith(base):
            relative = after[len(base) :]
        elif after > base:
            return
        else:
            relative = b""
        inode = namespace.get(txn, directory)
        if base and not partial and after < base and self.shows(inode):
            yield base, inode
        yield from self.walk(txn, inode, base, relative, partial, delimited)

    def shows(self, directory: Inode) -> bool:
        return directory.explicit or self._directories

    def descend(self, txn: Txn, root: int, base: bytes) -> int | None:
        directory = root
        for name in base.split(b"/")[:-1]:
            dentry = names.find(txn, directory, name + b"/")
            if dentry is None:
                self.require_known(txn, namespace.get(txn, directory))
                return None
            directory = dentry.inode
        return directory

    def require_known(self, txn: Txn, directory: Inode) -> None:
        if directory.id not in self.learned and not self._discovery.is_known(txn, directory):
            raise Unknown(directory.id)

    def walk(
        self,
        txn: Txn,
        directory: Inode,
        path: bytes,
        after: bytes,
        partial: bytes,
        delimited: bool,
    ) -> Iterator[tuple[bytes, Inode | None]]:
        """Names of one directory that begin with `partial`, and what is below them, from behind
        `after` (relative to it)."""
        self.require_known(txn, directory)
        component, slash, rest = after.partition(b"/")
        first = component + slash
        for name, dentry in names.scan(txn, directory.id, max(partial, first)):
            if not name.startswith(partial):
                return
            if not name.endswith(b"/"):
                if name != after and dentry.kind in _SHOWN:
                    yield path + name, namespace.get(txn, dentry.inode)
                continue
            inside = bool(slash) and name == first
            if name == names.VERSIONS and directory.parent == ROOT:
                continue
            if delimited:
                if not inside:
                    yield path + name, None
                continue
            inode = namespace.get(txn, dentry.inode)
            if not inside and self.shows(inode):
                yield path + name, inode
            yield from self.walk(txn, inode, path + name, rest if inside else b"", b"", delimited)


def _behind_group(after: bytes, prefix: bytes, delimiter: bytes) -> bytes:
    """A page that ended with a common prefix goes on behind all that it stands for."""
    if after.startswith(prefix):
        cut = after.find(delimiter, len(prefix))
        if cut >= 0:
            return after[: cut + len(delimiter)] + _AFTER_ALL
    return after
