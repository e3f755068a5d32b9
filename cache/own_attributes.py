"""Owner and ACL of an object as the store keeps them, beside what else Forebay keeps there itself.

In the index they are fields of ObjectAttributes, in the store two more names of
StoredAttributes.own: percent-encoded, since an owner's name may be any text. An object that is its
bucket owner's has neither. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, unquote, unquote_to_bytes

import msgspec

from cache.records import ObjectAttributes

_OWNER = "owner"
_ACL = "acl"


def told(attributes: ObjectAttributes) -> dict[str, str]:
    """What the store is told."""
    own = dict(attributes.own)
    if attributes.owner:
        own[_OWNER] = quote(attributes.owner, safe="/@=+", errors="surrogateescape")
    if attributes.acl:
        own[_ACL] = quote(attributes.acl, safe='[]",:/@=+')
    return own


def learned(attributes: ObjectAttributes, own: Mapping[str, str]) -> ObjectAttributes:
    """The attributes with what the store said."""
    rest = {name: value for name, value in own.items() if name not in (_OWNER, _ACL)}
    return msgspec.structs.replace(
        attributes,
        owner=unquote(own.get(_OWNER, ""), errors="surrogateescape"),
        acl=unquote_to_bytes(own.get(_ACL, "")),
        own=rest,
    )
