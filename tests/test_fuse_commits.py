"""What work through the mount costs in commits: each is two waits for the disk, and most of the
time that small files take (docs/performance.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from cache.records import WriteMode
from tests.support.mount import Mounted, mounted, requires_fuse

pytestmark = requires_fuse


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(
        tmp_path_factory.mktemp("commits"), bucket={"write_mode": WriteMode.WRITE_BACK}
    ) as mount:
        yield mount


@pytest.fixture(scope="module")
def commits(mount: Mounted) -> Iterator[Callable[[Callable[[], object]], int]]:
    """Counts the commits of a call. The least of a few: the mount may do its own housekeeping."""
    with lmdb.open(str(mount.state / "index"), readonly=True) as index:

        def number() -> int:
            with index.begin() as txn:
                return int(txn.id())

        def count(call: Callable[[], object]) -> int:
            counts = []
            for _ in range(5):
                before = number()
                call()
                counts.append(number() - before)
            return min(counts)

        yield count


def _written(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, b"x" * 4096)
    return fd


def test_a_small_file_costs_one_for_its_name_and_one_for_its_bytes(
    mount: Mounted, commits: Callable[[Callable[[], object]], int]
) -> None:
    names = iter(range(5))
    assert commits(lambda: os.close(_written(mount.bucket / f"made-{next(names)}"))) == 2


def test_a_removed_name_costs_one(
    mount: Mounted, commits: Callable[[Callable[[], object]], int]
) -> None:
    files = [mount.bucket / f"closed-{number}" for number in range(5)]
    for file in files:
        file.write_bytes(b"x")
    assert commits(lambda: files.pop().unlink()) == 1


def test_a_removed_name_costs_one_while_the_file_is_open(
    mount: Mounted, commits: Callable[[Callable[[], object]], int]
) -> None:
    paths = [mount.bucket / f"open-{number}" for number in range(5)]
    files = [_written(path) for path in paths]
    for file in files:
        os.fsync(file)
        os.utime(file, ns=(1, 1))
    assert commits(lambda: paths.pop().unlink()) == 1
    for file in files:
        removed = os.fstat(file)
        assert (removed.st_nlink, removed.st_mtime_ns) == (0, 1)
        assert removed.st_ctime_ns > 1
        os.utime(file, ns=(2, 3))
        os.truncate(file, 10)
        assert os.fstat(file).st_mtime_ns > 3
        os.close(file)
