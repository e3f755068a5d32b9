"""Directories of buckets as buckets, `bucket:dir:subdir` (`s3.directories_as_buckets`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.handlers import validate_bucket_name

from s3api.directories import Directory
from s3api.errors import S3Error
from s3api.keys import Target, parse_target, plain_copy_source
from tests.support.s3 import Door, serving

INNER = "top:sub:dir"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("directories")
    with serving(directory, access_log="off", directories_as_buckets=True) as door:
        client = door.client()
        client.create_bucket(Bucket="top")
        for key in ("a", "sub/b", "sub/dir/", "sub/dir/c", "sub/dir/d/e", "sub/dir0", "sub/dirt/x"):
            client.put_object(Bucket="top", Key=key, Body=key.encode() if key[-1] != "/" else b"")
        yield door


def lenient(client: Any) -> Any:
    """boto3 itself has no bucket names with a colon."""
    client.meta.events.unregister("before-parameter-build.s3", validate_bucket_name)
    return client


@pytest.fixture
def client(door: Door) -> Any:
    return lenient(door.client())


def keys(answer: Any, what: str = "Contents") -> list[str]:
    return [each["Key"] for each in answer.get(what, [])]


def test_objects_of_a_directory(door: Door, client: Any) -> None:
    assert client.get_object(Bucket=INNER, Key="c")["Body"].read() == b"sub/dir/c"
    client.put_object(Bucket=INNER, Key="new/f", Body=b"f", Metadata={"a": "b"})
    head = client.head_object(Bucket="top", Key="sub/dir/new/f")
    assert head["Metadata"] == {"a": "b"}
    copied = {"Bucket": "top:sub", "Key": "copy", "CopySource": f"{INNER}/new/f"}
    client.copy_object(**copied)
    assert client.get_object(Bucket="top", Key="sub/copy")["Body"].read() == b"f"
    client.put_object_tagging(
        Bucket=INNER, Key="new/f", Tagging={"TagSet": [{"Key": "sub/dir/x", "Value": "1"}]}
    )
    tags = client.get_object_tagging(Bucket=INNER, Key="new/f")["TagSet"]
    assert tags == [{"Key": "sub/dir/x", "Value": "1"}]
    deleted = client.delete_objects(
        Bucket=INNER, Delete={"Objects": [{"Key": "new/f"}, {"Key": "sub/dir/c"}]}
    )
    assert sorted(keys(deleted, "Deleted")) == ["new/f", "sub/dir/c"]
    client.delete_object(Bucket="top:sub", Key="copy")
    assert "sub/dir/c" in keys(client.list_objects_v2(Bucket="top"))
    assert "sub/dir/new/f" not in keys(client.list_objects_v2(Bucket="top"))


@pytest.mark.parametrize("encoding", [{}, {"EncodingType": "url"}])
def test_listings_of_a_directory(client: Any, encoding: dict[str, str]) -> None:
    strange = "sub/dir/ö +%"
    client.put_object(Bucket="top", Key=strange, Body=b"")
    try:
        for listing in (client.list_objects, client.list_objects_v2):
            whole = listing(Bucket=INNER, **encoding)
            assert (whole["Name"], whole["Prefix"]) == (INNER, "")
            assert keys(whole) == ["c", "d/e", "%C3%B6%20%2B%25" if encoding else "ö +%"]
            rolled = listing(Bucket=INNER, Delimiter="/", **encoding)
            assert [each["Prefix"] for each in rolled["CommonPrefixes"]] == ["d/"]
            below = listing(Bucket=INNER, Prefix="d/", **encoding)
            assert (keys(below), below["Prefix"]) == (["d/e"], "d/")
            first = listing(Bucket=INNER, MaxKeys=1, **encoding)
            assert (keys(first), first["IsTruncated"]) == (["c"], True)
        assert keys(client.list_objects(Bucket=INNER, Marker="c", MaxKeys=1)) == ["d/e"]
        second = client.list_objects_v2(
            Bucket=INNER, ContinuationToken=first["NextContinuationToken"], MaxKeys=1
        )
        assert keys(second) == ["d/e"]
        assert keys(client.list_objects_v2(Bucket=INNER, StartAfter="d/e", MaxKeys=1)) == ["ö +%"]
        versions = client.list_object_versions(Bucket=INNER, KeyMarker="c")
        assert keys(versions, "Versions") == ["d/e", "ö +%"]
    finally:
        client.delete_object(Bucket="top", Key=strange)


def test_uploads_into_a_directory(client: Any) -> None:
    begun = client.create_multipart_upload(Bucket=INNER, Key="big")
    assert (begun["Bucket"], begun["Key"]) == (INNER, "big")
    where = {"Bucket": INNER, "Key": "big", "UploadId": begun["UploadId"]}
    part = client.upload_part(**where, PartNumber=1, Body=b"part")
    listed = client.list_multipart_uploads(Bucket=INNER)
    assert keys(listed, "Uploads") == ["big"]
    assert client.list_multipart_uploads(Bucket="top")["Uploads"][0]["Key"] == "sub/dir/big"
    assert client.list_parts(**where)["Key"] == "big"
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    completed = client.complete_multipart_upload(**where, MultipartUpload=parts)
    assert (completed["Bucket"], completed["Key"]) == (INNER, "big")
    client.delete_object(Bucket="top", Key="sub/dir/big")


def test_only_directories_that_are_there(client: Any) -> None:
    client.head_bucket(Bucket=INNER)
    client.head_bucket(Bucket="top:sub:dir:d")
    with pytest.raises(ClientError, match="404"):
        client.head_bucket(Bucket="top:nowhere")
    with pytest.raises(ClientError, match="404"):
        client.head_bucket(Bucket="top:sub:b")
    with pytest.raises(ClientError, match="NoSuchBucket"):
        client.list_objects_v2(Bucket="top:sub:nowhere")
    assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["top"]


def test_what_only_a_bucket_has(client: Any, door: Door) -> None:
    for call in (client.get_bucket_policy, client.get_bucket_acl, client.delete_bucket):
        with pytest.raises(ClientError, match="NotImplemented"):
            call(Bucket=INNER)
    for body, query in ((b"", ""), (b"{}", "?policy"), (b"", "?acl")):
        assert door.request("PUT", f"/{INNER}{query}", body=body).code == "NotImplemented"
    form = door.request("POST", f"/{INNER}", {"Content-Type": "multipart/form-data; boundary=x"})
    assert form.code == "NotImplemented"


def test_who_may_is_asked_of_the_bucket_and_the_whole_key(door: Door, client: Any) -> None:
    bob = lenient(dataclasses.replace(door, key=door.volume.keys.create("bob")).client())
    for ask in (
        lambda: bob.get_object(Bucket=INNER, Key="c"),
        lambda: bob.put_object(Bucket=INNER, Key="x", Body=b""),
        lambda: bob.list_objects_v2(Bucket=INNER),
        lambda: bob.head_object(Bucket="top:sub", Key="dir/c"),
    ):
        with pytest.raises(ClientError, match=r"AccessDenied|403"):
            ask()
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::000000000000:user/bob"},
                "Action": "s3:GetObject",
                "Resource": "arn:aws:s3:::top/sub/dir/*",
            },
            {
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::000000000000:user/bob"},
                "Action": "s3:ListBucket",
                "Resource": "arn:aws:s3:::top",
                "Condition": {"StringLike": {"s3:prefix": "sub/dir/*"}},
            },
        ],
    }
    client.put_bucket_policy(Bucket="top", Policy=json.dumps(policy))
    try:
        assert bob.get_object(Bucket=INNER, Key="c")["Body"].read() == b"sub/dir/c"
        assert bob.get_object(Bucket="top:sub", Key="dir/c")["Body"].read() == b"sub/dir/c"
        assert keys(bob.list_objects_v2(Bucket=INNER)) == ["c", "d/e"]
        with pytest.raises(ClientError, match="AccessDenied"):
            bob.list_objects_v2(Bucket="top:sub", Prefix="b")
        with pytest.raises(ClientError, match="AccessDenied"):
            bob.get_object(Bucket="top:sub", Key="b")
        with pytest.raises(ClientError, match="AccessDenied"):
            # The resource named is another key, whatever it looks like from inside.
            bob.get_object(Bucket="top", Key="sub/dir0")
        with pytest.raises(ClientError, match="AccessDenied"):
            bob.put_object(Bucket=INNER, Key="x", Body=b"")
        with pytest.raises(ClientError, match="AccessDenied"):
            bob.delete_object(Bucket=INNER, Key="c")
    finally:
        client.delete_bucket_policy(Bucket="top")


@pytest.mark.parametrize(
    "name",
    [
        "top:",
        ":top",
        "top::a",
        "top:..",
        "top:.",
        "top:a:..:b",
        "top:a%2F..%2Fb",
        "top:%00",
        "..:a",
    ],
)
def test_names_that_lead_nowhere(door: Door, name: str) -> None:
    for path in (f"/{name}", f"/{name}/key"):
        assert door.request("GET", path).code == "InvalidBucketName"


def test_keys_are_no_paths(door: Door) -> None:
    """As everywhere: `../b` is a name of six characters in the directory."""
    answer = door.request("GET", f"/{INNER}/../b")
    assert (answer.status, answer.code) == (404, "NoSuchKey")


def test_off_unless_configured(tmp_path_factory: pytest.TempPathFactory) -> None:
    with serving(tmp_path_factory.mktemp("off"), access_log="off") as door:
        door.client().create_bucket(Bucket="top")
        assert door.request("GET", f"/{INNER}").code == "InvalidBucketName"
    with pytest.raises(S3Error):
        parse_target("/top:sub/key", "host", None)


def test_the_one_decoding() -> None:
    found = parse_target("/top%3Asub%3A%C3%B6/k%2Fl", "host", None, directories=True)
    directory = Directory("top:sub:ö", "sub/ö/".encode())
    assert found == Target("top", "sub/ö/k/l".encode(), directory)
    assert parse_target("/top:sub/", "host", None, directories=True).key == b""
    assert parse_target("/top/a:c", "host", None, directories=True) == Target("top", b"a:c")
    with pytest.raises(S3Error, match="KeyTooLongError"):
        parse_target("/top:" + "d" * 30 + "/" + "k" * 1000, "host", None, directories=True)
    copied = plain_copy_source("/top:s%20b/a%3Fb?versionId=null")
    assert copied == "top/s%20b/a%3Fb?versionId=null"
    for same in ("top/a:b", "top:sub", "top:sub/", "top:sub/?versionId=1"):
        assert plain_copy_source(same) == same
