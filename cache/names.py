"""Encoding of names as dentry keys, so that the B+tree's order is S3's listing order.

A dentry's key is the parent's id (8 bytes, big-endian) and the name; a directory's name ends in
`/`. So `a`, `a-b`, `a/` stand in the order in which S3 lists `a`, `a-b`, `a/x`, and a file may
stand beside a directory of the same name.

LMDB keys end at 511 bytes and S3 names at 1024. A name of CHUNK bytes or more is chained: its
first CHUNK bytes lead to a continuation node, an id with dentries of its own that hold the rest
(which may be empty). All names that share those CHUNK bytes are in that node, so the order is
kept. This module is the only one that knows.
"""

from __future__ import annotations

from collections.abc import Iterator

from cache.index import Table, Txn
from cache.records import Dentry, pack, unpack

CHUNK = 480
VERSIONS = b".forebay-versions/"
"""The directory, at the top of a bucket, of what is neither a key nor seen on the mount: versions
that are not current (cache/versions.py)."""
CONTINUATION = 0
"""Kind of a dentry that leads to a continuation node instead of an inode."""


def directory_key(inode: int) -> bytes:
    """The prefix that all dentries of a directory share."""
    return inode.to_bytes(8, "big")


def find(txn: Txn, parent: int, name: bytes) -> Dentry | None:
    """The dentry of `name` (with its `/` if a directory is meant)."""
    if not name:
        return None
    key = _existing_key(txn, parent, name)
    return None if key is None else txn.record(Table.DENTRIES, key, Dentry)


def put(txn: Txn, parent: int, name: bytes, dentry: Dentry) -> None:
    while len(name) >= CHUNK:
        key = directory_key(parent) + name[:CHUNK]
        node = txn.record(Table.DENTRIES, key, Dentry)
        if node is None:
            node = Dentry(txn.next_id(), CONTINUATION)
            txn.put(Table.DENTRIES, key, pack(node))
        parent, name = node.inode, name[CHUNK:]
    txn.put(Table.DENTRIES, directory_key(parent) + name, pack(dentry))


def delete(txn: Txn, parent: int, name: bytes) -> None:
    """Remove the dentry, and continuation nodes that become empty."""
    chain: list[tuple[bytes, int]] = []
    while len(name) >= CHUNK:
        key = directory_key(parent) + name[:CHUNK]
        node = txn.record(Table.DENTRIES, key, Dentry)
        if node is None:
            return
        chain.append((key, node.inode))
        parent, name = node.inode, name[CHUNK:]
    txn.delete(Table.DENTRIES, directory_key(parent) + name)
    for key, node_id in reversed(chain):
        if not is_empty(txn, node_id):
            return
        txn.delete(Table.DENTRIES, key)


def is_empty(txn: Txn, parent: int) -> bool:
    return next(scan(txn, parent), None) is None


def scan(txn: Txn, parent: int, start: bytes = b"") -> Iterator[tuple[bytes, Dentry]]:
    """Yield (name, dentry) of a directory in key order, from `start` inclusive."""
    prefix = directory_key(parent)
    first = start[:CHUNK]
    for key, value in txn.scan(Table.DENTRIES, prefix + first, prefix):
        name = key[8:]
        dentry = unpack(value, Dentry)
        if dentry.kind != CONTINUATION:
            yield name, dentry
            continue
        rest = start[CHUNK:] if name == first else b""
        for tail, inner in scan(txn, dentry.inode, rest):
            yield name + tail, inner


def _existing_key(txn: Txn, parent: int, name: bytes) -> bytes | None:
    while len(name) >= CHUNK:
        node = txn.record(Table.DENTRIES, directory_key(parent) + name[:CHUNK], Dentry)
        if node is None:
            return None
        parent, name = node.inode, name[CHUNK:]
    return directory_key(parent) + name


def split_key(key: bytes) -> tuple[list[bytes], bytes]:
    """An S3 key as the directory names on its way (each with its `/`) and the last name.

    `a/b/c` -> ([b"a/", b"b/"], b"c"); a key that ends in `/` names a directory: `a/b/` ->
    ([b"a/"], b"b/"); `a//b` -> ([b"a/", b"/"], b"b").
    """
    parts = key.split(b"/")
    last = parts.pop()
    directories = [part + b"/" for part in parts]
    if not last:
        last = directories.pop()
    return directories, last


def is_posix_name(name: bytes) -> bool:
    """Whether the mount can show this name (given without its `/`)."""
    return 0 < len(name) <= 255 and name not in (b".", b"..") and b"\0" not in name
