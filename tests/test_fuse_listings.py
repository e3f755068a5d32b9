"""Entries that are kept from one listing to the next: never longer than they are true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from cache.access_times import AccessTimes
from fuse.interrupts import Interrupts
from fuse.links import Removals
from fuse.listings import Entry, Listings
from fuse.threads import Lane
from fuse.told import Told
from tests.support.volume import BUCKET, TestVolume, box

__all__ = ["box"]


class Listed:
    """Listings of a volume's bucket, and how often the index was asked."""

    def __init__(self, box: TestVolume, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        volume = box.volume
        self.directory = volume.buckets.get(BUCKET).root
        self.times = AccessTimes(volume.index)
        self.removals = Removals()
        look: Callable[..., Any] = volume.files.entries_now

        def counted(*arguments: Any) -> Any:
            self.looks += 1
            return look(*arguments)

        monkeypatch.setattr(volume.files, "entries_now", counted)
        told = Told(volume.files, volume.open_files, self.times, self.removals)
        lane = Lane("metadata", threads=1, deadline_s=10, interrupts=Interrupts())
        self._listings = Listings(volume.files, told, lane)

    def entries(self) -> dict[bytes, Entry]:
        found = trio.run(self._listings.entries, self.directory, b"", 10)
        return {entry.name: entry for entry in found}


@pytest.fixture
def listed(box: TestVolume, monkeypatch: pytest.MonkeyPatch) -> Listed:
    box.create(b"a")
    box.create(b"b")
    return Listed(box, monkeypatch)


def test_what_was_looked_up_is_handed_out_again_while_nothing_changes(listed: Listed) -> None:
    first = listed.entries()
    assert sorted(first) == [b"a", b"b"]
    assert listed.entries() == first
    assert listed.looks == 1


def test_every_commit_makes_it_look_again(box: TestVolume, listed: Listed) -> None:
    listed.entries()
    box.put(b"c", b"123")
    assert listed.entries()[b"c"].told.st_size == 3
    assert listed.looks == 2


def test_what_is_not_in_the_index_yet_is_told(box: TestVolume, listed: Listed) -> None:
    inode = listed.entries()[b"a"].inode
    file = box.volume.open_files.open(inode.id, write=True)
    file.write(0, b"12345")
    assert listed.entries()[b"a"].told.st_size == 5
    file.release()
    listed.entries()
    listed.times.note(box.volume.files.get(inode.id))
    assert listed.entries()[b"a"].told.st_atime_ns > inode.atime_ns
    removal = listed.removals.begin(box.volume.files.link(inode.id, listed.directory, b"l"), 0)
    box.volume.files.unlink(listed.directory, b"l")
    assert listed.entries()[b"a"].told.st_nlink == 2
    listed.removals.end(removal)
    assert listed.entries()[b"a"].told.st_nlink == 1
