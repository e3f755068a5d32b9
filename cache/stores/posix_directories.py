"""Directories of a posix store, and the bytes that S3 clients put under their keys.

The key `a/` is the directory `a`. Bytes under it are the file `.fb~f` in it, the escaped form of a
name that is empty. Where that file is, mode, owner and mtime of the object are the directory's,
and all else is the file's: size, version token, and the xattrs user.forebay.*. Else all are the
directory's. The file's own mtime is that of its last change, because the ETag is bound to it, and
whatever is put into the directory changes the directory's.

Works on descriptors that the caller opened without following symlinks. Runs in the store's threads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import stat
from collections.abc import Iterator

from cache.errors import StoreRefused
from cache.records import Kind
from cache.stores import posix_attributes
from cache.stores.base import StoredAttributes, StoredObject
from cache.stores.beneath import open_leaf
from cache.stores.posix_names import escaped_form

BODY = escaped_form(b"", is_directory=False)[0]


def described(key: bytes, directory: int) -> StoredObject:
    """The object that an open directory is."""
    status = os.fstat(directory)
    with _body_of(directory) as body:
        if body is None:
            xattrs = posix_attributes.read_xattrs(directory)
            return posix_attributes.described(key, status, None, xattrs)
        found = _described_body(key, body)
    assert found.attributes is not None
    attributes = dataclasses.replace(
        found.attributes,
        kind=Kind.DIRECTORY,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
    )
    return dataclasses.replace(found, modified_ns=status.st_mtime_ns, attributes=attributes)


def version_at(parent: int, name: bytes) -> str:
    """The version token of the directory `name`."""
    directory = open_leaf(parent, name)
    try:
        with _body_of(directory) as body:
            return posix_attributes.version_of(os.fstat(directory if body is None else body))
    finally:
        os.close(directory)


def open_body(key: bytes, directory: int) -> int:
    """A read descriptor of the bytes under the key; StoreRefused if there are none."""
    with _body_of(directory) as body:
        if body is None:
            raise StoreRefused(f"{key!r} has no bytes to read")
        return os.dup(body)


def apply(
    directory: int, key: bytes, attributes: StoredAttributes, *, chown: bool, xattrs: bool
) -> None:
    """Give the attributes to an open directory, and to the bytes under its key. These stay as they
    are, and so does their version, unless what S3 clients said of them changes."""
    with _body_of(directory) as body:
        if body is not None:
            known = _described_body(key, body).attributes
            if known is None or _clients_part(known) != _clients_part(attributes):
                posix_attributes.apply(body, key, of_body(attributes), chown=chown, xattrs=xattrs)
                os.fsync(body)
            attributes = _of_directory(attributes)
    posix_attributes.apply(directory, key, attributes, chown=chown, xattrs=xattrs)


def of_body(attributes: StoredAttributes) -> StoredAttributes:
    """What is kept with the bytes."""
    return dataclasses.replace(attributes, kind=Kind.FILE, mode=None, mtime_ns=None)


def remove_body(directory: int) -> None:
    """Remove the bytes durably, if there are any."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(BODY, dir_fd=directory)
        os.fsync(directory)


def remove(parent: int, name: bytes) -> bool:
    """Remove the bytes and the directory `name`; False if it is not empty and stays."""
    directory = open_leaf(parent, name)
    try:
        remove_body(directory)
    finally:
        os.close(directory)
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


@contextlib.contextmanager
def _body_of(directory: int) -> Iterator[int | None]:
    try:
        body = open_leaf(directory, BODY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield body if stat.S_ISREG(os.fstat(body).st_mode) else None
    finally:
        os.close(body)


def _described_body(key: bytes, body: int) -> StoredObject:
    xattrs = posix_attributes.read_xattrs(body)
    return posix_attributes.described(key, os.fstat(body), None, xattrs)


def _of_directory(attributes: StoredAttributes) -> StoredAttributes:
    """What is kept with a directory that has bytes under its key."""
    return StoredAttributes(
        kind=Kind.DIRECTORY,
        mode=attributes.mode,
        uid=attributes.uid,
        gid=attributes.gid,
        mtime_ns=attributes.mtime_ns,
    )


def _clients_part(attributes: StoredAttributes) -> tuple[object, ...]:
    return (
        attributes.content_type or "",
        dict(attributes.headers),
        dict(attributes.metadata),
        dict(attributes.tags),
        dict(attributes.own),
    )
