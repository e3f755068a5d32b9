"""Cold marks: what is not cached, and write_through, over a wire of known length and width.

The store is `rclone serve s3` of a directory: a real server, keys checked, whose own speed is far
above the bound. It computes the MD5 of a file when it is first asked for, so every object is asked
for once, past the wire, before anything is measured. "direct" is the same client at the other end
of the same wire; each cold figure of Forebay is of a node that has just started, with nothing in
its cache, and whose processes have loaded.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import boto3
from botocore.config import Config

from bench import load, servers
from bench.reader import Reader
from bench.rounds import Row, measure
from bench.wire import Wire, wire
from tests.support.node import RunningNode, running_node

MIB = 1 << 20
KEY, SECRET = "bench", "benchsecret"
BUCKET = "bucket"
CLIENTS = 32
_fresh = count()


@dataclass(frozen=True)
class Sizes:
    large_mib: int = 1024
    small_count: int = 1000  # of 1 MiB
    first_count: int = 20  # of 8 MiB, for the time to the first byte
    put_mib: int = 256


QUICK = Sizes(large_mib=192, small_count=150, first_count=10, put_mib=64)


@dataclass(frozen=True)
class Far:
    """A store at the other end of a wire, and where it is without one."""

    directory: Path  # of its files
    near_url: str
    wire: Wire

    def direct(self, names: list[str], method: str = "GET") -> list[str]:
        return load.presigned(self.wire.url, KEY, SECRET, BUCKET, names, method)

    def know(self, names: list[str]) -> None:
        """Have the server compute what it will be asked for."""
        client = _client(self.near_url)
        for name in names:
            client.head_object(Bucket=BUCKET, Key=name)


def _client(url: str) -> Any:
    """boto3 makes its clients' classes at run time."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            # Else a body is sent in chunks with a trailer, whose length no proxy can tell.
            request_checksum_calculation="when_required",
        ),
    )


@contextmanager
def far_store(work: Path, delay_s: float, bytes_per_s: float | None) -> Iterator[Far]:
    with (
        servers.rclone_s3(work / "store") as near_url,
        wire(near_url, delay_s, bytes_per_s) as far,
    ):
        yield Far(work / "store" / BUCKET, near_url, far)


@dataclass
class Near:
    """A node with nothing in its cache, over the far store."""

    node: RunningNode
    key: str
    secret: str

    def paths(self, names: list[str], method: str = "GET") -> list[str]:
        return load.presigned(self.node.endpoint, self.key, self.secret, BUCKET, names, method)


@contextmanager
def cold_node(work: Path, far: Far, *, mounted: bool = False) -> Iterator[Near]:
    tables = {
        "cache": {"capacity_bytes": "6GiB", "segment_bytes": None, "index_bytes": "1GiB"},
        "stores": {
            "main": {
                "type": "s3",
                "bucket": BUCKET,
                "endpoint_url": far.wire.url,
                "access_key": KEY,
                "secret_key": SECRET,
                # What rclone's server cannot do.
                "listing": "unordered",
                "object_tagging": False,
                "directory_markers": "omit",
            }
        },
        "buckets": [{"name": BUCKET, "store": "main", "write_mode": "write_through"}],
        "auth": {"mode": "sigv4"},
    }
    directory = work / f"node-{next(_fresh)}"
    directory.mkdir()
    without = {} if mounted else {"mount": None}
    with running_node(directory, **tables, **without) as node:
        made = json.loads(node.forebay("keys", "create", "bench", "--json").stdout)
        node.wait_for_spares()  # which load beside what serves: a start is measured elsewhere
        yield Near(node, made["access_key"], made["secret_key"])


# ------------------------------------------------------------------------------------------ marks


def run(
    work: Path, rounds: int, bound_mb: float, delay_s: float, sizes: Sizes = Sizes()
) -> list[Row]:
    """bound_mb: what the wire carries, in MB (10^6) a second."""
    with far_store(work, delay_s, bound_mb * 1e6) as far:
        names = _fill(far, sizes)
        measured = _Cold(work, far, bound_mb, rounds, names)
        return [
            _alone(far, names.large),
            measured.large(),
            measured.first_byte(),
            *measured.small(),
            measured.put(sizes.put_mib),
        ]


@dataclass
class _Names:
    large: str = "large"
    first: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)


def _fill(far: Far, sizes: Sizes) -> _Names:
    names = _Names(
        first=[f"first-{number}" for number in range(sizes.first_count)],
        small=[f"small-{number}" for number in range(sizes.small_count)],
    )
    block = os.urandom(64 * MIB)
    with (far.directory / names.large).open("wb") as file:
        for start in range(0, sizes.large_mib, 64):
            file.write(block[: min(64, sizes.large_mib - start) * MIB])
    for number, name in enumerate(names.first):
        (far.directory / name).write_bytes(block[number : number + 8 * MIB])
    for number, name in enumerate(names.small):
        (far.directory / name).write_bytes(block[number : number + MIB])
    far.know([names.large, *names.first, *names.small])
    return names


def _alone(far: Far, name: str) -> Row:
    """What the proxy carries when nothing bounds it."""
    with wire(far.near_url, 0.0, None) as unbounded:
        path = load.presigned(unbounded.url, KEY, SECRET, BUCKET, [name], "GET")[0]
        near = load.presigned(far.near_url, KEY, SECRET, BUCKET, [name], "GET")[0]
        return measure(
            "GET of the large object, unbounded",
            "MB/s",
            "store",
            {
                "store": partial(_rate, far.near_url, path=near),
                "wire": partial(_rate, unbounded.url, path=path),
            },
            3,
        )


@dataclass
class _Cold:
    work: Path
    far: Far
    bound_mb: float
    rounds: int
    names: _Names

    def large(self) -> Row:
        direct = self.far.direct([self.names.large])[0]

        def ours() -> float:
            with cold_node(self.work, self.far) as near:
                path = near.paths([self.names.large])[0]
                return _rate(near.node.endpoint, path)

        return measure(
            "cold GET of the large object",
            "MB/s",
            "bound",
            {
                "bound": lambda: self.bound_mb,
                "direct": partial(_rate, self.far.wire.url, direct),
                "forebay": ours,
            },
            self.rounds,
        )

    def first_byte(self) -> Row:
        """As objects a second, so that larger is better: 1.2 x the time is a ratio of 0.83."""
        direct = self.far.direct(self.names.first)

        def ours() -> float:
            with cold_node(self.work, self.far) as near:
                return _first_bytes(near.node.endpoint, near.paths(self.names.first))

        return measure(
            "first byte of a cold object of 8 MiB, 1 / s",
            "/s",
            "direct",
            {"direct": partial(_first_bytes, self.far.wire.url, direct), "forebay": ours},
            self.rounds,
        )

    def small(self) -> list[Row]:
        direct = self.far.direct(self.names.small)
        second: list[float] = []

        def ours() -> float:
            with cold_node(self.work, self.far) as near:
                paths = near.paths(self.names.small)
                first = _rate_of_all(near.node.endpoint, paths)
                before = self.far.wire.requests
                second.append(_rate_of_all(near.node.endpoint, paths))
                if self.far.wire.requests != before:
                    raise RuntimeError("the second pass asked the store")
                return first

        title = f"GET of {len(direct):,} objects of 1 MiB, {CLIENTS} clients"
        cold = measure(
            f"cold {title}",
            "MB/s",
            "direct",
            {"direct": partial(_rate_of_all, self.far.wire.url, direct), "forebay": ours},
            self.rounds,
        )
        warm = Row(f"{title}, second pass", "MB/s", "direct", dict(cold.figures))
        if second:
            warm.figures["forebay"] = statistics.median(second)
        return [cold, warm]

    def put(self, size_mib: int) -> Row:
        """`in parts`: boto3's own upload of a file, in parts of 8 MiB, as Forebay's is. What the
        server takes to join parts is no doing of either."""
        names = [f"put-{number}" for number in range(4)]
        body = self.work / "body"
        body.write_bytes(os.urandom(MIB) * size_mib)
        direct = self.far.direct(names, "PUT")
        with cold_node(self.work, self.far) as near:
            ours = near.paths([f"ours-{name}" for name in names], "PUT")
            return measure(
                f"write_through PUT of {size_mib} MiB",
                "MB/s",
                "direct",
                {
                    "direct": partial(_put, self.far.wire.url, direct, size_mib),
                    "in parts": partial(_put_in_parts, self.far.wire.url, body),
                    "forebay": partial(_put, near.node.endpoint, ours, size_mib),
                },
                self.rounds,
            )


# ----------------------------------------------------------------------------------------- clients


def _rate(url: str, path: str) -> float:
    """Of one GET, MB/s."""
    begun_s = time.perf_counter()
    with Reader(url) as reader:
        size = reader.get(path).size_bytes
    return size / (time.perf_counter() - begun_s) / 1e6


def _first_bytes(url: str, paths: list[str]) -> float:
    """1 / the median time to the first byte, of objects read whole, one after another."""
    with Reader(url) as reader:
        return 1 / statistics.median(reader.get(path).first_byte_s for path in paths)


def _rate_of_all(url: str, paths: list[str]) -> float:
    """Of many clients that share the work, MB/s."""
    waiting = iter(paths)
    lock = Lock()

    def read(_: int) -> int:
        size = 0
        with Reader(url) as reader:
            while True:
                with lock:
                    path = next(waiting, None)
                if path is None:
                    return size
                size += reader.get(path).size_bytes

    with ThreadPoolExecutor(CLIENTS) as clients:
        begun_s = time.perf_counter()
        total = sum(clients.map(read, range(CLIENTS)))
        return total / (time.perf_counter() - begun_s) / 1e6


def _put(url: str, paths: list[str], size_mib: int) -> float:
    block = os.urandom(MIB)
    path = paths[next(_fresh) % len(paths)]
    begun_s = time.perf_counter()
    with Reader(url) as reader:
        reader.put(path, (block for _ in range(size_mib)), size_mib * MIB)
    return size_mib * MIB / (time.perf_counter() - begun_s) / 1e6


def _put_in_parts(url: str, body: Path) -> float:
    client = _client(url)
    begun_s = time.perf_counter()
    client.upload_file(str(body), BUCKET, "in-parts")
    return body.stat().st_size / (time.perf_counter() - begun_s) / 1e6
