"""What the node did itself is not taken for others' doing, and not described as it was before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.errors import StoreUnavailable
from cache.records import ObjectAttributes
from cache.uploading import LOST_AND_FOUND
from tests.support.volume import TestVolume, some_bytes
from tests.support.waiting import wait_until

KEY = b"key"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[TestVolume]:
    with contextlib.closing(TestVolume(tmp_path)) as volume:
        volume.names()  # the store is known to have nothing: what is there later came meanwhile
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
    assert kept_aside(volume) == []
    volume.check()


def kept_aside(volume: TestVolume) -> list[bytes]:
    below = [key for key in volume.stored() if key.startswith(LOST_AND_FOUND)]
    return [key for key in below if not key.endswith(b"/")]


def once_after(volume: TestVolume, operation: str, do: Callable[[], None]) -> None:
    """Do something between the store's next answer and our own note of it."""

    def after(done: str, key: bytes) -> None:
        if done == operation:
            volume.store.after = lambda operation, key: None
            do()

    volume.store.after = after


def get_killed() -> None:
    raise StoreUnavailable("nobody noted the answer")


def test_a_file_renamed_and_changed_during_its_upload_is_no_conflict(volume: TestVolume) -> None:
    volume.put(KEY, some_bytes(5000, "first"))

    def move_on() -> None:
        volume.rename(KEY, b"moved")
        volume.write(b"moved", b"changed")
        volume.put(KEY, some_bytes(100, "second"))

    once_after(volume, "put", move_on)
    volume.drain()
    assert volume.stored_bytes(b"moved") == b"changed" + some_bytes(5000, "first")[7:]
    assert volume.stored_bytes(KEY) == some_bytes(100, "second")
    assert kept_aside(volume) == []
    volume.check()


@pytest.mark.parametrize("when", ["between", "during"])
def test_a_link_that_took_a_name_and_lost_it_is_no_conflict(volume: TestVolume, when: str) -> None:
    volume.put(KEY, some_bytes(5000, "old"))
    volume.put(b"first", some_bytes(6000, "linked"))
    volume.drain()
    volume.unlink(KEY)
    volume.link(b"first", KEY)

    def replace() -> None:
        volume.put(KEY, some_bytes(100, "new"))

    if when == "during":
        once_after(volume, "put", replace)
    else:
        volume.drain()
        volume.unlink(b"first")  # now the link leads, and the object follows it
        volume.drain()
        replace()
    volume.drain()
    assert volume.stored_bytes(KEY) == some_bytes(100, "new")
    assert kept_aside(volume) == []
    volume.check()


@pytest.mark.parametrize("reaped", [False, True])
def test_an_upload_that_nobody_noted_is_ours(volume: TestVolume, reaped: bool) -> None:
    volume.put(KEY, some_bytes(5000, "first"))
    once_after(volume, "put", get_killed)
    volume.volume.queue.run_once(hurry=True)
    wait_until(volume.volume.queue.is_idle)
    assert volume.stored_bytes(KEY) == some_bytes(5000, "first")
    volume.put(KEY, some_bytes(6000, "second"))
    if reaped:
        volume.reap()
    volume.drain()
    assert volume.stored_bytes(KEY) == some_bytes(6000, "second")
    assert kept_aside(volume) == []


def test_an_object_of_others_is_kept_though_it_has_our_metadata(volume: TestVolume) -> None:
    """`cp -a` and `aws s3 cp` between keys take the note of origin along."""
    volume.put(b"source", some_bytes(5000, "ours"))
    volume.drain()
    volume.put(KEY, b"new")
    store = volume.store.store
    source = store.head(b"source")
    assert source.attributes is not None
    store.copy(b"source", source.version, KEY, source.attributes)
    volume.write(b"source", b"in place")  # now theirs is the only copy of those bytes
    volume.drain()
    assert volume.stored_bytes(KEY) == b"new"
    assert [volume.stored_bytes(key) for key in kept_aside(volume)] == [some_bytes(5000, "ours")]


def test_what_was_never_cached_survives_an_upload_that_nobody_noted(volume: TestVolume) -> None:
    """The upload took the place of the bytes that the index still asked for."""
    data = some_bytes(3 << 20)
    volume.put(KEY, data)
    volume.drain()
    volume.evict()
    volume.write(KEY, b"first", len(data))
    once_after(volume, "put", get_killed)
    volume.volume.queue.run_once(hurry=True)
    wait_until(volume.volume.queue.is_idle)
    volume.evict()
    volume.write(KEY, b"second", len(data) + 5)
    volume.drain()
    assert volume.stored_bytes(KEY) == data + b"firstsecond"
    assert volume.get(KEY) == data + b"firstsecond"
    assert kept_aside(volume) == []
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
