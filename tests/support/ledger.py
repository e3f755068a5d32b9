"""What a node has acknowledged, kept outside of it, and the comparison with what it says later.

A *version* is the bytes of a name, made from a seed, so that only the seed is kept. An *operation*
moves some names from what they are to what they shall be, perhaps over states that others may see
in between. Before an operation is sent it is begun; then it is acknowledged (a line with the
digests is written and synced: the ledger lies on another file system than the node) or given up:
nobody knows whether it happened. Names of an operation that was given up are left alone until
`settle` has looked which of its states they are in. It must be one of them, whole.

Thread-safe. Each name belongs to one writer, so there is no order between writers to be guessed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Version:
    """Bytes of a name: pieces of (seed, size) one after the other."""

    pieces: tuple[tuple[int, int], ...] = ()
    found: bytes = b""  # before the pieces: what a write that was cut off has left

    @property
    def size(self) -> int:
        return len(self.found) + sum(size for _, size in self.pieces)

    def content(self) -> bytes:
        pieces = [random.Random(seed).randbytes(size) for seed, size in self.pieces]
        return b"".join((self.found, *pieces))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content()).hexdigest()

    def followed_by(self, piece: tuple[int, int]) -> Version:
        return Version((*self.pieces, piece), self.found)


EMPTY = Version()
State = Mapping[str, Version | None]
"""Versions of some names; None: there is no such name."""
Read = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Operation:
    """A change under way."""

    verb: str
    outcomes: tuple[State, ...]
    """States that the names may be seen in after the present one, in order; the last is the aim."""
    written: str = ""
    """The name that is written in place: an orderly end of the mount in the middle of it publishes
    what was written so far, as closing the file would."""

    @property
    def names(self) -> set[str]:
        return {name for outcome in self.outcomes for name in outcome}


@dataclass
class Findings:
    """Of one comparison."""

    checked: int = 0
    """Names compared."""
    settled_new: int = 0
    settled_old: int = 0
    torn: int = 0
    settled: list[str] = field(default_factory=list)
    """What became of each operation that was given up, for who looks for the cause of a loss."""
    losses: list[str] = field(default_factory=list)


class Ledger:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._changed = threading.Condition()
        self._state: dict[str, Version | None] = {}
        self._digests: dict[Version, str] = {}
        self._under_way: list[Operation] = []
        self._given_up: list[Operation] = []
        self.acknowledged = 0

    def close(self) -> None:
        self._file.close()

    # ------------------------------------------------------------------ writers

    def of(self, name: str) -> Version | None:
        """What the name is known to hold."""
        with self._changed:
            return self._state.get(name)

    def is_settled(self, name: str) -> bool:
        """Whether it is known what the name holds."""
        with self._changed:
            return not any(name in operation.names for operation in self._given_up)

    def begin(self, operation: Operation) -> None:
        with self._changed:
            self._under_way.append(operation)

    def acknowledge(self, operation: Operation) -> None:
        """The node has confirmed it. Returns once that is on the ledger's disk."""
        aim = operation.outcomes[-1]
        with self._changed:
            self._under_way.remove(operation)
            self._state.update(aim)
            digests = {name: version and self._digest(version) for name, version in aim.items()}
            self._file.write(json.dumps({operation.verb: digests}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.acknowledged += 1
            self._changed.notify_all()

    def give_up(self, operation: Operation) -> None:
        """Nobody knows whether it happened."""
        with self._changed:
            self._under_way.remove(operation)
            self._given_up.append(operation)
            self._changed.notify_all()

    def _digest(self, version: Version) -> str:
        if version not in self._digests:
            self._digests[version] = version.digest
        return self._digests[version]

    # ------------------------------------------------------------------ who watches them

    @property
    def under_way(self) -> int:
        with self._changed:
            return len(self._under_way)

    def wait_for(self, acknowledged: int, deadline_s: float) -> None:
        """Return when so many operations are acknowledged. TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.acknowledged >= acknowledged, deadline_s):
                raise TimeoutError(
                    f"{self.acknowledged} operations were acknowledged after {deadline_s} s, "
                    f"not {acknowledged}"
                )

    def expected(self) -> dict[str, Version]:
        """Every name that exists, if nothing is under way and all is settled."""
        with self._changed:
            assert not self._under_way
            assert not self._given_up
            return {name: version for name, version in self._state.items() if version is not None}

    def unsettled_names(self) -> set[str]:
        with self._changed:
            return {name for operation in self._given_up for name in operation.names}

    def settle(self, read: Read, *, tearing: bool = False) -> Findings:
        """Compare every name with what `read` says, and find out which of the operations that were
        given up happened. tearing: the mount may have ended in order in mid-write."""
        findings = Findings()
        with self._changed:
            assert not self._under_way, "settle while writers write"
            for operation in self._given_up:
                self._settle_one(operation, read, tearing, findings)
            self._given_up.clear()
        self.compare(read, findings)
        return findings

    def _settle_one(
        self, operation: Operation, read: Read, tearing: bool, findings: Findings
    ) -> None:
        names = sorted(operation.names)
        before = {name: self._state.get(name) for name in names}
        states = [before, *({**before, **outcome} for outcome in operation.outcomes)]
        try:
            seen = {name: read(name) for name in names}
        except Exception as exc:  # noqa: BLE001  whatever a door says instead of the bytes
            findings.losses.append(f"{operation.verb} {names}, given up: cannot be read: {exc!r}")
            return
        found = {name: _digest_of(data) for name, data in seen.items()}
        for number, state in reversed(list(enumerate(states))):
            if found == {
                name: version and self._digest(version) for name, version in state.items()
            }:
                self._state.update(state)
                findings.settled_old += number == 0
                findings.settled_new += number == len(states) - 1
                return
        torn = self._torn(operation, before, seen, found) if tearing else None
        if torn is not None:
            self._state[operation.written] = torn
            findings.torn += 1
            return
        findings.losses.append(
            f"{operation.verb} was given up and is neither undone nor done: "
            + ", ".join(f"{name} has {_size(seen[name])}" for name in names)
        )

    def _torn(
        self,
        operation: Operation,
        before: State,
        seen: Mapping[str, bytes | None],
        found: Mapping[str, str | None],
    ) -> Version | None:
        """What the name that was written in place holds, if that is a beginning of what it was to
        hold, and the other names are as before."""
        data = seen.get(operation.written)
        aims = [outcome.get(operation.written) for outcome in operation.outcomes]
        aim = next((version for version in reversed(aims) if version is not None), None)
        if data is None or aim is None or not aim.content().startswith(data):
            return None
        for name, version in before.items():
            if name != operation.written and found[name] != (version and self._digest(version)):
                return None
        return Version(found=data)

    def compare(self, read: Read, findings: Findings, names: Iterable[str] | None = None) -> None:
        """Compare names with what `read` says; all whose state is known."""
        with self._changed:
            unsettled = self.unsettled_names()
            state = dict(self._state)
        for name in sorted(state if names is None else names):
            if name in unsettled:
                continue
            version = state.get(name)
            findings.checked += 1
            try:
                data = read(name)
            except Exception as exc:  # noqa: BLE001  whatever a door says instead of the bytes
                findings.losses.append(f"{name}: cannot be read: {exc!r}")
                continue
            if _digest_of(data) != (version and self._digest(version)):
                wanted = "nothing" if version is None else f"{version.size} bytes"
                findings.losses.append(f"{name}: {wanted} acknowledged, {_size(data)} found")


def _digest_of(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def _size(data: bytes | None) -> str:
    return "nothing" if data is None else f"{len(data)} bytes"
