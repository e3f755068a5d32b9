"""Operations on the tags of objects and of buckets. The rules of tags are in `tags.py`."""

from __future__ import annotations

import msgspec
from aiohttp import web

from cache.publishing import Object
from cache.records import ObjectAttributes
from s3api.operations import Call, offers
from s3api.receiving import read_document
from s3api.subresources import delete_document, get_document, put_document
from s3api.tags import TagSet, read_tag_set, tag_pairs
from s3api.versioning import change_version, find_version

_DOCUMENT = "tagging"


def _limits(call: Call) -> bool:
    return call.door.config.tag_limits


@offers("PutObjectTagging", "ContentMD5 Tagging VersionId")
async def put_object_tagging(call: Call) -> web.StreamResponse:
    pairs = (await read_document(call))["Tagging"]["TagSet"]
    tags = read_tag_set(pairs, limits=_limits(call))
    await call.access.check_tagging(tags)
    return await _set_tags(call, tags)


@offers("GetObjectTagging", "VersionId")
async def get_object_tagging(call: Call) -> web.StreamResponse:
    found = await call.threads.metadata(find_version, call)
    return call.document(
        {"TagSet": tag_pairs(found.attributes.tags), "VersionId": found.version_id}
    )


@offers("DeleteObjectTagging", "VersionId")
async def delete_object_tagging(call: Call) -> web.StreamResponse:
    return await _set_tags(call, {})


async def _set_tags(call: Call, tags: TagSet) -> web.StreamResponse:
    def tagged(found: Object) -> ObjectAttributes:
        return msgspec.structs.replace(found.attributes, tags=tags)

    changed = await call.threads.metadata(change_version, call, tagged)
    return call.document({"VersionId": changed.version_id})


@offers("PutBucketTagging", "ContentMD5 Tagging")
async def put_bucket_tagging(call: Call) -> web.StreamResponse:
    limits = _limits(call)
    return await put_document(
        call, _DOCUMENT, lambda values: _check_bucket_tags(values["TagSet"], limits)
    )


def _check_bucket_tags(pairs: list[dict[str, str]], limits: bool) -> None:
    read_tag_set(pairs, limits=limits)


@offers("GetBucketTagging")
async def get_bucket_tagging(call: Call) -> web.StreamResponse:
    return get_document(call, _DOCUMENT, "NoSuchTagSet")


@offers("DeleteBucketTagging")
async def delete_bucket_tagging(call: Call) -> web.StreamResponse:
    return await delete_document(call, _DOCUMENT)
