"""CORS: what the document may say, what a browser asks first, and what answers carry."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.s3 import Door, bucket, client, code, door

__all__ = ["bucket", "client", "door"]

ALLOW = "access-control-allow-origin"


RULES = [
    {
        "ID": "app",
        "AllowedMethods": ["GET", "PUT"],
        "AllowedOrigins": ["https://*.example.com", "https://one.test"],
        "AllowedHeaders": ["x-amz-*", "Content-Type"],
        "ExposeHeaders": ["ETag"],
        "MaxAgeSeconds": 60,
    },
    {"AllowedMethods": ["HEAD"], "AllowedOrigins": ["*"]},
]


def ask(door: Door, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A request that nobody signed; names of the answer's headers in lower case."""
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    answer = door.request(method, path, sent, sign=False)
    return answer.status, lower(answer.headers), answer.body


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): text for name, text in headers.items()}


def test_the_document_comes_back_and_goes(client: Any, bucket: str) -> None:
    assert code(client.get_bucket_cors, Bucket=bucket) == "NoSuchCORSConfiguration"
    client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    assert client.get_bucket_cors(Bucket=bucket)["CORSRules"] == RULES
    client.delete_bucket_cors(Bucket=bucket)
    assert code(client.get_bucket_cors, Bucket=bucket) == "NoSuchCORSConfiguration"


@pytest.mark.parametrize(
    "rule",
    [
        {"AllowedMethods": ["PATCH"], "AllowedOrigins": ["*"]},
        {"AllowedMethods": ["GET"], "AllowedOrigins": ["https://*.*.com"]},
        {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"], "AllowedHeaders": ["*x*"]},
        {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"], "ExposeHeaders": ["x-*"]},
        {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"], "ID": "i" * 256},
    ],
)
def test_documents_that_amazon_refuses(client: Any, bucket: str, rule: dict[str, Any]) -> None:
    refused = code(client.put_bucket_cors, Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    assert refused == "InvalidRequest"


def test_preflights_need_no_credentials(door: Door, client: Any, bucket: str) -> None:
    client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    status, headers, body = ask(
        door, "OPTIONS", f"/{bucket}/key", Origin="https://a.example.com",
        Access_Control_Request_Method="PUT",
        Access_Control_Request_Headers="X-Amz-Date, content-type",
    )  # fmt: skip
    assert (status, body) == (200, b"")
    assert headers[ALLOW] == "https://a.example.com"
    assert headers["access-control-allow-methods"] == "GET, PUT"
    assert headers["access-control-allow-headers"] == "x-amz-date, content-type"
    assert headers["access-control-expose-headers"] == "ETag"
    assert headers["access-control-max-age"] == "60"
    assert headers["access-control-allow-credentials"] == "true"
    assert "Origin" in headers["vary"]
    status, headers, _ = ask(
        door, "OPTIONS", f"/{bucket}", Origin="https://b.test", Access_Control_Request_Method="HEAD"
    )
    assert (status, headers[ALLOW]) == (200, "*")
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (400, {}),
        (400, {"Origin": "https://one.test"}),
        (400, {"Origin": "https://one.test", "Access_Control_Request_Method": "PATCH"}),
        (403, {"Origin": "https://one.test", "Access_Control_Request_Method": "DELETE"}),
        (403, {"Origin": "https://example.com", "Access_Control_Request_Method": "GET"}),
        (
            403,
            {
                "Origin": "https://one.test",
                "Access_Control_Request_Method": "GET",
                "Access_Control_Request_Headers": "authorization",
            },
        ),
    ],
)
def test_preflights_that_are_refused(
    door: Door, client: Any, bucket: str, status: int, headers: dict[str, str]
) -> None:
    client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    answered, found, body = ask(door, "OPTIONS", f"/{bucket}/key", **headers)
    assert answered == status
    assert ALLOW not in found
    assert (b"AccessForbidden" if status == 403 else b"BadRequest") in body


def test_a_preflight_does_not_say_which_buckets_exist(door: Door, bucket: str) -> None:
    asked = {"Origin": "https://one.test", "Access_Control_Request_Method": "GET"}
    there = ask(door, "OPTIONS", f"/{bucket}/key", **asked)
    not_there = ask(door, "OPTIONS", "/no-such-bucket/key", **asked)
    for answer in (there, not_there):
        assert answer[0] == 403
        assert b"CORS is not enabled for this bucket" in answer[2]


def test_answers_carry_what_the_rule_says_errors_too(door: Door, client: Any, bucket: str) -> None:
    client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    client.put_object(Bucket=bucket, Key="small", Body=b"x")
    client.put_object(Bucket=bucket, Key="large", Body=b"x" * 200_000)
    for key in ("small", "large", "none"):
        answer = door.request("GET", f"/{bucket}/{key}", {"Origin": "https://one.test"})
        headers = lower(answer.headers)
        assert headers[ALLOW] == "https://one.test"
        assert "Origin" in headers["vary"]
    other = door.request("GET", f"/{bucket}/small", {"Origin": "https://two.test"})
    assert other.status == 200
    assert ALLOW not in lower(other.headers)
    assert "Origin" in lower(other.headers)["vary"]
    assert "vary" not in lower(door.request("GET", f"/{bucket}/small").headers)
    refused = ask(door, "GET", f"/{bucket}/small", Origin="https://one.test")
    assert (refused[0], refused[1][ALLOW]) == (403, "https://one.test")
