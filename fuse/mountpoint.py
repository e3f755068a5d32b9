"""The mount point as the kernel sees it: what is mounted there, made ready, tuned, taken away.

Nothing here touches a file in the mount, not even with stat(): a mount whose process is dead
answers ENOTCONN, one whose process hangs does not answer, and our own would be asked to answer
itself. Everything is read from /proc/self/mountinfo and set through sysfs. Blocks.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_CONNECTIONS = Path("/sys/fs/fuse/connections")
_BDI = Path("/sys/class/bdi")
_FUSE_CONF = Path("/etc/fuse.conf")
_COMMAND_TIMEOUT_S = 10.0


class MountError(Exception):
    """The mount cannot be made; the message is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Mount:
    """The topmost mount on a path."""

    kind: str  # "fuse.forebay", "ext4"
    device: str  # "0:47"

    @property
    def connection(self) -> Path:
        """Where the kernel shows the requests that wait for the process, and takes `abort`."""
        return _CONNECTIONS / self.device.partition(":")[2]

    @property
    def backing(self) -> Path:
        """Where the kernel's read-ahead for this mount is set."""
        return _BDI / self.device


def mounted_on(path: Path) -> Mount | None:
    """What is mounted on exactly this path (absolute, without symlinks); None if nothing is."""
    found = _mounts_on(path)
    return found[-1] if found else None


def _mounts_on(path: Path) -> list[Mount]:
    """All that is mounted on the path, one over the other."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        # proc(5): id parent major:minor root mount-point options [optional fields] - type ...
        left, _, right = line.partition(b" - ")
        fields = left.split()
        if _unescape(fields[4]) == os.fsencode(path):
            found.append(Mount(kind=right.split()[0].decode(), device=fields[2].decode()))
    return found


def prepare(path: Path) -> Path:
    """Make the directory if it is missing; its real path. A dead mount stays on it, for
    fuse/replacing.py to put another in its place.

    MountError where something else, or a living FUSE file system, is mounted.
    """
    # Only the parents: looking at the last component of a dead mount fails, of a hung one hangs.
    path = path.parent.resolve() / path.name
    while mounts := _mounts_on(path):
        if not mounts[-1].kind.startswith("fuse"):
            raise MountError(f"{path} is the mount point of a {mounts[-1].kind} file system")
        if not _is_dead(path):
            raise MountError(f"{path} is mounted already, and something serves it")
        if len(mounts) == 1:
            return path
        take_dead_off(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise MountError(f"cannot make the mount point {path}: {exc.strerror}") from exc
    return path


def check_allow_other() -> None:
    """MountError unless this user may let other users into the mount (mount.fuse3(8))."""
    if os.geteuid() == 0:
        return
    try:
        lines = _FUSE_CONF.read_text().splitlines()
    except OSError:
        lines = []
    if "user_allow_other" not in (line.strip() for line in lines):
        raise MountError("allow_other needs root, or a line `user_allow_other` in /etc/fuse.conf")


def tune(mount: Mount, *, read_ahead_kb: int, max_background: int) -> None:
    """Set what the mount options cannot; one log line for what is not permitted."""
    settings = {
        mount.backing / "read_ahead_kb": read_ahead_kb,
        # Above the second figure the kernel keeps writers waiting: 3/4, as its own default is.
        mount.connection / "max_background": max_background,
        mount.connection / "congestion_threshold": max_background * 3 // 4,
    }
    refused = []
    for file, value in settings.items():
        try:
            file.write_text(str(value))
        except OSError as exc:
            refused.append(f"{file} ({exc.strerror})")
    if refused:
        log.warning("large files are read more slowly: cannot set %s", ", ".join(refused))


def unmount(path: Path) -> bool:
    """Unmount if nobody uses it, after the kernel has handed over all written pages.

    The process must still serve. False when the mount is in use.
    """
    return _run("fusermount3", "-u", "--", str(path)) == 0


def flush(path: Path, timeout_s: float) -> None:
    """Have the kernel hand over all written pages of a mount in use; the process must serve.

    In a process of its own: opening a file of the mount here could wait for ourselves.
    """
    try:
        code = _run("sync", "-f", "--", str(path), timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        log.warning("the kernel did not hand over all written pages within %g s", timeout_s)
        return
    if code:
        log.warning("the kernel could not hand over all written pages of %s", path)


def detach(path: Path) -> None:
    """Take the mount away from the path at once, whoever still uses it."""
    if _run("fusermount3", "-u", "-z", "--", str(path)) and mounted_on(path):
        raise MountError(f"cannot unmount {path}")


def take_dead_off(path: Path) -> None:
    """Detach the topmost mount, whose process is gone."""
    log.info("taking a dead mount off %s", path)
    detach(path)


def abort(mount: Mount) -> None:
    """Break the connection: all that waits for the process fails with ECONNABORTED."""
    try:
        (mount.connection / "abort").write_text("1")
    except OSError as exc:
        log.error("cannot abort the connection %s: %s", mount.connection, exc.strerror)


def _is_dead(path: Path) -> bool:
    """Whether the mount's process is gone. Asked by another process, as it may not answer; any
    other refusal (it is another user's mount) is a sign of life."""
    ask = "import os, sys\ntry: os.statvfs(sys.argv[1])\nexcept OSError as exc: sys.exit(exc.errno)"
    try:
        code = _run(sys.executable, "-I", "-S", "-c", ask, str(path))
    except subprocess.TimeoutExpired:
        return False
    return code in (errno.ENOTCONN, errno.ECONNABORTED)


def _run(*command: str, timeout_s: float = _COMMAND_TIMEOUT_S) -> int:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode:
        log.debug("%s: %s", " ".join(command), done.stderr.strip())
    return done.returncode


def _unescape(field: bytes) -> bytes:
    """Undo the kernel's octal escapes of blank, tab, line break and backslash."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
