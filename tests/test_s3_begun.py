"""Work that starts at once, and requests that are handled where they are read."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator

import pytest

from s3api.begun import Begun, own_task
from tests.support.s3 import Door, serving


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
    return socket.create_connection(("127.0.0.1", door.port), timeout=20)


def test_answers_with_and_without_a_wait_follow_on_one_connection(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a request meets, the connection serves the next."""
    door.client().put_object(Bucket="bucket", Key="small", Body=b"small")
    door.client().put_object(Bucket="bucket", Key="large", Body=bytes(3 << 20))
    objects = door.volume.objects
    open_now = objects.open_now
    waits = iter([False, True, False, True] * 4)

    def sometimes(bucket: str, key: bytes) -> object:
        return None if next(waits) else open_now(bucket, key)

    monkeypatch.setattr(objects, "open_now", sometimes)
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=20)
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
