"""Who runs in a state directory: one supervisor, and one process of each child's name.

Locks are fcntl record locks on files in state_dir/run: the kernel drops them with the process,
however it ended, does not hand them to children, and says who holds one (F_GETLK), so that no pid
file can lie. Keep the returned file open for as long as the lock is wanted, and never open the
same path a second time in one process: closing any descriptor of it would drop the lock.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import IO

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


class LockHeldError(Exception):
    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(f"{path} is locked by process {pid}")
        self.pid = pid


def take(path: Path) -> IO[bytes]:
    """Lock the file, made when missing, for this process. LockHeldError if another has it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = holder(path)
        file.close()
        raise LockHeldError(path, pid) from None
    return file


def holder(path: Path) -> int:
    """The process that holds the lock; 0 if nobody does, or the file does not exist."""
    try:
        file = path.open("rb+")
    except FileNotFoundError:
        return 0
    with file:
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, request))
    return 0 if answer[0] == fcntl.F_UNLCK else answer[4]
