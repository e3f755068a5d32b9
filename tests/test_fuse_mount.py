"""The life of a mount: options, hangs, crashes, stale mount points, stops."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse import mountpoint
from fuse.config import MountConfig
from fuse.mountpoint import MountError
from tests.support import faulty_store
from tests.support.mount import Mounted, mounted, requires_fuse
from tests.support.waiting import wait_until

pytestmark = requires_fuse

FAULTY = "tests.support.faulty_store:break_by_name"


def refused(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError, match=re.escape(f"[Errno {code}]")):
        call()


def _mount_line(mount: Mounted) -> str:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    [line] = [line for line in lines if f" {mount.root} " in line]
    return line


# ------------------------------------------------------------------ options


def test_default_options(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        line = _mount_line(mount)
        assert "nosuid" in line
        assert "nodev" in line
        assert "default_permissions" in line
        assert "allow_other" not in line
        assert "fuse.forebay forebay" in line


def test_options_that_the_configuration_asks_for(tmp_path: Path) -> None:
    with mounted(tmp_path, suid=True, dev=True, allow_other=True, fsname="tank") as mount:
        line = _mount_line(mount)
        assert "nosuid" not in line
        assert "nodev" not in line
        assert "allow_other" in line
        assert "fuse.forebay tank" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set read-ahead")
def test_read_ahead_is_raised(tmp_path: Path) -> None:
    with mounted(tmp_path, read_ahead_kb=2048) as mount:
        found = mountpoint.mounted_on(mount.root)
        assert found is not None
        assert (found.backing / "read_ahead_kb").read_text().strip() == "2048"


def test_settings_that_cannot_be_made_are_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = mountpoint.Mount(kind="fuse", device="0:0")
    mountpoint.tune(nowhere, read_ahead_kb=1024, max_background=64)
    assert len(caplog.records) == 1
    assert "read_ahead_kb" in caplog.text


@pytest.mark.parametrize(
    ("conf", "allowed"),
    [("", False), ("#user_allow_other\n", False), ("user_allow_other\n", True)],
)
def test_allow_other_for_other_users_than_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str, allowed: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mountpoint, "_FUSE_CONF", tmp_path / "fuse.conf")
    (tmp_path / "fuse.conf").write_text(conf)
    if allowed:
        mountpoint.check_allow_other()
    else:
        with pytest.raises(MountError, match="user_allow_other"):
            mountpoint.check_allow_other()


@pytest.mark.parametrize(
    "wrong",
    [
        {"fsname": "a,suid"},
        {"fsname": ""},
        {"read_ahead_kb": 0},
        {"max_background": 0},
        {"data_threads": 0},
        {"metadata_deadline_s": 0.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MountConfig(path=Path("/mnt"), **wrong)  # type: ignore[arg-type]


def test_without_xattrs_the_kernel_is_told_so(tmp_path: Path) -> None:
    with mounted(tmp_path, xattrs=False) as mount:
        (mount.bucket / "file").write_text("content")
        refused(errno.ENOTSUP, lambda: os.getxattr(mount.bucket / "file", "user.a"))
        refused(errno.ENOTSUP, lambda: os.setxattr(mount.bucket / "file", "user.a", b""))
        refused(errno.ENOTSUP, lambda: os.listxattr(mount.bucket / "file"))


# ------------------------------------------------------------------ faults


def test_an_unexpected_exception_is_eio_and_the_mount_goes_on(tmp_path: Path) -> None:
    (tmp_path / "store" / "broken").mkdir(parents=True)
    with mounted(tmp_path, prepare=FAULTY) as mount:
        for _ in range(3):
            refused(errno.EIO, lambda: os.listdir(mount.bucket / "broken"))
        (mount.bucket / "file").write_text("served")
        assert (mount.bucket / "file").read_text() == "served"
        assert "ZeroDivisionError: injected" in mount.log


def test_a_hung_store_is_given_up_on_and_holds_up_nobody_else(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "store" / f"hung{number}").mkdir(parents=True)
    settings = {"metadata_deadline_s": 1.0, "metadata_threads": 4}
    with mounted(tmp_path, prepare=FAULTY, **settings) as mount:
        (mount.bucket / "file").write_bytes(b"cached")
        codes: list[int | None] = []

        def list_hung(number: int) -> None:
            try:
                os.listdir(mount.bucket / f"hung{number}")
            except OSError as exc:
                codes.append(exc.errno)

        with faulty_store.hanging(mount.home):
            threads = [threading.Thread(target=list_hung, args=(n,)) for n in range(12)]
            for thread in threads:
                thread.start()
            # More calls hang than the lane has threads; what the index knows is answered.
            assert (mount.bucket / "file").read_bytes() == b"cached"
            assert (mount.bucket / "hung0").stat().st_nlink >= 2
            assert "hung11" in os.listdir(mount.bucket)
            for thread in threads:
                thread.join(60)
        assert codes == [errno.ETIMEDOUT] * 12
        assert os.listdir(mount.bucket / "hung0") == []


def test_a_read_and_a_close_that_hang_are_given_up_on(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "hung-file").write_bytes(b"content" * 10_000)
    with mounted(tmp_path, prepare=FAULTY, data_deadline_s=1.0) as mount:
        with faulty_store.hanging(mount.home):
            refused(errno.ETIMEDOUT, (mount.bucket / "hung-file").read_bytes)
            refused(errno.ETIMEDOUT, lambda: (mount.bucket / "hung-new").write_bytes(b"new"))

        def is_whole() -> bool:
            try:
                content = (mount.bucket / "hung-file").read_bytes()
                with (mount.bucket / "hung-new").open("r+b") as opened:
                    os.fsync(opened.fileno())
            except TimeoutError:  # a second may be too short for a busy machine, too
                return False
            return content == b"content" * 10_000

        wait_until(is_whole, "what hung goes on")
        assert (mount.store / "hung-new").read_bytes() == b"new"


@pytest.fixture(scope="module")
def unwilling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A mount whose store refuses on demand."""
    with mounted(tmp_path_factory.mktemp("unwilling"), prepare=FAULTY) as mount:
        yield mount


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("denied", errno.EACCES),
        ("full", errno.ENOSPC),
        ("over-quota", errno.EDQUOT),
        ("silent", errno.EIO),
    ],
)
def test_the_writer_learns_why_the_store_did_not_take_it(
    unwilling: Mounted, name: str, code: int
) -> None:
    """In write_through: from fsync, from each close, and again as long as it is so."""
    path = unwilling.bucket / name
    with faulty_store.refusing(unwilling.home):
        file = os.open(path, os.O_CREAT | os.O_WRONLY)
        os.write(file, b"dirty")
        for _ in range(2):
            refused(code, lambda: os.fsync(file))
        duplicate = os.dup(file)
        for descriptor in (duplicate, file):
            refused(code, lambda descriptor=descriptor: os.close(descriptor))  # type: ignore[misc]
    assert path.read_bytes() == b"dirty"  # safe here, and queued
    with path.open("r+b") as opened:
        os.fsync(opened.fileno())
    assert (unwilling.store / name).read_bytes() == b"dirty"


# ------------------------------------------------------------------ crashes and stops


def test_a_killed_mount_answers_enotconn_and_is_mounted_over(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        (mount.bucket / "file").write_bytes(b"acknowledged")
        mount.kill()
        refused(errno.ENOTCONN, lambda: os.listdir(mount.root))
        mount.start()
        assert (mount.bucket / "file").read_bytes() == b"acknowledged"
        assert "taking a dead mount off" in mount.log
        assert _mount_line(mount)  # one, not two on top of each other


@pytest.mark.skipif(
    os.geteuid() != 0 or tuple(map(int, os.uname().release.split(".")[:2])) < (6, 5),
    reason="only root, from Linux 6.5 on, mounts beneath another mount",
)
def test_the_directory_below_is_never_seen(tmp_path: Path) -> None:
    """It is empty, and a mirror job would delete everything at its other end."""
    settings = {"suid": True, "noexec": True, "allow_other": True, "fsname": "tank"}
    with mounted(tmp_path, **settings) as mount:
        (mount.bucket / "file").write_bytes(b"acknowledged")
        before = _mount_line(mount).split()[3:]
        mount.kill()
        seen: set[int | tuple[str, ...]] = set()
        back = threading.Event()

        def look() -> None:
            while not back.is_set():
                try:
                    seen.add(tuple(os.listdir(mount.root)))
                except OSError as exc:
                    seen.add(exc.errno or 0)

        looking = threading.Thread(target=look)
        looking.start()
        mount.start()
        back.set()
        looking.join()
        assert seen <= {errno.ENOTCONN, errno.ECONNABORTED, (mount.bucket.name,)}
        assert _mount_line(mount).split()[5:] == before[2:]
        assert (mount.bucket / "file").read_bytes() == b"acknowledged"


def test_a_mount_that_lives_is_not_mounted_over(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount, pytest.raises(MountError, match="something serves it"):
        mountpoint.prepare(mount.root)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_another_file_system_is_not_mounted_over(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        with pytest.raises(MountError, match="tmpfs"):
            mountpoint.prepare(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_missing_mount_point_is_made(tmp_path: Path) -> None:
    path = mountpoint.prepare(tmp_path / "a" / "b with blank")
    assert path.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(MountError, match="cannot make"):
        mountpoint.prepare(tmp_path / "file" / "below")


def test_sigterm_unmounts_and_ends(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        assert mount.stop() == 0
        assert mountpoint.mounted_on(mount.root) is None
        assert os.listdir(mount.root) == []
        assert not (mount.state / "run" / "changes.sock").exists()


def test_sigterm_saves_what_was_written_to_files_still_open(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        file = os.open(mount.bucket / "file", os.O_CREAT | os.O_RDWR)
        os.write(file, b"never synced, never closed")
        assert mount.stop() == 0
        refused(errno.ENOTCONN, lambda: os.close(file))
        mount.start()
        assert (mount.bucket / "file").read_bytes() == b"never synced, never closed"


def test_sigterm_ends_in_time_though_the_store_hangs(tmp_path: Path) -> None:
    (tmp_path / "store" / "hung").mkdir(parents=True)
    with (
        mounted(tmp_path, prepare=FAULTY, stop_timeout_s=1.0) as mount,
        faulty_store.hanging(mount.home),
    ):
        assert mount.process is not None
        program = subprocess.Popen(["ls", mount.bucket / "hung"], stderr=subprocess.DEVNULL)
        faulty_store.wait_until_one_hangs(mount.home)
        mount.process.send_signal(signal.SIGTERM)
        mount.process.wait(60)
        assert mountpoint.mounted_on(mount.root) is None
        assert program.wait(60) != 0


def test_an_unmount_from_outside_ends_the_process(tmp_path: Path) -> None:
    with mounted(tmp_path) as mount:
        assert mount.process is not None
        (mount.bucket / "file").write_bytes(b"content")
        assert mountpoint.unmount(mount.root)
        assert mount.process.wait(60) == 0
        mount.process = None
        mount.start()
        assert (mount.bucket / "file").read_bytes() == b"content"
