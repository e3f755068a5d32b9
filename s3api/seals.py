"""Seals: the encryption of one object or upload, with its data key in hand.

A seal is made for a new object (here, of the kinds that need no request), or opened for one that
is there (encryption.py). Whoever puts bytes takes a writer through sealing() and sealed(); with no
seal these, and the other functions here that take None, leave everything as it is.

Callable from any thread; making one of SSE-S3 may block on the key file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from cache import encryption
from cache.encryption import Encryption, Mode
from cache.errors import NoSuchMasterKey
from cache.frames import SealingWriter, Unsealed, sealed_size
from cache.keyring import DEFAULT_KMS_KEY, NODE_KEY, Keyring
from cache.parts import PartWriter
from cache.records import Bucket, ObjectAttributes
from cache.snapshot import Snapshot
from cache.writers import ObjectWriter
from s3api.bucket_encryption import default_of
from s3api.operations import Call

HEADER = "x-amz-server-side-encryption"
_HEADERS = {
    "ServerSideEncryption": HEADER,
    "SSEKMSKeyId": f"{HEADER}-aws-kms-key-id",
    "SSEKMSEncryptionContext": f"{HEADER}-context",
    "BucketKeyEnabled": f"{HEADER}-bucket-key-enabled",
    "SSECustomerAlgorithm": f"{HEADER}-customer-algorithm",
    "SSECustomerKeyMD5": f"{HEADER}-customer-key-MD5",
}

W = TypeVar("W", ObjectWriter, PartWriter)


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
            _HEADERS[member]: "true" if value is True else value
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


def seal_of_body(seal: Seal | None, key: bytes, size_bytes: int | None) -> Seal | None:
    """The seal for a body of this size, None if that is not known yet. A directory's marker, which
    is empty, stays so: there is nothing to seal."""
    return None if size_bytes == 0 and key.endswith(b"/") else seal


def stored_size(seal: Seal | None, size_bytes: int | None) -> int | None:
    """The size of a body as it is stored."""
    return size_bytes if seal is None or size_bytes is None else sealed_size(size_bytes)


def sealing(seal: Seal | None, writer: W, number: int = 0) -> W | SealingWriter[W]:
    """The writer that takes the plaintext of what `writer` is to store."""
    return writer if seal is None else SealingWriter(writer, seal.data_key, number)


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


def sealed_etag(seal: Seal | None, md5: str) -> str:
    """The ETag of an object or part whose plaintext has this MD5."""
    return md5 if seal is None else seal.etag(md5)


# -------------------------------------------------------------------------------------- making


def sealed_under(secret: bytes, record: Encryption, *, md5: str = "", context: str = "") -> Seal:
    """A seal with a fresh data key, wrapped under a secret."""
    data_key = encryption.new_data_key()
    return Seal(record.under(secret, data_key), data_key, md5, context)


def node_seal(keyring: Keyring) -> Seal:
    """SSE-S3."""
    master = keyring.newest_of_node()
    record = Encryption(Mode.NODE, key=master.id, version=master.version)
    return sealed_under(master.secret, record)


def kms_seal(
    keyring: Keyring, key_id: str, *, bucket_key: bool, digest: bytes = b"", context: str = ""
) -> Seal:
    """SSE-KMS under a key, or the default one for "". NoSuchMasterKey.

    context: the encryption context as the client sent it; digest: of what it says."""
    key_id = key_id or DEFAULT_KMS_KEY
    if key_id == NODE_KEY:
        raise NoSuchMasterKey(key_id)
    master = keyring.newest(key_id)
    record = Encryption(
        Mode.KMS, key=master.id, version=master.version, context=digest, bucket_key=bucket_key
    )
    return sealed_under(master.secret, record, context=context)


def default_seal(keyring: Keyring, bucket: Bucket) -> Seal | None:
    """As the bucket's default says, for an object that no request asks for. NoSuchMasterKey."""
    default = default_of(bucket)
    match "" if default is None else default.algorithm:
        case "AES256":
            return node_seal(keyring)
        case "aws:kms":
            assert default is not None
            return kms_seal(keyring, default.key_id, bucket_key=default.bucket_key)
        case _:
            return None
