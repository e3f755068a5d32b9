"""The training mark: what a PyTorch DataLoader asks of its data, without PyTorch.

Eight worker processes take 128 KiB ranges of 100 MiB shards, every range once in an epoch, in an
order that is shuffled anew for each epoch. Three readers of the same ranges take turns: at the
store over the wire (direct), through the S3 door, through the mount; each of the two doors has a
node of its own that starts with nothing cached.

"Larger than memory" is scaled down: the data are a few hundred MiB, and after each epoch the pages
of the cache's segments and of the mount's files are dropped, so that a later epoch reads the
node's disk. The node's own disk may still have a cache of its own below.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

from bench import cold
from bench.cold import MIB, Far
from bench.reader import Reader
from bench.rounds import Row

WORKERS = 8
EPOCHS = 3
RANGE_BYTES = 128 << 10
SHARD_BYTES = 100 * MIB
_EPOCH_S_MAX = 600.0
_SPAWN = multiprocessing.get_context("spawn")

Place = tuple[int, int]
"""A range: number of the shard, and its first byte."""


def run(work: Path, bound_mb: float, delay_s: float, shard_count: int) -> list[Row]:
    """Reads a second, epoch by epoch. Not repeated: an epoch is thousands of reads."""
    with cold.far_store(work, delay_s, bound_mb * 1e6) as far:
        names = _fill(far, shard_count)
        direct = _epochs(far.wire.url, far.direct(names), shard_count)
        with cold.cold_node(work, far) as near:
            s3 = _epochs(
                near.node.endpoint, near.paths(names), shard_count, near.node.state_dir / "segments"
            )
        with cold.cold_node(work, far, mounted=True) as near:
            assert near.node.mount is not None
            files = [str(near.node.mount / cold.BUCKET / name) for name in names]
            mount = _epochs(None, files, shard_count, near.node.state_dir / "segments")
    rows = []
    for epoch in range(EPOCHS):
        row = Row(f"training, epoch {epoch + 1}, {WORKERS} workers, 128 KiB", "/s", "direct")
        row.figures = {"direct": direct[epoch], "s3": s3[epoch], "mount": mount[epoch]}
        rows.append(row)
    return rows


def _fill(far: Far, shard_count: int) -> list[str]:
    names = [f"shard-{number}" for number in range(shard_count)]
    for name in names:
        (far.directory / name).write_bytes(os.urandom(SHARD_BYTES))
    far.know(names)
    return names


def _epochs(
    url: str | None, places: list[str], shard_count: int, segments: Path | None = None
) -> list[float]:
    """Reads a second of each epoch. url: None for files."""
    rates = []
    ranges = [
        (shard, start)
        for shard in range(shard_count)
        for start in range(0, SHARD_BYTES, RANGE_BYTES)
    ]
    for epoch in range(EPOCHS):
        random.Random(epoch).shuffle(ranges)
        barrier = _SPAWN.Barrier(WORKERS + 1)
        workers = [
            _SPAWN.Process(
                target=_work, args=(barrier, url, places, ranges[number::WORKERS]), daemon=True
            )
            for number in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        barrier.wait(60)
        begun_s = time.perf_counter()
        barrier.wait(_EPOCH_S_MAX)  # BrokenBarrierError when a worker failed
        rates.append(len(ranges) / (time.perf_counter() - begun_s))
        for worker in workers:
            worker.join()
        if segments is not None:
            _drop_pages([*segments.glob("*.seg"), *([] if url else map(Path, places))])
    return rates


def _work(barrier: Barrier, url: str | None, places: list[str], ranges: list[Place]) -> None:
    with _reading(url, places) as read:
        barrier.wait(60)
        try:
            for shard, start in ranges:
                read(shard, start)
        except BaseException:
            barrier.abort()
            raise
        barrier.wait(_EPOCH_S_MAX)  # to end takes an interpreter as long as many reads


@contextmanager
def _reading(url: str | None, places: list[str]) -> Iterator[Callable[[int, int], None]]:
    """How a worker reads a range: over its own connection, or from files that it holds open."""
    if url is not None:
        with Reader(url) as reader:

            def get(shard: int, start: int) -> None:
                size = reader.get(places[shard], start, start + RANGE_BYTES).size_bytes
                assert size == RANGE_BYTES

            yield get
        return
    files = [os.open(place, os.O_RDONLY) for place in places]
    buffer = bytearray(RANGE_BYTES)

    def pread(shard: int, start: int) -> None:
        assert os.preadv(files[shard], [buffer], start) == RANGE_BYTES

    yield pread
    for file in files:
        os.close(file)


def _drop_pages(files: list[Path]) -> None:
    for path in files:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(file)  # pages that are not written yet are not dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
