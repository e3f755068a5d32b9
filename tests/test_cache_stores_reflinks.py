"""Changed files in a store whose file system shares blocks: XFS on a loop device."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.config import MIB
from cache.errors import StoreChanged
from cache.stores.base import StoredAttributes
from cache.stores.posix import PosixStore, PosixStoreConfig
from tests.support.loop_disk import requires_loop

PLAIN = StoredAttributes()
SIZE = 24 * MIB + 5  # not whole blocks


class Body:
    """A new body, and how much of it was asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.read_bytes = 0

    def read(self, start: int, stop: int) -> list[bytes]:
        self.read_bytes += stop - start
        return [self.content[start:stop]] if start < stop else []


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("needs mkfs.xfs")
    image, directory = tmp_path / "image", tmp_path / "xfs"
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(320 * MIB)  # the least that mkfs.xfs makes
    subprocess.run(["mkfs.xfs", "-q", image], check=True, timeout=30)
    mounted = subprocess.run(["mount", "-o", "loop", image, directory], check=False, timeout=30)
    if mounted.returncode:
        pytest.skip("no XFS in this kernel")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True, timeout=30)


@requires_loop
def test_a_change_costs_what_was_changed(xfs: Path) -> None:
    store = PosixStore(PosixStoreConfig(xfs))
    old = os.urandom(SIZE)
    version = store.put(b"a", [old], SIZE, PLAIN).version
    with (xfs / "a").open("rb") as reader:
        new = Body(old[: 9 * MIB] + b"changed" + old[9 * MIB + 7 :] + b"appended")
        found = store.patch(
            b"a",
            [(SIZE, SIZE + 8), (9 * MIB, 9 * MIB + 7)],
            new.read,
            SIZE + 8,
            PLAIN,
            version=version,
        )
        assert (xfs / "a").read_bytes() == new.content
        assert reader.read() == old  # who had it open reads on in what it was
    assert new.read_bytes < 5 * MIB + 200_000
    assert found.size_bytes == SIZE + 8
    cut = Body(new.content[: 10 * MIB + 1])
    store.patch(b"a", [], cut.read, len(cut.content), PLAIN, version=found.version)
    assert (xfs / "a").read_bytes() == cut.content
    assert cut.read_bytes < 100_000
    with pytest.raises(StoreChanged):
        store.patch(b"a", [], cut.read, len(cut.content), PLAIN, version=found.version)
    store.close()


def test_a_file_system_without_gets_all_of_it(tmp_path: Path) -> None:
    """Whether it shares blocks or not: never half of an object."""
    (tmp_path / "store").mkdir()
    store = PosixStore(PosixStoreConfig(tmp_path / "store"))
    version = store.put(b"a", [bytes(SIZE)], SIZE, PLAIN).version
    for letter in b"xyz":
        new = Body(bytes([letter]) + bytes(SIZE - 1))
        version = store.patch(b"a", [(0, 1)], new.read, SIZE, PLAIN, version=version).version
        assert (tmp_path / "store" / "a").read_bytes() == new.content
    assert not any((tmp_path / "store" / ".forebay-tmp" / "uploads").iterdir())
    store.close()
