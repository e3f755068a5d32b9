"""What was read of the index, kept until its next commit.

A gateway asks for the same few records with every request: the key, its user, the bucket. While
the number of the last commit, of whatever process, is the same, so is everything that was read:
one look at that number takes the place of all these reads.

For one thread, which calls `refresh` before it relies on anything: what it gets then is at least as
new as the index was at that call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from cache.index import Index

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_KEPT_MAX = 4096
"""What is asked for may be anything that clients name."""
_NOTHING = object()


class Memo:
    def __init__(self, index: Index) -> None:
        self._index = index
        self._number = -1
        self._kept: dict[tuple[Hashable, Hashable], Any] = {}

    def refresh(self) -> None:
        """Forget everything, if anything was committed. Inline."""
        number = self._index.last_change
        if number != self._number or len(self._kept) > _KEPT_MAX:
            self._kept.clear()
            self._number = number

    def of(self, read: Callable[[K], V], key: K) -> V:
        """`read(key)`, which must depend on the index and nothing else. What it raises is not
        kept."""
        kept = self._kept.get((read, key), _NOTHING)
        if kept is _NOTHING:
            kept = self._kept[read, key] = read(key)
        found: V = kept
        return found
