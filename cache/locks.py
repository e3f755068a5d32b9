"""Locks between the processes of the node: byte ranges of one file (fcntl OFD locks).

The kernel drops them with the process, so a killed holder leaves nothing behind. Each holder opens
the file anew, because OFD locks belong to the open file and threads must exclude each other too.
Names of locks are hashed into the range; two that collide wait for each other needlessly, no more.
The order of taking is in docs/concurrency.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from cache.errors import DeadlineExceeded

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux
_PAUSE_MIN_S = 0.0005
_PAUSE_MAX_S = 0.02


class NodeLocks:
    """Blocks; thread-safe."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path

    @contextlib.contextmanager
    def hold(self, *name: object, shared: bool = False, deadline_s: float) -> Iterator[bool]:
        """Hold the lock of this name. DeadlineExceeded when it is not free in time. The block is
        given whether somebody else had it."""
        digest = hashlib.blake2b(repr(name).encode(), digest_size=7).digest()
        kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        request = _FLOCK.pack(kind, os.SEEK_SET, int.from_bytes(digest, "big"), 1, 0)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield self._acquire(fd, request, name, deadline_s)
        finally:
            os.close(fd)  # and with it the lock

    @staticmethod
    def _acquire(fd: int, request: bytes, name: tuple[object, ...], deadline_s: float) -> bool:
        end = time.monotonic() + deadline_s
        pause = _PAUSE_MIN_S
        waited = False
        while True:
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
            except (BlockingIOError, PermissionError):
                waited = True
                if time.monotonic() > end:
                    raise DeadlineExceeded(f"lock {name!r} was held too long") from None
                time.sleep(pause)
                pause = min(_PAUSE_MAX_S, pause * 1.5)
            else:
                return waited
