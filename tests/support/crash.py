# ruff: noqa: T201  a program that talks
"""Kill processes of a node under load, again and again, and count what it has lost: nothing.

One `CrashRun` is one node over its crashes. A cycle: writers write through both doors; after some
acknowledgements one process, or all of them, get SIGKILL; the node comes back, by itself or by a
new `forebay serve` at once; every acknowledged byte is read back through both doors. In every
few cycles, and in the last, all is persisted, the node stopped, its cache checked and emptied, the
store compared, and everything read back from there.

A cycle counts only if something would have been lost by a node that keeps its promises in memory:
in write_back names waited for the store before and after the kill; in write_through operations
were under way.

`script/crash` runs `main`; tests/test_crash.py a shorter one. The seed gives the victims, the
moments (in acknowledgements) and what the writers do; how far each of them gets is up to the
machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache import dirty, extents
from cache.index import Index
from node import mountpoint
from node.config import load
from node.volumes import existing_volume
from tests.support.doors import BUCKET, Doors, files_below
from tests.support.ledger import Findings, Ledger
from tests.support.load import Load
from tests.support.node import end_node, restart_node, start_node

VICTIMS = ("mount", "gateway", "mover", "supervisor", "all")
GATEWAYS = 2
_LOAD_DEADLINE_S = 100.0
_EMPTIED_EVERY = 4
_TRIES = 20
_FIRST_KILL = (10, 60)  # acknowledgements since the load began


@dataclass
class Figures:
    """What a run came to."""

    cycles: int = 0
    not_counted: int = 0
    """Kills that came while nothing was at stake; repeated."""
    acknowledged: int = 0
    checked: int = 0
    emptied: int = 0
    """How often everything was read back through an emptied cache."""
    settled_new: int = 0
    settled_old: int = 0
    torn: int = 0
    copies: int = 0
    """Objects in lost+found: a mover that is killed between the store's answer and its own note may
    take what it uploaded for a change by others, and keeps it."""
    victims: Counter[str] = field(default_factory=Counter)
    slowest_restart_s: float = 0.0
    losses: list[str] = field(default_factory=list)

    def add(self, findings: Findings) -> None:
        self.checked += findings.checked
        self.settled_new += findings.settled_new
        self.settled_old += findings.settled_old
        self.torn += findings.torn
        self.losses += findings.losses

    def __str__(self) -> str:
        victims = ", ".join(f"{name} {count}" for name, count in sorted(self.victims.items()))
        return (
            f"{self.cycles} cycles ({victims}; {self.not_counted} not counted), "
            f"{self.acknowledged} operations acknowledged, {self.checked} versions read back "
            f"({self.emptied} times all through an emptied cache), unacknowledged operations: "
            f"{self.settled_new} done, {self.settled_old} undone, {self.torn} cut off; "
            f"{self.copies} own versions kept in lost+found; slowest return "
            f"{self.slowest_restart_s:.1f} s; losses: {len(self.losses)}"
        )


class CrashRun:
    """See the module docstring. Use as a context manager."""

    def __init__(self, directory: Path, ledger_dir: Path, write_mode: str, seed: str) -> None:
        self._directory = directory
        self._write_mode = write_mode
        self._seed = seed
        self._choice = random.Random(f"{seed} {write_mode}")
        self._ledger = Ledger(ledger_dir / f"ledger-{write_mode}")
        self._tearing = False
        self.figures = Figures()

    def __enter__(self) -> CrashRun:
        self._node = start_node(
            self._directory,
            # Names wait long enough for the kill to find some.
            cache={"persist_delay_ms": 400, "segment_bytes": "4MiB"},
            stores={"main": {"type": "posix", "path": str(self._directory / "store")}},
            buckets=[{"name": BUCKET, "store": "main", "write_mode": self._write_mode}],
            node={"gateways": GATEWAYS},
        )
        self._config = load(self._node.config_file)
        try:
            Load(Doors(self._node), self._ledger, "").prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end_node(self._node)
        self._ledger.close()

    @property
    def log(self) -> str:
        return self._node.log

    def run(self, cycles: int) -> Iterator[str]:
        """Yields a line for each cycle; ends early at the first loss, with all as it was found."""
        for number in range(1, cycles + 1):
            victim = self._choice.choice(VICTIMS)
            for attempt in range(_TRIES):
                started = time.monotonic()
                at_stake = self._kill_under_load(victim, f"{self._seed} {number} {attempt}")
                self._read_back()
                if at_stake or self.figures.losses:
                    break
                self.figures.not_counted += 1
            else:
                raise AssertionError(f"{_TRIES} kills of {victim} came while nothing was at stake")
            self.figures.cycles += 1
            self.figures.victims[victim] += 1
            if not self.figures.losses and (number % _EMPTIED_EVERY == 0 or number == cycles):
                self._read_back_emptied()
            self.figures.acknowledged = self._ledger.acknowledged
            took_s = time.monotonic() - started
            yield (
                f"{self._write_mode} {number}/{cycles}: {victim}, at stake {at_stake}, "
                f"{took_s:.1f} s, {self._ledger.acknowledged} acknowledged"
            )
            if self.figures.losses:
                return

    # ------------------------------------------------------------------ the crash

    def _kill_under_load(self, victim: str, seed: str) -> int:
        """How much was at stake at the kill."""
        load = Load(Doors(self._node), self._ledger, seed)
        acknowledged = self._ledger.acknowledged + self._choice.randint(*_FIRST_KILL)
        load.start()
        try:
            self._ledger.wait_for(acknowledged, _LOAD_DEADLINE_S)
            at_stake = self._kill(victim)
        finally:
            load.stop(_LOAD_DEADLINE_S, self._abort_mount)
        return at_stake

    def _kill(self, victim: str) -> int:
        """Kill it and return once the node serves again, the load going on at what lives."""
        pids = self._node.pids
        limit_s = self._node.serves_again_within_s
        names = {
            "gateway": [f"gateway-{self._choice.randrange(GATEWAYS)}"],
            "all": list(pids),
        }.get(victim, [victim])
        with self._backlog() as backlog:
            before = backlog()
            for name in names:
                os.kill(pids[name], signal.SIGKILL)
            killed = time.monotonic()
            under_way, after = self._ledger.under_way, backlog()
        if "supervisor" in names:
            # The mount ends in order when it finds itself alone, unless it was killed as well.
            self._tearing = names == ["supervisor"]
            self._node.process.wait()
            if victim == "all":
                self._fsck("after the kill")
                killed = time.monotonic()
            self._restart()
        else:
            self._node.wait_until_back(names[0], pids[names[0]], limit_s)
        took_s = time.monotonic() - killed
        self.figures.slowest_restart_s = max(self.figures.slowest_restart_s, took_s)
        assert took_s < limit_s, f"{took_s:.1f} s after the end of {victim} until it served"
        return min(before, after) if self._write_mode == "write_back" else under_way

    @contextlib.contextmanager
    def _backlog(self) -> Iterator[Any]:
        """A function for the number of names that wait for the store."""
        cache = self._config.cache
        index = Index(cache.index_dir, cap_bytes=cache.index_bytes)

        def count() -> int:
            with index.read() as txn:
                return dirty.length(txn)

        try:
            yield count
        finally:
            index.close()

    def _abort_mount(self) -> None:
        mountpoint.abort(self._node.mount_dir)

    def _restart(self) -> None:
        assert self._node.process.stdout is not None
        self._node.process.stdout.close()
        self._node = restart_node(self._directory, self._node.config_file)

    # ------------------------------------------------------------------ the comparison

    def _read_back(self) -> None:
        """Both doors must agree with the ledger, name by name and in their listings."""
        doors = Doors(self._node)
        if self._write_mode == "write_through":
            self._compare_store("just after the kill")
        settled = self._ledger.settle(doors.get, tearing=self._tearing)
        self._tearing = False
        self.figures.add(settled)
        findings = Findings()
        self._ledger.compare(doors.read, findings)
        findings.losses = [f"through the mount: {loss}" for loss in findings.losses]
        self.figures.add(findings)
        for door, names in (("S3", doors.keys()), ("the mount", doors.files())):
            self._compare_names(f"the listing of {door}", names)
        if self.figures.losses:
            self.figures.losses += settled.settled

    def _compare_names(self, where: str, names: set[str]) -> None:
        expected = set(self._ledger.expected()) if not self.figures.losses else names
        self.figures.losses += [f"{name} is missing in {where}" for name in expected - names]
        self.figures.losses += [f"{name} is in {where}" for name in names - expected]

    def _compare_store(self, when: str) -> None:
        findings = Findings()
        self._ledger.compare(self._read_store, findings)
        findings.losses = [f"in the store, {when}: {loss}" for loss in findings.losses]
        self.figures.add(findings)

    def _read_store(self, name: str) -> bytes | None:
        try:
            return (self._node.store_dir / name).read_bytes()
        except FileNotFoundError:
            return None

    def _read_back_emptied(self) -> None:
        """Persist all, stop, check, empty the cache, start, and read everything again."""
        Doors(self._node).abort_uploads()
        self._node.forebay("flush", "--timeout", "60")
        code = self._node.stop()
        assert code == 0, f"forebay serve ended with {code}"
        self._fsck("before the cache was emptied", read_data=True)
        self._empty()
        self._fsck("after the cache was emptied")
        self._compare_store("after a flush")
        names = set(files_below(self._node.store_dir))
        copies = {name for name in names if name.startswith("lost+found/")}
        self.figures.copies = len(copies)
        deaths = sum(self.figures.victims[name] for name in ("mover", "supervisor", "all"))
        if len(copies) > deaths * self._config.cache.persist_workers:
            self.figures.losses += [f"{name} is in the store" for name in copies]
        own = {name for name in names if name.startswith(".forebay-tmp/")}
        self._compare_names("the store", names - copies - own)
        self._restart()
        self._read_back()
        self.figures.emptied += 1

    def _fsck(self, when: str, *, read_data: bool = False) -> None:
        with existing_volume(self._config) as volume:
            problems = volume.fsck.run(read_data=read_data).problems
        self.figures.losses += [f"fsck {when}: {problem}" for problem in problems]

    def _empty(self) -> None:
        with existing_volume(self._config) as volume:
            # What was replaced and unlinked goes first: an orphan dies in the second look at it.
            while volume.reaper.run_without_mount() + volume.reaper.run_without_mount():
                pass
            volume.reclaimer.seal_abandoned()
            volume.reclaimer.evict_all()
            with volume.index.read() as txn:
                left = [
                    r.id for r in volume.segments.records(txn) if any(extents.residents(txn, r.id))
                ]
        assert not left, f"segments {left} hold something after everything was evicted"


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/crash", description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=1000, help="in all (default: 1000)")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to repeat it")
    parser.add_argument(
        "--write-mode",
        action="append",
        choices=("write_back", "write_through"),
        help="default: the first half of the cycles write_back, the other write_through",
    )
    chosen = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    modes = chosen.write_mode or ["write_back", "write_through"]
    shared_memory = Path("/dev/shm")
    lost = False
    for mode in modes:
        directory = Path(tempfile.mkdtemp(prefix="forebay-crash-"))
        ledger_dir = Path(tempfile.mkdtemp(dir=shared_memory if shared_memory.is_dir() else None))
        with CrashRun(directory, ledger_dir, mode, str(seed)) as run:
            for line in run.run(chosen.cycles // len(modes)):
                print(line, flush=True)
        print(f"seed {seed}, {mode}: {run.figures}", flush=True)
        if run.figures.losses:
            lost = True
            print("\n".join(run.figures.losses), f"kept: {directory} {ledger_dir}", sep="\n")
        else:
            shutil.rmtree(directory)
            shutil.rmtree(ledger_dir)
    return int(lost)


if __name__ == "__main__":
    sys.exit(main())
