"""Writers at both doors of a node, each with names of its own, all noted in a ledger.

A writer chooses what it does next by its own random numbers, from one seed. After the first
failure at a door it leaves that door alone, and goes on at the other until it is told to stop.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from tests.support.doors import DOOR_ERRORS, Doors
from tests.support.ledger import EMPTY, Ledger, Operation, State, Version

WRITERS = 4
_NAMES = 10
_PART_BYTES = 5 << 20
_ALBUM = 3  # files of the directory that is renamed


class Load:
    """Some writers, until stop()."""

    def __init__(self, doors: Doors, ledger: Ledger, seed: str) -> None:
        self._doors = doors
        self._stop = threading.Event()
        self._writers = [
            Writer(f"writer{number}", doors, ledger, random.Random(f"{seed} {number}"), self._stop)
            for number in range(WRITERS)
        ]

    def prepare(self) -> None:
        """Once for a node: the directories in which they write."""
        for writer in self._writers:
            self._doors.make_directory(writer.area)

    def start(self) -> None:
        for writer in self._writers:
            writer.start()

    def stop(self, deadline_s: float, abort: Callable[[], None]) -> None:
        """Return when all have ended. One that hangs is freed by `abort`, and TimeoutError raised;
        an error in a writer itself is raised here."""
        self._stop.set()
        for writer in self._writers:
            writer.join(deadline_s)
            if writer.is_alive():
                abort()
                writer.join(deadline_s)
                raise TimeoutError(f"{writer.area} did not return from {writer.doing}")
        for writer in self._writers:
            if writer.failure is not None:
                raise writer.failure


class Writer(threading.Thread):
    def __init__(
        self,
        area: str,
        doors: Doors,
        ledger: Ledger,
        choice: random.Random,
        stop: threading.Event,
    ) -> None:
        super().__init__(name=area, daemon=True)
        self.area = area
        self.doing = ""
        self.failure: Exception | None = None
        self._doors = doors
        self._ledger = ledger
        self._choice = choice
        self._told_to_stop = stop
        self._s3_is_open = True
        self._mount_is_open = True

    def run(self) -> None:
        s3 = [self._put] * 5 + [self._delete, self._copy]
        mount = [self._write] * 2 + [self._replace, self._append, self._unlink, self._rename] * 2
        mount += [self._rename_directory] * 2
        try:
            while not self._told_to_stop.is_set() and (self._s3_is_open or self._mount_is_open):
                over_s3 = self._choice.random() < 0.5
                steps = s3 if over_s3 else mount
                step = self._choice.choice(steps)
                if self._s3_is_open if over_s3 else self._mount_is_open:
                    step()
        except Exception as exc:  # noqa: BLE001  raised again in the test's thread
            self.failure = exc

    # ------------------------------------------------------------------ S3

    def _put(self) -> None:
        name = self._a_name()
        if self._choice.random() < 0.03:
            version = Version((self._piece(_PART_BYTES), self._piece(self._size())))
            parts = [version.content()[:_PART_BYTES], version.content()[_PART_BYTES:]]
            self._over_s3("multipart", {name: version}, lambda: self._doors.put_parts(name, parts))
        else:
            version = self._version()
            content = version.content()
            self._over_s3("put", {name: version}, lambda: self._doors.put(name, content))

    def _delete(self) -> None:
        name = self._a_name()
        self._over_s3("delete", {name: None}, lambda: self._doors.delete(name))

    def _copy(self) -> None:
        source, target = self._a_name(), self._a_name()
        version = self._ledger.of(source)
        if version is not None and source != target and self._ledger.is_settled(source):
            self._over_s3("copy", {target: version}, lambda: self._doors.copy(source, target))

    # ------------------------------------------------------------------ mount

    def _write(self) -> None:
        name, version = self._a_name(), self._version()
        content = version.content()
        self._on_mount(
            "write",
            [{name: EMPTY}, {name: version}],
            lambda: self._doors.write(name, content),
            written=name,
        )

    def _append(self) -> None:
        name = self._a_name()
        before = self._ledger.of(name)
        if before is None or not self._ledger.is_settled(name):
            return
        piece = self._piece(self._size())
        content = Version((piece,)).content()
        self._on_mount(
            "append",
            [{name: before.followed_by(piece)}],
            lambda: self._doors.write(name, content, append=True),
            written=name,
        )

    def _replace(self) -> None:
        name, temporary, version = self._a_name(), f"{self.area}/temporary", self._version()
        if self._ledger.of(temporary) is not None:
            self._on_mount("tidy", [{temporary: None}], lambda: self._doors.unlink(temporary))
            return
        content = version.content()
        self._on_mount(
            "replace",
            [{temporary: EMPTY}, {temporary: version}, {temporary: None, name: version}],
            lambda: self._doors.replace(name, content, temporary),
            written=temporary,
        )

    def _unlink(self) -> None:
        name = self._a_name()
        if self._ledger.of(name) is not None:
            self._on_mount("unlink", [{name: None}], lambda: self._doors.unlink(name))

    def _rename(self) -> None:
        old, new = self._a_name(), self._a_name()
        version = self._ledger.of(old)
        if version is not None and old != new:
            self._on_mount(
                "rename", [{old: None, new: version}], lambda: self._doors.rename(old, new)
            )

    def _rename_directory(self) -> None:
        """Fill a directory over S3, and from then on rename it to and fro, files and all."""
        here, there = self._album("a"), self._album("b")
        if not all(self._ledger.is_settled(name) for name in here + there):
            return
        if all(self._ledger.of(name) is None for name in there):
            missing = [name for name in here if self._ledger.of(name) is None]
            if missing and self._s3_is_open:
                version = self._version()
                self._over_s3(
                    "put",
                    {missing[0]: version},
                    lambda: self._doors.put(missing[0], version.content()),
                )
                return
        else:
            here, there = there, here
        aim = {new: self._ledger.of(old) for old, new in zip(here, there, strict=True)}
        if any(version is None for version in aim.values()):
            return
        old, new = here[0].rpartition("/")[0], there[0].rpartition("/")[0]
        self._on_mount(
            "rename directory",
            [{**dict.fromkeys(here), **aim}],
            lambda: self._doors.rename(old, new),
        )

    def _album(self, letter: str) -> list[str]:
        return [f"{self.area}/album-{letter}/{number}" for number in range(_ALBUM)]

    # ------------------------------------------------------------------ parts

    def _a_name(self) -> str:
        return f"{self.area}/name{self._choice.randrange(_NAMES)}"

    def _size(self) -> int:
        """Inline, one page, some pages, several extents."""
        kind = self._choice.random()
        limit = 2000 if kind < 0.3 else 20_000 if kind < 0.6 else 300_000 if kind < 0.9 else 3 << 20
        return self._choice.randrange(limit)

    def _piece(self, size: int) -> tuple[int, int]:
        return self._choice.getrandbits(48), size

    def _version(self) -> Version:
        return Version((self._piece(self._size()),))

    def _over_s3(self, verb: str, aim: State, act: Callable[[], None]) -> None:
        if not self._try(Operation(f"S3 {verb}", (aim,)), act):
            self._s3_is_open = False

    def _on_mount(
        self, verb: str, outcomes: list[State], act: Callable[[], None], *, written: str = ""
    ) -> None:
        if not self._try(Operation(f"mount {verb}", tuple(outcomes), written), act):
            self._mount_is_open = False

    def _try(self, operation: Operation, act: Callable[[], None]) -> bool:
        """False when it failed, and nobody knows whether it happened."""
        if not all(self._ledger.is_settled(name) for name in operation.names):
            return True
        self.doing = f"{operation.verb} {sorted(operation.names)}"
        self._ledger.begin(operation)
        try:
            act()
        except DOOR_ERRORS as exc:
            self.doing += f": {exc}"
            self._ledger.give_up(operation)
            return False
        self._ledger.acknowledge(operation)
        return True
