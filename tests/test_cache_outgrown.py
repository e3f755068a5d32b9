"""Uploads in parts that outgrow what may wait here for the store, while others are at them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.config import MIB
from cache.errors import NoSuchUpload, StaleContent, StoreUnavailable
from cache.objects import Object
from cache.records import ObjectAttributes, Part, UploadRecord
from tests.support.fault_store import Fault, no_fault, unavailable
from tests.support.stores import moto_backend
from tests.support.volume import BUCKET, TestVolume, some_bytes

NONE = ObjectAttributes()
KEY = b"d/key"
BODIES = {number: some_bytes(3 * MIB, number) for number in (1, 2, 3, 4)}
"""Of one upload three may be dirty."""
WHOLE = b"".join(BODIES.values())


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestVolume]:
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=16 * MIB)) as box:
        assert 6 * MIB < box.volume.admission.hard_bytes < 12 * MIB
        yield box


def begin(box: TestVolume) -> UploadRecord:
    return box.volume.uploads.create(BUCKET, KEY, owner="me", attributes=NONE)


def current(box: TestVolume) -> UploadRecord:
    (upload,) = box.volume.uploads.list(BUCKET)
    return upload


def send(box: TestVolume, upload: UploadRecord, number: int) -> Part:
    return box.send_part(upload, number, BODIES[number])


def begin_and_send_all(box: TestVolume) -> UploadRecord:
    """The upload as it was known before it had outgrown the cache."""
    upload = begin(box)
    for number in BODIES:
        send(box, upload, number)
    return upload


def complete(box: TestVolume, upload: UploadRecord) -> Object:
    uploads = box.volume.uploads
    return uploads.complete(upload, uploads.parts(upload), etag="e-4", attributes=NONE)


def failing(what: str) -> Fault:
    def before(operation: str, key: bytes) -> None:
        if operation == what:
            unavailable(operation, key)

    return before


def temporary(box: TestVolume) -> list[Path]:
    """The uploads that the store has."""
    return list(box.store_dir.glob(".forebay-tmp/parts/*"))


def check_stored(box: TestVolume) -> None:
    assert not box.volume.queue.backlog().names, "nothing waits for the store"
    assert box.stored_bytes(KEY) == WHOLE
    assert not temporary(box)
    box.restart()
    box.evict()
    assert box.get(KEY) == WHOLE
    box.check()


def test_its_later_parts_are_in_the_store_only(box: TestVolume) -> None:
    upload = begin(box)
    parts = [send(box, upload, number) for number in BODIES]
    assert [bool(part.store_tag) for part in parts] == [False, False, False, True]
    used = box.volume.reclaimer.used_bytes()
    assert used <= 10 * MIB
    complete(box, current(box))
    check_stored(box)


def test_so_it_is_with_an_s3_store(tmp_path: Path) -> None:
    """Which takes parts of 5 MiB at least, but for the last."""
    with (
        moto_backend(tmp_path) as backend,
        backend.opened() as store,
        contextlib.closing(TestVolume(tmp_path, store=store, capacity_bytes=16 * MIB)) as box,
    ):
        begin(box)
        parts = [
            box.send_part(current(box), number, WHOLE[start : start + 5 * MIB])
            for number, start in enumerate(range(0, len(WHOLE), 5 * MIB), 1)
        ]
        assert [bool(part.store_tag) for part in parts] == [False, True, True]
        complete(box, current(box))
        check_stored(box)


def test_of_two_parts_that_find_it_too_large_one_begins_the_stores_upload(box: TestVolume) -> None:
    upload = begin(box)
    for number in (1, 2, 3):
        send(box, upload, number)
    part = send(box, upload, 4)
    again = send(box, upload, 4)  # by what was known of the upload before
    assert len(temporary(box)) == 1
    assert part.store_tag
    assert again.store_tag
    complete(box, current(box))
    check_stored(box)


def test_a_part_that_was_begun_before_follows(box: TestVolume) -> None:
    upload = begin(box)
    early = box.volume.uploads.part_writer(upload, 1, size_bytes=len(BODIES[1]))
    early.write(BODIES[1])
    for number in (2, 3, 4):
        send(box, upload, number)
    send(box, upload, 4)
    assert not early.commit(etag="e1", checksums={}).store_tag
    complete(box, current(box))
    check_stored(box)


def test_who_completes_it_by_what_was_known_before_asks_again(box: TestVolume) -> None:
    upload = begin_and_send_all(box)
    with pytest.raises(StaleContent):
        complete(box, upload)
    complete(box, current(box))
    check_stored(box)


def test_what_has_followed_follows_once(box: TestVolume) -> None:
    """The store fails in the middle, and the client completes it again."""
    begin_and_send_all(box)
    written = box.store.calls["write_part"]
    box.store.before = failing("commit_parts")
    with pytest.raises(StoreUnavailable):
        complete(box, current(box))
    box.store.before = no_fault
    complete(box, current(box))
    assert box.store.calls["write_part"] == written + 3
    check_stored(box)


def test_what_cannot_follow_stays(box: TestVolume) -> None:
    begin_and_send_all(box)
    box.store.before = failing("write_part")
    with pytest.raises(StoreUnavailable):
        complete(box, current(box))
    box.store.before = no_fault
    box.restart()
    complete(box, current(box))
    check_stored(box)


def test_aborted_by_what_was_known_before_it_leaves_nothing_in_the_store(box: TestVolume) -> None:
    upload = begin_and_send_all(box)
    assert temporary(box)
    box.volume.uploads.abort(upload)
    assert not temporary(box)
    with pytest.raises(NoSuchUpload):
        send(box, upload, 4)
    assert not temporary(box)
    box.evict()
    assert box.volume.reclaimer.used_bytes() == 0
    box.check()


def test_without_the_store_it_grows_no_further(box: TestVolume) -> None:
    upload = begin(box)
    for number in (1, 2, 3):
        send(box, upload, number)
    box.store.before = failing("begin_parts")
    with pytest.raises(StoreUnavailable):
        send(box, upload, 4)
    box.store.before = no_fault
    send(box, upload, 4)
    complete(box, current(box))
    check_stored(box)
