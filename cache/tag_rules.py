"""What Amazon allows in a tag (userguide "Categorizing your storage using tags"). Pure.

Both doors hold to it, each in its own words: s3api/tags.py and cache/s3_xattrs.py.
"""

from __future__ import annotations

import unicodedata

TAGS_MAX = 10
KEY_MAX = 128
VALUE_MAX = 256
"""Both in characters."""
SYSTEM_PREFIX = "aws:"
"""Of keys that are Amazon's own."""

_SIGNS = frozenset("+-=._:/@")


def is_plain(text: str) -> bool:
    """Letters, digits and separators as Unicode knows them, and some signs; Amazon writes
    [\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]."""
    return all(c in _SIGNS or unicodedata.category(c)[0] in "LZN" for c in text)
