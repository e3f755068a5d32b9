"""Preconditions and ranges: If-Match and its kin, Range and partNumber.

Reads follow RFC 9110 section 13.2.2 with S3's order of precedence; conditions of writes become a
`Check` that the cache evaluates inside its commit, so that two writers cannot both see the state
they asked for. Pure; callable from any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from cache import errors as cache_errors
from s3api.errors import S3Error

_SECOND_NS = 1_000_000_000


class Entity(Protocol):
    """What a condition looks at: `cache.objects.Object`."""

    @property
    def etag(self) -> str: ...
    @property
    def modified_ns(self) -> int: ...
    @property
    def size(self) -> int: ...


def parse_date_s(text: str) -> int | None:
    """Seconds since 1970 of an HTTP date; None if it is not one (RFC 9110: then ignored)."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return int(moment.timestamp()) if moment.tzinfo is not None else None


def _matches(condition: str, etag: str) -> bool:
    """Whether a list of entity tags names this one. Unquoted tags are taken as Amazon does;
    a weak one never matches, since S3 knows strong ETags only."""
    if condition.strip() == "*":
        return True
    return any(tag.strip().strip('"') == etag for tag in condition.split(","))


def check_read(values: Mapping[str, Any], entity: Entity, headers: dict[str, str]) -> None:
    """Hold GET and HEAD to their conditions: PreconditionFailed, or NotModified with `headers`
    (ETag and the like) on the answer."""
    modified_s = entity.modified_ns // _SECOND_NS
    if "IfMatch" in values:
        if not _matches(values["IfMatch"], entity.etag):
            raise S3Error("PreconditionFailed", Condition="If-Match")
    elif "IfUnmodifiedSince" in values:
        limit_s = parse_date_s(values["IfUnmodifiedSince"])
        if limit_s is not None and modified_s > limit_s:
            raise S3Error("PreconditionFailed", Condition="If-Unmodified-Since")
    if "IfNoneMatch" in values:
        if _matches(values["IfNoneMatch"], entity.etag):
            raise S3Error("NotModified", headers=headers)
    elif "IfModifiedSince" in values:
        limit_s = parse_date_s(values["IfModifiedSince"])
        if limit_s is not None and modified_s <= limit_s:
            raise S3Error("NotModified", headers=headers)


def check_copy_source(values: Mapping[str, Any], entity: Entity) -> None:
    """Hold a copy to its x-amz-copy-source-if-* conditions; every failure is a 412.

    As with reads an ETag condition that holds outweighs a date condition of its kind."""
    modified_s = entity.modified_ns // _SECOND_NS
    if "CopySourceIfMatch" in values:
        failed = not _matches(values["CopySourceIfMatch"], entity.etag)
    else:
        limit_s = parse_date_s(values.get("CopySourceIfUnmodifiedSince", ""))
        failed = limit_s is not None and modified_s > limit_s
    if not failed and "CopySourceIfNoneMatch" in values:
        failed = _matches(values["CopySourceIfNoneMatch"], entity.etag)
    elif not failed:
        limit_s = parse_date_s(values.get("CopySourceIfModifiedSince", ""))
        failed = limit_s is not None and modified_s <= limit_s
    if failed:
        raise S3Error("PreconditionFailed", Condition="x-amz-copy-source-If-…")


class WriteCondition:
    """If-Match and If-None-Match of a write, as a `Check` for the cache's commit."""

    def __init__(self, values: Mapping[str, Any], key: bytes) -> None:
        self._if_match: str | None = values.get("IfMatch")
        self._if_none_match: str | None = values.get("IfNoneMatch")
        self._key = key

    def __bool__(self) -> bool:
        return self._if_match is not None or self._if_none_match is not None

    def __call__(self, current: Entity | None) -> None:
        # `*` is all that Amazon offers; a list of ETags means what it means in RFC 9110.
        unwanted = self._if_none_match
        if unwanted is not None and current is not None and _matches(unwanted, current.etag):
            raise cache_errors.PreconditionFailed("If-None-Match")
        if self._if_match is not None:
            if current is None:
                raise cache_errors.NoSuchKey(self._key)
            if not _matches(self._if_match, current.etag):
                raise cache_errors.PreconditionFailed("If-Match")


class DeleteCondition:
    """Conditions of a deletion. What is not there is deleted already: that is success."""

    def __init__(self, etag: str | None, modified: str | None, size_bytes: int | None) -> None:
        self._etag = etag
        self._modified_s = None if modified is None else parse_date_s(modified)
        self._size_bytes = size_bytes
        if modified is not None and self._modified_s is None:
            raise S3Error("InvalidArgument", ArgumentName="x-amz-if-match-last-modified-time")

    def __bool__(self) -> bool:
        return (self._etag, self._modified_s, self._size_bytes) != (None, None, None)

    def __call__(self, current: Entity | None) -> None:
        if current is None:
            return
        if self._etag is not None and not _matches(self._etag, current.etag):
            raise cache_errors.PreconditionFailed("If-Match")
        if self._modified_s is not None and self._modified_s != current.modified_ns // _SECOND_NS:
            raise cache_errors.PreconditionFailed("x-amz-if-match-last-modified-time")
        if self._size_bytes is not None and self._size_bytes != current.size:
            raise cache_errors.PreconditionFailed("x-amz-if-match-size")


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes [start, stop) of an object of `size_bytes`."""

    start: int
    stop: int
    size_bytes: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.stop - 1}/{self.size_bytes}"


_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


def parse_range(text: str, size_bytes: int) -> Range | None:
    """The bytes that a Range header asks for; None, so the whole object, if it is malformed or
    asks for several ranges, as S3 does. InvalidRange if nothing of it exists."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        start = int(match[1])
        stop = min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes
        if match[2] and int(match[2]) < start:
            return None
    else:
        start = max(0, size_bytes - int(match[2]))
        stop = size_bytes
    if start >= stop:
        raise S3Error(
            "InvalidRange",
            headers={"Content-Range": f"bytes */{size_bytes}"},
            RangeRequested=text[:128],
            ActualObjectSize=str(size_bytes),
        )
    return Range(start, stop, size_bytes)


_LARGEST_BYTES = 1 << 53
_MAY_READ_NOTHING = (
    "IfModifiedSince",
    "IfNoneMatch",
    "IfUnmodifiedSince",
    "PartNumber",
    "VersionId",
)


def wanted_range(values: Mapping[str, Any]) -> tuple[int, int | None] | None:
    """First byte, and the one after the last (None: to the end), that a GET is going to read of an
    object of which nothing is known yet; None if that, too, depends on the object."""
    if any(name in values for name in _MAY_READ_NOTHING):
        return None
    match = _RANGE.fullmatch(values.get("Range", "bytes=0-").strip())
    if match is None or not match[1] or int(match[1]) > _LARGEST_BYTES:
        return None
    start = int(match[1])
    if not match[2]:
        return start, None
    return (start, int(match[2]) + 1) if start <= int(match[2]) else None


_COPY_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{1,19})")


def parse_copy_range(text: str, size_bytes: int) -> Range:
    """The bytes of x-amz-copy-source-range: `bytes=first-last` within the source, nothing else."""
    match = _COPY_RANGE.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first"
            " and last are the zero-based offsets of the first and last bytes to copy",
            ArgumentName="x-amz-copy-source-range",
            ArgumentValue=text[:128],
        )
    if int(match[2]) >= size_bytes:
        raise S3Error(
            "InvalidRange", f"Range specified is not valid for source object of size: {size_bytes}"
        )
    return Range(int(match[1]), int(match[2]) + 1, size_bytes)


def part_range(number: int, part_sizes: Sequence[int], size_bytes: int) -> Range:
    """The bytes of part `number` of a completed upload; an object that was not uploaded in parts
    is its own part 1. InvalidPartNumber."""
    sizes = list(part_sizes) or [size_bytes]
    if not 1 <= number <= len(sizes):
        raise S3Error("InvalidPartNumber", ActualPartCount=str(len(sizes)))
    start = sum(sizes[: number - 1])
    return Range(start, start + sizes[number - 1], size_bytes)
