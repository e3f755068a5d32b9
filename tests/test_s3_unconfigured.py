"""What no bucket here has is answered as by a store without it, and never taken silently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import s3
from tests.support.s3 import Door, client, code, serving

__all__ = ["client"]

BUCKET = "bucket"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serving(tmp_path_factory.mktemp("door"), access_log="off") as running:
        running.volume.buckets.create(BUCKET, s3.USER)
        yield running


def members(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("get_bucket_request_payment", {"Payer": "BucketOwner"}),
        ("get_bucket_notification_configuration", {}),
        ("get_bucket_accelerate_configuration", {}),
        ("list_bucket_metrics_configurations", {"IsTruncated": False}),
        ("list_bucket_analytics_configurations", {"IsTruncated": False}),
        ("list_bucket_inventory_configurations", {"IsTruncated": False}),
        ("list_bucket_intelligent_tiering_configurations", {"IsTruncated": False}),
    ],
)
def test_to_ask_is_no_error(client: Any, operation: str, answer: dict[str, Any]) -> None:
    assert members(getattr(client, operation)(Bucket=BUCKET)) == answer
    assert code(getattr(client, operation), Bucket="none-such") == "NoSuchBucket"


@pytest.mark.parametrize(
    ("operation", "asked", "refusal"),
    [
        ("get_bucket_replication", {}, "ReplicationConfigurationNotFoundError"),
        ("get_bucket_metrics_configuration", {"Id": "x"}, "NoSuchConfiguration"),
        ("get_bucket_analytics_configuration", {"Id": "x"}, "NoSuchConfiguration"),
        ("get_bucket_inventory_configuration", {"Id": "x"}, "NoSuchConfiguration"),
        ("get_bucket_intelligent_tiering_configuration", {"Id": "x"}, "NoSuchConfiguration"),
    ],
)
def test_what_is_not_there_is_not_found(
    client: Any, operation: str, asked: dict[str, str], refusal: str
) -> None:
    assert code(getattr(client, operation), Bucket=BUCKET, **asked) == refusal
    assert code(getattr(client, operation), Bucket="none-such", **asked) == "NoSuchBucket"


def test_only_what_changes_nothing_can_be_put(client: Any) -> None:
    pay = client.put_bucket_request_payment
    pay(Bucket=BUCKET, RequestPaymentConfiguration={"Payer": "BucketOwner"})
    requester = {"Bucket": BUCKET, "RequestPaymentConfiguration": {"Payer": "Requester"}}
    assert code(pay, **requester) == "NotImplemented"
    notify = client.put_bucket_notification_configuration
    notify(Bucket=BUCKET, NotificationConfiguration={})
    topic = {"TopicArn": "arn:aws:sns:us-east-1:1:t", "Events": ["s3:ObjectCreated:*"]}
    some = {"TopicConfigurations": [topic]}
    assert code(notify, Bucket=BUCKET, NotificationConfiguration=some) == "NotImplemented"
    accelerate = {"Bucket": BUCKET, "AccelerateConfiguration": {"Status": "Enabled"}}
    assert code(client.put_bucket_accelerate_configuration, **accelerate) == "NotImplemented"
