"""Operations on buckets: list, create, delete, look at.

A bucket that a client creates is its creator's; one that the configuration or the mount made is
nobody's, and everybody's list shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from cache.errors import BucketExists, BucketNotEmpty
from cache.records import Bucket
from cache.versioning import LOCKED_FROM_THE_START
from cache.volume import Volume
from s3api.acl import GRANT_HEADERS, shown_user
from s3api.acls import new_bucket_settings
from s3api.config import GatewayConfig
from s3api.controls import ACL
from s3api.errors import S3Error
from s3api.keys import check_bucket_created
from s3api.operations import Call, offers
from s3api.paging import decode_token, encode_token
from s3api.receiving import read_document

_BUCKETS_MAX = 10_000
_LOCATION = "location"  # name of the settings document


def check_expected_owner(call: Call, bucket: str, expected: str | None) -> None:
    """x-amz-expected-bucket-owner: AccessDenied if the bucket is another's."""
    if expected is None:
        return
    owner = shown_user(call.volume.buckets.get(bucket).owner, call.volume.users)
    if owner["ID"] != expected:
        raise S3Error("AccessDenied")


@offers("ListBuckets", "BucketRegion ContinuationToken MaxBuckets Prefix")
async def list_buckets(call: Call) -> web.StreamResponse:
    values = call.input
    limit = values.get("MaxBuckets", _BUCKETS_MAX)
    if not 1 <= limit <= _BUCKETS_MAX:
        raise S3Error("InvalidArgument", ArgumentName="max-buckets", ArgumentValue=str(limit))
    prefix = values.get("Prefix", "")
    token = values.get("ContinuationToken")
    after = "" if token is None else decode_token(token).decode("utf-8", "replace")
    user = call.identity.user
    shown = [
        bucket
        for bucket in await call.threads.metadata(_all_names, call.volume)
        if bucket.owner in ("", user)
        and bucket.name.startswith(prefix)
        and bucket.name > after
        and values.get("BucketRegion", region_of(call.door.config, bucket))
        == region_of(call.door.config, bucket)
    ]
    page, rest = shown[:limit], shown[limit:]
    return call.document(
        {
            "Buckets": [
                {"Name": bucket.name, "CreationDate": bucket.created_ns} for bucket in page
            ],
            "Owner": shown_user(user, call.volume.users),
            "ContinuationToken": encode_token(page[-1].name.encode()) if rest else None,
            "Prefix": values.get("Prefix"),
        }
    )


def _all_names(volume: Volume) -> Sequence[Bucket]:
    return volume.bucket_links.with_links(volume.buckets.list())


def region_of(config: GatewayConfig, bucket: Bucket) -> str:
    """The location that the bucket's creator asked for; by default the node's."""
    return bucket.settings.get(_LOCATION, config.region.encode()).decode()


@offers(
    "CreateBucket",
    f"ACL CreateBucketConfiguration ObjectLockEnabledForBucket ObjectOwnership {GRANT_HEADERS}",
)
async def create_bucket(call: Call) -> web.StreamResponse:
    """For one's own bucket as in Amazon's first region: it succeeds and resets the ACL."""
    name = check_bucket_created(call.bucket)
    body = await read_document(call)
    configuration: dict[str, Any] = body.get("CreateBucketConfiguration", {})
    others = configuration.keys() - {"LocationConstraint"}
    if others:
        raise S3Error("NotImplemented", f"{', '.join(sorted(others))} is not implemented.")
    region = configuration.get("LocationConstraint", "")
    if region and call.door.config.check_region and region != call.door.config.region:
        raise S3Error("InvalidLocationConstraint", LocationConstraint=region[:64])
    await call.threads.metadata(_create, call, name, region)
    return call.document({"Location": f"/{name}"})


def _create(call: Call, name: str, region: str) -> None:
    settings = new_bucket_settings(call)
    if region:
        settings[_LOCATION] = region.encode()
    if call.input.get("ObjectLockEnabledForBucket"):
        settings |= LOCKED_FROM_THE_START
    try:
        call.volume.buckets.create(name, call.identity.user, settings)
    except BucketExists as exists:
        if exists.owner != call.identity.user:
            raise
        call.volume.buckets.change_settings(name, {ACL: settings.get(ACL)})


@offers("DeleteBucket")
async def delete_bucket(call: Call) -> web.StreamResponse:
    await call.threads.metadata(_delete, call)
    return call.document({})


def _delete(call: Call) -> None:
    # Listing first makes the cache learn what the store holds: an unknown bucket is not empty.
    if call.volume.objects.list_versions(call.bucket, limit=1).entries:
        raise BucketNotEmpty(call.bucket)
    # Unfinished uploads do not keep a bucket alive on Amazon; they go with it.
    for upload in call.volume.uploads.list(call.bucket):
        call.volume.uploads.abort(upload)
    call.volume.buckets.delete(call.bucket)


@offers("HeadBucket")
async def head_bucket(call: Call) -> web.StreamResponse:
    bucket = call.access.bucket
    return call.document(
        {"BucketRegion": region_of(call.door.config, bucket), "AccessPointAlias": False}
    )


@offers("GetBucketLocation")
async def get_bucket_location(call: Call) -> web.StreamResponse:
    bucket = call.access.bucket
    region = region_of(call.door.config, bucket)
    # Amazon's first region has no name here, unless the bucket's creator gave it one.
    unnamed = region == "us-east-1" and _LOCATION not in bucket.settings
    return call.document({"LocationConstraint": "" if unnamed else region})
