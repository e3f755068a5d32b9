"""Lifecycle rules: what a bucket's document says, and when it says that something goes.

An object's age counts from when it was written, or later changed through the mount (so nothing goes
early because a program gave it an old mtime). As on Amazon, days end at the next midnight UTC; a
day of another length (`s3.lifecycle_day_s`, the clock of tests) has no midnight.

Pure; callable from any thread. Imports nothing of the server, and Amazon's model (5 MB) only when a
document is read: the mover uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cache.publishing import Object
from s3api.errors import S3Error

DOCUMENT = "lifecycle"
"""Its name in the bucket's settings."""

DAY_S = 86_400
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which objects a rule is about: all of it must hold."""

    prefix: bytes = b""
    tags: Sequence[tuple[str, str]] = ()
    larger_than: int | None = None
    smaller_than: int | None = None

    @property
    def needs_tags(self) -> bool:
        return bool(self.tags)

    def fits(self, key: bytes, size: int, tags: Mapping[str, str]) -> bool:
        return (
            key.startswith(self.prefix)
            and (self.larger_than is None or size > self.larger_than)
            and (self.smaller_than is None or size < self.smaller_than)
            and all(tags.get(name) == value for name, value in self.tags)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """An enabled rule. None: no such action."""

    id: str
    filter: Filter
    days: int | None = None
    date_ns: int | None = None
    removes_markers: bool = False
    """ExpiredObjectDeleteMarker: a delete marker that is all there is of its key goes. So it does
    once it is as old as a rule with days or a date says."""
    noncurrent_days: int | None = None
    newer_noncurrent: int = 0
    """So many noncurrent versions of a key stay, whatever their age."""
    abort_days: int | None = None

    @property
    def expires(self) -> bool:
        return self.days is not None or self.date_ns is not None

    def expiry_ns(self, since_ns: int, day_s: int = DAY_S) -> int | None:
        """When a current version that was written then goes; None: never by this rule."""
        if self.date_ns is not None:
            return self.date_ns
        return None if self.days is None else after_days(since_ns, self.days, day_s)


def after_days(since_ns: int, days: int, day_s: int) -> int:
    """The end of so many days, in nanoseconds since 1970; see the module docstring."""
    end_ns = since_ns + days * day_s * _SECOND_NS
    midnight_ns = DAY_S * _SECOND_NS
    return -(-end_ns // midnight_ns) * midnight_ns if day_s == DAY_S else end_ns


def age_since_ns(found: Object) -> int:
    """When an object's age began."""
    return max(found.inode.mtime_ns, found.inode.ctime_ns)


def first_expiry(rules: Iterable[Rule], found: Object) -> tuple[int, str] | None:
    """(when, id of the rule) a current object goes first; None: never."""
    since_ns = age_since_ns(found)
    ends = [
        (end_ns, rule.id)
        for rule in rules
        if rule.filter.fits(found.key, found.size, found.attributes.tags)
        and (end_ns := rule.expiry_ns(since_ns)) is not None
    ]
    return min(ends, default=None)


@lru_cache(256)
def enabled_rules(text: bytes) -> Sequence[Rule]:
    """The rules of a kept document that are in force."""
    from s3api.parsing import read_kept

    rules = read_kept(text, "PutBucketLifecycleConfiguration")["Rules"]
    return [_rule(values) for values in rules if values["Status"] == "Enabled"]


def _rule(values: Mapping[str, Any]) -> Rule:
    expiration = values.get("Expiration", {})
    noncurrent = values.get("NoncurrentVersionExpiration", {})
    return Rule(
        id=values["ID"],
        filter=read_filter(values),
        days=expiration.get("Days"),
        date_ns=parse_date(expiration["Date"]) if "Date" in expiration else None,
        removes_markers=expiration.get("ExpiredObjectDeleteMarker", False),
        noncurrent_days=noncurrent.get("NoncurrentDays"),
        newer_noncurrent=noncurrent.get("NewerNoncurrentVersions", 0),
        abort_days=values.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation"),
    )


def read_filter(values: Mapping[str, Any]) -> Filter:
    """The filter of a rule: the old way (Prefix), one condition, or several."""
    conditions = values.get("Filter", {"Prefix": values.get("Prefix", "")})
    joined = conditions.get("And", {})
    tags = [conditions["Tag"]] if "Tag" in conditions else []
    tags += joined.get("Tags", ())
    # Of two prefixes one must begin with the other, else nothing has both: the longer says it all.
    prefixes = [conditions.get("Prefix", ""), joined.get("Prefix", "")]
    larger = [c["ObjectSizeGreaterThan"] for c in (conditions, joined) if _LARGER in c]
    smaller = [c["ObjectSizeLessThan"] for c in (conditions, joined) if _SMALLER in c]
    return Filter(
        prefix=max(prefixes, key=len).encode(),
        tags=[(tag["Key"], tag["Value"]) for tag in tags],
        larger_than=max(larger, default=None),
        smaller_than=min(smaller, default=None),
    )


_LARGER = "ObjectSizeGreaterThan"
_SMALLER = "ObjectSizeLessThan"


def parse_date(text: str) -> int:
    """An ISO 8601 date at midnight UTC, in nanoseconds since 1970. InvalidArgument."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise S3Error("MalformedXML") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = moment.timestamp()
    if seconds % DAY_S:
        raise S3Error("InvalidArgument", "'Date' must be at midnight GMT")
    return int(seconds) * _SECOND_NS
