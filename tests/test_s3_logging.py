"""Server access logging: the document, the records, and their delivery."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cache.records import WriteMode
from s3api import metrics
from s3api.access_records import AccessRecord, operation_name
from s3api.log_delivery import Log
from tests.support import s3
from tests.support.s3 import Door, client, code, serving
from tests.support.waiting import wait_until

__all__ = ["client"]

numbers = count(1)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    directory = tmp_path_factory.mktemp("door")
    with serving(directory, access_log="off", bucket_log_interval_s=0.1) as running:
        yield running


def make_bucket(door: Door, owner: str = s3.USER) -> str:
    return door.volume.buckets.create(f"bucket-{next(numbers)}", owner).name


@pytest.fixture
def bucket(door: Door) -> str:
    return make_bucket(door)


@pytest.fixture
def target(door: Door, client: Any) -> str:
    return open_target(door, client)


def open_target(door: Door, client: Any) -> str:
    """A bucket into which logs may be delivered, by its ACL."""
    name = make_bucket(door)
    client.put_bucket_acl(Bucket=name, ACL="log-delivery-write")
    return name


def enable(client: Any, bucket: str, target: str, **more: Any) -> None:
    enabled = {"TargetBucket": target, "TargetPrefix": "log/", **more}
    client.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={"LoggingEnabled": enabled})


def delivered(client: Any, target: str) -> list[list[str]]:
    """The fields of all lines; the key formats are checked by the way."""
    lines = []
    for entry in client.list_objects_v2(Bucket=target).get("Contents", []):
        assert re.fullmatch(r"log/(.*/)?\d{4}(-\d\d){5}-[0-9A-F]{16}", entry["Key"]), entry["Key"]
        body = client.get_object(Bucket=target, Key=entry["Key"])["Body"].read().decode()
        lines += [re.findall(r'\[[^]]*\]|"[^"]*"|\S+', line) for line in body.splitlines()]
    return lines


def test_the_document_comes_back_and_goes(client: Any, bucket: str, target: str) -> None:
    assert "LoggingEnabled" not in client.get_bucket_logging(Bucket=bucket)
    enable(client, bucket, target)
    simple: dict[str, Any] = {"TargetBucket": target, "TargetPrefix": "log/"}
    simple["TargetObjectKeyFormat"] = {"SimplePrefix": {}}
    assert client.get_bucket_logging(Bucket=bucket)["LoggingEnabled"] == simple
    partitioned = {"PartitionedPrefix": {"PartitionDateSource": "DeliveryTime"}}
    enable(client, bucket, target, TargetObjectKeyFormat=partitioned)
    found = client.get_bucket_logging(Bucket=bucket)["LoggingEnabled"]
    assert found["TargetObjectKeyFormat"] == partitioned
    client.put_bucket_logging(Bucket=bucket, BucketLoggingStatus={})
    assert "LoggingEnabled" not in client.get_bucket_logging(Bucket=bucket)


def test_targets_are_checked(door: Door, client: Any, bucket: str, target: str) -> None:
    others = make_bucket(door, "somebody else")
    assert code(enable, client, bucket, "none-such") == "InvalidTargetBucketForLogging"
    assert code(enable, client, bucket, others) == "InvalidTargetBucketForLogging"
    assert code(enable, client, "none-such", target) == "NoSuchBucket"
    wrong = {"PartitionedPrefix": {"PartitionDateSource": "Someday"}}
    assert code(enable, client, bucket, target, TargetObjectKeyFormat=wrong) == "MalformedXML"
    nobody = {"Grantee": {"Type": "CanonicalUser", "ID": "x"}, "Permission": "READ"}
    assert code(enable, client, bucket, target, TargetGrants=[nobody]) == "InvalidArgument"
    group = {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AllUsers"}
    for_acls = [{"Grantee": group, "Permission": "READ_ACP"}]
    assert code(enable, client, bucket, target, TargetGrants=for_acls) == "MalformedXML"
    assert "LoggingEnabled" not in client.get_bucket_logging(Bucket=bucket)


def test_logs_are_granted_to_others(door: Door, client: Any, bucket: str, target: str) -> None:
    group = {"Type": "Group", "URI": "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"}
    grants = [{"Grantee": group, "Permission": "READ"}]
    enable(client, bucket, target, TargetGrants=grants)
    found = client.get_bucket_logging(Bucket=bucket)["LoggingEnabled"]
    assert found["TargetGrants"] == grants
    client.list_objects_v2(Bucket=bucket)
    wait_until(lambda: bool(delivered(client, target)))
    key = client.list_objects_v2(Bucket=target)["Contents"][0]["Key"]
    shown = client.get_object_acl(Bucket=target, Key=key)["Grants"]
    assert [each["Permission"] for each in shown] == ["FULL_CONTROL", "READ"]
    assert shown[1]["Grantee"]["URI"] == group["URI"]
    enforced = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    client.put_bucket_policy(Bucket=target, Policy=allow(bucket, target))
    client.put_bucket_acl(Bucket=target, ACL="private")
    client.put_bucket_ownership_controls(Bucket=target, OwnershipControls=enforced)
    refusal = code(enable, client, bucket, target, TargetGrants=grants)
    assert refusal == "AccessControlListNotSupported"


def allow(bucket: str, target: str, effect: str = "Allow") -> str:
    statement = {
        "Effect": effect,
        "Principal": {"Service": "logging.s3.amazonaws.com"},
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{target}/log/*",
        "Condition": {"ArnLike": {"aws:SourceArn": f"arn:aws:s3:::{bucket}"}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_a_target_must_let_logs_in(door: Door, client: Any, bucket: str) -> None:
    target = make_bucket(door)
    assert code(enable, client, bucket, target) == "InvalidTargetBucketForLogging"
    client.put_bucket_policy(Bucket=target, Policy=allow("another-bucket", target))
    assert code(enable, client, bucket, target) == "InvalidTargetBucketForLogging"
    client.put_bucket_policy(Bucket=target, Policy=allow(bucket, target))
    enable(client, bucket, target)
    client.list_objects_v2(Bucket=bucket)
    wait_until(lambda: len(delivered(client, target)) == 2)
    client.put_bucket_acl(Bucket=target, ACL="log-delivery-write")
    client.put_bucket_policy(Bucket=target, Policy=allow(bucket, target, "Deny"))
    assert code(enable, client, bucket, target) == "InvalidTargetBucketForLogging"
    before = len(delivered(client, target))
    lost = metrics.LOST_LOG_RECORDS._value.get()
    client.list_objects_v2(Bucket=bucket)
    wait_until(lambda: metrics.LOST_LOG_RECORDS._value.get() > lost)
    assert len(delivered(client, target)) == before


def test_requests_are_delivered_as_lines(door: Door, client: Any, bucket: str, target: str) -> None:
    enable(client, bucket, target)
    client.put_object(Bucket=bucket, Key="a b", Body=b"hello")
    client.get_object(Bucket=bucket, Key="a b", Range="bytes=1-2")["Body"].read()
    assert code(client.head_object, Bucket=bucket, Key="none") == "404"
    client.list_objects_v2(Bucket=bucket)
    evil = {"User-Agent": 'evil" - - \tagent', "Referer": "http://x/?\x22"}
    door.request("GET", f"/{bucket}/a%20b?X-Amz-Signature=stolen", evil, sign=False)
    wait_until(lambda: len(delivered(client, target)) >= 6)
    lines = delivered(client, target)
    assert {len(fields) for fields in lines} == {26}
    by_operation = {fields[6]: fields for fields in lines}
    assert by_operation.keys() == {
        "REST.PUT.LOGGING_STATUS", "REST.PUT.OBJECT", "REST.GET.OBJECT", "REST.HEAD.OBJECT",
        "REST.GET.BUCKET",
    }  # fmt: skip
    owner = client.list_buckets()["Owner"]["ID"]
    put = by_operation["REST.PUT.OBJECT"]
    assert put[:2] == [owner, bucket]
    assert put[4] == owner
    assert put[7:11] == ["a%20b", f'"PUT /{bucket}/a%20b HTTP/1.1"', "200", "-"]
    assert put[12] == "5"
    assert (put[19], put[21], put[22]) == ("SigV4", "AuthHeader", door.host)
    got = next(fields for fields in lines if fields[9] == "206")
    assert got[11:13] == ["2", "5"]
    assert by_operation["REST.HEAD.OBJECT"][9:11] == ["404", "NoSuchKey"]
    (refused,) = [fields for fields in lines if fields[9] in ("400", "403")]
    assert "stolen" not in " ".join(refused)
    assert refused[4] == "-"
    assert not any(fields[1] == target for fields in lines)


def test_partitioned_keys(door: Door, client: Any, bucket: str, target: str) -> None:
    days = [f"{datetime.now(UTC):%Y/%m/%d}"]
    enable(client, bucket, target, TargetObjectKeyFormat={"PartitionedPrefix": {}})
    client.list_objects_v2(Bucket=bucket)
    wait_until(lambda: bool(delivered(client, target)))
    days.append(f"{datetime.now(UTC):%Y/%m/%d}")  # midnight may have passed
    owner = client.list_buckets()["Owner"]["ID"]
    key = client.list_objects_v2(Bucket=target)["Contents"][0]["Key"]
    assert key.startswith(
        tuple(
            f"log/{owner}/us-east-1/{bucket}/{day}/{day.replace('/', '-')}-00-00-00-"
            for day in days
        )
    )


def test_a_target_that_is_gone_loses_lines_and_nothing_else(
    door: Door, client: Any, bucket: str, target: str
) -> None:
    enable(client, bucket, target)
    client.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": []})
    wait_until(lambda: len(delivered(client, target)) == 2, "nothing else is on its way there")
    for entry in client.list_objects_v2(Bucket=target)["Contents"]:
        client.delete_object(Bucket=target, Key=entry["Key"])
    client.delete_bucket(Bucket=target)
    client.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_what_was_noted_is_delivered_when_the_gateway_stops(tmp_path: Path) -> None:
    mode = WriteMode.WRITE_THROUGH
    with serving(tmp_path, write_mode=mode, access_log="off", bucket_log_interval_s=3600) as door:
        client = door.client()
        bucket, target = make_bucket(door), open_target(door, client)
        enable(client, bucket, target)
        client.put_object(Bucket=bucket, Key="k", Body=b"x")
        store = door.store
    (path,) = (store / target / "log").iterdir()
    assert path.read_text().count("\n") == 2


def test_keys_say_when() -> None:
    now = datetime(2026, 11, 21, 4, 5, 6, tzinfo=UTC)
    simple = Log("source", "target", "p-", "", "")
    assert re.fullmatch(r"p-2026-11-21-04-05-06-[0-9A-F]{16}", simple.key(now))
    assert simple.key(now) != simple.key(now)
    by_delivery = Log("source", "target", "p/", "id/region/source/", "")
    expected = "p/id/region/source/2026/11/21/2026-11-21-04-05-06-"
    assert by_delivery.key(now).startswith(expected)


@pytest.mark.parametrize(
    ("method", "operation", "level", "name"),
    [
        ("GET", "GetObject", "key", "REST.GET.OBJECT"),
        ("PUT", "CopyObject", "key", "REST.COPY.OBJECT"),
        ("PUT", "UploadPart", "key", "REST.PUT.PART"),
        ("POST", "CreateMultipartUpload", "key", "REST.POST.UPLOADS"),
        ("GET", "ListObjectsV2", "bucket", "REST.GET.BUCKET"),
        ("GET", "GetBucketCors", "bucket", "REST.GET.CORS"),
        ("PUT", "PutBucketLifecycleConfiguration", "bucket", "REST.PUT.LIFECYCLE"),
        ("POST", "DeleteObjects", "bucket", "REST.POST.MULTI_OBJECT_DELETE"),
        ("OPTIONS", "Preflight", "key", "REST.OPTIONS.PREFLIGHT"),
        ("GET", "Website", "key", "WEBSITE.GET.OBJECT"),
    ],
)
def test_operations_have_amazons_names(method: str, operation: str, level: str, name: str) -> None:
    assert operation_name(method, operation, level) == name


def test_a_record_has_the_fields_of_amazons_format() -> None:
    record = AccessRecord(
        bucket_owner="owner", bucket="b", time_ns=1_700_000_000 * 10**9, remote="192.0.2.3",
        requester="", request_id="3E57", operation="REST.GET.OBJECT", key="k/ü\n".encode(),
        method="GET", raw_path="/b/k", raw_query="X-Amz-Signature=abc&x=1", status=404,
        error_code="NoSuchKey", sent_bytes=None, object_size=None, total_ms=7, referer='a"b\n',
        user_agent="", version_id="", host_id="h", signature="", cipher="", authentication="",
        host="s3.test", tls="TLSv1.3",
    )  # fmt: skip
    assert record.line() == (
        "owner b [14/Nov/2023:22:13:20 +0000] 192.0.2.3 - 3E57 REST.GET.OBJECT"
        ' k/%C3%BC%0A "GET /b/k?X-Amz-Signature=-&x=1 HTTP/1.1" 404 NoSuchKey'
        ' - - 7 - "a%22b%0A" "-"'
        " - h - - - s3.test TLSv1.3 - -"
    )


def test_a_log_is_encrypted_as_its_target_asks(client: Any, bucket: str, target: str) -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    client.put_bucket_encryption(Bucket=target, ServerSideEncryptionConfiguration={"Rules": [rule]})
    enable(client, bucket, target)
    client.put_object(Bucket=bucket, Key="key", Body=b"hello")
    wait_until(lambda: len(delivered(client, target)) >= 1)
    [entry, *_] = client.list_objects_v2(Bucket=target)["Contents"]
    head = client.head_object(Bucket=target, Key=entry["Key"])
    assert head["ServerSideEncryption"] == "AES256"
