"""How often something was read lately: a count that halves with each turn of eviction. Pure.

Nothing is rewritten to let it cool: a count carries the turn in which it was written, and is worth
half for each turn since. A turn is over when segments of AGE times the capacity were freed, so in
a cache that takes in nothing new, nothing cools.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEAT_MAX = 15
AGE = 3
"""Longer, and what was popular stays too long; shorter, and what is read seldom is all alike."""
TURNS = 1 << 16
_COUNT = struct.Struct(">B")
_STORED = struct.Struct(">BH")


class Heat(NamedTuple):
    reads: int
    turn: int

    def now(self, turn: int) -> int:
        """What the count is worth in this turn."""
        return self.reads >> min(8, (turn - self.turn) % TURNS)

    def raised(self, turn: int) -> Heat:
        """After one more read."""
        return Heat(min(HEAT_MAX, self.now(turn) + 1), turn)

    def pack(self) -> bytes:
        """As it is stored: what was never read needs no turn."""
        return _STORED.pack(*self) if self.reads else _COUNT.pack(0)


COLD = Heat(0, 0)


def unpack(value: bytes) -> Heat:
    """A stored count; one without a turn was written by an early version."""
    if len(value) < _STORED.size:
        return Heat(value[0], 0)
    return Heat(*_STORED.unpack(value[: _STORED.size]))
