"""What a bucket is beyond its objects, as its store keeps it, so that it outlives the index.

One JSON object per bucket, `.forebay/bucket.json` in the bucket's part of the store:

    {"format": 1, "owner": "ana", "created_ns": 1790000000000000000,
     "settings": {"policy": "{...}", "cors": "<CORSConfiguration>..."}}

`settings` is `Bucket.settings`: the documents that front ends keep with a bucket, as text. The
index is what a running node believes; this is written before the index and read when a bucket is
entered into an index that does not have it. Blocking, thread-safe; raises StoreErrors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from cache.errors import StoreCorrupt, StoreNotFound
from cache.records import Bucket, Kind
from cache.stores.base import Store, StoredAttributes
from cache.stores.bucket_part import RESERVED

NAME = RESERVED + b"bucket.json"
_FORMAT = 1
_BYTES_MAX = 16 << 20


class _Document(msgspec.Struct):
    format: int
    owner: str = ""
    created_ns: int = 0
    settings: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Kept:
    """What the store says of a bucket; empty for one that it says nothing of."""

    owner: str = ""
    created_ns: int = 0
    settings: dict[str, bytes] = field(default_factory=dict)


def write(store: Store, bucket: Bucket) -> None:
    """Put the bucket's document into its store, in one step, durably. Nobody else's processes may
    read it there: policies name users."""
    document = _Document(
        _FORMAT,
        bucket.owner,
        bucket.created_ns,
        {name: text.decode() for name, text in bucket.settings.items()},
    )
    body = msgspec.json.format(msgspec.json.encode(document), indent=1)
    location = bucket.location.encode()
    if store.capabilities.native_directories:
        directory = StoredAttributes(kind=Kind.DIRECTORY, mode=0o700)
        store.put(location + RESERVED, (), 0, directory)
    attributes = StoredAttributes(mode=0o600, content_type="application/json")
    store.put(location + NAME, (body,), len(body), attributes)


def read(store: Store, location: bytes) -> Kept:
    """The document of the bucket at this place in the store. StoreUnavailable, and StoreCorrupt
    for one that cannot be understood: a bucket without its policy would be another bucket."""
    try:
        found = store.head(location + NAME)
        if found.size_bytes > _BYTES_MAX:
            raise StoreCorrupt(f"{location + NAME!r} has {found.size_bytes} bytes")
        body = b"".join(store.read(location + NAME, 0, found.size_bytes, found.version))
        document = msgspec.json.decode(body, type=_Document)
    except StoreNotFound:
        return Kept()
    except msgspec.DecodeError as exc:
        raise StoreCorrupt(f"{location + NAME!r} does not decode: {exc}") from exc
    if document.format != _FORMAT:
        raise StoreCorrupt(f"{location + NAME!r} is of format {document.format}, want {_FORMAT}")
    settings = {name: text.encode() for name, text in document.settings.items()}
    return Kept(document.owner, document.created_ns, settings)


def remove(store: Store, bucket: Bucket) -> None:
    """Take the document out of the store, and the reserved place if nothing else is in it."""
    location = bucket.location.encode()
    store.delete(location + NAME)
    store.delete(location + RESERVED)
