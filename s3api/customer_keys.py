"""A client's own encryption key (SSE-C): read from its request, used, and forgotten.

Pure, but for a look at the connection; callable from any thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field

from cache.frames import KEY_BYTES
from s3api.config import is_loopback
from s3api.errors import S3Error
from s3api.operations import Call

OWN = "SSECustomer"
"""Begins the members that bring the key of what a request writes or reads."""
COPY_SOURCE = "CopySourceSSECustomer"
"""Begins those that bring the key of the object that it copies."""
CUSTOMER_MEMBERS = " ".join(OWN + name for name in ("Algorithm", "Key", "KeyMD5"))
COPY_SOURCE_MEMBERS = " ".join(COPY_SOURCE + name for name in ("Algorithm", "Key", "KeyMD5"))

_HEADER = "x-amz-server-side-encryption"


@dataclass(frozen=True, slots=True)
class CustomerKey:
    secret: bytes = field(repr=False)
    md5: str


def customer_key(call: Call, prefix: str = OWN) -> CustomerKey | None:
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
