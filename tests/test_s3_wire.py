"""Bad input over a real connection: each is refused with Amazon's code, and stores nothing.

The attacks that are one request each are in test_s3_attacks.py; here is what takes more.
"""

from __future__ import annotations

import gzip
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.errors import NoSuchKey
from s3api.sigv4 import STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER
from tests.support.s3 import Answer, Door, bucket, door, parse_answer
from tests.support.streaming import streaming_body

__all__ = ["bucket", "door"]


def has(door: Door, bucket: str, key: bytes) -> bool:
    try:
        door.volume.objects.get(bucket, key)
    except NoSuchKey:
        return False
    return True


# ------------------------------------------------------------------- signatures


@pytest.fixture
def untouched(door: Door, bucket: str) -> Iterator[str]:
    """A bucket with one object, which must be just so afterwards."""
    door.client().put_object(Bucket=bucket, Key="key", Body=b"kept")
    yield bucket
    keys = [entry.key for entry in door.volume.objects.list(bucket).entries]
    assert keys == [b"key"]
    assert not door.volume.uploads.list(bucket)
    assert "new-bucket-of-nobody" not in [b.name for b in door.volume.buckets.list()]


def test_refused_callers_learn_nothing(door: Door, untouched: str) -> None:
    """The same answer for a key that exists and one that does not. That a bucket does not exist,
    everybody is told, as on Amazon."""
    assert door.request("GET", "/no-such-bucket/key", sign=False).code == "NoSuchBucket"
    for target in (f"/{untouched}/key", f"/{untouched}/missing"):
        for headers in ({}, {"If-None-Match": "*"}, {"Range": "bytes=99-"}):
            answer = door.request("GET", target, headers, sign=False)
            assert (answer.status, answer.code) == (403, "AccessDenied")


def test_revoked_keys(door: Door, bucket: str) -> None:
    key = door.volume.keys.create("leaver")
    leaver = Door(door.port, door.volume, key, door.store)
    assert leaver.request("GET", f"/{bucket}").code == "AccessDenied"
    assert leaver.request("GET", "/").status == 200
    door.volume.keys.revoke(key.access_key)
    assert leaver.request("GET", f"/{bucket}").code == "InvalidAccessKeyId"


# ------------------------------------------------------------------- unsigned and doubled headers


def test_a_presigned_put_cannot_become_a_copy(door: Door, untouched: str) -> None:
    target = door.presign("PUT", f"/{untouched}/new")
    copy = {"x-amz-copy-source": f"{untouched}/key"}
    assert door.request("PUT", target, copy, sign=False).code == "AccessDenied"
    signed = door.presign("PUT", f"/{untouched}/key", headers=copy)
    assert door.request("PUT", signed, {}, sign=False).code == "AccessDenied"  # signed, not sent


def test_a_presigned_put_puts(door: Door, bucket: str) -> None:
    answer = door.request("PUT", door.presign("PUT", f"/{bucket}/key"), body=b"x", sign=False)
    assert answer.status == 200
    assert has(door, bucket, b"key")


@pytest.mark.parametrize("name", ["x-amz-date", "Authorization", "Host", "x-amz-content-sha256"])
def test_doubled_headers(door: Door, bucket: str, name: str) -> None:
    headers = door.sign("PUT", f"/{bucket}/key")
    lines = [f"{header}: {value}" for header, value in headers.items()]
    lines.append(f"{name}: {headers.get(name, door.host)}")
    wire = f"PUT /{bucket}/key HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\nContent-Length: 0\r\n\r\n"
    answer = parse_answer(door.raw(wire.encode()))
    assert answer.status == 400
    assert answer.code in {"InvalidRequest", "BadRequest"}
    assert door.is_empty(bucket)


@pytest.mark.parametrize(
    "header", ["x-amz-meta-a", "Content-MD5", "Range", "x-amz-copy-source", "If-Match"]
)
def test_doubled_headers_of_the_model(door: Door, bucket: str, header: str) -> None:
    headers = door.sign("PUT", f"/{bucket}/key")
    lines = [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"{header}: a", f"{header}: b"]
    wire = f"PUT /{bucket}/key HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\nContent-Length: 0\r\n\r\n"
    assert parse_answer(door.raw(wire.encode())).code == "InvalidRequest"
    assert door.is_empty(bucket)


def test_folded_headers(door: Door, bucket: str) -> None:
    headers = door.sign("PUT", f"/{bucket}/key", {"x-amz-meta-a": "b c"})
    lines = [f"{name}: {value}" for name, value in headers.items() if name != "x-amz-meta-a"]
    lines.append("x-amz-meta-a: b\r\n c")
    wire = f"PUT /{bucket}/key HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\nContent-Length: 0\r\n\r\n"
    assert parse_answer(door.raw(wire.encode())).status == 400
    assert door.is_empty(bucket)


def test_doubled_query_parameters(door: Door, bucket: str) -> None:
    target = door.presign("GET", f"/{bucket}")
    assert door.request("GET", target, sign=False).status == 200
    again = target + "&X-Amz-Expires=604800"
    assert door.request("GET", again, sign=False).code == "InvalidArgument"


def test_a_url_for_one_method_is_not_for_another(door: Door, untouched: str) -> None:
    target = door.presign("GET", f"/{untouched}/key")
    assert door.request("DELETE", target, sign=False).code == "SignatureDoesNotMatch"
    assert door.request("HEAD", target, sign=False).status == 403


# ------------------------------------------------------------------- the body that was signed


def test_another_body_than_the_signed_one(door: Door, bucket: str) -> None:
    headers = door.sign("PUT", f"/{bucket}/key", {}, b"signed")
    answer = door.request("PUT", f"/{bucket}/key", headers, b"forged", sign=False)
    assert answer.code == "XAmzContentSHA256Mismatch"
    assert door.is_empty(bucket)
    assert door.request("PUT", f"/{bucket}/key", headers, b"signed", sign=False).status == 200


def test_a_large_body_that_was_not_signed(door: Door, bucket: str) -> None:
    body = bytes(3 << 20)
    headers = door.sign("PUT", f"/{bucket}/key", {}, body)
    answer = door.request("PUT", f"/{bucket}/key", headers, body[:-1] + b"x", sign=False)
    assert answer.code == "XAmzContentSHA256Mismatch"
    assert door.is_empty(bucket)


def test_a_payload_hash_beside_a_presigned_url(door: Door, bucket: str) -> None:
    target = door.presign("PUT", f"/{bucket}/key")
    header = {"x-amz-content-sha256": hashlib.sha256(b"right").hexdigest()}
    answer = door.request("PUT", target, header, b"wrong", sign=False)
    assert answer.code == "XAmzContentSHA256Mismatch"
    streaming = {"x-amz-content-sha256": STREAMING_UNSIGNED_TRAILER}
    assert door.request("PUT", target, streaming, b"0\r\n\r\n", sign=False).code == "AccessDenied"
    assert door.is_empty(bucket)
    assert door.request("PUT", target, header, b"right", sign=False).status == 200


# ------------------------------------------------------------------- streaming bodies

ENCODINGS = [STREAMING_SIGNED, STREAMING_UNSIGNED_TRAILER, STREAMING_SIGNED_TRAILER]


def put_streaming(
    door: Door, bucket: str, encoding: str, *, old: bytes = b"", new: bytes = b""
) -> Answer:
    """PUT a streaming body, in which `old` was replaced by `new` after signing."""
    payload = b"a" * 70_000 + b"b" * 10_000
    signed, body = streaming_body(door, f"/{bucket}/key", encoding, payload)
    assert not old or old in body
    changed = body.replace(old, new, 1) if old else body
    return door.request("PUT", f"/{bucket}/key", signed, changed, sign=False)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_streaming_bodies(door: Door, bucket: str, encoding: str) -> None:
    assert put_streaming(door, bucket, encoding).status == 200
    assert door.request("GET", f"/{bucket}/key").body == b"a" * 70_000 + b"b" * 10_000


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_changed_streaming_bodies(door: Door, bucket: str, encoding: str) -> None:
    answer = put_streaming(door, bucket, encoding, old=b"aaabbb", new=b"aaabbB")
    signed = encoding != STREAMING_UNSIGNED_TRAILER
    assert answer.code == ("SignatureDoesNotMatch" if signed else "BadDigest")
    assert door.is_empty(bucket)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_streaming_bodies_with_a_tail(door: Door, bucket: str, encoding: str) -> None:
    payload = b"x" * 100
    headers, body = streaming_body(door, f"/{bucket}/key", encoding, payload)
    answer = door.request("PUT", f"/{bucket}/key", headers, body + b"tail", sign=False)
    assert answer.code == "IncompleteBody"
    assert door.is_empty(bucket)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_streaming_bodies_without_an_end(door: Door, bucket: str, encoding: str) -> None:
    headers, body = streaming_body(door, f"/{bucket}/key", encoding, b"x" * 100)
    answer = door.request("PUT", f"/{bucket}/key", headers, body[:-2], sign=False)
    assert answer.code == "IncompleteBody"
    assert door.is_empty(bucket)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_streaming_bodies_of_another_length(door: Door, bucket: str, encoding: str) -> None:
    headers, body = streaming_body(
        door, f"/{bucket}/key", encoding, b"x" * 100, {"x-amz-decoded-content-length": "99"}
    )
    answer = door.request("PUT", f"/{bucket}/key", headers, body, sign=False)
    assert answer.code == "IncompleteBody"
    assert door.is_empty(bucket)


def test_streaming_bodies_need_their_length(door: Door, bucket: str) -> None:
    none: dict[str, str | None] = {"x-amz-decoded-content-length": None}
    for encoding in ENCODINGS:
        headers, body = streaming_body(door, f"/{bucket}/key", encoding, b"x", none)
        answer = door.request("PUT", f"/{bucket}/key", headers, body, sign=False)
        assert (answer.status, answer.code) == (411, "MissingContentLength")
    assert door.is_empty(bucket)


# ------------------------------------------------------------------- copy sources, paths, XML


def test_an_encoded_question_mark_is_part_of_the_key(door: Door, bucket: str) -> None:
    client = door.client()
    client.put_object(Bucket=bucket, Key="k?versionId=x", Body=b"1")
    headers = {"x-amz-copy-source": f"{bucket}/k%3FversionId=x"}
    assert door.request("PUT", f"/{bucket}/copy", headers).status == 200


ODD_KEYS = [
    "a//b", "./x", "../y", "../../../etc/passwd", "//", "/", "a/", "a/./b", "a/../b", "..", ".",
    "%2e%2e", "a b", "a+b", "a%b", "a?b", "a#b", "\\..\\x", "é", "漢字/かな", "\u0301", "~", "*",
    "k" * 255, "k" * 256, "k/" * 500, "x" * 1024, "\x01", "a\nb", "a\rb", ".forebay-tmp/x",
    "a&<>\"'",
]  # fmt: skip


@pytest.mark.parametrize("key", ODD_KEYS)
def test_every_legal_key(door: Door, bucket: str, key: str) -> None:
    client = door.client()
    client.put_object(Bucket=bucket, Key=key, Body=b"body")
    assert has(door, bucket, key.encode())
    assert client.head_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPStatusCode"] == 200
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [each["Key"] for each in listed] == [key]
    client.delete_object(Bucket=bucket, Key=key)
    assert door.is_empty(bucket)


@pytest.mark.parametrize("key", ODD_KEYS)
def test_every_legal_key_in_documents_and_copies(door: Door, bucket: str, key: str) -> None:
    if any(ord(letter) < 0x20 for letter in key):
        pytest.skip("XML cannot hold it")
    client = door.client()
    client.put_object(Bucket=bucket, Key="source", Body=b"body")
    client.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": "source"})
    client.copy_object(Bucket=bucket, Key="back", CopySource={"Bucket": bucket, "Key": key})
    assert client.get_object(Bucket=bucket, Key="back")["Body"].read() == b"body"
    objects = [{"Key": name} for name in (key, "back", "source")]
    assert "Errors" not in client.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    assert door.is_empty(bucket)


def test_an_absolute_uri_does_not_choose_the_host(door: Door, bucket: str) -> None:
    wire = f"GET http://evil/{bucket}/key HTTP/1.1\r\nHost: {door.host}\r\n\r\n"
    answer = parse_answer(door.raw(wire.encode()))
    assert (answer.status, answer.code) == (400, "InvalidURI")


def test_a_document_without_end(door: Door, untouched: str) -> None:
    body = b"<Delete>" + b" " * (2 << 20)
    answer = door.request("POST", f"/{untouched}?delete", body=body)
    assert answer.code == "EntityTooLarge"


def test_delete_objects_deletes(door: Door, bucket: str) -> None:
    door.client().put_object(Bucket=bucket, Key="key", Body=b"x")
    body = b"<Delete><Object><Key>key</Key></Object></Delete>"
    assert door.request("POST", f"/{bucket}?delete", body=body).status == 200
    assert door.is_empty(bucket)


# ------------------------------------------------------------------- HTTP framing


def head(door: Door, bucket: str, *lines: str, method: str = "PUT") -> bytes:
    """The head of a signed request with further header lines."""
    target = door.presign(method, f"/{bucket}/key")
    return "\r\n".join(
        [f"{method} {target} HTTP/1.1", f"Host: {door.host}", *lines, "", ""]
    ).encode()


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: -1",),
        ("Content-Length: +5",),
        ("Content-Length: 0x5",),
        ("Content-Length: 5, 5",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Content-Length : 5",),
        ("X-Nul: a\x00b",),
        (" Leading: x", "Content-Length: 0"),
    ],
)
def test_framings_that_two_parsers_read_differently(
    door: Door, bucket: str, lines: tuple[str, ...]
) -> None:
    smuggled = f"DELETE /{bucket} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    wire = door.raw(head(door, bucket, *lines) + b"5\r\nhello\r\n0\r\n\r\n" + smuggled)
    answer = parse_answer(wire)
    assert answer.status == 400
    assert wire.count(b"HTTP/1.") == 1, "nothing after an error is answered"
    assert answer.headers["Server"] == "Forebay"
    assert door.is_empty(bucket)


def test_chunked_bodies(door: Door, bucket: str) -> None:
    body = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    answer = parse_answer(door.raw(head(door, bucket, "Transfer-Encoding: chunked") + body))
    assert answer.status == 200
    assert door.request("GET", f"/{bucket}/key").body == b"hello world"


@pytest.mark.parametrize("body", [b"x\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloX\r\n0\r\n\r\n"])
def test_broken_chunked_bodies(door: Door, bucket: str, body: bytes) -> None:
    wire = head(door, bucket, "Transfer-Encoding: chunked") + body
    answer = parse_answer(door.raw(wire))
    assert answer.status == 400
    assert door.is_empty(bucket)


def test_a_body_without_length(door: Door, bucket: str) -> None:
    answer = parse_answer(door.raw(head(door, bucket)))
    assert (answer.status, answer.code) == (411, "MissingContentLength")
    assert door.is_empty(bucket)


def test_a_body_that_breaks_off(door: Door, bucket: str) -> None:
    wire = head(door, bucket, "Content-Length: 1000") + b"only this"
    door.raw(wire, close_write=True)
    assert door.is_empty(bucket)


def test_a_body_larger_than_a_put_may_be(door: Door, bucket: str) -> None:
    wire = head(door, bucket, f"Content-Length: {(5 << 30) + 1}")
    assert parse_answer(door.raw(wire)).code == "EntityTooLarge"


def test_pipelined_requests_are_answered_in_order(door: Door, bucket: str) -> None:
    door.client().put_object(Bucket=bucket, Key="key", Body=b"body")
    wire = head(door, bucket, method="GET")
    with socket.create_connection(("127.0.0.1", door.port), timeout=100) as connection:
        connection.sendall(wire * 5)
        received = b""
        while received.count(b"body") < 5:
            chunk = connection.recv(65536)
            assert chunk
            received += chunk
    assert received.count(b"HTTP/1.1 200 OK") == 5


def test_the_host_header_is_required(door: Door) -> None:
    answer = parse_answer(door.raw(b"GET / HTTP/1.1\r\n\r\n"))
    assert answer.status == 400


def test_compressed_bodies_are_stored_as_they_are(door: Door, bucket: str) -> None:
    body = gzip.compress(bytes(5_000_000))
    answer = door.request("PUT", f"/{bucket}/key", {"Content-Encoding": "gzip"}, body)
    assert answer.status == 200
    got = door.request("GET", f"/{bucket}/key")
    assert got.body == body
    assert got.headers["Content-Encoding"] == "gzip"


def test_line_breaks_do_not_get_into_headers(door: Door, bucket: str) -> None:
    door.client().put_object(Bucket=bucket, Key="key", Body=b"x")
    for parameter in ("response-content-type", "response-content-disposition"):
        answer = door.request("GET", f"/{bucket}/key?{parameter}=a%0D%0ASet-Cookie%3A%20b")
        assert answer.code == "InvalidArgument"
        assert "Set-Cookie" not in answer.headers
        assert door.request("GET", f"/{bucket}/key?{parameter}=text%2Fx").status == 200


def test_secrets_are_not_in_answers(door: Door, bucket: str) -> None:
    for answer in (
        door.request("GET", f"/{bucket}/missing"),
        door.request("GET", f"/{bucket}", door.sign("PUT", f"/{bucket}"), sign=False),
    ):
        assert door.key.secret.encode() not in answer.body


def test_the_store_was_never_left(door: Door, tmp_path: Path) -> None:
    """After all of the above nothing lies beside the store's directory."""
    del tmp_path
    assert sorted(path.name for path in door.store.parent.iterdir()) == ["state", "store"]
