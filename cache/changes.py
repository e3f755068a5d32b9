"""The change bus: after a commit, what the mount's kernel may hold wrongly is forgotten.

The committing process sends the changes over a Unix socket to the mount process and waits, at
most FORGET_TIMEOUT_S, for the answer, before it answers its own client. So a 200 on a PUT means
that the very next stat through the mount sees it, though the mount's timeouts are infinite.
No listener means no mount, and so no kernel cache: nothing to wait for. A mount listens before
it mounts.

The mount is warned before the commit and told after it: a process that is killed in between leaves
a warning whose connection ends, upon which the mount forgets as well. Else its kernel would believe
for ever what was true before.

Messages are msgpack lists of (parent, name, inode), framed by a 4-byte length, then one byte once
they are committed; the answer is one byte. A connection is used by one thread at a time.
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
_COMMITTED = b"\x05"
_DONE = b"\x06"


class Change(NamedTuple):
    """The entry (parent, name) of a directory; with an empty name, the attributes of `inode`."""

    parent: int
    name: bytes
    inode: int


class Notice(Protocol):
    """What one commit has to say to the mount; one thread at a time. End it by confirm() or
    withdraw()."""

    def warn(self, changes: Sequence[Change]) -> None:
        """Before the commit. Never blocks."""

    def confirm(self) -> None:
        """After the commit: return when no kernel holds the old state any more, or the wait was
        given up."""

    def withdraw(self) -> None:
        """Nothing was committed, or nothing that matters to a kernel."""


class ChangeSink(Protocol):
    def notice(self) -> Notice:
        """For the next commit. Blocks for a connection at the most."""

    def forget(self, changes: Sequence[Change]) -> None:
        """Return when no kernel holds the old state any more, or the wait was given up."""


class _Nobody:
    """The sink where no other process has a mount, and of the mount itself: the kernel knows
    what it asked for. Its own notice: it has nothing to remember."""

    def notice(self) -> Notice:
        return self

    def forget(self, changes: Sequence[Change]) -> None:
        return

    def warn(self, changes: Sequence[Change]) -> None:
        return

    def confirm(self) -> None:
        return

    def withdraw(self) -> None:
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

    def notice(self) -> Notice:
        return _Notice(self, self._idle_or_new()[0])

    def forget(self, changes: Sequence[Change]) -> None:
        reused = True
        while reused:
            connection, reused = self._idle_or_new()
            if connection is None:
                return  # nobody listens: there is no mount
            if self.ask(connection, _frame(changes) + _COMMITTED):
                return
            # The mount that this connection led to is gone; a new one may listen already.

    def ask(self, connection: socket.socket, message: bytes) -> bool:
        """Send, and wait for the answer; False if the mount is gone. The connection is not the
        caller's any more."""
        try:
            connection.sendall(message)
            answer = connection.recv(1)
        except TimeoutError:
            connection.close()
            self._on_timeout()
            log.warning("the mount did not confirm in time that it forgot what was changed")
            return True
        except OSError:
            answer = b""
        if answer == _DONE:
            self.keep(connection)
            return True
        connection.close()
        return False

    def keep(self, connection: socket.socket) -> None:
        """For the next one who has something to say."""
        self._idle.put(connection)

    def _idle_or_new(self) -> tuple[socket.socket | None, bool]:
        """A connection, and whether it was used before; None: nobody listens."""
        try:
            return self._idle.get_nowait(), True
        except queue.Empty:
            if not os.path.exists(self._path):
                return None, False
            try:
                return self._connect(), False
            except OSError:
                return None, False

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


class _Notice:
    def __init__(self, sender: ChangeSender, connection: socket.socket | None) -> None:
        self._sender = sender
        self._connection = connection
        self._warned = False
        self._changes: Sequence[Change] = ()

    def warn(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        if self._connection is None:
            return
        frame = _frame(changes)
        try:
            # Not send(): with a timeout that waits for room. The buffer of a connection on which
            # everything was answered is empty; what does not fit is told after the commit only.
            self._warned = os.write(self._connection.fileno(), frame) == len(frame)
        except OSError:
            self._warned = False
        if not self._warned:
            self._connection.close()
            self._connection = None

    def confirm(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or not self._sender.ask(connection, _COMMITTED):
            # There was no mount, or it is gone; a new one may have looked before the commit.
            self._sender.forget(self._changes)

    def withdraw(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._warned:
            connection.close()
        else:
            self._sender.keep(connection)


def _frame(changes: Sequence[Change]) -> bytes:
    message = msgspec.msgpack.encode([tuple(change) for change in changes])
    return len(message).to_bytes(4, "big") + message


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
                length = int.from_bytes(header, "big")
                message = stream.read(length)
                if len(message) < length:
                    return  # it died in mid-word, and so before its commit
                changes = msgspec.msgpack.decode(message, type=list[Change])
                # End of file instead: it died, and nobody knows whether behind its commit.
                stream.read(1)
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
