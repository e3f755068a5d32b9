"""Keys of raw bytes as the text that S3 accepts, and back; pure.

S3 keys are UTF-8, file names are bytes. A key that is valid UTF-8 is itself in the store. A byte
that is not part of valid UTF-8 becomes four characters: c U+10FFFF hh, where hh is the byte in
hexadecimal and c is the greatest character that sorts before the bytes from here on. So the
escape is reversible and *keeps the byte order*: a listing of the store is in the order of the
real keys, which a merge of the index with the store's listing relies on.

    b"caf\\xe9"  ->  "caf", U+8FFF, U+10FFFF, "e9"

Where a key holds U+10FFFF itself, its bytes are escaped like invalid ones; so are U+FFFE and
U+FFFF, which the XML of a listing cannot say. Control characters are left to the server.

`cache.stores.s3` calls this wherever a key passes; nothing else knows of it.
"""

from __future__ import annotations

import re

_MARK = "\U0010ffff"
_ESCAPED = re.compile(".\U0010ffff([0-9a-f]{2})", re.DOTALL)
_EXCLUDED = re.compile("[\ufffe\uffff\U0010ffff]")
LAST = "\U0010fffe"
"""Appended to a key it sorts after every key that begins with it."""


def to_text(key: bytes) -> str:
    """The key as it is named in the store."""
    parts: list[str] = []
    start = 0
    while start < len(key):
        valid = _valid_prefix(key[start:])
        parts.append(valid)
        start += len(valid.encode())
        if start < len(key):
            parts.append(f"{_character_before(key[start : start + 4])}{_MARK}{key[start]:02x}")
            start += 1
    return "".join(parts)


def to_bytes(text: str) -> bytes:
    """The inverse of to_text; a name that to_text would not write comes back as its UTF-8."""
    if _MARK not in text:
        return text.encode()
    parts: list[bytes] = []
    end = 0
    for match in _ESCAPED.finditer(text):
        parts.append(text[end : match.start()].encode())
        parts.append(bytes.fromhex(match[1]))
        end = match.end()
    parts.append(text[end:].encode())
    return b"".join(parts)


def prefix_text(prefix: bytes) -> str:
    """The longest name that every key beginning with prefix begins with, in whole components
    if the prefix is not plain UTF-8: an escape depends on the bytes that follow. The caller
    filters what matches this and not the prefix."""
    if _valid_prefix(prefix).encode() == prefix:
        return prefix.decode()
    return to_text(prefix[: prefix.rfind(b"/") + 1])


def _valid_prefix(data: bytes) -> str:
    """The text of the longest beginning of data that stands for itself."""
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        text = data[: exc.start].decode()
    excluded = _EXCLUDED.search(text)
    return text if excluded is None else text[: excluded.start()]


def _character_before(rest: bytes) -> str:
    """The greatest character that may be used whose UTF-8 sorts before rest."""
    low, high = 0, 0x10FFFE  # UTF-8 sorts like the code points, so this is a binary search
    while low < high:
        middle = (low + high + 1) // 2
        if _encoded(middle) < rest:
            low = middle
        else:
            high = middle - 1
    if low in (0xFFFE, 0xFFFF):
        return "\ufffd"
    return "\ud7ff" if 0xD800 <= low <= 0xDFFF else chr(low)


def _encoded(code_point: int) -> bytes:
    return chr(code_point).encode("utf-8", "surrogatepass")
