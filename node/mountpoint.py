"""A mount point as the kernel sees it, without touching it.

A mount whose process died answers every call with ENOTCONN, one whose process hangs does not
answer at all; so nothing here calls stat() on the path. What is mounted is read from
/proc/self/mountinfo; the mount is taken away lazily, and where the process cannot even be killed
(it waits in the kernel for itself) its connection is aborted first. Blocks; called by the
supervisor, in a thread.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from node.errors import ExitCode, OperatorError

FUSE_DEVICE = Path("/dev/fuse")
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_UNMOUNT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Mount:
    """What is mounted on a path: the topmost mount, if there are several."""

    kind: str  # file system type: "fuse.forebay", "ext4"
    device: str  # "0:47"

    @property
    def is_fuse(self) -> bool:
        return self.kind == "fuse" or self.kind.startswith("fuse.")

    @property
    def connection(self) -> Path:
        """Where the kernel shows, and takes commands for, the connection to the process."""
        return _CONNECTIONS / self.device.partition(":")[2]


def real_path(path: Path) -> Path:
    """The path as the kernel lists it. Follows symlinks of the parents only: looking at the last
    component of a path whose mount hangs would hang as well."""
    return path.parent.resolve() / path.name


def mounted_on(path: Path) -> Mount | None:
    """What is mounted on exactly this path (absolute, no symlinks), None if nothing is."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        # proc(5): id parent major:minor root mount-point options [optional fields] - type ...
        left, _, right = line.partition(b" - ")
        fields = left.split()
        if _unescape(fields[4]) == os.fsencode(path):
            found = Mount(kind=right.split()[0].decode(), device=fields[2].decode())
    return found


def clear(path: Path) -> bool:
    """Take away every dead FUSE mount on the path. False if there was none.

    Call it only when no process serves the path any more. OperatorError when something that is
    not ours is mounted there, or it cannot be unmounted.
    """
    cleared = False
    while mount := mounted_on(path):
        if not mount.is_fuse:
            raise OperatorError(
                f"{path} is the mount point of a {mount.kind} file system; "
                "unmount that, or choose another mount.path",
                ExitCode.CONFIGURATION,
            )
        _unmount(path)
        cleared = True
    return cleared


def abort(path: Path) -> None:
    """Break the connection of the mount: every caller gets ECONNABORTED at once, and a process
    that waits for itself becomes killable. Needs root; without it the kernel's answer is raised."""
    mount = mounted_on(path)
    if mount is not None and mount.is_fuse:
        (mount.connection / "abort").write_text("1")


def unavailable() -> str | None:
    """Why this machine cannot mount, as the end of a sentence; None if it can."""
    if not FUSE_DEVICE.exists():
        return f"{FUSE_DEVICE} is missing (load the fuse module, or give the container the device)"
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        return f"{FUSE_DEVICE} cannot be opened by this user"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing (install the package fuse3)"
    return None


def _unmount(path: Path) -> None:
    done = subprocess.run(
        ["fusermount3", "-u", "-z", "--", str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=_UNMOUNT_TIMEOUT_S,
    )
    # Between reading mountinfo and here its process may have unmounted it after all.
    if done.returncode and mounted_on(path):
        raise OperatorError(f"cannot unmount the dead mount on {path}: {done.stderr.strip()}")


def _unescape(field: bytes) -> bytes:
    """Undo the kernel's octal escapes of blank, tab, line break and backslash."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
