"""Preconditions in RFC 9110's order, and ranges."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import NoSuchKey, PreconditionFailed
from s3api.conditions import (
    DeleteCondition,
    Range,
    WriteCondition,
    check_copy_source,
    check_read,
    parse_copy_range,
    parse_range,
    part_range,
    wanted_range,
)
from s3api.errors import S3Error

MODIFIED_S = 1_800_000_000
BEFORE = "Fri, 15 Jan 2027 07:59:59 GMT"
AT = "Fri, 15 Jan 2027 08:00:00 GMT"
AFTER = "Fri, 15 Jan 2027 08:00:01 GMT"


@dataclass
class Entity:
    etag: str = "abc"
    modified_ns: int = MODIFIED_S * 1_000_000_000 + 900_000_000
    size: int = 10


def outcome(values: dict[str, str]) -> int:
    try:
        check_read(values, Entity(), {"ETag": '"abc"'})
    except S3Error as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, 200),
        ({"IfMatch": '"abc"'}, 200),
        ({"IfMatch": "abc"}, 200),
        ({"IfMatch": "*"}, 200),
        ({"IfMatch": '"x", "abc"'}, 200),
        ({"IfMatch": '"x"'}, 412),
        ({"IfMatch": 'W/"abc"'}, 412),
        ({"IfNoneMatch": '"abc"'}, 304),
        ({"IfNoneMatch": "*"}, 304),
        ({"IfNoneMatch": '"x"'}, 200),
        ({"IfModifiedSince": BEFORE}, 200),
        ({"IfModifiedSince": AT}, 304),
        ({"IfModifiedSince": AFTER}, 304),
        ({"IfModifiedSince": "yesterday"}, 200),
        ({"IfUnmodifiedSince": BEFORE}, 412),
        ({"IfUnmodifiedSince": AT}, 200),
        ({"IfUnmodifiedSince": "yesterday"}, 200),
        # an ETag condition of the same kind outweighs the date
        ({"IfMatch": '"abc"', "IfUnmodifiedSince": BEFORE}, 200),
        ({"IfNoneMatch": '"x"', "IfModifiedSince": AFTER}, 200),
        ({"IfNoneMatch": '"abc"', "IfModifiedSince": BEFORE}, 304),
        ({"IfMatch": '"x"', "IfNoneMatch": '"abc"'}, 412),
    ],
)
def test_conditions_of_reads(values: dict[str, str], status: int) -> None:
    assert outcome(values) == status


def test_an_unmodified_answer_carries_the_etag() -> None:
    with pytest.raises(S3Error) as refusal:
        check_read({"IfNoneMatch": "*"}, Entity(), {"ETag": '"abc"'})
    assert refusal.value.headers == {"ETag": '"abc"'}


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        ({}, True),
        ({"CopySourceIfMatch": '"abc"'}, True),
        ({"CopySourceIfMatch": '"x"'}, False),
        ({"CopySourceIfNoneMatch": '"abc"'}, False),
        ({"CopySourceIfNoneMatch": '"x"'}, True),
        ({"CopySourceIfModifiedSince": AFTER}, False),
        ({"CopySourceIfModifiedSince": BEFORE}, True),
        ({"CopySourceIfUnmodifiedSince": BEFORE}, False),
        ({"CopySourceIfUnmodifiedSince": AFTER}, True),
        ({"CopySourceIfMatch": '"abc"', "CopySourceIfUnmodifiedSince": BEFORE}, True),
        ({"CopySourceIfNoneMatch": '"x"', "CopySourceIfModifiedSince": AFTER}, True),
    ],
)
def test_conditions_of_copy_sources(values: dict[str, str], holds: bool) -> None:
    if holds:
        check_copy_source(values, Entity())
    else:
        with pytest.raises(S3Error, match="PreconditionFailed"):
            check_copy_source(values, Entity())


def test_conditions_of_writes() -> None:
    assert not WriteCondition({}, b"k")
    WriteCondition({"IfNoneMatch": "*"}, b"k")(None)
    WriteCondition({"IfMatch": '"abc"'}, b"k")(Entity())
    WriteCondition({"IfMatch": "*"}, b"k")(Entity())
    WriteCondition({"IfNoneMatch": '"x"'}, b"k")(Entity())
    with pytest.raises(PreconditionFailed):
        WriteCondition({"IfNoneMatch": "*"}, b"k")(Entity())
    with pytest.raises(PreconditionFailed):
        WriteCondition({"IfMatch": '"x"'}, b"k")(Entity())
    with pytest.raises(NoSuchKey):
        WriteCondition({"IfMatch": '"abc"'}, b"k")(None)


def test_conditions_of_deletions() -> None:
    assert not DeleteCondition(None, None, None)
    for condition in (
        DeleteCondition('"abc"', None, None),
        DeleteCondition("*", None, None),
        DeleteCondition(None, AT, None),
        DeleteCondition(None, None, 10),
    ):
        assert condition
        condition(Entity())
        condition(None)  # it is gone already: that is what was wanted
    for condition in (
        DeleteCondition('"x"', None, None),
        DeleteCondition(None, AFTER, None),
        DeleteCondition('"abc"', None, 11),
    ):
        with pytest.raises(PreconditionFailed):
            condition(Entity())
    with pytest.raises(S3Error, match="InvalidArgument"):
        DeleteCondition(None, "yesterday", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes=0-4", (0, 5)),
        ("bytes=5-", (5, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=9-99", (9, 10)),
        ("bytes=0-0", (0, 1)),
        (" bytes=1-2 ", (1, 3)),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5-4", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_ranges(text: str, expected: tuple[int, int] | None) -> None:
    found = parse_range(text, 10)
    assert (None if found is None else (found.start, found.stop)) == expected


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("bytes=10-", 10), ("bytes=99-100", 10), ("bytes=-0", 10), ("bytes=0-", 0)],
)
def test_ranges_of_nothing(text: str, size_bytes: int) -> None:
    with pytest.raises(S3Error) as refusal:
        parse_range(text, size_bytes)
    assert refusal.value.code == "InvalidRange"
    assert refusal.value.headers == {"Content-Range": f"bytes */{size_bytes}"}


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 40))
def test_ranges_are_slices(first: int, last: int, size_bytes: int) -> None:
    content = bytes(range(size_bytes))
    try:
        found = parse_range(f"bytes={first}-{last}", size_bytes)
    except S3Error:
        assert first >= size_bytes
        return
    if found is None:
        assert last < first
    else:
        assert content[found.start : found.stop] == content[first : last + 1]
        assert found.content_range == f"bytes {first}-{min(last, size_bytes - 1)}/{size_bytes}"


def test_copy_ranges() -> None:
    assert parse_copy_range("bytes=0-9", 10) == Range(0, 10, 10)
    for text in ("bytes=5-4", "bytes=-5", "bytes=5-", "0-5", "bytes=0-1,2-3", "x"):
        with pytest.raises(S3Error, match="InvalidArgument"):
            parse_copy_range(text, 10)
    for text in ("bytes=0-10", "bytes=10-12"):
        with pytest.raises(S3Error, match="InvalidRange"):
            parse_copy_range(text, 10)


def test_parts() -> None:
    assert part_range(2, [4, 6], 10) == Range(4, 10, 10)
    assert part_range(1, [], 10) == Range(0, 10, 10)
    for number in (0, 3, -1):
        with pytest.raises(S3Error) as refusal:
            part_range(number, [4, 6], 10)
        assert refusal.value.status == 416


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (0, None)),
        ({"IfMatch": "x"}, (0, None)),
        ({"Range": "bytes=5-"}, (5, None)),
        ({"Range": "bytes=5-9"}, (5, 10)),
        ({"Range": "bytes=-9"}, None),
        ({"Range": "bytes=9-5"}, None),
        ({"Range": "bytes=0-1,3-4"}, None),
        ({"Range": f"bytes={10**18}-"}, None),
        ({"IfNoneMatch": "x"}, None),
        ({"IfModifiedSince": AT}, None),
        ({"PartNumber": 1}, None),
        ({"VersionId": "null"}, None),
    ],
)
def test_the_range_that_is_wanted_is_known_before_the_object(
    values: dict[str, object], expected: tuple[int, int | None] | None
) -> None:
    assert wanted_range(values) == expected
