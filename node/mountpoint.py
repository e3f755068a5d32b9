"""What the supervisor does about the mount when the mount process itself cannot.

It serves no request and holds no file of the mount, so it may take away a mount whose process was
killed, and break the connection of one that cannot even be killed. How that is done, without
touching the path, is in `fuse/mountpoint.py`, which the mount process uses for itself. Blocks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fuse import mountpoint

FUSE_DEVICE = Path("/dev/fuse")


def unavailable() -> str:
    """Why this machine cannot mount, as the end of a sentence; "" if it can."""
    if not FUSE_DEVICE.exists():
        return f"{FUSE_DEVICE} is missing (load the fuse module, or give the container the device)"
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        return f"{FUSE_DEVICE} cannot be opened by this user"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing (install the package fuse3)"
    return ""


def real_path(path: Path) -> Path:
    """The path as the kernel lists it: looking at its last component could hang."""
    return path.parent.resolve() / path.name


def clear(path: Path) -> None:
    """Take away what a killed mount process left; call it only when that process has ended."""
    while (mount := mountpoint.mounted_on(path)) and mount.kind.startswith("fuse"):
        mountpoint.detach(path)


def abort(path: Path) -> None:
    """Break the connection: every caller gets ECONNABORTED at once, and a process that waits in
    the kernel for itself can be killed."""
    mount = mountpoint.mounted_on(path)
    if mount is not None and mount.kind.startswith("fuse"):
        mountpoint.abort(mount)
