"""Operations on ACLs, and whose a new object or bucket is.

What ACLs mean is in `acl.py`, whether they count in `access.py`. Where ownership is enforced every
object is the bucket's owner's and no ACL may be said; where it is preferred an object is its bucket
owner's if its writer gives that owner full control by the canned ACL; else it is its writer's.
An anonymous writer's objects are the bucket owner's. An object that is its bucket owner's is kept
without an owner, so that the store is not told of the usual case.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from cache.errors import NotPermitted
from cache.publishing import Object
from cache.records import ObjectAttributes
from s3api.acl import (
    GRANT_HEADERS,
    Acl,
    from_document,
    from_headers,
    pack,
    private,
    shown,
    shown_user,
    unpack,
)
from s3api.controls import (
    ACL,
    BUCKET_OWNER_ENFORCED,
    BUCKET_OWNER_PREFERRED,
    OWNERSHIP,
    ownership_document,
)
from s3api.errors import S3Error
from s3api.operations import Call, offers
from s3api.receiving import read_document
from s3api.versioning import find_version, version_of

_OWNER_HAS_ALL = "bucket-owner-full-control"


def new_object_access(call: Call) -> tuple[str, bytes]:
    """Owner and ACL, as they are kept, of the object that a request makes.

    AccessControlListNotSupported, AccessDenied for a public ACL that is blocked, and what
    acl.from_headers raises."""
    controls = call.access.controls
    bucket_owner = call.access.bucket.owner
    writer = call.identity.user or bucket_owner
    asked = from_headers(call.input, call.volume.users, writer, bucket_owner)
    if not controls.acls_count:
        _check_unsupported(call, asked, bucket_owner)
        return "", b""
    if asked is None:
        return ("" if writer == bucket_owner else writer), b""
    _check_block(call, asked)
    preferred = controls.ownership == BUCKET_OWNER_PREFERRED
    if preferred and call.input.get("ACL") == _OWNER_HAS_ALL and bucket_owner:
        return "", b""
    return ("" if writer == bucket_owner else writer), pack(asked, writer)


def _check_unsupported(call: Call, asked: Acl | None, owner: str) -> None:
    """Where ownership is enforced only an ACL that says just that is not refused."""
    if asked is None or call.input.get("ACL") == _OWNER_HAS_ALL:
        return
    if "ACL" in call.input or asked != private(owner):
        raise S3Error("AccessControlListNotSupported")


def _check_block(call: Call, asked: Acl) -> None:
    if asked.is_public and call.access.controls.block.block_public_acls:
        raise S3Error("AccessDenied", "Public ACLs are blocked by the public access block.")


def new_bucket_settings(call: Call) -> dict[str, bytes]:
    """Ownership and ACL that CreateBucket asks for, as settings of the bucket.
    InvalidBucketAclWithObjectOwnership."""
    owner = call.identity.user
    settings: dict[str, bytes] = {}
    asked = from_headers(call.input, call.volume.users, owner)
    ownership = call.input.get("ObjectOwnership")
    if ownership is not None:
        settings[OWNERSHIP] = ownership_document(ownership)
    if asked is not None:
        if ownership == BUCKET_OWNER_ENFORCED and asked.others(owner).grants:
            raise S3Error("InvalidBucketAclWithObjectOwnership")
        kept = pack(asked, owner)
        if kept:
            settings[ACL] = kept
    return settings


# ---------------------------------------------------------------------------------------- buckets


@offers("GetBucketAcl")
async def get_bucket_acl(call: Call) -> web.StreamResponse:
    controls = call.access.controls
    acl = controls.acl if controls.acls_count else private(controls.owner)
    return _document(call, controls.owner, acl)


@offers("PutBucketAcl", f"ACL AccessControlPolicy ContentMD5 {GRANT_HEADERS}")
async def put_bucket_acl(call: Call) -> web.StreamResponse:
    owner = call.access.bucket.owner
    asked = await _asked(call, owner, "")
    kept = pack(asked, owner)
    await call.threads.metadata(
        call.volume.buckets.change_settings, call.bucket, {ACL: kept or None}
    )
    return call.document({})


# ---------------------------------------------------------------------------------------- objects


@offers("GetObjectAcl", "VersionId")
async def get_object_acl(call: Call) -> web.StreamResponse:
    found = await call.threads.metadata(find_version, call)
    owner = call.access.owner_of(found)
    if not call.access.controls.acls_count:
        return _document(call, owner, private(owner))
    return _document(call, owner, unpack(found.attributes.acl, owner))


@offers("PutObjectAcl", f"ACL AccessControlPolicy ContentMD5 VersionId {GRANT_HEADERS}")
async def put_object_acl(call: Call) -> web.StreamResponse:
    found = await call.threads.metadata(find_version, call)
    owner = call.access.owner_of(found)
    asked = await _asked(call, owner, call.access.bucket.owner)
    if not call.access.controls.acls_count:
        return call.document({})  # it says what holds anyway

    def changed(now: Object) -> ObjectAttributes:
        if call.access.owner_of(now) != owner:
            raise NotPermitted(f"{call.key!r} is another's object by now")
        return msgspec.structs.replace(now.attributes, acl=pack(asked, owner))

    await call.threads.metadata(
        lambda: call.volume.objects.change_attributes(
            call.bucket, call.key, changed, version_id=version_of(call)
        )
    )
    return call.document({})


async def _asked(call: Call, owner: str, bucket_owner: str) -> Acl:
    """The ACL that a request puts, in headers or in its body."""
    users = call.volume.users
    asked = from_headers(call.input, users, owner, bucket_owner)
    policy: dict[str, Any] | None = (await read_document(call)).get("AccessControlPolicy")
    if policy is not None:
        if asked is not None:
            raise S3Error("UnexpectedContent")
        asked = from_document(policy, users, owner)
    if asked is None:
        raise S3Error("MissingSecurityHeader", "Your request was missing a required header: an ACL")
    if not call.access.controls.acls_count:
        _check_unsupported(call, asked, owner)
    _check_block(call, asked)
    return asked


def _document(call: Call, owner: str, acl: Acl) -> web.StreamResponse:
    users = call.volume.users
    return call.document({"Owner": shown_user(owner, users), "Grants": shown(acl, users)})
