"""aws-chunked bodies, signed with the key of a test's gateway."""

from __future__ import annotations

import base64
import hashlib
import hmac
import zlib

from s3api.sigv4 import STREAMING_SIGNED, STREAMING_UNSIGNED_TRAILER, Scope, SigningKey
from tests.support import s3
from tests.support.s3 import Door, S3SigV4Auth

CHUNK_BYTES = 65536
_EMPTY = hashlib.sha256(b"").hexdigest()


class _Streaming(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """Signs a request whose payload hash is one of the streaming words."""

    def __init__(self, door: Door, encoding: str) -> None:
        super().__init__(door.credentials, "s3", s3.REGION)
        self._encoding = encoding

    def payload(self, request: object) -> str:
        del request
        return self._encoding


def streaming_body(
    door: Door,
    target: str,
    encoding: str,
    payload: bytes,
    headers: dict[str, str | None] | None = None,
) -> tuple[dict[str, str], bytes]:
    """Headers and wire body of a PUT of `payload` in the given streaming encoding.

    headers: sent besides; one that is None is left out."""
    sent: dict[str, str | None] = {
        "Content-Encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(payload)),
        **(headers or {}),
    }
    if encoding != STREAMING_SIGNED:
        sent["x-amz-trailer"] = "x-amz-checksum-crc32"
    given = {name: value for name, value in sent.items() if value is not None}
    request = s3.AWSRequest("PUT", door.url + target, headers=given)
    request.headers["Host"] = door.host
    _Streaming(door, encoding).add_auth(request)
    signed = dict(request.headers.items())
    signed["X-Amz-Content-SHA256"] = encoding
    signature = signed["Authorization"][-64:]
    return signed, _body(door, encoding, payload, signed["X-Amz-Date"], signature)


def _body(door: Door, encoding: str, payload: bytes, date: str, signature: str) -> bytes:
    scope = Scope(date[:8], s3.REGION, "s3")
    key = SigningKey.derive(door.key.secret, scope).key
    signed = encoding != STREAMING_UNSIGNED_TRAILER

    def sign(text: str) -> str:
        return hmac.new(key, text.encode(), "sha256").hexdigest()

    wire = b""
    for start in [*range(0, len(payload), CHUNK_BYTES), len(payload)]:
        chunk = payload[start : start + CHUNK_BYTES]
        extension = ""
        if signed:
            digest = hashlib.sha256(chunk).hexdigest()
            signature = sign(
                f"AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{scope}\n{signature}\n{_EMPTY}\n{digest}"
            )
            extension = f";chunk-signature={signature}"
        wire += f"{len(chunk):x}{extension}\r\n".encode() + chunk + (b"\r\n" if chunk else b"")
    if encoding != STREAMING_SIGNED:
        crc = base64.b64encode(zlib.crc32(payload).to_bytes(4, "big")).decode()
        wire += f"x-amz-checksum-crc32:{crc}\r\n".encode()
        if signed:
            digest = hashlib.sha256(f"x-amz-checksum-crc32:{crc}\n".encode()).hexdigest()
            trailer = sign(f"AWS4-HMAC-SHA256-TRAILER\n{date}\n{scope}\n{signature}\n{digest}")
            wire += f"x-amz-trailer-signature:{trailer}\r\n".encode()
    return wire + b"\r\n"
