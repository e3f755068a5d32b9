"""Mount marks: the same file work on Forebay's mount, its peers', and the native file system.

`bare` is a file system on pyfuse3 that keeps all in memory (bench/bare.py): the limit of the way.

Two kinds of cold: the kernel's names and attributes dropped (`drop_caches`, for all contenders), or
the mount's pages of one file dropped (`fadvise`), while the daemon behind it, or the native file
system, still has the bytes.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from bench import servers
from bench.rounds import Row, measure
from tests.support.node import running_node

KIB = 1 << 10
MIB = 1 << 20
_SMALL = 300
_READERS = 16
_READS_EACH = 100
_fresh = count()


class Contender(NamedTuple):
    place: Path
    rest: Callable[[], object] = lambda: None
    """Have it do what it put off, outside the time that is measured, and not in another's turn."""

    def turn(self, work: Callable[[Path], float]) -> float:
        figure = work(self.place)
        self.rest()
        os.sync()
        return figure


@contextmanager
def contenders(work: Path) -> Iterator[dict[str, Contender]]:
    with ExitStack() as stack:
        node = stack.enter_context(
            running_node(work / "forebay", **servers.node_settings(work / "forebay"))
        )
        assert node.mount is not None
        (node.mount / "bucket").mkdir()
        native = work / "native"
        native.mkdir()
        rclone = stack.enter_context(servers.rclone_mount(work / "under", work / "rclone"))
        s3fs = stack.enter_context(servers.s3fs_mount(work / "s3", work / "s3fs"))
        bare = stack.enter_context(servers.bare_mount(work / "bare"))
        yield {
            "forebay": Contender(node.mount / "bucket", lambda: node.forebay("flush")),
            "bare": Contender(bare),
            "rclone": Contender(rclone, partial(servers.wait_for_rclone, work)),
            "s3fs": Contender(s3fs),
            "native": Contender(native),
        }


def run(
    work: Path, rounds: int, megabytes: int, entries: int, without: Collection[str]
) -> list[Row]:
    """megabytes: size of the large file. entries: names in the large directory. without: contenders
    that are left out: s3fs takes minutes for a round."""
    works: list[tuple[str, str, Callable[[Path], float]]] = [
        ("sequential write + fsync", "MB/s", partial(_write, megabytes=megabytes)),
        ("sequential read, the mount's pages dropped", "MB/s", partial(_read, drop=True)),
        ("sequential read again", "MB/s", partial(_read, drop=False)),
        ("16 readers, 128 KiB at random", "MB/s", _read_at_random),
        ("create + write 4 KiB + close", "/s", _create),
        ("open + read 4 KiB, hot", "/s", _open_read),
        ("unlink", "/s", _unlink),
        ("stat, hot", "/s", partial(_stat, drop=False)),
        ("stat, cold", "/s", partial(_stat, drop=True)),
        (f"ls -l of {entries}, hot", "/s", partial(_list, entries=entries, drop=False)),
        (f"ls -l of {entries}, cold", "/s", partial(_list, entries=entries, drop=True)),
        (f"rename of a directory of {entries}", "/s", partial(_rename, entries=entries)),
    ]
    with contenders(work) as all_found:
        found = {name: one for name, one in all_found.items() if name not in without}
        return [
            measure(name, unit, "native", {k: partial(c.turn, f) for k, c in found.items()}, rounds)
            for name, unit, f in works
        ]


def _drop_names() -> None:
    """Have the kernel forget names and attributes of all file systems."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")


def _write(directory: Path, megabytes: int) -> float:
    block = os.urandom(MIB)
    start = time.perf_counter()
    fd = os.open(directory / "large", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for _ in range(megabytes):
        os.write(fd, block)
    os.fsync(fd)
    os.close(fd)
    return megabytes / (time.perf_counter() - start)


def _read(directory: Path, drop: bool) -> float:
    megabytes = (directory / "large").stat().st_size / MIB
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


def _read_at_random(directory: Path) -> float:
    """Each reader takes 128 KiB from 100 places, the pages that the mount had being dropped."""
    fd = os.open(directory / "large", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    size = os.fstat(fd).st_size

    def read(seed: int) -> None:
        places = random.Random(seed)
        for _ in range(_READS_EACH):
            os.pread(fd, 128 * KIB, places.randrange(size // (128 * KIB)) * 128 * KIB)

    with ThreadPoolExecutor(_READERS) as readers:
        start = time.perf_counter()
        for _ in readers.map(read, range(_READERS)):
            pass
        took = time.perf_counter() - start
    os.close(fd)
    return _READERS * _READS_EACH * 128 * KIB / MIB / took


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


def _stat(directory: Path, drop: bool) -> float:
    place = _latest(directory)
    if drop:
        _drop_names()
    times = 1 if drop else 10
    start = time.perf_counter()
    for _ in range(times):
        for number in range(_SMALL):
            os.stat(place / f"f{number}")
    return times * _SMALL / (time.perf_counter() - start)


def _large_directory(directory: Path, entries: int) -> Path:
    """Made at the first call."""
    for found in directory.glob("many*"):
        return found
    place = directory / "many"
    place.mkdir()
    for number in range(entries):
        os.close(os.open(place / f"f{number}", os.O_WRONLY | os.O_CREAT, 0o644))
    return place


def _list(directory: Path, entries: int, drop: bool) -> float:
    """Listings per second, each with a stat of every entry."""
    place = _large_directory(directory, entries)
    if drop:
        _drop_names()
    else:
        _look_at_all(place)
    start = time.perf_counter()
    assert _look_at_all(place) == entries
    return 1 / (time.perf_counter() - start)


def _look_at_all(place: Path) -> int:
    seen = 0
    with os.scandir(place) as found:
        for entry in found:
            entry.stat(follow_symlinks=False)
            seen += 1
    return seen


def _rename(directory: Path, entries: int) -> float:
    place = _large_directory(directory, entries)
    start = time.perf_counter()
    for turn in range(10):
        new = directory / f"many-{turn % 2}"
        os.rename(place, new)
        place = new
    return 10 / (time.perf_counter() - start)


def _unlink(directory: Path) -> float:
    place = directory / f"doomed-{next(_fresh)}"
    place.mkdir()
    for number in range(_SMALL):
        (place / f"f{number}").touch()
    start = time.perf_counter()
    for number in range(_SMALL):
        os.unlink(place / f"f{number}")
    return _SMALL / (time.perf_counter() - start)
