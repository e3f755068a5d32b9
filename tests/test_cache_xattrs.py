"""Extended attributes: which there are, what S3's limits make of them, and where they are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache import s3_xattrs
from cache.errors import (
    AttributeExists,
    AttributeInvalid,
    AttributesFull,
    AttributeTooLarge,
    CacheError,
    NoSuchAttribute,
    NotPermitted,
    NotSupported,
    ObjectLocked,
)
from cache.publishing import Object
from cache.records import ROOT, ObjectAttributes, WriteMode
from cache.retention import Lock, with_lock
from cache.xattrs import VALUE_MAX
from tests.support.fault_store import unavailable
from tests.support.volume import BUCKET, TestVolume, box, some_bytes
from tests.support.waiting import wait_until

__all__ = ["box"]


def setting(box: TestVolume, path: bytes, name: bytes, value: bytes) -> None:
    box.volume.xattrs.set(box.inode(path).id, name, value, create=False, replace=False)


def value(box: TestVolume, path: bytes, name: bytes) -> bytes:
    return box.volume.xattrs.get(box.inode(path).id, name)


def names(box: TestVolume, path: bytes) -> list[bytes]:
    return box.volume.xattrs.names(box.inode(path).id)


def attributes(box: TestVolume, key: bytes) -> ObjectAttributes:
    return box.volume.objects.get(BUCKET, key).attributes


def test_attributes_of_the_index(box: TestVolume) -> None:
    xattrs = box.volume.xattrs
    inode = box.create(b"f").id
    xattrs.set(inode, b"user.a", b"1", create=True, replace=False)
    with pytest.raises(AttributeExists):
        xattrs.set(inode, b"user.a", b"2", create=True, replace=False)
    with pytest.raises(NoSuchAttribute):
        xattrs.set(inode, b"user.b", b"2", create=False, replace=True)
    for name, content in ((b"user." + b"n" * 251, b""), (b"user.a", bytes(VALUE_MAX + 1))):
        with pytest.raises(AttributeTooLarge):
            xattrs.set(inode, name, content, create=False, replace=False)
    xattrs.set(inode, b"user.a", b"", create=False, replace=True)
    assert xattrs.get(inode, b"user.a") == b""
    assert xattrs.names(inode) == [b"user.a"]
    xattrs.remove(inode, b"user.a")
    for act in (lambda: xattrs.get(inode, b"user.a"), lambda: xattrs.remove(inode, b"user.a")):
        with pytest.raises(NoSuchAttribute):
            act()
    assert xattrs.names(inode) == []


def test_metadata_and_tags_are_attributes_of_the_object(box: TestVolume) -> None:
    box.create(b"f")
    setting(box, b"f", b"user.s3.meta.colour", "grün".encode())
    setting(box, b"f", b"user.s3.tag.Project X", b"a+b")
    found = attributes(box, b"f")
    assert (found.metadata, found.tags) == ({"colour": "grün"}, {"Project X": "a+b"})
    assert names(box, b"f") == [b"user.s3.meta.colour", b"user.s3.tag.Project X"]
    box.volume.xattrs.remove(box.inode(b"f").id, b"user.s3.tag.Project X")
    assert attributes(box, b"f").tags == {}
    with pytest.raises(NoSuchAttribute):
        box.volume.xattrs.remove(box.inode(b"f").id, b"user.s3.tag.Project X")


def test_what_was_put_over_s3_is_shown(box: TestVolume) -> None:
    metadata = {"a": "1", "mtime": "7", "n" * 250: "too long a name for an attribute"}
    box.put(b"f", b"x", attributes=ObjectAttributes(metadata=metadata, tags={"t": ""}))
    assert names(box, b"f") == [b"user.s3.meta.a", b"user.s3.tag.t"]
    assert (value(box, b"f", b"user.s3.meta.a"), value(box, b"f", b"user.s3.tag.t")) == (b"1", b"")
    with pytest.raises(NoSuchAttribute):
        value(box, b"f", b"user.s3.meta.mtime")


def test_they_are_in_the_store_and_outlive_the_index(box: TestVolume) -> None:
    box.create(b"f")
    box.mkdir(b"d")
    box.drain()
    for path in (b"f", b"d"):
        setting(box, path, b"user.s3.meta.a", b"1")
        setting(box, path, b"user.s3.tag.t", b"2")
    box.drain()
    box.forget_all()
    for path in (b"f", b"d"):
        assert names(box, path) == [b"user.s3.meta.a", b"user.s3.tag.t"]
    assert attributes(box, b"d/").metadata == {"a": "1"}


def test_a_directory_that_has_attributes_is_an_object(box: TestVolume) -> None:
    box.put(b"d/f", b"x")
    assert b"d/" not in box.listed()
    setting(box, b"d", b"user.s3.tag.t", b"2")
    assert b"d/" in box.listed()
    for inode in (ROOT, box.root):
        with pytest.raises(NotSupported):
            box.volume.xattrs.set(inode, b"user.s3.tag.t", b"", create=False, replace=False)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        (b"user.s3.other", b"", AttributeInvalid),
        (b"user.s3.meta.", b"x", AttributeInvalid),
        (b"user.s3.meta.Upper", b"x", AttributeInvalid),
        (b"user.s3.meta.a b", b"x", AttributeInvalid),
        (b"user.s3.meta.mode", b"33188", AttributeInvalid),
        (b"user.s3.meta.a", b"line\nbreak", AttributeInvalid),
        (b"user.s3.meta.a", b" blank", AttributeInvalid),
        (b"user.s3.meta.a", b"\xff", AttributeInvalid),
        (b"user.s3.meta.a", b"x" * 2048, AttributeTooLarge),
        (b"user.s3.meta.b", b"x" * 2040, AttributesFull),
        (b"user.s3.tag.", b"x", AttributeInvalid),
        (b"user.s3.tag.aws:x", b"x", AttributeInvalid),
        (b"user.s3.tag.a#b", b"x", AttributeInvalid),
        (b"user.s3.tag.a", b"#", AttributeInvalid),
        (b"user.s3.tag." + b"k" * 129, b"x", AttributeTooLarge),
        (b"user.s3.tag.a", b"x" * 257, AttributeTooLarge),
        (b"user.s3.tag.eleventh", b"x", AttributesFull),
    ],
)
def test_limits_of_s3(name: bytes, content: bytes, error: type[CacheError]) -> None:
    tags = {f"tag{number}": "" for number in range(9 if name.endswith(b".a") else 10)}
    full = ObjectAttributes(metadata={"full": "20 bytes are in use"}, tags=tags)
    with pytest.raises(error):
        s3_xattrs.changed(full, name, content)


def test_facts_are_read_only_and_not_listed(box: TestVolume) -> None:
    box.put(b"f", b"x", attributes=ObjectAttributes(content_type="text/plain"))
    assert value(box, b"f", b"user.forebay.content-type") == b"text/plain"
    assert value(box, b"f", b"user.forebay.etag") == b"9dd4e461268c8034f5c8564e155c67a6"
    assert names(box, b"f") == []
    with pytest.raises(NotSupported):
        setting(box, b"f", b"user.forebay.etag", b"other")
    with pytest.raises(NotSupported):
        box.volume.xattrs.remove(box.inode(b"f").id, b"user.forebay.etag")
    for unknown in (b"user.forebay.nothing", b"user.forebay.version-id", b"user.forebay.error"):
        with pytest.raises(NoSuchAttribute):
            value(box, b"f", unknown)
    for inode in (ROOT, box.root):
        with pytest.raises(NoSuchAttribute):
            box.volume.xattrs.get(inode, b"user.forebay.state")


def test_the_state_of_a_file(box: TestVolume) -> None:
    state = b"user.forebay.state"
    box.put(b"f", some_bytes(1 << 20))
    assert value(box, b"f", state) == b"dirty"
    box.drain()
    assert value(box, b"f", state) == b"clean"
    box.evict()
    assert value(box, b"f", state) == b"partly cached"
    box.read(b"f")
    wait_until(lambda: value(box, b"f", state) == b"clean")  # as soon as it is kept
    box.chmod(b"f", 0o600)
    assert value(box, b"f", state) == b"dirty"


def test_why_a_file_cannot_be_persisted(box: TestVolume) -> None:
    box.put(b"f", b"x")
    box.store.before = unavailable
    queue = box.volume.queue
    queue.run_once(hurry=True)
    while not queue.is_idle():
        pass
    assert b"the store is down" in value(box, b"f", b"user.forebay.error")
    assert value(box, b"f", b"user.forebay.state") == b"dirty"


def test_where_a_file_is_in_the_store(box: TestVolume) -> None:
    location = b"user.forebay.location"
    box.mkdir(b"d")
    box.put(b"d/f", b"x")
    box.drain()
    assert value(box, b"d/f", location).decode() == str(box.store_dir / "d/f")
    assert Path(value(box, b"d/f", location).decode()).read_bytes() == b"x"
    box.rename(b"d/f", b"g")
    assert Path(value(box, b"g", location).decode()).read_bytes() == b"x"
    box.drain()
    assert value(box, b"g", location).decode() == str(box.store_dir / "g")


def test_transient_files_are_local(tmp_path: Path) -> None:
    box = TestVolume(tmp_path, write_mode=WriteMode.TRANSIENT)
    box.create(b"f")
    setting(box, b"f", b"user.s3.meta.a", b"1")
    assert value(box, b"f", b"user.forebay.state") == b"local"
    with pytest.raises(NoSuchAttribute):
        value(box, b"f", b"user.forebay.location")
    assert box.volume.queue.backlog().names == 0
    box.close()


def test_a_read_only_bucket_keeps_its_attributes(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "f").write_bytes(b"x")
    box = TestVolume(tmp_path, read_only=True)
    for name in (b"user.a", b"user.s3.tag.t"):
        with pytest.raises(NotPermitted):
            setting(box, b"f", name, b"1")
    box.close()


def test_a_locked_version_keeps_its_metadata(box: TestVolume) -> None:
    box.put(b"f", b"x")

    def lock(found: Object) -> ObjectAttributes:
        return with_lock(found.attributes, Lock(hold="ON"))

    box.volume.objects.change_attributes(BUCKET, b"f", lock)
    with pytest.raises(ObjectLocked):
        setting(box, b"f", b"user.s3.meta.a", b"1")
    setting(box, b"f", b"user.s3.tag.t", b"1")
    assert attributes(box, b"f").tags == {"t": "1"}
