"""Tags of objects and buckets, storage classes and website redirects through boto3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.publishing import Object
from cache.records import ObjectAttributes, WriteMode
from s3api.entity import storage_class_of
from s3api.errors import S3Error
from s3api.tags import read_tag_header, read_tag_set
from tests.support.s3 import Door, bucket, client, code, serving
from tests.support.volume import BUCKET, TestVolume

__all__ = ["bucket", "client"]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("door")
    with serving(directory, write_mode=WriteMode.WRITE_THROUGH, access_log="off") as running:
        yield running


def tag_set(tags: dict[str, str]) -> dict[str, Any]:
    return {"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]}


def tags_of(client: Any, bucket: str, key: str) -> dict[str, str]:
    answer = client.get_object_tagging(Bucket=bucket, Key=key)
    return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}


TAGS = {"a": "1", "b b": "x/y@z", "ü": ""}


def test_tags_are_put_shown_counted_and_deleted(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="k", Body=b"x")
    before = client.head_object(Bucket=bucket, Key="k")
    assert tags_of(client, bucket, "k") == {}
    client.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(TAGS))
    assert tags_of(client, bucket, "k") == TAGS
    for got in (
        client.get_object(Bucket=bucket, Key="k"),
        client.head_object(Bucket=bucket, Key="k"),
    ):
        assert got["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "3"
        assert (got["ETag"], got["LastModified"]) == (before["ETag"], before["LastModified"])
    client.delete_object_tagging(Bucket=bucket, Key="k")
    assert tags_of(client, bucket, "k") == {}
    assert code(client.get_object_tagging, Bucket=bucket, Key="none") == "NoSuchKey"
    assert (
        code(client.put_object_tagging, Bucket=bucket, Key="none", Tagging=tag_set({}))
        == "NoSuchKey"
    )
    assert code(client.get_object_tagging, Bucket="none-such", Key="k") == "NoSuchBucket"


def test_tags_with_put_copy_and_multipart(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1&b+b=x%2Fy%40z&%C3%BC")
    assert tags_of(client, bucket, "k") == TAGS
    source = f"{bucket}/k"
    client.copy_object(Bucket=bucket, Key="kept", CopySource=source)
    assert tags_of(client, bucket, "kept") == TAGS
    client.copy_object(
        Bucket=bucket, Key="new", CopySource=source, TaggingDirective="REPLACE", Tagging="n=1"
    )
    assert tags_of(client, bucket, "new") == {"n": "1"}
    client.copy_object(Bucket=bucket, Key="none", CopySource=source, TaggingDirective="REPLACE")
    assert tags_of(client, bucket, "none") == {}
    upload = client.create_multipart_upload(
        Bucket=bucket, Key="m", Tagging="m=1", StorageClass="STANDARD_IA"
    )
    part = client.upload_part(
        Bucket=bucket, Key="m", UploadId=upload["UploadId"], PartNumber=1, Body=b"x"
    )
    client.complete_multipart_upload(
        Bucket=bucket, Key="m", UploadId=upload["UploadId"],
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )  # fmt: skip
    assert tags_of(client, bucket, "m") == {"m": "1"}
    assert client.head_object(Bucket=bucket, Key="m")["StorageClass"] == "STANDARD_IA"
    client.put_object(Bucket=bucket, Key="k", Body=b"y")
    assert tags_of(client, bucket, "k") == {}


def test_bucket_tags(client: Any, bucket: str) -> None:
    assert code(client.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet"
    client.put_bucket_tagging(Bucket=bucket, Tagging=tag_set({"b": "2", "a": "1"}))
    assert (
        client.get_bucket_tagging(Bucket=bucket)["TagSet"]
        == tag_set({"b": "2", "a": "1"})["TagSet"]
    )
    double = {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}
    assert code(client.put_bucket_tagging, Bucket=bucket, Tagging=double) == "InvalidTag"
    client.delete_bucket_tagging(Bucket=bucket)
    assert code(client.get_bucket_tagging, Bucket=bucket) == "NoSuchTagSet"


REFUSED: list[dict[str, str]] = [
    {f"k{n}": "" for n in range(11)},
    {"k" * 129: "x"},
    {"k": "v" * 257},
    {"k!": "v"},
    {"k": "a#b"},
    {"k": "a\nb"},
    {"aws:k": "v"},
]


@pytest.mark.parametrize("tags", REFUSED, ids=lambda tags: next(iter(tags))[:9])
def test_tags_that_amazon_refuses(client: Any, bucket: str, tags: dict[str, str]) -> None:
    client.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")
    assert (
        code(client.put_object_tagging, Bucket=bucket, Key="k", Tagging=tag_set(tags))
        == "InvalidTag"
    )
    assert code(client.put_bucket_tagging, Bucket=bucket, Tagging=tag_set(tags)) == "InvalidTag"
    assert tags_of(client, bucket, "k") == {"a": "1"}


def test_limits_can_be_switched_off() -> None:
    many = [{"Key": f"k{n}" * 100, "Value": "!" * 1000} for n in range(50)]
    assert len(read_tag_set(many, limits=False)) == 50
    for tags in ([{"Key": "", "Value": ""}], [{"Key": "aws:x", "Value": ""}], many[:1] * 2):
        with pytest.raises(S3Error, match="InvalidTag"):
            read_tag_set(tags, limits=False)
    assert len(read_tag_set([{"Key": "k" * 128, "Value": "v" * 256}], limits=True)) == 1


def test_a_tag_has_a_key() -> None:
    with pytest.raises(S3Error, match="InvalidTag"):
        read_tag_header("=x", limits=True)


@pytest.mark.parametrize("header", ["a=1&a=2", "%ff=1", "a=%ff"])
def test_tagging_headers_that_cannot_be_read(header: str) -> None:
    with pytest.raises(S3Error, match="InvalidArgument"):
        read_tag_header(header, limits=True)


def test_tags_survive_the_loss_of_the_index_and_a_rename(tmp_path: Path) -> None:
    box = TestVolume(tmp_path, write_mode=WriteMode.WRITE_THROUGH)
    try:
        own = {"storage-class": "GLACIER", "redirect": "/there"}
        box.put(b"old", b"x", attributes=ObjectAttributes(tags={"a": "1"}, own=own))
        box.rename(b"old", b"new")
        box.drain()
        box.forget_all()
        found = box.volume.objects.get(BUCKET, b"new")
        assert found.attributes.tags == {"a": "1"}
        assert found.attributes.own == own
        (listed,) = box.volume.objects.list(BUCKET).entries
        assert isinstance(listed, Object)
        assert storage_class_of(listed.attributes) == "GLACIER"
    finally:
        box.close()


def test_storage_classes_and_redirects_are_kept_and_shown(client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="cold", Body=b"x", StorageClass="GLACIER_IR")
    client.put_object(
        Bucket=bucket, Key="warm", Body=b"x", StorageClass="STANDARD", WebsiteRedirectLocation="/x"
    )
    assert client.head_object(Bucket=bucket, Key="cold")["StorageClass"] == "GLACIER_IR"
    got = client.get_object(Bucket=bucket, Key="warm")
    assert "StorageClass" not in got
    assert got["WebsiteRedirectLocation"] == "/x"
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [entry["StorageClass"] for entry in listed] == ["GLACIER_IR", "STANDARD"]
    attributes = client.get_object_attributes(
        Bucket=bucket, Key="cold", ObjectAttributes=["StorageClass"]
    )
    assert attributes["StorageClass"] == "GLACIER_IR"
    client.copy_object(
        Bucket=bucket, Key="cold", CopySource=f"{bucket}/cold", StorageClass="STANDARD"
    )
    assert "StorageClass" not in client.head_object(Bucket=bucket, Key="cold")
    put = {"Bucket": bucket, "Key": "k", "Body": b"x"}
    assert code(client.put_object, **put, StorageClass="OUTPOSTS") == "InvalidStorageClass"
    assert code(client.put_object, **put, StorageClass="FAST") == "InvalidStorageClass"
    for location in ("x", "ftp://x", "/" + "x" * 2048):
        refused = code(client.put_object, **put, WebsiteRedirectLocation=location)
        assert refused == "InvalidRedirectLocation"
