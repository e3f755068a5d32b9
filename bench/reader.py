"""A client that costs little: GET and PUT over one connection, with URLs signed beforehand.

Nothing but what an answer's length needs is parsed, and bodies are read into one buffer and
forgotten, so that on two cores the client is not what is measured. Not thread-safe.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_BUFFER_BYTES = 256 << 10
_HEAD_BYTES = 16 << 10
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Got:
    size_bytes: int
    first_byte_s: float
    """From the request to the first byte of the body."""


class Reader:
    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._host = address.netloc
        self._socket = socket.create_connection((address.hostname, address.port), _TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def get(self, path: str, start: int | None = None, stop: int | None = None) -> Got:
        """Read an object, or the bytes [start, stop) of it. RuntimeError if it is refused."""
        ranged = "" if start is None else f"Range: bytes={start}-{(stop or 0) - 1}\r\n"
        begun_s = time.perf_counter()
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n{ranged}\r\n".encode())
        length, there = self._answer()
        if not there and length:
            there = self._receive(length)
        first_s = time.perf_counter() - begun_s
        while there < length:
            there += self._receive(length - there)
        return Got(length, first_s)

    def put(self, path: str, pieces: Iterable[bytes], size_bytes: int) -> None:
        head = f"PUT {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {size_bytes}\r\n\r\n"
        self._socket.sendall(head.encode())
        for piece in pieces:
            self._socket.sendall(piece)
        length, there = self._answer()
        while there < length:
            there += self._receive(length - there)

    def _answer(self) -> tuple[int, int]:
        """Length of the body, and how much of it came with the head."""
        head = b""
        while (end := head.find(b"\r\n\r\n")) < 0:
            # Into the buffer, not to a new object of this size: that alone took as long as a read.
            head += self._buffer[: self._receive(_HEAD_BYTES)]
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(repr(head[:600]))
        found = _LENGTH.search(head)
        if found is None and not head.startswith(b"HTTP/1.1 204"):
            raise RuntimeError(f"an answer without a length: {head[:600]!r}")
        return int(found[1]) if found else 0, len(head) - end - 4

    def _receive(self, wanted: int) -> int:
        count = self._socket.recv_into(self._buffer[: min(wanted, _BUFFER_BYTES)])
        if not count:
            raise RuntimeError("the server hung up")
        return count
