"""The eviction mark: hit ratios of a volume beside simulators of other policies, on the same reads.

The volume is a real one over a directory, with the segments that a cache of its capacity has by
default; reads go through the S3 door's own call, the reclaimer runs when something was fetched,
and the reads are folded into the index as they are in a node, every so often. All of it in one
thread, so that a figure depends on the trace alone. A hit is an object of which no byte had to be
fetched. The simulators get the same capacity to the byte.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

from prometheus_client import REGISTRY

from bench.policies import Lru, Policy, S3Fifo, Sieve
from bench.rounds import Row
from bench.traces import Trace, moving_zipf_with_scans, training, zipf_with_scans
from cache.errors import CacheFull
from cache.records import WriteMode
from tests.support.volume import BUCKET, TestVolume

SHARES = (0.1, 0.3)
REFERENCE = "S3-FIFO"
_FOLD_EVERY = 50
"""Reads. The reads of a node in a second, for its size, are fewer."""


def run(work: Path, *, quick: bool) -> list[Row]:
    """quick: the smallest cache only."""
    traces = [
        zipf_with_scans(4000, 60_000),
        moving_zipf_with_scans(4000, 60_000),
        training(2700, 5, shuffled=True),
        training(2700, 5, shuffled=False),
    ]
    return [
        row
        for trace in traces
        for share in (SHARES[:1] if quick else SHARES)
        for row in _compared(work, trace, int(trace.data_bytes * share), share)
    ]


def _compared(work: Path, trace: Trace, capacity_bytes: int, share: float) -> list[Row]:
    name = f"{trace.name}, cache {share:.0%}"
    hits = Row(name, "% of objects", REFERENCE)
    bytes_hit = Row(name, "% of bytes", REFERENCE)
    written = Row(name, "bytes rewritten / filled", "Forebay")
    with _OurVolume(work / "volume", trace, capacity_bytes) as ours:
        contenders: dict[str, Policy] = {
            "Forebay": ours,
            "LRU": Lru(capacity_bytes),
            "S3-FIFO": S3Fifo(capacity_bytes, main_first=True),
            "S3-FIFO (paper)": S3Fifo(capacity_bytes, main_first=False),
            "SIEVE": Sieve(capacity_bytes),
        }
        for contender, policy in contenders.items():
            hits.figures[contender], bytes_hit.figures[contender] = _ratios(trace, policy)
        written.figures["Forebay"] = ours.rewritten_share
    return [hits, bytes_hit, written]


def _ratios(trace: Trace, policy: Policy) -> tuple[float, float]:
    """Hits by object and by byte, in percent, of the reads that count."""
    hits = bytes_hit = bytes_read = 0
    for turn, key in enumerate(trace.reads):
        size = trace.sizes[key]
        hit = policy.read(key, size)
        if turn >= trace.warm:
            bytes_read += size
            if hit:
                hits += 1
                bytes_hit += size
    return 100 * hits / (len(trace.reads) - trace.warm), 100 * bytes_hit / bytes_read


class _OurVolume:
    """A volume over a directory that holds the trace's objects, as a policy."""

    def __init__(self, directory: Path, trace: Trace, capacity_bytes: int) -> None:
        self._directory = directory
        store = directory / "store"
        store.mkdir(parents=True)
        noise = random.Random(0).randbytes(max(trace.sizes))
        for key, size in enumerate(trace.sizes):
            (store / _name(key)).write_bytes(noise[:size])
        self._box = TestVolume(
            directory,
            write_mode=WriteMode.WRITE_THROUGH,
            capacity_bytes=capacity_bytes,
            segment_bytes=None,
            index_bytes=256 << 20,
        )
        self._reads = 0
        self._filled, self._moved = _counted("fetched"), _counted("moved")

    def __enter__(self) -> _OurVolume:
        return self

    def __exit__(self, *_: object) -> None:
        self._box.close()
        shutil.rmtree(self._directory)

    def read(self, key: int, size: int) -> bool:
        volume = self._box.volume
        before = _counted("fetched")
        found, snapshot = volume.objects.open(BUCKET, _name(key).encode())
        with snapshot:
            if len(snapshot.read(0, size)) != size:
                raise RuntimeError(f"object {key} is not whole")
        hit = _counted("fetched") == before
        self._reads += 1
        if self._reads % _FOLD_EVERY == 0:
            volume.contents.fold_heat()
        if not hit:
            with contextlib.suppress(CacheFull):
                volume.fetcher.fill_all(found.inode)  # readers are ahead of the commit
            volume.reclaimer.run_once()
        return hit

    @property
    def rewritten_share(self) -> float:
        """Bytes that the reclaimer wrote, for each byte that was fetched."""
        return (_counted("moved") - self._moved) / (_counted("fetched") - self._filled)


def _name(key: int) -> str:
    return f"object-{key:06}"


def _counted(what: str) -> float:
    return REGISTRY.get_sample_value(f"forebay_{what}_bytes_total") or 0.0
