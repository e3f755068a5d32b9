"""The one decoding of bucket and key from what came over the wire.

Every way in which a request can name an object (the request target, `x-amz-copy-source`, an
element of DeleteObjects) ends here, is percent-decoded at most once, and leaves as the same pair
of a bucket name and key *bytes*. Nothing later decodes again, so no two layers can understand one
spelling differently. Keys are data, not paths: `a//b`, `./x` and `../y` are ordinary keys.

Pure; callable from any thread.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

import msgspec

from s3api.directories import SEPARATOR, Directory
from s3api.errors import S3Error

KEY_BYTES_MAX = 1024

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BUCKET_REQUESTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
"""What may be asked for: wider than what may be created, since a bucket may be a directory that
was made through the mount. No slash, no leading dot: it can never be read as a path."""
_BUCKET_CREATED = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Target(msgspec.Struct, frozen=True):
    """What a request line leads to. Empty bucket: the service; empty key: the bucket."""

    bucket: str
    key: bytes
    directory: Directory | None = None
    """The bucket was named as this directory of it, which the key begins with if there is one."""


@dataclass(frozen=True, slots=True)
class CopySource:
    bucket: str
    key: bytes
    version_id: str | None


def parse_target(
    raw_path: str, host: str, domain: str | None, *, directories: bool = False
) -> Target:
    """The target of a request whose raw path (no query) and Host header are given.

    Path style is always understood. With a domain, `bucket.domain` in the Host header puts the
    bucket in front and leaves the whole path to the key. directories: `bucket:dir` in the path is
    a directory of a bucket.
    """
    if not raw_path.startswith("/"):
        # Absolute-form and authority-form targets: the Host header and the path could disagree.
        raise S3Error("InvalidURI")
    bucket = _virtual_host(host, domain)
    if bucket is not None:
        return Target(bucket, decode_key(raw_path[1:]) if len(raw_path) > 1 else b"")
    raw_bucket, _, raw_key = raw_path[1:].partition("/")
    if not raw_bucket:
        if raw_key:
            raise S3Error("InvalidBucketName", BucketName="")
        return Target("", b"")
    bucket = _decode(raw_bucket)
    directory = None
    if directories and SEPARATOR in bucket:
        bucket, directory = Directory.split(bucket)
    key = decode_key(raw_key) if raw_key else b""
    if key and directory is not None:
        key = check_key(directory.prefix + key)
    return Target(check_bucket_requested(bucket), key, directory)


def _virtual_host(host: str, domain: str | None) -> str | None:
    if domain is None:
        return None
    name = host.rsplit(":", 1)[0].lower() if not host.endswith("]") else host
    suffix = "." + domain.lower()
    return check_bucket_requested(name[: -len(suffix)]) if name.endswith(suffix) else None


def parse_copy_source(value: str) -> CopySource:
    """Read `x-amz-copy-source`: `[/]bucket/key[?versionId=id]`, percent-encoded.

    The `?` is looked for before decoding, so that an encoded `%3FversionId=` is part of the key
    for everybody.
    """
    path, _, query = value.partition("?")
    version_id: str | None = None
    if query:
        name, _, version_id = query.partition("=")
        if name != "versionId":
            raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key")
    raw_bucket, _, raw_key = path.removeprefix("/").partition("/")
    if not raw_bucket or not raw_key:
        raise S3Error(
            "InvalidArgument", "Copy Source must mention the source bucket and key: bucket/key"
        )
    return CopySource(check_bucket_requested(_decode(raw_bucket)), decode_key(raw_key), version_id)


def plain_copy_source(value: str) -> str:
    """`x-amz-copy-source` of an object in `bucket:dir`, as one of the bucket itself; what names no
    directory, or no object, is as it was."""
    raw_bucket, _, rest = value.removeprefix("/").partition("/")
    name = _decode(raw_bucket)
    if SEPARATOR not in name or not rest.partition("?")[0]:
        return value
    bucket, directory = Directory.split(name)
    return f"{quote(bucket)}/{quote(directory.prefix)}{rest}"


def decode_key(raw: str) -> bytes:
    """Percent-decode a key once and check it."""
    return check_key(_decode_bytes(raw))


def check_key(key: bytes) -> bytes:
    """The key itself if S3 allows it: 1 to 1024 bytes of UTF-8.

    NUL is refused here: no store that is a file system could ever hold it, and XML cannot name it.
    """
    if len(key) > KEY_BYTES_MAX:
        raise S3Error("KeyTooLongError", Size=str(len(key)), MaxSizeAllowed=str(KEY_BYTES_MAX))
    if not key or b"\0" in key:
        raise S3Error("InvalidURI", "The key is empty or holds a NUL byte.")
    try:
        key.decode("utf-8")
    except UnicodeDecodeError:
        raise S3Error("InvalidURI", "The key is not valid UTF-8.") from None
    return key


def check_bucket_requested(name: str) -> str:
    if not _BUCKET_REQUESTED.fullmatch(name):
        raise S3Error("InvalidBucketName", BucketName=name)
    return name


def check_bucket_created(name: str) -> str:
    """Amazon's naming rules for general purpose buckets."""
    legal = (
        _BUCKET_CREATED.fullmatch(name)
        and ".." not in name
        and ".-" not in name
        and "-." not in name
        and not name.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
        and not name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"))
        and not _is_address(name)
    )
    if not legal:
        raise S3Error("InvalidBucketName", BucketName=name)
    return name


def _is_address(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _decode(raw: str) -> str:
    try:
        return _decode_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise S3Error("InvalidURI") from None


def _decode_bytes(raw: str) -> bytes:
    if "%" not in raw:
        return raw.encode("utf-8", "surrogateescape")
    if _BAD_ESCAPE.search(raw):
        # urllib would keep `%zz` as it is; then `%zz` and `%25zz` would be one key.
        raise S3Error("InvalidURI")
    return unquote_to_bytes(raw.encode("utf-8", "surrogateescape"))
