"""Checks on bodies that both stores make the same way."""

from __future__ import annotations

from collections.abc import Iterable

from cache.errors import StoreCorrupt
from cache.records import Kind
from cache.stores.base import StoredAttributes, StoredObject, Upload


def upload_whole(
    upload: Upload,
    body: Iterable[bytes | memoryview],
    size_bytes: int,
    attributes: StoredAttributes,
    expected: str | None,
) -> StoredObject:
    """Write body into the upload and commit it; abort the upload on any exception.

    StoreCorrupt if the body is not size_bytes long: then nothing became visible."""
    try:
        written = 0
        for chunk in body:
            upload.write(chunk)
            written += len(chunk)
        if written != size_bytes:
            raise StoreCorrupt(f"body of {written} bytes, announced as {size_bytes}")
        return upload.commit(attributes, expected=expected)
    except BaseException:
        upload.abort()
        raise


def expected_body(attributes: StoredAttributes) -> bytes | None:
    """The only body an object of this kind may have; None: any.

    What stands for a symlink in a store is its target (S3) or the link itself (a file system),
    and a FIFO or device has no bytes. The caller may pass that body or none. A directory has the
    bytes that an S3 client put under its key."""
    if attributes.kind in (Kind.FILE, Kind.DIRECTORY):
        return None
    if attributes.kind == Kind.SYMLINK:
        return attributes.symlink_target or b""
    return b""
