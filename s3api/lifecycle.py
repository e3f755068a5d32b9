"""Operations on a bucket's lifecycle document, and the header that tells of it.

Here a document is held to Amazon's rules; what the rules mean is in `lifecycle_rules.py`, and the
mover does what they say (`node/lifecycle.py`). Transitions to other storage classes are refused:
there is one kind of storage here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from aiohttp import web

from cache.publishing import Object
from s3api.documents import http_date
from s3api.errors import S3Error, not_implemented
from s3api.lifecycle_rules import (
    DOCUMENT,
    enabled_rules,
    first_expiry,
    parse_date,
    read_filter,
)
from s3api.operations import Call, offers
from s3api.subresources import delete_document, get_document, put_document

_RULES_MAX = 1000
_ID_MAX = 255
_PREFIX_MAX = 1024
_NEWER_VERSIONS_MAX = 100
_ACTIONS = (
    "Expiration",
    "NoncurrentVersionExpiration",
    "AbortIncompleteMultipartUpload",
    "Transitions",
    "NoncurrentVersionTransitions",
)


@offers("PutBucketLifecycleConfiguration", "LifecycleConfiguration")
async def put_bucket_lifecycle_configuration(call: Call) -> web.StreamResponse:
    return await put_document(call, DOCUMENT, check_document)


@offers("GetBucketLifecycleConfiguration")
async def get_bucket_lifecycle_configuration(call: Call) -> web.StreamResponse:
    return get_document(call, DOCUMENT, "NoSuchLifecycleConfiguration")


@offers("DeleteBucketLifecycle")
async def delete_bucket_lifecycle(call: Call) -> web.StreamResponse:
    return await delete_document(call, DOCUMENT)


def expiration_headers(call: Call, current: Object) -> dict[str, str]:
    """x-amz-expiration of a current object, where a rule will remove it."""
    text = call.access.bucket.settings.get(DOCUMENT)
    if text is None:
        return {}
    found = first_expiry(enabled_rules(text), current)
    if found is None:
        return {}
    end_ns, rule = found
    return {"x-amz-expiration": f'expiry-date="{http_date(end_ns)}", rule-id="{quote(rule)}"'}


# -------------------------------------------------------------------------- what Amazon refuses


def check_document(values: dict[str, Any]) -> None:
    """Hold a document to Amazon's rules; rules without an ID get one, dates become numbers."""
    rules = values["Rules"]
    if not 0 < len(rules) <= _RULES_MAX:
        raise S3Error("MalformedXML")
    for rule in rules:
        rule.setdefault("ID", secrets.token_urlsafe(36))
        _check_rule(rule)
    if len({rule["ID"] for rule in rules}) < len(rules):
        raise S3Error(
            "InvalidArgument", "Rule ID must be unique. Found same ID for more than one rule"
        )
    for rule in rules:
        for name in ("Transitions", "NoncurrentVersionTransitions"):
            if rule.get(name):
                raise not_implemented("A lifecycle transition")


def _check_rule(rule: dict[str, Any]) -> None:
    if len(rule["ID"]) > _ID_MAX:
        raise S3Error("InvalidArgument", f"ID length should not exceed allowed limit of {_ID_MAX}")
    if rule["Status"] not in ("Enabled", "Disabled"):
        raise S3Error("MalformedXML")
    if ("Filter" in rule) == ("Prefix" in rule):
        raise S3Error("MalformedXML")
    if not any(name in rule for name in _ACTIONS):
        raise S3Error("InvalidRequest", "At least one action needs to be specified in a rule")
    _check_filter(rule)
    _check_actions(rule)


def _check_filter(rule: Mapping[str, Any]) -> None:
    conditions = rule.get("Filter", {})
    joined = conditions.get("And")
    if joined is not None and len(joined.keys() - {"Tags"}) + len(joined.get("Tags", ())) < 2:
        raise S3Error("MalformedXML")  # one condition is joined with nothing
    one, other = conditions.get("Prefix", ""), (joined or {}).get("Prefix", "")
    if not (one.startswith(other) or other.startswith(one)):
        raise S3Error("InvalidRequest", "A rule cannot have two prefixes.")
    found = read_filter(rule)
    if len(found.prefix) > _PREFIX_MAX:
        raise S3Error("InvalidRequest", f"The maximum size of a prefix is {_PREFIX_MAX}.")
    if len(dict(found.tags)) < len(found.tags):
        raise S3Error("InvalidRequest", "Duplicate Tag Keys are not allowed.")
    larger, smaller = found.larger_than, found.smaller_than
    if (larger is not None and larger < 0) or (smaller is not None and smaller < 1):
        raise S3Error("InvalidRequest", "A size in a filter is out of range.")
    if larger is not None and smaller is not None and larger >= smaller:
        raise S3Error(
            "InvalidRequest",
            "'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'.",
        )
    by_object = found.needs_tags or larger is not None or smaller is not None
    if by_object and "AbortIncompleteMultipartUpload" in rule:
        raise S3Error(
            "InvalidRequest",
            "AbortIncompleteMultipartUpload cannot be specified with Tags or object sizes.",
        )
    if by_object and "ExpiredObjectDeleteMarker" in rule.get("Expiration", {}):
        raise S3Error(
            "InvalidRequest",
            "ExpiredObjectDeleteMarker cannot be specified with Tags or object sizes.",
        )


def _check_actions(rule: dict[str, Any]) -> None:
    expiration = rule.get("Expiration")
    if expiration is not None:
        if len(expiration) != 1:  # one of days, date, delete marker
            raise S3Error("MalformedXML")
        _check_days(expiration, "Days", "Expiration")
        _check_date(expiration)
    noncurrent = rule.get("NoncurrentVersionExpiration")
    if noncurrent is not None:
        if "NoncurrentDays" not in noncurrent:
            raise S3Error("MalformedXML")
        _check_days(noncurrent, "NoncurrentDays", "NoncurrentVersionExpiration")
        if not 1 <= noncurrent.get("NewerNoncurrentVersions", 1) <= _NEWER_VERSIONS_MAX:
            raise S3Error(
                "InvalidArgument",
                "'NewerNoncurrentVersions' for NoncurrentVersionExpiration action must be from 1"
                f" to {_NEWER_VERSIONS_MAX}",
            )
    abort = rule.get("AbortIncompleteMultipartUpload")
    if abort is not None:
        if "DaysAfterInitiation" not in abort:
            raise S3Error("MalformedXML")
        _check_days(abort, "DaysAfterInitiation", "AbortIncompleteMultipartUpload")
    for transition in rule.get("Transitions", ()):
        _check_date(transition)


def _check_days(action: Mapping[str, Any], name: str, what: str) -> None:
    if action.get(name, 1) < 1:
        raise S3Error("InvalidArgument", f"'{name}' for {what} action must be a positive integer")


def _check_date(action: dict[str, Any]) -> None:
    if "Date" in action:
        action["Date"] = parse_date(action["Date"])
