"""The record of checksums and part sizes that a store keeps with an object."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.bytes_told import RUNS_MAX, bytes_told, with_bytes_told
from cache.records import ObjectAttributes
from cache.uploading import uploaded_attributes

SUM = "FULL_OBJECT::CRC64NVME:AAAAAAAAAAA="


def test_the_record_of_a_put_is_one_word() -> None:
    told = ObjectAttributes(checksums={"CRC64NVME": "AAAAAAAAAAA="}, checksum_type="FULL_OBJECT")
    assert bytes_told(told) == SUM
    assert with_bytes_told(ObjectAttributes(), SUM, 5) == told


def test_nothing_is_kept_of_an_encrypted_object() -> None:
    """The checksum of its plaintext would tell what it is."""
    sealed = ObjectAttributes(
        checksums={"SHA256": "A" * 44}, checksum_type="FULL_OBJECT", own={"encryption": "{}"}
    )
    assert bytes_told(sealed) is None
    assert bytes_told(ObjectAttributes()) is None


def test_the_etag_of_an_encrypted_object_is_not_taken_for_the_md5_of_its_bytes() -> None:
    """A store that shows that MD5 as the version would be believed to have another object."""
    sealed = ObjectAttributes(own={"encryption": "{}"})
    assert uploaded_attributes(ObjectAttributes(), "a" * 32).md5 == "a" * 32
    assert uploaded_attributes(sealed, "a" * 32).md5 is None
    assert uploaded_attributes(ObjectAttributes()).md5 is None


@given(
    st.sampled_from(["FULL_OBJECT", "COMPOSITE", ""]),
    st.dictionaries(
        st.sampled_from(["CRC32", "SHA512", "XXHASH3"]),
        st.from_regex(r"[A-Za-z0-9+/]{6,86}={0,2}(-[1-9][0-9]{0,3})?", fullmatch=True),
    ),
    st.lists(st.sampled_from([0, 1, 5 << 20, 5 << 30]), max_size=20),
)
def test_what_is_told_is_what_comes_back(kind: str, sums: dict[str, str], sizes: list[int]) -> None:
    told = ObjectAttributes(checksums=sums, checksum_type=kind, part_sizes=sizes)
    record = bytes_told(told)
    assert (record is None) == (not sums and not sizes)
    if record is None:
        return
    assert record.isascii()
    assert " " not in record
    found = with_bytes_told(ObjectAttributes(), record, sum(sizes))
    assert (found.checksums, found.checksum_type) == (sums, kind)
    assert found.part_sizes in (sizes, [])
    if len(set(sizes)) == 1:
        assert found.part_sizes == sizes


def test_parts_of_too_many_sizes_are_not_kept() -> None:
    sizes = [5 << 20, 6 << 20] * RUNS_MAX
    record = bytes_told(ObjectAttributes(checksums={"CRC32": "AAAAAA=="}, part_sizes=sizes))
    assert record == "::CRC32:AAAAAA=="


@pytest.mark.parametrize(
    "record",
    [
        None,
        "",
        "x",
        "OTHER::CRC32:AAAAAA==",
        "FULL_OBJECT::CRC32",
        "FULL_OBJECT::crc32:AAAAAA==",
        "FULL_OBJECT::CRC32:AAAA\r\nX: y",
        "FULL_OBJECT:",
        "COMPOSITE:0x5",
        "COMPOSITE:99999x1",
        "COMPOSITE:3x5",
        "COMPOSITE:1x5+",
    ],
)
def test_what_is_no_record_says_nothing(record: str | None) -> None:
    """Others may write into the store what they like; the object has 5 bytes."""
    known = ObjectAttributes(content_type="text/plain")
    found = with_bytes_told(known, record, 5)
    assert (found.checksums, found.part_sizes, found.content_type) == ({}, [], "text/plain")


def test_sizes_of_another_object_are_not_believed() -> None:
    assert with_bytes_told(ObjectAttributes(), "COMPOSITE:3x5", 15).part_sizes == [5, 5, 5]
