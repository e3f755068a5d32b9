"""A bucket's default encryption: the document, and what it says about new objects.

Without one a bucket's objects are encrypted only where a request asks for it, and the answer to
GetBucketEncryption is that there is none. (On Amazon SSE-S3 is the default that cannot be left.)

default_of() is pure and callable from any thread; the operations are on the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aiohttp import web

from cache.records import Bucket
from s3api.documents import read_document as read_xml
from s3api.documents import write_document
from s3api.errors import S3Error, not_implemented
from s3api.model import MODEL
from s3api.operations import Call, offers
from s3api.transfer import read_document

_NAME = "encryption"  # of the document in Bucket.settings
_CONFIGURATION = "ServerSideEncryptionConfiguration"
_SHAPE = MODEL.shapes[_CONFIGURATION]


@dataclass(frozen=True, slots=True)
class Default:
    """What a bucket's document says of an object whose request says nothing."""

    algorithm: str  # AES256, aws:kms, or "": none
    key_id: str
    bucket_key: bool
    blocks_customer_keys: bool


def default_of(bucket: Bucket) -> Default | None:
    """The bucket's default encryption; None if it was never set."""
    document = bucket.settings.get(_NAME)
    return None if document is None else _read(document)


@lru_cache(256)
def _read(document: bytes) -> Default:
    rule = _rule(document)
    applied = rule.get("ApplyServerSideEncryptionByDefault", {})
    return Default(
        applied.get("SSEAlgorithm", ""),
        applied.get("KMSMasterKeyID", ""),
        rule.get("BucketKeyEnabled", False),
        "SSE-C" in rule.get("BlockedEncryptionTypes", {}).get("EncryptionType", []),
    )


def _rule(document: bytes) -> dict[str, Any]:
    operation = MODEL.operations["PutBucketEncryption"]
    assert operation.input is not None
    rule: dict[str, Any] = read_xml(document, operation.input.members[_CONFIGURATION])["Rules"][0]
    return rule


@offers("PutBucketEncryption", f"ContentMD5 {_CONFIGURATION}")
async def put_bucket_encryption(call: Call) -> web.StreamResponse:
    """That a KMS key exists is seen when it is used, as on Amazon."""
    call.volume.buckets.get(call.bucket)
    configuration: dict[str, Any] = (await read_document(call))[_CONFIGURATION]
    _check(configuration)
    document = write_document(_CONFIGURATION, _SHAPE, configuration)
    await call.threads.metadata(call.volume.buckets.change_settings, call.bucket, {_NAME: document})
    return call.document({})


def _check(configuration: dict[str, Any]) -> None:
    """MalformedXML, InvalidArgument, NotImplemented."""
    rules = configuration.get("Rules", [])
    if len(rules) != 1:
        raise S3Error("MalformedXML")
    applied = rules[0].get("ApplyServerSideEncryptionByDefault")
    if applied is not None:
        algorithm = applied["SSEAlgorithm"]
        if algorithm == "aws:kms:dsse":
            raise not_implemented(f"SSEAlgorithm {algorithm}")
        if algorithm not in ("AES256", "aws:kms"):
            raise S3Error("MalformedXML")
        if algorithm == "AES256" and "KMSMasterKeyID" in applied:
            raise S3Error(
                "InvalidArgument",
                "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or"
                " aws:kms:dsse",
                ArgumentName="ApplyServerSideEncryptionByDefault",
            )
    blocked = rules[0].get("BlockedEncryptionTypes", {}).get("EncryptionType", [])
    if not set(blocked) <= {"NONE", "SSE-C"}:
        raise S3Error("MalformedXML")


@offers("GetBucketEncryption")
async def get_bucket_encryption(call: Call) -> web.StreamResponse:
    document = call.volume.buckets.get(call.bucket).settings.get(_NAME)
    if document is None:
        raise S3Error("ServerSideEncryptionConfigurationNotFoundError", BucketName=call.bucket)
    rule = {"BucketKeyEnabled": False, **_rule(document)}
    return call.document({_CONFIGURATION: {"Rules": [rule]}})


@offers("DeleteBucketEncryption")
async def delete_bucket_encryption(call: Call) -> web.StreamResponse:
    """Objects that are there stay as they are."""
    await call.threads.metadata(call.volume.buckets.change_settings, call.bucket, {_NAME: None})
    return call.document({})
