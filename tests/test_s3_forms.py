"""Uploads by a browser's form: what a policy allows, and what it does not."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3api.config import AuthConfig
from s3api.errors import S3Error
from s3api.forms import FIELDS_BYTES_MAX, Form
from s3api.post_policy import PostPolicy
from tests.support.s3 import REGION, Answer, Door, serving

BUCKET = "photos"
BOUNDARY = "----FormBoundary7MA4YWxkTrZu0gW"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serving(tmp_path_factory.mktemp("forms")) as door:
        door.client().create_bucket(Bucket=BUCKET)
        yield door


def encode(
    fields: dict[str, Any], file: bytes | None, name: str = "a.txt", after: str = ""
) -> bytes:
    lines = b""
    for field, value in fields.items():
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n'
        lines += head.encode() + (value if isinstance(value, bytes) else str(value).encode())
        lines += b"\r\n"
    if file is not None:
        lines += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: text/html\r\n\r\n"
        ).encode()
        lines += file + b"\r\n"
    return lines + after.encode() + f"--{BOUNDARY}--\r\n".encode()


def post(
    door: Door,
    fields: dict[str, Any],
    file: bytes | None = b"bytes",
    bucket: str = BUCKET,
    **form: Any,
) -> Answer:
    return send(door, encode(fields, file, **form), bucket=bucket)


def send(
    door: Door, body: bytes, headers: dict[str, str] | None = None, bucket: str = BUCKET
) -> Answer:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **(headers or {})}
    return door.request("POST", f"/{bucket}", headers, body, sign=False)


def signed(
    door: Door,
    conditions: list[Any] | None = None,
    *,
    key: str = "a.txt",
    bucket: str = BUCKET,
    policy: dict[str, Any] | None = None,
    expires_s: int = 600,
    version: int = 4,
    **fields: Any,
) -> dict[str, Any]:
    """Fields of a form whose policy allows each of them exactly, and `conditions`."""
    fields = {"key": key, **{name.replace("_", "-"): value for name, value in fields.items()}}
    now = datetime.now(UTC)
    scope = f"{now:%Y%m%d}/{REGION}/s3/aws4_request"
    if version == 4:
        fields |= {
            "x-amz-algorithm": "AWS4-HMAC-SHA256",
            "x-amz-credential": f"{door.key.access_key}/{scope}",
            "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
        }
    if policy is None:
        named = {str(c[1])[1:].lower() for c in conditions or [] if isinstance(c, list)}
        exact = [{name: value} for name, value in fields.items() if name.lower() not in named]
        policy = {
            "expiration": f"{now + timedelta(seconds=expires_s):%Y-%m-%dT%H:%M:%S.000Z}",
            "conditions": [{"bucket": bucket}, *exact, *(conditions or [])],
        }
    encoded = base64.b64encode(json.dumps(policy).encode())
    if version == 2:
        digest = hmac.digest(door.key.secret.encode(), encoded, "sha1")
        return fields | {
            "AWSAccessKeyId": door.key.access_key,
            "policy": encoded,
            "signature": base64.b64encode(digest),
        }
    signing = b"AWS4" + door.key.secret.encode()
    for step in scope.split("/"):
        signing = hmac.digest(signing, step.encode(), "sha256")
    return fields | {
        "policy": encoded,
        "x-amz-signature": hmac.digest(signing, encoded, "sha256").hex(),
    }


def stored(door: Door, key: str) -> bytes:
    body: bytes = door.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return body


# ------------------------------------------------------------------------------------- what is put


def test_a_form_made_by_boto3(door: Door) -> None:
    made = door.client().generate_presigned_post(
        BUCKET, "from/boto3", Fields={"x-amz-meta-who": "me"}, Conditions=[{"x-amz-meta-who": "me"}]
    )
    answer = post(door, made["fields"], b"hello")
    assert answer.status == 204, answer.body
    found = door.client().get_object(Bucket=BUCKET, Key="from/boto3")
    assert found["Body"].read() == b"hello"
    assert found["Metadata"] == {"who": "me"}
    assert answer.headers["ETag"] == found["ETag"]
    assert answer.headers["Location"] == f"{door.url}/{BUCKET}/from/boto3"


@pytest.mark.parametrize("version", [2, 4])
def test_both_signatures(door: Door, version: int) -> None:
    key = f"version-{version}"
    assert post(door, signed(door, key=key, version=version), b"it").status == 204
    assert stored(door, key) == b"it"


def test_the_old_signature_can_be_refused(tmp_path: Path) -> None:
    with serving(tmp_path, auth=AuthConfig(mode="sigv4", form_signature_v2=False)) as door:
        door.client().create_bucket(Bucket=BUCKET)
        answer = post(door, signed(door, version=2))
        assert (answer.status, answer.code) == (400, "InvalidRequest")
        assert door.is_empty(BUCKET)
        assert post(door, signed(door)).status == 204


@pytest.mark.parametrize("size_bytes", [0, 1, 70_000, (1 << 20) - 7, 3 << 20])
def test_files_of_every_size(door: Door, size_bytes: int) -> None:
    # Beginnings of the boundary all over it.
    file = (b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\r\n-") * (size_bytes // 30 + 1)
    file = file[:size_bytes]
    answer = post(door, signed(door, key="sized"), file)
    assert answer.status == 204, answer.body
    assert hashlib.md5(stored(door, "sized")).digest() == hashlib.md5(file).digest()


def test_all_that_a_form_can_say_of_the_object(door: Door) -> None:
    said: dict[str, Any] = {
        "Content-Type": "text/x-thing",
        "Cache-Control": "no-store",
        "Content-Disposition": "inline",
        "Content-Encoding": "gzip",
        "x-amz-meta-Mixed-Case": "Wert ä",
        "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(b"bytes").digest()).decode(),
    }
    assert post(door, signed(door, key="said", **said)).status == 204
    found = door.client().head_object(Bucket=BUCKET, Key="said", ChecksumMode="ENABLED")
    assert found["ContentType"] == "text/x-thing"
    assert found["CacheControl"] == "no-store"
    assert found["ContentDisposition"] == "inline"
    assert found["ContentEncoding"] == "gzip"
    assert list(found["Metadata"]) == ["mixed-case"]
    assert found["ChecksumSHA256"] == said["x-amz-checksum-sha256"]


def test_the_file_has_no_type_but_the_form_s(door: Door) -> None:
    """What a browser says beside the file is not signed, and would be a page to run."""
    assert post(door, signed(door, key="untyped")).status == 204
    found = door.client().head_object(Bucket=BUCKET, Key="untyped")
    assert found["ContentType"] == "binary/octet-stream"


def test_a_file_that_is_not_what_was_promised(door: Door) -> None:
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    answer = post(door, signed(door, key="promised", x_amz_checksum_sha256=digest))
    assert (answer.status, answer.code) == (400, "BadDigest")
    answer = post(door, signed(door, key="promised", x_amz_checksum_sha256="sailorjerry"))
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    assert door.request("HEAD", f"/{BUCKET}/promised").status == 404


@pytest.mark.parametrize("name", ["pic.jpg", "C:\\Users\\me\\pic.jpg", "/home/me/pic.jpg"])
def test_the_file_s_name_in_the_key(door: Door, name: str) -> None:
    fields = signed(door, [["starts-with", "$key", "up/"]], key="up/${filename}")
    assert post(door, fields, name.encode(), name=name.replace("\\", "\\\\")).status == 204
    assert stored(door, "up/pic.jpg") == name.encode()


def test_what_comes_after_the_file_is_ignored(door: Door) -> None:
    after = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="key"\r\n\r\nother\r\n'
    assert post(door, signed(door, key="first"), after=after).status == 204
    assert stored(door, "first") == b"bytes"
    assert door.request("HEAD", f"/{BUCKET}/other").status == 404


def test_ignored_fields_and_names_in_any_case(door: Door) -> None:
    fields = signed(door, [["StArTs-WiTh", "$Content-TYPE", "image/"]], key="cases")
    fields = {name.title(): value for name, value in fields.items()}
    fields |= {"X-Ignore-Me": "yes", "CONTENT-type": "image/png"}
    assert post(door, fields).status == 204
    assert door.client().head_object(Bucket=BUCKET, Key="cases")["ContentType"] == "image/png"


# -------------------------------------------------------------------------------------- the answer


def test_status_of_success(door: Door) -> None:
    for asked, answered in (("200", 200), ("201", 201), ("204", 204), ("404", 204)):
        condition = ["eq", "$success_action_status", asked]
        fields = signed(door, [condition], key="st atus") | {"success_action_status": asked}
        answer = post(door, fields)
        assert answer.status == answered
        assert answer.headers["Location"].endswith(f"/{BUCKET}/st%20atus")
        if asked == "201":
            document = ElementTree.fromstring(answer.body)
            assert document.tag == "PostResponse"
            assert {child.tag: child.text for child in document} == {
                "Location": answer.headers["Location"],
                "Bucket": BUCKET,
                "Key": "st atus",
                "ETag": answer.headers["ETag"],
            }
        else:
            assert answer.body == b""


@pytest.mark.parametrize("field", ["success_action_redirect", "redirect"])
def test_redirects(door: Door, field: str) -> None:
    target = "https://example.org/done?x=1"
    fields = signed(door, [["eq", f"${field}", target]], key="a b&c") | {field: target}
    answer = post(door, fields)
    assert answer.status == 303
    etag = answer.headers["ETag"].strip('"')
    expected = f"{target}&bucket={BUCKET}&key=a%20b%26c&etag=%22{etag}%22"
    assert answer.headers["Location"] == expected


@pytest.mark.parametrize(
    "target",
    ["javascript:alert(1)", "no url", "http://x\r\nSet-Cookie: a=b", "//example.org", "http://[x"],
)
def test_places_that_nobody_is_sent_to(door: Door, target: str) -> None:
    condition = ["starts-with", "$success_action_redirect", ""]
    answer = post(door, signed(door, [condition]) | {"success_action_redirect": target})
    assert answer.status == 204
    assert "Set-Cookie" not in answer.headers


# ---------------------------------------------------------------------------------- what is refused


def refused(door: Door, answer: Answer) -> tuple[int, str]:
    assert door.request("HEAD", f"/{BUCKET}/refused").status == 404, "it was put"
    return answer.status, answer.code


def test_forms_of_nobody(door: Door) -> None:
    assert refused(door, post(door, {"key": "refused"})) == (403, "AccessDenied")


def test_forms_of_nobody_where_everybody_may_write(door: Door) -> None:
    s3 = door.client()
    s3.create_bucket(Bucket="everybodys", ACL="public-read-write")
    tags = "<Tagging><TagSet><Tag><Key>k</Key><Value>v w</Value></Tag></TagSet></Tagging>"
    fields = {"key": "posted", "acl": "public-read", "tagging": tags, "Content-Type": "a/b"}
    answer = post(door, fields, bucket="everybodys")
    assert answer.status == 204, answer.body
    found = s3.get_object_tagging(Bucket="everybodys", Key="posted")
    assert found["TagSet"] == [{"Key": "k", "Value": "v w"}]
    read = door.request("GET", "/everybodys/posted", sign=False)
    assert (read.status, read.body, read.headers["Content-Type"]) == (200, b"bytes", "a/b")
    # Half of a signature makes nobody of somebody.
    for name in ("policy", "signature", "AWSAccessKeyId", "x-amz-signature", "x-amz-credential"):
        answer = post(door, {"key": "half", name: "x"}, bucket="everybodys")
        assert (answer.status, answer.code) == (400, "InvalidArgument")
    assert door.request("HEAD", "/everybodys/half").status == 404


def test_what_no_form_may_do_though_its_policy_says_so(door: Door) -> None:
    door.volume.buckets.create("others", "somebody-else")
    answer = post(door, signed(door, bucket="others"), bucket="others")
    assert (answer.status, answer.code) == (403, "AccessDenied")
    for name, value, code in (
        ("acl", "public-ready", "InvalidArgument"),
        ("tagging", "<Tagging>", "MalformedXML"),
        ("x-amz-storage-class", "CHEAP", "InvalidStorageClass"),
        ("x-amz-meta-long", "m" * 2100, "MetadataTooLarge"),
        ("x-amz-expected-bucket-owner", "0" * 64, "AccessDenied"),
    ):
        fields: dict[str, Any] = {"key": "refused", name: value}
        assert refused(door, post(door, signed(door, **fields)))[1] == code


@pytest.mark.parametrize("version", [2, 4])
def test_forged_signatures(door: Door, version: int) -> None:
    name = "signature" if version == 2 else "x-amz-signature"
    fields = signed(door, key="refused", version=version)
    forged = fields | {name: "0" * 64}
    assert refused(door, post(door, forged)) == (403, "SignatureDoesNotMatch")
    forged = fields | {name: "ü"}
    assert refused(door, post(door, forged)) == (403, "SignatureDoesNotMatch")
    other = signed(door, key="refused", version=version, expires_s=601)["policy"]
    assert refused(door, post(door, fields | {"policy": other})) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("version", [2, 4])
def test_unknown_keys(door: Door, version: int) -> None:
    fields = signed(door, key="refused", version=version)
    if version == 2:
        fields["AWSAccessKeyId"] = "AKIAUNKNOWN"
    else:
        scope = fields["x-amz-credential"].partition("/")[2]
        fields["x-amz-credential"] = f"AKIAUNKNOWN/{scope}"
    assert refused(door, post(door, fields)) == (403, "InvalidAccessKeyId")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("x-amz-signature", "InvalidArgument"),
        ("x-amz-credential", "InvalidArgument"),
        ("x-amz-algorithm", "InvalidArgument"),
        ("x-amz-date", "InvalidArgument"),
        ("policy", "InvalidArgument"),
        ("key", "InvalidArgument"),
    ],
)
def test_missing_fields(door: Door, name: str, code: str) -> None:
    fields = signed(door, key="refused")
    del fields[name]
    assert refused(door, post(door, fields)) == (400, code)


def test_credentials_beside_the_form_s(door: Door) -> None:
    body = encode(signed(door, key="refused"), b"")
    answer = send(door, body, {"Authorization": "AWS4-HMAC-SHA256 Credential=x"})
    assert refused(door, answer) == (400, "InvalidArgument")
    both = signed(door, key="refused") | {"AWSAccessKeyId": "x", "signature": "y"}
    assert refused(door, post(door, both)) == (400, "InvalidArgument")


def test_another_scope(door: Door) -> None:
    fields = signed(door, key="refused")
    for scope in ("20200101/us-east-1/s3/aws4_request", "20200101/us-east-1/sqs/aws4_request", ""):
        other = fields | {"x-amz-credential": f"{door.key.access_key}/{scope}"}
        assert refused(door, post(door, other)) == (400, "InvalidArgument")
    other = fields | {"x-amz-algorithm": "AWS4-ECDSA"}
    assert refused(door, post(door, other)) == (400, "InvalidArgument")


def test_an_expired_policy(door: Door) -> None:
    answer = post(door, signed(door, key="refused", expires_s=-1))
    assert refused(door, answer) == (403, "AccessDenied")
    assert b"Policy expired" in answer.body


@pytest.mark.parametrize(
    "changed",
    [
        {"key": "refused"},
        {"Content-Type": "text/html"},
        {"x-amz-meta-a": "2"},
        {"x-amz-meta-extra": "1"},
        {"tagging": "<Tagging/>"},
        {"acl": "public-read"},
    ],
)
def test_fields_that_the_policy_does_not_allow(door: Door, changed: dict[str, str]) -> None:
    fields = signed(door, key="allowed", Content_Type="image/png", x_amz_meta_a="1")
    assert post(door, fields).status == 204
    assert refused(door, post(door, fields | changed)) == (403, "AccessDenied")


def test_a_field_that_the_policy_wants(door: Door) -> None:
    fields = signed(door, [["starts-with", "$x-amz-meta-tag", "t"]], key="refused")
    assert refused(door, post(door, fields)) == (403, "AccessDenied")
    assert post(door, fields | {"key": "refused", "x-amz-meta-tag": "t"}).status == 204
    door.client().delete_object(Bucket=BUCKET, Key="refused")
    fields = signed(door, [["starts-with", "$x-amz-meta-tag", ""]], key="anything")
    assert post(door, fields).status == 204


def test_a_policy_for_another_bucket(door: Door) -> None:
    door.client().create_bucket(Bucket="private-things")
    body = encode(signed(door, key="refused"), b"x")
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = door.request("POST", "/private-things", headers, body, sign=False)
    assert (answer.status, answer.code) == (403, "AccessDenied")
    with_field = encode(signed(door, key="refused") | {"bucket": BUCKET}, b"x")
    answer = door.request("POST", "/private-things", headers, with_field, sign=False)
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert door.is_empty("private-things")


@pytest.mark.parametrize(
    ("size_bytes", "code"), [(4, "EntityTooSmall"), (5, ""), (8, ""), (9, "EntityTooLarge")]
)
def test_sizes_that_the_policy_allows(door: Door, size_bytes: int, code: str) -> None:
    fields = signed(door, [["content-length-range", 5, 8]], key=f"range-{size_bytes}")
    answer = post(door, fields, b"x" * size_bytes)
    assert answer.code == code
    exists = door.request("HEAD", f"/{BUCKET}/range-{size_bytes}").status == 200
    assert exists == (code == "")


def test_a_file_over_many_blocks_is_cut_off_at_its_bound(door: Door) -> None:
    fields = signed(door, [["content-length-range", 0, 1 << 20]], key="refused")
    answer = post(door, fields, b"x" * (4 << 20))
    assert refused(door, answer) == (400, "EntityTooLarge")


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"expiration": "2100-01-01T00:00:00Z"},
        {"conditions": []},
        {"EXPIRATION": "2100-01-01T00:00:00Z", "conditions": []},
        {"expiration": "2100-01-01 00:00:00", "conditions": []},
        {"expiration": "2100-02-31T00:00:00Z", "conditions": []},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": {}},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [{}]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [{"a": "1", "b": "2"}]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [{"a": 1}]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": ["eq"]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [["eq", "key", "a"]]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [["ends-with", "$key", "a"]]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [["eq", "$key"]]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [["content-length-range", 0]]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [["content-length-range", -1, 0]]},
        {"expiration": "2100-01-01T00:00:00Z", "conditions": [["content-length-range", True, 2]]},
    ],
)
def test_policies_that_are_none(door: Door, policy: dict[str, Any]) -> None:
    answer = post(door, signed(door, key="refused", policy=policy))
    assert refused(door, answer) == (400, "InvalidPolicyDocument")


@pytest.mark.parametrize(
    "document",
    [b"", b"no json", b"[]", b'"x"', b"\xff", b"[" * 15_000, b'{"conditions":1,"conditions":2}'],
)
def test_documents_that_are_no_policy(document: bytes) -> None:
    with pytest.raises(S3Error) as caught:
        PostPolicy.read(document)
    assert caught.value.code == "InvalidPolicyDocument"


def test_a_policy_escapes_the_dollar() -> None:
    document = rb'{"expiration": "2100-01-01T00:00:00Z", "conditions": [{"key": "\$a\\$b"}]}'
    (condition,) = PostPolicy.read(document).conditions
    assert condition.value == "$a\\$b"


def test_every_type_of_a_list_must_begin_as_the_policy_says() -> None:
    document = (
        b'{"expiration": "2100-01-01T00:00:00Z",'
        b' "conditions": [["starts-with", "$Content-Type", "image/"]]}'
    )
    policy = PostPolicy.read(document)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    policy.check({"content-type": "image/png,image/gif"}, now)
    with pytest.raises(S3Error):
        policy.check({"content-type": "image/png,text/html"}, now)


def test_keys_that_no_object_can_have(door: Door) -> None:
    answer = post(door, signed(door, key="k" * 1025))
    assert (answer.status, answer.code) == (400, "KeyTooLongError")
    answer = post(door, signed(door, key=""))
    assert answer.status == 400


def test_a_value_that_could_not_leave_in_a_header(door: Door) -> None:
    for name, value in (
        ("Content-Type", "a\r\nb"),
        ("x-amz-meta-a", "b\nc"),
        ("x-amz-meta-a b", "c"),
    ):
        changed: dict[str, Any] = {"key": "refused", name: value}
        answer = post(door, signed(door, **changed))
        assert refused(door, answer) == (400, "InvalidArgument")


def test_missing_buckets(door: Door) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    body = encode(signed(door, bucket="nowhere"), b"x")
    answer = door.request("POST", "/nowhere", headers, body, sign=False)
    assert (answer.status, answer.code) == (404, "NoSuchBucket")


# ------------------------------------------------------------------------------- what is no form


def test_bodies_that_are_no_form(door: Door) -> None:
    whole = encode(signed(door, key="refused"), b"x" * 100)
    cases = {
        b"": "InvalidArgument",
        b"hello": "MalformedPOSTRequest",
        whole[:-30]: "MalformedPOSTRequest",  # the file does not end
        whole.replace(b"name=", b"nom="): "MalformedPOSTRequest",
        encode(signed(door, key="refused"), None): "InvalidArgument",
        encode(signed(door, key="refused") | {"x-ignore-a": b"\xff"}, b""): "MalformedPOSTRequest",
        encode({"key": "refused"} | {"KEY": "refused"}, b""): "InvalidArgument",
        encode({"x-ignore-a": "a" * FIELDS_BYTES_MAX}, b""): "MaxPostPreDataLengthExceededError",
        encode(
            {f"x-ignore-{n}": "" for n in range(2000)}, b""
        ): "MaxPostPreDataLengthExceededError",
        whole + b"x" * (2 << 20): "MalformedPOSTRequest",
    }
    for body, code in cases.items():
        assert refused(door, send(door, body)) == (400, code), body[:200]


def test_other_types_than_a_form(door: Door) -> None:
    body = encode(signed(door, key="refused"), b"")
    for kind in (
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        f"multipart/mixed; boundary={BOUNDARY}",
    ):
        assert refused(door, send(door, body, {"Content-Type": kind})) == (
            412,
            "PreconditionFailed",
        )
    for kind in ("multipart/form-data", "multipart/form-data; boundary=" + "b" * 71):
        answer = send(door, body, {"Content-Type": kind})
        assert refused(door, answer) == (400, "MalformedPOSTRequest")


def test_simple_takes_the_name_in_the_form(tmp_path: Path) -> None:
    with serving(tmp_path, auth=AuthConfig(mode="simple")) as door:
        door.client().create_bucket(Bucket=BUCKET)
        fields = signed(door, key="a") | {"x-amz-signature": "0"}
        assert post(door, fields).status == 204
        assert post(door, {"key": "b"}).code == "InvalidAccessKeyId"


@settings(deadline=None)
@given(data=st.data(), file=st.binary(max_size=300))
def test_a_form_is_the_same_in_any_division(data: st.DataObject, file: bytes) -> None:
    wire = encode({"key": "k", "x-ignore-b": "--" + BOUNDARY[:-2]}, file, name="f.txt")
    if f"--{BOUNDARY}".encode() in file:
        return
    form = Form(f"multipart/form-data; boundary={BOUNDARY}")
    found = b""
    while wire:
        count = data.draw(st.integers(1, len(wire)))
        found += b"".join(form.feed(wire[:count]))
        wire = wire[count:]
    form.finish()
    assert found == file
    assert form.fields == {"key": "k", "x-ignore-b": "--" + BOUNDARY[:-2]}
    assert form.file_name == "f.txt"


@settings(deadline=None)
@given(wire=st.binary(max_size=400))
def test_no_bytes_break_the_parser(wire: bytes) -> None:
    form = Form("multipart/form-data; boundary=b")
    with contextlib.suppress(S3Error):  # and nothing else
        for piece in (b"--b\r\n", wire, b"\r\n--b--"):
            form.feed(piece)
        form.finish()
