"""What a bucket is asked about that no bucket here has: answered as by a store without it.

The requester never pays, nobody is notified, nothing is accelerated, replicated, inventoried or
analysed. To ask is no error; to put something that would have to be done is NotImplemented, and
only what changes nothing is taken.
"""

from __future__ import annotations

from aiohttp import web

from s3api.errors import S3Error, not_implemented
from s3api.operations import Call, offers
from s3api.receiving import read_document


@offers("GetBucketRequestPayment")
async def get_bucket_request_payment(call: Call) -> web.StreamResponse:
    return call.document({"Payer": "BucketOwner"})


@offers("PutBucketRequestPayment", "ContentMD5 RequestPaymentConfiguration")
async def put_bucket_request_payment(call: Call) -> web.StreamResponse:
    payer = (await read_document(call))["RequestPaymentConfiguration"]["Payer"]
    if payer == "Requester":
        raise not_implemented("Payer: Requester")
    if payer != "BucketOwner":
        raise S3Error("MalformedXML")
    return call.document({})


@offers("PutBucketNotificationConfiguration", "NotificationConfiguration")
async def put_bucket_notification_configuration(call: Call) -> web.StreamResponse:
    if (await read_document(call)).get("NotificationConfiguration"):
        raise not_implemented("A notification")
    return call.document({})


@offers("GetBucketAccelerateConfiguration")
@offers("GetBucketNotificationConfiguration")
async def get_bucket_empty_configuration(call: Call) -> web.StreamResponse:
    return call.document({})


@offers("GetBucketReplication")
async def get_bucket_replication(call: Call) -> web.StreamResponse:
    raise S3Error("ReplicationConfigurationNotFoundError", BucketName=call.bucket)


@offers("GetBucketMetricsConfiguration", "Id")
@offers("GetBucketAnalyticsConfiguration", "Id")
@offers("GetBucketInventoryConfiguration", "Id")
@offers("GetBucketIntelligentTieringConfiguration", "Id")
async def get_bucket_named_configuration(call: Call) -> web.StreamResponse:
    raise S3Error("NoSuchConfiguration", BucketName=call.bucket)


@offers("ListBucketMetricsConfigurations", "ContinuationToken")
@offers("ListBucketAnalyticsConfigurations", "ContinuationToken")
@offers("ListBucketInventoryConfigurations", "ContinuationToken")
@offers("ListBucketIntelligentTieringConfigurations", "ContinuationToken")
async def list_bucket_named_configurations(call: Call) -> web.StreamResponse:
    return call.document({"IsTruncated": False})
