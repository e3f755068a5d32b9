"""Readers who follow a range that arrives: none waits for ever, none is woken for every packet."""

from __future__ import annotations

import threading
from typing import cast

import pytest

from cache.cells import CellFill
from cache.errors import DeadlineExceeded
from cache.staging import Staged

KIB = 1 << 10


class Memory:
    """What a fill asks of a Staged."""

    def __init__(self) -> None:
        self.body = b""
        self.released = 0

    def write(self, chunk: bytes) -> None:
        self.body += chunk

    def read_back(self, start: int, length: int) -> bytes:
        return self.body[start : start + length]

    def release(self) -> None:
        self.released += 1


def begun(fill: CellFill, start: int) -> Memory:
    memory = Memory()
    fill.begin(start, cast("Staged", memory))
    return memory


def test_first_bytes_are_given_at_once_and_what_trickles_soon() -> None:
    fill = CellFill(100, 100 + 1024 * KIB)
    begun(fill, 100)
    fill.write(b"abc")
    assert fill.read(100, fill.stop, 30) == b"abc"
    fill.write(b"def")
    assert fill.read(103, fill.stop, 30) == b"def"  # no more comes within a moment


def test_a_follower_at_speed_is_given_many_packets_at_once() -> None:
    fill = CellFill(0, 1024 * KIB)
    begun(fill, 0)
    fill.write(b"a")
    woken = threading.Event()
    got: list[bytes] = []

    def follow() -> None:
        got.append(fill.read(1, fill.stop, 30))
        woken.set()

    follower = threading.Thread(target=follow)
    follower.start()
    for _ in range(8):
        fill.write(bytes(64 * KIB))
    assert woken.wait(30)
    follower.join()
    assert len(got[0]) >= 64 * KIB


def test_what_was_there_before_is_skipped() -> None:
    fill = CellFill(0, 300)
    begun(fill, 100)
    fill.write(bytes(100))
    assert fill.read(0, 300, 30) == b""
    assert fill.skipped_to(0, 300) == 100
    assert fill.read(100, 300, 30) == bytes(100)
    begun(fill, 250)
    assert fill.read(200, 300, 30) == b""
    assert fill.skipped_to(200, 300) == 250
    assert fill.skipped_to(200, 220) == 220


def test_an_end_and_a_deadline_end_the_wait() -> None:
    fill = CellFill(0, 300)
    begun(fill, 0)
    with pytest.raises(DeadlineExceeded):
        fill.read(0, 300, 0.01)
    with pytest.raises(DeadlineExceeded):
        fill.wait(0.01)
    fill.finish(OSError("the disk"))
    assert fill.read(0, 300, 30) == b""
    assert fill.skipped_to(0, 300) == 300
    fill.wait(0.01)


def test_the_last_to_leave_gives_all_segments_back() -> None:
    fill = CellFill(0, 300)
    fill.join()
    fill.join()
    parts = [begun(fill, 0), begun(fill, 200)]
    fill.leave()
    assert [part.released for part in parts] == [0, 0]
    fill.leave()
    assert [part.released for part in parts] == [1, 1]


def test_one_fills() -> None:
    fill = CellFill(0, 1)
    assert [fill.claim(), fill.claim(), fill.claim()] == [True, False, False]
