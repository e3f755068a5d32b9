"""Lifecycle rules: what a document may say, what clients are told, and what the mover does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cache.records import ObjectAttributes, WriteMode
from cache.version_listing import ListedVersion
from cache.versions import ENABLED, STATUS
from node.lifecycle import Lifecycle
from s3api.documents import write_document
from s3api.errors import S3Error
from s3api.lifecycle import check_document
from s3api.lifecycle_rules import DAY_S, DOCUMENT, after_days
from s3api.model import MODEL
from tests.support.s3 import bucket, client, code, door
from tests.support.volume import BUCKET, TestVolume
from tests.support.waiting import wait_until

__all__ = ["bucket", "client", "door"]

SECOND = 10**9


def rule(**given: Any) -> dict[str, Any]:
    """A rule with a prefix and an expiration, unless something else is given."""
    found = {"ID": "r", "Status": "Enabled", **given}
    if "Prefix" not in found and "Filter" not in found:
        found["Filter"] = {"Prefix": "p/"}
    if not any(name.endswith(("Expiration", "Upload", "Transitions")) for name in found):
        found["Expiration"] = {"Days": 1}
    return found


# Documents --------------------------------------------------------------------------------------


def test_the_document_comes_back_and_goes(client: Any, bucket: str) -> None:
    get = client.get_bucket_lifecycle_configuration
    assert code(get, Bucket=bucket) == "NoSuchLifecycleConfiguration"
    tags = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    rules = [
        rule(ID="1", Filter={"And": {"Prefix": "p", "Tags": tags, "ObjectSizeLessThan": 9}}),
        rule(ID="2", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 3}),
        rule(
            ID="3",
            Status="Disabled",
            NoncurrentVersionExpiration={"NoncurrentDays": 3, "NewerNoncurrentVersions": 2},
        ),
        rule(ID="4", Filter={}, Expiration={"ExpiredObjectDeleteMarker": True}),
    ]
    put = client.put_bucket_lifecycle_configuration
    put(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    assert get(Bucket=bucket)["Rules"] == rules
    dated = rule(Expiration={"Date": "2015-01-01"})
    del dated["ID"]
    put(Bucket=bucket, LifecycleConfiguration={"Rules": [dated]})
    (found,) = get(Bucket=bucket)["Rules"]
    assert found["ID"]
    assert found["Expiration"]["Date"].isoformat() == "2015-01-01T00:00:00+00:00"
    client.delete_bucket_lifecycle(Bucket=bucket)
    client.delete_bucket_lifecycle(Bucket=bucket)
    assert code(get, Bucket=bucket) == "NoSuchLifecycleConfiguration"


TAG = {"Key": "a", "Value": "1"}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("MalformedXML", {"Rules": []}),
    ("MalformedXML", {"Rules": [rule(Status="enabled")]}),
    ("MalformedXML", {"Rules": [rule(Prefix="p", Filter={"Prefix": "p"})]}),
    ("MalformedXML", {"Rules": [{"ID": "r", "Status": "Enabled", "Expiration": {"Days": 1}}]}),
    ("MalformedXML", {"Rules": [rule(Expiration={})]}),
    ("MalformedXML", {"Rules": [rule(Expiration={"Days": 1, "Date": "2030-01-01"})]}),
    ("MalformedXML", {"Rules": [rule(Filter={"And": {"Prefix": "p"}})]}),
    ("MalformedXML", {"Rules": [rule(NoncurrentVersionExpiration={})]}),
    ("MalformedXML", {"Rules": [rule(Expiration={"Date": "soon"})]}),
    ("InvalidArgument", {"Rules": [rule(ID="i" * 256)]}),
    ("InvalidArgument", {"Rules": [rule(), rule()]}),
    ("InvalidArgument", {"Rules": [rule(Expiration={"Days": 0})]}),
    ("InvalidArgument", {"Rules": [rule(Expiration={"Date": "2030-01-01T12:00:00Z"})]}),
    ("InvalidArgument", {"Rules": [rule(NoncurrentVersionExpiration={"NoncurrentDays": 0})]}),
    (
        "InvalidArgument",
        {"Rules": [rule(AbortIncompleteMultipartUpload={"DaysAfterInitiation": 0})]},
    ),
    ("InvalidRequest", {"Rules": [{"ID": "r", "Status": "Enabled", "Prefix": ""}]}),
    ("InvalidRequest", {"Rules": [rule(Prefix="p" * 1025)]}),
    ("InvalidRequest", {"Rules": [rule(Filter={"And": {"Tags": [TAG, TAG]}})]}),
    (
        "InvalidRequest",
        {"Rules": [rule(Filter={"And": {"ObjectSizeGreaterThan": 5, "ObjectSizeLessThan": 5}})]},
    ),
    (
        "InvalidRequest",
        {
            "Rules": [
                rule(Filter={"Tag": TAG}, AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1})
            ]
        },
    ),
    (
        "InvalidRequest",
        {"Rules": [rule(Filter={"Tag": TAG}, Expiration={"ExpiredObjectDeleteMarker": True})]},
    ),
    ("NotImplemented", {"Rules": [rule(Transitions=[{"Days": 1, "StorageClass": "GLACIER"}])]}),
]


@pytest.mark.parametrize(("code", "document"), REFUSED)
def test_documents_that_are_refused(code: str, document: dict[str, Any]) -> None:
    with pytest.raises(S3Error) as refusal:
        check_document(document)
    assert refusal.value.code == code


def test_a_refused_document_changes_nothing(client: Any, bucket: str) -> None:
    put = client.put_bucket_lifecycle_configuration
    put(Bucket=bucket, LifecycleConfiguration={"Rules": [rule()]})
    with pytest.raises(ClientError):
        put(Bucket=bucket, LifecycleConfiguration={"Rules": [rule(Status="on")]})
    assert client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == [rule()]


# What clients are told --------------------------------------------------------------------------


def test_days_end_at_midnight() -> None:
    day = DAY_S * SECOND
    assert after_days(0, 1, DAY_S) == day
    assert after_days(1, 1, DAY_S) == 2 * day
    assert after_days(5, 3, 10) == 30 * SECOND + 5


def test_answers_tell_when_an_object_goes(client: Any, bucket: str) -> None:
    tagged = rule(ID="soon er", Filter={"Tag": TAG}, Expiration={"Days": 1})
    late = rule(ID="late", Filter={"Prefix": "p/"}, Expiration={"Days": 10})
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": [late, tagged]}
    )

    def told(answer: dict[str, Any]) -> tuple[int, str] | None:
        header = answer.get("Expiration")
        if header is None:
            return None
        match = re.fullmatch(r'expiry-date="(.*)", rule-id="(.*)"', header)
        assert match is not None
        end = parsedate_to_datetime(match[1])
        assert (end.hour, end.minute, end.second) == (0, 0, 0)
        written = client.head_object(Bucket=bucket, Key="p/k")["LastModified"]
        return (end - written).days, match[2]

    assert told(client.put_object(Bucket=bucket, Key="p/k", Body=b"x")) == (10, "late")
    assert told(client.get_object(Bucket=bucket, Key="p/k")) == (10, "late")
    client.put_object_tagging(Bucket=bucket, Key="p/k", Tagging={"TagSet": [TAG]})
    assert told(client.head_object(Bucket=bucket, Key="p/k")) == (1, "soon%20er")
    copied = client.copy_object(Bucket=bucket, Key="p/c", CopySource=f"{bucket}/p/k")
    assert told(copied) == (1, "soon%20er")
    assert told(client.put_object(Bucket=bucket, Key="other", Body=b"x")) is None


# What the mover does ----------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestVolume]:
    volume = TestVolume(tmp_path, write_mode=WriteMode.WRITE_THROUGH)
    yield volume
    volume.close()


def set_rules(box: TestVolume, *rules: dict[str, Any]) -> None:
    document = {"Rules": json.loads(json.dumps(rules))}
    check_document(document)
    text = write_document(
        "LifecycleConfiguration", MODEL.shapes["BucketLifecycleConfiguration"], document
    )
    box.volume.buckets.change_settings(BUCKET, {DOCUMENT: text})


PAST = {"Date": "2015-01-01"}


def test_only_what_a_rule_is_about_goes(box: TestVolume) -> None:
    tagged = ObjectAttributes(tags={"a": "1", "b": "2"})
    box.put(b"p/tagged", b"x", attributes=tagged)
    box.put(b"p/plain", b"x")
    box.put(b"p/large", b"x" * 100, attributes=tagged)
    box.put(b"q/tagged", b"x", attributes=tagged)
    fitting = {"And": {"Prefix": "p/", "Tags": [TAG], "ObjectSizeLessThan": 50}}
    set_rules(
        box,
        rule(ID="past", Filter=fitting, Expiration=PAST),
        rule(ID="off", Status="Disabled", Filter={}, Expiration=PAST),
        rule(ID="later", Filter={}, Expiration={"Days": 1}),
        rule(ID="never yet", Filter={}, Expiration={"Date": "2999-01-01"}),
    )
    lifecycle = Lifecycle(box.volume, DAY_S)
    assert lifecycle.run_once() == 1
    assert box.listed() == [b"p/large", b"p/plain", b"q/tagged"]
    assert lifecycle.run_once() == 0
    assert not (box.store_dir / "p" / "tagged").exists()


def test_objects_go_when_their_days_are_over(box: TestVolume) -> None:
    for number in range(7):
        box.put(b"p/%d" % number, b"x")
    box.put(b"q", b"x")
    set_rules(box, rule(Expiration={"Days": 1}))
    lifecycle = Lifecycle(box.volume, 1)
    lifecycle.run_once()
    wait_until(lambda: bool(lifecycle.run_once()) or box.listed() == [b"q"])
    wait_until(lambda: lifecycle.run_once() == 0 and box.listed() == [b"q"])


def test_unfinished_uploads_are_aborted(box: TestVolume) -> None:
    uploads = box.volume.uploads
    for key in (b"p/a", b"q/a"):
        uploads.create(BUCKET, key, owner="ana", attributes=ObjectAttributes())
    set_rules(box, rule(AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}))
    assert Lifecycle(box.volume, DAY_S).run_once() == 0
    soon = Lifecycle(box.volume, 1)
    wait_until(lambda: soon.run_once() == 1)
    assert [upload.key for upload in uploads.list(BUCKET)] == [b"q/a"]


def test_many_pages_go_in_one_round(box: TestVolume) -> None:
    for number in range(1100):
        box.put(b"p/%d" % number, b"")
    set_rules(box, rule(Expiration=PAST))
    assert Lifecycle(box.volume, DAY_S).run_once() == 1100
    assert box.listed() == []


def versions_of(box: TestVolume) -> list[tuple[bytes, bool]]:
    """(key, is a delete marker), newest first."""
    page = box.volume.objects.list_versions(BUCKET)
    return [
        (entry.object.key, entry.object.is_marker)
        for entry in page.entries
        if isinstance(entry, ListedVersion)
    ]


@pytest.fixture
def versioned(box: TestVolume) -> TestVolume:
    box.volume.buckets.change_settings(BUCKET, {STATUS: ENABLED.encode()})
    return box


def test_noncurrent_versions_go_and_the_newer_of_them_stay(versioned: TestVolume) -> None:
    box = versioned
    for number in range(6):
        box.put(b"p/k", b"%d" % number)
        box.put(b"q/k", b"%d" % number)
    keep = {"NoncurrentDays": 1, "NewerNoncurrentVersions": 2}
    set_rules(box, rule(NoncurrentVersionExpiration=keep))
    assert Lifecycle(box.volume, DAY_S).run_once() == 0
    soon = Lifecycle(box.volume, 1)
    wait_until(lambda: soon.run_once() == 0 and versions_of(box).count((b"p/k", False)) == 3)
    assert versions_of(box).count((b"q/k", False)) == 6
    assert box.get(b"p/k") == b"5"


def test_an_object_that_expires_in_a_versioned_bucket_leaves_a_marker(
    versioned: TestVolume,
) -> None:
    box = versioned
    box.put(b"p/k", b"1")
    set_rules(box, rule(Expiration=PAST))
    assert Lifecycle(box.volume, DAY_S).run_once() == 1
    assert versions_of(box) == [(b"p/k", True), (b"p/k", False)]
    assert Lifecycle(box.volume, DAY_S).run_once() == 0


def test_what_cannot_have_versions_is_in_nobodys_way(box: TestVolume) -> None:
    """Bytes under a key that ends in `/`, from before the bucket was versioned."""
    box.put(b"p/d/", b"1")
    box.put(b"p/k", b"1")
    box.volume.buckets.change_settings(BUCKET, {STATUS: ENABLED.encode()})
    set_rules(box, rule(Expiration=PAST))
    assert Lifecycle(box.volume, DAY_S).run_once() == 1
    assert box.listed() == [b"p/d/"]


def test_a_marker_goes_when_it_is_all_there_is_of_its_key(versioned: TestVolume) -> None:
    box = versioned
    for key in (b"p/gone", b"p/left"):
        box.put(key, b"1")
        box.delete(key)
    markers = {"ExpiredObjectDeleteMarker": True}
    set_rules(box, rule(Expiration=markers))
    lifecycle = Lifecycle(box.volume, DAY_S)
    assert lifecycle.run_once() == 0
    page = box.volume.objects.list_versions(BUCKET, prefix=b"p/gone")
    (_, version) = page.entries
    assert isinstance(version, ListedVersion)
    box.volume.objects.delete(BUCKET, b"p/gone", version_id=version.object.version_id)
    assert lifecycle.run_once() == 1
    assert versions_of(box) == [(b"p/left", True), (b"p/left", False)]


def test_what_object_lock_protects_stays(versioned: TestVolume) -> None:
    box = versioned
    locked = ObjectAttributes(own={"lock": "- 0 ON"})
    box.put(b"p/k", b"1", attributes=locked)
    box.put(b"p/k", b"2")
    set_rules(box, rule(NoncurrentVersionExpiration={"NoncurrentDays": 1}))
    soon = Lifecycle(box.volume, 1)
    end_s = time.monotonic() + 1.5
    wait_until(lambda: soon.run_once() == 0 and time.monotonic() > end_s)
    assert versions_of(box) == [(b"p/k", False), (b"p/k", False)]
