"""Names and inodes through the POSIX door, beside keys of the S3 door."""

from __future__ import annotations

import stat

import pytest

from cache.errors import (
    BucketNotEmpty,
    CrossesBucket,
    InvalidName,
    IsADirectory,
    NameExists,
    NameTooLong,
    NoSuchInode,
    NoSuchKey,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    RenameIntoItself,
)
from cache.files import SetAttributes
from cache.records import ROOT, Kind
from tests.support.volume import TestVolume, box, some_bytes

__all__ = ["box"]


def test_implicit_directories_go_with_their_last_key_and_explicit_ones_stay(
    box: TestVolume,
) -> None:
    box.put(b"a/b/c")
    box.put(b"e/")
    box.put(b"e/f")
    assert box.names() == [b"a", b"e"]
    box.delete(b"a/b/c")
    box.delete(b"e/f")
    assert box.names() == [b"a", b"e"], "nobody ever asked the store what else is in a/"
    box.drain()
    assert box.names() == [b"e"]
    assert box.listed() == [b"e/"]
    box.put(b"a/b/c")
    box.delete(b"a/b/c")
    assert box.names() == [b"e"], "now that is known"
    box.delete(b"e/")
    assert box.names() == []
    box.drain()
    assert box.stored() == {}


def test_a_directory_that_the_mount_empties_stays(box: TestVolume) -> None:
    for key in (b"a/x", b"b/x", b"c/x/y"):
        box.put(key)
    box.unlink(b"a/x")
    box.rename(b"b/x", b"z")
    box.unlink(b"c/x/y")
    box.rmdir(b"c/x")
    assert box.listed() == [b"a/", b"b/", b"c/", b"z"]


def test_a_file_hides_beside_a_directory_of_its_name(box: TestVolume) -> None:
    box.put(b"a", b"file")
    box.put(b"a/b", b"inside")
    assert box.listed() == [b"a", b"a/b"]
    assert box.names() == [b"a"]
    assert box.inode(b"a").is_dir
    assert box.get(b"a") == b"file"
    box.rename(b"a", b"c")
    assert box.names() == [b"a", b"c"]
    assert box.read(b"a") == b"file"
    assert box.get(b"c/b") == b"inside"
    box.drain()
    assert {k for k in box.stored() if not k.endswith(b"/")} == {b"a", b"c/b"}


def test_an_exchange_spares_what_hides_at_either_end(box: TestVolume) -> None:
    box.put(b"a", b"hidden")
    box.put(b"a/b", b"inside")
    box.put(b"x", b"file")
    with pytest.raises(NameExists):
        box.rename(b"x", b"a", exchange=True)
    assert box.get(b"a") == b"hidden"
    box.check()


def test_link_counts_are_what_posix_says(box: TestVolume) -> None:
    box.mkdir(b"d")
    assert box.inode(b"d").nlink == 2
    for name in (b"d/1", b"d/2"):
        box.mkdir(name)
    box.create(b"d/f")
    assert box.inode(b"d").nlink == 4
    box.rename(b"d/1", b"1")
    assert (box.inode(b"d").nlink, box.inode(b"").nlink) == (3, 4)
    box.rmdir(b"d/2")
    assert box.inode(b"d").nlink == 2
    box.link(b"d/f", b"g")
    box.link(b"g", b"h")
    assert box.inode(b"h").nlink == 3
    assert len({box.inode(n).id for n in (b"d/f", b"g", b"h")}) == 1
    box.rename(b"g", b"h")
    assert box.inode(b"g").nlink == 3, "two links of one file: rename does nothing"
    box.unlink(b"d/f")
    box.unlink(b"h")
    assert box.inode(b"g").nlink == 1
    box.check()


def test_directory_times_follow_their_names(box: TestVolume) -> None:
    box.mkdir(b"d")
    directory = box.inode(b"d")
    for change in (
        lambda: box.create(b"d/f"),
        lambda: box.rename(b"d/f", b"d/g"),
        lambda: box.link(b"d/g", b"d/h"),
        lambda: box.unlink(b"d/g"),
        lambda: box.put(b"d/i"),
        lambda: box.delete(b"d/i"),
    ):
        before = box.inode(b"d").mtime_ns
        change()
        assert box.inode(b"d").mtime_ns > before
    assert box.inode(b"d").id == directory.id


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (b"", InvalidName),
        (b".", InvalidName),
        (b"..", InvalidName),
        (b"a/b", InvalidName),
        (b"a\0", InvalidName),
        (b"n" * 256, NameTooLong),
    ],
)
def test_names_that_posix_does_not_have_are_refused(
    box: TestVolume, name: bytes, error: type[Exception]
) -> None:
    files = box.volume.files
    box.create(b"f")
    with pytest.raises(error):
        files.create(box.root, name, kind=Kind.FILE, mode=0o644, uid=0, gid=0)
    with pytest.raises(error):
        files.link(box.inode(b"f").id, box.root, name)
    with pytest.raises(error):
        box.volume.renames.rename(box.root, b"f", box.root, name)


def test_errors_are_those_of_posix(box: TestVolume) -> None:
    box.mkdir(b"d")
    box.mkdir(b"d/sub")
    box.create(b"f")
    cases = [
        (NameExists, lambda: box.create(b"f")),
        (NameExists, lambda: box.mkdir(b"f")),
        (NoSuchKey, lambda: box.unlink(b"x")),
        (IsADirectory, lambda: box.unlink(b"d")),
        (NotADirectory, lambda: box.rmdir(b"f")),
        (NotEmpty, lambda: box.rmdir(b"d")),
        (RenameIntoItself, lambda: box.rename(b"d", b"d/sub/d")),
        (NotEmpty, lambda: box.rename(b"d/sub", b"d")),
        (IsADirectory, lambda: box.rename(b"f", b"d")),
        (NotADirectory, lambda: box.rename(b"d", b"f")),
        (NameExists, lambda: box.rename(b"f", b"d/sub", replace=False)),
        (NoSuchKey, lambda: box.rename(b"f", b"x", exchange=True)),
        (NotPermitted, lambda: box.link(b"d", b"e")),
    ]
    for error, act in cases:
        with pytest.raises(error):
            act()
    gone = box.inode(b"d/sub").id
    box.rmdir(b"d/sub")
    with pytest.raises(NoSuchInode):
        box.volume.files.create(gone, b"x", kind=Kind.FILE, mode=0o644, uid=0, gid=0)
    box.check()


def test_a_directory_of_thousands_is_renamed_in_one_change(box: TestVolume) -> None:
    for number in range(300):
        box.put(b"d/%d/x" % number)
    box.listed()
    before = box.volume.index._env.info()["last_txnid"]
    box.rename(b"d", b"e")
    assert box.volume.index._env.info()["last_txnid"] == before + 1
    assert len(box.listed(prefix=b"e/")) == 300
    assert box.listed(prefix=b"d/") == []


def test_what_is_made_in_a_set_group_id_directory_has_its_group(box: TestVolume) -> None:
    directory = box.mkdir(b"d")
    box.volume.files.set_attributes(directory.id, SetAttributes(mode=0o2755, gid=7))
    for path, kind in ((b"d/f", Kind.FILE), (b"d/d", Kind.DIRECTORY)):
        made = box.create(path, kind)
        assert made.gid == 7
        assert bool(made.mode & stat.S_ISGID) == (kind == Kind.DIRECTORY)


def test_orphans_die_in_the_second_pass_unless_they_are_held(box: TestVolume) -> None:
    box.put(b"a", some_bytes(9000))
    box.put(b"b", b"small")
    held, other = box.inode(b"a"), box.inode(b"b")
    box.volume.files.hold(held.id)
    box.volume.files.hold(held.id)
    box.unlink(b"a")
    box.unlink(b"b")
    box.drain()
    assert box.reap() == 1
    assert box.volume.files.get(held.id).nlink == 0
    with pytest.raises(NoSuchInode):
        box.volume.files.get(other.id)
    box.volume.files.drop(held.id)
    assert box.reap() == 0
    box.volume.files.drop(held.id)
    assert box.reap() == 1
    box.evict()
    assert box.volume.reclaimer.used_bytes() == 0
    box.check()


def test_while_a_mount_lives_nobody_else_reaps(box: TestVolume) -> None:
    import os

    box.create(b"a")
    box.unlink(b"a")
    box.drain()
    fd = box.volume.reaper.claim_mount()
    assert box.volume.reaper.run_without_mount() == 0
    assert box.volume.reaper.run_without_mount() == 0
    os.close(fd)
    box.volume.reaper.run_without_mount()
    assert box.volume.reaper.run_without_mount() == 1


def test_buckets_are_the_roots_children_and_names_stay_in_theirs(box: TestVolume) -> None:
    files = box.volume.files
    assert [n for n, _ in files.entries(ROOT, b"", 10)] == [b"bucket"]
    box.create(b"f")
    with pytest.raises(NotPermitted):
        box.volume.renames.rename(ROOT, b"bucket", ROOT, b"other")
    with pytest.raises(NotPermitted):
        files.create(ROOT, b"file", kind=Kind.FILE, mode=0o644, uid=0, gid=0)
    with pytest.raises((NotPermitted, BucketNotEmpty)):
        files.rmdir(ROOT, b"bucket")
    with pytest.raises((NotPermitted, CrossesBucket)):
        files.link(box.inode(b"f").id, ROOT, b"g")
