"""Link counts of files with several names: the kernel counts down by itself, and nothing it hears
meanwhile may lead it astray (fuse/links.py).

The mount's process is held at the moments that matter, while somebody looks at another name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cache.errors import WouldWait
from cache.files import Files
from cache.records import Inode, Kind
from cache.renames import Renames
from cache.stores.base import Store
from fuse.links import Removals
from tests.support.mount import Mounted, mounted, requires_fuse
from tests.support.waiting import wait_until

DEADLINE_S = 60.0


class Hold:
    """A point in the mount's process where the next thread to come stops, once what it did is
    committed: an operation of Files by its name."""

    def __init__(self, home: Path, point: str) -> None:
        self._set = home / f"hold-{point}"
        self._met = home / f"met-{point}"

    def set(self) -> None:
        self._set.touch()

    def is_set(self) -> bool:
        return self._set.exists()

    def wait_until_met(self) -> None:
        wait_until(self._met.exists, deadline_s=DEADLINE_S)

    def release(self) -> None:
        self._met.unlink()

    def meet(self) -> None:
        """In the mount's process."""
        try:
            self._set.rename(self._met)
        except FileNotFoundError:
            return
        wait_until(lambda: not self._met.exists(), deadline_s=DEADLINE_S)


def with_holds(store: Store, home: Path) -> Store:
    """In the mount's process, before it mounts."""

    def held(operation: Callable[..., Any], hold: Hold) -> Callable[..., Any]:
        @functools.wraps(operation)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not kwargs.get("wait", True) and hold.is_set():
                raise WouldWait  # who is held must not be the loop
            result = operation(*args, **kwargs)
            hold.meet()
            return result

        return call

    for owner, point in ((Files, "unlink"), (Renames, "rename"), (Files, "set_attributes")):
        setattr(owner, point, held(getattr(owner, point), Hold(home, point)))
    return store


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(
        tmp_path_factory.mktemp("links"), prepare="tests.test_fuse_links:with_holds"
    ) as mount:
        yield mount


@pytest.fixture
def caller() -> Iterator[ThreadPoolExecutor]:
    """One thread beside the test's."""
    with ThreadPoolExecutor(1) as caller:
        yield caller


def look(path: Path) -> int:
    """The link count, as the mount's process tells it: having been read, the file has another time
    of access, which the kernel does not know."""
    if path.is_symlink():
        path.readlink()
    else:
        path.read_bytes()
    return path.lstat().st_nlink


@requires_fuse
@pytest.mark.parametrize("kind", ["file", "symlink"])
@pytest.mark.parametrize(
    ("verb", "point"),
    [
        ("unlink", "unlink"),
        ("rename", "rename"),
        # Having heard that it was renamed, the kernel sets the time of the file that moved, and
        # only then counts down for the one that was there.
        ("rename", "set_attributes"),
    ],
)
def test_whoever_looks_too_early_does_not_mislead_the_kernel(
    mount: Mounted, caller: ThreadPoolExecutor, verb: str, point: str, kind: str
) -> None:
    directory = mount.bucket / f"{kind}-{verb}-{point}"
    directory.mkdir()
    one, other, another, moving = (directory / n for n in ("one", "other", "another", "moving"))
    if kind == "file":
        one.write_text("text")
    else:
        one.symlink_to("text")
    os.link(one, other, follow_symlinks=False)
    moving.touch()

    def take() -> int:
        if verb == "unlink":
            one.unlink()
        else:
            moving.rename(one)
        return other.lstat().st_nlink

    hold = Hold(mount.home, point)
    hold.set()
    taken: Future[int] = caller.submit(take)
    hold.wait_until_met()
    early = look(other)
    hold.release()
    assert taken.result(DEADLINE_S) == 1
    os.link(other, another, follow_symlinks=False)
    assert early == 2  # the operation had not returned yet
    assert (look(other), look(another)) == (2, 2)


def inode(links: int) -> Inode:
    return Inode(7, Kind.FILE, 0o644, 0, 0, 0, links, 0, 0, 0)


def test_the_count_from_before_is_told_until_the_thread_asks_again() -> None:
    removals = Removals()
    removal = removals.begin(inode(3), thread=100)
    assert removals.links(inode(2)) == 3
    removals.asks(7, thread=101)
    removals.asks(8, thread=100)
    assert removals.links(inode(2)) == 3
    removals.asks(7, thread=100)
    assert removals.links(inode(2)) == 2
    removals.end(removal)


def test_one_removal_follows_another() -> None:
    removals = Removals()
    first = removals.begin(inode(3), thread=100)
    second = removals.begin(inode(2), thread=100)
    removals.end(first)  # the forget thread comes late
    assert removals.links(inode(1)) == 2
    removals.end(second)
    assert removals.links(inode(1)) == 1


def asked(removals: Removals, thread: int, meanwhile: Callable[[], None]) -> tuple[bool, int]:
    """Whether a thread that asks for the attributes waits, and the count that it is told;
    meanwhile: what happens then."""
    told: list[int] = []

    async def ask() -> None:
        await removals.over(7, thread)
        told.append(removals.links(inode(2)))

    async def main() -> bool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            waits = not told
            meanwhile()
        return waits

    waits = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return waits, told[0]


def test_who_asks_once_the_operation_has_returned_is_told_the_true_count() -> None:
    removals = Removals()
    end = removals.answered(removals.begin(inode(3), thread=100))
    assert asked(removals, 101, end) == (True, 2)
    removals.answered(removals.begin(inode(3), thread=100))
    assert asked(removals, 101, lambda: removals.asks(7, thread=100)) == (True, 2)


def test_who_asks_before_it_has_returned_does_not_wait_for_it() -> None:
    removals = Removals()
    removals.begin(inode(3), thread=100)
    assert asked(removals, 101, lambda: None) == (False, 3)


def test_who_keeps_it_from_returning_does_not_wait_for_ever() -> None:
    """Nor in this test: the clock of its loop jumps."""
    removals = Removals()
    removals.answered(removals.begin(inode(3), thread=100))
    assert asked(removals, 101, lambda: None) == (True, 3)
