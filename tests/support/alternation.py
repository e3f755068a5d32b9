"""One client that changes names through one door and looks at once through the other.

An Alternator owns a directory of a bucket: nobody else changes names there, so it knows what each
look must find. What it finds otherwise is noted as stale, and it goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.s3_raw import RawS3

NAMES = [f"name-{number}" for number in range(12)]
_SIZES = (0, 100, 100, 1500, 5000, 70_000)
_PART_BYTES = 5 << 20


def body(mark: str, size: int) -> bytes:
    """At least `size` bytes, of whole marks; nothing for 0."""
    line = f"<{mark}>\n".encode()
    return line * -(-size // len(line))


class Alternator:
    """See the module docstring. Run by one thread."""

    def __init__(self, s3: RawS3, mount: Path, bucket: str, directory: str, seed: int) -> None:
        self.alternations = 0
        self.stale: list[str] = []
        self.counts: dict[str, int] = {}
        self._s3 = s3
        self._bucket = bucket
        self.directory = directory
        self._prefix = directory + "/"
        self._directory = mount / bucket / directory
        self._random = random.Random(seed)
        self.expected: dict[str, bytes] = {}
        """What is in the directory: bytes by name."""
        self._directory.mkdir()

    def run(self, alternations: int) -> None:
        doors = [
            ([self._put, self._put, self._delete, self._copy, self._upload], self._look_at_mount),
            ([self._write, self._append, self._rename, self._unlink, self._link], self._look_at_s3),
        ]
        while self.alternations < alternations:
            changes, look = self._random.choice(doors)
            change = self._random.choice(changes)
            touched = change()
            if not touched:
                continue  # nothing to delete, copy or rename just now
            what = f"{self._prefix}: {change.__name__[1:]} {touched}"
            for name in touched:
                look(what, name)
            self.alternations += 1
            self.counts[change.__name__[1:]] = self.counts.get(change.__name__[1:], 0) + 1

    # ------------------------------------------------------------------ changes over S3

    def _put(self) -> list[str]:
        name = self._random.choice(NAMES)
        self.expected[name] = self._body(name)
        self._s3.put(self._bucket, self._prefix + name, self.expected[name])
        return [name]

    def _delete(self) -> list[str]:
        name = self._any_present()
        if name is None:
            return []
        del self.expected[name]
        self._s3.delete(self._bucket, self._prefix + name)
        return [name]

    def _copy(self) -> list[str]:
        source, name = self._any_present(), self._random.choice(NAMES)
        if source is None or source == name:
            return []
        self.expected[name] = self.expected[source]
        self._s3.copy(self._bucket, self._prefix + source, self._prefix + name)
        return [name]

    def _upload(self) -> list[str]:
        name = self._random.choice(NAMES)
        parts = [self._body(name)]
        if self._random.random() < 0.02:
            parts = [body(name, _PART_BYTES), *parts]
        self.expected[name] = b"".join(parts)
        self._s3.upload(self._bucket, self._prefix + name, parts)
        return [name]

    # ------------------------------------------------------------------ changes through the mount

    def _write(self) -> list[str]:
        name = self._random.choice(NAMES)
        self.expected[name] = self._body(name)
        (self._directory / name).write_bytes(self.expected[name])
        return [name]

    def _append(self) -> list[str]:
        name = self._any_present()
        if name is None or len(self.expected[name]) > 2 * _SIZES[-1]:
            return []
        more = self._body(name)
        self.expected[name] += more
        with (self._directory / name).open("ab") as file:
            file.write(more)
        return [name]

    def _rename(self) -> list[str]:
        old, new = self._any_present(), self._random.choice(NAMES)
        if old is None or old == new:
            return []
        self.expected[new] = self.expected.pop(old)
        (self._directory / old).rename(self._directory / new)
        return [new, old]

    def _unlink(self) -> list[str]:
        name = self._any_present()
        if name is None:
            return []
        del self.expected[name]
        (self._directory / name).unlink()
        return [name]

    def _link(self) -> list[str]:
        """A copy with link(2), so that a name appears that was never looked up: the linked name is
        then replaced, or appending would change both."""
        old, new = self._any_present(), self._random.choice(NAMES)
        if old is None or new in self.expected:
            return []
        self.expected[new] = self.expected[old]
        os.link(self._directory / old, self._directory / new)
        copy = self._directory / ".copy"
        copy.write_bytes(self.expected[old])
        copy.rename(self._directory / old)
        return [new, old]

    # ------------------------------------------------------------------ looks

    def _look_at_mount(self, what: str, name: str) -> None:
        path = self._directory / name
        expected = self.expected.get(name)
        looks: list[tuple[str, Callable[[], object], object]] = [
            ("stat", lambda: _size(path), None if expected is None else len(expected)),
            ("read", lambda: _read(path), expected),
            ("readdir", lambda: sorted(os.listdir(path.parent)), sorted(self.expected)),
        ]
        self._random.shuffle(looks)
        for look, see, wanted in looks:
            self._compare(what, look, see(), wanted)

    def _look_at_s3(self, what: str, name: str) -> None:
        key = self._prefix + name
        expected = self.expected.get(name)
        sizes = {self._prefix: 0} | {self._prefix + n: len(b) for n, b in self.expected.items()}
        looks: list[tuple[str, Callable[[], object], object]] = [
            ("GET", lambda: self._s3.get(self._bucket, key), expected),
            (
                "HEAD",
                lambda: self._s3.size(self._bucket, key),
                None if expected is None else len(expected),
            ),
            ("LIST", lambda: self._s3.sizes(self._bucket, self._prefix), sizes),
        ]
        look, see, wanted = self._random.choice(looks)
        self._compare(what, look, see(), wanted)

    def _compare(self, what: str, look: str, seen: object, wanted: object) -> None:
        if seen != wanted:
            self.stale.append(f"{what}: {look} saw {_short(seen)} instead of {_short(wanted)}")

    def _any_present(self) -> str | None:
        return self._random.choice(sorted(self.expected)) if self.expected else None

    def _body(self, name: str) -> bytes:
        mark = f"{self._prefix}{name} {self.alternations}"
        return body(mark, self._random.choice(_SIZES))


def _size(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return None


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _short(seen: object) -> str:
    text = repr(seen)
    return text if len(text) < 500 else f"{text[:150]}… ({len(text)} characters)"


def hammer(s3: RawS3, mount: Path, bucket: str, stop: threading.Event, problems: list[str]) -> int:
    """Look at everything that the Alternators change, without pause, so that the kernel asks for
    names and bytes at the very moments when they change. Nothing but absence is an excuse; what
    S3 answers is one version, never a mixture. The number of looks."""
    looks = 0
    while not stop.is_set():
        for directory in (mount / bucket).iterdir():
            for entry in os.scandir(directory):
                looks += 1
                with contextlib.suppress(FileNotFoundError):
                    entry.stat()
                    Path(entry).read_bytes()
                answer = s3.request("GET", f"/{bucket}/{directory.name}/{entry.name}")
                etag = answer.headers.get("etag", "")[1:-1]
                if answer.status == 404 or "-" in etag:
                    continue
                answer.expect(200)
                if hashlib.md5(answer.body).hexdigest() != etag:
                    problems.append(
                        f"{entry.path}: ETag {etag} is not of {_short(answer.body)}, "
                        f"{len(answer.body)} bytes"
                    )
    return looks
