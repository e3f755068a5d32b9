"""Tags of objects and buckets: reading them, and the rules they are held to.

Amazon's rules (userguide "Categorizing your storage using tags"): at most TAGS_MAX, keys of 1 to
128 characters and values of up to 256, of letters, digits, spaces and `+ - = . _ : / @`, each key
once, none that begins with `aws:`. `s3.tag_limits = false` switches off all but the last two
(acceptance B29).

Pure; callable from any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from cache.tag_rules import KEY_MAX, SYSTEM_PREFIX, TAGS_MAX, VALUE_MAX, is_plain
from s3api.errors import S3Error

_HEADER = "x-amz-tagging"

TagSet = dict[str, str]


def read_tag_set(pairs: Iterable[Mapping[str, str]], *, limits: bool) -> TagSet:
    """The tags of a TagSet in an XML document. InvalidTag."""
    tags: TagSet = {}
    for pair in pairs:
        if pair["Key"] in tags:
            raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
        tags[pair["Key"]] = pair["Value"]
    return _checked(tags, limits)


def read_tag_header(text: str, *, limits: bool) -> TagSet:
    """The tags of x-amz-tagging: `a=1&b=2`, URL-encoded. InvalidArgument, InvalidTag."""
    tags: TagSet = {}
    for pair in filter(None, text.split("&")):
        name, _, value = pair.partition("=")
        try:
            key = unquote_to_bytes(name.replace("+", " ")).decode()
            if key in tags:
                raise _bad_header(text)
            tags[key] = unquote_to_bytes(value.replace("+", " ")).decode()
        except UnicodeDecodeError:
            raise _bad_header(text) from None
    return _checked(tags, limits)


def _bad_header(text: str) -> S3Error:
    return S3Error(
        "InvalidArgument",
        f"The header '{_HEADER}' shall be encoded as UTF-8 then URLEncoded URL query parameters"
        " without tag name duplicates.",
        ArgumentName=_HEADER,
        ArgumentValue=text[:256],
    )


def _checked(tags: TagSet, limits: bool) -> TagSet:
    if limits and len(tags) > TAGS_MAX:
        raise S3Error("InvalidTag", f"Object tags cannot be greater than {TAGS_MAX}")
    for key, value in tags.items():
        if not key or (limits and not (len(key) <= KEY_MAX and is_plain(key))):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", TagKey=key[:128])
        if key.startswith(SYSTEM_PREFIX):
            raise S3Error(
                "InvalidTag", "System tags cannot be added/updated by requester", TagKey=key[:128]
            )
        if limits and not (len(value) <= VALUE_MAX and is_plain(value)):
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid", TagKey=key)
    return tags


def tag_pairs(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """As the answers show them: by key."""
    return [{"Key": key, "Value": tags[key]} for key in sorted(tags)]
