"""Objects through boto3: put, get, head, copy, delete, conditions."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cache.records import WriteMode
from tests.support import s3
from tests.support.s3 import Door, bucket, client, code, serving

__all__ = ["bucket", "client"]

numbers = count(1)


@pytest.fixture(scope="module", params=[WriteMode.WRITE_BACK, WriteMode.WRITE_THROUGH])
def door(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("door")
    with serving(directory, write_mode=request.param, access_log="off") as running:
        yield running


SIZES = [0, 1, 4096, 4097, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_bodies_of_every_size(client: Any, bucket: str, size: int) -> None:
    body = os.urandom(size)
    client.put_object(Bucket=bucket, Key="key", Body=body)
    got = client.get_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
    assert got["Body"].read() == body
    assert got["ContentLength"] == size
    for first, last in ((0, 0), (size // 2, size - 1), (size - 1, size + 5), (0, 10**9)):
        if not 0 <= first < size:
            continue
        part = client.get_object(Bucket=bucket, Key="key", Range=f"bytes={first}-{last}")
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert part["Body"].read() == body[first : last + 1]


def test_attributes_come_back(client: Any, bucket: str) -> None:
    given = {
        "CacheControl": "max-age=5",
        "ContentDisposition": 'attachment; filename="x"',
        "ContentEncoding": "identity",
        "ContentLanguage": "de",
        "ContentType": "text/x-test",
        "Metadata": {"color": "blue", "size": "7"},
    }
    client.put_object(Bucket=bucket, Key="key", Body=b"x", Expires="2030-01-01", **given)
    for got in (
        client.head_object(Bucket=bucket, Key="key"),
        client.get_object(Bucket=bucket, Key="key"),
    ):
        assert {name: got[name] for name in given} == given
        assert got["ExpiresString"].endswith("2030 00:00:00 GMT")
    overridden = client.get_object(
        Bucket=bucket, Key="key", ResponseContentType="text/y", ResponseCacheControl="no-store"
    )
    assert (overridden["ContentType"], overridden["CacheControl"]) == ("text/y", "no-store")


def test_directory_markers(client: Any, bucket: str, door: Door) -> None:
    client.put_object(Bucket=bucket, Key="dir/", ContentType="application/x-directory")
    client.put_object(Bucket=bucket, Key="implied/key", Body=b"x")
    assert client.head_object(Bucket=bucket, Key="dir/")["ContentType"] == "application/x-directory"
    assert code(client.head_object, Bucket=bucket, Key="implied/") == "404"
    assert code(client.head_object, Bucket=bucket, Key="dir") == "404"
    listed = [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == ["dir/", "implied/key"]
    client.put_object(Bucket=bucket, Key="dir/", Body=b"bytes", ContentType="text/plain")
    found = client.get_object(Bucket=bucket, Key="dir/", Range="bytes=1-")
    assert (found["Body"].read(), found["ContentType"]) == (b"ytes", "text/plain")
    client.copy_object(Bucket=bucket, Key="copy/", CopySource={"Bucket": bucket, "Key": "dir/"})
    sizes = {o["Key"]: o["Size"] for o in client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert sizes == {"copy/": 5, "dir/": 5, "implied/key": 1}
    page = client.list_objects_v2(Bucket=bucket, Delimiter="/", Prefix="dir/")
    assert [each["Key"] for each in page["Contents"]] == ["dir/"]
    client.delete_object(Bucket=bucket, Key="copy/")
    client.delete_object(Bucket=bucket, Key="dir/")
    client.delete_object(Bucket=bucket, Key="implied/key")
    assert door.is_empty(bucket)


def test_the_default_content_type_is_amazons(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="key")
    assert client.head_object(Bucket=bucket, Key="key")["ContentType"] == "binary/octet-stream"


def test_too_much_metadata(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="key", Metadata={"a": "x" * 2047})
    too_much = {"a": "x" * 2048}
    assert code(client.put_object, Bucket=bucket, Key="b", Metadata=too_much) == "MetadataTooLarge"


@pytest.mark.parametrize("size_bytes", [100, 3000])
def test_the_limit_on_metadata_is_a_setting(tmp_path: Path, size_bytes: int) -> None:
    with serving(tmp_path, metadata_bytes_max=size_bytes, access_log="off") as door:
        client = door.client()
        client.create_bucket(Bucket="bucket")
        put = {"Bucket": "bucket", "Key": "key"}
        fits = {"a": "x" * (size_bytes - 1)}
        client.put_object(**put, Metadata=fits)
        assert client.head_object(**put)["Metadata"] == fits
        too_much = {"ab": "x" * (size_bytes - 1)}
        for function in (client.put_object, client.create_multipart_upload):
            assert code(function, **put, Metadata=too_much) == "MetadataTooLarge"


def test_the_last_writer_of_a_key_wins_and_whole(client: Any, bucket: str, door: Door) -> None:
    """What is there was written by one of them: never a mixture, never the older of two."""
    bodies = [bytes([number]) * (1 << 20) for number in range(8)]

    def put(number: int) -> None:
        metadata = {"number": str(number)}
        client.put_object(Bucket=bucket, Key="key", Body=bodies[number], Metadata=metadata)

    with ThreadPoolExecutor(4) as pool:
        for writing in [pool.submit(put, number) for number in range(8)]:
            writing.result()
    got = client.get_object(Bucket=bucket, Key="key")
    assert got["Body"].read() == bodies[int(got["Metadata"]["number"])]
    # Which comes last is decided by the commit, not by who began: the slow one does.
    half = len(bodies[0]) // 2
    head = door.sign("PUT", f"/{bucket}/key", {"Content-Length": str(2 * half)}, bodies[0])
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    with socket.create_connection(("127.0.0.1", door.port), timeout=100) as slow:
        slow.sendall(f"PUT /{bucket}/key HTTP/1.1\r\n{lines}\r\n".encode() + bodies[0][:half])
        put(1)
        assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == bodies[1]
        slow.sendall(bodies[0][half:])
        assert s3.parse_answer(s3.read_answer(slow)).status == 200
    assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == bodies[0]


def test_aws_chunked_is_not_an_encoding_of_the_object(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=b"x", ContentEncoding="gzip")
    assert client.head_object(Bucket=bucket, Key="key")["ContentEncoding"] == "gzip"
    client.put_object(Bucket=bucket, Key="key", Body=b"x")
    assert "ContentEncoding" not in client.head_object(Bucket=bucket, Key="key")


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_kept(client: Any, bucket: str, algorithm: str) -> None:
    put = client.put_object(
        Bucket=bucket, Key="key", Body=io.BytesIO(b"x" * 100_000), ChecksumAlgorithm=algorithm
    )
    member = f"Checksum{algorithm}"
    plain = client.head_object(Bucket=bucket, Key="key")
    assert member not in plain
    got = client.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
    assert got[member] == put[member]
    assert got["ChecksumType"] == "FULL_OBJECT"
    described = client.get_object_attributes(
        Bucket=bucket, Key="key", ObjectAttributes=["Checksum", "ObjectSize", "ETag"]
    )
    assert described["Checksum"][member] == put[member]
    assert described["ObjectSize"] == 100_000
    assert described["ETag"] == put["ETag"].strip('"')


def test_a_checksum_is_made_where_none_was_given(door: Door, bucket: str) -> None:
    client = door.client(request_checksum_calculation="when_required")
    client.put_object(Bucket=bucket, Key="key", Body=b"123456789")
    got = client.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
    assert got["ChecksumCRC64NVME"] == "rosUhgp5mIg="


def test_ranges_that_do_not_exist(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=b"0123456789")
    get = {"Bucket": bucket, "Key": "key"}
    assert code(client.get_object, **get, Range="bytes=10-") == "InvalidRange"
    whole = client.get_object(**get, Range="bytes=5-3")
    assert whole["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert code(client.get_object, **get, Range="bytes=0-1", PartNumber=1) == "InvalidRequest"


def test_conditions_of_reads(client: Any, bucket: str) -> None:
    etag = client.put_object(Bucket=bucket, Key="key", Body=b"x")["ETag"]
    get = {"Bucket": bucket, "Key": "key"}
    client.get_object(**get, IfMatch=etag)
    assert code(client.get_object, **get, IfMatch='"other"') == "PreconditionFailed"
    assert code(client.get_object, **get, IfNoneMatch=etag) == "304"
    assert code(client.head_object, **get, IfNoneMatch=etag) == "304"
    client.get_object(**get, IfNoneMatch='"other"')


def test_conditions_of_writes(client: Any, bucket: str) -> None:
    put = {"Bucket": bucket, "Key": "key"}
    assert code(client.put_object, **put, Body=b"1", IfMatch='"x"') == "NoSuchKey"
    etag = client.put_object(**put, Body=b"1", IfNoneMatch="*")["ETag"]
    assert code(client.put_object, **put, Body=b"2", IfNoneMatch="*") == "PreconditionFailed"
    assert code(client.put_object, **put, Body=b"2", IfMatch='"x"') == "PreconditionFailed"
    assert client.get_object(**put)["Body"].read() == b"1"
    client.put_object(**put, Body=b"2", IfMatch=etag)
    assert client.get_object(**put)["Body"].read() == b"2"
    assert code(client.delete_object, **put, IfMatch=etag) == "PreconditionFailed"
    client.delete_object(**put, IfMatch="*")
    client.delete_object(**put, IfMatch="*")
    assert code(client.get_object, **put) == "NoSuchKey"


def test_copies(client: Any, bucket: str) -> None:
    body = os.urandom(3_000_000)
    put = client.put_object(
        Bucket=bucket, Key="a b/ü", Body=body, Metadata={"x": "1"}, ContentType="text/a"
    )
    source = {"Bucket": bucket, "Key": "a b/ü"}
    copied = client.copy_object(Bucket=bucket, Key="copy", CopySource=source)
    assert copied["CopyObjectResult"]["ETag"] == put["ETag"]
    got = client.get_object(Bucket=bucket, Key="copy")
    assert (got["Body"].read() == body, got["Metadata"], got["ContentType"]) == (
        True,
        {"x": "1"},
        "text/a",
    )
    client.copy_object(
        Bucket=bucket,
        Key="copy",
        CopySource=source,
        MetadataDirective="REPLACE",
        Metadata={"y": "2"},
    )
    assert client.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"y": "2"}


def test_a_copy_onto_itself_must_change_something(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=b"x" * 10_000)
    itself = {"Bucket": bucket, "Key": "key", "CopySource": {"Bucket": bucket, "Key": "key"}}
    assert code(client.copy_object, **itself) == "InvalidRequest"
    client.copy_object(**itself, MetadataDirective="REPLACE", Metadata={"a": "b"})
    got = client.get_object(Bucket=bucket, Key="key")
    assert (got["Body"].read(), got["Metadata"]) == (b"x" * 10_000, {"a": "b"})


def test_conditions_of_copies(client: Any, bucket: str) -> None:
    etag = client.put_object(Bucket=bucket, Key="key", Body=b"x")["ETag"]
    copy = {"Bucket": bucket, "Key": "copy", "CopySource": {"Bucket": bucket, "Key": "key"}}
    assert code(client.copy_object, **copy, CopySourceIfNoneMatch=etag) == "PreconditionFailed"
    assert code(client.copy_object, **copy, CopySourceIfMatch='"x"') == "PreconditionFailed"
    assert code(client.copy_object, **copy, IfMatch='"x"') == "NoSuchKey"
    client.copy_object(**copy, CopySourceIfMatch=etag, IfNoneMatch="*")
    assert code(client.copy_object, **copy, IfNoneMatch="*") == "PreconditionFailed"


def test_deletions_of_many(client: Any, bucket: str) -> None:
    keys = [f"key-{number}" for number in range(1000)]
    for key in keys[:20]:
        client.put_object(Bucket=bucket, Key=key)
    answer = client.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]}
    )
    assert sorted(each["Key"] for each in answer["Deleted"]) == sorted(keys)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)
    quiet = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "x"}], "Quiet": True})
    assert "Deleted" not in quiet


def test_deletions_with_conditions(client: Any, bucket: str) -> None:
    etag = client.put_object(Bucket=bucket, Key="key", Body=b"12")["ETag"]
    wrong = [{"Key": "key", "ETag": '"x"'}, {"Key": "key", "Size": 3}]
    for each in wrong:
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": [each]})
        assert answer["Errors"][0]["Code"] == "PreconditionFailed"
    right = {"Key": "key", "ETag": etag, "Size": 2}
    assert client.delete_objects(Bucket=bucket, Delete={"Objects": [right]})["Deleted"]


def test_what_is_missing(client: Any, bucket: str) -> None:
    assert code(client.get_object, Bucket=bucket, Key="x") == "NoSuchKey"
    assert code(client.head_object, Bucket=bucket, Key="x") == "404"
    assert code(client.get_object, Bucket="no-such-bucket", Key="x") == "NoSuchBucket"
    assert code(client.put_object, Bucket="no-such-bucket", Key="x") == "NoSuchBucket"
    client.delete_object(Bucket=bucket, Key="x")
    source = {"Bucket": bucket, "Key": "x"}
    assert code(client.copy_object, Bucket=bucket, Key="y", CopySource=source) == "NoSuchKey"


def test_one_version_named_null(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=b"x")
    assert client.get_object(Bucket=bucket, Key="key", VersionId="null")["Body"].read() == b"x"
    other = {"Bucket": bucket, "Key": "key", "VersionId": "abc"}
    assert code(client.get_object, **other) == "InvalidArgument"
    versions = client.list_object_versions(Bucket=bucket)["Versions"]
    assert [(v["Key"], v["VersionId"], v["IsLatest"]) for v in versions] == [("key", "null", True)]
    client.delete_object(Bucket=bucket, Key="key", VersionId="null")


@pytest.mark.parametrize(
    "asked",
    [
        {"ObjectLockEventHold": "ON"},
    ],
)
def test_what_is_not_offered_is_not_ignored(
    client: Any, bucket: str, door: Door, asked: dict[str, str]
) -> None:
    assert code(client.put_object, Bucket=bucket, Key="key", **asked) == "NotImplemented"
    assert code(client.create_multipart_upload, Bucket=bucket, Key="key", **asked) == (
        "NotImplemented"
    )
    assert door.is_empty(bucket)
    client.put_object(Bucket=bucket, Key="key", ACL="private", StorageClass="STANDARD")


def test_expected_bucket_owners(client: Any, bucket: str) -> None:
    owner = client.get_bucket_acl(Bucket=bucket)["Owner"]["ID"]
    client.put_object(Bucket=bucket, Key="key", ExpectedBucketOwner=owner)
    other = {"Bucket": bucket, "Key": "key", "ExpectedBucketOwner": "0" * 64}
    assert code(client.put_object, **other) == "AccessDenied"


def test_a_reader_keeps_its_version(client: Any, bucket: str) -> None:
    """What was begun before an overwrite is read to its end."""
    old, new = os.urandom(30 << 20), os.urandom(1000)
    client.put_object(Bucket=bucket, Key="key", Body=old)
    stream = client.get_object(Bucket=bucket, Key="key")["Body"]
    first = stream.read(1000)
    client.put_object(Bucket=bucket, Key="key", Body=new)
    assert first + stream.read() == old
    assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == new


def test_buckets(door: Door, client: Any) -> None:
    name = f"made-{next(numbers)}"
    client.create_bucket(Bucket=name)
    client.create_bucket(Bucket=name)  # one's own: again is no error
    assert name in [each["Name"] for each in client.list_buckets()["Buckets"]]
    assert client.head_bucket(Bucket=name)["BucketRegion"] == s3.REGION
    assert client.get_bucket_location(Bucket=name)["LocationConstraint"] is None
    assert "Status" not in client.get_bucket_versioning(Bucket=name)
    client.put_object(Bucket=name, Key="key")
    assert code(client.delete_bucket, Bucket=name) == "BucketNotEmpty"
    client.delete_object(Bucket=name, Key="key")
    client.create_multipart_upload(Bucket=name, Key="unfinished")
    client.delete_bucket(Bucket=name)
    assert code(client.head_bucket, Bucket=name) == "404"
    door.volume.buckets.create(name, "somebody-else")
    assert code(client.create_bucket, Bucket=name) == "BucketAlreadyExists"
    assert name not in [each["Name"] for each in client.list_buckets()["Buckets"]]


def test_a_bucket_that_says_it_wants_no_object_lock(client: Any) -> None:
    name = f"unlocked-{next(numbers)}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=False)
    assert "Status" not in client.get_bucket_versioning(Bucket=name)


def test_pages_of_buckets(door: Door, client: Any) -> None:
    names = [f"page-{next(numbers)}-x" for _ in range(5)]
    for name in names:
        door.volume.buckets.create(name, s3.USER)
    seen: list[str] = []
    token: dict[str, str] = {}
    while True:
        page = client.list_buckets(Prefix="page-", MaxBuckets=2, **token)
        seen += [each["Name"] for each in page["Buckets"]]
        if "ContinuationToken" not in page:
            break
        token = {"ContinuationToken": page["ContinuationToken"]}
    assert seen == sorted(names)
