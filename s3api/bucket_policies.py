"""Operations on what a bucket's owner says of the bucket as a whole: its policy, who owns what is
put into it, and what is blocked of what would open it to everybody.

What the documents mean is read in `controls.py` and decided in `access.py`.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from s3api.controls import (
    BUCKET_OWNER_ENFORCED,
    OWNERSHIP,
    POLICY,
    PUBLIC_ACCESS_BLOCK,
)
from s3api.errors import S3Error
from s3api.model import MODEL
from s3api.operations import Call, offers
from s3api.policy.documents import MalformedPolicy, read_bucket_policy
from s3api.policy.publicity import is_public
from s3api.receiving import read_body
from s3api.subresources import delete_document, get_document, put_document

# ----------------------------------------------------------------------------------------- policy


@offers("PutBucketPolicy", "ConfirmRemoveSelfBucketAccess ContentMD5 Policy")
async def put_bucket_policy(call: Call) -> web.StreamResponse:
    """ConfirmRemoveSelfBucketAccess confirms what cannot happen here: the bucket's owner always
    gets at its policy."""
    text = await read_body(call)
    try:
        policy = read_bucket_policy(text, call.bucket)
    except MalformedPolicy as exc:
        raise S3Error("MalformedPolicy", str(exc)) from None
    if call.access.controls.block.block_public_policy and is_public(policy):
        raise S3Error("AccessDenied", "Public policies are blocked by the public access block.")
    await call.threads.metadata(call.volume.buckets.change_settings, call.bucket, {POLICY: text})
    return call.answer(204)


@offers("GetBucketPolicy")
async def get_bucket_policy(call: Call) -> web.StreamResponse:
    """The text as it was put."""
    text = call.access.bucket.settings.get(POLICY)
    if text is None:
        raise S3Error("NoSuchBucketPolicy", BucketName=call.bucket)
    return call.answer(headers={"Content-Type": "application/json"}, body=text)


@offers("DeleteBucketPolicy")
async def delete_bucket_policy(call: Call) -> web.StreamResponse:
    return await delete_document(call, POLICY)


@offers("GetBucketPolicyStatus")
async def get_bucket_policy_status(call: Call) -> web.StreamResponse:
    """Whether the bucket is public: by its policy, or by its ACL."""
    return call.document({"PolicyStatus": {"IsPublic": call.access.controls.is_public}})


# -------------------------------------------------------------------------------------- ownership


@offers("PutBucketOwnershipControls", "ContentMD5 OwnershipControls")
async def put_bucket_ownership_controls(call: Call) -> web.StreamResponse:
    def check(values: dict[str, Any]) -> None:
        rules = values["Rules"]
        ownerships = {rule["ObjectOwnership"] for rule in rules}
        if len(rules) != 1 or not ownerships <= MODEL.shapes["ObjectOwnership"].enum:
            raise S3Error("MalformedXML")
        controls = call.access.controls
        if BUCKET_OWNER_ENFORCED in ownerships and controls.acl.others(controls.owner).grants:
            raise S3Error("InvalidBucketAclWithObjectOwnership")

    return await put_document(call, OWNERSHIP, check)


@offers("GetBucketOwnershipControls")
async def get_bucket_ownership_controls(call: Call) -> web.StreamResponse:
    return get_document(call, OWNERSHIP, "OwnershipControlsNotFoundError")


@offers("DeleteBucketOwnershipControls")
async def delete_bucket_ownership_controls(call: Call) -> web.StreamResponse:
    return await delete_document(call, OWNERSHIP)


# ---------------------------------------------------------------------------- public access block


@offers("PutPublicAccessBlock", "ContentMD5 PublicAccessBlockConfiguration")
async def put_public_access_block(call: Call) -> web.StreamResponse:
    def complete(values: dict[str, Any]) -> None:
        """A switch that is not named is off."""
        for name in MODEL.shapes["PublicAccessBlockConfiguration"].members:
            values.setdefault(name, False)

    return await put_document(call, PUBLIC_ACCESS_BLOCK, complete)


@offers("GetPublicAccessBlock")
async def get_public_access_block(call: Call) -> web.StreamResponse:
    return get_document(call, PUBLIC_ACCESS_BLOCK, "NoSuchPublicAccessBlockConfiguration")


@offers("DeletePublicAccessBlock")
async def delete_public_access_block(call: Call) -> web.StreamResponse:
    return await delete_document(call, PUBLIC_ACCESS_BLOCK)
