"""The socket between the supervisor and one child: messages, one JSON object a line.

    supervisor -> child    Start (once, first)   Stop
    child -> supervisor    Ready   Beat   Failed   Report

Its end of file means that the other side is gone, which is how a child learns that the supervisor
was killed. This module holds the messages and the child's blocking end; the supervisor's end is in
`node/children.py`. `ChildEnd.send` may be called from any thread.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

import msgspec

from node.config_text import ConfigText


class Endpoint(msgspec.Struct):
    """Where S3 is served, as the supervisor found out: ports where the configuration says 0, the
    certificate that it made."""

    port: int | None  # None: no plain HTTP
    https_port: int | None = None
    certificate: str = ""
    key: str = ""


class Start(msgspec.Struct, tag="start"):
    """What the child is to run. The configuration travels as the text that the supervisor read:
    a child that is started again runs what its siblings run, whatever the file says by now."""

    name: str  # "mover", "gateway-0", "mount"
    config: ConfigText
    endpoint: Endpoint


class Stop(msgspec.Struct, tag="stop"):
    """End in order: refuse new work, finish what is under way, within grace_s seconds."""

    grace_s: float


class Ready(msgspec.Struct, tag="ready"):
    """The child serves."""

    facts: dict[str, str] = {}


class Beat(msgspec.Struct, tag="beat"):
    """The child's main loop has run since the last beat."""


class Failed(msgspec.Struct, tag="failed"):
    """The child cannot do its work for a reason that the operator can put right."""

    message: str
    code: int


class Report(msgspec.Struct, tag="report"):
    """What the child has to say about its work: figures for `status`, what is left at the end."""

    facts: dict[str, Any]


ToChild = Start | Stop
FromChild = Ready | Beat | Failed | Report

_encoder = msgspec.json.Encoder()
decode_to_child: msgspec.json.Decoder[ToChild] = msgspec.json.Decoder(ToChild)
decode_from_child: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)


def encode(message: ToChild | FromChild) -> bytes:
    return _encoder.encode(message) + b"\n"


class ChildEnd:
    """The child's end: blocking, for one reading thread and any number of writing ones."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._lines = self._socket.makefile("rb")
        self._sending = threading.Lock()

    def receive(self) -> ToChild | None:
        """The next message; None when the supervisor is gone. Blocks."""
        try:
            line = self._lines.readline()
        except ConnectionError:
            return None
        return decode_to_child.decode(line) if line.endswith(b"\n") else None

    def send(self, message: FromChild) -> None:
        """Tell the supervisor. One that is gone is told nothing: receive() reports that."""
        try:
            with self._sending:
                self._socket.sendall(encode(message))
        except (BrokenPipeError, ConnectionResetError):
            return
