"""Versions over a volume: every transition, against a model; persisted, found again, paged."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.errors import (
    CrossesBucket,
    DeleteMarkerFound,
    InvalidKey,
    InvalidName,
    NameTooLong,
    NoSuchKey,
    NoSuchVersion,
    ObjectLocked,
    StoreUnavailable,
)
from cache.listing import CommonPrefix
from cache.names import VERSIONS
from cache.records import ObjectAttributes, WriteMode
from cache.retention import GOVERNANCE, Lock, with_lock
from cache.version_listing import ListedVersion
from cache.versions import ENABLED, NULL, SUSPENDED, Leaf
from tests.support.versions import VersionedBucket
from tests.support.volume import BUCKET, TestVolume, box, some_bytes, through

__all__ = ["box", "through"]

KEYS = (b"a", b"a !x", b"a 6", b"a b", b"a\t", b"a-b", b"a/b", b"a/b c", b"a//d", b"c/d/e", b"z")


@pytest.fixture(params=[WriteMode.WRITE_BACK, WriteMode.WRITE_THROUGH, WriteMode.TRANSIENT])
def versioned(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TestVolume]:
    volume = TestVolume(tmp_path, write_mode=request.param)
    enable(volume)
    yield volume
    volume.close()


def enable(box: TestVolume, status: str = ENABLED) -> None:
    box.volume.versioning.set_status(BUCKET, status)


def listed(box: TestVolume, **options: object) -> list[tuple[bytes, str, bool, bool]]:
    page = box.volume.objects.list_versions(BUCKET, **options)  # type: ignore[arg-type]
    found = []
    for entry in page.entries:
        assert isinstance(entry, ListedVersion)
        shown = entry.object
        assert shown.version_id is not None
        found.append((shown.key, shown.version_id, entry.is_latest, shown.is_marker))
    return found


def read(box: TestVolume, key: bytes, version_id: str | None = None) -> bytes:
    found, snapshot = box.volume.objects.open(BUCKET, key, version_id)
    with snapshot:
        return snapshot.read(0, found.size)


def same(box: TestVolume, model: VersionedBucket) -> None:
    """The whole bucket is what the model says."""
    # Found in a store of files, directories are listed.
    assert [row for row in listed(box) if not row[0].endswith(b"/")] == model.listed()
    for key, versions in model.keys.items():
        wanted = model.get(key)
        if wanted is None:
            with pytest.raises(NoSuchKey) as missing:
                read(box, key)
            assert isinstance(missing.value, DeleteMarkerFound) == bool(versions)
        else:
            assert read(box, key) == wanted
        for version in versions:
            if version.body is not None:
                assert read(box, key, version.version_id) == version.body
            else:
                assert box.volume.objects.get(BUCKET, key, version.version_id).is_marker


def step(box: TestVolume, model: VersionedBucket, chance: random.Random) -> None:
    """One random operation on both."""
    key = chance.choice(KEYS)
    match chance.randrange(12):
        case 0 | 1 | 2 | 3 | 4:
            body = some_bytes(chance.choice([0, 3, 5000, 70_000]), chance.random())
            version_id = box.put(key, body).version_id
            assert (version_id is None) == (not model.status)
            model.put(key, body, version_id or NULL)
        case 5 | 6:
            deleted = box.volume.objects.delete(BUCKET, key)
            assert deleted.is_marker == bool(model.status)
            model.delete(key, deleted.version_id or "")
        case 7 | 8 | 9 if model.status:
            ids = [v.version_id for v in model.keys.get(key, [])]
            version_id = chance.choice([*ids, NULL, "0" * 31 + "1"])
            box.volume.objects.delete(BUCKET, key, version_id=version_id)
            model.delete_version(key, version_id)
        case 10:
            model.status = chance.choice([ENABLED, ENABLED, SUSPENDED])
            enable(box, model.status)
        case 11 if model.get(key) is not None:
            source = box.volume.objects.get(BUCKET, key)
            target = chance.choice(KEYS)
            body = read(box, key)
            copied = box.volume.objects.copy(
                source, BUCKET, target, attributes=source.attributes, etag=source.etag
            )
            model.put(target, body, copied.version_id or NULL)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", [WriteMode.WRITE_BACK, WriteMode.WRITE_THROUGH])
def test_random_walk_agrees_with_the_model(tmp_path: Path, mode: WriteMode, seed: int) -> None:
    chance = random.Random(seed)
    box = TestVolume(tmp_path, write_mode=mode)
    model = VersionedBucket()
    try:
        for number in range(120):
            step(box, model, chance)
            if chance.random() < 0.1:
                box.drain()
            if chance.random() < 0.05:
                box.drain()
                box.evict()
            if number % 20 == 19:
                same(box, model)
        same(box, model)
        box.drain()
        box.check()
        box.forget_all()
        same(box, model)
    finally:
        box.close()


# ------------------------------------------------------------------------------------- one by one


def test_a_version_keeps_its_attributes_and_is_read_by_its_id(versioned: TestVolume) -> None:
    first = versioned.put(b"k", b"one", attributes=ObjectAttributes(content_type="a/b"))
    second = versioned.put(b"k", b"two")
    assert first.version_id is not None
    old = versioned.volume.objects.get(BUCKET, b"k", first.version_id)
    assert (old.attributes.content_type, old.etag, old.version_id) == (
        "a/b",
        first.etag,
        first.version_id,
    )
    assert read(versioned, b"k", first.version_id) == b"one"
    assert versioned.get(b"k") == b"two"
    assert versioned.volume.objects.get(BUCKET, b"k").version_id == second.version_id


def test_an_unknown_version_is_not_found(versioned: TestVolume) -> None:
    versioned.put(b"k", b"one")
    for version_id in (NULL, "0" * 31 + "1"):
        with pytest.raises(NoSuchVersion):
            versioned.volume.objects.get(BUCKET, b"k", version_id)


def test_versions_are_no_keys_and_not_on_the_mount(versioned: TestVolume) -> None:
    versioned.put(b"d/k", b"one")
    versioned.put(b"d/k", b"two")
    assert versioned.listed() == [b"d/k"]
    assert versioned.listed(delimiter=b"/") == [b"d/"]
    assert versioned.listed(prefix=VERSIONS) == []
    assert versioned.names() == [b"d"]
    for key in (VERSIONS, VERSIONS[:-1], VERSIONS + b"d/k"):
        with pytest.raises(InvalidKey):
            versioned.put(key, b"")
        with pytest.raises(InvalidKey):
            versioned.get(key)
    with pytest.raises(NoSuchKey):
        versioned.inode(VERSIONS[:-1])
    with pytest.raises(InvalidName):
        versioned.mkdir(VERSIONS[:-1])
    versioned.put(b".forebay-versions-not", b"a key like others")


def test_a_version_lies_in_the_store_under_its_documented_name(box: TestVolume) -> None:
    enable(box)
    first = box.put(b"d/k", b"one").version_id
    box.put(b"d/k", b"two")
    marker = box.volume.objects.delete(BUCKET, b"d/k").version_id
    box.put(b"d/k", b"three")
    box.drain()
    assert box.stored_bytes(b"d/k") == b"three"
    assert box.stored_bytes(VERSIONS + b"d/k " + str(first).encode()) == b"one"
    assert box.stored_bytes(VERSIONS + b"d/k " + str(marker).encode() + b"-") == b""


def test_a_name_is_read_back_as_it_was_made() -> None:
    for name in (b"a", b"a b", b"a " + b"0" * 32, b"\xff", b"x-"):
        for is_marker in (False, True):
            leaf = Leaf(name, "6" + "0" * 31, is_marker)
            assert Leaf.parse(leaf.dentry_name) == leaf
            assert leaf.version_id == NULL
    assert Leaf.parse(b"somebody's file") is None


def test_write_through_versions_are_in_the_store_when_acknowledged(through: TestVolume) -> None:
    enable(through)
    first = through.put(b"k", b"one").version_id
    through.put(b"k", b"two")
    assert through.stored_bytes(b"k") == b"two"
    assert through.stored_bytes(VERSIONS + b"k " + str(first).encode()) == b"one"
    deleted = through.volume.objects.delete(BUCKET, b"k")
    assert not through.is_stored(b"k")
    assert through.is_stored(VERSIONS + b"k " + str(deleted.version_id).encode() + b"-")
    through.volume.objects.delete(BUCKET, b"k", version_id=deleted.version_id)
    assert through.stored_bytes(b"k") == b"two"


def test_an_old_version_is_kept_that_only_the_store_has(through: TestVolume) -> None:
    body = some_bytes(300_000)
    through.put(b"k", body)
    enable(through)
    through.forget_all()
    through.put(b"k", b"new")
    assert read(through, b"k", NULL) == body
    through.evict()
    assert read(through, b"k", NULL) == body


def test_an_upload_begun_before_versioning_keeps_what_it_replaces(through: TestVolume) -> None:
    through.put(b"k", b"old")
    writer = through.volume.objects.writer(BUCKET, b"k", size_bytes=3)
    enable(through)
    writer.write(b"new")
    writer.commit(etag="e", attributes=ObjectAttributes())
    assert through.get(b"k") == b"new"
    assert read(through, b"k", NULL) == b"old"


def test_parts_begun_before_versioning_keep_what_they_replace(through: TestVolume) -> None:
    through.put(b"k", b"old")
    uploads = through.volume.uploads
    upload = uploads.create(BUCKET, b"k", owner="u", attributes=ObjectAttributes())
    enable(through)
    writer = uploads.part_writer(upload, 1, size_bytes=3)
    writer.write(b"new")
    part = writer.commit(etag="e", checksums={})
    done = uploads.complete(upload, [part], etag="e-1", attributes=ObjectAttributes())
    assert done.version_id not in (None, NULL)
    through.drain()
    through.evict()
    assert through.get(b"k") == b"new"
    assert read(through, b"k", NULL) == b"old"
    through.forget_all()
    assert read(through, b"k", NULL) == b"old"
    assert read(through, b"k", done.version_id) == b"new"


def test_a_long_key_is_refused_in_a_versioned_bucket_only(box: TestVolume) -> None:
    key = b"/".join([b"k" * 200] * 5)
    box.put(key, b"")
    enable(box)
    with pytest.raises(NameTooLong):
        box.put(key, b"new")
    assert box.get(key) == b""


# ------------------------------------------------------------------------------------ the listing


def pages(box: TestVolume, limit: int, **options: bytes) -> list[object]:
    """The whole listing, page by page."""
    found: list[object] = []
    after, version = b"", None
    while True:
        page = box.volume.objects.list_versions(
            BUCKET,
            after=after,
            after_version=version,
            limit=limit,
            **options,  # type: ignore[arg-type]
        )
        assert len(page.entries) <= limit
        for entry in page.entries:
            if isinstance(entry, CommonPrefix):
                found.append(entry.key)
            else:
                shown = entry.object
                found.append((shown.key, shown.version_id, entry.is_latest, shown.is_marker))
        if not page.truncated:
            return found
        after, version = page.last_key, page.last_version


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_every_split_into_pages_lists_the_same(box: TestVolume, limit: int) -> None:
    chance = random.Random(7)
    model = VersionedBucket()
    for _ in range(90):
        step(box, model, chance)
    rows = model.listed()
    assert pages(box, limit) == rows
    for prefix in (b"a", b"a ", b"a !", b"a/", b"a/b", b"c/", b"nothing"):
        wanted: list[object] = [row for row in rows if row[0].startswith(prefix)]
        assert pages(box, limit, prefix=prefix) == wanted
        for delimiter in (b"/", b" ", b"b"):
            grouped: list[object] = []
            for row in rows:
                if not row[0].startswith(prefix):
                    continue
                cut = row[0].find(delimiter, len(prefix))
                shown = row if cut < 0 else row[0][: cut + len(delimiter)]
                if cut < 0 or not grouped or grouped[-1] != shown:
                    grouped.append(shown)
            assert pages(box, limit, prefix=prefix, delimiter=delimiter) == grouped


# -------------------------------------------------------------------------------------- the mount


def test_unlink_leaves_a_marker_and_rename_over_a_version(versioned: TestVolume) -> None:
    versioned.put(b"d/k", b"one")
    versioned.unlink(b"d/k")
    (_, marker, one) = listed(versioned)  # d/, which the mount keeps
    assert (marker[2:], one[2:]) == ((True, True), (False, False))
    assert versioned.names(b"d") == []
    versioned.create(b"d/k")
    versioned.write(b"d/k", b"two")
    versioned.create(b"d/new")
    versioned.write(b"d/new", b"three")
    versioned.rename(b"d/new", b"d/k")
    assert versioned.get(b"d/k") == b"three"
    ids = [row[1] for row in listed(versioned) if row[0] == b"d/k"]
    assert len(set(ids)) == 4
    assert NULL not in ids
    assert read(versioned, b"d/k", ids[1]) == b"two"
    assert not [row for row in listed(versioned) if row[0] == b"d/new"]


def test_a_rename_hides_the_versions_that_stay(versioned: TestVolume) -> None:
    versioned.put(b"k", b"one")
    versioned.put(b"k", b"two")
    versioned.rename(b"k", b"l")
    rows = listed(versioned)
    assert [(row[0], *row[2:]) for row in rows] == [
        (b"k", True, True),
        (b"k", False, False),
        (b"l", True, False),
    ]
    assert versioned.get(b"l") == b"two"
    with pytest.raises(DeleteMarkerFound):
        versioned.get(b"k")


def test_a_directory_with_versions_in_it_is_not_renamed(versioned: TestVolume) -> None:
    versioned.put(b"d/k", b"one")
    versioned.put(b"e/k", b"one")
    versioned.rename(b"e", b"f")
    versioned.put(b"d/k", b"two")
    with pytest.raises(CrossesBucket):
        versioned.rename(b"d", b"g")
    with pytest.raises(CrossesBucket):
        versioned.rename(b"f", b"d", exchange=True)


# ------------------------------------------------------------------------------------------ locks


def locked(seconds: int = 3600, *, mode: str = GOVERNANCE, hold: str = "") -> ObjectAttributes:
    until_s = int(time.time()) + seconds
    return with_lock(ObjectAttributes(), Lock(mode, until_s, hold))


def test_a_retained_version_stays(versioned: TestVolume) -> None:
    objects = versioned.volume.objects
    kept = versioned.put(b"k", b"one", attributes=locked()).version_id
    with pytest.raises(ObjectLocked):
        objects.delete(BUCKET, b"k", version_id=kept)
    marker = objects.delete(BUCKET, b"k")
    with pytest.raises(ObjectLocked):
        objects.delete(BUCKET, b"k", version_id=kept)
    objects.delete(BUCKET, b"k", version_id=marker.version_id)
    assert versioned.get(b"k") == b"one"
    objects.delete(BUCKET, b"k", version_id=kept, bypass=True)
    assert listed(versioned) == []


@pytest.mark.parametrize("attributes", [locked(mode="COMPLIANCE"), locked(-5, hold="ON")])
def test_nothing_bypasses_compliance_and_holds(
    versioned: TestVolume, attributes: ObjectAttributes
) -> None:
    kept = versioned.put(b"k", b"one", attributes=attributes).version_id
    with pytest.raises(ObjectLocked):
        versioned.volume.objects.delete(BUCKET, b"k", version_id=kept, bypass=True)


def test_a_retention_ends(versioned: TestVolume) -> None:
    kept = versioned.put(b"k", b"one", attributes=locked(-1)).version_id
    versioned.volume.objects.delete(BUCKET, b"k", version_id=kept)
    assert listed(versioned) == []


def test_a_lock_that_cannot_be_read_locks(versioned: TestVolume) -> None:
    kept = versioned.put(b"k", b"one", attributes=ObjectAttributes(own={"lock": "?"})).version_id
    with pytest.raises(ObjectLocked):
        versioned.volume.objects.delete(BUCKET, b"k", version_id=kept, bypass=True)


def test_a_lock_holds_on_the_mount(versioned: TestVolume) -> None:
    versioned.put(b"k", b"one", attributes=locked())
    with pytest.raises(ObjectLocked):
        versioned.write(b"k", b"two")
    with pytest.raises(ObjectLocked):
        versioned.rename(b"k", b"l")
    versioned.unlink(b"k")
    assert [row[2:] for row in listed(versioned)] == [(True, True), (False, False)]


def test_a_lock_outlives_the_index(through: TestVolume) -> None:
    enable(through)
    kept = through.put(b"k", b"one", attributes=locked()).version_id
    through.put(b"k", b"two")
    through.forget_all()
    with pytest.raises(ObjectLocked):
        through.volume.objects.delete(BUCKET, b"k", version_id=kept)


# -------------------------------------------------------------------------------------- the store


def test_a_store_that_fails_loses_no_version(through: TestVolume) -> None:
    """Whatever step of the store fails, what was acknowledged is there when it works again."""
    enable(through)
    kept = through.put(b"k", b"one").version_id

    for number in range(1, 5):
        left = [number]

        def fail_later(operation: str, key: bytes, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise StoreUnavailable(operation)

        through.store.before = fail_later
        with contextlib.suppress(StoreUnavailable):
            through.put(b"k", b"more")
        through.store.before = lambda operation, key: None
        through.drain()
        assert read(through, b"k", kept) == b"one"
    through.forget_all()
    assert read(through, b"k", kept) == b"one"
    through.check()
