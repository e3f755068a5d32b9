"""atime, as relatime has it."""

from __future__ import annotations

import time

import msgspec

from cache.access_times import AccessTimes
from cache.files import SetAttributes
from cache.records import Inode, Kind
from tests.support.volume import TestVolume, box

__all__ = ["box"]

DAY_NS = 24 * 3600 * 10**9


def inode(box: TestVolume, *, atime_ns: int, mtime_ns: int) -> Inode:
    return Inode(7, Kind.FILE, 0o644, 0, 0, 0, 1, atime_ns, mtime_ns, mtime_ns)


def is_noted(box: TestVolume, read: Inode) -> bool:
    times = AccessTimes(box.volume.index)
    times.note(read)
    return times.shown(read).atime_ns != read.atime_ns


def test_which_reads_count(box: TestVolume) -> None:
    now = time.time_ns()
    assert is_noted(box, inode(box, atime_ns=now - 9, mtime_ns=now - 9))
    assert is_noted(box, inode(box, atime_ns=now - 10, mtime_ns=now - 9))
    assert not is_noted(box, inode(box, atime_ns=now - 8, mtime_ns=now - 9))
    assert is_noted(box, inode(box, atime_ns=now - DAY_NS, mtime_ns=now - 2 * DAY_NS))
    assert not is_noted(box, inode(box, atime_ns=now + DAY_NS, mtime_ns=now))


def test_a_read_is_shown_at_once_and_written_later(box: TestVolume) -> None:
    made = box.create(b"f")
    times = box.volume.access_times
    times.note(made)
    shown = times.shown(made).atime_ns
    assert made.atime_ns < shown <= time.time_ns()
    times.note(made)
    assert times.shown(made).atime_ns == shown  # not after the last change any more
    assert box.inode(b"f").atime_ns == made.atime_ns
    times.write()
    written = box.inode(b"f")
    assert written.atime_ns == shown
    assert written == msgspec.structs.replace(made, atime_ns=shown)
    box.restart()
    assert box.inode(b"f").atime_ns == shown


def test_what_is_set_stays(box: TestVolume) -> None:
    made = box.create(b"f")
    times = box.volume.access_times
    times.note(made)
    times.forget(made.id)
    box.volume.files.set_attributes(made.id, SetAttributes(atime_ns=5))
    times.write()
    assert times.shown(box.inode(b"f")).atime_ns == 5


def test_a_file_that_is_gone_is_no_error(box: TestVolume) -> None:
    made = box.create(b"f")
    box.volume.access_times.note(made)
    box.unlink(b"f")
    box.reap()
    box.volume.access_times.write()
    assert box.volume.access_times.shown(made) == made


def test_closing_writes_what_was_noted(box: TestVolume) -> None:
    made = box.create(b"f")
    box.volume.access_times.note(made)
    box.restart()
    assert box.inode(b"f").atime_ns > made.atime_ns
