"""Work that comes back: each chore in a thread of its own, again and again, whatever it raises.

A chore that fails is a fault to be seen once and not a reason to stop: it is logged when it begins
to fail and when it works again, and tried in growing intervals meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Chore:
    name: str
    run: Callable[[], int]
    """Does a piece of the work; returns how much it found to do."""
    every_s: float
    """Pause after a piece that found nothing."""
    busy_s: float | None = None
    """Pause after one that found something; unset: every_s."""


class Chores:
    """Start and stop them together."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep_doing, args=(chore,), name=chore.name, daemon=True)
            for chore in chores
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> list[str]:
        """Begin nothing new, and wait up to timeout_s for the pieces under way; the names of those
        that still are, which may be cut off at any moment, as by a crash. May be called again."""
        self._stopping.set()
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _keep_doing(self, chore: Chore) -> None:
        failures: set[str] = set()
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                found = chore.run()
            except Exception as exc:
                kind = f"{type(exc).__name__}: {exc}"
                # Once with its traceback; the same again only for who looks closely.
                if kind not in failures:
                    log.exception("%s failed; trying again", chore.name)
                else:
                    log.debug("%s still fails: %s", chore.name, kind)
                failures.add(kind)
                pause_s = min(max(2 * pause_s, chore.every_s), _LONGEST_PAUSE_S)
                continue
            if failures:
                log.info("%s works again", chore.name)
                failures.clear()
            pause_s = chore.every_s
            if found and chore.busy_s is not None:
                pause_s = chore.busy_s
