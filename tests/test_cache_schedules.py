"""Names that change while the store follows, in random schedules that can be repeated.

FOREBAY_SCHEDULE is the first seed, FOREBAY_SCHEDULES how many are tried, of the `long` test. What
they found is written down in tests/test_cache_moving.py and tests/test_cache_markers.py.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.support.flat_store import FlatStore
from tests.support.schedules import Schedule, locks_that_never_wait, make_steps
from tests.support.volume import TestVolume

__all__ = ["locks_that_never_wait"]


def run(directory: Path, seed: int, *, flat: bool) -> None:
    chosen = random.Random(seed)
    box = TestVolume(directory, store=FlatStore() if flat else None)
    schedule = Schedule(box)
    try:
        with pytest.MonkeyPatch.context() as patched:
            schedule.watch(patched)
            schedule.take(make_steps(chosen, chosen.choice((8, 15, 25, 40))))
        schedule.check()
    finally:
        box.close()
        shutil.rmtree(directory)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.usefixtures("locks_that_never_wait")
def test_schedules(tmp_path: Path, flat: bool) -> None:
    for seed in range(40):
        run(tmp_path / str(seed), seed, flat=flat)


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.usefixtures("locks_that_never_wait")
def test_many_schedules(tmp_path: Path, flat: bool) -> None:
    """The seed is in the name of the directory."""
    first = int(os.environ.get("FOREBAY_SCHEDULE", str(random.randrange(1 << 30))))
    for seed in range(first, first + int(os.environ.get("FOREBAY_SCHEDULES", "1000"))):
        run(tmp_path / str(seed), seed, flat=flat)
