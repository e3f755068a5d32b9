"""Listing all versions of all keys: keys in S3's order, the versions of each newest first.

Two walks side by side, of the bucket's own tree (cache/listing.py) and of its hidden one
(cache/versions.py), merged key by key; as there the cost grows with the page.

A version's name is its key's, a space, and more; so in the hidden tree's order `a !x ORDER` stands
before `a ORDER`, although the key `a` comes first. Therefore, when a name is met there, those names
are looked for and given first that it continues with a space, or with what sorts before one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cache import names, namespace, versions
from cache.discovery import Discovery
from cache.index import Index, Txn
from cache.listing import CommonPrefix, Unknown, Walk
from cache.publishing import Object, find, shown_id
from cache.records import Bucket, Inode, InodeFlag
from cache.versions import NULL, Leaf, Version


@dataclass(frozen=True, slots=True)
class ListedVersion:
    object: Object
    is_latest: bool


@dataclass(frozen=True, slots=True)
class VersionListing:
    entries: list[ListedVersion | CommonPrefix]
    truncated: bool
    last_key: bytes  # the key or common prefix, and the version,
    last_version: str | None  # behind which the next page begins


class _Unseen(Exception):
    """The walk came to an object whose version is not known yet."""

    def __init__(self, inode: Inode) -> None:
        self.inode = inode


class VersionLister:
    def __init__(self, index: Index, discovery: Discovery) -> None:
        self._index = index
        self._discovery = discovery

    def list(
        self,
        bucket: Bucket,
        *,
        prefix: bytes,
        delimiter: bytes,
        after: bytes,
        after_version: str | None,
        limit: int,
        directories: bool,
    ) -> VersionListing:
        """See Objects.list_versions. StoreUnavailable when a directory is unknown and stays so."""
        entries: list[ListedVersion | CommonPrefix] = []
        page = _Page(bucket, Walk(self._discovery, directories), _HiddenWalk(self._discovery))
        key, version = after, after_version
        while True:
            try:
                with self._index.read() as txn:
                    for entry in page.entries(txn, prefix, delimiter, key, version):
                        if len(entries) >= limit:
                            return VersionListing(entries, limit > 0, key, version)
                        entries.append(entry)
                        if isinstance(entry, CommonPrefix):
                            key, version = entry.key, None
                        else:
                            key, version = entry.object.key, entry.object.version_id
                return VersionListing(entries, False, key, version)
            except Unknown as unknown:
                self._discovery.learn_directory(unknown.directory)
                page.current.learned.add(unknown.directory)
                page.hidden.learned.add(unknown.directory)
            except _Unseen as unseen:
                self._discovery.see([unseen.inode])


class _HiddenWalk(Walk):
    """A walk over the hidden tree: yields a key once, with its versions' hidden directory."""

    def __init__(self, discovery: Discovery) -> None:
        super().__init__(discovery, False)

    def shows(self, directory: Inode) -> bool:
        return False

    def walk(
        self,
        txn: Txn,
        directory: Inode,
        path: bytes,
        after: bytes,
        partial: bytes,
        delimited: bool,
    ) -> Iterator[tuple[bytes, Inode | None]]:
        self.require_known(txn, directory)
        component, slash, rest = after.partition(b"/")
        first = component + slash
        for name, below in _in_order(txn, directory.id, max(partial, first), partial):
            if below is None:
                if name != after:
                    yield path + name, directory
                continue
            inside = bool(slash) and name == first
            if delimited:
                if not inside:
                    yield path + name, None
                continue
            inode = namespace.get(txn, below)
            yield from self.walk(txn, inode, path + name, rest if inside else b"", b"", False)


def _in_order(
    txn: Txn, directory: int, start: bytes, partial: bytes
) -> Iterator[tuple[bytes, int | None]]:
    """Names of a hidden directory that begin with `partial`, from `start` inclusive, in the order
    of the keys: of keys that have versions, and, with their inode, of directories."""
    given: list[bytes] = []  # each continues the one before, and the present name the last
    for dentry_name, dentry in names.scan(txn, directory, start):
        if not dentry_name.startswith(partial):
            return
        below: int | None = None
        if dentry_name.endswith(b"/"):
            name, below = dentry_name, dentry.inode
        else:
            leaf = Leaf.parse(dentry_name)
            if leaf is None:
                continue
            name = leaf.name
        while given and not name.startswith(given[-1]):
            given.pop()
        if name in given:
            continue
        for end, byte in enumerate(name):
            shorter = name[:end]
            if byte > ord(" ") or shorter < start or shorter in given:
                continue
            if next(versions.in_directory(txn, 0, directory, shorter), None) is not None:
                given.append(shorter)
                yield shorter, None
        if name >= start and name.startswith(partial):
            yield name, below
        if below is None:
            given.append(name)


@dataclass(frozen=True, slots=True)
class _Page:
    """Both walks, side by side."""

    bucket: Bucket
    current: Walk
    hidden: _HiddenWalk

    def entries(
        self, txn: Txn, prefix: bytes, delimiter: bytes, after: bytes, after_version: str | None
    ) -> Iterator[ListedVersion | CommonPrefix]:
        root = self.bucket.root
        is_listed = not delimiter or delimiter not in after[len(prefix) :]
        if after_version is not None and after.startswith(prefix) and is_listed:
            yield from self._behind(txn, after, after_version)
        hidden_root = names.find(txn, root, names.VERSIONS)
        if hidden_root is None:
            self.hidden.require_known(txn, namespace.get(txn, root))
        ours = self.current.grouped(txn, root, prefix, delimiter, after)
        theirs: Iterator[tuple[bytes, Inode | None]] = iter(())
        if hidden_root is not None:
            theirs = self.hidden.grouped(txn, hidden_root.inode, prefix, delimiter, after)
        for key, inode, directory in _merged(ours, theirs):
            if inode is None and directory is None:
                yield CommonPrefix(key)
            else:
                yield from self._of_key(txn, key, inode, directory)

    def _behind(
        self, txn: Txn, key: bytes, version_id: str
    ) -> Iterator[ListedVersion | CommonPrefix]:
        """The versions of a key that follow one of them, which may be gone by now."""
        root = self.bucket.root
        current = find(txn, self.bucket, key)
        order = version_id
        if current is not None and current.version_id == version_id:
            order = ""
        else:
            given = versions.find_other(txn, root, key, version_id)
            if given is not None:
                order = given.leaf.order
            if current is not None and self._follows(current, version_id, given):
                yield ListedVersion(current, is_latest=True)
        directory = versions.directory_of(txn, root, key)
        if directory is None or order == NULL:
            return
        name = names.split_key(key)[1]
        newest = next(versions.in_directory(txn, root, directory, name), None)
        for version in versions.in_directory(txn, root, directory, name, after=order):
            yield ListedVersion(
                self._described(txn, key, version), current is None and version == newest
            )

    @staticmethod
    def _follows(current: Object, version_id: str, given: Version | None) -> bool:
        """Whether the current version is older than the one that a page ended with: that was
        deleted since, as clients do that empty a bucket, and this one took its place."""
        if given is not None or version_id == NULL:
            return False
        # Orders count down. A null version has none: better twice than not at all.
        return current.version_id == NULL or (current.version_id or "") > version_id

    def _of_key(
        self, txn: Txn, key: bytes, inode: Inode | None, directory: Inode | None
    ) -> Iterator[ListedVersion]:
        is_latest = True
        if inode is not None:
            if inode.flags & InodeFlag.UNSEEN and versions.is_versioned(self.bucket):
                raise _Unseen(inode)
            attributes = namespace.object_attributes(txn, inode)
            version_id = shown_id(self.bucket, key, attributes) or NULL
            yield ListedVersion(
                Object(self.bucket.name, key, inode, attributes, version_id), is_latest
            )
            is_latest = False
        if directory is None or key.endswith(b"/"):
            return
        name = names.split_key(key)[1]
        for version in versions.in_directory(txn, self.bucket.root, directory.id, name):
            yield ListedVersion(self._described(txn, key, version), is_latest)
            is_latest = False

    def _described(self, txn: Txn, key: bytes, version: Version) -> Object:
        inode = namespace.get(txn, version.inode)
        attributes = namespace.object_attributes(txn, inode)
        leaf = version.leaf
        return Object(self.bucket.name, key, inode, attributes, leaf.version_id, leaf.is_marker)


def _merged(
    ours: Iterator[tuple[bytes, Inode | None]], theirs: Iterator[tuple[bytes, Inode | None]]
) -> Iterator[tuple[bytes, Inode | None, Inode | None]]:
    """(key, its inode, its versions' directory) in the order of keys; neither: a common prefix."""
    one, other = next(ours, None), next(theirs, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield one[0], one[1], None
            one = next(ours, None)
        elif one is None or other[0] < one[0]:
            yield other[0], None, other[1]
            other = next(theirs, None)
        else:
            yield one[0], one[1], other[1]
            one, other = next(ours, None), next(theirs, None)
