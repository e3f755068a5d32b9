"""kill -9 of any process of the node, under load from both doors: nothing acknowledged is lost.

`script/crash --cycles N --seed N` runs the same for as long as you like.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crash import CrashRun
from tests.support.mount import requires_fuse

SEED = os.environ.get("FOREBAY_SEED", "20261121")


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A directory that is not on the node's file system, where the machine has one."""
    shared_memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(dir=shared_memory if shared_memory.is_dir() else tmp_path))
    yield place
    shutil.rmtree(place)


@requires_fuse
@pytest.mark.timeout(600)
@pytest.mark.parametrize("write_mode", ["write_back", "write_through"])
def test_nothing_acknowledged_is_lost_by_kills(
    tmp_path: Path, other_file_system: Path, write_mode: str
) -> None:
    with CrashRun(tmp_path, other_file_system, write_mode, SEED) as run:
        sys.stdout.writelines(f"{line}\n" for line in run.run(15))
        sys.stdout.write(f"seed {SEED}: {run.figures}\n")
        assert run.figures.losses == [], f"seed {SEED}: {run.figures}\n{run.log}"
        assert run.figures.cycles == 15
