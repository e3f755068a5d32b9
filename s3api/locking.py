"""Object lock: retention and legal hold of versions, and what a bucket gives its new ones.

What holds is decided where versions are removed and changed, inside the cache's commit
(cache/retention.py); here is what clients may ask for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from cache.errors import ObjectLocked
from cache.publishing import Object
from cache.records import Bucket, ObjectAttributes
from cache.retention import COMPLIANCE, GOVERNANCE, Lock, lock_of, with_lock
from cache.versioning import locking_of
from s3api.documents import iso8601
from s3api.errors import S3Error
from s3api.operations import Call, offers
from s3api.receiving import read_document
from s3api.versioning import change_version, find_version

LOCK_MEMBERS = "ObjectLockLegalHoldStatus ObjectLockMode ObjectLockRetainUntilDate"
"""What requested_lock honours."""

_MODES = (GOVERNANCE, COMPLIANCE)
_DAY_S = 86_400
_DAYS_MAX = 36_500
_YEARS_MAX = 100


def _rule_of(bucket: Bucket) -> str | None:
    """None without object lock; else its default retention, empty or `MODE NUMBER UNIT`."""
    rule = locking_of(bucket)
    return None if rule is None else rule.decode()


def _require_locking(call: Call) -> str:
    """InvalidRequest in a bucket without object lock; else its default retention."""
    rule = _rule_of(call.access.bucket)
    if rule is None:
        raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")
    return rule


# ----------------------------------------------------------------------------------- new versions


def requested_lock(call: Call) -> Lock:
    """The lock that the headers of a PUT, a copy or a multipart upload ask for.

    InvalidRequest in a bucket without object lock; InvalidArgument."""
    values = call.input
    mode, date = values.get("ObjectLockMode"), values.get("ObjectLockRetainUntilDate")
    hold = values.get("ObjectLockLegalHoldStatus")
    if (mode, date, hold) == (None, None, None):
        return Lock()
    _require_locking(call)
    if call.key.endswith(b"/"):
        raise S3Error("InvalidRequest", "A key that ends in / has no versions to lock.")
    if (mode is None) != (date is None):
        raise S3Error(
            "InvalidArgument",
            "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
        )
    if mode not in (None, *_MODES):
        raise _invalid("Unknown wormMode directive.", "x-amz-object-lock-mode", mode)
    if hold not in (None, "ON", "OFF"):
        raise _invalid("Legal Hold must be either of 'ON' or 'OFF'", _HOLD_HEADER, hold)
    until_s = 0 if date is None else _read_date(date, "InvalidArgument")
    return Lock(mode or "", until_s, hold or "")


_HOLD_HEADER = "x-amz-object-lock-legal-hold"


def _invalid(message: str, name: str, value: str) -> S3Error:
    return S3Error("InvalidArgument", message, ArgumentName=name, ArgumentValue=value[:64])


def _read_date(text: str, malformed: str) -> int:
    """Seconds since 1970, rounded up. `malformed` for what is no date; InvalidArgument for one
    that is not in the future."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise S3Error(malformed) from None
    seconds = math.ceil((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if seconds <= time.time():
        raise S3Error("InvalidArgument", "The retain until date must be in the future!")
    return seconds


def with_requested_lock(call: Call, attributes: ObjectAttributes) -> ObjectAttributes:
    """The attributes with the lock that the request asks for."""
    return with_lock(attributes, requested_lock(call))


def with_default_lock(call: Call, attributes: ObjectAttributes) -> ObjectAttributes:
    """The attributes of a version that is just made: without a retention of its own it gets its
    bucket's default."""
    rule = _rule_of(call.access.bucket)
    lock = lock_of(attributes)
    if not rule or lock.mode or call.key.endswith(b"/"):
        return attributes
    mode, number, unit = rule.split(" ")
    days = int(number) * (365 if unit == "years" else 1)
    until_s = math.ceil(time.time()) + days * _DAY_S
    return with_lock(attributes, Lock(mode, until_s, lock.hold))


def may_bypass(call: Call, key: bytes) -> bool:
    """Whether the request asks to be let past governance retention, and its caller may."""
    asked = bool(call.input.get("BypassGovernanceRetention"))
    return asked and call.access.allows("s3:BypassGovernanceRetention", key)


# -------------------------------------------------------------------------------------- the bucket


@offers("GetObjectLockConfiguration")
async def get_object_lock_configuration(call: Call) -> web.StreamResponse:
    rule = _rule_of(call.access.bucket)
    if rule is None:
        raise S3Error("ObjectLockConfigurationNotFoundError", BucketName=call.bucket)
    output: dict[str, Any] = {"ObjectLockEnabled": "Enabled"}
    if rule:
        mode, number, unit = rule.split(" ")
        retention = {"Mode": mode, unit.title(): int(number)}
        output["Rule"] = {"DefaultRetention": retention}
    return call.document({"ObjectLockConfiguration": output})


@offers("PutObjectLockConfiguration", "ContentMD5 ObjectLockConfiguration")
async def put_object_lock_configuration(call: Call) -> web.StreamResponse:
    asked = (await read_document(call)).get("ObjectLockConfiguration")
    if asked is None or asked.get("ObjectLockEnabled") != "Enabled":
        raise S3Error("MalformedXML")
    rule = _read_rule(asked["Rule"]) if "Rule" in asked else ""
    await call.threads.metadata(call.volume.versioning.set_locking, call.bucket, rule.encode())
    return call.document({})


def _read_rule(asked: Mapping[str, Any]) -> str:
    retention = asked.get("DefaultRetention", {})
    mode = retention.get("Mode")
    if mode not in _MODES or ("Days" in retention) == ("Years" in retention):
        raise S3Error("MalformedXML")
    unit = "Days" if "Days" in retention else "Years"
    number: int = retention[unit]
    if number <= 0:
        message = "Default retention period must be a positive integer value."
        raise S3Error("InvalidArgument", message, ArgumentName=unit, ArgumentValue=str(number))
    if number > (_DAYS_MAX if unit == "Days" else _YEARS_MAX):
        message = "Default retention period is too large."
        raise S3Error("InvalidArgument", message, ArgumentName=unit, ArgumentValue=str(number))
    return f"{mode} {number} {unit.lower()}"


# ------------------------------------------------------------------------------------ the versions


@offers("GetObjectRetention", "VersionId")
async def get_object_retention(call: Call) -> web.StreamResponse:
    lock = await _lock_of(call)
    if not lock.mode:
        raise S3Error("NoSuchObjectLockConfiguration")
    until_ns = lock.until_s * 1_000_000_000
    return call.document({"Retention": {"Mode": lock.mode, "RetainUntilDate": until_ns}})


@offers("GetObjectLegalHold", "VersionId")
async def get_object_legal_hold(call: Call) -> web.StreamResponse:
    lock = await _lock_of(call)
    if not lock.hold:
        raise S3Error("NoSuchObjectLockConfiguration")
    return call.document({"LegalHold": {"Status": lock.hold}})


async def _lock_of(call: Call) -> Lock:
    _require_locking(call)
    found = await call.threads.metadata(find_version, call)
    return lock_of(found.attributes)


@offers("PutObjectRetention", "BypassGovernanceRetention ContentMD5 Retention VersionId")
async def put_object_retention(call: Call) -> web.StreamResponse:
    _require_locking(call)
    asked = (await read_document(call)).get("Retention")
    if asked is None:
        raise S3Error("MalformedXML")
    mode, date = asked.get("Mode"), asked.get("RetainUntilDate")
    if (mode is None) != (date is None) or mode not in (None, *_MODES):
        raise S3Error("MalformedXML")
    until_s = 0 if date is None else _read_date(date, "MalformedXML")
    bypass = may_bypass(call, call.key)

    def changed(lock: Lock) -> Lock:
        _check_retention(lock, mode or "", until_s, bypass=bypass)
        return Lock(mode or "", until_s, lock.hold)

    return await _change(call, changed)


def _check_retention(lock: Lock, mode: str, until_s: int, *, bypass: bool) -> None:
    """ObjectLocked for a retention that would end earlier than the one that runs, or have another
    mode: of COMPLIANCE never, of GOVERNANCE unless it is bypassed."""
    if not lock.retains(time.time()) or (mode == lock.mode and until_s >= lock.until_s):
        return
    if lock.mode == COMPLIANCE or not bypass:
        raise ObjectLocked("the retention that runs may not be shortened")


@offers("PutObjectLegalHold", "ContentMD5 LegalHold VersionId")
async def put_object_legal_hold(call: Call) -> web.StreamResponse:
    _require_locking(call)
    status = (await read_document(call)).get("LegalHold", {}).get("Status")
    if status not in ("ON", "OFF"):
        raise S3Error("MalformedXML")
    return await _change(call, lambda lock: Lock(lock.mode, lock.until_s, status))


async def _change(call: Call, change: Callable[[Lock], Lock]) -> web.StreamResponse:
    if call.key.endswith(b"/"):
        raise S3Error("InvalidRequest", "A key that ends in / has no versions to lock.")

    def changed(found: Object) -> ObjectAttributes:
        return with_lock(found.attributes, change(lock_of(found.attributes)))

    await call.threads.metadata(change_version, call, changed)
    return call.document({})


def lock_headers(found: Object) -> dict[str, str]:
    """x-amz-object-lock-* of a version that is read."""
    if "lock" not in found.attributes.own:
        return {}
    lock = lock_of(found.attributes)
    headers = {}
    if lock.mode:
        headers["x-amz-object-lock-mode"] = lock.mode
        headers["x-amz-object-lock-retain-until-date"] = iso8601(lock.until_s * 1_000_000_000)
    if lock.hold:
        headers[_HOLD_HEADER] = lock.hold
    return headers
