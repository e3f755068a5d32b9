"""Operations on a bucket's server access logging; `log_delivery.py` does what they ask for.

The target must be a bucket of the same owner, who must let logs be delivered into it
(`log_permission.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from cache.errors import NoSuchBucket
from cache.records import Bucket
from s3api.acl import FULL_CONTROL, GRANTS_MAX, READ, WRITE, read_grant, shown_user
from s3api.controls import controls_of
from s3api.documents import write_document
from s3api.errors import S3Error
from s3api.log_delivery import DOCUMENT
from s3api.log_permission import may_deliver
from s3api.model import MODEL
from s3api.operations import Call, offers
from s3api.receiving import read_document

_STATUS = "BucketLoggingStatus"
_PREFIX_MAX = 800
_GRANTED = (FULL_CONTROL, READ, WRITE)
"""What TargetGrants can give (BucketLogsPermission)."""


@offers("PutBucketLogging", "BucketLoggingStatus ContentMD5")
async def put_bucket_logging(call: Call) -> web.StreamResponse:
    source = call.access.bucket
    status = (await read_document(call)).get(_STATUS)
    if status is None:
        raise S3Error("MalformedXML")
    text = None
    if "LoggingEnabled" in status:
        _check(call, source, status["LoggingEnabled"])
        text = write_document(_STATUS, MODEL.shapes[_STATUS], status)
    changes = {DOCUMENT: text}
    await call.threads.metadata(call.volume.buckets.change_settings, call.bucket, changes)
    return call.document({})


def _check(call: Call, source: Bucket, enabled: dict[str, Any]) -> None:
    """InvalidTargetBucketForLogging; fills in the default format of keys."""
    try:
        target = call.volume.buckets.get(enabled["TargetBucket"])
    except NoSuchBucket:
        raise S3Error(
            "InvalidTargetBucketForLogging",
            "The target bucket for logging does not exist",
            TargetBucket=enabled["TargetBucket"][:64],
        ) from None
    if target.owner != source.owner:
        raise S3Error(
            "InvalidTargetBucketForLogging",
            "The owner for the bucket to be logged and the target bucket must be the same.",
            TargetBucket=target.name,
        )
    owner_id = shown_user(target.owner, call.volume.users)["ID"]
    prefix = enabled["TargetPrefix"]
    # Where exactly a log will lie is not known yet: a policy may speak of the prefix.
    if not any(may_deliver(source.name, target, key, owner_id) for key in (prefix, prefix + "0")):
        raise S3Error(
            "InvalidTargetBucketForLogging",
            "You must either provide the necessary permissions to the logging service using a"
            " bucket policy or give the log-delivery group WRITE and READ_ACP permissions to the"
            " target bucket",
            TargetBucket=target.name,
        )
    _check_grants(call, target, enabled.get("TargetGrants", []))
    if len(enabled["TargetPrefix"].encode()) > _PREFIX_MAX:
        raise S3Error("InvalidArgument", ArgumentName="TargetPrefix")
    key_format = enabled.setdefault("TargetObjectKeyFormat", {"SimplePrefix": {}})
    if len(key_format) != 1:
        raise S3Error("MalformedXML")
    dates = key_format.get("PartitionedPrefix", {}).setdefault("PartitionDateSource", "EventTime")
    if dates not in ("EventTime", "DeliveryTime"):
        raise S3Error("MalformedXML")


def _check_grants(call: Call, target: Bucket, grants: Sequence[dict[str, Any]]) -> None:
    """Whether the logs can be given to these. AccessControlListNotSupported, and what an ACL is
    refused for."""
    if grants and not controls_of(target).acls_count:
        raise S3Error("AccessControlListNotSupported")
    if len(grants) >= GRANTS_MAX:  # the owner has one, too
        raise S3Error("InvalidRequest", f"An ACL can have at most {GRANTS_MAX} grants.")
    for grant in grants:
        if read_grant(grant, call.volume.users).permission not in _GRANTED:
            raise S3Error("MalformedXML")


@offers("GetBucketLogging")
async def get_bucket_logging(call: Call) -> web.StreamResponse:
    text = call.access.bucket.settings.get(DOCUMENT)
    if text is None:
        text = write_document(_STATUS, MODEL.shapes[_STATUS], {})
    return call.answer(headers={"Content-Type": "application/xml"}, body=text)
