"""Mount marks: the same file work on Forebay's mount, rclone's, and the native file system."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from bench import servers
from bench.rounds import Row, measure
from tests.support.node import running_node

MIB = 1 << 20
_SMALL = 300
_fresh = count()


@contextmanager
def contenders(work: Path) -> Iterator[dict[str, Path]]:
    with ExitStack() as stack:
        node = stack.enter_context(
            running_node(work / "forebay", **servers.node_settings(work / "forebay"))
        )
        assert node.mount is not None
        (node.mount / "bucket").mkdir()
        native = work / "native"
        native.mkdir()
        rclone = stack.enter_context(servers.rclone_mount(work / "under", work / "rclone"))
        yield {"forebay": node.mount / "bucket", "rclone": rclone, "native": native}


def run(work: Path, rounds: int, megabytes: int) -> list[Row]:
    works: list[tuple[str, str, Callable[[Path], float]]] = [
        ("sequential write + fsync", "MB/s", partial(_write, megabytes=megabytes)),
        ("sequential read, pages dropped", "MB/s", partial(_read, megabytes=megabytes, drop=True)),
        ("sequential read again", "MB/s", partial(_read, megabytes=megabytes, drop=False)),
        ("create + write 4 KiB + close", "/s", _create),
        ("open + read 4 KiB, hot", "/s", _open_read),
        ("stat, hot", "/s", _stat),
        ("ls -l, hot", "entries/s", _list),
        ("unlink", "/s", _unlink),
    ]
    with contenders(work) as found:
        return [
            measure(name, unit, "native", {k: partial(f, p) for k, p in found.items()}, rounds)
            for name, unit, f in works
        ]


def _write(directory: Path, megabytes: int) -> float:
    block = os.urandom(MIB)
    start = time.perf_counter()
    fd = os.open(directory / "large", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for _ in range(megabytes):
        os.write(fd, block)
    os.fsync(fd)
    os.close(fd)
    return megabytes / (time.perf_counter() - start)


def _read(directory: Path, megabytes: int, drop: bool) -> float:
    fd = os.open(directory / "large", os.O_RDONLY)
    if drop:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    buffer = bytearray(MIB)
    start = time.perf_counter()
    while os.readv(fd, [buffer]):
        pass
    took = time.perf_counter() - start
    os.close(fd)
    return megabytes / took


def _create(directory: Path) -> float:
    place = directory / f"small-{next(_fresh)}"
    place.mkdir()
    (directory / "latest").write_text(place.name)
    body = os.urandom(4096)
    start = time.perf_counter()
    for number in range(_SMALL):
        fd = os.open(place / f"f{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, body)
        os.close(fd)
    return _SMALL / (time.perf_counter() - start)


def _latest(directory: Path) -> Path:
    return directory / (directory / "latest").read_text()


def _open_read(directory: Path) -> float:
    place = _latest(directory)
    for warm in (True, False):
        start = time.perf_counter()
        for number in range(_SMALL):
            fd = os.open(place / f"f{number}", os.O_RDONLY)
            os.read(fd, 4096)
            os.close(fd)
        if not warm:
            return _SMALL / (time.perf_counter() - start)
    raise AssertionError("unreachable")


def _stat(directory: Path) -> float:
    place = _latest(directory)
    start = time.perf_counter()
    for _ in range(10):
        for number in range(_SMALL):
            os.stat(place / f"f{number}")
    return 10 * _SMALL / (time.perf_counter() - start)


def _list(directory: Path) -> float:
    place = _latest(directory)
    start = time.perf_counter()
    for _ in range(10):
        with os.scandir(place) as entries:
            for entry in entries:
                entry.stat(follow_symlinks=False)
    return 10 * _SMALL / (time.perf_counter() - start)


def _unlink(directory: Path) -> float:
    place = directory / f"doomed-{next(_fresh)}"
    place.mkdir()
    for number in range(_SMALL):
        (place / f"f{number}").touch()
    start = time.perf_counter()
    for number in range(_SMALL):
        os.unlink(place / f"f{number}")
    return _SMALL / (time.perf_counter() - start)
