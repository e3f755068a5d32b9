"""Records: the bytes on disk are pinned, and what is not of this version is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import FormatMismatch
from cache.records import (
    RECORD_VERSION,
    Dentry,
    EvictionState,
    Extent,
    Inode,
    Kind,
    SegmentRecord,
    SegmentState,
    Stored,
    pack,
    unpack,
)

INODE = Inode(
    id=7,
    kind=Kind.FILE,
    mode=0o644,
    uid=1,
    gid=2,
    size=3,
    nlink=1,
    atime_ns=4,
    mtime_ns=5,
    ctime_ns=6,
    parent=2,
    name=b"n",
    etag="e",
    revision=8,
    attributes_revision=9,
    stored=Stored(2, b"n", "v", 3, 8, 9),
)


SEGMENT = SegmentRecord(1, 0, 4096, "dirty", SegmentState.SEALED, 5, 6)
EXTENT = Extent(
    start=1, length=2, segment=3, offset=4, stored_length=5, checksum=6, skip=7, revision=8
)
PINNED = [
    (EvictionState(1, 2, 0.5, 3, 4, 5), "01 96 01 02 cb3fe0000000000000 03 04 05"),
    (Dentry(7, Kind.DIRECTORY), "01 92 07 02"),
    (SEGMENT, "01 97 01 00 cd1000 a56469727479 02 05 06"),
    (
        INODE,
        """01 dc0016 07 01 cd01a4 01 02 03 01 04 05 06 02 c4016e a165 08 09 00 c400 c3 00
        96 02 c4016e a176 03 08 09 00 00""",
    ),
]


@pytest.mark.parametrize(("record", "stored"), PINNED)
def test_the_bytes_of_records_are_these(record: msgspec.Struct, stored: str) -> None:
    assert pack(record) == bytes.fromhex(stored)
    assert unpack(pack(record), type(record)) == record


def test_the_bytes_of_an_extent_are_these() -> None:
    fields = ("00000003", *(f"{n:016x}" for n in (4, 5, 6, 7, 2, 8)))
    assert EXTENT.pack() == bytes.fromhex("01" + "".join(fields))
    assert Extent.unpack(1, EXTENT.pack()) == EXTENT


@pytest.mark.parametrize("version", [0, RECORD_VERSION + 1, 255])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(FormatMismatch, match=f"version {version}"):
        unpack(bytes([version]) + pack(INODE)[1:], Inode)
    extent = Extent(0, 1, 2, 3, 4, 5, 6, 7)
    with pytest.raises(FormatMismatch):
        Extent.unpack(0, bytes([version]) + extent.pack()[1:])


@given(st.binary(max_size=40))
def test_bytes_that_are_no_record_are_refused(rest: bytes) -> None:
    try:
        found = unpack(bytes([RECORD_VERSION]) + rest, Inode)
    except FormatMismatch:
        return
    assert isinstance(found, Inode)


def test_fields_added_at_the_end_have_their_defaults_in_old_records() -> None:
    old = msgspec.msgpack.encode(list(msgspec.structs.astuple(INODE))[:10])
    found = unpack(bytes([RECORD_VERSION]) + old, Inode)
    assert found.parent == 0
    assert found.stored is None


@given(start=st.integers(0, 100), length=st.integers(2, 100), data=st.data())
def test_a_slice_keeps_pointing_at_the_same_bytes(
    start: int, length: int, data: st.DataObject
) -> None:
    extent = Extent(start, length, 1, 4096, length + 9, 0, 9, 1)
    low = data.draw(st.integers(start, start + length - 1))
    high = data.draw(st.integers(low + 1, start + length))
    part = extent.slice(low, high)
    assert (part.start, part.stop) == (low, high)
    assert part.file_offset - extent.file_offset == low - start
