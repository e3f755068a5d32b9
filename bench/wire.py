"""A wire of known length and width between a client and an S3 server: a TCP proxy of our own.

Each request waits `delay_s` before the server sees it, and all bytes, of all connections and in
both directions, go through one bucket that lets `bytes_per_s` pass. Bodies are not held up for
more than that: a piece leaves as soon as the bucket allows. What the proxy itself can carry is
measured with the rest (`script/bench cold` prints it as "the wire, unbounded").

Requests are told apart by their heads, so a body must have a Content-Length; chunked ones end the
connection. One process of its own, two threads for each connection.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

PIECE_BYTES = 64 << 10
_BURST_S = 0.004  # what a thread that slept too long may catch up
_SPAWN = multiprocessing.get_context("spawn")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


@dataclass(frozen=True)
class Wire:
    """What a client sees of a running wire."""

    url: str
    _count: Any  # shared with its process

    @property
    def requests(self) -> int:
        return int(self._count.value)


@contextmanager
def wire(server_url: str, delay_s: float, bytes_per_s: float | None) -> Iterator[Wire]:
    """A wire to the server, until the block ends. bytes_per_s: None for as much as it carries."""
    requests = _SPAWN.Value("q", 0)
    ours, theirs = _SPAWN.Pipe()
    port = int(server_url.rsplit(":", 1)[1])
    process = _SPAWN.Process(
        target=_serve, args=(theirs, requests, port, delay_s, bytes_per_s), daemon=True
    )
    process.start()
    try:
        if not ours.poll(20):
            raise RuntimeError("the wire does not start")
        yield Wire(f"http://127.0.0.1:{ours.recv()}", requests)
    finally:
        process.terminate()
        process.join()


class _Bucket:
    """Lets bytes pass at a rate, first come, first served."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at_s = 0.0

    def take(self, count: int) -> None:
        """Return when `count` bytes have passed."""
        with self._lock:
            now_s = time.monotonic()
            begin_s = max(self._free_at_s, now_s - _BURST_S)
            self._free_at_s = begin_s + count / self._bytes_per_s
            wait_s = self._free_at_s - now_s
        if wait_s > 0:
            time.sleep(wait_s)


def _serve(
    link: Connection, requests: Any, server_port: int, delay_s: float, bytes_per_s: float | None
) -> None:
    bucket = None if bytes_per_s is None else _Bucket(bytes_per_s)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        link.send(listening.getsockname()[1])
        while True:
            client, _ = listening.accept()
            server = socket.create_connection(("127.0.0.1", server_port))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for run in (_Requests, _Answers):
                side = run(client, server, bucket, requests, delay_s)
                threading.Thread(target=side.run, daemon=True).start()


class _Side(ABC):
    """One direction of a connection."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        bucket: _Bucket | None,
        requests: Any,
        delay_s: float,
    ) -> None:
        self._client = client
        self._server = server
        self._bucket = bucket
        self._requests = requests
        self._delay_s = delay_s
        self._piece = memoryview(bytearray(PIECE_BYTES))

    def run(self) -> None:
        with contextlib.suppress(OSError):  # either end is gone: then both are
            self.carry()
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @abstractmethod
    def carry(self) -> None:
        """Until either end is gone."""

    def pass_on(self, target: socket.socket, data: bytes | memoryview) -> None:
        if self._bucket is not None:
            self._bucket.take(len(data))
        target.sendall(data)


class _Answers(_Side):
    def carry(self) -> None:
        while count := self._server.recv_into(self._piece):
            self.pass_on(self._client, self._piece[:count])


class _Requests(_Side):
    def carry(self) -> None:
        waiting = b""
        while True:
            while (end := waiting.find(b"\r\n\r\n")) < 0:
                more = self._client.recv(PIECE_BYTES)
                if not more:
                    return
                waiting += more
            head, body = waiting[: end + 4], waiting[end + 4 :]
            if _CHUNKED.search(head):
                return
            with self._requests.get_lock():
                self._requests.value += 1
            time.sleep(self._delay_s)
            self.pass_on(self._server, head)
            length = _LENGTH.search(head)
            left = int(length[1]) if length else 0
            waiting = body[left:]
            if body[:left]:
                self.pass_on(self._server, body[:left])
            left -= len(body) - len(waiting)
            while left:
                count = self._client.recv_into(self._piece[: min(left, PIECE_BYTES)])
                if not count:
                    return
                self.pass_on(self._server, self._piece[:count])
                left -= count
