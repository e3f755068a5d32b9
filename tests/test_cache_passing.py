"""Large bodies leave memory when they are on the disk: written and read with RWF_DONTCACHE where
the kernel has it, in the ordinary way where not, and the same bytes either way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache import disk
from cache.config import MIB, CacheDirectory
from cache.errors import CacheFull, ExtentCorrupt
from cache.namespace import Place
from cache.records import WriteMode
from cache.segments import BLOCK, PASSING_BYTES
from cache.snapshot import FileRange
from tests.support.loop_disk import loop_disk, requires_loop
from tests.support.volume import TestVolume, some_bytes

ODD_LENGTHS = (1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1)


def room(directory: Path, *, sync: bool = False, **cache: object) -> TestVolume:
    """A volume whose segments have room for the largest extents."""
    settings: dict[str, object] = {"capacity_bytes": 768 * MIB, "segment_bytes": 32 * MIB}
    return TestVolume(directory, sync=sync, **(settings | cache))  # type: ignore[arg-type]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestVolume]:
    box = room(tmp_path)
    yield box
    box.close()


def refusing(number: int) -> Callable[..., int]:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


# ---------------------------------------------------------------------- the calls


@pytest.mark.parametrize(
    ("release", "has_it"),
    [
        ("6.1.0-13-amd64", False),
        ("6.14.11-300.fc42.x86_64", False),
        ("6.15.9", False),
        ("6.16.0", True),
        ("6.18.44", True),
        ("7.0-rc1", True),
        ("unknown", False),
    ],
)
def test_only_kernels_that_do_it_right_are_asked(release: str, has_it: bool) -> None:
    assert bool(disk.passing_flags(release)) is has_it


@pytest.mark.parametrize("length", ODD_LENGTHS)
def test_a_passing_write_touches_its_own_bytes_only(tmp_path: Path, length: int) -> None:
    before, body = some_bytes(length + 2 * BLOCK, "before"), some_bytes(length)
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        file.write(before)
        disk.write_at(file.fileno(), memoryview(body), BLOCK, passing=True)
        os.fdatasync(file.fileno())
        expected = before[:BLOCK] + body + before[BLOCK + length :]
        assert disk.read_passing(file.fileno(), len(expected), 0) == expected
        assert os.pread(file.fileno(), len(expected), 0) == expected


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As a kernel that was given the flag."""
    monkeypatch.setattr(disk, "_PASSING", 0x80)
    monkeypatch.setattr(os, "pwritev", refusing(number))
    monkeypatch.setattr(os, "preadv", refusing(number))


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_where_it_is_refused_the_ordinary_calls_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(monkeypatch, number)
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        disk.write_at(file.fileno(), b"some bytes", 3, passing=True)
        assert disk.read_passing(file.fileno(), 99, 0) == b"\0\0\0some bytes"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_what_the_disk_refuses_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(monkeypatch, number)
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        with pytest.raises(OSError, match=os.strerror(number)):
            disk.write_at(file.fileno(), b"some bytes", 0, passing=True)
        with pytest.raises(OSError, match=os.strerror(number)):
            disk.read_passing(file.fileno(), 10, 0)
        assert file.seek(0, os.SEEK_END) == 0


def test_short_writes_go_on_where_they_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def half(fd: int, views: list[memoryview], offset: int, flags: int) -> int:
        calls.append((len(views[0]), offset, flags))
        return os.pwrite(fd, views[0][: max(1, len(views[0]) // 2)], offset)

    monkeypatch.setattr(disk, "_PASSING", 0x80)
    monkeypatch.setattr(os, "pwritev", half)
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        disk.write_at(file.fileno(), b"0123456789", BLOCK, passing=True)
        assert calls == [
            (10, BLOCK, 0x80),
            (5, BLOCK + 5, 0x80),
            (3, BLOCK + 7, 0x80),
            (2, BLOCK + 8, 0x80),
            (1, BLOCK + 9, 0x80),
        ]
        assert os.pread(file.fileno(), 10, BLOCK) == b"0123456789"


# ---------------------------------------------------------------------- what passes


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """(length, passing) of each write."""
    found: list[tuple[int, bool]] = []
    write_at = disk.write_at

    def noted(fd: int, data: bytes, offset: int, *, passing: bool = False) -> None:
        found.append((len(data), passing))
        write_at(fd, data, offset, passing=passing)

    monkeypatch.setattr(disk, "write_at", noted)
    return found


def test_large_bodies_pass_and_small_ones_stay(
    box: TestVolume, written: list[tuple[int, bool]]
) -> None:
    box.put(b"warm-up", b"x" * 5000)  # begins the segment
    written.clear()
    box.put(b"small", bytes(PASSING_BYTES - 1), chunk_bytes=8 * MIB)
    box.put(b"large", bytes(PASSING_BYTES), chunk_bytes=8 * MIB)
    assert written == [(PASSING_BYTES - 1, False), (PASSING_BYTES, True)]


def test_a_body_that_goes_through_to_the_store_passes(
    tmp_path: Path, written: list[tuple[int, bool]]
) -> None:
    box = room(tmp_path, write_mode=WriteMode.WRITE_THROUGH)
    body = some_bytes(2 * MIB)
    box.put(b"large", body, chunk_bytes=8 * MIB)
    assert (len(body), True) in written
    assert not any(length >= PASSING_BYTES and not passing for length, passing in written)
    assert box.get(b"large") == body
    box.close()


def test_what_is_fetched_for_a_reader_stays(
    box: TestVolume, written: list[tuple[int, bool]]
) -> None:
    body = some_bytes(3 * MIB)
    box.put(b"large", body)
    box.drain()
    box.evict()
    written.clear()
    assert box.get(b"large") == body
    assert sum(length for length, _ in written) >= len(body)
    assert not any(passing for _, passing in written)


def test_a_file_of_the_store_passes_in_its_whole_steps(
    box: TestVolume, written: list[tuple[int, bool]]
) -> None:
    body = some_bytes(2 * MIB + 7)
    box.put(b"large", body)
    written.clear()
    box.drain()
    assert written == [(MIB, True), (MIB, True), (7, False)]
    assert (box.store_dir / "large").read_bytes() == body


# ---------------------------------------------------------------------- whole bodies


def test_bodies_of_odd_lengths_come_back_at_both_doors_and_in_the_store(box: TestVolume) -> None:
    bodies = {b"b%d" % length: some_bytes(length) for length in ODD_LENGTHS}
    for key, body in bodies.items():
        box.put(key, body, chunk_bytes=700_001)
        # At once, and through what sendfile and the mount would take.
        assert box.get(key) == body == box.read(key)
        _, snapshot = box.volume.objects.open("bucket", key)
        with snapshot:
            pieces = snapshot.cached(0, len(body))
            assert pieces is not None
            assert b"".join(p.read() if isinstance(p, FileRange) else p for p in pieces) == body
    box.drain()
    for key, body in bodies.items():
        assert box.stored_bytes(key) == body
    box.restart()  # nothing is known to be verified any more
    for key, body in bodies.items():
        assert box.get(key) == body
    box.check()


def test_files_written_through_the_mount_in_pieces_come_back(box: TestVolume) -> None:
    body = bytearray(some_bytes(6 * MIB + 11))
    box.create(b"file")
    for start in range(0, len(body), MIB):
        box.write(b"file", bytes(body[start : start + MIB]), start)
    body[MIB - 5 : 3 * MIB + 5] = some_bytes(2 * MIB + 10, "over it")
    box.write(b"file", bytes(body[MIB - 5 : 3 * MIB + 5]), MIB - 5)
    assert box.read(b"file") == bytes(body) == box.get(b"file")
    box.drain()
    assert box.stored_bytes(b"file") == bytes(body)
    box.check()


def test_writers_side_by_side_in_one_segment_do_not_touch_each_other(box: TestVolume) -> None:
    bodies = {b"w%d" % n: some_bytes(3 * MIB + n, n) for n in range(4)}
    bodies |= {b"s%d" % n: some_bytes(9000 + n, n) for n in range(4)}
    with ThreadPoolExecutor(len(bodies)) as writers:
        for done in [writers.submit(box.put, key, body) for key, body in bodies.items()]:
            done.result()
    box.restart()
    assert {key: box.get(key) for key in bodies} == bodies
    box.check()


def test_a_write_that_fails_leaves_the_old_object(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = some_bytes(2 * MIB, "old")
    box.put(b"large", old)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_PASSING", 0x80)
        patch.setattr(os, "pwritev", refusing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            box.put(b"large", some_bytes(2 * MIB, "new"))
    assert box.get(b"large") == old
    box.put(b"large", some_bytes(2 * MIB, "newer"))
    box.check()


def test_a_segment_that_failed_to_sync_acknowledges_nothing_more(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation = box.volume.segments.dirty.reserve(2 * MIB)
    reservation.write(memoryview(bytes(2 * MIB)))
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_data", refusing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            reservation.segment.sync()
    reservation.segment.wrote()
    with pytest.raises(OSError, match="failed to sync before"):
        reservation.segment.sync()
    reservation.release()


def test_bad_bytes_are_not_persisted(box: TestVolume) -> None:
    box.put(b"large", some_bytes(3 * MIB))
    box.restart()
    _, snapshot = box.volume.objects.open("bucket", b"large")
    with snapshot:
        (extent,) = snapshot._extents
    (path,) = box.volume.segments.paths()
    with path.open("r+b") as file:
        file.seek(extent.offset + 2 * MIB + 1)
        file.write(b"rotten")
    _, snapshot = box.volume.objects.open("bucket", b"large")
    snapshot.warms = False
    with snapshot, pytest.raises(ExtentCorrupt):
        list(snapshot.pieces(0, snapshot.size))
    with pytest.raises(ExtentCorrupt):
        box.volume.persister.persist(Place(box.root, box.root, b"large"))
    assert not box.is_stored(b"large")


# ---------------------------------------------------------------------- disks


@pytest.fixture
def thin_memory(tmp_path: Path) -> Iterator[Path]:
    """40 MiB for an image that says it is larger."""
    directory = tmp_path / "memory"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", directory], check=True)
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


@requires_loop
def test_a_disk_that_fails_behind_the_write_fails_the_commit(
    tmp_path: Path, thin_memory: Path
) -> None:
    with loop_disk(thin_memory / "image", tmp_path / "disk", 256 * MIB) as thin:
        directory = CacheDirectory(thin.directory / "segments", 192 * MIB)
        box = room(tmp_path, sync=True, directories=(directory,), segment_bytes=16 * MIB)
        acknowledged: list[int] = []

        def put_60_mib() -> None:
            for number in range(20):
                box.put(b"b%d" % number, some_bytes(3 * MIB, number))
                acknowledged.append(number)

        try:
            with pytest.raises((OSError, CacheFull)):
                put_60_mib()
            assert acknowledged
            for number in acknowledged:
                assert box.get(b"b%d" % number) == some_bytes(3 * MIB, number)
            assert len(box.listed()) == len(acknowledged)
            box.restart()  # verified anew, from the disk
            for number in acknowledged:
                assert box.get(b"b%d" % number) == some_bytes(3 * MIB, number)
        finally:
            box.close()


_WRITES = """
import sys
from pathlib import Path
from tests.test_cache_passing import ODD_LENGTHS, room, some_bytes

box = room(Path(sys.argv[1]), sync=True)
for length in ODD_LENGTHS:
    box.put(b"b%d" % length, some_bytes(length))
writer = box.volume.objects.writer("bucket", b"begun", size_bytes=8 << 20)
writer.write(some_bytes(8 << 20))  # written, and no commit
print("written", flush=True)
sys.stdin.read()
"""


@requires_loop
def test_acknowledged_bodies_outlive_a_power_cut(tmp_path: Path) -> None:
    with loop_disk(tmp_path / "image", tmp_path / "disk", 512 * MIB) as power:
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITES, power.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"written\n"
            power.cut_power()
            child.kill()
        power.restore_power()
        box = room(power.directory, sync=True)
        try:
            for length in ODD_LENGTHS:
                assert box.get(b"b%d" % length) == some_bytes(length)
            assert b"begun" not in box.listed()
            box.check()
        finally:
            box.close()
