"""Sealed bodies: sizes, ranges, and that no change of a byte goes unnoticed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.encryption import Encryption, Mode, layout_key, new_data_key, overhead
from cache.errors import SealBroken
from cache.frames import (
    FRAME_BYTES,
    SealedPart,
    SealingWriter,
    Unsealed,
    plain_size,
    sealed_size,
)
from cache.records import ObjectAttributes
from cache.snapshot import Piece
from tests.support.volume import some_bytes

SIZES = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, 1_500_000]
KEY = new_data_key()


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self.content += chunk

    def abort(self) -> None:
        raise AssertionError("nobody gives up")


class Bytes:
    """Bytes that are read as a snapshot is."""

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = bytes(content)
        self.size = len(content)
        self.read_bytes = 0

    def read(self, start: int, stop: int) -> bytes:
        self.read_bytes += stop - start
        return self.content[start:stop]

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        for at in range(start, stop, 100_000):
            yield self.read(at, min(stop, at + 100_000))


def seal(content: bytes, number: int = 0, chunk_bytes: int = 1 << 20) -> bytes:
    kept = Kept()
    writer = SealingWriter(kept, KEY, number)
    for at in range(0, len(content), chunk_bytes):
        chunk = bytearray(content[at : at + chunk_bytes])
        writer.write(chunk)
        chunk[:] = bytes(len(chunk))  # the caller may use it for something else
    return bytes(writer.finish().content)


def unseal(content: bytes, size: int, start: int = 0, stop: int | None = None) -> bytes:
    body = Unsealed(Bytes(content), KEY, [SealedPart(0, size)])  # type: ignore[arg-type]
    return body.read(start, size if stop is None else stop)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_opens(size: int) -> None:
    content = some_bytes(size)
    found = seal(content)
    assert len(found) == sealed_size(size)
    assert plain_size(len(found)) == size
    assert unseal(found, size) == content
    assert size < 8 or content[:8] not in found


@given(size=st.integers(0, 1 << 45))
def test_sizes_map_one_to_one(size: int) -> None:
    assert plain_size(sealed_size(size)) == size
    assert sealed_size(size + 1) > sealed_size(size)


@pytest.mark.parametrize("size", [0, 1, 32, 47, 32 + FRAME_BYTES + 16 + 1, 32 + FRAME_BYTES + 31])
def test_sizes_that_no_body_has(size: int) -> None:
    with pytest.raises(SealBroken):
        plain_size(size)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_any_range_of_any_parts(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 70_000, FRAME_BYTES, 150_000]), min_size=1))
    chunk_bytes = data.draw(st.sampled_from([997, FRAME_BYTES, 100_000]))
    parts = [SealedPart(3 * n + 1, size) for n, size in enumerate(sizes)]
    contents = [some_bytes(part.size_bytes, part.number) for part in parts]
    whole = b"".join(contents)
    stored = b"".join(
        seal(content, part.number, chunk_bytes)
        for part, content in zip(parts, contents, strict=True)
    )
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    body = Unsealed(Bytes(stored), KEY, parts)  # type: ignore[arg-type]
    assert body.read(start, stop) == whole[start:stop]


def test_a_range_reads_its_frames_only() -> None:
    source = Bytes(seal(some_bytes(20 * FRAME_BYTES)))
    body = Unsealed(source, KEY, [SealedPart(0, 20 * FRAME_BYTES)])  # type: ignore[arg-type]
    body.read(5 * FRAME_BYTES + 10, 6 * FRAME_BYTES + 10)
    assert source.read_bytes < 3 * FRAME_BYTES


STORED = seal(some_bytes(200_000))
FRAME = FRAME_BYTES + 16


@pytest.mark.parametrize("at", [0, 4, 9, 31, 32, 40_000, 32 + FRAME, len(STORED) - 1])
def test_a_changed_byte_is_noticed(at: int) -> None:
    changed = bytearray(STORED)
    changed[at] ^= 1
    with pytest.raises(SealBroken):
        unseal(bytes(changed), 200_000)


def test_frames_cannot_be_moved_cut_off_or_taken_from_elsewhere() -> None:
    first, second = STORED[32 : 32 + FRAME], STORED[32 + FRAME : 32 + 2 * FRAME]
    swapped = STORED[:32] + second + first + STORED[32 + 2 * FRAME :]
    shorter = STORED[: 32 + 2 * FRAME]
    other = seal(some_bytes(200_000, "other"))
    for broken, size in (
        (swapped, 200_000),
        (shorter, 2 * FRAME_BYTES),
        (STORED[:32] + other[32:], 200_000),
        (STORED[:32] + first + other[32 + FRAME :], 200_000),
    ):
        with pytest.raises(SealBroken):
            unseal(broken, size)
    with pytest.raises(SealBroken):
        unseal(STORED, 199_999)  # not the size that it has


def test_two_bodies_of_the_same_bytes_have_nothing_in_common() -> None:
    assert seal(b"x" * 1000)[8:40] != seal(b"x" * 1000)[8:40]


# ------------------------------------------------------------------------------------ the record


def test_a_data_key_is_bound_to_its_secret_and_record() -> None:
    secret = os.urandom(32)
    record = Encryption(Mode.KMS, key="one", version=2, context=b"c" * 32).under(secret, KEY)
    assert record.unwrap(secret) == KEY
    kept = record.onto(ObjectAttributes())
    text = kept.own["encryption"]
    assert text.isascii()
    assert Encryption.of(kept) == record
    for changed in (
        text.replace('"one"', '"two"'),
        text.replace('"version":2', '"version":3'),
        text.replace("SSE-KMS", "SSE-S3"),
    ):
        assert changed != text
        found = Encryption.of(ObjectAttributes(own={"encryption": changed}))
        assert found is not None
        with pytest.raises(SealBroken):
            found.unwrap(secret)
    with pytest.raises(SealBroken):
        record.unwrap(os.urandom(32))
    with pytest.raises(SealBroken):
        Encryption.of(ObjectAttributes(own={"encryption": "{}"}))


def test_the_parts_of_a_completed_upload_are_signed() -> None:
    parts = [SealedPart(n, 5 << 20) for n in range(1, 10_000)] + [SealedPart(10_000, 17)]
    record = Encryption(Mode.NODE).under(KEY, KEY).with_layout(parts, layout_key(KEY))
    assert record is not None
    stored = sum(sealed_size(part.size_bytes) for part in parts)
    assert record.parts(stored) == parts
    record.check_layout(KEY)
    kept = record.onto(ObjectAttributes())
    assert len(kept.own["encryption"]) < 400
    assert overhead(kept, stored) == stored - sum(part.size_bytes for part in parts)
    assert overhead(kept, stored - 1) == 0  # other bytes than the record's
    fewer = record.with_layout(parts[:-1], os.urandom(32))
    assert fewer is not None
    with pytest.raises(SealBroken):
        fewer.check_layout(KEY)
    assert record.with_layout([SealedPart(n, n) for n in range(1, 102)], b"") is None
