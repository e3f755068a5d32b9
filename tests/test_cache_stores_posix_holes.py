"""Sparse files in a store that is a directory: what is made of them has their holes, and a change
of one costs what there is, not what its size says. XFS, which shares blocks:
tests/test_cache_stores_reflinks.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from cache.config import MIB
from cache.errors import StoreChanged
from cache.stores import posix_holes
from cache.stores.base import StoredAttributes
from cache.stores.posix import PosixStore, PosixStoreConfig

PLAIN = StoredAttributes()
SIZE = 256 * MIB + 5
BLOCK = b"block" * 1000
PLACES = (0, 100 * MIB + 7, SIZE - len(BLOCK))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a file system that tells holes apart."""
    path = tmp_path / "store"
    path.mkdir()
    with (path / "probe").open("w+b") as file:
        os.truncate(path / "probe", MIB)
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) == MIB:
            pytest.skip("no holes in this file system")
    (path / "probe").unlink()
    return path


@pytest.fixture
def store(root: Path) -> Iterator[PosixStore]:
    opened = PosixStore(PosixStoreConfig(root))
    yield opened
    opened.close()


@pytest.fixture
def sparse(root: Path) -> Path:
    path = root / "sparse"
    with path.open("wb") as file:
        for place in PLACES:
            file.seek(place)
            file.write(BLOCK)
    return path


def check(path: Path, places: dict[int, bytes], size: int) -> None:
    """Those bytes at those places, zeros elsewhere, and no more of it on the disk."""
    assert path.stat().st_size == size
    assert path.stat().st_blocks * 512 <= 8 * MIB
    with path.open("rb") as file:
        for start, expected in places.items():
            assert os.pread(file.fileno(), len(expected), start) == expected
        begin = 0
        while begin < size:
            try:
                begin = os.lseek(file.fileno(), begin, os.SEEK_DATA)
            except OSError:  # none behind it
                return
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found = bytearray(os.pread(file.fileno(), end - begin, begin))
            for start, known in places.items():
                low, high = max(start, begin), min(start + len(known), end)
                if low < high:
                    found[low - begin : high - begin] = bytes(high - low)
            assert not any(found)
            begin = end


@pytest.mark.parametrize("piece_bytes", [MIB // 4, MIB // 4 + 1, 3 * MIB])
def test_zeros_that_come_in_pieces_of_any_size_are_holes(
    store: PosixStore, root: Path, piece_bytes: int
) -> None:
    """What is fetched from a store comes in smaller pieces than what is cached."""
    body = bytes(10 * MIB) + BLOCK + bytes(40 * MIB) + BLOCK
    pieces = [body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)]
    store.put(b"a", pieces, len(body), PLAIN)
    assert (root / "a").read_bytes() == body
    assert (root / "a").stat().st_blocks * 512 <= 8 * MIB


def test_a_copy_has_the_holes(store: PosixStore, sparse: Path) -> None:
    store.copy(b"sparse", None, b"copy", PLAIN)
    check(sparse.with_name("copy"), dict.fromkeys(PLACES, BLOCK), SIZE)


def test_parts_have_the_holes(store: PosixStore, sparse: Path) -> None:
    """The first part ends in one."""
    version = store.head(b"sparse").version
    upload = store.begin_parts(b"joined", PLAIN)
    bounds = (0, 60 * MIB, 150 * MIB, SIZE)
    tags = [
        (number, upload.copy_part(number, b"sparse", start, stop, version))
        for number, (start, stop) in enumerate(pairwise(bounds), 1)
    ]
    upload.commit(tags, PLAIN)
    check(sparse.with_name("joined"), dict.fromkeys(PLACES, BLOCK), SIZE)


def test_a_change_of_a_sparse_file_reads_none_of_its_holes(store: PosixStore, sparse: Path) -> None:
    version = store.head(b"sparse").version
    places = {**dict.fromkeys(PLACES, BLOCK), 30 * MIB: b"changed", SIZE: b"appended"}
    read_bytes = 0

    def read(start: int, stop: int) -> Iterator[bytes]:
        nonlocal read_bytes
        read_bytes += stop - start
        body = bytearray(stop - start)
        for place, content in places.items():
            low, high = max(start, place), min(stop, place + len(content))
            if low < high:
                body[low - start : high - start] = content[low - place : high - place]
        yield bytes(body)

    changed = [(30 * MIB, 30 * MIB + 7), (SIZE, SIZE + 8)]
    found = store.patch(b"sparse", changed, read, SIZE + 8, PLAIN, version=version)
    check(sparse, places, SIZE + 8)
    assert read_bytes < 12 * MIB  # what S3 would have to be sent, too, and blocks here and there
    assert found.version == store.head(b"sparse").version
    with pytest.raises(StoreChanged):
        store.patch(b"sparse", changed, read, SIZE + 8, PLAIN, version=version)


@pytest.mark.parametrize("size", [SIZE - len(BLOCK) - 1, SIZE - 1])
def test_a_file_that_is_shorter_than_it_was_is_not_copied(
    store: PosixStore, sparse: Path, size: int
) -> None:
    """It ends in a hole, or in bytes."""
    os.truncate(sparse, size)
    upload = store.begin_parts(b"joined", PLAIN)
    with pytest.raises(StoreChanged):
        upload.copy_part(1, b"sparse", 0, SIZE, store.head(b"sparse").version)
    upload.abort()


def test_zeros_are_told_from_other_bytes() -> None:
    assert posix_holes.is_hole(bytes(5000))
    assert posix_holes.is_hole(bytearray(5000))
    for at in (0, 2500, 4999):
        assert not posix_holes.is_hole(bytes(at) + b"x" + bytes(4999 - at))
