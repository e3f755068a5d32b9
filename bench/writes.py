"""S3 marks of writing: durable PUTs beside nginx and rclone serve s3, and what the machine can do.

nginx and rclone acknowledge what is in the page cache. The other references are the machine's: the
rate at which one thread syncs 4 KiB (`disk`), and at which one thread makes MD5s (`md5`), which
every PUT has to.

Each request has a key of its own for as long as any other is under way: rclone refuses one of two
bodies that are written under one key at a time. After its turn Forebay comes to rest, outside the
time that is measured: else its work on the store would cost those whose turn is next.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import load
from bench.rounds import Row, measure
from bench.s3 import KIB, MIB, Contender, contenders

_SYNCS = 500
_LARGE_S = 5
"""Of load in a round, at least, where a request takes half a second."""
_KEYS = {4 * KIB: 2000, MIB: 100, 64 * MIB: 16}


def run(work: Path, rounds: int, seconds: int, gateways: int) -> list[Row]:
    with contenders(work, gateways, {}) as found:
        rate, median = load.wrk, partial(load.wrk, by_median=True)
        puts = partial(_runs, work, found, seconds)
        disk = {"disk": partial(_syncs_per_second, work)}
        small = 4 * KIB
        return [
            measure("PUT 4 KiB, 1 conn", "/s", "rclone", puts(small, 1, rate), rounds),
            measure(
                "PUT 4 KiB, 1 conn: 1 / p50", "/s", "disk", puts(small, 1, median) | disk, rounds
            ),
            measure("PUT 4 KiB, 32 conn", "/s", "rclone", puts(small, 32, rate), rounds),
            measure("PUT 4 KiB, 32 conn", "/s", "disk", puts(small, 32, rate) | disk, rounds),
            measure("PUT 1 MiB, 8 conn", "MB/s", "rclone", puts(MIB, 8, rate), rounds),
            measure(
                "PUT 64 MiB, 1 conn",
                "MB/s",
                "md5",
                puts(64 * MIB, 1, rate) | {"md5": _hashed_per_second},
                rounds,
            ),
            measure("PUT 64 MiB, 8 conn", "MB/s", "rclone", puts(64 * MIB, 8, rate), rounds),
        ]


def _runs(
    work: Path,
    found: dict[str, Contender],
    seconds: int,
    size: int,
    connections: int,
    ask: Callable[..., float],
) -> dict[str, Callable[[], float]]:
    """A turn of each contender: requests per second, or MB where a request is of one or more."""
    body = work / f"body-{size}"
    body.write_bytes(os.urandom(size))
    names = [f"put-{size}-{number}" for number in range(_KEYS[size])]

    def turn(contender: Contender) -> float:
        found_rate = ask(
            contender.url,
            contender.paths(names, "PUT"),
            work,
            connections=connections,
            seconds=max(seconds, _LARGE_S) if size >= 64 * MIB else seconds,
            body=body,
        )
        contender.settle()
        return found_rate * max(1, size // MIB)

    return {name: partial(turn, contender) for name, contender in found.items()}


def _syncs_per_second(work: Path) -> float:
    """What the disk allows a single thread: 4 KiB written over what is there, and synced."""
    fd = os.open(work / "sync", os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, bytes(_SYNCS * 4096), 0)
    os.fsync(fd)
    start = time.perf_counter()
    for number in range(_SYNCS):
        os.pwrite(fd, b"x" * 4096, number * 4096)
        os.fdatasync(fd)
    rate = _SYNCS / (time.perf_counter() - start)
    os.close(fd)
    return rate


def _hashed_per_second() -> float:
    """MB that one thread makes MD5s of."""
    block = os.urandom(MIB)
    digest = hashlib.md5(usedforsecurity=False)
    start = time.perf_counter()
    for _ in range(512):
        digest.update(block)
    return 512 / (time.perf_counter() - start)
