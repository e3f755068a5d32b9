"""Bodies out of the cache: what a large object is made of, or has on the disk and not in memory,
keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from cache import disk, extents
from cache.records import Extent
from cache.snapshot import FileRange
from s3api import sending
from tests.support.s3 import Door, door, serving
from tests.support.volume import some_bytes
from tests.support.waiting import wait_until

__all__ = ["door"]

MIB = 1 << 20
WAIT_S = 60.0


def drop(fd: int, place: int = 0) -> None:
    """Have nothing of a file in memory, by a look at one place; a page that somebody has in hand
    just now stays for a moment."""
    try:
        os.preadv(fd, [bytearray(1)], place, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
    except OSError as exc:
        pytest.skip(f"the file system does not tell what is in memory: {exc}")

    def dropped() -> bool:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return disk.waits_for_disk(fd, place, 1)

    wait_until(dropped, "the pages leave memory", WAIT_S)


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body"
    path.write_bytes(some_bytes(3 * MIB + 5))
    return path


def test_what_is_in_memory_is_not_waited_for(body: Path) -> None:
    with body.open("rb") as file:
        file.read()
        assert not disk.waits_for_disk(file.fileno(), 0, 3 * MIB + 5)


@pytest.mark.parametrize("start", [0, MIB, 2 * MIB])
def test_what_was_loaded_is_in_memory_and_nothing_else(body: Path, start: int) -> None:
    with body.open("r+b") as file:
        fd = file.fileno()
        drop(fd)
        disk.load(fd, start, MIB, 0)
        assert not disk.waits_for_disk(fd, start, MIB)
        assert disk.waits_for_disk(fd, 0, 3 * MIB)


def test_the_disk_keeps_nobody_else_waiting(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = door.new_bucket()
    content = some_bytes(6 * MIB + 7)
    client = door.client()
    client.put_object(Bucket=bucket, Key="large", Body=content)
    client.put_object(Bucket=bucket, Key="small", Body=b"small")
    client.get_object(Bucket=bucket, Key="large")["Body"].read()  # verified from now on
    _, snapshot = door.volume.objects.open(bucket, b"large")
    with snapshot:
        for piece in snapshot.cached(0, len(content)) or ():
            assert isinstance(piece, FileRange)
            drop(piece.file.fileno(), piece.offset)
    load, loads, goes_on = disk.load, [], threading.Event()

    def slow(*place: int) -> None:
        loads.append(place)
        assert goes_on.wait(WAIT_S)
        load(*place)

    monkeypatch.setattr(disk, "load", slow)
    with ThreadPoolExecutor(1) as reader:
        large = reader.submit(lambda: door.request("GET", f"/{bucket}/large"))
        try:
            wait_until(lambda: bool(loads), "the disk is asked", WAIT_S)
            assert door.request("GET", f"/{bucket}/small").body == b"small"
            assert not large.done()
        finally:
            goes_on.set()
        assert large.result(WAIT_S).body == content
    assert len(loads) < 6  # a part of what lies behind was loaded with what was waited for


def test_a_client_that_takes_all_at_once_keeps_nobody_waiting(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, content = door.new_bucket(), some_bytes(24 * MIB)
    client = door.client()
    client.put_object(Bucket=bucket, Key="large", Body=content)
    client.get_object(Bucket=bucket, Key="large")["Body"].read()  # verified from now on
    sent_in_turns = [0]  # of the loop, in which anybody else could have theirs

    def next_turn() -> None:
        sent_in_turns.append(0)
        if sum(sent_in_turns) < len(content):
            asyncio.get_running_loop().call_soon(next_turn)

    def all_at_once(transport: asyncio.Transport, piece: FileRange) -> int:
        if not any(sent_in_turns):
            asyncio.get_running_loop().call_soon(next_turn)
        sent_in_turns[-1] += piece.length  # before the client can have it
        socket_fd, sent = transport.get_extra_info("socket").fileno(), 0
        while sent < piece.length:
            assert select.select([], [socket_fd], [], WAIT_S)[1]
            sent += os.sendfile(
                socket_fd, piece.file.fileno(), piece.offset + sent, piece.length - sent
            )
        return sent

    monkeypatch.setattr(sending, "_send_now", all_at_once)
    assert door.request("GET", f"/{bucket}/large").body == content
    assert sum(sent_in_turns) == len(content)
    assert max(sent_in_turns) <= 5 * MIB


def test_a_client_that_takes_no_more_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # So that the timeout comes to the sendfile that has sent something.
    monkeypatch.setattr(sending, "_send_now", lambda *_: 0)
    content = some_bytes(16 * MIB)
    with serving(tmp_path, body_timeout_s=1.0, access_log="all") as door:
        bucket = door.new_bucket()
        door.client().put_object(Bucket=bucket, Key="large", Body=content)
        with (
            socket.create_connection(("127.0.0.1", door.port)) as client,
            caplog.at_level(logging.INFO, "s3api"),
        ):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            target = door.presign("GET", f"/{bucket}/large")
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode())
            wait_until(lambda: "GetObject" in caplog.text, "the request ends")
    (line,) = [json.loads(record.getMessage()) for record in caplog.records]
    assert (line["operation"], line["code"]) == ("GetObject", "ClientGone")


# ------------------------------------------------------------------ opening what is read


@pytest.fixture
def looked_at(door: Door, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many extents each of the following GETs looks at."""
    overlapping, counts = extents.overlapping, list[int]()

    def counted(*asked: Any) -> list[Extent]:
        found = overlapping(*asked)
        counts.append(len(found))
        return found

    monkeypatch.setattr(extents, "overlapping", counted)
    return counts


PARTS = 3
LARGE = PARTS * 8 * MIB  # of nine extents


@pytest.fixture(scope="module")
def large(door: Door) -> tuple[str, bytes]:
    """A bucket with an object `large` of several parts, and its bytes."""
    bucket, content = door.new_bucket(), some_bytes(LARGE)
    config = TransferConfig(multipart_chunksize=LARGE // PARTS, max_concurrency=1)
    door.client().upload_fileobj(io.BytesIO(content), bucket, "large", Config=config)
    return bucket, content


@pytest.mark.parametrize(
    ("asked", "start", "stop", "extents_max"),
    [
        ({"Range": "bytes=5000000-5000009"}, 5_000_000, 5_000_010, 1),
        ({"Range": "bytes=20000000-"}, 20_000_000, LARGE, 3),
        ({"Range": "bytes=-10"}, LARGE - 10, LARGE, 1),
        ({"Range": "bytes=20000000-999999999", "IfNoneMatch": '"x"'}, 20_000_000, LARGE, 3),
        ({"PartNumber": 2}, LARGE // PARTS, LARGE * 2 // PARTS, 4),
        ({}, 0, LARGE, 9),
    ],
)
def test_a_get_looks_at_what_it_reads(
    door: Door,
    large: tuple[str, bytes],
    looked_at: list[int],
    asked: dict[str, Any],
    start: int,
    stop: int,
    extents_max: int,
) -> None:
    bucket, content = large
    answer = door.client().get_object(Bucket=bucket, Key="large", **asked)
    assert answer["Body"].read() == content[start:stop]
    assert max(looked_at) <= extents_max


@pytest.mark.parametrize("asked", [{"Range": f"bytes={LARGE}-"}, {"PartNumber": PARTS + 1}])
def test_what_is_refused_looks_at_nothing(
    door: Door, large: tuple[str, bytes], looked_at: list[int], asked: dict[str, Any]
) -> None:
    with pytest.raises(ClientError):
        door.client().get_object(Bucket=large[0], Key="large", **asked)
    assert max(looked_at, default=0) == 0


def test_a_great_part_is_opened_in_a_thread(
    door: Door, large: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, content = large
    monkeypatch.setattr("cache.objects._OPENED_AT_ONCE_MAX", MIB)
    open_now = door.volume.objects.open_now
    assert open_now(bucket, b"large") is None
    assert open_now(bucket, b"large", lambda _: (LARGE - MIB, LARGE)) is not None
    assert door.client().get_object(Bucket=bucket, Key="large")["Body"].read() == content


def test_a_snapshot_of_a_part_has_no_other_bytes(door: Door, large: tuple[str, bytes]) -> None:
    bucket, content = large
    found = door.volume.objects.open_now(bucket, b"large", lambda _: (10, 20))
    assert found is not None
    with found[1] as snapshot:
        assert snapshot.read(10, 20) == content[10:20]
        for start, stop in ((9, 20), (10, 21)):
            with pytest.raises(AssertionError):
                snapshot.read(start, stop)


def test_an_endless_hole_keeps_nobody_waiting(door: Door) -> None:
    """As truncate(2) makes one; of its pieces alone a list would be gigabytes."""
    bucket = door.new_bucket()
    client = door.client()
    client.put_object(Bucket=bucket, Key="sparse", Body=b"")
    inode = door.volume.objects.get(bucket, b"sparse").inode
    door.volume.open_files.truncate(inode.id, 1 << 60)
    with contextlib.closing(client.get_object(Bucket=bucket, Key="sparse")["Body"]) as body:
        assert body.read(3 * MIB) == bytes(3 * MIB)
        assert client.head_object(Bucket=bucket, Key="sparse")["ContentLength"] == 1 << 60
