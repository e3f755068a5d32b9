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
from s3api.errors import S3Error, not_implemented
from s3api.operations import Call, offers
from s3api.parsing import read_kept
from s3api.subresources import delete_document, put_document

_NAME = "encryption"  # of the document in Bucket.settings
_CONFIGURATION = "ServerSideEncryptionConfiguration"


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
    rule = _rule_of(document)
    applied = rule.get("ApplyServerSideEncryptionByDefault", {})
    return Default(
        applied.get("SSEAlgorithm", ""),
        applied.get("KMSMasterKeyID", ""),
        rule.get("BucketKeyEnabled", False),
        "SSE-C" in rule.get("BlockedEncryptionTypes", {}).get("EncryptionType", []),
    )


def _rule_of(document: bytes) -> dict[str, Any]:
    rule: dict[str, Any] = read_kept(document, "PutBucketEncryption")["Rules"][0]
    return rule


@offers("PutBucketEncryption", f"ContentMD5 {_CONFIGURATION}")
async def put_bucket_encryption(call: Call) -> web.StreamResponse:
    """That a KMS key exists is seen when it is used, as on Amazon."""
    return await put_document(call, _NAME, _check)


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
    document = call.access.bucket.settings.get(_NAME)
    if document is None:
        raise S3Error("ServerSideEncryptionConfigurationNotFoundError", BucketName=call.bucket)
    rule = {"BucketKeyEnabled": False, **_rule_of(document)}
    return call.document({_CONFIGURATION: {"Rules": [rule]}})


@offers("DeleteBucketEncryption")
async def delete_bucket_encryption(call: Call) -> web.StreamResponse:
    """Objects that are there stay as they are."""
    return await delete_document(call, _NAME)
