"""Directory markers: the objects under keys that end in `/`.

The key `a/` is the directory `a`, made explicit: one inode is a directory for the mount and an
object for S3. What S3 clients put under the key, bytes too, belongs to the directory's inode,
because the names below it know that one: it stays, and what it holds is replaced. Whoever reads
the old bytes has a snapshot of them.

Bytes are refused where they could not be kept: in a versioned bucket, whose keys that end in `/`
have no versions, and in a store that has no markers. Functions of a transaction, for what
publishes, removes and discovers objects, and for the mount.
"""

from __future__ import annotations

import time

import msgspec

from cache import contents, names, namespace
from cache.errors import NotEmpty, NotSupported
from cache.index import Txn
from cache.records import Bucket, Inode, InodeFlag
from cache.stores.base import Capabilities
from cache.versions import is_versioned


def check_kept(
    bucket: Bucket, key: bytes, size_bytes: int | None, capabilities: Capabilities
) -> None:
    """NotSupported for a body (None: of a length not known yet) that its key could not keep."""
    if not key.endswith(b"/") or size_bytes == 0:
        return
    if size_bytes is not None:
        check_unversioned(bucket, key, size_bytes)
    if not capabilities.keeps_markers:
        raise NotSupported(f"{key!r}: its store does not keep keys that end in /")


def check_unversioned(bucket: Bucket, key: bytes, size_bytes: int) -> None:
    """NotSupported if bytes are to come to, or to leave, a key that ends in `/` and ought to have
    versions."""
    if size_bytes and key.endswith(b"/") and is_versioned(bucket):
        raise NotSupported(f"{key!r}: in a versioned bucket, keys that end in / have no bytes")


def goes_later(bucket: Bucket, key: bytes) -> bool:
    """Whether a body cannot pass through to the store as it arrives. Of a versioned bucket the
    store has the version that is to be replaced, too: that moves first, and then the whole body
    goes there. So does that of a marker, whose attributes are the directory's."""
    return is_versioned(bucket) or key.endswith(b"/")


def check_empty(txn: Txn, directory: Inode) -> None:
    """NotEmpty for who is to remove a directory through the mount: for names in it, and for bytes
    under its key, which the mount does not show and is not to remove unseen."""
    if directory.visible_size or not names.is_empty(txn, directory.id):
        raise NotEmpty(repr(directory.name))


def replaced(txn: Txn, inode: Inode) -> Inode:
    """A directory whose marker a new one replaces, without the old one's bytes; not stored."""
    inode = without_bytes(txn, inode)
    now = time.time_ns()
    return msgspec.structs.replace(
        inode,
        explicit=True,
        attributes_revision=inode.attributes_revision + 1,
        mtime_ns=now,
        ctime_ns=now,
    )


def removed(txn: Txn, inode: Inode) -> Inode:
    """The directory without its marker: implied by what is in it, if anything is. Stored."""
    inode = namespace.put_object_attributes(txn, inode, namespace.NO_ATTRIBUTES)
    inode = without_bytes(txn, inode)
    return namespace.update(txn, inode, explicit=False, size=0, overhead=0, etag="")


def without_bytes(txn: Txn, inode: Inode) -> Inode:
    """The directory before other bytes come under its key; not stored."""
    contents.drop_bytes(txn, inode.id)
    flags = inode.flags & ~InodeFlag.INLINE
    return msgspec.structs.replace(inode, flags=flags, revision=inode.revision + 1)
