"""Full: more data than cache, no store until the dirty bound is reached, a full disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cache import extents
from cache.errors import OutOfSpace
from cache.index import Index, Table, Txn
from cache.records import Kind
from tests.support.doors import BUCKET, Doors
from tests.support.loop_disk import loop_disk, requires_loop
from tests.support.mount import requires_fuse
from tests.support.node import RunningNode, running_node
from tests.support.stores import (
    ACCESS_KEY,
    SECRET_KEY,
    free_port,
    program,
    running,
    wait_until_it_answers,
)
from tests.support.volume import TestVolume
from tests.support.waiting import wait_until

pytestmark = requires_fuse

MIB = 1 << 20
DEADLINE_S = 120.0


def content(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def is_refusal(error: Exception) -> bool:
    """503 SlowDown at the S3 door, ENOSPC at the mount: come back later."""
    if isinstance(error, ClientError):
        answer = error.response
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        return (status, answer["Error"]["Code"]) == (503, "SlowDown")
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def insist(act: Callable[[], None]) -> int:
    """Repeat what is refused until it is done; how often it was refused."""
    end, refusals = time.monotonic() + DEADLINE_S, 0
    while True:
        try:
            act()
        except (ClientError, OSError) as exc:
            if not is_refusal(exc) or time.monotonic() > end:
                raise
            refusals += 1
        else:
            return refusals


def fill_until_refused(door: str, write: Callable[[str, bytes], None], size: int) -> dict[str, int]:
    """Write names until one is refused; sizes of those that were acknowledged."""
    written: dict[str, int] = {}
    for number in range(1000):
        name = f"{door}-{number}"
        try:
            write(name, content(name, size))
        except (ClientError, OSError) as exc:
            if not is_refusal(exc):
                raise
            return written
        written[name] = size
    raise AssertionError(f"{door} was never refused")


def assert_readable(doors: Doors, names: dict[str, int]) -> None:
    for name, size in names.items():
        expected = content(name, size)
        assert doors.get(name) == expected, f"{name} over S3"
        assert doors.read(name) == expected, f"{name} through the mount"


def state_of(node: RunningNode) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.forebay("status", "--json").stdout)
    return found


def assert_nobody_died(node: RunningNode) -> None:
    assert {
        child["name"]: child["restarts"] for child in node.status()["processes"]
    } == dict.fromkeys((child["name"] for child in node.status()["processes"]), 0), node.log


# ------------------------------------------------------------------ more data than cache


@pytest.mark.timeout(600)
@pytest.mark.parametrize("write_mode", ["write_through", "write_back"])
def test_a_small_cache_serves_three_times_its_size_through_both_doors(
    tmp_path: Path, write_mode: str
) -> None:
    capacity = 256 * MIB
    with running_node(
        tmp_path,
        cache={"capacity_bytes": capacity, "segment_bytes": "8MiB"},
        stores={"main": {"type": "posix", "path": str(tmp_path / "store")}},
        buckets=[{"name": BUCKET, "store": "main", "write_mode": write_mode}],
        node={"gateways": 1},
    ) as node:
        doors = Doors(node)
        names = [f"object-{number}" for number in range(96)]
        refusals = 0
        for number, name in enumerate(names):
            data = content(name, 8 * MIB)
            write = (doors.put, doors.write)[number % 2]
            refusals += insist(lambda write=write, name=name, data=data: write(name, data))  # type: ignore[misc]
            assert used_bytes(node) <= capacity
        for number, name in enumerate(names):
            read = (doors.read, doors.get)[number % 2]
            assert read(name) == content(name, 8 * MIB), f"{name} by {read.__name__}"
            assert used_bytes(node) <= capacity
        sys.stdout.write(f"{write_mode}: {len(names)} objects, {refusals} refusals\n")
        if write_mode == "write_through":
            assert not refusals
        assert_nobody_died(node)


def used_bytes(node: RunningNode) -> int:
    total = 0
    for path in (node.state_dir / "segments").iterdir():
        with contextlib.suppress(FileNotFoundError):  # reclaimed since
            total += path.stat().st_size
    return total


@pytest.mark.long
def test_what_the_kernel_could_not_hand_over_is_not_shown_either(tmp_path: Path) -> None:
    """write(2) only fills the kernel's pages. Where there is no room for them here, close(2) says
    so, and the mount shows afterwards what S3 shows."""
    with running_node(
        tmp_path,
        cache={"capacity_bytes": "32MiB", "segment_bytes": "4MiB"},
        stores={"main": {"type": "posix", "path": str(tmp_path / "store")}},
        buckets=[{"name": BUCKET, "store": "main"}],
        node={"gateways": 1},
    ) as node:
        doors = Doors(node)
        doors.write("large", b"before")
        path = doors.directory / "large"
        descriptor = os.open(path, os.O_WRONLY)
        with pytest.raises(OSError, match="No space") as refused:  # noqa: PT012  by which of them
            try:
                for number in range(16):
                    os.write(descriptor, content(str(number), 4 * MIB))
            finally:
                os.close(descriptor)
        assert refused.value.errno == errno.ENOSPC
        wait_until(
            lambda: doors.read("large") == doors.get("large"), "both doors show the same", 10
        )
        assert_nobody_died(node)


def test_a_burst_makes_room_at_once(tmp_path: Path) -> None:
    """Segments that were filled a moment ago can be emptied: nobody has sealed them yet."""
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=32 * MIB)) as box:
        number = 0
        while box.volume.reclaimer.used_bytes() <= 27 * MIB:
            box.put(b"%d" % number, content(str(number), MIB))
            box.drain()
            number += 1
        assert box.volume.reclaimer.run_once() > 0


@pytest.mark.parametrize("policy", ["s3fifo", "lru", "fifo"])
def test_a_cache_in_which_everything_was_read_makes_room(tmp_path: Path, policy: str) -> None:
    with contextlib.closing(TestVolume(tmp_path, capacity_bytes=32 * MIB, policy=policy)) as box:
        for number in range(60):
            key, data = b"%d" % number, content(str(number), MIB)
            box.put(key, data)
            assert box.get(key) == data
            box.drain()
            box.volume.contents.fold_heat()
            box.volume.reclaimer.run_once()
        assert box.volume.reclaimer.used_bytes() < 32 * MIB
        box.check()


def test_persisting_makes_nothing_warm(tmp_path: Path) -> None:
    with contextlib.closing(TestVolume(tmp_path)) as box:
        box.put(b"key", content("key", MIB))
        box.drain()
        box.volume.contents.fold_heat()
        with box.volume.index.read() as txn:
            records = box.volume.segments.records(txn)
            found = [found.heat for r in records for found in extents.residents(txn, r.id)]
        assert found
        assert not any(heat.reads for heat in found)


# ------------------------------------------------------------------ the store is gone


class RcloneServer:
    """`rclone serve s3` over a directory, to be stopped and started again on its port."""

    def __init__(self, directory: Path) -> None:
        self.objects = directory / "remote" / "bucket"
        self.objects.mkdir(parents=True)
        self._log = directory / "rclone.log"
        self.port = free_port()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        command = [
            program("rclone"), "--config", "", "serve", "s3",
            "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}",
            "--vfs-cache-mode", "off", str(self.objects.parent),
        ]  # fmt: skip
        with running(command, self._log) as process:
            wait_until_it_answers(self.port, process)
            yield

    def as_table(self) -> dict[str, Any]:
        return {
            "type": "s3",
            "bucket": self.objects.name,
            "endpoint_url": f"http://127.0.0.1:{self.port}",
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            "listing": "unordered",
            "object_tagging": False,
            "directory_markers": "omit",
            "connect_timeout_s": 1.0,
            "deadline_s": 20.0,
        }


@pytest.mark.timeout(600)
def test_without_its_store_a_full_node_refuses_writers_and_serves_readers(tmp_path: Path) -> None:
    server = RcloneServer(tmp_path)
    size = 2 * MIB
    with running_node(
        tmp_path,
        cache={"capacity_bytes": 64 * MIB, "segment_bytes": "1MiB"},
        stores={"main": server.as_table()},
        buckets=[{"name": BUCKET, "store": "main", "write_mode": "write_back"}],
        node={"gateways": 1, "drain_timeout_s": 5},
    ) as node:
        doors = Doors(node)
        written = {f"before-{number}": size for number in range(3)}
        with server.serving():
            # The node started without its store, and does not open a bucket whose policy it could
            # not read.
            wait_until(doors.is_open, "the bucket is open", DEADLINE_S)
            for name in written:
                doors.put(name, content(name, size))
            node.forebay("flush", "--timeout", "60")
            # From now on the directory is known: whether an unknown name exists only a store can
            # say, and without one a program that looks a new name up gets EIO.
            assert doors.files() == set(written)
        # The store is gone.
        for name in ("early-0", "early-1"):
            doors.write(name, content(name, size))
            written[name] = size
        written |= fill_until_refused("s3", doors.put, size)
        written |= fill_until_refused("mount", doors.write, size)
        assert len(written) > 10, "the bound was reached too early"
        status = state_of(node)
        assert status["queue"]["bytes"] >= status["cache"]["dirty_hard_bytes"]
        assert_readable(doors, written)
        doors.delete("before-0")
        doors.unlink("before-1")
        del written["before-0"], written["before-1"]
        # And back.
        with server.serving():
            wait_until(
                lambda: not state_of(node)["queue"]["names"], "the queue is empty", DEADLINE_S
            )
            stored = {path.name for path in server.objects.iterdir()}
            refused = {name for name in stored if (server.objects / name).stat().st_size == 0}
            assert stored - refused == set(written)
            for name in written:
                assert (server.objects / name).read_bytes() == content(name, size)
            for write, name in ((doors.put, "after-s3"), (doors.write, "after-mount")):
                write(name, content(name, size))
                written[name] = size
            assert_readable(doors, written)
            node.forebay("flush", "--timeout", "60")
        assert_nobody_died(node)
        assert node.forebay("fsck", "--data").returncode == 0


# ------------------------------------------------------------------ the disk is full


@requires_loop
@pytest.mark.timeout(600)  # each removal waits for a busy machine's disk
def test_on_a_full_disk_everything_can_be_removed(tmp_path: Path) -> None:
    """In quick succession: what a removal replaces in the index is used again a moment later."""
    with loop_disk(tmp_path / "image", tmp_path / "disk", 96 * MIB) as disk:
        settings = {"capacity_bytes": 16 * MIB, "index_bytes": 64 * MIB, "sync": True}
        with contextlib.closing(TestVolume(disk.directory / "node", **settings)) as box:
            files = [box.create(b"%d" % number) for number in range(2000)]
            ballast = disk.fill()
            added = add_until_refused(box)
            for number in range(len(files)):
                box.unlink(b"%d" % number)
            ballast.unlink()
            box.create(b"again")
            assert set(box.names()) == {*added, b"again"}


@requires_loop
def test_what_was_removed_makes_room_on_a_disk_that_stays_full(tmp_path: Path) -> None:
    """The index's file has its size for good; what is free in it is not at its end."""

    def change(number: int, change_one: Callable[[Txn, bytes], object]) -> Callable[[Txn], None]:
        def change_some(txn: Txn) -> None:
            for part in range(16):
                change_one(txn, b"%d-%d" % (number, part))

        return change_some

    def add(number: int) -> Callable[[Txn], None]:
        return change(number, lambda txn, key: txn.put(Table.INLINE, key, bytes(60_000)))

    def remove(number: int) -> Callable[[Txn], None]:
        return change(number, lambda txn, key: txn.delete(Table.INLINE, key))

    with (
        loop_disk(tmp_path / "image", tmp_path / "disk", 48 * MIB) as disk,
        contextlib.closing(Index(disk.directory / "index", cap_bytes=256 * MIB)) as index,
    ):
        disk.fill()
        added = 0
        with contextlib.suppress(OutOfSpace):
            while added < 100:
                index.commit(add(added))
                added += 1
        assert 5 < added < 100
        for number in range(added):
            index.commit(remove(number), grows=False)
        for number in range(added // 2):
            index.commit(add(number))


def add_until_refused(box: TestVolume) -> list[bytes]:
    """Each takes pages of its own: on a slow machine, where what is replaced can be used again at
    once, nothing but what is added fills the index."""
    added: list[bytes] = []
    while len(added) < 20_000:
        name = b"more-%d" % len(added)
        try:
            box.create(name, Kind.SYMLINK, target=b"t" * 4000)
        except OutOfSpace:
            return added
        added.append(name)
    raise AssertionError("the disk is never full")


@requires_loop
def test_a_full_disk_refuses_writers_lets_others_go_on_and_recovers(tmp_path: Path) -> None:
    size = MIB
    with (
        loop_disk(tmp_path / "image", tmp_path / "state", 64 * MIB) as disk,
        running_node(
            tmp_path,
            cache={"capacity_bytes": None, "segment_bytes": "4MiB", "index_bytes": "32MiB"},
            stores={"main": {"type": "posix", "path": str(tmp_path / "store")}},
            buckets=[{"name": BUCKET, "store": "main", "write_mode": "write_back"}],
            node={"gateways": 1},
        ) as node,
    ):
        doors = Doors(node)
        written = {f"before-{number}": size for number in range(8)}
        for name in written:
            doors.put(name, content(name, size))
        node.forebay("flush", "--timeout", "60")
        (node.store_dir / "uncached").write_bytes(content("uncached", size))

        ballast = disk.fill()
        written |= fill_until_refused("s3", doors.put, size)
        written |= fill_until_refused("mount", doors.write, size)
        assert_readable(doors, written)
        assert doors.get("uncached") == content("uncached", size), "not past the cache"
        doors.delete("before-0")
        doors.unlink("before-1")
        assert doors.get("before-0") is None
        assert doors.read("before-1") is None
        del written["before-0"], written["before-1"]

        ballast.unlink()
        for write, name in ((doors.put, "after-s3"), (doors.write, "after-mount")):
            insist(lambda write=write, name=name: write(name, content(name, size)))  # type: ignore[misc]
            written[name] = size
        assert_readable(doors, written)
        node.forebay("flush", "--timeout", "60")
        assert_nobody_died(node)
        assert node.forebay("fsck", "--data").returncode == 0
