"""Listings: order, prefixes, delimiters, pages and encodings, against a plain sorted list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support import s3
from tests.support.s3 import Door, client, serving

__all__ = ["client"]


KEYS = [
    "a", "a-b", "a.b", "a/", "a/b", "a/b/c", "a/b/d/e", "a0", "aa/b", "b//c", "b/./d", "b/../e",
    "dir/", "dir/x", "é/ü", "x y", "x+y", "x%20y", "x&<>", "x#?", "z/1", "z/2", "z/3", "漢字",
]  # fmt: skip


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serving(tmp_path_factory.mktemp("door"), access_log="off") as running:
        client = running.client()
        client.create_bucket(Bucket="filled")
        for key in KEYS:
            client.put_object(Bucket="filled", Key=key, Body=b"" if key.endswith("/") else b"x")
        yield running


def expected(prefix: str, delimiter: str, after: str = "") -> list[str]:
    """Keys and common prefixes in S3's order, from a plain list."""
    found: list[str] = []
    for key in sorted(KEYS, key=str.encode):
        if not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        entry = key if at < 0 else key[: at + len(delimiter)]
        if entry.encode() > after.encode() and entry not in found:
            found.append(entry)
    return found


def entries(page: dict[str, Any]) -> list[str]:
    keys = [each["Key"] for each in page.get("Contents", [])]
    prefixes = [each["Prefix"] for each in page.get("CommonPrefixes", [])]
    return sorted(keys + prefixes, key=str.encode)


CASES = [
    (prefix, delimiter)
    for prefix in ("", "a", "a/", "a/b", "b/", "z", "é", "none", "dir/")
    for delimiter in ("", "/", "b", "/b", "ü", "xyz")
]


@pytest.mark.parametrize(("prefix", "delimiter"), CASES)
@pytest.mark.parametrize("size", [1000, 3, 1])
def test_pages_of_version_2(client: Any, prefix: str, delimiter: str, size: int) -> None:
    seen: list[str] = []
    token: dict[str, str] = {}
    while True:
        page = client.list_objects_v2(
            Bucket="filled", Prefix=prefix, Delimiter=delimiter, MaxKeys=size, **token
        )
        seen += entries(page)
        assert page["KeyCount"] == len(entries(page)) <= size
        if not page["IsTruncated"]:
            assert "NextContinuationToken" not in page
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    assert seen == expected(prefix, delimiter)


@pytest.mark.parametrize(("prefix", "delimiter"), CASES)
def test_pages_of_version_1(client: Any, prefix: str, delimiter: str) -> None:
    seen: list[str] = []
    marker = ""
    while True:
        page = client.list_objects(
            Bucket="filled", Prefix=prefix, Delimiter=delimiter, MaxKeys=2, Marker=marker
        )
        seen += entries(page)
        if not page["IsTruncated"]:
            break
        marker = page["NextMarker"]
    assert seen == expected(prefix, delimiter)


@pytest.mark.parametrize("after", ["", "a", "a/", "a/b", "b", "zzz", "x y", "é/"])
def test_starting_after_a_key(client: Any, after: str) -> None:
    page = client.list_objects_v2(Bucket="filled", StartAfter=after)
    assert entries(page) == expected("", "", after)
    page = client.list_objects(Bucket="filled", Marker=after)
    assert entries(page) == expected("", "", after)


def test_pages_of_versions(client: Any) -> None:
    seen = []
    paginator = client.get_paginator("list_object_versions")
    for page in paginator.paginate(Bucket="filled", PaginationConfig={"PageSize": 4}):
        seen += [each["Key"] for each in page.get("Versions", [])]
    assert seen == expected("", "")


def test_what_an_entry_says(client: Any) -> None:
    entry = client.list_objects_v2(Bucket="filled", Prefix="x y", FetchOwner=True)["Contents"][0]
    modified = entry.pop("LastModified")
    assert modified.tzinfo is not None
    assert entry == {
        "Key": "x y",
        "ETag": '"9dd4e461268c8034f5c8564e155c67a6"',
        "Size": 1,
        "StorageClass": "STANDARD",
        "Owner": {"DisplayName": s3.USER, "ID": entry["Owner"]["ID"]},
    }
    assert "Owner" not in client.list_objects_v2(Bucket="filled", Prefix="x y")["Contents"][0]
    assert "Owner" in client.list_objects(Bucket="filled", Prefix="x y")["Contents"][0]


def test_raw_documents(door: Door) -> None:
    answer = door.request("GET", "/filled?prefix=x&max-keys=2")
    assert answer.headers["Content-Type"] == "application/xml"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert b"<ListBucketResult xmlns=" in answer.body
    assert b"<Key>x y</Key>" in answer.body
    assert answer.body.count(b"<Contents>") == 2
    assert b"<IsTruncated>true</IsTruncated>" in answer.body
    encoded = door.request("GET", "/filled?prefix=x&encoding-type=url&max-keys=1000")
    assert b"<Key>x%20y</Key>" in encoded.body
    assert b"<Key>x%2520y</Key>" in encoded.body
    assert b"<EncodingType>url</EncodingType>" in encoded.body


@pytest.mark.parametrize(
    "query",
    [
        "max-keys=-1",
        "max-keys=x",
        "encoding-type=xml",
        "list-type=2&continuation-token=%21%21",
        "list-type=2&continuation-token=AAAA",
        "list-type=2&fetch-owner=maybe",
    ],
)
def test_parameters_that_cannot_be(door: Door, query: str) -> None:
    assert door.request("GET", f"/filled?{query}").code == "InvalidArgument"


def test_no_keys_at_all(client: Any) -> None:
    page = client.list_objects_v2(Bucket="filled", MaxKeys=0)
    assert (page["IsTruncated"], page["KeyCount"], entries(page)) == (False, 0, [])


def test_pages_end_at_a_thousand(client: Any) -> None:
    assert client.list_objects_v2(Bucket="filled", MaxKeys=5000)["MaxKeys"] == 1000


def test_a_bucket_that_is_not_there(client: Any) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        client.list_objects_v2(Bucket="missing-bucket")


def test_every_directory_is_listed_if_so_configured(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("alluxio")
    with serving(directory, list_directories=True, access_log="off") as door:
        client = door.client()
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="a/b/c", Body=b"x")
        assert entries(client.list_objects_v2(Bucket="bucket")) == ["a/", "a/b/", "a/b/c"]


def test_uploads_in_progress_are_listed_if_so_configured(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("uploads")
    with serving(directory, access_log="off", list_uploads_as_objects=True) as door:
        client = door.client()
        client.create_bucket(Bucket="bucket")
        for key in ("a", "dir/b", "z"):
            client.put_object(Bucket="bucket", Key=key, Body=b"x")
        upload = {"Bucket": "bucket", "Key": "dir/b"}
        upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
        part = client.upload_part(**upload, PartNumber=1, Body=b"part")
        folder = f"dir/b_{upload['UploadId']}/"
        everything = ["a", "dir/b", folder, f"{folder}1", "z"]
        for size in (1, 2, 1000):
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket="bucket", PaginationConfig={"PageSize": size}
            )
            assert [entry for page in pages for entry in entries(page)] == everything
        listed = client.list_objects(Bucket="bucket", Prefix=folder)["Contents"]
        assert [(each["Key"], each["Size"]) for each in listed] == [(folder, 0), (f"{folder}1", 4)]
        assert listed[1]["ETag"] == part["ETag"]
        assert listed[0]["Owner"]["DisplayName"] == s3.USER
        grouped = {"Bucket": "bucket", "Delimiter": "/"}
        assert entries(client.list_objects_v2(**grouped)) == ["a", "dir/", "z"]
        assert entries(client.list_objects_v2(**grouped, Prefix="dir/")) == ["dir/b", folder]
        client.abort_multipart_upload(**upload)
        assert entries(client.list_objects_v2(Bucket="bucket")) == ["a", "dir/b", "z"]


def test_uploads_in_progress_are_no_objects(door: Door, client: Any) -> None:
    client.create_bucket(Bucket="uploading")
    client.create_multipart_upload(Bucket="uploading", Key="key")
    assert entries(client.list_objects_v2(Bucket="uploading")) == []
