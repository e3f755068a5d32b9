"""What the node did itself is not taken for others' doing, and not described as it was before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.reconcile import LOST_AND_FOUND
from cache.records import ObjectAttributes
from tests.support.volume import TestVolume, some_bytes

KEY = b"key"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[TestVolume]:
    with contextlib.closing(TestVolume(tmp_path)) as volume:
        yield volume


@pytest.mark.parametrize("reaped", [False, True])
def test_an_object_replaced_during_its_upload_is_no_conflict(
    volume: TestVolume, reaped: bool
) -> None:
    volume.put(KEY, some_bytes(5000, "first"))
    volume.drain()
    volume.put(KEY, some_bytes(6000, "second"))
    last = some_bytes(7000, "third")

    def replace_once(operation: str, key: bytes) -> None:
        if operation == "put":
            volume.store.after = lambda operation, key: None
            volume.put(KEY, last)
            if reaped:
                volume.reap()

    volume.store.after = replace_once
    volume.drain()
    assert volume.stored_bytes(KEY) == last
    assert not [key for key in volume.stored() if key.startswith(LOST_AND_FOUND)]
    volume.check()


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("change", ["write", "truncate"])
def test_a_change_through_the_mount_forgets_the_checksums_of_s3(
    volume: TestVolume, size: int, change: str
) -> None:
    attributes = ObjectAttributes(
        content_type="text/plain",
        checksums={"CRC32": "AAAAAA=="},
        checksum_type="COMPOSITE",
        part_sizes=[size],
    )
    volume.put(KEY, some_bytes(size), attributes=attributes)
    if change == "write":
        volume.write(KEY, b"other bytes")
    else:
        volume.volume.open_files.truncate(volume.inode(KEY).id, 10)
    found = volume.volume.objects.get("bucket", KEY).attributes
    assert found == ObjectAttributes(content_type="text/plain")
