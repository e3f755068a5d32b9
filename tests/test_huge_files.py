"""A file of 150 GiB, mostly holes, through both doors of a node, in its store, and in the S3 store
that this node is to another: what it costs is what was written.

Needs a few hundred MiB of disk, on a file system that has holes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mount import requires_fuse
from tests.support.node import (
    FOREBAY,
    RunningNode,
    end_node,
    restart_node,
    running_node,
    start_node,
)
from tests.support.s3_raw import RawS3

pytestmark = [requires_fuse, pytest.mark.long, pytest.mark.timeout(1800)]

MIB = 1 << 20
SIZE = 150 << 30
BUCKET = "huge"
CACHE = {"capacity_bytes": "256MiB", "segment_bytes": "4MiB"}

Read = Callable[[int, int], bytes]


class Expected:
    """What was written, and zeros elsewhere."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._writes: list[tuple[int, bytes]] = []

    def write(self, descriptor: int, start: int, length: int) -> None:
        body = os.urandom(length)
        assert os.pwrite(descriptor, body, start) == length
        self._writes.append((start, body))
        self.size = max(self.size, start + length)

    def bytes_at(self, start: int, stop: int) -> bytes:
        found = bytearray(stop - start)
        for at, body in self._writes:
            low, high = max(at, start), min(at + len(body), stop)
            if low < high:
                found[low - start : high - start] = body[low - at : high - at]
        return bytes(found)

    def check(self, read: Read) -> None:
        """Around all that was written, and in a hole. read: of a start and a stop."""
        edges = [(at - 5000, at + len(body) + 5000) for at, body in self._writes]
        for start, stop in [*edges, (SIZE // 5, SIZE // 5 + MIB)]:
            low, high = max(0, start), min(stop, self.size)
            assert read(low, high) == self.bytes_at(low, high), f"bytes {low} to {high}"

    def check_file(self, path: Path) -> None:
        assert path.stat().st_size == self.size
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.check(lambda start, stop: os.pread(file.fileno(), stop - start, start))

    def check_node(self, node: RunningNode) -> None:
        """Through both doors."""
        assert node.mount is not None
        self.check_file(node.mount / BUCKET / "file")
        with RawS3(node.endpoint) as s3:
            assert s3.size(BUCKET, "file") == self.size
            self.check(lambda start, stop: ranged(s3, "file", start, stop))

    def check_store(self, node: RunningNode) -> None:
        """What is there when all was persisted, and how much of it."""
        flush(node)
        stored = node.store_dir / BUCKET / "file"
        assert stored.stat().st_blocks * 512 <= 64 * MIB
        self.check_file(stored)

    def change(self, node: RunningNode, place: int) -> None:
        """In the middle of a hole, and at the end."""
        assert node.mount is not None
        with (node.mount / BUCKET / "file").open("r+b", buffering=0) as file:
            self.write(file.fileno(), place, MIB)
            self.write(file.fileno(), self.size, MIB)
            os.fsync(file.fileno())


def flush(node: RunningNode) -> None:
    """Persist all. A server that copies 150 GiB by parts makes MD5s of them, even of holes."""
    command = [str(FOREBAY), "flush", "--config", str(node.config_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=True)
    assert "Everything is in the store" in done.stdout


def ranged(s3: RawS3, key: str, start: int, stop: int) -> bytes:
    headers = {"Range": f"bytes={start}-{stop - 1}"}
    return s3.request("GET", f"/{BUCKET}/{key}", headers=headers).expect(206).body


def test_a_file_of_150_gibibytes(tmp_path: Path) -> None:
    store = {"type": "posix", "path": str(tmp_path / "store"), "creatable": True}
    node = start_node(
        tmp_path,
        auth={"mode": "simple"},
        cache=CACHE,
        node={"gateways": 1},
        stores={"main": store | {"write_mode": "write_back"}},
    )
    try:
        expected = Expected(SIZE)
        with RawS3(node.endpoint) as s3:
            s3.make_bucket(BUCKET)
        assert node.mount is not None
        with (node.mount / BUCKET / "file").open("w+b", buffering=0) as file:
            os.ftruncate(file.fileno(), SIZE)
            for place in (0, SIZE // 2 + 123, SIZE - 5000):
                expected.write(file.fileno(), place, 5000)
            os.fsync(file.fileno())
        expected.check_node(node)
        expected.check_store(node)
        expected.change(node, SIZE // 4 + 5)
        expected.check_store(node)
        change_from_another(node, tmp_path / "other", expected)
        expected.check_node(node)
        expected.check_store(node)
        # Nothing of it is cached, and the holes are still in nobody's way.
        end_node(node)
        shutil.rmtree(node.state_dir)
        node = restart_node(tmp_path, node.config_file)
        expected.check_node(node)
        expected.change(node, SIZE // 3 + 5)
        expected.check_store(node)
        assert "no problems" in node.forebay("fsck").stdout
    finally:
        end_node(node)


def change_from_another(node: RunningNode, directory: Path, expected: Expected) -> None:
    """By a node whose S3 store this one is: it copies there what it did not change."""
    directory.mkdir()
    access = {"endpoint_url": node.endpoint, "access_key": "testuser", "secret_key": "any"}
    with running_node(
        directory,
        auth={"mode": "simple"},
        cache=CACHE,
        node={"gateways": 1},
        stores={"main": None, "s3": {"type": "s3", "bucket": BUCKET} | access},
        buckets=[{"name": BUCKET, "store": "s3", "write_mode": "write_back"}],
    ) as other:
        expected.check_node(other)
        expected.change(other, SIZE // 6 + 5)
        # What was not changed would neither fit into the cache of the one that is the store, nor
        # come over in time.
        flush(other)
        expected.check_node(other)
