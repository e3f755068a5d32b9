"""Headers that every answer has, and the id that names a request in them and in the logs."""

from __future__ import annotations

import random

SERVER = "Forebay"


def new_request_id() -> str:
    """16 hexadecimal digits, as Amazon's."""
    # Not a secret: no need to ask the kernel for each.
    return f"{random.getrandbits(64):016X}"


def common_headers(request_id: str, host_id: str) -> dict[str, str]:
    """Headers of every answer; aiohttp adds the date."""
    return {"x-amz-request-id": request_id, "x-amz-id-2": host_id, "Server": SERVER}
