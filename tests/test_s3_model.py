"""The router: which operation a request means, and that nothing falls through."""

from __future__ import annotations

import pytest

from s3api import gateway  # noqa: F401 - enters the offered operations
from s3api.errors import S3Error
from s3api.model import MODEL
from s3api.operations import OFFERED, find_offer
from s3api.parsing import read_input, split_query

ROUTES = [
    ("GET", "service", "", {}, "ListBuckets"),
    ("GET", "bucket", "", {}, "ListObjects"),
    ("GET", "bucket", "prefix=&delimiter=/", {}, "ListObjects"),
    ("GET", "bucket", "list-type=2", {}, "ListObjectsV2"),
    ("GET", "bucket", "versions", {}, "ListObjectVersions"),
    ("GET", "bucket", "uploads&prefix=a", {}, "ListMultipartUploads"),
    ("GET", "bucket", "location", {}, "GetBucketLocation"),
    ("GET", "bucket", "policy", {}, "GetBucketPolicy"),
    ("GET", "bucket", "analytics", {}, "ListBucketAnalyticsConfigurations"),
    ("GET", "bucket", "analytics&id=1", {}, "GetBucketAnalyticsConfiguration"),
    ("PUT", "bucket", "", {}, "CreateBucket"),
    ("PUT", "bucket", "acl", {}, "PutBucketAcl"),
    ("HEAD", "bucket", "", {}, "HeadBucket"),
    ("DELETE", "bucket", "", {}, "DeleteBucket"),
    ("DELETE", "bucket", "tagging", {}, "DeleteBucketTagging"),
    ("POST", "bucket", "delete", {}, "DeleteObjects"),
    ("POST", "bucket", "", {}, "PostObject"),
    ("GET", "key", "", {}, "GetObject"),
    ("GET", "key", "x-id=GetObject&X-Amz-Signature=1", {}, "GetObject"),
    ("GET", "key", "partNumber=1", {}, "GetObject"),
    ("GET", "key", "response-content-type=a", {}, "GetObject"),
    ("GET", "key", "uploadId=u", {}, "ListParts"),
    ("GET", "key", "attributes", {}, "GetObjectAttributes"),
    ("PUT", "key", "", {}, "PutObject"),
    ("PUT", "key", "", {"x-amz-copy-source": "a/b"}, "CopyObject"),
    ("PUT", "key", "partNumber=1&uploadId=u", {}, "UploadPart"),
    ("PUT", "key", "partNumber=1&uploadId=u", {"x-amz-copy-source": "a/b"}, "UploadPartCopy"),
    ("POST", "key", "uploads", {}, "CreateMultipartUpload"),
    ("POST", "key", "uploadId=u", {}, "CompleteMultipartUpload"),
    ("DELETE", "key", "", {}, "DeleteObject"),
    ("DELETE", "key", "uploadId=u", {}, "AbortMultipartUpload"),
    ("PUT", "key", "tagging", {}, "PutObjectTagging"),
    ("POST", "key", "select&select-type=2", {}, "SelectObjectContent"),
]


@pytest.mark.parametrize(("method", "level", "query", "headers", "name"), ROUTES)
def test_routes(method: str, level: str, query: str, headers: dict[str, str], name: str) -> None:
    assert MODEL.route(method, level, split_query(query), headers).name == name


@pytest.mark.parametrize(
    ("method", "level", "query", "code"),
    [
        ("PUT", "bucket", "frobnicate", "NotImplemented"),
        ("PUT", "key", "frobnicate", "NotImplemented"),
        ("DELETE", "bucket", "frobnicate=", "NotImplemented"),
        ("PUT", "bucket", "uploads", "MethodNotAllowed"),
        ("PUT", "key", "versions", "MethodNotAllowed"),
        ("DELETE", "key", "policy", "MethodNotAllowed"),
        ("PUT", "key", "partNumber=1", "MethodNotAllowed"),
        ("PUT", "key", "uploadId=1", "MethodNotAllowed"),
        ("POST", "key", "", "MethodNotAllowed"),
        ("POST", "bucket", "frobnicate", "NotImplemented"),
        ("PATCH", "key", "", "MethodNotAllowed"),
        ("DELETE", "service", "", "MethodNotAllowed"),
        ("GET", "bucket", "policy&acl", "MethodNotAllowed"),
    ],
)
def test_nothing_falls_through(method: str, level: str, query: str, code: str) -> None:
    with pytest.raises(S3Error) as refusal:
        MODEL.route(method, level, split_query(query), {})
    assert refusal.value.code == code


def test_every_operation_can_be_reached() -> None:
    """The request that the model describes for an operation leads to that operation."""
    for operation in MODEL.operations.values():
        query = {}
        for selector in operation.selectors:
            name, _, value = selector.partition("=")
            query[name] = value or "1"
        headers = dict.fromkeys(operation.header_selectors, "x")
        found = MODEL.route(operation.method, operation.level, query, headers)
        assert found.name == operation.name


def test_what_is_not_offered_is_refused_by_name() -> None:
    refused = 0
    for operation in MODEL.operations.values():
        if operation.name not in OFFERED:
            with pytest.raises(S3Error) as refusal:
                find_offer(operation)
            assert refusal.value.code == "NotImplemented"
            assert operation.name in refusal.value.message
            refused += 1
    assert refused + len(OFFERED) == len(MODEL.operations)


@pytest.mark.parametrize(
    ("operation", "header", "value"),
    [
        ("PutObject", "x-amz-write-offset-bytes", "5"),
        ("DeleteObject", "x-amz-mfa", "1 2"),
    ],
)
def test_headers_that_are_not_honoured_are_refused(operation: str, header: str, value: str) -> None:
    with pytest.raises(S3Error) as refusal:
        read_input(
            MODEL.operations[operation], OFFERED[operation].members, {}, [(header.title(), value)]
        )
    assert refusal.value.code == "NotImplemented"
    assert header in refusal.value.message.lower()


def test_input_members() -> None:
    values = read_input(
        MODEL.operations["ListObjectsV2"],
        OFFERED["ListObjectsV2"].members,
        {"list-type": "2", "max-keys": "10", "prefix": "a b", "fetch-owner": "true", "foo": "x"},
        [("X-Amz-Request-Payer", "requester")],
    )
    assert values == {"MaxKeys": 10, "Prefix": "a b", "FetchOwner": True}


def test_metadata_names_are_lower_case() -> None:
    values = read_input(
        MODEL.operations["PutObject"],
        OFFERED["PutObject"].members,
        {},
        [("X-Amz-Meta-Foo", "Bar"), ("content-type", "text/plain")],
    )
    assert values == {"Metadata": {"foo": "Bar"}, "ContentType": "text/plain"}


@pytest.mark.parametrize("value", ["x", "1e3", "", "1.0", "٣", "9" * 30, "+1"])
def test_numbers_that_are_none(value: str) -> None:
    with pytest.raises(S3Error) as refusal:
        read_input(
            MODEL.operations["ListObjects"],
            OFFERED["ListObjects"].members,
            {"max-keys": value},
            [],
        )
    assert refusal.value.code == "InvalidArgument"


def test_queries_are_decoded_once() -> None:
    assert split_query("a=%2525&b=x+y&c&d=&e=1=2&&%66=f") == {
        "a": "%25",
        "b": "x y",
        "c": "",
        "d": "",
        "e": "1=2",
        "f": "f",
    }


@pytest.mark.parametrize(
    ("query", "code"),
    [("a=1&a=2", "InvalidArgument"), ("a=1&%61=2", "InvalidArgument"), ("a=%ff", "InvalidURI")],
)
def test_queries_that_two_layers_could_read_differently(query: str, code: str) -> None:
    with pytest.raises(S3Error) as refusal:
        split_query(query)
    assert refusal.value.code == code
