"""An object as HTTP sees it: its headers, and the attributes that a request gives to a new one.

Pure; callable from any thread.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from cache.publishing import Check, Object
from cache.records import ObjectAttributes
from s3api.checksums import ALGORITHMS
from s3api.conditions import DeleteCondition, WriteCondition
from s3api.documents import http_date
from s3api.errors import S3Error
from s3api.tags import read_tag_header

DEFAULT_CONTENT_TYPE = "binary/octet-stream"

_HEADERS = {
    "CacheControl": "cache-control",
    "ContentDisposition": "content-disposition",
    "ContentEncoding": "content-encoding",
    "ContentLanguage": "content-language",
    "Expires": "expires",
}
_OVERRIDES = {
    "ResponseCacheControl": "Cache-Control",
    "ResponseContentDisposition": "Content-Disposition",
    "ResponseContentEncoding": "Content-Encoding",
    "ResponseContentLanguage": "Content-Language",
    "ResponseContentType": "Content-Type",
    "ResponseExpires": "Expires",
}
RESPONSE_OVERRIDES = " ".join(_OVERRIDES)
STANDARD_HEADERS = " ".join(_HEADERS) + " ContentType"

STORAGE_CLASSES = frozenset(
    {
        "STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING",
        "GLACIER", "GLACIER_IR", "DEEP_ARCHIVE",
    }
)  # fmt: skip
"""Those that a bucket of Amazon's takes. They are kept and shown; all bytes are treated alike, and
nothing has to be restored before it is read."""

ATTRIBUTE_MEMBERS = f"Metadata StorageClass Tagging WebsiteRedirectLocation {STANDARD_HEADERS}"
"""What read_attributes honours."""

_REDIRECT_MAX = 2048

_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


def etag_of(found: Object) -> str:
    """The object's ETag, without quotes."""
    return found.inode.shown_etag


def quoted_etag(found: Object) -> str:
    return f'"{etag_of(found)}"'


class Validators:
    """What conditions look at, with the ETag that clients know."""

    __slots__ = ("etag", "modified_ns", "size")

    def __init__(self, found: Object) -> None:
        self.etag = etag_of(found)
        self.modified_ns = found.modified_ns
        self.size = found.size


def check_of(condition: WriteCondition | DeleteCondition) -> Check | None:
    """The condition as a check for the cache's commit; None if there is nothing to check."""
    if not condition:
        return None
    return lambda current: condition(None if current is None else Validators(current))


def object_headers(found: Object) -> dict[str, str]:
    """Headers of GetObject and HeadObject, but for the length and what the request asks for."""
    attributes = found.attributes
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": _safe(attributes.content_type) or DEFAULT_CONTENT_TYPE,
        "ETag": quoted_etag(found),
        "Last-Modified": http_date(found.modified_ns),
    }
    if found.version_id is not None:
        headers["x-amz-version-id"] = found.version_id
    for name, value in attributes.headers.items():
        headers[name.title()] = _safe(value)
    for name, value in attributes.metadata.items():
        headers[f"x-amz-meta-{_safe(name)}"] = _safe(value)
    if attributes.own:
        headers |= _own_headers(attributes)
    if attributes.tags:
        headers["x-amz-tagging-count"] = str(len(attributes.tags))
    return headers


def _own_headers(attributes: ObjectAttributes) -> dict[str, str]:
    headers = {}
    if "storage-class" in attributes.own:
        headers["x-amz-storage-class"] = storage_class_of(attributes)
    if "redirect" in attributes.own:
        headers["x-amz-website-redirect-location"] = _safe(attributes.own["redirect"])
    return headers


def storage_class_of(attributes: ObjectAttributes) -> str:
    """What the store says may be anything: it is shown if it is a class."""
    found = attributes.own.get("storage-class", "STANDARD")
    return found if found in STORAGE_CLASSES else "STANDARD"


def checksum_headers(attributes: ObjectAttributes) -> dict[str, str]:
    """The x-amz-checksum-* headers of a whole object."""
    headers = {
        ALGORITHMS[name].header: value
        for name, value in attributes.checksums.items()
        if name in ALGORITHMS
    }
    if headers:
        headers["x-amz-checksum-type"] = attributes.checksum_type
    return headers


def checksum_members(attributes: ObjectAttributes) -> dict[str, str]:
    """The checksums of a whole object by the model's members. Of what the store said, what is
    an algorithm."""
    return {
        ALGORITHMS[name].member: value
        for name, value in attributes.checksums.items()
        if name in ALGORITHMS
    }


def part_checksum(attributes: ObjectAttributes, number: int) -> dict[str, str]:
    """The checksum of one part by the model's member; empty if the parts' are not known."""
    if not attributes.part_checksums:
        return {}
    (name,) = attributes.checksums
    algorithm = ALGORITHMS[name]
    stop = number * algorithm.size_bytes
    raw = attributes.part_checksums[stop - algorithm.size_bytes : stop]
    return {algorithm.member: base64.b64encode(raw).decode("ascii")}


def part_checksum_headers(attributes: ObjectAttributes, number: int) -> dict[str, str]:
    """The x-amz-checksum-* headers of one part."""
    headers = {
        ALGORITHMS[member.removeprefix("Checksum")].header: value
        for member, value in part_checksum(attributes, number).items()
    }
    if headers:
        headers["x-amz-checksum-type"] = attributes.checksum_type
    return headers


def _safe(value: str) -> str:
    """A value for a header. What came from the store may hold line breaks; a client must not be
    able to write headers through them."""
    return _UNSAFE.sub(" ", value) if _UNSAFE.search(value) else value


def response_overrides(values: Mapping[str, Any]) -> dict[str, str]:
    """Headers that the query sets (response-content-type …). InvalidArgument for line breaks."""
    overrides: dict[str, str] = {}
    for member, header in _OVERRIDES.items():
        value = values.get(member)
        if value is not None:
            if _UNSAFE.search(value):
                raise S3Error("InvalidArgument", ArgumentName=f"response-{header.lower()}")
            overrides[header] = value
    return overrides


def read_attributes(
    values: Mapping[str, Any], *, metadata_bytes_max: int, tag_limits: bool
) -> ObjectAttributes:
    """The attributes that the headers of a PUT, a copy or a multipart upload ask for, but for
    owner and ACL.

    MetadataTooLarge if names and values of user metadata are more than metadata_bytes_max;
    InvalidTag, InvalidStorageClass, InvalidRedirectLocation."""
    metadata = {name: _text(value) for name, value in values.get("Metadata", {}).items()}
    size_bytes = sum(len(name) + len(value.encode()) for name, value in metadata.items())
    if size_bytes > metadata_bytes_max:
        raise S3Error(
            "MetadataTooLarge",
            Size=str(size_bytes),
            MaxSizeAllowed=str(metadata_bytes_max),
        )
    headers = {
        header: _text(values[member]) for member, header in _HEADERS.items() if member in values
    }
    encoding = _without_aws_chunked(headers.pop("content-encoding", ""))
    if encoding:
        headers["content-encoding"] = encoding
    return ObjectAttributes(
        content_type=_text(values.get("ContentType", "")),
        headers=headers,
        metadata=metadata,
        tags=read_tag_header(values.get("Tagging", ""), limits=tag_limits),
        own=_read_own(values),
    )


def _read_own(values: Mapping[str, Any]) -> dict[str, str]:
    own: dict[str, str] = {}
    storage_class = values.get("StorageClass", "STANDARD")
    if storage_class not in STORAGE_CLASSES:
        raise S3Error("InvalidStorageClass", StorageClassRequested=storage_class[:64])
    if storage_class != "STANDARD":
        own["storage-class"] = storage_class
    redirect = values.get("WebsiteRedirectLocation", "")
    if redirect:
        if not redirect.startswith(("/", "http://", "https://")) or not redirect.isascii():
            raise S3Error("InvalidRedirectLocation")
        if len(redirect) > _REDIRECT_MAX:
            raise S3Error("InvalidRedirectLocation", "The length of website redirect location"
                          f" cannot exceed {_REDIRECT_MAX} characters.")  # fmt: skip
        own["redirect"] = redirect
    return own


def _without_aws_chunked(encoding: str) -> str:
    """aws-chunked is how the body travels, not what it is."""
    names = [name.strip() for name in encoding.split(",")]
    return ", ".join(name for name in names if name and name.lower() != "aws-chunked")


def _text(value: str) -> str:
    """A header's text. Bytes that are not UTF-8 are Latin-1, as HTTP once defined."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    return value
