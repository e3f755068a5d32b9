"""The one mapping between what S3 clients attach to an object and extended attributes. Pure.

    user.s3.meta.NAME    user metadata, x-amz-meta-NAME
    user.s3.tag.KEY      a tag

Values are UTF-8 text in both. Metadata names are what HTTP allows in the name of a header, in
lower case, as S3 keeps them. What S3 does not take is refused as setxattr(2) says: AttributeInvalid
(EINVAL), AttributeTooLarge (E2BIG), AttributesFull (ENOSPC); the limits are Amazon's, whatever the
settings of the S3 door allow.

Not shown are names that are no extended attribute's: over 255 bytes with the prefix, or with a NUL
in them. Neither are `mode`, `uid`, `gid`, `mtime` and `rdev`: in the store these say what the file
itself has (cache/stores/attributes.py), and two answers would be one too many.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from cache import tag_rules
from cache.errors import AttributeInvalid, AttributesFull, AttributeTooLarge, NoSuchAttribute
from cache.records import ObjectAttributes
from cache.stores.attributes import METADATA_BYTES_MAX, POSIX_NAMES

XATTR_NAME_MAX = 255

_METADATA = b"user.s3.meta."
_TAGS = b"user.s3.tag."
PREFIX = b"user.s3."

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+", re.ASCII)  # RFC 9110, field-name; lower case
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Kind(NamedTuple):
    prefix: bytes
    field: str  # of ObjectAttributes
    hidden: frozenset[str]


_KINDS = (_Kind(_METADATA, "metadata", POSIX_NAMES), _Kind(_TAGS, "tags", frozenset()))


def listed(attributes: ObjectAttributes) -> list[bytes]:
    """The names of all there are, sorted."""
    found = []
    for kind in _KINDS:
        for name in getattr(attributes, kind.field):
            shown = kind.prefix + name.encode("utf-8", "surrogateescape")
            if name not in kind.hidden and len(shown) <= XATTR_NAME_MAX and b"\0" not in shown:
                found.append(shown)
    return sorted(found)


def value(attributes: ObjectAttributes, name: bytes) -> bytes:
    """NoSuchAttribute."""
    kind, key = _split(name)
    found: str | None = None if key in kind.hidden else _of(attributes, kind).get(key)
    if found is None:
        raise NoSuchAttribute(repr(name))
    return found.encode("utf-8", "surrogateescape")


def changed(attributes: ObjectAttributes, name: bytes, text: bytes) -> ObjectAttributes:
    """The attributes with one more, or another value of it; see the module docstring."""
    kind, key = _split(name)
    try:
        new = text.decode()
    except UnicodeDecodeError as exc:
        raise AttributeInvalid(f"{name!r}: the value is not UTF-8") from exc
    entries = {**_of(attributes, kind), key: new}
    if kind.prefix == _METADATA:
        _check_metadata(key, new, entries)
    else:
        _check_tags(key, new, entries)
    return msgspec.structs.replace(attributes, **{kind.field: entries})


def removed(attributes: ObjectAttributes, name: bytes) -> ObjectAttributes:
    """NoSuchAttribute."""
    value(attributes, name)
    kind, key = _split(name)
    entries = {k: v for k, v in _of(attributes, kind).items() if k != key}
    return msgspec.structs.replace(attributes, **{kind.field: entries})


def is_metadata(name: bytes) -> bool:
    """Metadata belongs to a version for good, tags may change."""
    return name.startswith(_METADATA)


def _split(name: bytes) -> tuple[_Kind, str]:
    for kind in _KINDS:
        if name.startswith(kind.prefix):
            return kind, name[len(kind.prefix) :].decode("utf-8", "surrogateescape")
    raise AttributeInvalid(f"{name!r}: neither user.s3.meta.NAME nor user.s3.tag.KEY")


def _of(attributes: ObjectAttributes, kind: _Kind) -> dict[str, str]:
    found: dict[str, str] = getattr(attributes, kind.field)
    return found


def _check_metadata(name: str, text: str, entries: Mapping[str, str]) -> None:
    if not _TOKEN.fullmatch(name) or name in POSIX_NAMES:
        raise AttributeInvalid(f"{name!r} cannot be the name of user metadata")
    if _CONTROL.search(text) or text != text.strip():
        raise AttributeInvalid(f"{name!r}: the value cannot be sent in a header")
    if len(name) + len(text.encode()) > METADATA_BYTES_MAX:
        raise AttributeTooLarge(f"{name!r}: over {METADATA_BYTES_MAX} bytes")
    if sum(len(n) + len(v.encode()) for n, v in entries.items()) > METADATA_BYTES_MAX:
        raise AttributesFull(f"over {METADATA_BYTES_MAX} bytes of user metadata")


def _check_tags(key: str, text: str, entries: Mapping[str, str]) -> None:
    if len(key) > tag_rules.KEY_MAX or len(text) > tag_rules.VALUE_MAX:
        raise AttributeTooLarge(f"tag {key!r}")
    is_system = key.startswith(tag_rules.SYSTEM_PREFIX)
    if not key or is_system or not (tag_rules.is_plain(key) and tag_rules.is_plain(text)):
        raise AttributeInvalid(f"tag {key!r}")
    if len(entries) > tag_rules.TAGS_MAX:
        raise AttributesFull(f"over {tag_rules.TAGS_MAX} tags")
