"""Uploads in progress in listings (`s3.list_uploads_as_objects`), as Alluxio shows them.

An upload is the empty object `KEY_UPLOADID/`, each of its parts `KEY_UPLOADID/NUMBER`. They are in
listings only: nothing can be read, written or deleted under these names. Amazon shows nothing of
the kind, so they are an addition to the page that the cache made.

Blocking (it reads the uploads of a bucket); for the metadata threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cache.listing import CommonPrefix, Listing
from cache.multipart import PART_NUMBER_MAX, Uploads
from cache.publishing import Object


@dataclass(frozen=True, slots=True)
class ShownUpload:
    """An upload, or a part of one, in a listing."""

    key: bytes
    size: int
    etag: str
    modified_ns: int
    owner: str  # of the object to be; empty: the bucket's owner


Entry = Object | ShownUpload | CommonPrefix


def with_uploads(
    page: Listing[Object],
    uploads: Uploads,
    bucket: str,
    *,
    prefix: bytes,
    delimiter: bytes,
    after: bytes,
    limit: int,
) -> Listing[Object | ShownUpload]:
    """The same page of a listing that has the bucket's uploads, too. The other arguments are those
    that the page was made with."""
    entries: dict[bytes, Entry] = {}
    for shown in _shown(uploads, bucket, prefix):
        cut = shown.key.find(delimiter, len(prefix)) if delimiter else -1
        entry = shown if cut < 0 else CommonPrefix(shown.key[: cut + len(delimiter)])
        if entry.key > after:
            entries[entry.key] = entry
    entries |= {entry.key: entry for entry in page.entries}
    # The first of both are among the first of each.
    keys = sorted(entries)
    return Listing(
        [entries[key] for key in keys[:limit]],
        truncated=page.truncated or len(keys) > limit > 0,
        last=keys[:limit][-1] if keys[:limit] else page.last,
    )


def _shown(uploads: Uploads, bucket: str, prefix: bytes) -> Iterator[ShownUpload]:
    for upload in uploads.list(bucket):
        directory = b"%b_%b/" % (upload.key, upload.id.encode())
        if not (directory.startswith(prefix) or prefix.startswith(directory)):
            continue
        owner = upload.attributes.owner
        found = [ShownUpload(directory, 0, "", upload.initiated_ns, owner)]
        found += [
            ShownUpload(
                directory + str(part.number).encode(),
                part.visible_size,
                part.etag,
                part.modified_ns,
                owner,
            )
            for part in uploads.parts(upload, limit=PART_NUMBER_MAX)
        ]
        yield from (shown for shown in found if shown.key.startswith(prefix))
