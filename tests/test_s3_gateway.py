"""The gateway as a server: deadlines, limits, keep-alive, interim answers, log, draining."""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.errors import StoreUnavailable
from s3api.config import GatewayConfig
from tests.support.s3 import Answer, Door, parse_answer, read_answer, serving
from tests.support.stores import free_port
from tests.support.waiting import wait_until

WAIT_S = 60.0


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with serving(tmp_path, access_log="all") as running:
        running.volume.buckets.create("bucket", "tester")
        yield running


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Door]:
    """A door that waits for nobody for long: where nobody is to be waited for."""
    with serving(
        tmp_path, header_timeout_s=1.0, body_timeout_s=1.0, idle_timeout_s=1.0, access_log="off"
    ) as running:
        running.volume.buckets.create("bucket", "tester")
        yield running


def connect(door: Door) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door.port), timeout=WAIT_S)


def closed(connection: socket.socket) -> bool:
    """Wait until the other side closes; nothing was answered."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_silent_clients_are_cut_off(impatient: Door) -> None:
    with connect(impatient) as connection:
        assert closed(connection)


def test_headers_must_be_complete_in_time(impatient: Door) -> None:
    with connect(impatient) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert closed(connection)


def test_headers_of_a_second_request_must_be_complete_in_time(impatient: Door) -> None:
    with connect(impatient) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {impatient.host}\r\n\r\n".encode())
        assert b"AccessDenied" in read_answer(connection)
        connection.sendall(b"GET / HTT")
        assert closed(connection)


def test_idle_connections_are_closed(impatient: Door) -> None:
    with connect(impatient) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {impatient.host}\r\n\r\n".encode())
        assert b"AccessDenied" in read_answer(connection)
        assert closed(connection)


def test_bodies_must_not_pause(impatient: Door) -> None:
    target = impatient.presign("PUT", "/bucket/key")
    with connect(impatient) as connection:
        connection.sendall(
            f"PUT {target} HTTP/1.1\r\nHost: {impatient.host}\r\n"
            "Content-Length: 10\r\n\r\nhalf".encode()
        )
        assert b"RequestTimeout" in read_answer(connection)
    assert impatient.is_empty("bucket")


def test_100_continue_comes_after_authorisation(door: Door) -> None:
    lines = f"Host: {door.host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    with connect(door) as connection:
        connection.sendall(f"PUT /bucket/key HTTP/1.1\r\n{lines}".encode())
        answer = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 403")
        assert b"100 Continue" not in answer
    with connect(door) as connection:
        target = door.presign("PUT", "/no-bucket/key")
        connection.sendall(f"PUT {target} HTTP/1.1\r\n{lines}".encode())
        answer = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 404")
        # The body will not come: what follows must not be taken for it.
        assert b"Connection: close" in answer
        assert closed(connection)
    target = door.presign("PUT", "/bucket/key")
    with connect(door) as connection:
        connection.sendall(f"PUT {target} HTTP/1.1\r\n{lines}".encode())
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"body")
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
    assert door.volume.objects.get("bucket", b"key").size == 4


def test_connections_stay_for_many_requests(door: Door) -> None:
    body = os.urandom(300_000)  # beyond one write: goes by sendfile
    door.client().put_object(Bucket="bucket", Key="key", Body=body)
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=WAIT_S)
    connection.connect()
    local = connection.sock.getsockname()
    for headers in ({}, {"Range": "bytes=5-200000"}, {"Range": "bytes=-1"}, {}):
        connection.request("GET", door.presign("GET", "/bucket/key"), headers=headers)
        response = connection.getresponse()
        first, last = 0, len(body)
        if headers:
            unit = response.headers["Content-Range"].removeprefix("bytes ").split("/")[0]
            first, last = (int(part) for part in unit.split("-"))
            last += 1
        assert response.read() == body[first:last]
        assert connection.sock.getsockname() == local
    connection.close()


def test_keep_alive_can_be_off(tmp_path: Path) -> None:
    with serving(tmp_path, keep_alive=False, access_log="off") as door:
        answer = door.request("GET", "/")
        assert answer.headers["Connection"] == "close"


def test_too_many_connections(tmp_path: Path) -> None:
    with serving(tmp_path, max_connections=3, access_log="off") as door:
        held = [connect(door) for _ in range(3)]
        with connect(door) as one_too_many:
            answer = parse_answer(read_answer(one_too_many))
            assert (answer.status, answer.code) == (503, "SlowDown")
            assert has_what_every_answer_has(answer)
        held.pop().close()
        wait_until(lambda: door.request("GET", "/").status == 200)
        for connection in held:
            connection.close()


def test_too_many_connections_of_one_client(tmp_path: Path) -> None:
    settings = {"max_connections_per_client": 1, "access_log": "off"}
    with serving(tmp_path, **settings) as door, connect(door), connect(door) as second:
        assert parse_answer(read_answer(second)).code == "SlowDown"


def has_what_every_answer_has(answer: Answer) -> bool:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert re.fullmatch("[0-9A-F]{16}", headers["x-amz-request-id"])
    assert headers["x-amz-id-2"]
    assert headers["server"] == "Forebay"
    assert headers["date"].endswith("GMT")
    return True


def test_every_answer_can_be_found_again(door: Door) -> None:
    door.request("PUT", "/found")
    door.request("PUT", "/found/key", body=b"x")
    etag = door.request("HEAD", "/found/key").headers["ETag"]
    answers = {
        200: door.request("GET", "/found/key"),
        204: door.request("DELETE", "/found/absent"),
        206: door.request("GET", "/found/key", {"Range": "bytes=0-0"}),
        304: door.request("GET", "/found/key", {"If-None-Match": etag}),
        400: door.request("POST", "/found", {"Authorization": "x"}, sign=False),
        403: door.request("PUT", "/found/key", {"Expect": "100-continue"}, sign=False),
        404: door.request("HEAD", "/found/absent"),
        405: door.request("PATCH", "/found/key"),
        412: door.request("GET", "/found/key", {"If-Match": '"other"'}),
        416: door.request("GET", "/found/key", {"Range": "bytes=9-"}),
        501: door.request("GET", "/found?frobnicate"),
    }
    for status, answer in answers.items():
        assert answer.status == status
        assert has_what_every_answer_has(answer)
    for wire in (b"no HTTP\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9\r\n\r\n",
                 b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 9000 + b"\r\n\r\n",
                 b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"):  # fmt: skip
        answer = parse_answer(door.raw(wire))
        assert answer.status == 400
        assert has_what_every_answer_has(answer)
    missing = door.request("GET", "/bucket/missing")
    assert missing.headers["x-amz-request-id"].encode() in missing.body


def test_access_log(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "s3api.access"):
        door.request("GET", door.presign("GET", "/bucket/missing"), sign=False)
        door.request("GET", "/")
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert lines[0] | {"milliseconds": 0, "request_id": ""} == {
        "request_id": "",
        "remote": "127.0.0.1",
        "user": "tester",
        "method": "GET",
        "operation": "GetObject",
        "bucket": "bucket",
        "key": "missing",
        "status": 404,
        "code": "NoSuchKey",
        "milliseconds": 0,
        "user_agent": "",
    }
    assert lines[1]["operation"] == "ListBuckets"
    assert "Signature" not in caplog.text
    assert door.key.secret not in caplog.text


def test_access_log_of_failures_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path) as door, caplog.at_level(logging.INFO, "s3api.access"):
        door.request("GET", "/")
        assert not caplog.records
        door.request("GET", "/missing")
        assert len(caplog.records) == 1


def test_an_unexpected_error_is_an_internal_error(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(door.volume.buckets, "list", broken)
    answer = door.request("GET", "/")
    assert (answer.status, answer.code) == (500, "InternalError")
    assert b"secret detail" not in answer.body
    assert answer.headers["x-amz-request-id"] in caplog.text


def test_a_store_that_does_not_answer(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise StoreUnavailable("store of 192.0.2.1 timed out")

    monkeypatch.setattr(door.volume.objects, "list", silent)
    answer = door.request("GET", "/bucket")
    assert (answer.status, answer.code) == (503, "ServiceUnavailable")
    assert answer.headers["Retry-After"] == "1"
    assert b"192.0.2.1" not in answer.body


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "SlowDown"), (errno.EIO, "InternalError")]
)
def test_a_disk_that_fails(
    door: Door, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/secret/path")

    door.client().put_object(Bucket="bucket", Key="first", Body=bytes(100_000))
    door.client().delete_object(Bucket="bucket", Key="first")  # its segment stays open
    monkeypatch.setattr("cache.disk.write_at", failing)
    answer = door.request("PUT", "/bucket/key", body=bytes(100_000))
    assert answer.code == code
    assert b"/secret/path" not in answer.body
    monkeypatch.undo()
    assert door.is_empty("bucket")
    assert door.request("PUT", "/bucket/key", body=bytes(100_000)).status == 200


def serve_pieces(
    door: Door, monkeypatch: pytest.MonkeyPatch, pieces: Callable[..., Iterator[bytes]]
) -> None:
    """Have the bytes of every object come from there, as if none were cached."""
    opened = door.volume.objects.open

    def opening(bucket: str, key: bytes, version_id: str | None, **_: object) -> object:
        found, snapshot = opened(bucket, key, version_id)
        monkeypatch.setattr(type(snapshot), "cached", lambda *_: None)
        monkeypatch.setattr(type(snapshot), "pieces", pieces)
        return found, snapshot

    monkeypatch.setattr(door.volume.objects, "open", opening)
    monkeypatch.setattr(door.volume.objects, "open_now", lambda *_: None)


def test_an_answer_that_cannot_be_finished_is_cut_off(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Less than Content-Length must never look like an end."""
    door.client().put_object(Bucket="bucket", Key="key", Body=bytes(1 << 20))

    def pieces(*_: object) -> Iterator[bytes]:
        yield bytes(1000)
        raise StoreUnavailable("gone")

    serve_pieces(door, monkeypatch, pieces)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        door.request("GET", "/bucket/key")
    monkeypatch.undo()
    assert len(door.request("GET", "/bucket/key").body) == 1 << 20


def test_an_answer_that_cannot_be_begun_is_an_error(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients ask again after a 503; after a body that ends early, most do not."""
    door.client().put_object(Bucket="bucket", Key="key", Body=bytes(1 << 20))

    def pieces(*_: object) -> Iterator[bytes]:
        raise StoreUnavailable("gone")
        yield

    serve_pieces(door, monkeypatch, pieces)
    answer = door.request("GET", "/bucket/key")
    assert (answer.status, answer.code) == (503, "ServiceUnavailable")
    monkeypatch.undo()
    assert len(door.request("GET", "/bucket/key").body) == 1 << 20


def test_a_client_that_leaves_in_the_middle(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing stays open, nobody is alarmed, and the next client is served."""
    body = os.urandom(8 << 20)
    door.client().put_object(Bucket="bucket", Key="big", Body=body)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with connect(door) as connection:
            target = door.presign("GET", "/bucket/big")
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode())
            connection.recv(1000)
        with connect(door) as connection:
            target = door.presign("PUT", "/bucket/half")
            head = f"PUT {target} HTTP/1.1\r\nHost: {door.host}\r\nContent-Length: 9999999\r\n\r\n"
            connection.sendall(head.encode() + bytes(2 << 20))
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)
    assert [entry.key for entry in door.volume.objects.list("bucket").entries] == [b"big"]
    assert door.request("GET", "/bucket/big").body == body
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_slow_reader_gets_every_byte(door: Door) -> None:
    body = os.urandom(2 << 20)
    door.client().put_object(Bucket="bucket", Key="big", Body=body)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.connect(("127.0.0.1", door.port))
        target = door.presign("GET", "/bucket/big")
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode())
        received = b""
        while len(received.partition(b"\r\n\r\n")[2]) < len(body):
            received += connection.recv(20_000)
    assert received.partition(b"\r\n\r\n")[2] == body


def test_stop_lets_requests_end(tmp_path: Path) -> None:
    answers: list[Answer] = []
    with serving(tmp_path, access_log="off") as door:
        door.volume.buckets.create("bucket", "tester")
        target = door.presign("PUT", "/bucket/key")
        connection = connect(door)
        head = f"PUT {target} HTTP/1.1\r\nHost: {door.host}\r\nContent-Length: 4\r\n"
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        # Now the request is under way, and not just on the wire.
        go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(go_on), socket.MSG_WAITALL) == go_on
        connection.sendall(b"bo")
        finished = threading.Timer(0.3, connection.sendall, [b"dy"])
        finished.start()
        reader = threading.Thread(
            target=lambda: answers.append(parse_answer(read_answer(connection)))
        )
        reader.start()
    reader.join()
    connection.close()
    assert answers[0].status == 200


PROGRAM = """
import contextlib, pathlib, sys
from cache.config import CacheConfig, VolumeConfig
from cache.stores.posix import PosixStore, PosixStoreConfig
from cache.volume import Volume
from s3api.config import AuthConfig, GatewayConfig
from s3api.gateway import serve
from s3api.listening import Listener

home = pathlib.Path(sys.argv[1])
stores = {"local": PosixStore(PosixStoreConfig(path=home / "store"))}
cache = CacheConfig(state_dir=home / "state", capacity_bytes=1 << 28)
config = VolumeConfig(cache, creatable_store="local")
with contextlib.closing(Volume.open(config, stores)) as volume:
    listeners = [Listener("127.0.0.1", int(sys.argv[2]))]
    serve(volume, GatewayConfig(), AuthConfig(), listeners=listeners, index=0,
          ready=lambda: print("ready", flush=True))
print("ended", flush=True)
"""


def test_two_processes_serve_one_port(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, tmp_path, str(port)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        user = {"Authorization": "AWS4-HMAC-SHA256 Credential=me/"}

        def ask(method: str, target: str) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
            connection.request(method, target, headers=user)
            status = connection.getresponse().status
            connection.close()
            return status

        assert ask("PUT", "/bucket") == 200
        assert {ask("HEAD", "/bucket") for _ in range(30)} == {200}
        processes[0].send_signal(signal.SIGTERM)
        assert processes[0].wait(WAIT_S) == 0
        assert {ask("HEAD", "/bucket") for _ in range(30)} == {200}
        processes[1].send_signal(signal.SIGTERM)
        assert processes[1].wait(WAIT_S) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 70000},
        {"header_timeout_s": 0},
        {"idle_timeout_s": -1},
        {"max_connections": 0},
        {"max_connections_per_client": -1},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        GatewayConfig(**settings)  # type: ignore[arg-type]
