"""Bodies out of the cache: what is on the disk, and not in memory, keeps nobody else waiting."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache import disk
from cache.contents import FileRange
from tests.support.s3 import Door, door
from tests.support.volume import some_bytes
from tests.support.waiting import wait_until

__all__ = ["door"]

MIB = 1 << 20
WAIT_S = 20.0


def drop(fd: int, place: int = 0) -> None:
    """Have nothing of a file in memory, by a look at one place; a page that somebody has in hand
    just now stays for a moment."""
    try:
        os.preadv(fd, [bytearray(1)], place, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
    except OSError as exc:
        pytest.skip(f"the file system does not tell what is in memory: {exc}")

    def dropped() -> bool:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return disk.waits_for_disk(fd, place, 1)

    wait_until(dropped, "the pages leave memory", WAIT_S)


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(some_bytes(3 * MIB + 5))
    return path


def test_what_is_in_memory_is_not_waited_for(body: Path) -> None:
    with body.open("rb") as file:
        file.read()
        assert not disk.waits_for_disk(file.fileno(), 0, 3 * MIB + 5)


@pytest.mark.parametrize("start", [0, MIB, 2 * MIB])
def test_what_was_loaded_is_in_memory_and_nothing_else(body: Path, start: int) -> None:
    with body.open("r+b") as file:
        fd = file.fileno()
        drop(fd)
        disk.load(fd, start, MIB, 0)
        assert not disk.waits_for_disk(fd, start, MIB)
        assert disk.waits_for_disk(fd, 0, 3 * MIB)


def test_the_disk_keeps_nobody_else_waiting(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = door.new_bucket()
    content = some_bytes(6 * MIB + 7)
    client = door.client()
    client.put_object(Bucket=bucket, Key="large", Body=content)
    client.put_object(Bucket=bucket, Key="small", Body=b"small")
    client.get_object(Bucket=bucket, Key="large")["Body"].read()  # verified from now on
    _, snapshot = door.volume.objects.open(bucket, b"large")
    with snapshot:
        for piece in snapshot.cached(0, len(content)) or ():
            assert isinstance(piece, FileRange)
            drop(piece.file.fileno(), piece.offset)
    load, loads, goes_on = disk.load, [], threading.Event()

    def slow(*place: int) -> None:
        loads.append(place)
        assert goes_on.wait(WAIT_S)
        load(*place)

    monkeypatch.setattr(disk, "load", slow)
    with ThreadPoolExecutor(1) as reader:
        large = reader.submit(lambda: door.request("GET", f"/{bucket}/large"))
        try:
            wait_until(lambda: bool(loads), "the disk is asked", WAIT_S)
            assert door.request("GET", f"/{bucket}/small").body == b"small"
            assert not large.done()
        finally:
            goes_on.set()
        assert large.result(WAIT_S).body == content
    assert len(loads) < 6  # a part of what lies behind was loaded with what was waited for
