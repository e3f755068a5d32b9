"""Versions: whether a bucket keeps them, which one a request means, and how answers name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from cache.publishing import Object
from cache.records import ObjectAttributes
from cache.versions import ENABLED, NULL, SUSPENDED, is_version_id, status_of
from s3api.documents import http_date
from s3api.errors import S3Error, not_implemented
from s3api.operations import Call, offers
from s3api.receiving import read_document


def read_version_id(text: str | None) -> str | None:
    """The version that a request names; None for the current one. InvalidArgument for what can be
    no version's id."""
    if text is None or is_version_id(text):
        return text
    raise S3Error(
        "InvalidArgument",
        "Invalid version id specified" if text else "Version id cannot be the empty string",
        ArgumentName="versionId",
        ArgumentValue=text[:256],
    )


def version_of(call: Call) -> str | None:
    """The version that the request's versionId names, as read_version_id."""
    return read_version_id(call.input.get("VersionId"))


def find_version(call: Call) -> Object:
    """The object, or the version of it, that a request is about. Blocks. NoSuchKey, NoSuchVersion,
    MethodNotAllowed for a delete marker."""
    found = call.volume.objects.get(call.bucket, call.key, version_of(call))
    return no_marker(call.access.confirm(found))


def change_version(call: Call, change_of: Callable[[Object], ObjectAttributes]) -> Object:
    """Give what a request is about other attributes: see Objects.change_attributes; change_of may
    raise errors of the cache only. Blocks. As find_version."""
    find_version(call)
    return call.volume.objects.change_attributes(
        call.bucket, call.key, change_of, version_id=version_of(call)
    )


def no_marker(found: Object) -> Object:
    """MethodNotAllowed for a delete marker: it can only be deleted."""
    if found.is_marker:
        raise S3Error(
            "MethodNotAllowed",
            headers={
                **version_headers(found),
                "x-amz-delete-marker": "true",
                "Last-Modified": http_date(found.modified_ns),
                "Allow": "DELETE",
            },
            ResourceType="DeleteMarker",
        )
    return found


def version_headers(found: Object) -> dict[str, str]:
    """x-amz-version-id, in a bucket that is or was versioned."""
    return {} if found.version_id is None else {"x-amz-version-id": found.version_id}


def made_version(stored: Object) -> str | None:
    """The id that the answer to a write gives; none for a null version, as Amazon has it."""
    return None if stored.version_id == NULL else stored.version_id


@offers("GetBucketVersioning")
async def get_bucket_versioning(call: Call) -> web.StreamResponse:
    """A bucket that never was versioned is answered without a status."""
    status = status_of(call.access.bucket)
    return call.document({"Status": status or None})


@offers("PutBucketVersioning", "ContentMD5 VersioningConfiguration")
async def put_bucket_versioning(call: Call) -> web.StreamResponse:
    configuration: Mapping[str, Any] = (await read_document(call))["VersioningConfiguration"]
    if configuration.get("MFADelete", "Disabled") != "Disabled":
        raise not_implemented("MfaDelete")
    status = configuration.get("Status")
    if status not in (ENABLED, SUSPENDED):
        raise S3Error("IllegalVersioningConfigurationException")
    await call.threads.metadata(call.volume.versioning.set_status, call.bucket, status)
    return call.document({})
