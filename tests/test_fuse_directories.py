"""Listings: complete, stable under change, resumable from any cookie, linear."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.mount import Mounted, mounted, requires_fuse
from tests.support.syscalls import Directory

pytestmark = requires_fuse

COUNT = 3000


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    home = tmp_path_factory.mktemp("directories")
    # What is in the store already is listed there once, which is the quick way to many names.
    (home / "store").mkdir()
    for name in ("changing", "seeking", "plain"):
        directory = home / "store" / name
        directory.mkdir()
        for number in range(COUNT):
            (directory / _name(number)).touch()
    with mounted(home) as mount:
        yield mount


def _name(number: int) -> str:
    return f"{number:05d}" + "x" * (number % 40)


NAMES = [_name(number) for number in range(COUNT)]


def test_a_large_directory_is_listed_completely(mount: Mounted) -> None:
    directory = mount.bucket / "plain"
    assert sorted(os.listdir(directory)) == NAMES
    with os.scandir(directory) as entries:
        assert all(entry.is_file(follow_symlinks=False) for entry in entries)


def test_dot_and_dot_dot_come_first(mount: Mounted) -> None:
    with Directory(mount.bucket / "plain") as listing:
        assert [listing.read(), listing.read()] == [".", ".."]


def test_files_made_and_removed_meanwhile_do_not_disturb_the_others(mount: Mounted) -> None:
    directory = mount.bucket / "changing"
    rng = random.Random(7)
    removed: set[str] = set()
    made: set[str] = set()
    seen: list[str] = []
    with Directory(directory) as listing:
        while (name := listing.read()) is not None:
            if name in (".", ".."):
                continue
            seen.append(name)
            if len(seen) % 50 == 0:
                victim = rng.choice(NAMES)
                if victim not in removed:
                    (directory / victim).unlink()
                    removed.add(victim)
                new = f"{rng.randrange(COUNT):05d}-made-{len(seen)}"
                (directory / new).touch()
                made.add(new)
    assert len(seen) == len(set(seen))
    assert set(NAMES) - removed <= set(seen)
    assert set(seen) <= set(NAMES) | made


def test_every_cookie_leads_back_while_the_directory_changes(mount: Mounted) -> None:
    directory = mount.bucket / "seeking"
    rng = random.Random(11)
    with Directory(directory) as listing:
        places: list[tuple[int, str]] = []  # a cookie, and the name that follows it
        cookie = listing.tell()
        while (name := listing.read()) is not None:
            places.append((cookie, name))
            cookie = listing.tell()
        removed = set(rng.sample(NAMES, 300))
        for name in removed:
            (directory / name).unlink()
        for number in rng.sample(range(COUNT), 300):
            (directory / f"{number:05d}~made").touch()
        for cookie, name in rng.sample(places, 200):
            if name in (".", "..") or name in removed:
                continue
            listing.seek(cookie)
            # What was made in between may come first; then the name that came first then.
            following = [listing.read() for _ in range(20)]
            assert name in following
            assert all(str(n) <= name for n in following[: following.index(name)])
        listing.rewind()
        assert set(NAMES) - removed <= set(listing.rest())


def test_an_old_listing_is_not_shown_again_after_rewind(mount: Mounted) -> None:
    directory = mount.bucket / "small"
    directory.mkdir()
    (directory / "one").touch()
    with Directory(directory) as listing:
        assert listing.rest() == ["one"]
        (directory / "two").touch()
        (directory / "one").unlink()
        listing.rewind()
        assert listing.rest() == ["two"]


def test_directories_that_are_in_no_store_can_be_synced(mount: Mounted) -> None:
    for directory in (mount.root, mount.bucket):
        sync(directory)


def test_syncing_a_directory_persists_itself_and_its_names(mount: Mounted) -> None:
    directory = mount.bucket / "synced"
    directory.mkdir()
    sync(directory)
    (directory / "file").touch()
    directory.chmod(0o700)
    sync(directory)
    stored = mount.store / "synced"
    assert stored.stat().st_mode & 0o777 == 0o700
    assert (stored / "file").exists()


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("many", [100_000, 1_000_000])
def test_a_large_directory_lists_in_linear_time(tmp_path: Path, many: int) -> None:
    """The mount's processor time for each entry in a directory of so many is as in one of a
    fiftieth."""
    each = {}
    counts = (many // 50, many)
    for count in counts:
        directory = tmp_path / "store" / str(count)
        directory.mkdir(parents=True)
        for number in range(count):
            os.mknod(directory / f"{number:07d}")
    with mounted(tmp_path, metadata_deadline_s=1800) as mount:
        assert mount.process is not None
        process = psutil.Process(mount.process.pid)
        for count in counts:
            directory = mount.bucket / str(count)
            assert not (directory / "missing").exists()  # now it is known
            before = sum(process.cpu_times()[:2])
            assert len(os.listdir(directory)) == count
            each[count] = (sum(process.cpu_times()[:2]) - before) / count
    # Of the small one, processor time is told in steps of 10 ms.
    assert each[counts[1]] < 2 * each[counts[0]] + 0.02 / counts[0]
