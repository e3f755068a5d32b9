"""What becomes of operations that outlast their deadline, seen at the handlers: no handle is left
open, and the kernel forgets what it was told about a name that changed after all."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pyfuse3
import pytest
import trio
import trio.testing

from cache.changes import Change
from cache.errors import CacheFull, DeadlineExceeded, NameExists, WouldWait
from cache.records import ROOT, Inode, Kind
from fuse.handles import FileHandle
from fuse.interrupts import Interrupts
from fuse.operations import Operations
from fuse.threads import Lane

WAIT_S = 60.0
USER: Any = SimpleNamespace(uid=1000, gid=1000, pid=1, umask=0)


def _inode(number: int) -> Inode:
    return Inode(number, Kind.FILE, 0o644, 0, 0, 0, 1, 0, 0, 0)


class SlowCache:
    """Files, OpenFiles and OpenFile of which every call waits for `go`."""

    inode_id = 7

    def __init__(self, links: int = 1) -> None:
        self.links = links
        self.begun = threading.Event()
        self.go = threading.Event()
        self.released = threading.Event()
        self.writes: list[bytes] = []

    def _wait(self, *_: object, wait: bool = True, **__: object) -> Inode:
        if not wait:
            raise WouldWait
        self.begun.set()
        assert self.go.wait(WAIT_S)
        return _inode(7)

    create = link = rename = unlink = set_attributes = _wait

    def get(self, inode: int) -> Inode:
        return _inode(inode)

    def lookup_now(self, parent: int, name: bytes) -> Inode:
        return msgspec.structs.replace(_inode(7), nlink=self.links)

    def open(self, inode: int, *, write: bool) -> SlowCache:
        return self

    def write_now(self, start: int, data: bytes) -> bool:
        return False

    def write(self, start: int, data: bytes) -> int:
        self._wait()
        self.writes.append(data)
        return len(data)

    def release_now(self) -> bool:
        return False

    def release(self) -> None:
        self.released.set()

    def is_open(self, inode: int) -> bool:
        return False

    def names_of(self, inode: int) -> list[tuple[int, bytes]]:
        return [(5, b"name")]

    def size_of(self, inode: Inode) -> Inode:
        return inode


class RecordingKernel:
    def __init__(self) -> None:
        self.forgotten: list[Change] = []
        self.told = threading.Event()

    def forget_soon(self, changes: list[Change], then: Callable[[], None] | None = None) -> None:
        self.forgotten += changes
        if then is None:
            self.told.set()


def _operations(cache: SlowCache, kernel: RecordingKernel, deadline_s: float) -> Operations:
    return Operations(
        cache,  # type: ignore[arg-type]
        cache,  # type: ignore[arg-type]
        cache,  # type: ignore[arg-type]
        kernel,  # type: ignore[arg-type]
        metadata=Lane("metadata", threads=2, deadline_s=deadline_s, interrupts=Interrupts()),
        data=Lane("data", threads=2, deadline_s=deadline_s, interrupts=Interrupts()),
        access_times=None,
        xattrs=None,
    )


async def _refused(code: int, call: Awaitable[object]) -> None:
    with pytest.raises(pyfuse3.FUSEError) as refused:
        await call
    assert refused.value.errno == code


def _give_up_on(cache: SlowCache, call: Awaitable[object]) -> None:
    """Run a call whose deadline passes when a thread is at work on it: one that none has begun is
    over at once."""
    clock = trio.testing.MockClock()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refused, errno.ETIMEDOUT, call)
            assert await trio.to_thread.run_sync(cache.begun.wait, WAIT_S)
            clock.jump(1)

    trio.run(main, clock=clock)


@pytest.mark.parametrize(
    ("call", "forgotten"),
    [
        (lambda o: o.mkdir(5, b"name", 0o755, USER), [Change(5, b"name", 0)]),
        (lambda o: o.unlink(5, b"name", USER), [Change(5, b"name", 0)]),
        (lambda o: o.link(9, 5, b"name", USER), [Change(5, b"name", 0)]),
        (
            lambda o: o.rename(5, b"a", 6, b"b", 0, USER),
            [Change(5, b"a", 0), Change(6, b"b", 0)],
        ),
        (lambda o: o.create(5, b"name", 0o644, os.O_RDWR, USER), [Change(5, b"name", 0)]),
    ],
    ids=["mkdir", "unlink", "link", "rename", "create"],
)
def test_the_kernel_forgets_names_that_change_too_late(
    call: Callable[[Operations], Awaitable[object]], forgotten: list[Change]
) -> None:
    cache, kernel = SlowCache(), RecordingKernel()
    _give_up_on(cache, call(_operations(cache, kernel, 0.05)))
    assert kernel.forgotten == []  # not before it is so
    cache.go.set()
    assert kernel.told.wait(WAIT_S)
    assert kernel.forgotten == forgotten


def test_the_kernel_forgets_a_link_count_that_changes_too_late() -> None:
    cache, kernel = SlowCache(links=2), RecordingKernel()
    _give_up_on(cache, _operations(cache, kernel, 0.05).unlink(5, b"name", USER))
    kernel.forgotten.clear()  # what it heard when the operation was given up on
    cache.go.set()
    assert kernel.told.wait(WAIT_S)
    assert kernel.forgotten == [Change(5, b"name", 0), Change(0, b"", 7)]


def test_a_file_created_too_late_is_closed_again() -> None:
    cache, kernel = SlowCache(), RecordingKernel()
    create = _operations(cache, kernel, 0.05).create(ROOT, b"name", 0o644, os.O_RDWR, USER)
    _give_up_on(cache, create)
    cache.go.set()
    assert cache.released.wait(WAIT_S)


def test_no_write_overtakes_one_that_is_late() -> None:
    cache, kernel = SlowCache(), RecordingKernel()
    clock = trio.testing.MockClock()

    async def main() -> None:
        operations = _operations(cache, kernel, 1)
        fh = operations._open.add(FileHandle(cache, writable=True, asker=0))  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_refused, errno.ETIMEDOUT, operations.write(fh, 0, b"old"))
            assert await trio.to_thread.run_sync(cache.begun.wait, WAIT_S)
            clock.jump(1)
        await _refused(errno.EIO, operations.write(fh, 0, b"new"))
        cache.go.set()
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                await operations.write(fh, 0, b"new")
                break
            except pyfuse3.FUSEError:
                await trio.lowlevel.checkpoint()
        assert cache.writes == [b"old", b"new"]

    trio.run(main, clock=clock)


def test_a_write_that_waited_too_long_by_itself_is_over() -> None:
    cache, kernel = SlowCache(), RecordingKernel()
    cache.go.set()
    write = cache.write

    def waits_too_long(start: int, data: bytes) -> int:
        raise DeadlineExceeded("a lock was held too long")

    async def main() -> None:
        operations = _operations(cache, kernel, 10)
        fh = operations._open.add(FileHandle(cache, writable=True, asker=0))  # type: ignore[arg-type]
        cache.write = waits_too_long  # type: ignore[method-assign]
        await _refused(errno.ETIMEDOUT, operations.write(fh, 0, b"old"))
        cache.write = write  # type: ignore[method-assign]
        assert await operations.write(fh, 0, b"new") == 3

    trio.run(main)


def test_a_file_whose_bytes_were_refused_is_forgotten_with_its_last_close() -> None:
    """The kernel has them in its pages, and their size. Through the kernel: test_full."""
    cache, kernel = SlowCache(), RecordingKernel()

    def refuses(start: int, data: bytes) -> int:
        raise CacheFull("no room")

    async def main() -> None:
        operations = _operations(cache, kernel, 10)
        for refused in (False, True):
            fh = operations._open.add(FileHandle(cache, writable=True, asker=0))  # type: ignore[arg-type]
            if refused:
                cache.write = refuses  # type: ignore[method-assign]
                await _refused(errno.ENOSPC, operations.write(fh, 0, b"lost"))
            await operations.release(fh)
            assert kernel.forgotten == ([Change(5, b"name", 0)] if refused else [])

    trio.run(main)


def test_a_file_made_over_s3_just_before_create_is_looked_up_again() -> None:
    cache, kernel = SlowCache(), RecordingKernel()
    cache.go.set()

    def taken(*_: object, **__: object) -> Inode:
        raise NameExists("name")

    cache.create = taken  # type: ignore[method-assign]
    operations = _operations(cache, kernel, 10)
    flags = os.O_CREAT | os.O_RDWR
    trio.run(_refused, errno.ESTALE, operations.create(5, b"name", 0o644, flags, USER))
    flags |= os.O_EXCL
    trio.run(_refused, errno.EEXIST, operations.create(5, b"name", 0o644, flags, USER))


def test_forget_raises_nothing() -> None:
    async def main() -> None:
        operations = _operations(SlowCache(), RecordingKernel(), 10)  # which has no drop()
        await operations.forget([(5, 1), (6, 100)])

    trio.run(main)
