"""The one decoding of bucket and key."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3api.errors import S3Error
from s3api.keys import (
    CopySource,
    Target,
    check_bucket_created,
    check_key,
    parse_copy_source,
    parse_target,
)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/", Target("", b"")),
        ("/bucket", Target("bucket", b"")),
        ("/bucket/", Target("bucket", b"")),
        ("/bucket/a/b", Target("bucket", b"a/b")),
        ("/bucket//", Target("bucket", b"/")),
        ("/bucket/a//b", Target("bucket", b"a//b")),
        ("/bucket/./x", Target("bucket", b"./x")),
        ("/bucket/../y", Target("bucket", b"../y")),
        ("/bucket/%2e%2e%2fy", Target("bucket", b"../y")),
        ("/bucket/a%2Fb", Target("bucket", b"a/b")),
        ("/bucket/%252F", Target("bucket", b"%2F")),
        ("/bucket/a+b", Target("bucket", b"a+b")),
        ("/bucket/%C3%A9", Target("bucket", "é".encode())),
        ("/bucket/%00".replace("%00", "%01"), Target("bucket", b"\x01")),
        ("/bucket/dir/", Target("bucket", b"dir/")),
        ("/bucket/..%5c", Target("bucket", b"..\\")),
    ],
)
def test_paths_are_decoded_once(path: str, target: Target) -> None:
    assert parse_target(path, "host", None) == target


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("bucket/key", "InvalidURI"),
        ("http://evil/bucket/key", "InvalidURI"),
        ("//key", "InvalidBucketName"),
        ("/bu%2Fcket/key", "InvalidBucketName"),
        ("/../key", "InvalidBucketName"),
        ("/%2e%2e/key", "InvalidBucketName"),
        ("/b%00t/key", "InvalidBucketName"),
        ("/bucket/%ff", "InvalidURI"),
        ("/bucket/%00", "InvalidURI"),
        ("/bucket/%zz", "InvalidURI"),
        ("/bucket/%", "InvalidURI"),
        ("/bucket/" + "k" * 1025, "KeyTooLongError"),
        ("/bucket/" + "%C3%A9" * 513, "KeyTooLongError"),
    ],
)
def test_paths_that_name_nothing_are_refused(path: str, code: str) -> None:
    with pytest.raises(S3Error) as refusal:
        parse_target(path, "host", None)
    assert refusal.value.code == code


def test_longest_key() -> None:
    assert len(parse_target("/bucket/" + "k" * 1024, "host", None).key) == 1024


@given(st.text(min_size=1).map(lambda text: text.encode("utf-8", "ignore")))
def test_every_utf8_key_survives_quoting(key: bytes) -> None:
    if not 0 < len(key) <= 1024 or b"\0" in key:
        return
    assert parse_target("/bucket/" + quote(key), "host", None).key == key
    assert parse_copy_source("bucket/" + quote(key)).key == key
    assert check_key(key) == key


@pytest.mark.parametrize(
    ("host", "path", "target"),
    [
        ("bucket.s3.test", "/key", Target("bucket", b"key")),
        ("bucket.s3.test:29998", "/a//b", Target("bucket", b"a//b")),
        ("BUCKET.S3.test", "/", Target("bucket", b"")),
        ("a.b.s3.test", "/key", Target("a.b", b"key")),
        ("s3.test", "/bucket/key", Target("bucket", b"key")),
        ("other", "/bucket/key", Target("bucket", b"key")),
        ("evils3.test", "/bucket/key", Target("bucket", b"key")),
    ],
)
def test_virtual_hosts(host: str, path: str, target: Target) -> None:
    assert parse_target(path, host, "s3.test") == target


def test_without_a_domain_the_host_means_nothing() -> None:
    assert parse_target("/bucket/key", "other.s3.test", None) == Target("bucket", b"key")


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("bucket/key", CopySource("bucket", b"key", None)),
        ("/bucket/key", CopySource("bucket", b"key", None)),
        ("bucket/a%2Fb", CopySource("bucket", b"a/b", None)),
        ("bucket/key?versionId=null", CopySource("bucket", b"key", "null")),
        ("bucket/key%3FversionId=x", CopySource("bucket", b"key?versionId=x", None)),
        ("bucket//key", CopySource("bucket", b"/key", None)),
    ],
)
def test_copy_sources(value: str, source: CopySource) -> None:
    assert parse_copy_source(value) == source


@pytest.mark.parametrize(
    "value", ["", "/", "bucket", "bucket/", "/bucket", "b/k?other=x", "../x/y"]
)
def test_copy_sources_that_name_no_object(value: str) -> None:
    with pytest.raises(S3Error):
        parse_copy_source(value)


@pytest.mark.parametrize("name", ["abc", "a.b-c", "1bucket", "a" * 63])
def test_bucket_names(name: str) -> None:
    assert check_bucket_created(name) == name


@pytest.mark.parametrize(
    "name",
    ["ab", "a" * 64, "Abc", "a_b", "-ab", "ab-", "a..b", "a.-b", "1.2.3.4", "xn--a", "a:b", ".abc"],
)
def test_bucket_names_that_amazon_refuses(name: str) -> None:
    with pytest.raises(S3Error) as refusal:
        check_bucket_created(name)
    assert refusal.value.code == "InvalidBucketName"
