"""The change bus: after a commit, what the mount's kernel may hold wrongly is forgotten.

The committing process sends the changes over a Unix socket to the mount process and waits, at
most FORGET_TIMEOUT_S, for the answer, before it answers its own client. So a 200 on a PUT means
that the very next stat through the mount sees it, though the mount's timeouts are infinite.
No listener means no mount, and so no kernel cache: nothing to wait for. A mount listens before
it mounts.

Messages are msgpack lists of (parent, name, inode), framed by a 4-byte length; the answer is one
byte. A connection is used by one thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

log = logging.getLogger(__name__)

FORGET_TIMEOUT_S = 1.0
_DONE = b"\x06"


class Change(NamedTuple):
    """The entry (parent, name) of a directory; with an empty name, the attributes of `inode`."""

    parent: int
    name: bytes
    inode: int


class ChangeSink(Protocol):
    def forget(self, changes: Sequence[Change]) -> None:
        """Return when no kernel holds the old state any more, or the wait was given up."""


class _Nobody:
    """The sink where no other process has a mount, and of the mount itself: the kernel knows
    what it asked for."""

    def forget(self, changes: Sequence[Change]) -> None:
        return


NOBODY: ChangeSink = _Nobody()


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """An address for a socket's path of any length: sun_path holds 108 bytes, a descriptor of the
    directory stands for the rest."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


class ChangeSender:
    """The sink of a process beside the mount. Thread-safe; blocks as the module says."""

    def __init__(self, socket_path: Path, on_timeout: Callable[[], None]) -> None:
        self._path = socket_path
        self._on_timeout = on_timeout
        self._idle: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    def forget(self, changes: Sequence[Change]) -> None:
        message = msgspec.msgpack.encode([tuple(change) for change in changes])
        frame = len(message).to_bytes(4, "big") + message
        reused = True
        while reused:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                reused = False
                try:
                    connection = self._connect()
                except OSError:
                    return  # nobody listens: there is no mount
            try:
                connection.sendall(frame)
                answer = connection.recv(1)
            except TimeoutError:
                connection.close()
                self._on_timeout()
                log.warning("the mount did not confirm %d changes in time", len(changes))
                return
            except OSError:
                answer = b""
            if answer == _DONE:
                self._idle.put(connection)
                return
            # The mount that this connection led to is gone; a new one may listen already.
            connection.close()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(FORGET_TIMEOUT_S)
        try:
            with _address(self._path) as address:
                connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection


class ChangeListener:
    """The mount's end: calls `forget` for each message, in threads that hold nothing.

    `forget` may block in the kernel; each connection has its own thread, so that one slow
    invalidation holds up one sender only.
    """

    def __init__(self, socket_path: Path, forget: Callable[[Sequence[Change]], None]) -> None:
        self._path = socket_path
        self._forget = forget
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def start(self) -> None:
        """Bind and listen; a socket left by a dead mount is replaced."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        with _address(self._path) as address:
            self._server.bind(address)
        self._path.chmod(0o600)
        self._server.listen(64)
        threading.Thread(target=self._accept, name="changes", daemon=True).start()

    def stop(self) -> None:
        """Refuse new senders: from now on there is no kernel cache to keep true."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # stopped
            threading.Thread(
                target=self._serve, args=(connection,), name="changes-peer", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while header := stream.read(4):
                message = stream.read(int.from_bytes(header, "big"))
                changes = msgspec.msgpack.decode(message, type=list[Change])
                try:
                    self._forget(changes)
                except Exception:
                    # Unconfirmed: the sender's wait runs out and is counted there.
                    log.exception("forgetting %d changes failed", len(changes))
                    continue
                try:
                    connection.sendall(_DONE)
                except OSError:
                    return  # the sender died
