"""What to keep: which segment is emptied next, and which of its extents survive. Pure.

s3fifo: as in S3-FIFO (Yang et al., SOSP 2023) what is new is on probation in a small queue, which
a scan passes through without touching the rest; what was read there goes to the main queue, the
rest leaves a ghost. The main queue differs, because here space comes back by the segment and a
survivor has to be written again. Not its oldest segment is emptied but the least worthy one, by the
mean heat of its bytes; that is the price of a place in the main queue. Whoever would come in, from
probation or as a ghost that is read again, must be hotter than that: so of a set larger than the
cache that is read round and round, where nothing is hotter than anything else, what is here
stays. And what the cache takes in before it is full becomes the main queue where it lies.

lru empties the segment least recently written to or rescued; fifo the oldest, and rescues
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cache.heat import HEAT_MAX
from cache.records import SegmentRecord, SegmentState

PROBATION_SHARE = 0.05
"""Share of the cache that stays on probation. The paper has 10%: there the small queue also has to
find out what is popular, which here the ghosts' heat does."""
REWRITE_SHARE = 0.2
"""Of what is freed, the most that may be written again because it is hot. So less than a quarter
of a byte is rewritten for each byte that comes in."""
READS_MIN = 2
"""Reads on probation beyond the first one that tell what is popular from what is read twice."""
_MOSTLY_DEAD = 0.25
_MAIN = ("main", "kept")


def is_main(segment: SegmentRecord) -> bool:
    """Whether it is of the main queue: filled with what was known, or rescued into, or made so."""
    return segment.stream in _MAIN


def main_max_bytes(room_bytes: float) -> float:
    """Of `room_bytes` of segments, those that the main queue may have."""
    return room_bytes * (1 - PROBATION_SHARE)


def promoted(segments: Sequence[SegmentRecord], room_bytes: float) -> list[SegmentRecord]:
    """Segments on probation that become the main queue as they are, because it has room: the
    oldest ones, and never those that probation needs."""
    main = sum(s.size for s in segments if is_main(s))
    probation = sum(s.size for s in segments) - main
    found = []
    for segment in sealed_of(segments):
        if is_main(segment):
            continue
        if probation - segment.size < PROBATION_SHARE * room_bytes:
            break
        if main + segment.size > main_max_bytes(room_bytes):
            break
        main += segment.size
        probation -= segment.size
        found.append(segment)
    return found


def victim(
    segments: Sequence[SegmentRecord],
    policy: str,
    room_bytes: float,
    least_worthy: SegmentRecord | None,
) -> SegmentRecord | None:
    """The sealed segment to empty next; None when there is none. least_worthy: of those of the
    main queue."""
    sealed = sealed_of(segments)
    if not sealed:
        return None
    empty = [s for s in sealed if s.live == 0]
    if empty:
        return empty[0]
    if policy != "s3fifo":
        return sealed[0]
    mostly_dead = [s for s in sealed if is_main(s) and s.live < _MOSTLY_DEAD * s.size]
    if mostly_dead:
        return min(mostly_dead, key=lambda s: s.live)
    probation = [s for s in sealed if not is_main(s)]
    main_bytes = sum(s.size for s in segments if is_main(s))
    if probation and (least_worthy is None or main_bytes <= main_max_bytes(room_bytes)):
        return probation[0]
    return least_worthy


def sealed_of(segments: Sequence[SegmentRecord]) -> list[SegmentRecord]:
    """Those that can be emptied, oldest first."""
    return sorted((s for s in segments if s.state == SegmentState.SEALED), key=lambda s: s.id)


def is_admitted(heat: int, price: float) -> bool:
    """Whether what is read again, with the heat of its ghost and of this read, goes to the main
    queue at once."""
    return heat >= min(HEAT_MAX, price + 2)


def survival_heat(
    segment: SegmentRecord,
    policy: str,
    price: float,
    clean: Iterable[tuple[int, int]],
    budget_bytes: float,
) -> int | None:
    """The least heat with which a clean extent of the segment is rescued; None: none is.

    clean: heat and bytes of each of its clean extents. budget_bytes: the most to rewrite.
    """
    if policy == "fifo":
        return None
    if policy == "lru":
        return 1
    least = 1 if is_main(segment) else READS_MIN
    least = max(least, min(HEAT_MAX, math.ceil(price + 1)))
    by_heat = [0] * (HEAT_MAX + 1)
    for heat, length in clean:
        by_heat[heat] += length
    hot, survives = 0, None
    for heat in range(HEAT_MAX, least - 1, -1):
        if hot >= budget_bytes:  # the last ones may exceed it: the next segment pays
            break
        hot += by_heat[heat]
        survives = heat
    return survives
