"""Operations on objects: put, get, head, delete, copy.

The bytes come through `receiving.py` and leave through `sending.py`, conditions are those of
`conditions.py`; here is what each operation means. GET, HEAD and PUT write their headers
themselves: the general way through the model costs more than all the rest of a small GET.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from cache.errors import CacheError
from cache.frames import SealingWriter, Unsealed
from cache.publishing import Check, Object
from cache.records import ObjectAttributes
from cache.snapshot import Snapshot, chunks
from cache.writers import ObjectWriter
from s3api.acl import OBJECT_GRANT_HEADERS
from s3api.acls import new_object_access
from s3api.begun import own_task
from s3api.buckets import check_expected_owner
from s3api.checksums import ALGORITHMS, CHECKSUM_MEMBERS, DEFAULT_ALGORITHM, FULL_OBJECT, BodyDigest
from s3api.conditions import (
    DeleteCondition,
    Range,
    WriteCondition,
    check_copy_source,
    check_read,
    parse_range,
    part_range,
    wanted_range,
)
from s3api.customer_keys import COPY_SOURCE_MEMBERS, CUSTOMER_MEMBERS
from s3api.encryption import (
    WRITE_MEMBERS,
    asks_for_encryption,
    check_read_headers,
    new_seal,
    open_seal,
    seal_for,
    shared_seal,
)
from s3api.entity import (
    ATTRIBUTE_MEMBERS,
    RESPONSE_OVERRIDES,
    Validators,
    check_of,
    checksum_headers,
    checksum_members,
    etag_of,
    object_headers,
    part_checksum,
    part_checksum_headers,
    quoted_etag,
    read_attributes,
    response_overrides,
    storage_class_of,
)
from s3api.errors import S3Error, from_cache
from s3api.keys import check_key, parse_copy_source
from s3api.lifecycle import expiration_headers
from s3api.locking import (
    LOCK_MEMBERS,
    lock_headers,
    may_bypass,
    with_default_lock,
    with_requested_lock,
)
from s3api.operations import Call, offers
from s3api.patience import patient
from s3api.payload import PUT_BYTES_MAX, BodyPlan, Received, Receiver
from s3api.receiving import read_document, receive, receive_small
from s3api.seals import (
    Seal,
    attributes_of,
    headers_of,
    output_of,
    seal_of_body,
    sealed,
    sealed_etag,
    sealing,
    stored_size,
)
from s3api.sending import send
from s3api.versioning import find_version, made_version, no_marker, read_version_id, version_of

_DELETED_AT_ONCE_MAX = 1000
_SMALL_WIRE_BYTES = 16 << 10
"""Of a body that is read on the loop: one in many signed chunks takes long to check."""
_READ_CONDITIONS = "IfMatch IfModifiedSince IfNoneMatch IfUnmodifiedSince"
_READ = (
    f"ChecksumMode PartNumber Range VersionId {_READ_CONDITIONS} {RESPONSE_OVERRIDES}"
    f" {CUSTOMER_MEMBERS}"
)


# ------------------------------------------------------------------------------------------- put


@offers(
    "PutObject",
    f"ACL Body ContentLength ContentMD5 IfMatch IfNoneMatch {OBJECT_GRANT_HEADERS}"
    f" {ATTRIBUTE_MEMBERS} {LOCK_MEMBERS} {WRITE_MEMBERS} {CHECKSUM_MEMBERS}",
    prompt=True,
)
async def put_object(call: Call) -> web.StreamResponse:
    condition = WriteCondition(call.input, call.key)
    plan = BodyPlan.read(call.headers, call.authentication, PUT_BYTES_MAX)
    receiver = Receiver(plan, bytes_max=PUT_BYTES_MAX)
    # Before the body, so that a client that expects 100-continue need not send it.
    seal = await seal_for(call)
    attributes = attributes_of(seal, with_default_lock(call, requested_attributes(call)))

    stored = None
    if seal is None and not condition:
        stored = await _put_small(call, plan, receiver, attributes)
    if stored is None:
        await own_task()
        stored = await _put_any(call, plan, receiver, attributes, seal, condition)
    headers = {"ETag": quoted_etag(stored), **checksum_headers(stored.attributes)}
    version_id = made_version(stored)
    if version_id is not None:
        headers["x-amz-version-id"] = version_id
    return call.answer(headers=headers | headers_of(seal) | expiration_headers(call, stored))


async def _put_small(
    call: Call, plan: BodyPlan, receiver: Receiver, attributes: ObjectAttributes
) -> Object | None:
    """A body of a few KiB, without a thread; None where that cannot be, and then nothing of the
    body was read."""
    wire_bytes = call.request.content_length
    if plan.size_bytes is None or wire_bytes is None or wire_bytes > _SMALL_WIRE_BYTES:
        return None
    writer = call.volume.objects.writer_now(
        call.bucket, call.key, size_bytes=plan.size_bytes, attributes=attributes
    )
    if writer is None:
        return None
    received = await receive_small(call, receiver, writer)
    attributes = _with_checksums(attributes, received)
    return await call.door.commits.submit(
        partial(writer.submit, etag=received.etag, attributes=attributes)
    )


async def _put_any(
    call: Call,
    plan: BodyPlan,
    receiver: Receiver,
    attributes: ObjectAttributes,
    seal: Seal | None,
    condition: WriteCondition,
) -> Object:
    def begin() -> ObjectWriter | SealingWriter[ObjectWriter]:
        body_seal = seal_of_body(seal, call.key, plan.size_bytes)
        size_bytes = stored_size(body_seal, plan.size_bytes)
        writer = call.volume.objects.writer(
            call.bucket, call.key, size_bytes=size_bytes, attributes=attributes
        )
        return sealing(body_seal, writer)

    def commit(writer: ObjectWriter | SealingWriter[ObjectWriter], received: Received) -> Object:
        return sealed(writer).commit(
            etag=sealed_etag(seal, received.etag),
            attributes=_with_checksums(attributes, received),
            check=check_of(condition),
        )

    return await receive(call, receiver, begin, commit)


def _with_checksums(attributes: ObjectAttributes, received: Received) -> ObjectAttributes:
    return msgspec.structs.replace(
        attributes, checksums=received.checksums, checksum_type=FULL_OBJECT
    )


def requested_attributes(call: Call) -> ObjectAttributes:
    """The attributes that a request asks for, with the new object's owner, ACL and lock."""
    config = call.door.config
    attributes = read_attributes(
        call.input, metadata_bytes_max=config.metadata_bytes_max, tag_limits=config.tag_limits
    )
    owner, acl = new_object_access(call)
    attributes = msgspec.structs.replace(attributes, owner=owner, acl=acl)
    return with_requested_lock(call, attributes)


# ------------------------------------------------------------------------------------- get, head


@offers("GetObject", _READ, prompt=True)
async def get_object(call: Call) -> web.StreamResponse:
    found, snapshot = await _open(call)
    try:
        no_marker(call.access.confirm(found))
        seal = _open_seal(call, found)
        headers, chosen = _read_headers(call, found)
        headers |= headers_of(seal)
        body = snapshot if seal is None else await _unsealed(call, seal, snapshot)
        if chosen is None:
            return await send(call, body, 0, found.size, 200, headers)
        return await send(call, body, chosen.start, chosen.stop, 206, headers)
    finally:
        snapshot.close()


async def _open(call: Call) -> tuple[Object, Snapshot]:
    """What the warm index answers costs less than the hop into a thread."""
    objects = call.volume.objects
    version_id = version_of(call)
    part = partial(_stored_part, call.input)
    found = objects.open_now(call.bucket, call.key, part) if version_id is None else None
    if found is None:
        reading = wanted_range(call.input)
        found = await call.threads.metadata(
            partial(objects.open, reading=reading, part=part), call.bucket, call.key, version_id
        )
    return found


def _stored_part(values: Mapping[str, Any], found: Object) -> tuple[int, int]:
    """Which of an object's stored bytes a GET may read."""
    if found.is_sealed:
        return 0, found.inode.size
    try:
        chosen = _chosen(values, found)
    except S3Error:
        return 0, 0  # it is refused, for this or for something else
    return (0, found.size) if chosen is None else (chosen.start, chosen.stop)


async def _unsealed(call: Call, seal: Seal, snapshot: Snapshot) -> Unsealed:
    """The plaintext of an encrypted object. That of an upload may be ten thousand parts, which to
    count takes the loop too long."""
    if seal.record.runs:
        return await call.threads.transfer(seal.read, snapshot)
    return seal.read(snapshot)


def _open_seal(call: Call, found: Object) -> Seal | None:
    """The seal of the object that is read, checked against what the request brings."""
    check_read_headers(call)
    return open_seal(call, found)


async def _get(call: Call) -> Object:
    found = None
    if version_of(call) is None:
        found = call.volume.objects.get_now(call.bucket, call.key)
    if found is None:
        return await call.threads.metadata(find_version, call)
    return call.access.confirm(found)


@offers("HeadObject", _READ, prompt=True)
async def head_object(call: Call) -> web.StreamResponse:
    found = await _get(call)
    seal = _open_seal(call, found)
    headers, chosen = _read_headers(call, found)
    headers |= headers_of(seal)
    headers["Content-Length"] = str(found.size if chosen is None else chosen.length)
    return call.answer(200 if chosen is None else 206, headers)


def _read_headers(call: Call, found: Object) -> tuple[dict[str, str], Range | None]:
    """Headers of the answer, and the part of the object that was asked for: None for all of it.

    NotModified, PreconditionFailed, InvalidRange, InvalidPartNumber."""
    values = call.input
    headers = object_headers(found) | lock_headers(found)
    check_read(values, Validators(found), headers)
    headers |= response_overrides(values)
    if "VersionId" not in values:
        headers |= expiration_headers(call, found)
    chosen = _chosen(values, found)
    if "PartNumber" in values and found.attributes.part_sizes:
        headers["x-amz-mp-parts-count"] = str(len(found.attributes.part_sizes))
    if chosen is not None:
        headers["Content-Range"] = chosen.content_range
    if values.get("ChecksumMode") == "ENABLED":
        if chosen is None or chosen.length == found.size:
            headers |= checksum_headers(found.attributes)
        elif "PartNumber" in values:
            headers |= part_checksum_headers(found.attributes, values["PartNumber"])
    return headers, chosen


def _chosen(values: Mapping[str, Any], found: Object) -> Range | None:
    """The part of an object that a request asks for: None for all of it. InvalidRange,
    InvalidPartNumber."""
    if "PartNumber" not in values:
        return parse_range(values["Range"], found.size) if "Range" in values else None
    if "Range" in values:
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber")
    chosen = part_range(values["PartNumber"], found.attributes.part_sizes, found.size)
    return chosen if chosen.length else None  # of an empty object there is no range to speak of


@offers(
    "GetObjectAttributes",
    f"MaxParts ObjectAttributes PartNumberMarker VersionId {CUSTOMER_MEMBERS}",
)
async def get_object_attributes(call: Call) -> web.StreamResponse:
    asked = {name.strip() for name in call.input.get("ObjectAttributes", "").split(",")}
    known = {"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"}
    if not asked <= known or not asked:
        raise S3Error("InvalidArgument", "Invalid attribute name specified.")
    found = await _get(call)
    _open_seal(call, found)
    attributes = found.attributes
    output: dict[str, Any] = {"LastModified": found.modified_ns, "VersionId": found.version_id}
    if "ETag" in asked:
        output["ETag"] = etag_of(found)  # the one answer without quotes
    if "Checksum" in asked and attributes.checksums:
        output["Checksum"] = {
            **checksum_members(attributes),
            "ChecksumType": attributes.checksum_type,
        }
    if "ObjectParts" in asked and attributes.part_sizes:
        output["ObjectParts"] = _object_parts(call, attributes)
    if "StorageClass" in asked:
        output["StorageClass"] = storage_class_of(attributes)
    if "ObjectSize" in asked:
        output["ObjectSize"] = found.size
    return call.document(output)


def _object_parts(call: Call, attributes: ObjectAttributes) -> dict[str, Any]:
    """A page of the parts that the object was uploaded in."""
    count = len(attributes.part_sizes)
    after = max(0, call.input.get("PartNumberMarker", 0))
    limit = max(0, min(call.input.get("MaxParts", 1000), 1000))
    page = list(enumerate(attributes.part_sizes, start=1))[after : after + limit]
    last = page[-1][0] if page else after
    return {
        "TotalPartsCount": count,
        "PartNumberMarker": after,
        "NextPartNumberMarker": last,
        "MaxParts": limit,
        "IsTruncated": last < count,
        "Parts": [
            {"PartNumber": number, "Size": size, **part_checksum(attributes, number)}
            for number, size in page
        ],
    }


# ---------------------------------------------------------------------------------------- delete


@offers(
    "DeleteObject",
    "BypassGovernanceRetention IfMatch IfMatchLastModifiedTime IfMatchSize VersionId",
)
async def delete_object(call: Call) -> web.StreamResponse:
    condition = DeleteCondition(
        call.input.get("IfMatch"),
        call.input.get("IfMatchLastModifiedTime"),
        call.input.get("IfMatchSize"),
    )
    await call.access.check_match(call.input.get("IfMatch"), call.key, version_of(call))
    deleted = await call.threads.metadata(
        lambda: call.volume.objects.delete(
            call.bucket,
            call.key,
            check_of(condition),
            version_id=version_of(call),
            bypass=may_bypass(call, call.key),
        )
    )
    return call.document(
        {"DeleteMarker": deleted.is_marker or None, "VersionId": deleted.version_id}
    )


@offers("DeleteObjects", "BypassGovernanceRetention Delete")
async def delete_objects(call: Call) -> web.StreamResponse:
    request = (await read_document(call))["Delete"]
    objects: list[dict[str, Any]] = request.get("Objects", [])
    if not 1 <= len(objects) <= _DELETED_AT_ONCE_MAX:
        raise S3Error("MalformedXML")
    keys = [call.key_of(each["Key"]) for each in objects]
    # Eight at a time: deletions of one request share commits, without taking all threads.
    gate = asyncio.Semaphore(8)

    async def delete(key: bytes, each: dict[str, Any]) -> dict[str, Any]:
        shown = key.decode("utf-8", "surrogatepass")
        named = {"Key": shown, "VersionId": each.get("VersionId")}
        async with gate:
            try:
                await call.access.check_delete(check_key(key), each.get("VersionId"))
                await call.access.check_match(each.get("ETag"), key, each.get("VersionId"))
                return named | await call.threads.metadata(_delete_one, call, key, each)
            except (S3Error, CacheError) as exc:
                error = exc if isinstance(exc, S3Error) else from_cache(exc)
                return named | {"Code": error.code, "Message": error.message}

    answers = await asyncio.gather(*(delete(*pair) for pair in zip(keys, objects, strict=True)))
    deleted = [answer for answer in answers if "Code" not in answer]
    return call.document(
        {
            "Deleted": [] if request.get("Quiet") else deleted,
            "Errors": [answer for answer in answers if "Code" in answer],
        }
    )


def _delete_one(call: Call, key: bytes, each: dict[str, Any]) -> dict[str, Any]:
    """What the answer says beside the key: of a delete marker that was made, or removed."""
    version_id = read_version_id(each.get("VersionId"))
    condition = DeleteCondition(each.get("ETag"), each.get("LastModifiedTime"), each.get("Size"))
    deleted = call.volume.objects.delete(
        call.bucket,
        key,
        check_of(condition),
        version_id=version_id,
        bypass=may_bypass(call, key),
    )
    if not deleted.is_marker:
        return {}
    return {"DeleteMarker": True, "DeleteMarkerVersionId": deleted.version_id}


# ------------------------------------------------------------------------------------------ copy


@offers(
    "CopyObject",
    f"ACL {OBJECT_GRANT_HEADERS} CopySource CopySourceIfMatch CopySourceIfModifiedSince"
    " CopySourceIfNoneMatch"
    " CopySourceIfUnmodifiedSince ExpectedSourceBucketOwner IfMatch IfNoneMatch"
    f" MetadataDirective TaggingDirective {ATTRIBUTE_MEMBERS} {LOCK_MEMBERS} {WRITE_MEMBERS}"
    f" {COPY_SOURCE_MEMBERS}",
)
@patient
async def copy_object(call: Call) -> web.StreamResponse:
    condition = WriteCondition(call.input, call.key)
    source, copied, seal = await call.threads.transfer(_copy, call, condition)
    attributes = copied.attributes
    return call.document(
        {
            "Expiration": expiration_headers(call, copied).get("x-amz-expiration"),
            **output_of(call, seal),
            "CopySourceVersionId": source.version_id,
            "VersionId": made_version(copied),
            "CopyObjectResult": {
                "ETag": quoted_etag(copied),
                "LastModified": copied.modified_ns,
                "ChecksumType": attributes.checksum_type or None,
                **checksum_members(attributes),
            },
        }
    )


def _copy(call: Call, condition: WriteCondition) -> tuple[Object, Object, Seal | None]:
    """The source, the copy, and what the copy is encrypted with."""
    values = call.input
    source = copy_source(call)
    source_seal = open_seal(call, source, copied=True)
    directive = _directive(values, "MetadataDirective", "x-amz-metadata-directive")
    tagging = _directive(values, "TaggingDirective", "x-amz-tagging-directive")
    asked = with_default_lock(call, requested_attributes(call))
    onto_itself = (source.bucket, source.key) == (call.bucket, call.key)
    changes = directive == "REPLACE" or "StorageClass" in values or "redirect" in asked.own
    restores = parse_copy_source(values["CopySource"]).version_id is not None
    if onto_itself and not (changes or restores or asks_for_encryption(call)):
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without"
            " changing the object's metadata, storage class, website redirect location or"
            " encryption attributes.",
        )
    attributes = source.attributes
    if directive == "REPLACE":
        attributes = msgspec.structs.replace(
            asked,
            checksums=attributes.checksums,
            checksum_type=attributes.checksum_type,
            part_sizes=attributes.part_sizes,
            part_checksums=attributes.part_checksums,
        )
    attributes = msgspec.structs.replace(
        attributes,
        tags=asked.tags if tagging == "REPLACE" else source.attributes.tags,
        own=asked.own,  # storage class, redirect and lock are never the source's
        owner=asked.owner,
        acl=asked.acl,
    )
    wanted = new_seal(call, source_seal)
    shared = shared_seal(wanted, source_seal)
    if shared is None and (wanted is not None or source_seal is not None):
        copied = recrypt(call, source, source_seal, attributes, wanted, check_of(condition))
        return source, copied, wanted
    copied = call.volume.objects.copy(
        source,
        call.bucket,
        call.key,
        attributes=attributes_of(shared, attributes),
        etag=etag_of(source),
        check=check_of(condition),
    )
    return source, copied, shared


def recrypt(
    call: Call,
    source: Object,
    source_seal: Seal | None,
    attributes: ObjectAttributes,
    seal: Seal | None,
    check: Check | None,
) -> Object:
    """A copy that is encrypted otherwise than its source: every byte passes through here. It is
    one piece, whatever the source was uploaded in. Blocks."""
    algorithms = sorted(attributes.checksums.keys() & ALGORITHMS) or [DEFAULT_ALGORITHM]
    digest = BodyDigest(algorithms)
    attributes = attributes_of(
        seal,
        msgspec.structs.replace(
            attributes, checksum_type=FULL_OBJECT, part_sizes=[], part_checksums=b""
        ),
    )
    body_seal = seal_of_body(seal, call.key, source.size)
    with opened_source(call, source) as snapshot:
        writer = call.volume.objects.writer(
            call.bucket,
            call.key,
            size_bytes=stored_size(body_seal, source.size),
            attributes=attributes,
        )
        try:
            sealer = sealing(body_seal, writer)
            for piece in plaintext(snapshot, source_seal, 0, source.size):
                digest.update(piece)
                sealer.write(piece)
            return sealed(sealer).commit(
                etag=sealed_etag(seal, digest.etag),
                attributes=msgspec.structs.replace(attributes, checksums=digest.checksums),
                check=check,
            )
        finally:
            writer.abort()


def opened_source(call: Call, source: Object) -> Snapshot:
    """The bytes of the object that is copied. Close it. PreconditionFailed if it was replaced
    since it was looked at."""
    again, snapshot = call.volume.objects.open(source.bucket, source.key, source.version_id)
    if etag_of(again) != etag_of(source):
        snapshot.close()
        raise S3Error("PreconditionFailed", "The source was replaced while it was copied.")
    return snapshot


def plaintext(snapshot: Snapshot, seal: Seal | None, start: int, stop: int) -> Iterator[bytes]:
    """What clients know as the bytes [start, stop) of an object, in pieces of about 1 MiB."""
    if seal is None:
        return chunks(snapshot, start, stop)
    return seal.read(snapshot).pieces(start, stop)


def _directive(values: dict[str, Any], name: str, header: str) -> str:
    directive: str = values.get(name, "COPY")
    if directive not in ("COPY", "REPLACE"):
        raise S3Error("InvalidArgument", ArgumentName=header, ArgumentValue=directive[:64])
    return directive


def copy_source(call: Call) -> Object:
    """The object that x-amz-copy-source names, held to the conditions on it. Blocks."""
    values = call.input
    named = parse_copy_source(values["CopySource"])
    version_id = read_version_id(named.version_id)
    check_expected_owner(call, named.bucket, values.get("ExpectedSourceBucketOwner"))
    source = call.volume.objects.get(named.bucket, named.key, version_id)
    call.source_access.confirm(source)
    if source.is_marker:
        raise S3Error(
            "InvalidRequest",
            "The source of a copy request may not specifically refer to a delete marker by version"
            " id.",
        )
    check_copy_source(values, Validators(source))
    return source
