"""What to keep: which segment is emptied next, and which of its extents survive. Pure.

s3fifo (Yang et al., SOSP 2023, on segments): what is new is on probation in a small queue, and a
scan passes through it without touching the rest. A segment on probation that is emptied hands the
extents that were read meanwhile to the main queue; one of the main queue gives a second chance to
those read since. lru empties the segment least recently written to or rescued; fifo the oldest,
and rescues nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from cache.records import SegmentRecord, SegmentState

PROBATION_SHARE = 0.1
"""Share of the cache that stays on probation before the main queue is looked at."""


def victim(segments: Sequence[SegmentRecord], policy: str, capacity: int) -> SegmentRecord | None:
    """The sealed segment to empty next; None when there is none."""
    sealed = sorted((s for s in segments if s.state == SegmentState.SEALED), key=lambda s: s.id)
    if not sealed:
        return None
    empty = [s for s in sealed if s.live == 0]
    if empty:
        return empty[0]
    if policy != "s3fifo":
        return sealed[0]
    probation = [s for s in sealed if s.stream != "kept"]
    main = [s for s in sealed if s.stream == "kept"]
    if probation and (not main or sum(s.live for s in probation) >= PROBATION_SHARE * capacity):
        return probation[0]
    return main[0] if main else probation[0]


def survives(policy: str, heat: int) -> bool:
    """Whether a clean extent that was read `heat` times is kept when its segment is emptied."""
    return policy != "fifo" and heat > 0
