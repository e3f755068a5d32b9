"""ETags as Amazon makes them, at both ends: told to clients, and told by a store. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def multipart_etag(part_etags: Sequence[str]) -> str:
    """Of what was joined of parts: MD5 of their MD5s, and their number."""
    joined = hashlib.md5(bytes.fromhex("".join(part_etags)), usedforsecurity=False).hexdigest()
    return f"{joined}-{len(part_etags)}"
