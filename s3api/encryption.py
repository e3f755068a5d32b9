"""Server-side encryption at the S3 door: what a request asks for, and what it may open.

A write is encrypted as its headers say, else as the bucket's default says, else not at all. What
is asked for is done, or refused. A plain object costs one look into a dictionary.

SSE-C: the client's key comes with every request and is forgotten with it. SSE-S3: the node's key.
SSE-KMS: a named key that the operator made with `forebay kms`.

Callable from any thread; new_seal() may block on the key file, nothing else here does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cache.encryption import Encryption, Mode
from cache.errors import NoSuchMasterKey, SealBroken
from cache.frames import SealedPart
from cache.keyring import Keyring
from cache.publishing import Object
from cache.records import UploadRecord
from s3api.bucket_encryption import default_of
from s3api.customer_keys import COPY_SOURCE, CUSTOMER_MEMBERS, OWN, customer_key
from s3api.errors import S3Error, not_implemented
from s3api.operations import Call
from s3api.seals import HEADER, Seal, default_seal, kms_seal, node_seal, sealed_under

log = logging.getLogger(__name__)

_NODE_MEMBERS = "ServerSideEncryption SSEKMSKeyId SSEKMSEncryptionContext BucketKeyEnabled"
WRITE_MEMBERS = f"{_NODE_MEMBERS} {CUSTOMER_MEMBERS}"
"""Members of the operations that make objects."""
_SAID = frozenset(WRITE_MEMBERS.split())
_CUSTOMER = frozenset(CUSTOMER_MEMBERS.split())


# -------------------------------------------------------------------------------------- writing


async def seal_for(call: Call) -> Seal | None:
    """How a new object is to be encrypted: see new_seal()."""
    if not asks_for_encryption(call) and default_of(call.access.bucket) is None:
        return None
    return await call.threads.metadata(new_seal, call)


def asks_for_encryption(call: Call) -> bool:
    """Whether a request says itself how its object is to be encrypted."""
    return not _SAID.isdisjoint(call.input)


def new_seal(call: Call, source: Seal | None = None) -> Seal | None:
    """A seal with a fresh data key, as the request or the bucket's default says; None for a plain
    object. May block, on the key file.

    source: that of the object which is copied. A copy is encrypted when its source is, with the
    node's key if nobody says more, as on Amazon.
    """
    values, bucket = call.input, call.access.bucket
    asked = values.get("ServerSideEncryption")
    default = default_of(bucket)
    if asked is not None and not _CUSTOMER.isdisjoint(values):
        raise S3Error(
            "InvalidArgument",
            "Server Side Encryption with Customer provided key is incompatible with the encryption"
            " method specified",
            ArgumentName=HEADER,
            ArgumentValue=asked[:64],
        )
    customer = customer_key(call)
    _check_node_members(values, asked)
    keyring = call.volume.keyring
    if customer is not None:
        if default is not None and default.blocks_customer_keys:
            raise S3Error(
                "AccessDenied",
                "This bucket has blocked upload requests that specify Server Side Encryption with"
                " Customer provided keys (SSE-C). Please specify a different server-side"
                " encryption type",
            )
        return sealed_under(customer.secret, Encryption(Mode.CUSTOMER), md5=customer.md5)
    try:
        if asked == "AES256":
            return node_seal(keyring)
        if asked == "aws:kms":
            context = values.get("SSEKMSEncryptionContext", "")
            by_default = default is not None and default.bucket_key
            return kms_seal(
                keyring,
                values.get("SSEKMSKeyId", ""),
                bucket_key=values.get("BucketKeyEnabled", by_default),
                digest=_read_context(context),
                context=context,
            )
        seal = default_seal(keyring, bucket)
    except NoSuchMasterKey as exc:
        message = f"Invalid keyId '{exc.key_id[:256]}'"
        raise S3Error("KMS.NotFoundException", message) from None
    return node_seal(keyring) if seal is None and source is not None else seal


def _check_node_members(values: Mapping[str, Any], asked: str | None) -> None:
    if asked == "aws:kms:dsse":
        raise not_implemented(f"{HEADER}: {asked}")
    if asked not in (None, "AES256", "aws:kms"):
        raise S3Error(
            "InvalidArgument",
            "The encryption method specified is not supported",
            ArgumentName=HEADER,
            ArgumentValue=asked[:64],
        )
    if asked != "aws:kms" and ("SSEKMSKeyId" in values or "SSEKMSEncryptionContext" in values):
        raise S3Error(
            "InvalidArgument",
            "Server Side Encryption with AWS KMS managed key requires HTTP header"
            " x-amz-server-side-encryption : aws:kms",
            ArgumentName=HEADER,
            ArgumentValue=asked or "null",
        )


def _read_context(header: str) -> bytes:
    """A digest of the encryption context; b"" for none. InvalidArgument."""
    if not header:
        return b""
    try:
        pairs = json.loads(base64.b64decode(header, validate=True))
    except (binascii.Error, ValueError):  # JSON and UTF-8 errors are ValueErrors
        pairs = None
    if not isinstance(pairs, dict) or not all(isinstance(each, str) for each in pairs.values()):
        raise S3Error(
            "InvalidArgument",
            f"The header '{HEADER}-context' shall be Base64-encoded UTF-8 string holding JSON"
            " which represents a string-string map",
            ArgumentName=f"{HEADER}-context",
        )
    return hashlib.sha256(json.dumps(pairs, sort_keys=True).encode()).digest()


# -------------------------------------------------------------------------------------- reading


def open_seal(call: Call, found: Object, *, copied: bool = False) -> Seal | None:
    """The seal of an object that a request reads; None for a plain one. copied: the object is the
    source of a copy.

    InvalidRequest without the key of an SSE-C object, or with one of another; AccessDenied for the
    wrong key."""
    record = Encryption.of(found.attributes)
    customer = customer_key(call, COPY_SOURCE if copied else OWN)
    if record is None or record.mode != Mode.CUSTOMER:
        if customer is not None:
            raise S3Error(
                "InvalidRequest", "The encryption parameters are not applicable to this object."
            )
        return None if record is None else _opened_by_node(call.volume.keyring, record)
    if customer is None:
        raise S3Error(
            "InvalidRequest",
            "The object was stored using a form of Server Side Encryption. The correct parameters"
            " must be provided to retrieve the object.",
        )
    try:
        data_key = record.unwrap(customer.secret)
    except SealBroken:
        raise S3Error(
            "AccessDenied",
            "Requests specifying Server Side Encryption with Customer provided keys must provide"
            " the correct secret key.",
        ) from None
    record.check_layout(data_key)
    return Seal(record, data_key, customer.md5)


def _opened_by_node(keyring: Keyring, record: Encryption) -> Seal:
    """NoSuchMasterKey when the node's key file lost the key."""
    try:
        secret = keyring.get(record.key, record.version).secret
    except NoSuchMasterKey:
        log.error("an object needs version %d of the key %s", record.version, record.key)
        raise
    data_key = record.unwrap(secret)
    record.check_layout(data_key)
    return Seal(record, data_key)


def check_read_headers(call: Call) -> None:
    """InvalidArgument for headers that say how to encrypt what is only read."""
    for header in (HEADER, f"{HEADER}-aws-kms-key-id", f"{HEADER}-context"):
        if header in call.headers:
            raise _unsupported(header, call.headers[header])


def _unsupported(header: str, value: str) -> S3Error:
    return S3Error(
        "InvalidArgument",
        f"{header} header is not supported for this operation.",
        ArgumentName=header,
        ArgumentValue=value[:64],
    )


# -------------------------------------------------------------------------------------- uploads


def open_upload(call: Call, upload: UploadRecord) -> Seal | None:
    """The seal of an upload that a part comes for; None for a plain one. InvalidRequest unless the
    part is encrypted as the upload was created."""
    record = Encryption.of(upload.attributes)
    check_upload_headers(call, record)
    customer = customer_key(call)
    if (customer is not None) != (record is not None and record.mode == Mode.CUSTOMER):
        raise S3Error(
            "InvalidRequest",
            "The multipart upload initiate requested encryption. Subsequent part requests must"
            " include the appropriate encryption parameters.",
        )
    if record is None:
        return None
    if customer is None:
        return _opened_by_node(call.volume.keyring, record)
    try:
        return Seal(record, record.unwrap(customer.secret), customer.md5)
    except SealBroken:
        raise S3Error(
            "InvalidRequest",
            "The provided encryption parameters did not match the ones used originally.",
        ) from None


def check_upload_headers(call: Call, record: Encryption | None) -> None:
    """InvalidArgument for headers that ask for another encryption than the upload was created
    with. Amazon refuses them all; clients that repeat what they said first are let through."""
    created = {} if record is None else Seal(record, b"").headers
    for header in (HEADER, f"{HEADER}-aws-kms-key-id", f"{HEADER}-context"):
        value = call.headers.get(header)
        if value is not None and value != created.get(header):
            raise _unsupported(header, value)


def completed(call: Call, upload: UploadRecord, parts: list[SealedPart]) -> Encryption | None:
    """The record of the object that an upload becomes; None for a plain one.

    The client's key is asked for as Amazon does: where the upload has a checksum algorithm. It is
    checked where it is given."""
    record = Encryption.of(upload.attributes)
    check_upload_headers(call, record)
    given = not _CUSTOMER.isdisjoint(call.input)
    if given or (record is not None and record.mode == Mode.CUSTOMER and upload.checksum_algorithm):
        open_upload(call, upload)
    if record is None:
        return None
    whole = record.with_layout(parts, upload.layout_key)
    if whole is None:
        raise S3Error(
            "InvalidRequest",
            "The sizes of the parts of an encrypted object must not differ in more than 100"
            " places.",
        )
    return whole


def shared_seal(wanted: Seal | None, source: Seal | None) -> Seal | None:
    """The source's seal if it is just what is wanted for the copy, which then shares its bytes:
    the same kind of encryption under the same version of the same key."""
    if wanted is None or source is None:
        return None
    asked, there = wanted.record, source.record
    if (asked.mode, asked.key, asked.version, asked.context) != (
        there.mode,
        there.key,
        there.version,
        there.context,
    ):
        return None
    if asked.mode == Mode.CUSTOMER and wanted.key_md5 != source.key_md5:
        return None
    return replace(source, context=wanted.context)
