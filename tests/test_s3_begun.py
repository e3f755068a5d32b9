"""Work that starts at once, and requests that are handled where they are read."""

from __future__ import annotations

import asyncio
import http.client
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from cache.errors import IndexFull, NoSuchKey
from cache.index import Request
from cache.writers import ObjectWriter
from s3api.begun import Begun, own_task
from s3api.threads import Threads
from tests.support.s3 import Door, serving
from tests.support.waiting import wait_until


def test_what_does_not_wait_is_done() -> None:
    async def work() -> int:
        return 7

    begun = Begun(work())
    assert (begun.done, begun.result) == (True, 7)


def test_what_fails_before_it_waits_fails_at_once() -> None:
    async def work() -> None:
        raise KeyError("key")

    with pytest.raises(KeyError):
        Begun(work())


def test_what_waits_is_gone_on_with() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()

        async def work() -> int:
            return int(await first) + int(await second)

        begun = Begun(work())
        assert not begun.done

        async def go_on() -> int:
            return await begun

        rest = asyncio.create_task(go_on())
        first.set_result(3)
        await asyncio.sleep(0)
        second.set_result(4)
        assert await rest == 7

    asyncio.run(main())


def test_what_waits_meets_its_errors_and_its_cancellation() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        met: list[BaseException] = []

        async def work(waits_for: asyncio.Future[int]) -> None:
            try:
                await waits_for
            except BaseException as exc:
                met.append(exc)
                raise

        async def rest(begun: Begun[None]) -> None:
            await begun

        failing, endless = loop.create_future(), loop.create_future()
        task = asyncio.create_task(rest(Begun(work(failing))))
        failing.set_exception(KeyError("key"))
        with pytest.raises(KeyError):
            await task
        task = asyncio.create_task(rest(Begun(work(endless))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [type(each) for each in met] == [KeyError, asyncio.CancelledError]

    asyncio.run(main())


def test_own_task_is_waited_for_once() -> None:
    async def main() -> None:
        async def work() -> object:
            await own_task()
            first = asyncio.current_task()
            await own_task()  # no wait in a task
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
            return first

        begun: list[Begun[object]] = []
        asyncio.get_running_loop().call_soon(lambda: begun.append(Begun(work())))
        await asyncio.sleep(0)
        assert not begun[0].done
        assert await begun[0] is asyncio.current_task()

    asyncio.run(main())


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serving(tmp_path_factory.mktemp("door"), access_log="off") as running:
        running.volume.buckets.create("bucket", "tester")
        yield running


def connect(door: Door) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door.port), timeout=100)


def test_answers_with_and_without_a_wait_follow_on_one_connection(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a request meets, the connection serves the next."""
    door.client().put_object(Bucket="bucket", Key="small", Body=b"small")
    door.client().put_object(Bucket="bucket", Key="large", Body=bytes(3 << 20))
    objects = door.volume.objects
    open_now = objects.open_now
    waits = iter([False, True, False, True] * 4)

    def sometimes(*asked: Any) -> object:
        return None if next(waits) else open_now(*asked)

    monkeypatch.setattr(objects, "open_now", sometimes)
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=100)
    connection.connect()
    local = connection.sock.getsockname()
    for _ in range(4):
        for method, key, status, length in (
            ("GET", "small", 200, 5),
            ("GET", "large", 200, 3 << 20),
            ("HEAD", "small", 200, 0),
            ("GET", "missing", 404, None),
            ("GET", "", 200, None),  # a listing: works in a thread
        ):
            target = door.presign(method, f"/bucket/{key}")
            connection.request(method, target)
            answer = connection.getresponse()
            body = answer.read()
            assert (answer.status, answer.will_close) == (status, False), key
            assert length is None or len(body) == length
    assert connection.sock.getsockname() == local
    connection.close()


@pytest.mark.parametrize("header", ["Connection: close", "connection: Close"])
def test_a_connection_ends_when_the_client_asks_for_it(door: Door, header: str) -> None:
    door.client().put_object(Bucket="bucket", Key="key", Body=bytes(4096))
    target = door.presign("GET", "/bucket/key")
    wire = f"GET {target} HTTP/1.1\r\nHost: {door.host}\r\n{header}\r\n\r\n"
    whole = b""
    with connect(door) as connection:
        connection.sendall(wire.encode())
        while chunk := connection.recv(65536):
            whole += chunk
    assert whole.startswith(b"HTTP/1.1 200")
    assert whole.endswith(bytes(4096))


def test_a_request_that_comes_byte_by_byte(door: Door) -> None:
    door.client().put_object(Bucket="bucket", Key="key", Body=b"body")
    wire = (
        f"GET {door.presign('GET', '/bucket/key')} HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode()
    )
    with connect(door) as connection:
        for part in (wire[:1], wire[1:40], wire[40:-1], wire[-1:]):
            connection.sendall(part)
        received = b""
        while not received.endswith(b"body"):
            received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 200")


# ------------------------------------------------------------------- PUTs that wait for a commit


def put_wire(door: Door, key: str, body: bytes, *more: str) -> bytes:
    target = door.presign("PUT", f"/bucket/{key}")
    lines = [f"PUT {target} HTTP/1.1", f"Host: {door.host}", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get_wire(door: Door, key: str) -> bytes:
    target = door.presign("GET", f"/bucket/{key}")
    return f"GET {target} HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode()


def statuses(connection: socket.socket, count: int) -> list[bytes]:
    """Of the next answers, which have no body."""
    received = b""
    while received.count(b"\r\n\r\n") < count:
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk
    return [part.split(b" ")[1] for part in received.split(b"\r\n\r\n")[:-1]]


def until_waiting(door: Door, count: int) -> list[Request[Any]]:
    """Once so many PUTs wait for a commit that the test holds up: those."""

    def submitted() -> list[Request[Any]]:
        return [each for each in door.volume.index._waiting if each.recipient is not None]

    wait_until(lambda: len(submitted()) == count, f"{count} PUTs wait", 20)
    return submitted()


def test_small_bodies_are_committed_without_a_thread_and_together(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*_: object) -> object:
        raise AssertionError("a small PUT took a thread")

    monkeypatch.setattr(Threads, "transfer", no_thread)
    connections = [connect(door) for _ in range(5)]
    with door.volume.index._leader:
        for number, connection in enumerate(connections):
            connection.sendall(put_wire(door, f"together-{number}", b"%d" % number * 4096))
        waiting = until_waiting(door, 5)
    assert [statuses(connection, 1) for connection in connections] == [[b"200"]] * 5
    assert len({each.batch for each in waiting}) == 1
    for number, connection in enumerate(connections):
        _, snapshot = door.volume.objects.open("bucket", b"together-%d" % number)
        with snapshot:
            assert snapshot.read(0, 4096) == b"%d" % number * 4096
        connection.close()


def test_nothing_is_answered_before_the_commit(door: Door) -> None:
    with connect(door) as connection:
        with door.volume.index._leader:
            connection.sendall(put_wire(door, "early", bytes(4096)))
            until_waiting(door, 1)
            with connect(door) as other:  # the loop goes on meanwhile
                other.sendall(get_wire(door, "early"))
                assert other.recv(65536).startswith(b"HTTP/1.1 404")
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
            connection.setblocking(True)
        assert statuses(connection, 1) == [b"200"]


def test_requests_behind_one_that_waits_for_its_commit_are_answered_in_order(door: Door) -> None:
    """The connection's task takes over what was begun without it, and then it is used again."""
    with connect(door) as connection:
        for turn in range(3):
            with door.volume.index._leader:
                connection.sendall(put_wire(door, f"first-{turn}", b"1"))
                until_waiting(door, 1)
                connection.sendall(put_wire(door, f"second-{turn}", b"22") * 2)
                connection.sendall(get_wire(door, "no-such-key")[:20])
                with connect(door) as other:  # what came before was read by now
                    other.sendall(get_wire(door, "no-such-key"))
                    assert other.recv(65536).startswith(b"HTTP/1.1 404")
            assert statuses(connection, 3) == [b"200"] * 3
            connection.sendall(get_wire(door, "no-such-key")[20:])
            received = b""
            while not received.endswith(b"</Error>"):
                received += connection.recv(65536)
            assert received.startswith(b"HTTP/1.1 404")
            connection.sendall(put_wire(door, f"third-{turn}", b"333"))
            assert statuses(connection, 1) == [b"200"]


def test_a_client_that_leaves_before_its_commit_harms_nobody(door: Door) -> None:
    with door.volume.index._leader:
        connection = connect(door)
        connection.sendall(put_wire(door, "left", b"left"))
        until_waiting(door, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()  # by a reset
        with connect(door) as other:
            other.sendall(get_wire(door, "left"))
            assert other.recv(65536).startswith(b"HTTP/1.1 404")
    with connect(door) as other:
        other.sendall(put_wire(door, "stays", b"stays"))
        assert statuses(other, 1) == [b"200"]
    assert door.volume.objects.get("bucket", b"left").size == 4


def test_a_small_body_that_comes_late_or_is_not_what_was_promised(door: Door) -> None:
    whole = put_wire(door, "late", b"0123456789" * 100)
    with connect(door) as connection:
        for part in (whole[:-700], whole[-700:-1], whole[-1:]):
            connection.sendall(part)
        assert statuses(connection, 1) == [b"200"]
        connection.sendall(put_wire(door, "bad", b"body", f"Content-MD5: {'A' * 22}=="))
        received = b""
        while not received.endswith(b"</Error>"):
            received += connection.recv(65536)
        assert b"BadDigest" in received
        connection.sendall(put_wire(door, "close", b"body", "Connection: close"))
        assert statuses(connection, 1) == [b"200"]
        assert connection.recv(1) == b""
    with pytest.raises(NoSuchKey):
        door.volume.objects.get("bucket", b"bad")


def test_what_a_commit_refuses_is_answered(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*, wait: bool) -> IndexFull:
        return IndexFull("full")

    with connect(door) as connection:
        monkeypatch.setattr(door.volume.index, "_make_room", full)
        connection.sendall(put_wire(door, "full", b"body"))
        received = b""
        while not received.endswith(b"</Error>"):
            received += connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 50")
        monkeypatch.undo()
        connection.sendall(put_wire(door, "full", b"body"))
        assert statuses(connection, 1) == [b"200"]


def test_what_cannot_be_submitted_fails_alone(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = ObjectWriter.submit

    def sometimes(writer: ObjectWriter, *arguments: Any, **named: Any) -> Request[Any]:
        if writer._target.key == b"unlucky":
            raise RuntimeError("can't start new thread")
        return submit(writer, *arguments, **named)

    monkeypatch.setattr(ObjectWriter, "submit", sometimes)
    with connect(door) as unlucky, connect(door) as lucky:
        unlucky.sendall(put_wire(door, "unlucky", b"body"))
        lucky.sendall(put_wire(door, "lucky", b"body"))
        assert statuses(lucky, 1) == [b"200"]
        assert unlucky.recv(65536).startswith(b"HTTP/1.1 500")
