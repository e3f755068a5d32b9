"""Which parts a changed object is made of: copied from what it was, or sent. Pure.

S3 joins parts of which each but the last has at least 5 MiB, 10,000 of them at the most. So a small
change is sent with what follows it up to that size, and what is unchanged between two changes is
copied if it is at least as large.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from cache.config import MIB

PART_BYTES_MIN = 5 * MIB
PART_COUNT_MAX = 10_000


class Part(NamedTuple):
    start: int
    stop: int
    is_copy: bool


def plan(
    size_bytes: int,
    changed: Iterable[tuple[int, int]],
    *,
    part_bytes: int,
    copy_bytes: int,
) -> list[Part]:
    """The parts, in order, from the first byte to the last.

    changed: ranges [start, stop) that are not as they were, in any order; what lies behind the
    former end must be in one. part_bytes, copy_bytes: about how large a part that is sent, or
    copied, may be; at most twice that, unless 10,000 would not be enough."""
    ranges = sorted(
        (start, min(stop, size_bytes)) for start, stop in changed if start < min(stop, size_bytes)
    )
    least = PART_BYTES_MIN
    while True:
        parts = _parts(size_bytes, ranges, max(part_bytes, least), max(copy_bytes, least), least)
        if len(parts) <= PART_COUNT_MAX:
            return parts
        least *= 2


def _parts(
    size_bytes: int, changed: list[tuple[int, int]], part_bytes: int, copy_bytes: int, least: int
) -> list[Part]:
    parts: list[Part] = []
    position = 0
    for start, stop in _sent(size_bytes, changed, least):
        parts += _split(position, start, copy_bytes, least, is_copy=True)
        parts += _split(start, stop, part_bytes, least, is_copy=False)
        position = stop
    return parts + _split(position, size_bytes, copy_bytes, least, is_copy=True)


def _sent(size_bytes: int, changed: list[tuple[int, int]], least: int) -> list[tuple[int, int]]:
    """The ranges to send: neither they, but for the last, nor what is between them are smaller
    than `least`."""
    runs: list[tuple[int, int]] = []
    for start, stop in changed:
        begin, end = runs.pop() if runs else (0, 0)
        if start - end >= least:
            if end:
                runs.append((begin, end))
            begin = start
        runs.append((begin, max(end, stop, min(begin + least, size_bytes))))
    return runs


def _split(start: int, stop: int, about: int, least: int, *, is_copy: bool) -> list[Part]:
    length = stop - start
    count = -(-length // about)
    if count > 1 and length // count < least:
        count = length // about
    bounds = [start + length * number // count for number in range(count + 1)] if count else []
    return [Part(one, other, is_copy) for one, other in pairwise(bounds)]
