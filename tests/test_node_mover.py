"""When the mover lets the doors be opened: after the loss of the index buckets are found first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache.config import MIB, CacheConfig, VolumeConfig
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from node import child, mover


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


def serve(volume: Volume, *, may_close: bool = True) -> list[str]:
    """Until it is ready; the buckets that were known then."""
    known: list[str] = []

    def ready() -> None:
        known.extend(bucket.name for bucket in volume.buckets.list())
        os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ended = mover.serve(
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
    assert ended == may_close
    return known


def test_the_buckets_of_a_lost_index_are_known_when_the_doors_open(volume: Volume) -> None:
    assert serve(volume) == ["data"]


def test_a_store_that_does_not_answer_keeps_no_door_shut(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(mover, "_FIRST_LOOK_S", 0.1)
    monkeypatch.setattr(volume.buckets, "adopt", lambda: int(answers.wait(60)))
    try:
        assert serve(volume, may_close=False) == []
    finally:
        answers.set()


@pytest.mark.parametrize("may_close", [True, False])
def test_the_volume_is_closed_under_nobody_who_is_at_work_in_it(
    monkeypatch: pytest.MonkeyPatch, may_close: bool
) -> None:
    done: list[str] = []

    @contextlib.contextmanager
    def opened(config: object) -> Iterator[None]:
        yield
        done.append("closed")

    def end(code: int) -> None:
        done.append("ended")
        raise SystemExit(code)

    monkeypatch.setattr(child, "open_volume", opened)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(mover, "serve", lambda volume, **named: may_close)
    config: Any = SimpleNamespace(s3=SimpleNamespace(upload_age_max_s=0, lifecycle_day_s=1))
    reporter: Any = SimpleNamespace(report=None)
    with contextlib.suppress(SystemExit):
        child._mover(config, reporter)
    assert done == (["closed"] if may_close else ["ended"])
