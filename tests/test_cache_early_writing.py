"""Extents of large bodies are on their way to the disk before the commit waits for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import disk
from cache.config import MIB
from tests.support.volume import TestVolume


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestVolume]:
    box = TestVolume(tmp_path, capacity_bytes=512 * MIB, segment_bytes=32 * MIB)
    yield box
    box.close()


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of what was begun to be written."""
    lengths: list[int] = []
    begin = disk.start_writing

    def start_writing(fd: int, offset: int, length: int) -> None:
        lengths.append(length)
        begin(fd, offset, length)

    monkeypatch.setattr(disk, "start_writing", start_writing)
    return lengths


def test_full_extents_are_begun_and_the_last_one_is_left_to_the_sync(
    box: TestVolume, early: list[int]
) -> None:
    body = os.urandom(9 * MIB)
    box.put(b"large", body)
    assert early == [4 * MIB, 4 * MIB]
    assert box.read(b"large") == body
    box.put(b"small", body[:MIB])
    assert len(early) == 2


def test_what_the_disk_refuses_is_raised(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x" * 8192)
        file.flush()
        disk.start_writing(file.fileno(), 0, 8192)
    read_end, write_end = os.pipe()
    with pytest.raises(OSError, match="seek"):
        disk.start_writing(write_end, 0, 10)
    os.close(read_end)
    os.close(write_end)
