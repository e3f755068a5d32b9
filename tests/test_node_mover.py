"""When the mover lets the doors be opened: after the loss of the index buckets are found first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.config import MIB, CacheConfig, VolumeConfig
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from node import mover


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """With a new index over a creatable store that has a bucket."""
    (tmp_path / "store" / "data").mkdir(parents=True)
    (tmp_path / "store" / "data" / "x").write_bytes(b"x")
    cache = CacheConfig(
        state_dir=tmp_path / "state",
        capacity_bytes=64 * MIB,
        segment_bytes=MIB,
        index_bytes=64 * MIB,
        sync=False,
    )
    store = PosixStore(PosixStoreConfig(path=tmp_path / "store"))
    volume = Volume.open(VolumeConfig(cache=cache, creatable_store="store"), {"store": store})
    yield volume
    volume.close()
    store.close()


def serve(volume: Volume) -> list[str]:
    """Until it is ready; the buckets that were known then."""
    known: list[str] = []

    def ready() -> None:
        known.extend(bucket.name for bucket in volume.buckets.list())
        os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        mover.serve(
            volume,
            upload_age_max_s=0,
            lifecycle_day_s=86400,
            ready=ready,
            report=lambda facts: None,
            grace_s=lambda: 5.0,
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return known


def test_the_buckets_of_a_lost_index_are_known_when_the_doors_open(volume: Volume) -> None:
    assert serve(volume) == ["data"]


def test_a_store_that_does_not_answer_keeps_no_door_shut(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(mover, "_FIRST_LOOK_S", 0.1)
    monkeypatch.setattr(volume.buckets, "adopt", lambda: int(answers.wait(10)))
    try:
        assert serve(volume) == []
    finally:
        answers.set()
