"""Multipart uploads: create, upload and copy parts, list, abort.

What becomes of the parts, and all that is checked before, is `completion.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from cache.encryption import layout_key
from cache.frames import SealingWriter, sealed_size
from cache.multipart import PART_NUMBER_MAX
from cache.parts import PartWriter
from cache.publishing import Object
from cache.records import Part, UploadRecord
from s3api.acl import OBJECT_GRANT_HEADERS, shown_user
from s3api.checksums import ALGORITHMS, CHECKSUM_MEMBERS, COMPOSITE, DEFAULT_ALGORITHM, FULL_OBJECT
from s3api.conditions import Range, parse_copy_range
from s3api.customer_keys import COPY_SOURCE_MEMBERS, CUSTOMER_MEMBERS, customer_key
from s3api.encryption import WRITE_MEMBERS, open_seal, open_upload, seal_for
from s3api.entity import ATTRIBUTE_MEMBERS, storage_class_of
from s3api.errors import S3Error
from s3api.locking import LOCK_MEMBERS
from s3api.objects import copy_source, opened_source, plaintext, requested_attributes
from s3api.operations import Call, offers
from s3api.paging import key_text, read_limit
from s3api.patience import patient
from s3api.payload import PUT_BYTES_MAX, BodyPlan, Received, Receiver
from s3api.receiving import receive
from s3api.seals import Seal, attributes_of, output_of, sealed, sealed_etag, sealing

# ------------------------------------------------------------------------------- create and abort


@offers(
    "CreateMultipartUpload",
    f"ACL ChecksumAlgorithm ChecksumType {OBJECT_GRANT_HEADERS} {ATTRIBUTE_MEMBERS}"
    f" {LOCK_MEMBERS} {WRITE_MEMBERS}",
)
async def create_multipart_upload(call: Call) -> web.StreamResponse:
    algorithm, kind = _read_checksum(call.input)
    attributes = msgspec.structs.replace(requested_attributes(call), checksum_type=kind)
    seal = await seal_for(call)
    upload = await call.threads.metadata(
        lambda: call.volume.uploads.create(
            call.bucket,
            call.key,
            owner=call.identity.user,
            attributes=attributes_of(seal, attributes),
            checksum_algorithm=algorithm,
            layout_key=b"" if seal is None else layout_key(seal.data_key),
        )
    )
    return call.document(
        {
            "Bucket": call.bucket,
            "Key": call.key.decode(),
            "UploadId": upload.id,
            "ChecksumAlgorithm": algorithm or None,
            "ChecksumType": kind if algorithm else None,
            **output_of(call, seal),
        }
    )


def _read_checksum(values: dict[str, Any]) -> tuple[str, str]:
    """Algorithm ("" if none was asked for) and type of the object's checksum to be."""
    algorithm = values.get("ChecksumAlgorithm", "").upper()
    kind = values.get("ChecksumType", "").upper()
    if not algorithm:
        if kind:
            raise S3Error(
                "InvalidRequest",
                "The x-amz-checksum-type header can only be used with the"
                " x-amz-checksum-algorithm header.",
            )
        return "", FULL_OBJECT
    if algorithm not in ALGORITHMS:
        raise S3Error(
            "InvalidRequest", "Checksum algorithm provided is unsupported. Please try again with"
            " any of the valid types.")  # fmt: skip
    chosen = ALGORITHMS[algorithm]
    kind = kind or (COMPOSITE if chosen.composite else FULL_OBJECT)
    if (kind == COMPOSITE and chosen.composite) or (kind == FULL_OBJECT and chosen.combine):
        return algorithm, kind
    raise S3Error(
        "InvalidRequest",
        f"The {kind} checksum type cannot be used with the {algorithm.lower()} checksum algorithm.",
    )


def upload_of(call: Call) -> UploadRecord:
    """The upload that a request names. NoSuchBucket, NoSuchUpload. Inline."""
    return call.volume.uploads.get(call.bucket, call.key, call.input["UploadId"])


@offers("AbortMultipartUpload", "UploadId")
async def abort_multipart_upload(call: Call) -> web.StreamResponse:
    upload = upload_of(call)
    await call.threads.metadata(call.volume.uploads.abort, upload)
    return call.document({})


# ------------------------------------------------------------------------------------------ parts


def _part_number(call: Call) -> int:
    number: int = call.input["PartNumber"]
    if not 1 <= number <= PART_NUMBER_MAX:
        raise S3Error(
            "InvalidArgument",
            f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive",
            ArgumentName="partNumber",
            ArgumentValue=str(number),
        )
    return number


@offers(
    "UploadPart",
    f"Body ContentLength ContentMD5 PartNumber UploadId {CHECKSUM_MEMBERS} {CUSTOMER_MEMBERS}",
)
async def upload_part(call: Call) -> web.StreamResponse:
    number = _part_number(call)
    upload = upload_of(call)
    seal = open_upload(call, upload)
    plan = BodyPlan.read(call.headers, call.authentication, PUT_BYTES_MAX)
    if plan.size_bytes is None:
        raise S3Error("MissingContentLength")
    size_bytes = plan.size_bytes
    wanted = upload.checksum_algorithm
    if wanted and plan.announced_algorithm not in (None, wanted):
        raise S3Error(
            "InvalidRequest",
            "Checksum Type mismatch occurred, expected checksum Type:"
            f" {wanted.lower()}, actual checksum Type: {plan.announced_algorithm.lower()}",
        )
    receiver = Receiver(plan, bytes_max=PUT_BYTES_MAX, algorithm=wanted or DEFAULT_ALGORITHM)

    def begin() -> PartWriter | SealingWriter[PartWriter]:
        return _part_writer(call, upload, number, size_bytes, seal)

    def commit(writer: PartWriter | SealingWriter[PartWriter], received: Received) -> Part:
        etag = sealed_etag(seal, received.etag)
        return sealed(writer).commit(etag=etag, checksums=received.checksums)

    part = await receive(call, receiver, begin, commit)
    shown = plan.announced_algorithm or wanted or DEFAULT_ALGORITHM
    return call.document(
        {
            "ETag": f'"{part.etag}"',
            ALGORITHMS[shown].member: part.checksums[shown],
            **output_of(call, seal),
        }
    )


def _part_writer(
    call: Call, upload: UploadRecord, number: int, size_bytes: int, seal: Seal | None
) -> PartWriter | SealingWriter[PartWriter]:
    """Takes the plaintext of a part, which is sealed as its upload says."""
    stored_bytes = size_bytes if seal is None else sealed_size(size_bytes)
    writer = call.volume.uploads.part_writer(upload, number, size_bytes=stored_bytes)
    return sealing(seal, writer, number)


@offers(
    "UploadPartCopy",
    "CopySource CopySourceIfMatch CopySourceIfModifiedSince CopySourceIfNoneMatch"
    " CopySourceIfUnmodifiedSince CopySourceRange ExpectedSourceBucketOwner PartNumber UploadId"
    f" {CUSTOMER_MEMBERS} {COPY_SOURCE_MEMBERS}",
)
@patient
async def upload_part_copy(call: Call) -> web.StreamResponse:
    number = _part_number(call)
    upload = upload_of(call)
    seal = open_upload(call, upload)
    source, part = await call.threads.transfer(_copy_part, call, upload, number, seal)
    return call.document(
        {
            "CopySourceVersionId": source.version_id,
            "CopyPartResult": {"ETag": f'"{part.etag}"', "LastModified": part.modified_ns},
            **output_of(call, seal),
        }
    )


def _copy_part(
    call: Call, upload: UploadRecord, number: int, seal: Seal | None
) -> tuple[Object, Part]:
    """The source and the part."""
    source = copy_source(call)
    source_seal = open_seal(call, source, copied=True)
    chosen = Range(0, source.size, source.size)
    if "CopySourceRange" in call.input:
        chosen = parse_copy_range(call.input["CopySourceRange"], source.size)
    if chosen.length > PUT_BYTES_MAX:
        raise S3Error("EntityTooLarge", MaxSizeAllowed=str(PUT_BYTES_MAX))
    if seal is not None or source_seal is not None:
        return source, _recrypt_part(call, upload, number, source, source_seal, chosen, seal)
    whole = chosen.length == source.size and "-" not in source.etag
    etag = source.etag if whole else ""
    part = call.volume.uploads.copy_part(
        upload, number, source, chosen.start, chosen.stop, etag=etag
    )
    return source, part


def _recrypt_part(
    call: Call,
    upload: UploadRecord,
    number: int,
    source: Object,
    source_seal: Seal | None,
    chosen: Range,
    seal: Seal | None,
) -> Part:
    """A part from bytes of an object, where either is encrypted: every byte passes through here.
    Blocks."""
    md5 = hashlib.md5(usedforsecurity=False)
    with opened_source(call, source) as snapshot:
        writer = _part_writer(call, upload, number, chosen.length, seal)
        try:
            for piece in plaintext(snapshot, source_seal, chosen.start, chosen.stop):
                md5.update(piece)
                writer.write(piece)
            etag = sealed_etag(seal, md5.hexdigest())
            return sealed(writer).commit(etag=etag, checksums={})
        finally:
            writer.abort()


@offers("ListParts", f"MaxParts PartNumberMarker UploadId {CUSTOMER_MEMBERS}")
async def list_parts(call: Call) -> web.StreamResponse:
    upload = upload_of(call)
    if customer_key(call) is not None:
        open_upload(call, upload)
    limit = read_limit(call.input, "MaxParts", "max-parts")
    after = call.input.get("PartNumberMarker", 0)
    if after < 0:
        raise S3Error("InvalidArgument", ArgumentName="part-number-marker")
    found = await call.threads.metadata(
        lambda: call.volume.uploads.parts(upload, after=after, limit=limit + 1)
    )
    page = found[:limit]
    users = call.volume.users
    return call.document(
        {
            "Bucket": call.bucket,
            "Key": call.key.decode(),
            "UploadId": upload.id,
            "PartNumberMarker": after,
            "NextPartNumberMarker": page[-1].number if page else 0,
            "MaxParts": limit,
            "IsTruncated": len(found) > limit > 0,
            "Parts": [
                {
                    "PartNumber": part.number,
                    "LastModified": part.modified_ns,
                    "ETag": f'"{part.etag}"',
                    "Size": part.visible_size,
                    **{ALGORITHMS[name].member: value for name, value in part.checksums.items()},
                }
                for part in page
            ],
            "Initiator": shown_user(upload.owner, users),
            "Owner": shown_user(upload.attributes.owner or call.access.bucket.owner, users),
            "StorageClass": storage_class_of(upload.attributes),
            "ChecksumAlgorithm": upload.checksum_algorithm or None,
            "ChecksumType": upload.attributes.checksum_type if upload.checksum_algorithm else None,
        }
    )


# ----------------------------------------------------------------------------------- list uploads


@dataclass(slots=True)
class _Page:
    uploads: list[UploadRecord]
    prefixes: list[bytes]
    truncated: bool
    next_key: bytes
    next_id: str


@offers("ListMultipartUploads", "Delimiter EncodingType KeyMarker MaxUploads Prefix UploadIdMarker")
async def list_multipart_uploads(call: Call) -> web.StreamResponse:
    values = call.input
    text = key_text(values)
    limit = read_limit(values, "MaxUploads", "max-uploads")
    uploads = await call.threads.metadata(call.volume.uploads.list, call.bucket)
    page = _page(values, uploads, limit)
    users = call.volume.users
    owner = call.access.bucket.owner
    return call.document(
        {
            "Bucket": call.bucket,
            "KeyMarker": text(values.get("KeyMarker", "").encode()),
            "UploadIdMarker": values.get("UploadIdMarker", ""),
            "NextKeyMarker": text(page.next_key) if page.truncated else None,
            "NextUploadIdMarker": page.next_id if page.truncated else None,
            "Prefix": text(values.get("Prefix", "").encode()),
            "Delimiter": text(values["Delimiter"].encode()) if values.get("Delimiter") else None,
            "MaxUploads": limit,
            "IsTruncated": page.truncated,
            "Uploads": [
                {
                    "UploadId": upload.id,
                    "Key": text(upload.key),
                    "Initiated": upload.initiated_ns,
                    "StorageClass": storage_class_of(upload.attributes),
                    "Owner": shown_user(upload.attributes.owner or owner, users),
                    "Initiator": shown_user(upload.owner, users),
                    "ChecksumAlgorithm": upload.checksum_algorithm or None,
                    "ChecksumType": (
                        upload.attributes.checksum_type if upload.checksum_algorithm else None
                    ),
                }
                for upload in page.uploads
            ],
            "CommonPrefixes": [{"Prefix": text(prefix)} for prefix in page.prefixes],
            "EncodingType": values.get("EncodingType"),
        }
    )


def _page(values: dict[str, Any], uploads: list[UploadRecord], limit: int) -> _Page:
    """A page of uploads by (key, time); uploads of one key go on after the upload id marker."""
    prefix = values.get("Prefix", "").encode()
    delimiter = values.get("Delimiter", "").encode()
    key_marker = values.get("KeyMarker", "").encode()
    id_marker = values.get("UploadIdMarker", "") if key_marker else ""
    page = _Page([], [], truncated=False, next_key=b"", next_id="")
    past_marker = not id_marker
    for upload in uploads:
        if not upload.key.startswith(prefix) or upload.key < key_marker:
            continue
        if upload.key == key_marker and not past_marker:
            past_marker = upload.id == id_marker
            continue
        if upload.key == key_marker and not id_marker:
            continue
        common = _common_prefix(upload.key, prefix, delimiter)
        if common is not None and (common in page.prefixes or key_marker.startswith(common)):
            continue
        if len(page.uploads) + len(page.prefixes) >= limit:
            page.truncated = limit > 0
            break
        if common is not None:
            page.prefixes.append(common)
            page.next_key, page.next_id = common, ""
        else:
            page.uploads.append(upload)
            page.next_key, page.next_id = upload.key, upload.id
    return page


def _common_prefix(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    if not delimiter:
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]
