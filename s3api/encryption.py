"""Server-side encryption at the S3 door: what a request asks for, and how its object is opened.

A write is encrypted as its headers say, else as the bucket's default says, else not at all. What
is asked for is done, or refused. A `Seal` is an object's record together with its data key; the
bytes go through cache/frames.py in the worker threads of transfer.py. A plain object costs one
look into a dictionary.

SSE-C: the client's key comes with every request and is forgotten with it. SSE-S3: the node's key.
SSE-KMS: a named key that the operator made with `forebay kms`.

Callable from any thread; new_seal() may block on the key file, nothing else here does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cache import encryption
from cache.contents import Snapshot
from cache.encryption import Encryption, Mode
from cache.errors import NoSuchMasterKey, SealBroken
from cache.frames import KEY_BYTES, SealedPart, SealingWriter, Unsealed, sealed_size
from cache.keyring import DEFAULT_KMS_KEY, NODE_KEY, Keyring
from cache.parts import PartWriter
from cache.publishing import Object
from cache.records import Bucket, ObjectAttributes, UploadRecord
from cache.writers import ObjectWriter
from s3api.auth import is_loopback
from s3api.bucket_encryption import default_of
from s3api.errors import S3Error, not_implemented
from s3api.operations import Call

log = logging.getLogger(__name__)

_HEADER = "x-amz-server-side-encryption"
_CUSTOMER = "SSECustomer"
_COPY_SOURCE = "CopySourceSSECustomer"
_NODES = "ServerSideEncryption SSEKMSKeyId SSEKMSEncryptionContext BucketKeyEnabled"

READ_MEMBERS = " ".join(_CUSTOMER + name for name in ("Algorithm", "Key", "KeyMD5"))
COPY_SOURCE_MEMBERS = " ".join(_COPY_SOURCE + name for name in ("Algorithm", "Key", "KeyMD5"))
WRITE_MEMBERS = f"{_NODES} {READ_MEMBERS}"

_OUTPUT_HEADERS = {
    "ServerSideEncryption": _HEADER,
    "SSEKMSKeyId": f"{_HEADER}-aws-kms-key-id",
    "SSEKMSEncryptionContext": f"{_HEADER}-context",
    "BucketKeyEnabled": f"{_HEADER}-bucket-key-enabled",
    "SSECustomerAlgorithm": f"{_HEADER}-customer-algorithm",
    "SSECustomerKeyMD5": f"{_HEADER}-customer-key-MD5",
}

W = TypeVar("W", ObjectWriter, PartWriter)


# ------------------------------------------------------------------------------------- the seal


@dataclass(frozen=True, slots=True)
class Seal:
    """The encryption of one object or upload, with its data key."""

    record: Encryption
    data_key: bytes = field(repr=False)
    key_md5: str = ""  # of a client's key, as the client sent it
    context: str = ""  # KMS encryption context, as the client sent it

    @property
    def output(self) -> dict[str, Any]:
        """Members of the answer that say what was used."""
        match self.record.mode:
            case Mode.CUSTOMER:
                return {"SSECustomerAlgorithm": "AES256", "SSECustomerKeyMD5": self.key_md5}
            case Mode.NODE:
                return {"ServerSideEncryption": "AES256"}
            case Mode.KMS:
                return {
                    "ServerSideEncryption": "aws:kms",
                    "SSEKMSKeyId": self.record.key,
                    "SSEKMSEncryptionContext": self.context or None,
                    "BucketKeyEnabled": self.record.bucket_key or None,
                }

    @property
    def headers(self) -> dict[str, str]:
        """The same as headers."""
        return {
            _OUTPUT_HEADERS[member]: "true" if value is True else value
            for member, value in self.output.items()
            if value is not None
        }

    def etag(self, md5: str) -> str:
        """The ETag of bytes with this MD5: only of SSE-S3 it is the MD5, as on Amazon."""
        if self.record.mode == Mode.NODE:
            return md5
        return encryption.concealed_etag(self.data_key, md5)

    def read(self, snapshot: Snapshot) -> Unsealed:
        """The plaintext of a snapshot."""
        return Unsealed(snapshot, self.data_key, self.record.parts(snapshot.size))


def stored_size(seal: Seal | None, key: bytes, size_bytes: int | None) -> int | None:
    """The size of a body as it is stored."""
    if seal is None or size_bytes is None or key.endswith(b"/"):
        return size_bytes
    return sealed_size(size_bytes)


def sealing(seal: Seal | None, writer: W, key: bytes, number: int = 0) -> W | SealingWriter[W]:
    """The writer that takes the plaintext of what `writer` is to store. A key that ends in `/` is
    a directory and has no bytes to seal."""
    if seal is None or key.endswith(b"/"):
        return writer
    return SealingWriter(writer, seal.data_key, number)


def sealed(writer: W | SealingWriter[W]) -> W:
    """The writer with the whole body, to be committed."""
    return writer.finish() if isinstance(writer, SealingWriter) else writer


def attributes_of(seal: Seal | None, attributes: ObjectAttributes) -> ObjectAttributes:
    """The attributes of a new object, with the record of its encryption."""
    return attributes if seal is None else seal.record.onto(attributes)


def headers_of(seal: Seal | None) -> dict[str, str]:
    return {} if seal is None else seal.headers


def output_of(call: Call, seal: Seal | None) -> dict[str, Any]:
    """Members of the operation's output that say what was used."""
    shape = call.operation.output
    if seal is None or shape is None:
        return {}
    return {member: value for member, value in seal.output.items() if member in shape.members}


def etag_of(seal: Seal | None, md5: str) -> str:
    return md5 if seal is None else seal.etag(md5)


# ------------------------------------------------------------------------------ a client's key


@dataclass(frozen=True, slots=True)
class CustomerKey:
    secret: bytes = field(repr=False)
    md5: str


def customer_key(call: Call, prefix: str = _CUSTOMER) -> CustomerKey | None:
    """The key that the request brings, if any. InvalidArgument, InvalidEncryptionAlgorithmError,
    and InvalidRequest over a connection that others may listen to."""
    values = call.input
    algorithm = values.get(prefix + "Algorithm")
    key = values.get(prefix + "Key")
    md5 = values.get(prefix + "KeyMD5")
    if algorithm is None and key is None and md5 is None:
        return None
    _check_connection(call)
    if algorithm is None:
        raise _refused("must provide a valid encryption algorithm.")
    if algorithm != "AES256":
        raise S3Error(
            "InvalidEncryptionAlgorithmError",
            ArgumentName=_HEADER,
            ArgumentValue=algorithm[:64],
        )
    if key is None:
        raise _refused("must provide an appropriate secret key.")
    if md5 is None:
        raise _refused("must provide the client calculated MD5 of the secret key.")
    try:
        secret = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    digest = base64.b64encode(hashlib.md5(secret, usedforsecurity=False).digest()).decode()
    if secret and not hmac.compare_digest(digest.encode(), md5.encode()):
        raise S3Error(
            "InvalidArgument",
            "The calculated MD5 hash of the key did not match the hash that was provided.",
            ArgumentName=_HEADER,
            ArgumentValue="null",
        )
    if len(secret) != KEY_BYTES:
        raise S3Error(
            "InvalidArgument",
            "The secret key was invalid for the specified algorithm.",
            ArgumentName=_HEADER,
            ArgumentValue="null",
        )
    return CustomerKey(secret, md5)


def _refused(reason: str) -> S3Error:
    return S3Error(
        "InvalidArgument",
        f"Requests specifying Server Side Encryption with Customer provided keys {reason}",
        ArgumentName=_HEADER,
        ArgumentValue="null",
    )


def _check_connection(call: Call) -> None:
    """A key that travels in the clear is everybody's; Amazon takes none."""
    transport = call.request.transport
    allowed = call.door.config.sse_c_over_http
    if allowed == "always" or transport is None or transport.get_extra_info("sslcontext"):
        return
    peer = transport.get_extra_info("peername")
    if allowed == "loopback" and peer is not None and is_loopback(peer[0]):
        return
    raise S3Error(
        "InvalidRequest",
        "Requests specifying Server Side Encryption with Customer provided keys must be made over"
        " a secure connection.",
    )


# -------------------------------------------------------------------------------------- writing


async def seal_for(call: Call, bucket: Bucket) -> Seal | None:
    """How a new object in a bucket is to be encrypted: see new_seal()."""
    if not _asks(call.input) and default_of(bucket) is None:
        return None
    return await call.threads.metadata(new_seal, call, bucket)


def _asks(values: Mapping[str, Any]) -> bool:
    """Whether a request says itself how its object is to be encrypted."""
    return any(member in values for member in WRITE_MEMBERS.split())


def asks_for_other(call: Call) -> bool:
    """Whether a copy changes its object's encryption, if nothing else."""
    return _asks(call.input)


def new_seal(call: Call, bucket: Bucket, source: Seal | None = None) -> Seal | None:
    """A seal with a fresh data key, as the request or the bucket's default says; None for a plain
    object. May block, on the key file.

    source: that of the object which is copied. A copy is encrypted when its source is, with the
    node's key if nobody says more, as on Amazon.
    """
    values = call.input
    asked = values.get("ServerSideEncryption")
    default = default_of(bucket)
    if asked is not None and any(each in values for each in READ_MEMBERS.split()):
        raise S3Error(
            "InvalidArgument",
            "Server Side Encryption with Customer provided key is incompatible with the encryption"
            " method specified",
            ArgumentName=_HEADER,
            ArgumentValue=asked[:64],
        )
    customer = customer_key(call)
    _check_kms_members(values, asked)
    if customer is not None:
        if default is not None and default.blocks_customer_keys:
            raise S3Error(
                "AccessDenied",
                "This bucket has blocked upload requests that specify Server Side Encryption with"
                " Customer provided keys (SSE-C). Please specify a different server-side"
                " encryption type",
            )
        return _sealed_under(customer.secret, Encryption(Mode.CUSTOMER), md5=customer.md5)
    keyring = call.volume.keyring
    if asked is None and default is not None and default.algorithm:
        asked, key_id = default.algorithm, default.key_id
    else:
        key_id = values.get("SSEKMSKeyId", "")
    if asked is None and source is not None:
        asked = "AES256"
    if asked == "AES256":
        master = keyring.newest_of_node()
        record = Encryption(Mode.NODE, key=master.id, version=master.version)
        return _sealed_under(master.secret, record)
    if asked != "aws:kms":
        return None
    return _kms_seal(call, key_id or DEFAULT_KMS_KEY, default is not None and default.bucket_key)


def _check_kms_members(values: Mapping[str, Any], asked: str | None) -> None:
    if asked == "aws:kms:dsse":
        raise not_implemented(f"{_HEADER}: {asked}")
    if asked not in (None, "AES256", "aws:kms"):
        raise S3Error(
            "InvalidArgument",
            "The encryption method specified is not supported",
            ArgumentName=_HEADER,
            ArgumentValue=asked[:64],
        )
    if asked != "aws:kms" and ("SSEKMSKeyId" in values or "SSEKMSEncryptionContext" in values):
        raise S3Error(
            "InvalidArgument",
            "Server Side Encryption with AWS KMS managed key requires HTTP header"
            " x-amz-server-side-encryption : aws:kms",
            ArgumentName=_HEADER,
            ArgumentValue=asked or "null",
        )


def _kms_seal(call: Call, key_id: str, default_bucket_key: bool) -> Seal:
    try:
        if key_id == NODE_KEY:
            raise NoSuchMasterKey(key_id)
        master = call.volume.keyring.newest(key_id)
    except NoSuchMasterKey:
        raise S3Error("KMS.NotFoundException", f"Invalid keyId '{key_id[:256]}'") from None
    context = call.input.get("SSEKMSEncryptionContext", "")
    record = Encryption(
        Mode.KMS,
        key=master.id,
        version=master.version,
        context=_read_context(context),
        bucket_key=call.input.get("BucketKeyEnabled", default_bucket_key),
    )
    return _sealed_under(master.secret, record, context=context)


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
            f"The header '{_HEADER}-context' shall be Base64-encoded UTF-8 string holding JSON"
            " which represents a string-string map",
            ArgumentName=f"{_HEADER}-context",
        )
    return hashlib.sha256(json.dumps(pairs, sort_keys=True).encode()).digest()


def _sealed_under(secret: bytes, record: Encryption, md5: str = "", context: str = "") -> Seal:
    data_key = encryption.new_data_key()
    return Seal(record.under(secret, data_key), data_key, md5, context)


# -------------------------------------------------------------------------------------- reading


def open_seal(call: Call, found: Object, *, copied: bool = False) -> Seal | None:
    """The seal of an object that a request reads; None for a plain one. copied: the object is the
    source of a copy.

    InvalidRequest without the key of an SSE-C object, or with one of another; AccessDenied for the
    wrong key."""
    record = Encryption.of(found.attributes)
    customer = customer_key(call, _COPY_SOURCE if copied else _CUSTOMER)
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
    for header in (_HEADER, f"{_HEADER}-aws-kms-key-id", f"{_HEADER}-context"):
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
    for header in (_HEADER, f"{_HEADER}-aws-kms-key-id", f"{_HEADER}-context"):
        value = call.headers.get(header)
        if value is not None and value != created.get(header):
            raise _unsupported(header, value)


def completed(call: Call, upload: UploadRecord, parts: list[SealedPart]) -> Encryption | None:
    """The record of the object that an upload becomes; None for a plain one.

    The client's key is asked for as Amazon does: where the upload has a checksum algorithm. It is
    checked where it is given."""
    record = Encryption.of(upload.attributes)
    check_upload_headers(call, record)
    given = any(member in call.input for member in READ_MEMBERS.split())
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
