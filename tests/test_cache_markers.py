"""Bytes under keys that end in `/`: one inode is the directory and the object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.errors import NoSuchKey, NotEmpty, NotSupported, StoreUnavailable
from cache.namespace import Place
from cache.records import ObjectAttributes, Part, WriteMode
from cache.stores.base import Store, StoredAttributes
from cache.versions import ENABLED
from tests.support.fault_store import no_fault, unavailable
from tests.support.stores import Backend, moto_backend
from tests.support.volume import BUCKET, TestVolume, box, some_bytes
from tests.test_cache_versions import enable

__all__ = ["box"]


SMALL, LARGE = b"inline", some_bytes(9000, "marker")
ATTRIBUTES = ObjectAttributes(content_type="text/x-notes", metadata={"colour": "blue"})


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with moto_backend(tmp_path_factory.mktemp("moto")) as backend:
        yield backend


@pytest.fixture
def s3_store(moto: Backend, tmp_path: Path) -> Iterator[Store]:
    with moto.opened(prefix=f"{tmp_path.name}/") as store:
        yield store


@pytest.fixture(params=["directory", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestVolume]:
    """A volume in write_back over a store of either kind."""
    store = request.getfixturevalue("s3_store") if request.param == "s3" else None
    volume = TestVolume(tmp_path, store=store)
    yield volume
    volume.close()


def add_part(box: TestVolume, key: bytes, bodies: list[bytes]) -> None:
    uploads = box.volume.uploads
    upload = uploads.create(BUCKET, key, owner="me", attributes=ATTRIBUTES)
    parts: list[Part] = []
    for number, body in enumerate(bodies, 1):
        writer = uploads.part_writer(upload, number, size_bytes=len(body))
        writer.write(body)
        parts.append(writer.commit(etag=f"{number:032x}", checksums={}))
    uploads.complete(upload, parts, etag="0" * 32 + "-2", attributes=ATTRIBUTES)


@pytest.mark.parametrize("body", [SMALL, LARGE])
def test_bytes_come_back_from_the_store(kept: TestVolume, body: bytes) -> None:
    etag = kept.put(b"d/", body, attributes=ATTRIBUTES).etag
    kept.put(b"d/file", b"1")
    assert kept.listed() == [b"d/", b"d/file"]
    assert kept.listed(delimiter=b"/") == [b"d/"]
    assert kept.listed(prefix=b"d/", delimiter=b"/") == [b"d/", b"d/file"]
    assert kept.names() == [b"d"]
    assert kept.names(b"d") == [b"file"]
    kept.drain()
    kept.chmod(b"d", 0o700)
    kept.drain()
    assert kept.stored_bytes(b"d/") == body
    kept.evict()
    assert kept.get(b"d/") == body
    kept.check()

    kept.forget_all()
    assert kept.listed() == [b"d/", b"d/file"]
    found = kept.volume.objects.get(BUCKET, b"d/")
    assert (found.size, found.etag) == (len(body), etag)
    assert found.attributes.metadata == {"colour": "blue"}
    assert found.attributes.content_type == "text/x-notes"
    assert kept.inode(b"d").mode == 0o700
    assert kept.get(b"d/", 2, 5) == body[2:5]
    kept.check()


def test_one_body_takes_the_place_of_another(kept: TestVolume) -> None:
    for body in (LARGE, SMALL, b"", SMALL, LARGE, b""):
        kept.put(b"d/", body)
        assert kept.get(b"d/") == body
        kept.drain()
        assert kept.stored_bytes(b"d/") == body
        kept.check()
    assert kept.listed() == [b"d/"]


def test_a_reader_has_the_bytes_that_it_began_with(kept: TestVolume) -> None:
    kept.put(b"d/", LARGE)
    _, snapshot = kept.volume.objects.open(BUCKET, b"d/")
    with snapshot:
        kept.put(b"d/", b"other")
        assert snapshot.read(0, snapshot.size) == LARGE
    assert kept.get(b"d/") == b"other"


def test_deleted_bytes_stay_away_and_the_directory_stays(kept: TestVolume) -> None:
    kept.put(b"d/", LARGE, attributes=ATTRIBUTES)
    kept.put(b"d/file", b"1")
    kept.drain()
    kept.delete(b"d/")
    assert kept.listed() == [b"d/file"]
    kept.drain()
    kept.forget_all()
    assert kept.get(b"d/file") == b"1"
    with pytest.raises(NoSuchKey):
        kept.volume.objects.get(BUCKET, b"d/none")
    assert all(not inode.size for inode in [kept.inode(b"d")])
    kept.delete(b"d/file")
    kept.delete(b"d/")
    kept.drain()
    assert kept.stored() == {}


def test_a_renamed_directory_takes_its_bytes_along(kept: TestVolume) -> None:
    kept.put(b"d/", LARGE)
    kept.put(b"d/e/", SMALL)
    kept.rename(b"d", b"moved")  # before the store has anything
    kept.drain()
    kept.rename(b"moved", b"again")  # and after
    kept.drain()
    assert kept.listed() == [b"again/", b"again/e/"]
    kept.evict()
    assert (kept.get(b"again/"), kept.get(b"again/e/")) == (LARGE, SMALL)
    kept.forget_all()
    assert (kept.get(b"again/"), kept.get(b"again/e/")) == (LARGE, SMALL)
    kept.check()


def test_the_mount_removes_no_bytes_unseen(box: TestVolume) -> None:
    box.put(b"d/", SMALL)
    box.mkdir(b"e")
    with pytest.raises(NotEmpty):
        box.rmdir(b"d")
    with pytest.raises(NotEmpty):
        box.rename(b"e", b"d")
    box.put(b"d/", b"")
    box.rmdir(b"d")
    assert box.names() == [b"e"]


def test_copies_and_parts(kept: TestVolume) -> None:
    kept.put(b"a", LARGE)
    objects = kept.volume.objects
    objects.copy(objects.get(BUCKET, b"a"), BUCKET, b"d/", attributes=ATTRIBUTES)
    objects.copy(objects.get(BUCKET, b"d/"), BUCKET, b"d/", attributes=ObjectAttributes())
    objects.copy(objects.get(BUCKET, b"d/"), BUCKET, b"b", attributes=ATTRIBUTES)
    add_part(kept, b"p/", [LARGE, SMALL])
    kept.drain()
    kept.evict()
    assert kept.get(b"d/") == kept.get(b"b") == LARGE
    assert kept.get(b"p/") == LARGE + SMALL
    assert kept.stored_bytes(b"p/") == LARGE + SMALL
    kept.check()


@pytest.mark.parametrize("mode", [WriteMode.WRITE_THROUGH, WriteMode.WRITE_AROUND])
def test_acknowledged_is_in_the_store(tmp_path: Path, mode: WriteMode) -> None:
    box = TestVolume(tmp_path, write_mode=mode)
    assert box.listed() == []
    box.put(b"d/", LARGE)
    assert box.stored_bytes(b"d/") == LARGE
    add_part(box, b"d/", [SMALL])
    assert box.stored_bytes(b"d/") == SMALL
    box.delete(b"d/")
    assert box.stored() == {}
    box.close()


def test_others_put_and_take_bytes_in_the_store(kept: TestVolume) -> None:
    kept.put(b"d/file", b"1")
    kept.drain()
    store = kept.store.store
    directory = StoredAttributes(mode=0o755)
    store.put(b"d/", [LARGE], len(LARGE), directory)
    kept.forget_all()
    assert kept.get(b"d/") == LARGE  # learned by its key, before any listing
    assert kept.listed() == [b"d/", b"d/file"]
    store.put(b"d/", [SMALL], len(SMALL), directory)
    kept.age()
    kept.volume.discovery.learn_key(kept.volume.buckets.get(BUCKET), b"d/")
    assert kept.get(b"d/") == SMALL
    kept.chmod(b"d", 0o700)
    kept.drain()
    assert kept.stored_bytes(b"d/") == SMALL
    kept.check()


def test_a_versioned_bucket_refuses_bytes_there(box: TestVolume) -> None:
    """They would have no versions, so that a PUT or a DELETE lost what was there."""
    box.put(b"d/", SMALL)
    enable(box, ENABLED)
    for change in (
        lambda: box.put(b"d/", LARGE),
        lambda: box.put(b"d/", b""),
        lambda: box.put(b"new/", LARGE),
        lambda: box.delete(b"d/"),
        lambda: box.volume.uploads.create(BUCKET, b"d/", owner="me", attributes=ATTRIBUTES),
    ):
        with pytest.raises(NotSupported):
            change()
    writer = box.volume.objects.writer(BUCKET, b"d/", size_bytes=None)
    writer.write(b"1")
    with pytest.raises(NotSupported):
        writer.commit(etag="e", attributes=ObjectAttributes())
    writer.abort()
    assert box.get(b"d/") == SMALL
    box.put(b"new/", b"")
    box.delete(b"new/")
    box.volume.objects.delete(BUCKET, b"d/", version_id="null")
    assert box.listed() == []


def test_a_store_without_markers_refuses_bytes_there(moto: Backend, tmp_path: Path) -> None:
    with moto.opened(prefix="omit/", directory_markers="omit") as store:
        box = TestVolume(tmp_path, store=store)
        with pytest.raises(NotSupported):
            box.put(b"d/", SMALL)
        box.put(b"d/", b"")
        assert box.listed() == [b"d/"]
        box.close()


def test_a_directory_that_only_its_keys_imply_has_no_marker_of_others(kept: TestVolume) -> None:
    """Else it would stay when they are gone."""
    real = kept.store.capabilities.native_directories
    for name in (b"a", b"b"):
        kept.mkdir(name)
    kept.drain()
    kept.mkdir(b"d")
    kept.store.after = unavailable
    with pytest.raises(StoreUnavailable):
        kept.volume.persister.persist(Place(kept.root, kept.root, b"d/"))
    kept.store.after = no_fault
    kept.rmdir(b"d")
    kept.put(b"d/x", b"x")  # nobody knows that there is a d/
    kept.rmdir(b"a")
    kept.put(b"a/x", b"x")  # before the store knows that there is another a/
    kept.put(b"c/x", b"x")
    kept.rename(b"c", b"b")
    kept.drain()
    markers = {b"a/", b"b/", b"d/"}
    assert markers & set(kept.stored()) == (markers if real else set())


def test_a_renamed_directory_outlives_its_last_key(kept: TestVolume) -> None:
    kept.put(b"a/x", b"x")
    kept.drain()
    kept.rename(b"a", b"b")
    kept.volume.persister.persist(Place(kept.root, kept.root, b"a/"))  # b/ comes home with this
    kept.unlink(b"b/x")
    kept.drain()
    assert set(kept.stored()) == {b"b/"}
