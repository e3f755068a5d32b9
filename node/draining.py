"""Persisting until nothing waits any more: the end of the mover, and `forebay flush`.

Works the queue off in this process, which is harmless beside another one that does the same: a name
is persisted by one at a time. Blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cache.queue import Backlog, Queue

_POLL_S = 0.02
_HURRY_S = 2.0
"""How often what rests after a failure is tried all the same. Not all the time: what fails for ever
would keep the rest from its turn."""


def drain(
    queue: Queue,
    waiting: Callable[[], int],
    *,
    deadline: float | None = None,
    give_up_s: float | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[int, int]:
    """Persist until `waiting` counts no names, the deadline (monotonic) has passed, or for
    give_up_s no name got done and none was under way. The most that waited, and what is left."""
    total = left = waiting()
    moved, hurried = time.monotonic(), 0.0
    while left and (deadline is None or time.monotonic() < deadline):
        hurry = time.monotonic() - hurried > _HURRY_S
        if hurry:
            hurried = time.monotonic()
        queue.run_once(at_once=True, hurry=hurry)
        time.sleep(_POLL_S)
        before, left = left, waiting()
        total = max(total, left)
        if progress is not None:
            progress(total, left)
        if left < before or not queue.is_idle():
            moved = time.monotonic()
        elif give_up_s is not None and time.monotonic() - moved > give_up_s:
            break
    return total, left


def as_facts(backlog: Backlog) -> dict[str, Any]:
    """A backlog as `forebay status --json` and the end of `forebay serve` show it."""
    oldest_s = 0.0 if backlog.oldest_ns is None else time.time() - backlog.oldest_ns / 1e9
    return {
        "names": backlog.names,
        "bytes": backlog.dirty_bytes,
        "oldest_s": round(max(0.0, oldest_s), 1),
        "errors": [
            {"name": name.decode("utf-8", "backslashreplace"), "error": error}
            for name, error in backlog.errors
        ],
    }
