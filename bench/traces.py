"""Reads of objects, one after another, to measure eviction with. The same for the same seed."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

KIB = 1 << 10
_SMALLEST, _LARGEST = 32 * KIB, 512 * KIB
_RUN = 200
"""Objects that a scan reads before others get their turn."""


@dataclass(frozen=True)
class Trace:
    """`reads` are numbers of objects; those before `warm` fill the cache and do not count."""

    name: str
    sizes: list[int]  # of each object, bytes
    reads: list[int]
    warm: int

    @property
    def data_bytes(self) -> int:
        return sum(self.sizes)


def zipf_with_scans(objects: int, reads: int, *, scans: float = 0.25, seed: int = 1) -> Trace:
    """Zipf(0.9) over the objects, sizes and places without regard to popularity; a share of
    `scans` of the reads goes through all objects in the order of their names, run by run."""
    random_numbers = random.Random(seed)
    sizes = [
        int(_SMALLEST * (_LARGEST / _SMALLEST) ** random_numbers.random()) for _ in range(objects)
    ]
    popular = list(range(objects))
    random_numbers.shuffle(popular)
    weights = list(itertools.accumulate((rank + 1) ** -0.9 for rank in range(objects)))
    scan = itertools.cycle(range(objects))

    def some() -> Iterator[int]:
        while True:
            if random_numbers.random() < scans / _RUN / (1 - scans):
                yield from itertools.islice(scan, _RUN)
            at = random_numbers.random() * weights[-1]
            yield popular[bisect.bisect_left(weights, at)]

    name = f"Zipf(0.9), {scans:.0%} scans"
    return Trace(name, sizes, list(itertools.islice(some(), reads)), reads // 3)


def moving_zipf_with_scans(objects: int, reads: int, *, seed: int = 1) -> Trace:
    """As above, but half of the objects exchange their popularity, six times in all."""
    trace = zipf_with_scans(objects, reads, seed=seed)
    random_numbers = random.Random(seed)
    place = list(range(objects))
    moved = []
    for turn, key in enumerate(trace.reads):
        if turn % (reads // 6) == 0:
            some = random_numbers.sample(range(objects), objects // 2)
            before = [place[moving] for moving in some]
            random_numbers.shuffle(before)
            for moving, new in zip(some, before, strict=True):
                place[moving] = new
        moved.append(place[key])
    return Trace(f"{trace.name}, moving", trace.sizes, moved, trace.warm)


def training(objects: int, epochs: int, *, shuffled: bool, seed: int = 1) -> Trace:
    """Every object once in each epoch, in a new order each time or in the same; the first epoch,
    in which nobody has anything, does not count."""
    random_numbers = random.Random(seed)
    order = list(range(objects))
    reads = []
    for _ in range(epochs):
        if shuffled:
            random_numbers.shuffle(order)
        reads += order
    name = f"training, {'shuffled' if shuffled else 'in order'}"
    return Trace(name, [240 * KIB] * objects, reads, objects)
