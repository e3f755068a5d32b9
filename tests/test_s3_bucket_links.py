"""Bucket links: one bucket under several names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cache.errors import BucketExists, InvalidName, NoSuchBucket
from tests.support.s3 import Door, serving


@pytest.fixture
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serving(tmp_path_factory.mktemp("links")) as door:
        door.client().create_bucket(Bucket="photos")
        door.volume.bucket_links.create("pictures", "photos")
        yield door


@pytest.fixture
def client(door: Door) -> Any:
    return door.client()


def test_both_names_lead_to_the_same_objects(client: Any) -> None:
    client.put_object(Bucket="pictures", Key="a", Body=b"one")
    assert client.get_object(Bucket="photos", Key="a")["Body"].read() == b"one"
    client.copy_object(Bucket="photos", Key="b", CopySource="pictures/a")
    assert [each["Key"] for each in client.list_objects_v2(Bucket="pictures")["Contents"]] == [
        "a",
        "b",
    ]
    client.delete_objects(Bucket="pictures", Delete={"Objects": [{"Key": "a"}, {"Key": "b"}]})
    assert "Contents" not in client.list_objects_v2(Bucket="photos")
    names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    assert names == ["photos", "pictures"]


def test_links_of_links_and_names_that_are_taken(door: Door) -> None:
    links = door.volume.bucket_links
    assert links.create("images", "pictures").bucket == "photos"
    for name in ("photos", "pictures"):
        with pytest.raises(BucketExists):
            links.create(name, "photos")
    with pytest.raises(BucketExists):
        door.volume.buckets.create("pictures", "tester")
    with pytest.raises(NoSuchBucket):
        links.create("other", "nowhere")
    with pytest.raises(InvalidName):
        links.create("No Bucket", "photos")


def test_a_link_is_neither_made_nor_removed_over_s3(client: Any) -> None:
    for verb in (client.create_bucket, client.delete_bucket):
        with pytest.raises(ClientError, match="AccessDenied"):
            verb(Bucket="pictures")
    client.head_bucket(Bucket="photos")


def test_a_link_to_a_bucket_that_is_gone(door: Door, client: Any) -> None:
    client.delete_bucket(Bucket="photos")
    with pytest.raises(ClientError, match="NoSuchBucket"):
        client.list_objects_v2(Bucket="pictures")
    assert client.list_buckets()["Buckets"] == []
    client.create_bucket(Bucket="photos")
    client.head_bucket(Bucket="pictures")
    assert door.volume.bucket_links.delete("pictures")
    assert not door.volume.bucket_links.delete("pictures")
    with pytest.raises(ClientError, match="404"):
        client.head_bucket(Bucket="pictures")


def test_a_link_gives_no_rights(door: Door) -> None:
    door.volume.buckets.create("secret", "somebody-else")
    door.volume.bucket_links.create("open", "secret")
    assert door.request("GET", "/open").code == "AccessDenied"
    assert door.request("PUT", "/open/x", body=b"x").code == "AccessDenied"
    copy = {"x-amz-copy-source": "open/x"}
    assert door.request("PUT", "/photos/x", copy).code == "AccessDenied"
