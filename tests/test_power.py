"""Power cuts: the state directory is on a disk that loses all that was not synced.

An ext4 over a loop device is shut down by FS_IOC_SHUTDOWN in mid-load, all processes are killed,
and what had reached the disk is mounted again. The store is elsewhere and survives, but nothing is
persisted meanwhile: every acknowledged byte has to come from the disk that lost its power.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node import mountpoint
from node.config import load
from node.volumes import existing_volume
from tests.support.doors import BUCKET, Doors
from tests.support.ledger import Findings, Ledger
from tests.support.load import Load
from tests.support.loop_disk import LoopDisk, loop_disk, requires_loop
from tests.support.mount import requires_fuse
from tests.support.node import (
    RunningNode,
    end_node,
    restart_node,
    start_node,
)
from tests.support.waiting import wait_until

pytestmark = [requires_fuse, requires_loop]

SEED = os.environ.get("FOREBAY_SEED", "20261121")
CYCLES = 10
DISK_BYTES = 512 << 20
_LOAD_DEADLINE_S = 100.0
_END_DEADLINE_S = 60.0


class PowerRun:
    """One node over its power cuts."""

    def __init__(self, directory: Path, disk: LoopDisk, *, sync: bool) -> None:
        self._directory = directory
        self._disk = disk
        self._choice = random.Random(SEED)
        self.ledger = Ledger(directory / "ledger")
        self.findings = Findings()
        self._node: RunningNode = start_node(
            directory,
            cache={
                "sync": sync,
                "persist_delay_ms": 3_600_000,
                "capacity_bytes": "300MiB",
                "segment_bytes": "4MiB",
                "dirty_soft_limit": 0.8,
                "dirty_hard_limit": 0.9,
            },
            stores={"main": {"type": "posix", "path": str(directory / "store")}},
            buckets=[{"name": BUCKET, "store": "main", "write_mode": "write_back"}],
            node={"gateways": 1},
        )
        try:
            Load(Doors(self._node), self.ledger, "").prepare()
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        # Nothing is to be persisted: a drain at the end would only take its time.
        if self._disk.has_power:
            self._node.process.kill()
            end_node(self._node)
        self.ledger.close()

    def cut_under_load(self, number: int) -> None:
        load = Load(Doors(self._node), self.ledger, f"{SEED} {number}")
        load.start()
        try:
            self.ledger.wait_for(
                self.ledger.acknowledged + self._choice.randint(20, 80), _LOAD_DEADLINE_S
            )
            pids = self._cut()
        finally:
            load.stop(_LOAD_DEADLINE_S, lambda: mountpoint.abort(self._node.mount_dir))
        self._come_back(pids)

    def cut(self) -> None:
        self._come_back(self._cut())

    def _cut(self) -> dict[str, int]:
        """The processes, which are dying."""
        pids = self._node.pids
        self._disk.cut_power()
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        return pids

    def _come_back(self, pids: dict[str, int]) -> None:
        self._node.process.communicate()  # waits for it, and closes its pipe
        wait_until(lambda: not any(map(is_alive, pids.values())), "processes end", _END_DEADLINE_S)
        mountpoint.clear(self._node.mount_dir)
        self._disk.restore_power()

    @property
    def bucket(self) -> Path:
        return self._node.mount_dir / BUCKET

    def restart(self) -> None:
        """Start the node on what is left, after a look at it."""
        with existing_volume(load(self._node.config_file)) as volume:
            self.findings.losses += volume.fsck.run(read_data=True).problems
        self._node = restart_node(self._directory, self._node.config_file)

    def look(self) -> None:
        """Start the node on what is left, and compare."""
        self.restart()
        doors = Doors(self._node)
        settled = self.ledger.settle(doors.get)
        self.findings.checked += settled.checked
        self.findings.losses += settled.losses
        self.ledger.compare(doors.read, self.findings)
        expected = set(self.ledger.expected())
        for names in (doors.keys(), doors.files()):
            self.findings.losses += sorted(names ^ expected)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def power_run(directory: Path, *, sync: bool) -> Iterator[PowerRun]:
    with loop_disk(directory / "image", directory / "state", DISK_BYTES) as disk:
        run = PowerRun(directory, disk, sync=sync)
        try:
            yield run
        finally:
            run.end()


@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_by_power_cuts(tmp_path: Path) -> None:
    with power_run(tmp_path, sync=True) as run:
        for number in range(CYCLES):
            run.cut_under_load(number)
            run.look()
            assert run.findings.losses == [], f"seed {SEED}, cycle {number}"
        sys.stdout.write(
            f"seed {SEED}: {CYCLES} power cuts, {run.ledger.acknowledged} operations "
            f"acknowledged, {run.findings.checked} versions read back, no loss\n"
        )


def test_of_what_no_program_synced_the_newest_is_undone(tmp_path: Path) -> None:
    """Names and closed files are durable in order: with the next fsync, or in a moment."""
    body = b"x" * 4096
    with power_run(tmp_path, sync=True) as run:
        directory = run.bucket / "directory"
        directory.mkdir()
        for number in range(200):
            (directory / f"{number:03}").write_bytes(body)
            if number == 99:
                descriptor = os.open(directory, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
        run.cut()
        run.restart()
        assert run.findings.losses == []
        left = sorted(os.listdir(directory))
        assert left == [f"{number:03}" for number in range(len(left))]
        assert len(left) >= 100
        # The last one may have been created and not written; others were closed before it was.
        assert all((directory / name).read_bytes() == body for name in left[:-1])


def test_the_same_without_syncing_is_seen_to_lose(tmp_path: Path) -> None:
    """The test above would notice: with `cache.sync = false` one power cut is enough."""
    with power_run(tmp_path, sync=False) as run:
        run.cut_under_load(0)
        try:
            run.look()
        except Exception as exc:  # noqa: BLE001  an index in ruins can show in any way
            run.findings.losses.append(repr(exc))
        lost = [loss for loss in run.findings.losses if "given up" not in loss]
        sys.stdout.write(
            f"{run.ledger.acknowledged} acknowledged, {len(lost)} losses: {lost[:2]}\n"
        )
        assert lost
