"""Versions over S3, with boto3 against a running gateway."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.s3 import Door, door, refused

__all__ = ["door"]


@pytest.fixture
def s3(door: Door) -> Any:
    return door.client()


_number = iter(range(1000))


@pytest.fixture
def bucket(s3: Any) -> str:
    """A versioned bucket of the test's own."""
    name = f"versioned-{next(_number)}"
    s3.create_bucket(Bucket=name)
    enable(s3, name)
    return name


def enable(s3: Any, bucket: str, status: str = "Enabled") -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def test_the_status_of_a_bucket(s3: Any) -> None:
    name = f"status-{next(_number)}"
    s3.create_bucket(Bucket=name)
    assert "Status" not in s3.get_bucket_versioning(Bucket=name)
    for status in ("Enabled", "Suspended", "Enabled"):
        enable(s3, name, status)
        assert s3.get_bucket_versioning(Bucket=name)["Status"] == status
    refused(
        "NotImplemented",
        501,
        s3.put_bucket_versioning,
        Bucket=name,
        VersioningConfiguration={"Status": "Enabled", "MFADelete": "Enabled"},
    )
    for configuration in ({}, {"Status": "On"}):
        refused(
            "IllegalVersioningConfigurationException",
            400,
            s3.put_bucket_versioning,
            Bucket=name,
            VersioningConfiguration=configuration,
        )
    refused("NoSuchBucket", 404, s3.get_bucket_versioning, Bucket="no-such-bucket")


def test_versions_are_read_deleted_and_come_back(s3: Any, bucket: str) -> None:
    ids = [
        s3.put_object(Bucket=bucket, Key="k", Body=body)["VersionId"] for body in (b"1", b"2", b"3")
    ]
    assert len(set(ids)) == 3
    for version_id, body in zip(ids, (b"1", b"2", b"3"), strict=True):
        answer = s3.get_object(Bucket=bucket, Key="k", VersionId=version_id)
        assert (answer["Body"].read(), answer["VersionId"]) == (body, version_id)
        assert s3.head_object(Bucket=bucket, Key="k", VersionId=version_id)["ContentLength"] == 1
    assert s3.head_object(Bucket=bucket, Key="k")["VersionId"] == ids[2]
    gone = s3.delete_object(Bucket=bucket, Key="k", VersionId=ids[2])
    assert gone["VersionId"] == ids[2]
    assert "DeleteMarker" not in gone
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"2"
    refused("NoSuchVersion", 404, s3.get_object, Bucket=bucket, Key="k", VersionId=ids[2])
    refused("InvalidArgument", 400, s3.get_object, Bucket=bucket, Key="k", VersionId="x")


def test_a_delete_marker(s3: Any, bucket: str) -> None:
    kept = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    made = s3.delete_object(Bucket=bucket, Key="k")
    assert made["DeleteMarker"] is True
    marker = made["VersionId"]
    headers = refused("NoSuchKey", 404, s3.get_object, Bucket=bucket, Key="k")
    assert (headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == ("true", marker)
    for call in (s3.get_object, s3.get_object_tagging):
        headers = refused("MethodNotAllowed", 405, call, Bucket=bucket, Key="k", VersionId=marker)
        assert headers["x-amz-delete-marker"] == "true"
    headers = refused("405", 405, s3.head_object, Bucket=bucket, Key="k", VersionId=marker)
    assert headers["last-modified"]
    refused(
        "InvalidRequest",
        400,
        s3.copy_object,
        Bucket=bucket,
        Key="copy",
        CopySource={"Bucket": bucket, "Key": "k", "VersionId": marker},
    )
    removed = s3.delete_object(Bucket=bucket, Key="k", VersionId=marker)
    assert (removed["DeleteMarker"], removed["VersionId"]) == (True, marker)
    assert s3.head_object(Bucket=bucket, Key="k")["VersionId"] == kept


def test_conditions_of_a_deletion_meet_the_delete_marker(s3: Any, bucket: str) -> None:
    key = {"Bucket": bucket, "Key": "k"}
    s3.delete_object(**key, IfMatch="missing")  # nothing there is nothing to protect
    etag = s3.put_object(**key, Body=b"1")["ETag"]
    assert s3.delete_object(**key, IfMatch=etag)["DeleteMarker"]

    refused("PreconditionFailed", 412, s3.delete_object, **key, IfMatch=etag)
    refused("PreconditionFailed", 412, s3.delete_object, **key, IfMatchSize=1)
    before = datetime(2015, 1, 1, tzinfo=UTC)
    refused("PreconditionFailed", 412, s3.delete_object, **key, IfMatchLastModifiedTime=before)
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k", "ETag": etag}]})
    assert [each["Code"] for each in answer["Errors"]] == ["PreconditionFailed"]
    listed = s3.list_object_versions(Bucket=bucket)
    assert len(listed["DeleteMarkers"]) == 1
    s3.delete_object(**key, IfMatch="*")
    s3.put_object(**key, Body=b"2", IfNoneMatch="*")  # for who writes, the key is free


def test_a_suspended_bucket_has_one_null_version(s3: Any, bucket: str) -> None:
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    enable(s3, bucket, "Suspended")
    assert "VersionId" not in s3.put_object(Bucket=bucket, Key="k", Body=b"2")
    s3.put_object(Bucket=bucket, Key="k", Body=b"3")
    listed = s3.list_object_versions(Bucket=bucket)["Versions"]
    assert [(v["VersionId"], v["IsLatest"]) for v in listed] == [("null", True), (first, False)]
    assert s3.delete_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    answer = s3.list_object_versions(Bucket=bucket)
    assert [v["VersionId"] for v in answer["Versions"]] == [first]
    assert [m["VersionId"] for m in answer["DeleteMarkers"]] == ["null"]


def test_an_old_version_is_copied_over_the_new_one(s3: Any, bucket: str) -> None:
    old = s3.put_object(Bucket=bucket, Key="k", Body=b"old", Metadata={"a": "b"})["VersionId"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    source = {"Bucket": bucket, "Key": "k", "VersionId": old}
    copied = s3.copy_object(Bucket=bucket, Key="k", CopySource=source)
    assert copied["CopySourceVersionId"] == old
    found = s3.get_object(Bucket=bucket, Key="k")
    assert (found["Body"].read(), found["VersionId"]) == (b"old", copied["VersionId"])
    assert found["Metadata"] == {"a": "b"}


def test_parts_become_a_version_and_come_from_one(s3: Any, bucket: str) -> None:
    old = s3.put_object(Bucket=bucket, Key="k", Body=b"old")["VersionId"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="whole")["UploadId"]
    part = s3.upload_part_copy(
        Bucket=bucket,
        Key="whole",
        UploadId=upload,
        PartNumber=1,
        CopySource={"Bucket": bucket, "Key": "k", "VersionId": old},
    )
    assert part["CopySourceVersionId"] == old
    parts = [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]
    done = s3.complete_multipart_upload(
        Bucket=bucket, Key="whole", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    found = s3.get_object(Bucket=bucket, Key="whole", VersionId=done["VersionId"])
    assert found["Body"].read() == b"old"


def test_tags_belong_to_a_version(s3: Any, bucket: str) -> None:
    old = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    new = s3.put_object(Bucket=bucket, Key="k", Body=b"2", Tagging="on=new")["VersionId"]
    tags = [{"Key": "on", "Value": "old"}]
    answer = s3.put_object_tagging(Bucket=bucket, Key="k", VersionId=old, Tagging={"TagSet": tags})
    assert answer["VersionId"] == old
    assert s3.get_object_tagging(Bucket=bucket, Key="k", VersionId=old)["TagSet"] == tags
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["VersionId"] == new


def test_many_versions_are_deleted_at_once(s3: Any, bucket: str) -> None:
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"2")
    wanted = [
        {"Key": "k", "VersionId": first},
        {"Key": "other"},
        {"Key": "k", "VersionId": "nonsense"},
    ]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": wanted})
    by_key = {row["Key"]: row for row in answer["Deleted"]}
    assert by_key["k"] == {"Key": "k", "VersionId": first}
    marker = by_key["other"]["DeleteMarkerVersionId"]
    assert by_key["other"]["DeleteMarker"] is True
    assert [(row["Code"], row["VersionId"]) for row in answer["Errors"]] == [
        ("InvalidArgument", "nonsense")
    ]
    answer = s3.delete_objects(
        Bucket=bucket, Delete={"Objects": [{"Key": "other", "VersionId": marker}]}
    )
    assert answer["Deleted"] == [
        {
            "Key": "other",
            "VersionId": marker,
            "DeleteMarker": True,
            "DeleteMarkerVersionId": marker,
        }
    ]


def test_a_bucket_is_emptied_as_clients_do_it(s3: Any, bucket: str) -> None:
    for number in range(7):
        s3.put_object(Bucket=bucket, Key=f"d/{number % 3}", Body=b"x")
    s3.delete_object(Bucket=bucket, Key="d/1")
    s3.put_object(Bucket=bucket, Key="with space/ü+%", Body=b"x")
    refused("BucketNotEmpty", 409, s3.delete_bucket, Bucket=bucket)
    pages = s3.get_paginator("list_object_versions").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": 2}
    )
    count = 0
    for page in pages:
        for row in page.get("Versions", []) + page.get("DeleteMarkers", []):
            s3.delete_object(Bucket=bucket, Key=row["Key"], VersionId=row["VersionId"])
            count += 1
    assert count == 9
    s3.delete_bucket(Bucket=bucket)


def test_markers_of_a_listing(s3: Any, bucket: str) -> None:
    refused(
        "InvalidArgument",
        400,
        s3.list_object_versions,
        Bucket=bucket,
        VersionIdMarker="0" * 32,
    )
    for key in ("a/1", "a/2", "b"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    page = s3.list_object_versions(Bucket=bucket, Delimiter="/", MaxKeys=1)
    assert (page["CommonPrefixes"], page["NextKeyMarker"]) == ([{"Prefix": "a/"}], "a/")
    assert "NextVersionIdMarker" not in page
    page = s3.list_object_versions(Bucket=bucket, Delimiter="/", KeyMarker="a/")
    assert [row["Key"] for row in page["Versions"]] == ["b"]


def test_a_bucket_never_versioned_has_null_versions(s3: Any) -> None:
    name = f"plain-{next(_number)}"
    s3.create_bucket(Bucket=name)
    assert "VersionId" not in s3.put_object(Bucket=name, Key="k", Body=b"1")
    assert "VersionId" not in s3.get_object(Bucket=name, Key="k")
    assert s3.get_object(Bucket=name, Key="k", VersionId="null")["Body"].read() == b"1"
    (row,) = s3.list_object_versions(Bucket=name)["Versions"]
    assert (row["VersionId"], row["IsLatest"]) == ("null", True)
    refused("NoSuchVersion", 404, s3.get_object, Bucket=name, Key="k", VersionId="0" * 32)
    s3.delete_object(Bucket=name, Key="k", VersionId="null")
    refused("NoSuchKey", 404, s3.get_object, Bucket=name, Key="k")
