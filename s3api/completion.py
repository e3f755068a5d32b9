"""CompleteMultipartUpload: hold the client's list against the parts that are there, and join them.

The ETag of a completed object is the MD5 of its parts' MD5s, with their number. Its checksum is
either composite (of the parts' checksums) or of the full object, combined from the parts' CRCs;
an upload that asked for none gets a full-object CRC64NVME.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
from aiohttp import web

from cache.encryption import Encryption
from cache.errors import NoSuchKey, NoSuchUpload
from cache.etags import multipart_etag
from cache.frames import SealedPart
from cache.multipart import PART_NUMBER_MAX
from cache.publishing import Object
from cache.records import ObjectAttributes, Part, UploadRecord
from s3api.checksums import (
    ALGORITHMS,
    CHECKSUM_MEMBERS,
    COMPOSITE,
    DEFAULT_ALGORITHM,
    claimed_checksums,
    combined_checksum,
    composite_checksum,
)
from s3api.conditions import WriteCondition
from s3api.customer_keys import CUSTOMER_MEMBERS
from s3api.encryption import completed
from s3api.entity import check_of, checksum_members, quoted_etag
from s3api.errors import S3Error, not_implemented
from s3api.lifecycle import expiration_headers
from s3api.locking import with_default_lock
from s3api.multipart import upload_of
from s3api.operations import Call, offers
from s3api.patience import patient
from s3api.receiving import read_document
from s3api.seals import Seal, output_of
from s3api.versioning import made_version

PART_BYTES_MIN = 5 << 20
"""Of every part but the last."""
OBJECT_BYTES_MAX = 5 << 40


@offers(
    "CompleteMultipartUpload",
    "ChecksumType IfMatch IfNoneMatch MpuObjectSize MultipartUpload UploadId"
    f" {CHECKSUM_MEMBERS} {CUSTOMER_MEMBERS}",
)
@patient
async def complete_multipart_upload(call: Call) -> web.StreamResponse:
    condition = WriteCondition(call.input, call.key)
    listed = (await read_document(call))["MultipartUpload"].get("Parts", [])
    stored = await call.threads.metadata(_complete, call, listed, condition)
    attributes = stored.attributes
    record = Encryption.of(attributes)
    path = call.request.raw_path.partition("?")[0]
    return call.document(
        {
            "Location": f"http://{call.headers.get('host', '')}{path}",
            "Bucket": call.bucket,
            "Key": call.key.decode(),
            "ETag": quoted_etag(stored),
            "Expiration": expiration_headers(call, stored).get("x-amz-expiration"),
            "VersionId": made_version(stored),
            "ChecksumType": attributes.checksum_type or None,
            **checksum_members(attributes),
            **output_of(call, None if record is None else Seal(record, b"")),
        }
    )


def _complete(call: Call, listed: list[dict[str, Any]], condition: WriteCondition) -> Object:
    """Check the client's list against the parts that are there, and join them. Blocks."""
    _check_list(listed)
    try:
        upload = upload_of(call)
    except NoSuchUpload:
        return _completed_before(call, listed)
    parts = _chosen_parts(call, upload, listed)
    size_bytes = sum(part.visible_size for part in parts)
    if call.input.get("MpuObjectSize", size_bytes) != size_bytes:
        raise S3Error(
            "InvalidRequest",
            "The provided 'x-amz-mp-object-size' header does not match what was computed.",
        )
    if size_bytes > OBJECT_BYTES_MAX:
        raise S3Error("EntityTooLarge", MaxSizeAllowed=str(OBJECT_BYTES_MAX))
    algorithm = upload.checksum_algorithm or DEFAULT_ALGORITHM
    kind = upload.attributes.checksum_type
    checksum = _object_checksum(algorithm, kind, parts)
    _check_claim(call, algorithm, kind, checksum)
    attributes = with_default_lock(call, _completed_attributes(upload, checksum, parts))
    record = completed(call, upload, [SealedPart(part.number, part.visible_size) for part in parts])
    return call.volume.uploads.complete(
        upload,
        list(parts),
        etag=multipart_etag([part.etag for part in parts]),
        attributes=attributes if record is None else record.onto(attributes),
        check=check_of(condition),
    )


def _check_list(listed: list[dict[str, Any]]) -> None:
    """MalformedXML, InvalidPartOrder."""
    if not listed or len(listed) > PART_NUMBER_MAX:
        raise S3Error("MalformedXML")
    if any("PartNumber" not in each or "ETag" not in each for each in listed):
        raise S3Error("MalformedXML")
    numbers = [each["PartNumber"] for each in listed]
    if any(number >= following for number, following in pairwise(numbers)):
        raise S3Error("InvalidPartOrder")


def _listed_etag(each: dict[str, Any]) -> str:
    etag: str = each["ETag"]
    return etag.strip().strip('"')


def _completed_before(call: Call, listed: list[dict[str, Any]]) -> Object:
    """The object, if it is made of just these parts: a client that did not get the answer to its
    first CompleteMultipartUpload asks again, and S3 answers again. Else NoSuchUpload."""
    missing = S3Error("NoSuchUpload", UploadId=call.input["UploadId"][:64])
    try:
        etag = multipart_etag([_listed_etag(each) for each in listed])
        found = call.volume.objects.get(call.bucket, call.key)
    except (ValueError, NoSuchKey):  # ValueError: an ETag that is not hexadecimal
        raise missing from None
    if found.etag != etag:
        raise missing
    return found


def _chosen_parts(call: Call, upload: UploadRecord, listed: list[dict[str, Any]]) -> Sequence[Part]:
    """The parts that the client listed. InvalidPart, EntityTooSmall."""
    there = {part.number: part for part in call.volume.uploads.parts(upload, limit=PART_NUMBER_MAX)}
    chosen = []
    for each in listed:
        part = there.get(each["PartNumber"])
        etag = _listed_etag(each)
        if part is None or part.etag != etag or not _same_checksums(part, each):
            raise S3Error(
                "InvalidPart",
                UploadId=upload.id,
                PartNumber=str(each["PartNumber"]),
                ETag=etag[:64],
            )
        chosen.append(part)
    for part in chosen[:-1]:
        if part.visible_size < PART_BYTES_MIN:
            raise S3Error(
                "EntityTooSmall",
                ProposedSize=str(part.visible_size),
                MinSizeAllowed=str(PART_BYTES_MIN),
                PartNumber=str(part.number),
                ETag=part.etag,
            )
    return chosen


def _same_checksums(part: Part, listed: dict[str, Any]) -> bool:
    """Whether the part has the checksums that the client's list gives it."""
    return all(
        part.checksums.get(algorithm.name) == listed[algorithm.member]
        for algorithm in ALGORITHMS.values()
        if algorithm.member in listed
    )


def _object_checksum(algorithm: str, kind: str, parts: Sequence[Part]) -> str | None:
    """The completed object's checksum; None if a part has none (a copied one)."""
    values = [part.checksums.get(algorithm) for part in parts]
    known = [value for value in values if value is not None]
    if len(known) < len(parts):
        return None
    if kind == COMPOSITE:
        return composite_checksum(algorithm, known)
    sizes = [part.visible_size for part in parts]
    return combined_checksum(algorithm, list(zip(known, sizes, strict=True)))


def _check_claim(call: Call, algorithm: str, kind: str, checksum: str | None) -> None:
    """Hold the object to the checksum that the client gives for it."""
    if call.input.get("ChecksumType", kind) != kind:
        raise S3Error(
            "InvalidRequest",
            f"The upload was created using the {kind} checksum mode. The complete request must use"
            " the same checksum mode.",
        )
    headers = {
        name: value.rpartition("-")[0] if kind == COMPOSITE and "-" in value else value
        for name, value in call.headers.items()
        if name.startswith("x-amz-checksum-")
    }
    for name in claimed_checksums(headers):
        claimed = call.input[ALGORITHMS[name].member]
        if name != algorithm or checksum is None:
            raise not_implemented(f"{ALGORITHMS[name].header} of another algorithm than the parts'")
        if claimed not in (
            checksum,
            checksum.rpartition("-")[0] if kind == COMPOSITE else checksum,
        ):
            raise S3Error("BadDigest")


def _completed_attributes(
    upload: UploadRecord, checksum: str | None, parts: Sequence[Part]
) -> ObjectAttributes:
    attributes, asked = upload.attributes, upload.checksum_algorithm
    return msgspec.structs.replace(
        attributes,
        checksums={} if checksum is None else {asked or DEFAULT_ALGORITHM: checksum},
        checksum_type="" if checksum is None else attributes.checksum_type,
        part_sizes=[part.visible_size for part in parts],
        part_checksums=_part_checksums(asked, parts) if checksum is not None and asked else b"",
    )


def _part_checksums(algorithm: str, parts: Sequence[Part]) -> bytes:
    """For GET of a part and GetObjectAttributes, which show them where the upload named an
    algorithm."""
    return b"".join(base64.b64decode(part.checksums[algorithm]) for part in parts)
