"""Every operation of the mount, through the kernel, with the results that POSIX and Linux give.

One mount for the module; each test works in a directory of its own.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.mount import Mounted, mounted, requires_fuse
from tests.support.waiting import wait_until

pytestmark = requires_fuse

USER = 12345
CLOCK_REALTIME_COARSE = 5  # linux/time.h: the kernel's clock for times of files


@pytest.fixture(scope="module")
def mount() -> Iterator[Mounted]:
    # Not below pytest's own directory: no other user gets through that.
    with tempfile.TemporaryDirectory(prefix="forebay-") as directory:
        home = Path(directory)
        home.chmod(0o755)
        with mounted(home, allow_other=True, suid=True, dev=True) as mount:
            yield mount


@pytest.fixture
def here(mount: Mounted, request: pytest.FixtureRequest) -> Path:
    directory = mount.bucket / request.node.name.replace("/", "_")
    directory.mkdir()
    return directory


def refused(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=re.escape(f"[Errno {code}]")):
        call()


# ------------------------------------------------------------------ files


def test_write_and_read_back(here: Path) -> None:
    file = here / "file"
    content = os.urandom(3_000_000)
    file.write_bytes(content)
    assert file.read_bytes() == content
    assert file.stat().st_size == len(content)
    assert file.stat().st_blocks == -(-len(content) // 512)


def test_the_store_holds_a_plain_file_after_close(mount: Mounted, here: Path) -> None:
    (here / "file").write_bytes(b"hello")
    assert (mount.store / here.name / "file").read_bytes() == b"hello"


def test_a_file_is_made_with_mode_owner_and_times(here: Path) -> None:
    before = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    file = here / "file"
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o640))
    found = file.stat()
    assert stat.S_ISREG(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (found.st_uid, found.st_gid, found.st_nlink, found.st_size) == (0, 0, 1, 0)
    assert before <= found.st_mtime_ns <= time.time_ns()
    assert here.stat().st_mtime_ns >= before


def test_the_umask_applies(here: Path) -> None:
    old = os.umask(0o027)
    try:
        os.close(os.open(here / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        (here / "directory").mkdir(0o777)
    finally:
        os.umask(old)
    assert stat.S_IMODE((here / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((here / "directory").stat().st_mode) == 0o750


def test_exclusive_creation(here: Path) -> None:
    file = here / "file"
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(file, flags))
    refused(errno.EEXIST, lambda: os.open(file, flags))


def test_truncation_at_open(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"x" * 100_000)
    with file.open("wb"):
        assert file.stat().st_size == 0
    assert file.read_bytes() == b""


def test_truncation_by_path_and_by_descriptor(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"0123456789")
    os.truncate(file, 4)
    assert file.read_bytes() == b"0123"
    with file.open("r+b") as opened:
        opened.truncate(6)
        assert opened.read() == b"0123\0\0"
    assert file.stat().st_size == 6


def test_a_sparse_file_reads_zeros(here: Path) -> None:
    file = here / "file"
    with file.open("wb") as opened:
        opened.seek(5_000_000)
        opened.write(b"end")
    os.truncate(file, 8_000_000)
    content = file.read_bytes()
    assert content == b"\0" * 5_000_000 + b"end" + b"\0" * 2_999_997


def test_overwriting_in_the_middle(here: Path) -> None:
    file = here / "file"
    content = bytearray(os.urandom(2_000_000))
    file.write_bytes(content)
    with file.open("r+b") as opened:
        for start in (0, 4095, 700_000, 1_999_990):
            opened.seek(start)
            opened.write(b"overwrite"[:9])
            content[start : start + 9] = b"overwrite"
    assert file.read_bytes() == content


def test_two_descriptors_append_without_losing_each_others_bytes(here: Path) -> None:
    file = here / "log"
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
    one, other = os.open(file, flags), os.open(file, flags)
    for number in range(50):
        os.write(one, b"one%05d\n" % number)
        os.write(other, b"two%05d\n" % number)
    os.close(one)
    os.close(other)
    lines = file.read_bytes().splitlines()
    assert lines[::2] == [b"one%05d" % n for n in range(50)]
    assert lines[1::2] == [b"two%05d" % n for n in range(50)]


def test_a_shared_mapping_writes_the_file(here: Path) -> None:
    file = here / "file"
    file.write_bytes(b"a" * 10_000)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        assert mapped[5000:5003] == b"aaa"
        mapped[5000:5003] = b"BBB"
        mapped.flush()
    assert file.read_bytes() == b"a" * 5000 + b"BBB" + b"a" * 4997


def test_a_file_that_is_written_is_seen_by_other_readers_at_once(here: Path) -> None:
    file = here / "file"
    with file.open("wb", buffering=0) as writer, file.open("rb", buffering=0) as reader:
        writer.write(b"first")
        assert reader.read() == b"first"
        assert file.stat().st_size == 5
        writer.write(b"second")
        assert reader.read() == b"second"


def test_fsync_of_file_and_directory(mount: Mounted, here: Path) -> None:
    with (here / "file").open("wb") as opened:
        opened.write(b"synced")
        opened.flush()
        os.fsync(opened.fileno())
        assert (mount.store / here.name / "file").read_bytes() == b"synced"
        opened.write(b" more")
        opened.flush()
        os.fdatasync(opened.fileno())
    directory = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    assert (mount.store / here.name / "file").read_bytes() == b"synced more"


# ------------------------------------------------------------------ names


def test_missing_names(here: Path) -> None:
    missing = here / "missing"
    for call in (missing.stat, missing.unlink, missing.rmdir, missing.read_bytes):
        refused(errno.ENOENT, call)
    refused(errno.ENOENT, lambda: missing.rename(here / "other"))
    # The kernel remembers that it is missing, and has to learn of the file that is made.
    missing.write_bytes(b"here now")
    assert missing.read_bytes() == b"here now"


def test_names_as_long_as_allowed_and_longer(here: Path) -> None:
    longest = here / ("n" * 255)
    longest.write_bytes(b"")
    assert [longest.name] == os.listdir(here)
    too_long = here / ("n" * 256)
    for call in (too_long.stat, too_long.mkdir, too_long.touch, too_long.unlink):
        refused(errno.ENAMETOOLONG, call)
    refused(errno.ENAMETOOLONG, lambda: longest.rename(too_long))


@pytest.mark.parametrize("name", ["blank s", "ümläut", "日本", "new\nline", "back\\slash", "%41"])
def test_any_name_that_is_text(here: Path, name: str) -> None:
    (here / name).write_text(name)
    assert os.listdir(here) == [name]
    assert (here / name).read_text() == name


def test_directories(here: Path) -> None:
    directory = here / "directory"
    links = here.stat().st_nlink
    directory.mkdir(0o750)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    assert directory.stat().st_nlink == 2
    assert here.stat().st_nlink == links + 1
    refused(errno.EEXIST, directory.mkdir)
    (directory / "file").touch()
    refused(errno.ENOTEMPTY, directory.rmdir)
    refused(errno.EISDIR, directory.unlink)
    refused(errno.ENOTDIR, (directory / "file").rmdir)
    refused(errno.ENOTDIR, (directory / "file" / "below").stat)
    (directory / "file").unlink()
    directory.rmdir()
    assert here.stat().st_nlink == links
    refused(errno.ENOENT, directory.stat)


def test_a_removed_working_directory_takes_no_names(here: Path) -> None:
    directory = here / "directory"
    directory.mkdir()
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    directory.rmdir()
    assert os.fstat(opened).st_nlink == 0
    assert os.listdir(opened) == []
    refused(errno.ENOENT, lambda: os.mkdir("below", dir_fd=opened))
    os.close(opened)


def test_set_group_id_directories_hand_their_group_down(here: Path) -> None:
    os.chown(here, 0, 77)
    here.chmod(0o2775)
    (here / "file").touch()
    (here / "directory").mkdir()
    assert (here / "file").stat().st_gid == 77
    assert (here / "directory").stat().st_gid == 77
    assert (here / "directory").stat().st_mode & stat.S_ISGID


def test_symlinks(here: Path) -> None:
    link = here / "link"
    link.symlink_to("some/where")
    assert os.readlink(link) == "some/where"
    assert link.lstat().st_size == len("some/where")
    assert stat.S_ISLNK(link.lstat().st_mode)
    refused(errno.ENOENT, link.stat)
    refused(errno.EEXIST, lambda: link.symlink_to("other"))
    (here / "some").mkdir()
    (here / "some" / "where").write_text("found")
    assert link.read_text() == "found"
    (here / "loop").symlink_to("loop")
    refused(errno.ELOOP, (here / "loop").read_text)


def test_hard_links(here: Path) -> None:
    one, other = here / "one", here / "directory" / "other"
    other.parent.mkdir()
    one.write_text("shared")
    os.link(one, other)
    assert one.stat().st_ino == other.stat().st_ino
    assert one.stat().st_nlink == other.stat().st_nlink == 2
    other.write_text("changed")
    assert one.read_text() == "changed"
    refused(errno.EEXIST, lambda: os.link(one, other))
    refused(errno.EPERM, lambda: os.link(here / "directory", here / "no"))
    one.unlink()
    assert other.stat().st_nlink == 1
    assert other.read_text() == "changed"


def test_special_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(here / "fifo", 0o600)
    assert stat.S_ISFIFO((here / "fifo").stat().st_mode)
    os.mknod(here / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert (here / "null").stat().st_rdev == os.makedev(1, 3)
    (here / "null").write_text("swallowed")  # the mount has `dev`
    os.mknod(here / "plain", stat.S_IFREG | 0o644)
    assert (here / "plain").read_bytes() == b""
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(here)  # the path of a socket is short
        server.bind("socket")
        monkeypatch.undo()
    assert stat.S_ISSOCK((here / "socket").stat().st_mode)


def test_rename(here: Path) -> None:
    one, other = here / "one", here / "other"
    one.write_text("one")
    inode = one.stat().st_ino
    one.rename(other)
    refused(errno.ENOENT, one.stat)
    assert other.stat().st_ino == inode
    one.write_text("newer")
    one.rename(other)
    assert other.read_text() == "newer"
    assert os.listdir(here) == ["other"]


def test_rename_of_directories(here: Path) -> None:
    source, empty, full = here / "source", here / "empty", here / "full"
    for directory in (source, empty, full):
        directory.mkdir()
    (source / "file").write_text("inside")
    (full / "file").touch()
    refused(errno.ENOTEMPTY, lambda: source.rename(full))
    refused(errno.ENOTDIR, lambda: source.rename(full / "file"))
    refused(errno.EISDIR, lambda: (full / "file").rename(empty))
    refused(errno.EINVAL, lambda: source.rename(source / "below"))
    source.rename(empty)
    assert (empty / "file").read_text() == "inside"
    refused(errno.ENOENT, (source / "file").stat)
    below = full / "below"
    empty.rename(below)
    assert (below / "file").read_text() == "inside"
    assert os.stat(below / "..").st_ino == full.stat().st_ino


def test_rename_without_replacing(here: Path) -> None:
    one, other = here / "one", here / "other"
    one.write_text("one")
    other.write_text("other")
    refused(errno.EEXIST, lambda: syscalls.renameat2(one, other, syscalls.RENAME_NOREPLACE))
    other.unlink()
    syscalls.renameat2(one, other, syscalls.RENAME_NOREPLACE)
    assert other.read_text() == "one"


def test_rename_exchanging(here: Path) -> None:
    file, directory = here / "file", here / "directory"
    file.write_text("file")
    directory.mkdir()
    (directory / "inside").write_text("inside")
    syscalls.renameat2(file, directory, syscalls.RENAME_EXCHANGE)
    assert directory.read_text() == "file"
    assert (file / "inside").read_text() == "inside"
    refused(
        errno.ENOENT,
        lambda: syscalls.renameat2(file, here / "no", syscalls.RENAME_EXCHANGE),
    )


def test_rename_with_other_flags_is_refused(here: Path) -> None:
    (here / "one").touch()
    refused(
        errno.EINVAL,
        lambda: syscalls.renameat2(here / "one", here / "two", syscalls.RENAME_WHITEOUT),
    )
    assert os.listdir(here) == ["one"]


def test_an_unlinked_file_lives_until_it_is_closed(here: Path) -> None:
    file = here / "file"
    with file.open("w+b") as opened:
        opened.write(b"before")
        opened.flush()
        file.unlink()
        refused(errno.ENOENT, file.stat)
        opened.write(b" and after" * 100_000)
        opened.flush()
        os.fsync(opened.fileno())
        found = os.fstat(opened.fileno())
        assert (found.st_nlink, found.st_size) == (0, 1_000_006)
        opened.seek(0)
        assert opened.read() == b"before" + b" and after" * 100_000
    assert os.listdir(here) == []


def test_a_file_that_is_renamed_over_stays_with_its_readers(here: Path) -> None:
    old, new = here / "old", here / "new"
    old.write_bytes(b"old" * 100_000)
    new.write_bytes(b"new")
    with old.open("rb") as opened:
        new.rename(old)
        assert opened.read() == b"old" * 100_000
    assert old.read_bytes() == b"new"


# ------------------------------------------------------------------ attributes


def test_chmod_and_chown(here: Path) -> None:
    file = here / "file"
    file.write_text("content")
    file.chmod(0o604)
    os.chown(file, 1, 2)
    os.chown(file, -1, 3)
    found = file.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o604, 1, 3)
    link = here / "link"
    link.symlink_to("file")
    os.chown(link, 5, 6, follow_symlinks=False)
    assert (link.lstat().st_uid, file.stat().st_uid) == (5, 1)


def test_times(here: Path) -> None:
    file = here / "file"
    file.write_text("content")
    os.utime(file, ns=(1_000_000_001, 2_000_000_002))
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    os.utime(file, ns=(-1_500_000_000, -1))
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (-1_500_000_000, -1)
    before = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    os.utime(file)
    assert before <= file.stat().st_mtime_ns <= time.time_ns()


def test_times_set_on_an_open_file_outlast_its_close_and_a_remount(tmp_path: Path) -> None:
    """cp -a and tar set times through the descriptor that they have just written to."""
    with mounted(tmp_path) as mount:
        with (mount.bucket / "file").open("wb") as opened:
            opened.write(b"content")
            opened.flush()
            os.utime(opened.fileno(), ns=(5_000_000_000, 6_000_000_007))
        assert (mount.bucket / "file").stat().st_mtime_ns == 6_000_000_007
        mount.stop()
        mount.start()
        assert (mount.bucket / "file").stat().st_mtime_ns == 6_000_000_007


def test_reading_moves_atime_when_it_tells_something(here: Path) -> None:
    """relatime: once after each change."""
    file, directory, link = here / "file", here / "directory", here / "link"
    directory.mkdir()
    link.symlink_to("target")
    file.write_bytes(b"content" * 10_000)
    os.utime(file, ns=(1, 2))
    drop_pages(file)
    before = file.stat().st_ctime_ns
    file.read_bytes()
    read = file.stat()
    assert read.st_atime_ns > before
    assert (read.st_mtime_ns, read.st_ctime_ns) == (2, before)
    drop_pages(file)
    file.read_bytes()
    assert file.stat().st_atime_ns == read.st_atime_ns
    for path, access in ((directory, os.listdir), (link, os.readlink)):
        os.utime(path, ns=(1, 2), follow_symlinks=False)
        access(path)
        assert path.lstat().st_atime_ns > before


def drop_pages(file: Path) -> None:
    """Have the kernel ask for the bytes again."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def test_a_write_moves_mtime_and_chmod_moves_ctime(here: Path) -> None:
    file = here / "file"
    file.write_text("content")
    os.utime(file, ns=(1, 1))
    before = file.stat().st_ctime_ns
    file.chmod(0o600)
    assert file.stat().st_mtime_ns == 1
    assert file.stat().st_ctime_ns >= before  # the kernel's clock for it ticks every 4 ms
    with file.open("a") as opened:
        opened.write("more")
    assert file.stat().st_mtime_ns > 1


def test_a_rename_moves_ctime_of_every_kind_of_file(here: Path) -> None:
    """Which POSIX leaves open, and pjdfstest asks of ext4 only."""
    (here / "file").touch()
    (here / "directory").mkdir()
    (here / "symlink").symlink_to("file")
    os.mkfifo(here / "fifo")
    before = {path: path.lstat().st_ctime_ns for path in here.iterdir()}
    newest = max(before.values())
    wait_until(lambda: time.clock_gettime_ns(CLOCK_REALTIME_COARSE) > newest)
    for path, ctime_ns in before.items():
        assert path.rename(path.with_suffix(".renamed")).lstat().st_ctime_ns > ctime_ns


def test_attributes_survive_a_remount(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        file = mount.bucket / "file"
        file.write_text("content")
        file.chmod(0o604)
        os.chown(file, 1, 2)
        os.utime(file, ns=(3_000_000_000, 4_000_000_000))
        before = file.stat()
        mount.stop()
        mount.start()
        after = file.stat()
        for name in ("st_ino", "st_mode", "st_uid", "st_gid", "st_size", "st_nlink"):
            assert getattr(after, name) == getattr(before, name)
        assert (after.st_atime_ns, after.st_mtime_ns) == (3_000_000_000, 4_000_000_000)


def test_statfs(here: Path) -> None:
    figures = os.statvfs(here)
    assert figures.f_namemax == 255
    assert 0 < figures.f_bavail <= figures.f_blocks


def test_extended_attributes(here: Path) -> None:
    file = here / "file"
    file.touch()
    refused(errno.ENODATA, lambda: os.getxattr(file, "user.color"))
    os.setxattr(file, "user.color", b"blue")
    os.setxattr(file, "user.empty", b"")
    os.setxattr(file, "trusted.secret", b"\0\xff" * 1000)
    assert os.getxattr(file, "user.color") == b"blue"
    assert os.getxattr(file, "user.empty") == b""
    assert os.getxattr(file, "trusted.secret") == b"\0\xff" * 1000
    assert sorted(os.listxattr(file)) == ["trusted.secret", "user.color", "user.empty"]
    os.setxattr(file, "user.color", b"red", os.XATTR_REPLACE)
    refused(errno.EEXIST, lambda: os.setxattr(file, "user.color", b"", os.XATTR_CREATE))
    refused(errno.ENODATA, lambda: os.setxattr(file, "user.no", b"", os.XATTR_REPLACE))
    os.removexattr(file, "user.color")
    refused(errno.ENODATA, lambda: os.removexattr(file, "user.color"))
    assert sorted(os.listxattr(file)) == ["trusted.secret", "user.empty"]
    os.setxattr(here, "user.of-directory", b"yes")
    assert os.listxattr(here) == ["user.of-directory"]


def test_a_file_without_a_name_cannot_be_made(here: Path) -> None:
    """EOPNOTSUPP, on which open(2) tells programs to make a file with a name and unlink it."""
    refused(errno.EOPNOTSUPP, lambda: os.open(here, os.O_TMPFILE | os.O_RDWR))


def test_acls_are_refused_rather_than_stored_and_ignored(here: Path) -> None:
    (here / "file").touch()
    acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")
    refused(errno.ENOTSUP, lambda: os.setxattr(here / "file", "system.posix_acl_access", acl))


# ------------------------------------------------------------------ rights


def test_permissions_are_checked_by_the_kernel(here: Path) -> None:
    secret = here / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    refused(errno.EACCES, lambda: syscalls.as_user(USER, secret.read_text))
    refused(errno.EACCES, lambda: syscalls.as_user(USER, (here / "new").touch))
    refused(errno.EPERM, lambda: syscalls.as_user(USER, lambda: secret.chmod(0o666)))
    assert os.access(secret, os.R_OK | os.W_OK)
    assert not os.access(secret, os.X_OK)


def test_a_sticky_directory_protects_the_files_of_others(here: Path) -> None:
    here.chmod(0o1777)
    (here / "mine").touch()
    refused(errno.EPERM, lambda: syscalls.as_user(USER, (here / "mine").unlink))
    refused(
        errno.EPERM,
        lambda: syscalls.as_user(USER, lambda: (here / "mine").rename(here / "stolen")),
    )
    syscalls.as_user(USER, (here / "theirs").touch)
    assert (here / "theirs").stat().st_uid == USER
    syscalls.as_user(USER, (here / "theirs").unlink)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda file: file.open("r+b").write(b"x"), id="write"),
        pytest.param(lambda file: os.truncate(file, 1), id="truncate"),
        pytest.param(lambda file: file.open("wb").close(), id="open with O_TRUNC"),
        pytest.param(lambda file: os.chown(file, -1, USER), id="chown"),
    ],
)
def test_set_user_id_is_taken_from_a_file_that_changes(
    here: Path, change: Callable[[Path], object]
) -> None:
    here.chmod(0o777)
    file = here / "program"
    file.write_bytes(b"content")
    os.chown(file, USER, USER)
    file.chmod(0o6775)
    syscalls.as_user(USER, lambda: change(file))
    # After O_TRUNC the kernel is told a moment later.
    wait_until(lambda: not file.stat().st_mode & 0o6000, "the bits are taken")
    assert stat.S_IMODE(file.stat().st_mode) == 0o775


# ------------------------------------------------------------------ the root


def test_the_root_holds_buckets(mount: Mounted) -> None:
    assert os.listdir(mount.root) == ["data"]
    assert stat.S_ISDIR(mount.bucket.stat().st_mode)
    refused(errno.EPERM, (mount.root / "file").touch)
    refused(errno.EPERM, lambda: mount.bucket.rename(mount.root / "other"))
    refused(errno.EPERM, (mount.root / "bucket").mkdir)  # no store is creatable here
