"""Waiting for what tells nobody that it changed: look again and again, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool], what: str = "what is waited for", deadline_s: float = 60.0
) -> None:
    """Return when the condition holds. AssertionError at the deadline, saying what did not come."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.0005)
