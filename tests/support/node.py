"""A whole node under test: `forebay serve` with a configuration of its own.

    with running_node(tmp_path, cache={"segment_bytes": "4MiB"}) as node:
        node.endpoint, node.mount, node.store_dir, node.pids["gateway-0"], node.forebay("status")

The node is always taken down: SIGTERM first, then SIGKILL by process id, then the mount.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node import control, mountpoint, orphans, run_lock
from node.config_docs import as_toml

FOREBAY = Path(sys.executable).with_name("forebay")
READY_DEADLINE_S = 90.0
STOP_DEADLINE_S = 60.0


class NodeDidNotStartError(Exception):
    """With what the node said on stderr."""


@dataclass
class RunningNode:
    directory: Path  # everything of this node is below it
    config_file: Path
    state_dir: Path
    store_dir: Path
    mount_dir: Path
    process: subprocess.Popen[str]
    ready: dict[str, Any] = field(default_factory=dict)  # the line that serve --json printed
    started_in_s: float = 0.0  # until that line

    @property
    def endpoint(self) -> str:
        return str(self.ready["endpoint"])

    @property
    def https_endpoint(self) -> str:
        return str(self.ready["https_endpoint"])

    @property
    def certificate(self) -> Path:
        """The file that a client is to trust."""
        return Path(self.ready["certificate"])

    @property
    def mount(self) -> Path | None:
        """The mount point; None where the machine cannot mount or the test does not want it."""
        return Path(self.ready["mount"]) if self.ready["mount"] else None

    @property
    def log(self) -> str:
        return (self.directory / "stderr.log").read_text()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, as of now: "supervisor", "mover", "mount", "gateway-0", …"""
        status = self.status()
        pids = {child["name"]: child["pid"] for child in status["processes"] if child["pid"]}
        return {"supervisor": status["pid"], **pids}

    def status(self) -> dict[str, Any]:
        """What the supervisor says of itself and its children."""
        return control.ask(self.state_dir / "run", "status")

    def forebay(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on this node through the real console script."""
        return subprocess.run(
            [FOREBAY, *arguments, "--config", self.config_file],
            capture_output=True,
            text=True,
            timeout=90,
            check=check,
        )

    def kill(self, name: str) -> int:
        """SIGKILL one process by its name; returns the id it had."""
        pid = self.pids[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_for_spares(self, deadline_s: float = 90.0) -> None:
        """Return when every spare process has loaded and waits for its turn (the promise of
        being back within a second is for then; right after a start they still load)."""
        start = time.monotonic()
        while time.monotonic() - start < deadline_s:
            spares = self.status()["spares"]
            # Waiting in the kernel for the lifeline, and for nothing else.
            if spares and all(_waits_on_socket(pid) for pid in spares.values()):
                return
            time.sleep(0.01)
        raise TimeoutError(f"the spares are not ready after {deadline_s} s:\n{self.log}")

    def wait_until_back(self, name: str, old_pid: int, deadline_s: float = 60.0) -> float:
        """Seconds until the child serves again under another process id."""
        start = time.monotonic()
        while time.monotonic() - start < deadline_s:
            time.sleep(0.01)  # the supervisor answers by polling only
            for child in self.status()["processes"]:
                serves = child["name"] == name and child["state"] == "serving"
                if serves and child["pid"] != old_pid:
                    return time.monotonic() - start
        raise TimeoutError(f"{name} is not back after {deadline_s} s:\n{self.log}")

    @property
    def serves_again_within_s(self) -> float:
        """Longest time from a kill until a node serves again. Reliability row 1 says 10 s; this is
        for a machine that is busy with other tests, as this node's own start saw it."""
        return max(20.0, 10.0 + 3 * self.started_in_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the node; returns the supervisor's exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_DEADLINE_S)


def _waits_on_socket(pid: int) -> bool:
    try:
        return "unix_stream" in Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return False


def write_config(directory: Path, overrides: Mapping[str, Any]) -> Path:
    """A configuration with everything below the directory; `overrides` go into its tables.

    Small segments and capacity; one bucket store, `main`, that is creatable; a free port. A value
    of None takes a key, or a whole table, away.
    """
    (directory / "store").mkdir(parents=True, exist_ok=True)
    tables: dict[str, Any] = {
        "cache": {
            "state_dir": str(directory / "state"),
            "capacity_bytes": "512MiB",
            "segment_bytes": "16MiB",
            "index_bytes": "256MiB",
            "persist_delay_ms": 200,  # tests wait for what is persisted
        },
        "stores": {"main": {"type": "posix", "path": str(directory / "store"), "creatable": True}},
        "s3": {"address": "127.0.0.1", "port": 0},
        "mount": {"path": str(directory / "mnt")},
        "node": {"gateways": 2},
    }
    for name, table in overrides.items():
        if isinstance(table, Mapping) and isinstance(tables.get(name), dict):
            tables[name].update(table)
        elif table is None:
            tables.pop(name, None)
        else:
            tables[name] = table
    path = directory / "forebay.toml"
    path.write_text(as_toml(tables))
    path.chmod(0o600)
    return path


def start_node(directory: Path, **overrides: Any) -> RunningNode:
    """Start `forebay serve` and wait until it serves. The caller calls end_node()."""
    config_file = write_config(directory, overrides)
    return restart_node(directory, config_file)


def restart_node(
    directory: Path,
    config_file: Path,
    *options: str,
    command: Sequence[str | Path] = (FOREBAY, "serve"),
) -> RunningNode:
    """Start a node again on what an earlier one left, with the same configuration. options: of
    `forebay serve`. command: what starts that."""
    began = time.monotonic()
    with (directory / "stderr.log").open("a") as stderr:
        process = subprocess.Popen(
            [*command, "--json", "--config", config_file, *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            text=True,
        )
    node = RunningNode(
        directory=directory,
        config_file=config_file,
        state_dir=directory / "state",
        store_dir=directory / "store",
        mount_dir=directory / "mnt",
        process=process,
    )
    try:
        node.ready = json.loads(_ready_line(node))
        node.started_in_s = time.monotonic() - began
    except BaseException:
        end_node(node)
        raise
    return node


def _ready_line(node: RunningNode) -> str:
    stdout = node.process.stdout
    assert stdout is not None
    readable, _, _ = select.select([stdout], [], [], READY_DEADLINE_S)
    line = stdout.readline() if readable else ""
    if not line or "error" in json.loads(line):
        why = "ended" if readable else f"is not ready after {READY_DEADLINE_S} s"
        raise NodeDidNotStartError(f"the node {why}: {line}\n{node.log}")
    return line


def end_node(node: RunningNode) -> None:
    """Take the node down, whatever state it is in, and leave nothing behind. Idempotent."""
    if node.process.poll() is None:
        node.process.terminate()
        try:
            node.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            node.process.kill()
            node.process.wait()
    if node.process.stdout is not None:
        node.process.stdout.close()
    run_dir = node.state_dir / "run"
    for lock in [run_dir / "supervisor.lock", *run_dir.glob("processes/*.lock")]:
        if pid := run_lock.holder(lock):
            os.kill(pid, signal.SIGKILL)
    if run_dir.exists():
        orphans.wait_until_gone(run_dir)
    mountpoint.clear(node.mount_dir.absolute())


@contextmanager
def running_node(directory: Path, **overrides: Any) -> Iterator[RunningNode]:
    """A node for the length of the body. Keyword arguments are tables of the configuration."""
    node = start_node(directory, **overrides)
    try:
        yield node
    finally:
        end_node(node)
