"""sd_notify(3): telling systemd that the node is ready, alive, stopping, and what it is doing.

Without systemd (no NOTIFY_SOCKET in the environment) every call does nothing.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


class Systemd:
    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")  # not for our children
        self._watchdog_us = int(os.environ.pop("WATCHDOG_USEC", "0"))
        if int(os.environ.pop("WATCHDOG_PID", str(os.getpid()))) != os.getpid():
            self._watchdog_us = 0

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often to call alive(): half of the time after which systemd would kill us."""
        return self._watchdog_us / 2e6 if self._address and self._watchdog_us else None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def stopping(self, status: str, seconds: float) -> None:
        """Ask for `seconds` more than the unit may allow: the queue is being drained."""
        self._send(f"STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # A leading @ is how the environment spells the abstract namespace's NUL byte.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            # A systemd that does not read must not hold up the node: the message is dropped then.
            notify.setblocking(False)
            try:
                notify.connect(address)
                notify.send(state.encode())
            except ConnectionRefusedError:
                self._address = ""  # mount_helper.py listens for READY only
            except OSError as exc:
                log.warning("cannot notify systemd: %s", exc)
