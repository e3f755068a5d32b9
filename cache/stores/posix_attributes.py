"""Attributes of files on a file system: native where POSIX has them, xattrs for the rest.

    kind, mode, uid, gid, mtime, rdev, symlink target    the file's own
    user.forebay.content-type    text
    user.forebay.headers, user.forebay.metadata, user.forebay.tags    JSON objects of strings
    user.forebay.etag    `<ETag> <size> <mtime in ns>`: the ETag S3 clients know these bytes by.
                         It is believed only while size and mtime are those, so a file that was
                         changed by somebody else has none.
    user.forebay.NAME    what Forebay itself keeps (OWN_NAMES): text
    user.forebay.checksums    `<record> <size> <mtime in ns>`: checksums and sizes of parts as S3
                         clients know them; believed as the ETag is.
    user.forebay.origin    `<node>-<inode>-<revision> <size> <mtime in ns>`: which version of ours
                         the bytes are; believed as the ETag is.

Owners are set only where the process may (root); elsewhere files belong to the process. Linux
has no user xattrs on symlinks, FIFOs, sockets and devices: S3 attributes of those are logged and
not kept, as on a file system without xattrs (the store warns of that when it is opened).

The version token is inode, size, mtime and ctime of a file: ctime changes with every chmod,
rename and link too, and nothing can set it back, so bytes cannot change under an old token. The
token of a directory without bytes (posix_directories) is its inode.

Everything here works on descriptors that the caller opened without following symlinks.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Mapping

from cache.errors import AttributeTooLarge, StoreRefused
from cache.records import Kind
from cache.stores.attributes import kind_of
from cache.stores.base import OWN_NAMES, StoredAttributes, StoredObject

log = logging.getLogger(__name__)

_CONTENT_TYPE = "user.forebay.content-type"
_HEADERS = "user.forebay.headers"
_METADATA = "user.forebay.metadata"
_TAGS = "user.forebay.tags"
_ETAG = "user.forebay.etag"
_CHECKSUMS = "user.forebay.checksums"
_OWN = {name: f"user.forebay.{name}" for name in OWN_NAMES}
_ORIGIN = "user.forebay.origin"
_ALL = frozenset(
    {_CONTENT_TYPE, _HEADERS, _METADATA, _TAGS, _ETAG, _CHECKSUMS, _ORIGIN, *_OWN.values()}
)

_DISPENSABLE = (_CHECKSUMS, _ORIGIN, _ETAG)
"""What is left out, in this order, where a file system has no room for all."""

_XATTR_BLOCK_BYTES = 4000
"""What all xattrs of a file take together where they share a block; its own left out."""
_XATTR_SPACE_BYTES = 3000
"""ext4 keeps all xattrs of a file in one block of 4 KiB and says ENOSPC beyond: from here on an
ENOSPC is taken for that, below for a full disk."""


def version_of(status: os.stat_result) -> str:
    """The version token; see the module docstring."""
    if stat.S_ISDIR(status.st_mode):
        return f"{status.st_ino}:directory"
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def described(
    key: bytes, status: os.stat_result, target: bytes | None, xattrs: Mapping[str, bytes]
) -> StoredObject:
    """The object that a file with this stat, symlink target and xattrs is."""
    size_bytes = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    is_device = stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)
    content_type = xattrs.get(_CONTENT_TYPE)
    attributes = StoredAttributes(
        kind=kind_of(status.st_mode),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        rdev=status.st_rdev if is_device else 0,
        symlink_target=target,
        content_type=None if content_type is None else content_type.decode("utf-8", "replace"),
        headers=_strings(key, xattrs, _HEADERS),
        metadata=_strings(key, xattrs, _METADATA),
        tags=_strings(key, xattrs, _TAGS),
        own={n: xattrs[x].decode("ascii", "replace") for n, x in _OWN.items() if x in xattrs},
        s3_etag=_bound(xattrs.get(_ETAG, b""), status),
        checksums=_bound(xattrs.get(_CHECKSUMS, b""), status),
        origin=_bound(xattrs.get(_ORIGIN, b""), status),
    )
    return StoredObject(key, size_bytes, version_of(status), status.st_mtime_ns, attributes)


def check_block(attributes: StoredAttributes) -> None:
    """AttributeTooLarge if the xattrs of a file with these are more than a block holds."""
    # As ext4 lays them out: 16 bytes for an entry beside its name and value.
    size = sum(len(name) + len(value) + 16 for name, value in _texts(attributes).items())
    if size > _XATTR_BLOCK_BYTES:
        raise AttributeTooLarge(
            f"{size} bytes of metadata, tags and what is kept beside them; the store's file system"
            f" takes {_XATTR_BLOCK_BYTES} with a file"
        )


def read_xattrs(descriptor: int) -> dict[str, bytes]:
    """Our xattrs of an open file; none where the file system has no xattrs."""
    found: dict[str, bytes] = {}
    try:
        for name in os.listxattr(descriptor):
            if name in _ALL:
                found[name] = os.getxattr(descriptor, name)
    except OSError as exc:
        if exc.errno not in (errno.ENOTSUP, errno.ENODATA):
            raise
    return found


def apply(
    descriptor: int, key: bytes, attributes: StoredAttributes, *, chown: bool, xattrs: bool
) -> None:
    """Give the attributes to an open regular file or directory; None leaves what is there.

    mode after owner, because chown clears set-uid; mtime after both and the ETag last, because
    it is bound to size and mtime as the file system rounded them."""
    if chown and (attributes.uid is not None or attributes.gid is not None):
        os.fchown(
            descriptor,
            -1 if attributes.uid is None else attributes.uid,
            -1 if attributes.gid is None else attributes.gid,
        )
    if attributes.mode is not None:
        os.fchmod(descriptor, attributes.mode)
    if attributes.mtime_ns is not None:
        os.utime(descriptor, ns=(attributes.mtime_ns, attributes.mtime_ns))
    if xattrs:
        _replace_xattrs(descriptor, key, attributes, os.fstat(descriptor))
    elif _s3_only(attributes):
        log.debug("no xattrs here: the S3 attributes of %r are not kept", key)


def apply_special(
    directory: int, name: bytes, key: bytes, attributes: StoredAttributes, *, chown: bool
) -> None:
    """Give owner, mode and mtime to a symlink, FIFO, socket or device, by name: they cannot be
    opened harmlessly. A symlink has no mode on Linux."""
    if chown and (attributes.uid is not None or attributes.gid is not None):
        os.chown(
            name,
            -1 if attributes.uid is None else attributes.uid,
            -1 if attributes.gid is None else attributes.gid,
            dir_fd=directory,
            follow_symlinks=False,
        )
    if attributes.mode is not None and attributes.kind != Kind.SYMLINK:
        # chmod by name would follow a symlink put there meanwhile; O_PATH pins what is there.
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if not stat.S_ISLNK(os.fstat(pinned).st_mode):
                os.chmod(f"/proc/self/fd/{pinned}", attributes.mode)
        finally:
            os.close(pinned)
    if attributes.mtime_ns is not None:
        times = (attributes.mtime_ns, attributes.mtime_ns)
        os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
    if _s3_only(attributes):
        log.warning("a %s has no xattrs: S3 attributes of %r not kept", attributes.kind.name, key)


def make_special(directory: int, name: bytes, attributes: StoredAttributes, mode: int) -> None:
    """Create the symlink, FIFO, socket or device `name`, which must not exist."""
    if attributes.kind == Kind.SYMLINK:
        target = attributes.symlink_target
        if not target or b"\0" in target:
            raise StoreRefused("a symlink needs a target without NUL")
        os.symlink(target, name, dir_fd=directory)
        return
    kinds = {
        Kind.FIFO: stat.S_IFIFO,
        Kind.SOCKET: stat.S_IFSOCK,
        Kind.CHARACTER_DEVICE: stat.S_IFCHR,
        Kind.BLOCK_DEVICE: stat.S_IFBLK,
    }
    os.mknod(name, kinds[attributes.kind] | mode, attributes.rdev, dir_fd=directory)


def _s3_only(attributes: StoredAttributes) -> bool:
    return bool(attributes.headers or attributes.metadata or attributes.tags or attributes.own)


def _replace_xattrs(
    descriptor: int, key: bytes, attributes: StoredAttributes, status: os.stat_result
) -> None:
    wanted = _texts(attributes)
    for name, value in (
        (_ETAG, attributes.s3_etag),
        (_CHECKSUMS, attributes.checksums),
        (_ORIGIN, attributes.origin),
    ):
        if value:
            wanted[name] = f"{value} {status.st_size} {status.st_mtime_ns}".encode()
    while not _set(descriptor, wanted):
        left_out = next((name for name in _DISPENSABLE if name in wanted), None)
        if left_out is None:
            raise StoreRefused(
                f"{key!r}: {sum(map(len, wanted.values()))} bytes of S3 attributes do not fit in"
                " the xattrs of this file system"
            )
        log.debug("the xattrs of %r have no room for %s", key, left_out)
        del wanted[left_out]


def _texts(attributes: StoredAttributes) -> dict[str, bytes]:
    """The xattrs that do not depend on the file, and cannot be left out."""
    wanted: dict[str, bytes] = {}
    if attributes.content_type:
        wanted[_CONTENT_TYPE] = attributes.content_type.encode()
    for name, strings in (
        (_HEADERS, attributes.headers),
        (_METADATA, attributes.metadata),
        (_TAGS, attributes.tags),
    ):
        if strings:
            wanted[name] = json.dumps(dict(strings), ensure_ascii=False).encode()
    return wanted | {_OWN[name]: value.encode("ascii") for name, value in attributes.own.items()}


def _set(descriptor: int, wanted: Mapping[str, bytes]) -> bool:
    """Make these all of our xattrs; False if they are more than the file system can hold."""
    existing = read_xattrs(descriptor)
    for name in existing.keys() - wanted.keys():
        os.removexattr(descriptor, name)
    for name, content in wanted.items():
        if existing.get(name) == content:
            continue
        try:
            os.setxattr(descriptor, name, content)
        except OSError as exc:
            total_bytes = sum(map(len, wanted.values()))
            if exc.errno in (errno.E2BIG, errno.ERANGE) or (
                exc.errno == errno.ENOSPC and total_bytes > _XATTR_SPACE_BYTES
            ):
                return False
            raise
    return True


def _strings(key: bytes, xattrs: Mapping[str, bytes], name: str) -> dict[str, str]:
    raw = xattrs.get(name)
    if raw is None:
        return {}
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    log.warning("xattr %s of %r is not a JSON object of strings: ignored", name, key)
    return {}


def _bound(raw: bytes, status: os.stat_result) -> str | None:
    """The first word, if the others are the file's size and time."""
    parts = raw.decode("ascii", "replace").split(" ")
    if parts[1:] == [str(status.st_size), str(status.st_mtime_ns)]:
        return parts[0]
    return None
