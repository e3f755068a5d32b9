"""When a name's turn comes: after its delay, at once where that is asked for or room is short."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import dirty
from cache.config import MIB
from cache.index import Txn
from node.draining import drain
from tests.support.fault_store import no_fault, unavailable
from tests.support.volume import TestVolume, some_bytes
from tests.support.waiting import wait_until


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestVolume]:
    """Nothing is old enough to be persisted for as long as a test runs."""
    volume = TestVolume(tmp_path, persist_delay_ms=3_600_000)
    yield volume
    volume.close()


def test_what_is_removed_within_its_delay_never_goes_to_the_store(box: TestVolume) -> None:
    box.put(b"short-lived", b"1")
    box.put(b"rewritten", b"1")
    assert box.volume.queue.run_once() == 0
    box.delete(b"short-lived")
    box.put(b"rewritten", b"22")
    box.store.calls.clear()
    box.drain()
    assert list(box.stored()) == [b"rewritten"]
    assert box.stored_bytes(b"rewritten") == b"22"
    assert box.store.calls["put"] == 1


def test_a_drain_does_not_wait_for_the_delay(box: TestVolume) -> None:
    """Of more names than are persisted at the same time."""
    for number in range(40):
        box.put(b"%d" % number, b"x")
    queue = box.volume.queue
    begun = time.monotonic()
    assert drain(queue, lambda: queue.backlog().names, deadline=begun + 30) == (40, 0)
    assert time.monotonic() - begun < 20
    assert len(box.stored()) == 40


def test_a_drain_keeps_to_the_pauses_of_a_store_that_is_down(box: TestVolume) -> None:
    for number in range(40):
        box.put(b"%d" % number, b"x")
    box.store.before = unavailable
    queue = box.volume.queue
    queue.run_once(at_once=True)
    wait_until(queue.is_idle)
    assert queue.run_once(at_once=True) == 0, "the store rests as a whole"
    box.store.before = no_fault
    box.drain()
    assert len(box.stored()) == 40


def test_dirty_bytes_that_press_are_persisted_without_delay(box: TestVolume) -> None:
    """Writers would else be slowed down for bytes that nobody is working on."""
    soft = box.volume.admission.soft_bytes
    assert 2 * MIB < soft // 4 < 16 * MIB
    box.put(b"calm", some_bytes(2 * MIB))
    queue = box.volume.queue
    assert queue.run_once() == 0
    number = 0
    while queue.backlog().dirty_bytes <= soft // 4:
        box.put(b"press-%d" % number, some_bytes(2 * MIB, number))
        number += 1
    assert queue.run_once() > 0
    wait_until(queue.is_idle)
    assert box.is_stored(b"calm")
    box.drain()
    box.put(b"later", b"x")
    assert queue.run_once() == 0, "they are few again"


def test_a_clock_that_was_set_back_holds_nothing_up(
    box: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (b"from-the-future", b"put-off", b"failed"):
        box.put(key, b"x")
    soon = time.time_ns() + 10 * 10**9

    def wait(txn: Txn) -> None:
        dirty.put_off(txn, box.root, b"put-off", soon)
        dirty.failed(txn, box.root, b"failed", "the store is away", soon)

    box.volume.index.commit(wait)
    hour_ago = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr("cache.queue.time.time_ns", lambda: hour_ago)
    assert box.volume.queue.run_once() == 3
    wait_until(box.volume.queue.is_idle)
    assert set(box.stored()) == {b"from-the-future", b"put-off", b"failed"}
