"""Object lock over S3, with boto3 against a running gateway."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.s3 import Door, door, refused

__all__ = ["door"]

LATER = datetime(2140, 1, 1, tzinfo=UTC)
LATER_STILL = datetime(2140, 1, 2, tzinfo=UTC)


@pytest.fixture
def s3(door: Door) -> Any:
    return door.client()


_number = iter(range(1000))


@pytest.fixture
def bucket(s3: Any) -> str:
    """A bucket of the test's own, with object lock."""
    name = f"locked-{next(_number)}"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
def plain(s3: Any) -> str:
    name = f"plain-{next(_number)}"
    s3.create_bucket(Bucket=name)
    return name


def put_retained(s3: Any, bucket: str, mode: str, until: datetime) -> str:
    """Put the key `k`; the version's id."""
    lock = {"ObjectLockMode": mode, "ObjectLockRetainUntilDate": until}
    version_id: str = s3.put_object(Bucket=bucket, Key="k", Body=b"1", **lock)["VersionId"]
    return version_id


def rule(mode: str = "GOVERNANCE", **period: int) -> dict[str, Any]:
    retention = {"Mode": mode, **(period or {"Days": 1})}
    return {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}


def test_a_bucket_with_object_lock_is_versioned_for_good(s3: Any, bucket: str) -> None:
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    found = s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"]
    assert found == {"ObjectLockEnabled": "Enabled"}
    refused(
        "InvalidBucketState",
        409,
        s3.put_bucket_versioning,
        Bucket=bucket,
        VersioningConfiguration={"Status": "Suspended"},
    )


def test_object_lock_comes_to_a_versioned_bucket_only(s3: Any, plain: str) -> None:
    put = s3.put_object_lock_configuration
    refused(
        "ObjectLockConfigurationNotFoundError",
        404,
        s3.get_object_lock_configuration,
        Bucket=plain,
    )
    refused("InvalidBucketState", 409, put, Bucket=plain, ObjectLockConfiguration=rule())
    s3.put_bucket_versioning(Bucket=plain, VersioningConfiguration={"Status": "Enabled"})
    for configuration in (rule(Days=3), rule("COMPLIANCE", Years=1)):
        put(Bucket=plain, ObjectLockConfiguration=configuration)
        found = s3.get_object_lock_configuration(Bucket=plain)["ObjectLockConfiguration"]
        assert found == configuration


@pytest.mark.parametrize(
    ("configuration", "code"),
    [
        (rule(Days=1, Years=1), "MalformedXML"),
        (rule("governance"), "MalformedXML"),
        ({"ObjectLockEnabled": "Disabled"}, "MalformedXML"),
        ({"ObjectLockEnabled": "Enabled", "Rule": {}}, "MalformedXML"),
        (rule(Days=0), "InvalidArgument"),
        (rule(Years=-1), "InvalidArgument"),
        (rule(Days=36_501), "InvalidArgument"),
    ],
)
def test_what_is_no_configuration(
    s3: Any, bucket: str, configuration: dict[str, Any], code: str
) -> None:
    put = s3.put_object_lock_configuration
    refused(code, 400, put, Bucket=bucket, ObjectLockConfiguration=configuration)


def test_a_retained_version_stays(s3: Any, bucket: str) -> None:
    kept = put_retained(s3, bucket, "GOVERNANCE", LATER)
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["ObjectLockMode"], head["ObjectLockRetainUntilDate"]) == ("GOVERNANCE", LATER)
    named = {"Bucket": bucket, "Key": "k", "VersionId": kept}
    refused("AccessDenied", 403, s3.delete_object, **named)
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k", "VersionId": kept}]})
    assert [row["Code"] for row in answer["Errors"]] == ["AccessDenied"]
    assert s3.delete_object(Bucket=bucket, Key="k")["DeleteMarker"] is True
    s3.delete_object(**named, BypassGovernanceRetention=True)
    refused("NoSuchVersion", 404, s3.get_object, **named)


def test_compliance_is_not_bypassed(s3: Any, bucket: str) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    kept = put_retained(s3, bucket, "COMPLIANCE", soon)
    named = {"Bucket": bucket, "Key": "k", "VersionId": kept, "BypassGovernanceRetention": True}
    refused("AccessDenied", 403, s3.delete_object, **named)
    for retention in (
        {"Mode": "GOVERNANCE", "RetainUntilDate": LATER},
        {"Mode": "COMPLIANCE", "RetainUntilDate": soon - timedelta(minutes=30)},
    ):
        refused("AccessDenied", 403, s3.put_object_retention, **named, Retention=retention)
    longer = {"Mode": "COMPLIANCE", "RetainUntilDate": LATER}
    s3.put_object_retention(Bucket=bucket, Key="k", Retention=longer)
    assert s3.get_object_retention(Bucket=bucket, Key="k")["Retention"] == longer


def test_governance_is_shortened_by_who_bypasses_it(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    refused("NoSuchObjectLockConfiguration", 404, s3.get_object_retention, Bucket=bucket, Key="k")
    put = s3.put_object_retention
    longer = {"Mode": "GOVERNANCE", "RetainUntilDate": LATER_STILL}
    shorter = {"Mode": "GOVERNANCE", "RetainUntilDate": LATER}
    put(Bucket=bucket, Key="k", Retention=longer)
    refused("AccessDenied", 403, put, Bucket=bucket, Key="k", Retention=shorter)
    put(Bucket=bucket, Key="k", Retention=shorter, BypassGovernanceRetention=True)
    put(Bucket=bucket, Key="k", Retention=longer)
    refused("AccessDenied", 403, put, Bucket=bucket, Key="k", Retention={})
    put(Bucket=bucket, Key="k", Retention={}, BypassGovernanceRetention=True)
    refused("NoSuchObjectLockConfiguration", 404, s3.get_object_retention, Bucket=bucket, Key="k")


def test_a_retention_is_well_formed_and_in_the_future(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    for retention, code in (
        ({"Mode": "abc", "RetainUntilDate": LATER}, "MalformedXML"),
        ({"Mode": "GOVERNANCE"}, "MalformedXML"),
        ({"RetainUntilDate": LATER}, "MalformedXML"),
        (
            {"Mode": "GOVERNANCE", "RetainUntilDate": datetime(2020, 1, 1, tzinfo=UTC)},
            "InvalidArgument",
        ),
    ):
        put = s3.put_object_retention
        refused(code, 400, put, Bucket=bucket, Key="k", Retention=retention)


def test_a_legal_hold(s3: Any, bucket: str) -> None:
    kept = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    get = s3.get_object_legal_hold
    refused("NoSuchObjectLockConfiguration", 404, get, Bucket=bucket, Key="k")
    s3.put_object_legal_hold(Bucket=bucket, Key="k", LegalHold={"Status": "ON"})
    assert s3.head_object(Bucket=bucket, Key="k")["ObjectLockLegalHoldStatus"] == "ON"
    named = {"Bucket": bucket, "Key": "k", "VersionId": kept}
    refused("AccessDenied", 403, s3.delete_object, **named, BypassGovernanceRetention=True)
    s3.put_object_legal_hold(**named, LegalHold={"Status": "OFF"})
    assert get(**named)["LegalHold"]["Status"] == "OFF"
    refused("MalformedXML", 400, s3.put_object_legal_hold, **named, LegalHold={"Status": "abc"})
    s3.delete_object(**named)


def test_new_versions_get_the_default(s3: Any, bucket: str) -> None:
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=rule(Days=3))
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    named = {"Bucket": bucket, "Key": "parts", "UploadId": upload}
    part = s3.upload_part(**named, PartNumber=1, Body=b"1")
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    for key in ("k", "copy", "parts"):
        retention = s3.get_object_retention(Bucket=bucket, Key=key)["Retention"]
        assert retention["Mode"] == "GOVERNANCE"
        left = retention["RetainUntilDate"] - datetime.now(UTC)
        assert timedelta(days=2) < left <= timedelta(days=3, seconds=2)


def test_a_copy_has_not_its_sources_lock(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"1", ObjectLockLegalHoldStatus="ON")
    made = s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")["VersionId"]
    s3.delete_object(Bucket=bucket, Key="copy", VersionId=made)


def test_a_bucket_without_object_lock_takes_no_lock(s3: Any, plain: str) -> None:
    s3.put_object(Bucket=plain, Key="k", Body=b"1")
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": LATER}
    named = {"Bucket": plain, "Key": "k"}
    refused("InvalidRequest", 400, s3.put_object_retention, **named, Retention=retention)
    refused("InvalidRequest", 400, s3.get_object_retention, **named)
    refused("InvalidRequest", 400, s3.put_object_legal_hold, **named, LegalHold={"Status": "ON"})
    refused("InvalidRequest", 400, s3.get_object_legal_hold, **named)
    refused("InvalidRequest", 400, s3.put_object, **named, ObjectLockLegalHoldStatus="ON")


def test_headers_of_a_lock_come_in_pairs(s3: Any, bucket: str) -> None:
    put = s3.put_object
    refused("InvalidArgument", 400, put, Bucket=bucket, Key="k", ObjectLockMode="GOVERNANCE")
    refused("InvalidArgument", 400, put, Bucket=bucket, Key="k", ObjectLockRetainUntilDate=LATER)
    refused(
        "InvalidArgument",
        400,
        put,
        Bucket=bucket,
        Key="k",
        ObjectLockMode="abc",
        ObjectLockRetainUntilDate=LATER,
    )
    refused("InvalidArgument", 400, put, Bucket=bucket, Key="k", ObjectLockLegalHoldStatus="abc")


def test_a_bypass_needs_the_permission(door: Door, s3: Any, bucket: str) -> None:
    """Who may delete versions may not therefore bypass: a deny of that one action counts."""
    kept = put_retained(s3, bucket, "GOVERNANCE", LATER)
    s3.put_bucket_policy(
        Bucket=bucket,
        Policy='{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*",'
        ' "Action": "s3:BypassGovernanceRetention",'
        f' "Resource": "arn:aws:s3:::{bucket}/*"}}]}}',
    )
    named = {"Bucket": bucket, "Key": "k", "VersionId": kept, "BypassGovernanceRetention": True}
    refused("AccessDenied", 403, s3.delete_object, **named)
    s3.delete_bucket_policy(Bucket=bucket)
    s3.delete_object(**named)
