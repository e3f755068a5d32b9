"""ListObjects, ListObjectsV2 and ListObjectVersions: pages of keys and common prefixes.

Everything about order, prefixes and delimiters is the cache's; here is how a page of it looks to
the three operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from cache.listing import CommonPrefix, Listing
from cache.publishing import Object
from cache.version_listing import ListedVersion
from s3api import browser
from s3api.acl import shown_user
from s3api.entity import quoted_etag, storage_class_of
from s3api.errors import S3Error
from s3api.operations import Call, offers
from s3api.paging import KeyText, decode_token, encode_token, key_text, read_limit
from s3api.uploads_shown import ShownUpload, with_uploads
from s3api.versioning import read_version_id

Shown = Object | ShownUpload
Page = Listing[Object] | Listing[Shown]
OwnerOf = Callable[[Shown], Mapping[str, str] | None]
"""The Owner element of an object; None to leave it out."""


def _given(values: Mapping[str, Any], name: str, text: KeyText) -> str | None:
    """A parameter of the request, echoed in the encoding it asks for."""
    return text(values[name].encode()) if values.get(name) else None


async def _page(call: Call, after: bytes, limit: int, delimiter: bytes | None = None) -> Page:
    """delimiter: instead of the request's."""
    values = call.input
    prefix = values.get("Prefix", "").encode()
    if delimiter is None:
        delimiter = values.get("Delimiter", "").encode()
    return await call.threads.metadata(_read_page, call, prefix, delimiter, after, limit)


def _read_page(call: Call, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> Page:
    config = call.door.config
    page = call.volume.objects.list(
        call.bucket,
        prefix=prefix,
        delimiter=delimiter,
        after=after,
        limit=limit,
        directories=config.list_directories,
        # For their owners, where they can be others than the bucket's.
        attributes=call.access.has_guests,
    )
    if not config.list_uploads_as_objects:
        return page
    return with_uploads(
        page,
        call.volume.uploads,
        call.bucket,
        prefix=prefix,
        delimiter=delimiter,
        after=after,
        limit=limit,
    )


def _contents(page: Page, text: KeyText, owner_of: OwnerOf) -> Sequence[dict[str, Any]]:
    return [
        {
            "Key": text(entry.key),
            "LastModified": entry.modified_ns,
            "ETag": quoted_etag(entry) if isinstance(entry, Object) else f'"{entry.etag}"',
            "Size": entry.size,
            "StorageClass": (
                storage_class_of(entry.attributes) if isinstance(entry, Object) else "STANDARD"
            ),
            "Owner": owner_of(entry),
        }
        for entry in page.entries
        if not isinstance(entry, CommonPrefix)
    ]


def _prefixes(page: Page, text: KeyText) -> Sequence[dict[str, str]]:
    return [
        {"Prefix": text(entry.key)} for entry in page.entries if isinstance(entry, CommonPrefix)
    ]


def _owners(call: Call) -> OwnerOf:
    """Whose an object is, as a listing shows it; each user is looked up once."""
    users: dict[str, Mapping[str, str]] = {}

    def owner_of(found: Shown) -> Mapping[str, str]:
        if isinstance(found, Object):
            name = call.access.owner_of(found)
        else:
            name = found.owner or call.access.bucket.owner
        if name not in users:
            users[name] = shown_user(name, call.volume.users)
        return users[name]

    return owner_of


def _no_owner(_found: Shown) -> None:
    return None


@offers("ListObjects", "Delimiter EncodingType Marker MaxKeys Prefix")
async def list_objects(call: Call) -> web.StreamResponse:
    values = call.input
    text = key_text(values)
    limit = read_limit(values, "MaxKeys", "max-keys")
    after = values.get("Marker", "").encode()
    if browser.wants_page(call):
        page = await _page(call, after, limit, browser.DELIMITER)
        return browser.answer_page(call, values.get("Prefix", "").encode(), page)
    page = await _page(call, after, limit)
    return call.document(
        {
            "IsTruncated": page.truncated,
            "Marker": text(values.get("Marker", "").encode()),
            # Amazon gives it with a delimiter only; Alluxio always, and that harms nobody.
            "NextMarker": text(page.last) if page.truncated else None,
            "Contents": _contents(page, text, _owners(call)),
            "Name": call.bucket,
            # Never encoded: botocore, written against Amazon, does not decode this one.
            "Prefix": values.get("Prefix", ""),
            "Delimiter": _given(values, "Delimiter", text),
            "MaxKeys": limit,
            "CommonPrefixes": _prefixes(page, text),
            "EncodingType": values.get("EncodingType"),
        }
    )


@offers(
    "ListObjectsV2",
    "ContinuationToken Delimiter EncodingType FetchOwner MaxKeys Prefix StartAfter",
)
async def list_objects_v2(call: Call) -> web.StreamResponse:
    values = call.input
    text = key_text(values)
    limit = read_limit(values, "MaxKeys", "max-keys")
    if values.get("ContinuationToken"):
        after = decode_token(values["ContinuationToken"])
    else:
        after = values.get("StartAfter", "").encode()
    page = await _page(call, after, limit)
    return call.document(
        {
            "IsTruncated": page.truncated,
            "Contents": _contents(
                page, text, _owners(call) if values.get("FetchOwner") else _no_owner
            ),
            "Name": call.bucket,
            "Prefix": text(values.get("Prefix", "").encode()),
            "Delimiter": _given(values, "Delimiter", text),
            "MaxKeys": limit,
            "CommonPrefixes": _prefixes(page, text),
            "EncodingType": values.get("EncodingType"),
            "KeyCount": len(page.entries),
            "ContinuationToken": values.get("ContinuationToken"),
            "NextContinuationToken": encode_token(page.last) if page.truncated else None,
            "StartAfter": _given(values, "StartAfter", text),
        }
    )


@offers("ListObjectVersions", "Delimiter EncodingType KeyMarker MaxKeys Prefix VersionIdMarker")
async def list_object_versions(call: Call) -> web.StreamResponse:
    values = call.input
    text = key_text(values)
    limit = read_limit(values, "MaxKeys", "max-keys")
    after_version = read_version_id(values.get("VersionIdMarker") or None)
    if after_version is not None and not values.get("KeyMarker"):
        raise S3Error(
            "InvalidArgument",
            "A version-id marker cannot be specified without a key marker.",
            ArgumentName="version-id-marker",
            ArgumentValue=after_version,
        )
    page = await call.threads.metadata(
        lambda: call.volume.objects.list_versions(
            call.bucket,
            prefix=values.get("Prefix", "").encode(),
            delimiter=values.get("Delimiter", "").encode(),
            after=values.get("KeyMarker", "").encode(),
            after_version=after_version,
            limit=limit,
            directories=call.door.config.list_directories,
        )
    )
    owner_of = _owners(call)
    listed = [entry for entry in page.entries if isinstance(entry, ListedVersion)]
    return call.document(
        {
            "IsTruncated": page.truncated,
            "KeyMarker": text(values.get("KeyMarker", "").encode()),
            "VersionIdMarker": values.get("VersionIdMarker", ""),
            "NextKeyMarker": text(page.last_key) if page.truncated else None,
            "NextVersionIdMarker": page.last_version if page.truncated else None,
            "Versions": [
                {
                    **_version(entry, text, owner_of),
                    "ETag": quoted_etag(entry.object),
                    "Size": entry.object.size,
                    "StorageClass": storage_class_of(entry.object.attributes),
                }
                for entry in listed
                if not entry.object.is_marker
            ],
            "DeleteMarkers": [
                _version(entry, text, owner_of) for entry in listed if entry.object.is_marker
            ],
            "Name": call.bucket,
            "Prefix": text(values.get("Prefix", "").encode()),
            "Delimiter": _given(values, "Delimiter", text),
            "MaxKeys": limit,
            "CommonPrefixes": [
                {"Prefix": text(entry.key)}
                for entry in page.entries
                if isinstance(entry, CommonPrefix)
            ],
            "EncodingType": values.get("EncodingType"),
        }
    )


def _version(entry: ListedVersion, text: KeyText, owner_of: OwnerOf) -> dict[str, Any]:
    shown = entry.object
    return {
        "Key": text(shown.key),
        "VersionId": shown.version_id,
        "IsLatest": entry.is_latest,
        "LastModified": shown.modified_ns,
        "Owner": owner_of(shown),
    }
