"""What all listings share: page sizes, continuation tokens, and how keys are written in XML.

Pure; callable from any thread.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from s3api.errors import S3Error

_KEYS_MAX = 1000
_TOKEN_PREFIX = b"1"
"""First byte of a decoded continuation token: its version."""


def encode_token(last: bytes) -> str:
    """A continuation token. Opaque to clients; safe in a URL."""
    return base64.urlsafe_b64encode(_TOKEN_PREFIX + last).decode("ascii").rstrip("=")


def decode_token(token: str) -> bytes:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not raw.startswith(_TOKEN_PREFIX):
        raise S3Error(
            "InvalidArgument",
            "The continuation token provided is incorrect",
            ArgumentName="continuation-token",
        )
    return raw[len(_TOKEN_PREFIX) :]


KeyText = Callable[[bytes], str]


def key_text(values: Mapping[str, Any]) -> KeyText:
    """How the request wants keys written: as they are, or with encoding-type=url."""
    encoding = values.get("EncodingType")
    if encoding is None:
        return lambda key: key.decode("utf-8", "replace")
    if encoding != "url":
        raise S3Error(
            "InvalidArgument",
            "Invalid Encoding Method specified in Request",
            ArgumentName="encoding-type",
            ArgumentValue=encoding[:64],
        )
    return lambda key: quote(key, safe="/*")


def read_limit(values: Mapping[str, Any], name: str, wire_name: str) -> int:
    """A page size: at most 1000, whatever more is asked for."""
    limit: int = values.get(name, _KEYS_MAX)
    if limit < 0:
        raise S3Error("InvalidArgument", ArgumentName=wire_name, ArgumentValue=str(limit))
    return min(limit, _KEYS_MAX)
