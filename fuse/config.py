"""Settings of the mount. Read by `fuse/mount.py`; `node/config.py` reads them from `[mount]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MountConfig:
    path: Path
    """Directory to mount on; made if missing. A dead mount that is left on it is taken away."""
    enabled: bool = True
    """Mount at all. False: the node serves S3 only."""
    allow_other: bool = False
    """Let other users than the one that runs the node enter the mount. Needs root, or
    `user_allow_other` in /etc/fuse.conf."""
    dev: bool = False
    """Honour device files in the mount. Whoever may create objects over S3 or in the store could
    then make themselves a disk's device file."""
    suid: bool = False
    """Honour set-user-ID and set-group-ID programs in the mount. Whoever writes to the store
    could then become root."""
    relatime: bool = True
    """Note when a file is read: its atime moves if it is not after the last change, or a day old.
    What the kernel answers from its own pages is not seen. False: atime is what was set last."""
    noexec: bool = False
    """Let no program in the mount be executed."""
    read_only: bool = False
    """Refuse all changes through the mount (EROFS); S3 clients are not concerned."""
    fsname: str = "forebay"
    """First column of df(1) and of /proc/mounts."""
    xattrs: bool = True
    """Offer extended attributes. Without them a small write(2) costs a ninth (measured: 10 instead
    of 92 microseconds for 4 KiB), as the kernel asks for security.capability before each."""
    read_ahead_kb: int = 1024
    """Kernel read-ahead. The kernel's own 128 reads a file at a sixth of the speed (measured);
    needs root."""
    max_background: int = 64
    """Most read-ahead and write-back requests that the kernel has under way at a time, so that a
    few slow reads from the store do not hold up the others; needs root."""
    metadata_threads: int = 16
    """Operations on names and attributes at the same time that may wait for disk or store."""
    data_threads: int = 32
    """Reads and writes at the same time that may wait for disk or store."""
    metadata_deadline_s: float = 30.0
    """Longest that a program waits for an operation on names or attributes (ETIMEDOUT). A change
    that was under way may happen all the same."""
    data_deadline_s: float = 120.0
    """Longest that a program waits for a read, a write, or the close or fsync that publishes and,
    on write_through, persists a file (ETIMEDOUT)."""
    stop_timeout_s: float = 10.0
    """Longest that a stop waits for the kernel to hand over written pages before the mount goes."""

    def __post_init__(self) -> None:
        if not self.fsname or set(self.fsname) & set(", \t\n\\"):
            raise ValueError("fsname must be a word without comma, blank or backslash")
        if not 4 <= self.read_ahead_kb <= 1 << 20:
            raise ValueError("read_ahead_kb must be from 4 to 1048576")
        if not 1 <= self.max_background <= 65535:
            raise ValueError("max_background must be from 1 to 65535")
        for name in ("metadata_threads", "data_threads"):
            if not 1 <= getattr(self, name) <= 1024:
                raise ValueError(f"{name} must be from 1 to 1024")
        for name in ("metadata_deadline_s", "data_deadline_s", "stop_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
