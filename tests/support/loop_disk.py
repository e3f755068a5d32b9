"""A disk of its own for a test: a file as an ext4 file system, whose power can be cut.

Needs root. Everything is undone at the end, whatever state the test left it in.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

_FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: the journal in memory is lost, too
_COMMAND_TIMEOUT_S = 100

requires_loop = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason="needs root and loop devices",
)


class LoopDisk:
    def __init__(self, image: Path, directory: Path) -> None:
        self._image = image
        self.directory = directory
        self.has_power = False

    def mount(self) -> None:
        # Writing back nothing by itself for as long as a test takes: what was not synced is lost.
        _run("mount", "-o", "loop,commit=300", str(self._image), str(self.directory))
        self.has_power = True

    def cut_power(self) -> None:
        """From now on every call fails, and what was not synced is gone."""
        self.has_power = False
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def restore_power(self) -> None:
        """Mount again what had reached the disk. Whoever held a file of it is dead or dying."""
        wait_until(self._is_unmounted, "nobody uses the disk", _COMMAND_TIMEOUT_S)
        self.mount()

    def _is_unmounted(self) -> bool:
        done = subprocess.run(["umount", str(self.directory)], capture_output=True, check=False)
        return done.returncode == 0

    def fill(self) -> Path:
        """Take all the space that is left; remove the file that is returned to give it back."""
        path = self.directory / "ballast"
        with path.open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(1 << 20))
        with path.open("ab") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))
        return path


@contextlib.contextmanager
def loop_disk(image: Path, directory: Path, size_bytes: int) -> Iterator[LoopDisk]:
    """An empty ext4 of that size in the file `image`, mounted on the directory, which is made."""
    directory.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    disk = LoopDisk(image, directory)
    disk.mount()
    try:
        yield disk
    finally:
        # -l: also when something still holds a file of it; the loop device goes with the last.
        if os.path.ismount(directory):
            _run("umount", "-l", str(directory))


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
