"""What passes through a node does not stay in its memory, however large it is."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.doors import BUCKET, Doors
from tests.support.memory import Peak
from tests.support.mount import requires_fuse
from tests.support.node import RunningNode, running_node

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

MIB = 1 << 20
GIB = 1 << 30
LIMIT_BYTES = 64 * MIB
_BLOCK = hashlib.sha512(b"bounds").digest() * (MIB // 64)


class Body(io.RawIOBase):
    """`size_bytes` that are made while they are read: each MiB begins with its number."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        with memoryview(buffer) as view:
            number, skip = divmod(self._at, MIB)
            piece = (number.to_bytes(8, "big") + _BLOCK[8:])[skip:]
            count = min(len(view), len(piece), self._size - self._at)
            view[:count] = piece[:count]
        self._at += count
        return count


def digest_of(size_bytes: int) -> str:
    body, digest = Body(size_bytes), hashlib.sha256()
    while piece := body.read(MIB):
        digest.update(piece)
    return digest.hexdigest()


@contextmanager
def watched(node: RunningNode, what: str) -> Iterator[None]:
    with Peak(node.pids) as peak:
        yield
    sys.stdout.write(f"{what}: {peak}\n")
    grown = {name: growth for name, growth in peak.growth_bytes.items() if growth > LIMIT_BYTES}
    assert not grown, f"{what}: {peak}"


def pass_through(directory: Path, size_bytes: int, write_mode: str) -> None:
    """A PUT and a GET, a dd in and out, and a GET of what came in by dd."""
    with running_node(
        directory,
        cache={"capacity_bytes": 2 * size_bytes, "segment_bytes": "64MiB"},
        stores={"main": {"type": "posix", "path": str(directory / "store")}},
        buckets=[{"name": BUCKET, "store": "main", "write_mode": write_mode}],
        node={"gateways": 1},
    ) as node:
        doors = Doors(node)
        doors.put("warm", b"up" * MIB)  # what every first request needs is not the object's
        assert doors.get("warm") == doors.read("warm")
        expected = digest_of(size_bytes)
        with watched(node, "PUT"):
            doors.s3.put_object(Bucket=BUCKET, Key="object", Body=Body(size_bytes))
        with watched(node, "GET"):
            assert get(doors, "object") == expected
        node.forebay("flush")
        with watched(node, "dd in"):
            dd(f"if={node.store_dir}/object", f"of={doors.directory}/file", "conv=fsync")
        with watched(node, "dd out"):
            dd(f"if={doors.directory}/file", "of=/dev/null")
        with watched(node, "GET of the file"):
            assert get(doors, "file") == expected


def get(doors: Doors, key: str) -> str:
    digest = hashlib.sha256()
    for piece in doors.s3.get_object(Bucket=BUCKET, Key=key)["Body"].iter_chunks(MIB):
        digest.update(piece)
    return digest.hexdigest()


def dd(*arguments: str) -> None:
    subprocess.run(["dd", "bs=1M", "status=none", *arguments], check=True, timeout=600)


@requires_fuse
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "write_mode", ["write_back", pytest.param("write_through", marks=pytest.mark.long)]
)
def test_a_gibibyte_passes_without_growing_memory(tmp_path: Path, write_mode: str) -> None:
    pass_through(tmp_path, GIB, write_mode)


@requires_fuse
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("write_mode", ["write_through", "write_back"])
def test_five_gibibytes_pass_without_growing_memory(tmp_path: Path, write_mode: str) -> None:
    pass_through(tmp_path, 5 * GIB, write_mode)
