"""Parts of a changed object: what S3 asks of them, and that they cost what was changed."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache.config import MIB
from cache.stores.part_plan import PART_BYTES_MIN, PART_COUNT_MAX, Part, plan

GIB = 1024 * MIB
PART, COPY = 8 * MIB, 512 * MIB


def planned(size: int, changed: list[tuple[int, int]]) -> list[Part]:
    return plan(size, changed, part_bytes=PART, copy_bytes=COPY)


@pytest.mark.parametrize(
    ("size", "changed", "expected"),
    [
        (GIB + 1, [(GIB, GIB + 1)], [(GIB // 2, True), (GIB, True), (GIB + 1, False)]),
        # In the middle: with what follows, up to the least size of a part.
        (GIB, [(99 * MIB, 99 * MIB + 1)], [(99 * MIB, True), (104 * MIB, False), (564 * MIB, True),
                                           (GIB, True)]),
        # At the front: what is before is too small to be a part.
        (50 * MIB, [(MIB, 2 * MIB)], [(5 * MIB, False), (50 * MIB, True)]),
        # Near the end: the last part may be small.
        (50 * MIB, [(44 * MIB, 45 * MIB)], [(44 * MIB, True), (49 * MIB, False), (50 * MIB, True)]),
        # Two changes with too little between them.
        (90 * MIB, [(20 * MIB, 26 * MIB), (30 * MIB, 31 * MIB)],
         [(20 * MIB, True), (51 * MIB // 2, False), (31 * MIB, False), (90 * MIB, True)]),
        (20 * MIB, [(0, 20 * MIB)], [(20 * MIB // 3, False), (40 * MIB // 3, False),
                                     (20 * MIB, False)]),
        (20 * MIB, [(30 * MIB, 40 * MIB)], [(20 * MIB, True)]),  # cut off
        (0, [], []),
    ],
)  # fmt: skip
def test_plans(size: int, changed: list[tuple[int, int]], expected: list[tuple[int, bool]]) -> None:
    assert [(part.stop, part.is_copy) for part in planned(size, changed)] == expected


RANGES = st.lists(
    st.tuples(st.integers(0, GIB), st.integers(1, 40 * MIB)).map(lambda r: (r[0], r[0] + r[1])),
    max_size=30,
)


@given(size=st.integers(1, GIB), changed=RANGES)
@example(size=5 * MIB + 1, changed=[(5 * MIB, 5 * MIB + 1)])
def test_what_holds_for_every_plan(size: int, changed: list[tuple[int, int]]) -> None:
    parts = planned(size, changed)
    assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])]
    assert parts[-1].stop == size
    assert all(p.stop - p.start >= PART_BYTES_MIN for p in parts[:-1])
    assert all(p.start < p.stop for p in parts)
    assert all(p.stop - p.start <= 2 * (COPY if p.is_copy else PART) for p in parts)
    for start, stop in changed:
        assert not any(p.is_copy and p.start < stop and start < p.stop for p in parts)
    sent = sum(p.stop - p.start for p in parts if not p.is_copy)
    assert sent <= sum(b - a for a, b in changed) + 2 * PART_BYTES_MIN * len(changed)


def test_changes_everywhere_in_a_huge_object_are_few_enough_parts() -> None:
    size = 100 * GIB
    parts = planned(size, [(at, at + 1) for at in range(0, size, 8 * MIB)])
    assert len(parts) <= PART_COUNT_MAX
    assert parts[-1].stop == size
