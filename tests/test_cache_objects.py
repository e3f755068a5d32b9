"""The S3 door: conditions inside the commit, write modes, copies, multipart uploads."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from cache.config import PrefixMode
from cache.errors import (
    InvalidKey,
    InvalidPart,
    NoSuchBucket,
    NoSuchKey,
    NoSuchUpload,
    PreconditionFailed,
    StaleContent,
    StoreUnavailable,
)
from cache.objects import Object
from cache.records import ObjectAttributes, UploadRecord, WriteMode
from tests.support.fault_store import no_fault, unavailable
from tests.support.volume import BUCKET, TestVolume, box, some_bytes, through
from tests.support.waiting import wait_until

__all__ = ["box", "through"]

NONE = ObjectAttributes()
BIG = 600_000


def must_be_absent(found: Object | None) -> None:
    if found is not None:
        raise PreconditionFailed("If-None-Match: *")


@pytest.mark.parametrize("volume", ["box", "through"])
def test_of_many_that_create_a_key_one_wins(volume: str, request: pytest.FixtureRequest) -> None:
    box: TestVolume = request.getfixturevalue(volume)
    outcome: list[bytes | None] = []

    def create(data: bytes) -> None:
        try:
            box.put(b"d/key", data, check=must_be_absent)
            outcome.append(data)
        except PreconditionFailed:
            outcome.append(None)

    bodies = [b"%d" % n * 5000 for n in range(8)]
    threads = [threading.Thread(target=create, args=(data,)) for data in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [data for data in outcome if data is not None]
    assert box.get(b"d/key") == winner
    box.drain()
    assert box.stored_bytes(b"d/key") == winner
    box.check()


@pytest.mark.parametrize("volume", ["box", "through"])
def test_a_condition_that_fails_changes_nothing(
    volume: str, request: pytest.FixtureRequest
) -> None:
    box: TestVolume = request.getfixturevalue(volume)
    box.put(b"a", b"1" * 5000)
    with pytest.raises(PreconditionFailed):
        box.put(b"a", b"2" * 5000, check=must_be_absent)
    with pytest.raises(PreconditionFailed):
        box.volume.objects.delete(BUCKET, b"a", check=must_be_absent)
    found = box.volume.objects.get(BUCKET, b"a")
    with pytest.raises(PreconditionFailed):
        box.volume.objects.copy(found, BUCKET, b"a", attributes=NONE, check=must_be_absent)
    box.drain()
    assert box.get(b"a") == box.stored_bytes(b"a") == b"1" * 5000
    box.check()


def test_a_body_that_is_given_up_leaves_no_trace(box: TestVolume) -> None:
    writer = box.volume.objects.writer(BUCKET, b"d/a", size_bytes=BIG)
    writer.write(some_bytes(BIG - 1))
    writer.abort()
    writer.abort()
    assert box.listed() == []
    box.check()
    box.volume.segments.close()
    box.volume.reclaimer.seal_abandoned()
    box.volume.reclaimer.run_once()
    assert box.volume.reclaimer.used_bytes() == 0


@pytest.mark.parametrize("size", [0, 100, 5000, BIG])
@pytest.mark.parametrize("mode", list(WriteMode))
def test_each_write_mode_acknowledges_when_it_says(
    tmp_path: Path, mode: WriteMode, size: int
) -> None:
    volume = TestVolume(tmp_path, write_mode=mode)
    try:
        data = some_bytes(size)
        volume.put(b"d/a", data)
        now_in_store = mode in (WriteMode.WRITE_THROUGH, WriteMode.WRITE_AROUND)
        assert volume.is_stored(b"d/a") == now_in_store
        assert volume.volume.queue.backlog().names == (1 if mode == WriteMode.WRITE_BACK else 0)
        assert volume.get(b"d/a") == data
        if mode == WriteMode.WRITE_AROUND:
            with volume.volume.index.read() as txn:
                assert volume.volume.segments.records(txn) == []
        volume.drain()
        assert volume.is_stored(b"d/a") == (mode != WriteMode.TRANSIENT)
        if mode != WriteMode.TRANSIENT:
            assert volume.stored_bytes(b"d/a") == data
        volume.delete(b"d/a")
        volume.drain()
        assert volume.stored() == {}
        volume.check()
    finally:
        volume.close()


def test_the_longest_prefix_says_the_mode(tmp_path: Path) -> None:
    prefixes = (
        PrefixMode("tmp/", WriteMode.TRANSIENT),
        PrefixMode("tmp/keep/", WriteMode.WRITE_THROUGH),
    )
    volume = TestVolume(tmp_path, prefixes=prefixes)
    try:
        for key in (b"a", b"tmp/b", b"tmp/keep/c"):
            volume.put(key, b"1")
        assert [k for k in volume.stored() if not k.endswith(b"/")] == [b"tmp/keep/c"]
        volume.drain()
        assert [k for k in volume.stored() if not k.endswith(b"/")] == [b"a", b"tmp/keep/c"]
    finally:
        volume.close()


def test_in_write_through_nothing_is_acknowledged_while_the_store_is_down(
    through: TestVolume,
) -> None:
    through.put(b"a", b"old")
    through.listed()
    through.store.before = unavailable
    for key in (b"a", b"new", b"d/new"):
        with pytest.raises(StoreUnavailable):
            through.put(key, b"x" * 5000)
    assert through.listed() == [b"a"]
    assert through.get(b"a") == b"old"
    through.store.before = no_fault
    through.drain()
    assert through.listed() == [b"a"]
    assert through.get(b"a") == through.stored_bytes(b"a") == b"old"
    through.check()


def test_attributes_travel_to_the_store_and_back(through: TestVolume) -> None:
    attributes = ObjectAttributes(
        content_type="text/x",
        headers={"cache-control": "no-cache"},
        metadata={"a": "b"},
        tags={"t": "1"},
    )
    through.put(b"a", b"1", attributes=attributes)
    before = through.volume.objects.get(BUCKET, b"a")
    through.forget_all()
    after = through.volume.objects.get(BUCKET, b"a")
    assert after.etag == before.etag
    for name in ("content_type", "headers", "metadata", "tags"):
        assert getattr(after.attributes, name) == getattr(before.attributes, name)


def test_a_copy_moves_no_byte_and_is_its_own_object(box: TestVolume) -> None:
    data = some_bytes(BIG)
    box.put(b"a", data)
    used = box.volume.reclaimer.used_bytes()
    for name in (b"b", b"c", b"a"):
        found = box.volume.objects.get(BUCKET, b"a")
        box.volume.objects.copy(found, BUCKET, name, attributes=NONE)
    assert box.volume.reclaimer.used_bytes() == used
    box.write(b"b", b"x", 300_000)
    assert box.get(b"a") == box.get(b"c") == data
    assert box.get(b"b") == data[:300_000] + b"x" + data[300_001:]
    box.drain()
    box.evict()
    assert box.get(b"c") == data
    box.check()


def test_a_copy_of_what_was_replaced_is_refused(box: TestVolume) -> None:
    box.create(b"a")
    box.write(b"a", b"1" * 5000)
    found = box.volume.objects.get(BUCKET, b"a")
    box.write(b"a", b"2")
    with pytest.raises(StaleContent):
        box.volume.objects.copy(found, BUCKET, b"b", attributes=NONE)


@pytest.mark.parametrize("key", [b"", b"k" * 1025])
def test_keys_that_s3_does_not_allow_are_refused(box: TestVolume, key: bytes) -> None:
    with pytest.raises(InvalidKey):
        box.put(key)
    with pytest.raises(InvalidKey):
        box.get(key)
    with pytest.raises(InvalidKey):
        box.delete(key)


def test_a_bucket_that_is_not_there_is_said_so(box: TestVolume) -> None:
    objects = box.volume.objects
    with pytest.raises(NoSuchBucket):
        objects.get("nobody", b"a")
    with pytest.raises(NoSuchBucket):
        objects.list("nobody")
    with pytest.raises(NoSuchBucket):
        objects.writer("nobody", b"a", size_bytes=1)


# ---------------------------------------------------------------------- multipart


def begin(box: TestVolume, key: bytes = b"d/a") -> UploadRecord:
    return box.volume.uploads.create(BUCKET, key, owner="me", attributes=NONE)


@pytest.fixture(params=["box", "through"])
def either(request: pytest.FixtureRequest) -> TestVolume:
    found: TestVolume = request.getfixturevalue(request.param)
    return found


def test_parts_become_the_object_in_their_order(either: TestVolume) -> None:
    uploads = either.volume.uploads
    upload = begin(either)
    bodies = {n: some_bytes(size, n) for n, size in ((3, 200_003), (1, 200_001), (10_000, 3000))}
    parts = {n: either.send_part(upload, n, data) for n, data in bodies.items()}
    assert [p.number for p in uploads.parts(upload)] == [1, 3, 10_000]
    assert [p.number for p in uploads.parts(upload, after=1, limit=1)] == [3]
    assert uploads.list(BUCKET) == [upload]
    assert either.listed() == []
    found = uploads.complete(upload, [parts[1], parts[10_000]], etag="e-2", attributes=NONE)
    assert found.etag == "e-2"
    wanted = bodies[1] + bodies[10_000]
    assert either.get(b"d/a") == wanted
    with pytest.raises(NoSuchUpload):
        uploads.parts(upload)
    either.drain()
    assert either.stored_bytes(b"d/a") == wanted
    either.evict()
    assert either.get(b"d/a") == wanted
    either.check()


def test_a_part_sent_again_replaces_the_first(either: TestVolume) -> None:
    uploads = either.volume.uploads
    upload = begin(either)
    first = either.send_part(upload, 1, b"1" * 9000)
    second = either.send_part(upload, 1, b"2" * 8000)
    assert uploads.parts(upload) == [second]
    with pytest.raises(InvalidPart):
        uploads.complete(upload, [first], etag="e-1", attributes=NONE)
    assert either.volume.uploads.parts(upload) == [second]
    uploads.complete(upload, [second], etag="e-1", attributes=NONE)
    assert either.get(b"d/a") == b"2" * 8000
    either.check()


def test_an_aborted_upload_leaves_nothing_anywhere(either: TestVolume) -> None:
    uploads = either.volume.uploads
    upload = begin(either)
    either.send_part(upload, 1, some_bytes(BIG))
    late = uploads.part_writer(upload, 2, size_bytes=9000)
    late.write(b"x" * 9000)
    if upload.store_token:
        # The store's thread has begun the part: abort() may not come in the middle of that.
        parts = f".forebay-tmp/*/{upload.store_token}/*"
        wait_until(lambda: len(list(either.store_dir.glob(parts))) >= 2)
    uploads.abort(upload)
    with pytest.raises(NoSuchUpload):
        late.commit(etag="e", checksums={})
    late.abort()
    with pytest.raises(NoSuchUpload):
        uploads.abort(upload)
    with pytest.raises(NoSuchUpload):
        uploads.complete(upload, [], etag="e", attributes=NONE)
    assert uploads.list(BUCKET) == []
    either.evict()
    either.volume.reclaimer.run_once()
    assert either.volume.reclaimer.used_bytes() == 0
    assert either.stored() == {}
    either.check()


@pytest.mark.parametrize("sent", [8999, 9001])
def test_a_part_of_another_length_than_announced_is_refused(either: TestVolume, sent: int) -> None:
    upload = begin(either)
    writer = either.volume.uploads.part_writer(upload, 1, size_bytes=9000)
    with pytest.raises(InvalidPart):  # noqa: PT012  it may be found out at either
        writer.write(b"x" * sent)
        writer.commit(etag="e", checksums={})
    writer.abort()
    assert either.volume.uploads.parts(upload) == []
    for number in (0, 10_001):
        with pytest.raises(InvalidPart):
            either.volume.uploads.part_writer(upload, number, size_bytes=1)


def test_a_part_copied_from_an_object_shares_its_bytes(box: TestVolume) -> None:
    data = some_bytes(BIG)
    box.put(b"source", data)
    used = box.volume.reclaimer.used_bytes()
    upload = begin(box)
    source = box.volume.objects.get(BUCKET, b"source")
    part = box.volume.uploads.copy_part(upload, 1, source, 1000, 500_000, etag="e")
    box.volume.uploads.complete(upload, [part], etag="e-1", attributes=NONE)
    assert box.volume.reclaimer.used_bytes() == used
    box.delete(b"source")
    box.drain()
    box.reap()
    box.evict()
    assert box.get(b"d/a") == data[1000:500_000]
    box.check()


def test_two_completions_of_one_upload_make_one_object(either: TestVolume) -> None:
    upload = begin(either)
    part = either.send_part(upload, 1, some_bytes(BIG))
    outcome: list[str] = []

    def complete() -> None:
        try:
            either.volume.uploads.complete(upload, [part], etag="e-1", attributes=NONE)
            outcome.append("done")
        except (NoSuchUpload, InvalidPart):
            outcome.append("refused")

    threads = [threading.Thread(target=complete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcome.count("done") >= 1
    assert len(outcome) == 4
    either.drain()
    assert either.get(b"d/a") == some_bytes(BIG) == either.stored_bytes(b"d/a")
    either.check()


@pytest.mark.parametrize("volume", ["box", "through"])
def test_attributes_change_without_the_bytes(volume: str, request: pytest.FixtureRequest) -> None:
    box: TestVolume = request.getfixturevalue(volume)
    box.put(b"d/key", b"bytes")
    before = box.volume.objects.get(BUCKET, b"d/key")

    def tagged(found: Object) -> ObjectAttributes:
        return msgspec.structs.replace(found.attributes, tags={"a": "b"})

    box.volume.objects.change_attributes(BUCKET, b"d/key", tagged)
    after = box.volume.objects.get(BUCKET, b"d/key")
    assert after.attributes.tags == {"a": "b"}
    assert (after.etag, after.modified_ns) == (before.etag, before.modified_ns)
    assert box.get(b"d/key") == b"bytes"
    if volume == "box":
        box.drain()
    attributes = box.store.head(b"d/key").attributes
    assert attributes is not None
    assert attributes.tags == {"a": "b"}
    with pytest.raises(NoSuchKey):
        box.volume.objects.change_attributes(BUCKET, b"d/other", tagged)
    box.check()
