"""A whole node: killed children, a killed supervisor, stopping, refusing to start.

Everything here is real: `forebay serve` with its children, the mount where the machine has
/dev/fuse, the S3 endpoint, signals.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from node import mountpoint
from node.errors import ExitCode
from tests.support.node import (
    FOREBAY,
    RunningNode,
    end_node,
    restart_node,
    running_node,
    start_node,
    write_config,
)
from tests.support.s3_raw import AUTHORIZATION
from tests.support.stores import free_port

needs_mount = pytest.mark.skipif(
    bool(mountpoint.unavailable()), reason=f"no mount here: {mountpoint.unavailable()}"
)
SCRIPT_RUN = Path(__file__).parent.parent / "script" / "run"
BACK_WITHIN_S = 1.0


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One node for the tests that only kill its children."""
    with running_node(tmp_path_factory.mktemp("node")) as running:
        yield running


def answers(endpoint: str) -> bool:
    """Whether some gateway answers a request (with what, is not asked here)."""
    request = urllib.request.Request(endpoint, method="GET")
    try:
        urllib.request.urlopen(request, timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def alive(pid: int) -> bool:
    """Whether the process runs. A dead one that its new parent has not reaped yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def serve(config: Path) -> subprocess.CompletedProcess[str]:
    """A `forebay serve` that is expected not to start."""
    return subprocess.run(
        [FOREBAY, "serve", "--config", config],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_ready_line_says_where_everything_is(node: RunningNode) -> None:
    ready = node.ready
    assert ready["event"] == "ready"
    assert ready["state_dir"] == str(node.state_dir)
    assert ready["stores"] == {"main": str(node.store_dir)}
    assert set(ready["processes"]) >= {"mover", "gateway-0", "gateway-1"}
    assert answers(node.endpoint)


@pytest.mark.parametrize("name", ["gateway-0", "gateway-1", "mover"])
def test_a_killed_child_is_back_within_a_second_and_the_others_stay(
    node: RunningNode, name: str
) -> None:
    before = node.pids
    took_s = []
    # The best of three: other tests may have the machine busy for a moment.
    for _ in range(3):
        node.wait_for_spares()
        took_s.append(node.wait_until_back(name, node.kill(name)))
        if took_s[-1] < BACK_WITHIN_S:
            break
    assert min(took_s) < BACK_WITHIN_S
    after = node.pids
    assert {n for n in before if before[n] != after[n]} == {name}
    assert answers(node.endpoint)


@needs_mount
def test_a_killed_mount_is_back_within_a_second_with_what_was_written(node: RunningNode) -> None:
    assert node.mount is not None
    bucket = node.mount / "killed"
    bucket.mkdir()
    (bucket / "file").write_bytes(b"kept")
    node.wait_for_spares()
    start = time.monotonic()
    old = node.kill("mount")
    # A shell standing in the mount sees the same: calls fail at once until the mount is back.
    while True:
        try:
            content = (bucket / "file").read_bytes()
        except OSError:
            assert time.monotonic() - start < 10, node.log
            continue
        break
    took_s = time.monotonic() - start
    assert content == b"kept"
    node.wait_until_back("mount", old)
    assert took_s < BACK_WITHIN_S


def test_a_second_node_on_the_same_state_is_refused(node: RunningNode) -> None:
    done = node.forebay("serve", check=False)
    assert done.returncode == ExitCode.ALREADY_RUNNING
    assert f"(process {node.ready['pid']})" in done.stderr
    assert "Traceback" not in done.stderr
    assert answers(node.endpoint)


def test_stop_drains_unmounts_and_ends_with_zero(tmp_path: Path) -> None:
    node = start_node(tmp_path)
    try:
        pids = node.pids
        if node.mount:
            (node.mount / "bucket").mkdir()
            (node.mount / "bucket" / "f").write_text("drained")
        start = time.monotonic()
        assert node.stop() == ExitCode.DONE
        assert time.monotonic() - start < 10
        assert not any(alive(pid) for pid in pids.values())
        assert node.process.stdout is not None
        stopped = json.loads(node.process.stdout.readline())
        assert stopped["event"] == "stopped"
        assert stopped["left"]["names"] == 0
        if node.mount:
            assert (node.store_dir / "bucket" / "f").read_text() == "drained"
            assert list(node.mount_dir.iterdir()) == []  # the bare directory: unmounted
    finally:
        end_node(node)


def test_one_command_serves_a_clone(tmp_path: Path) -> None:
    """`script/run` from anywhere; it finds that nothing is missing, since the tests run."""
    port = free_port()
    config = write_config(tmp_path, {"node": {"gateways": 1}, "s3": {"port": port}})
    node = restart_node(tmp_path, config, command=[SCRIPT_RUN])
    try:
        assert node.endpoint == f"http://127.0.0.1:{port}"
        headers = {"Authorization": AUTHORIZATION}
        for method, target, body in (("PUT", "bucket", None), ("PUT", "bucket/key", b"body")):
            request = urllib.request.Request(
                f"{node.endpoint}/{target}", method=method, headers=headers, data=body
            )
            urllib.request.urlopen(request, timeout=100).close()
        assert (node.store_dir / "bucket" / "key").read_bytes() == b"body"
        if node.mount:
            assert (node.mount / "bucket" / "key").read_bytes() == b"body"
        assert node.stop() == ExitCode.DONE
    finally:
        end_node(node)


@needs_mount
def test_s3_can_be_off(tmp_path: Path) -> None:
    port = free_port()
    with running_node(tmp_path, s3={"enabled": False, "port": port}) as node:
        assert (node.ready["endpoint"], node.ready["https_endpoint"]) == (None, None)
        assert set(node.pids) == {"supervisor", "mover", "mount"}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        assert node.mount is not None
        (node.mount / "bucket").mkdir()
        (node.mount / "bucket" / "file").write_text("by the mount")
        assert "endpoint  none: s3.enabled is false" in node.forebay("status").stdout
        assert '"enabled": false' in node.forebay("check-config", "--json").stdout


def test_a_node_without_any_door_is_a_mistake(tmp_path: Path) -> None:
    done = serve(write_config(tmp_path, {"s3": {"enabled": False}, "mount": None}))
    assert done.returncode == ExitCode.CONFIGURATION
    assert "nothing to serve: s3.enabled is false" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    node = start_node(tmp_path, mount=None)
    try:
        # A drain that takes its whole time, as with a store that hangs.
        os.kill(node.pids["mover"], signal.SIGSTOP)
        node.process.send_signal(signal.SIGINT)
        while node.status()["state"] != "stopping":
            assert node.process.poll() is None, node.log
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(25) == ExitCode.DONE
        assert "SIGINT again: not waiting any longer" in node.log
        assert node.process.stdout is not None
        assert json.loads(node.process.stdout.readline()) == {"event": "stopped", "left": {}}
    finally:
        end_node(node)


def test_after_a_killed_supervisor_the_children_end_and_the_next_start_works_at_once(
    tmp_path: Path,
) -> None:
    node = start_node(tmp_path)
    again = None
    try:
        pids = node.pids
        if node.mount:
            (node.mount / "bucket").mkdir()
        os.kill(pids["supervisor"], signal.SIGKILL)
        node.process.wait()
        start = time.monotonic()
        again = restart_node(tmp_path, node.config_file)
        assert time.monotonic() - start < node.serves_again_within_s
        assert not any(alive(pid) for pid in pids.values())
        assert answers(again.endpoint)
        if again.mount:
            assert [path.name for path in again.mount.iterdir()] == ["bucket"]
    finally:
        if again is not None:
            end_node(again)
        end_node(node)


def test_everything_killed_at_once_starts_again(tmp_path: Path) -> None:
    node = start_node(tmp_path)
    again = None
    try:
        for pid in node.pids.values():
            os.kill(pid, signal.SIGKILL)
        node.process.wait()
        again = restart_node(tmp_path, node.config_file)
        assert answers(again.endpoint)
        if again.mount:
            (again.mount / "usable").mkdir()
    finally:
        if again is not None:
            end_node(again)
        end_node(node)


def test_an_orphan_that_hangs_does_not_hold_up_the_next_start(tmp_path: Path) -> None:
    node = start_node(tmp_path)
    again = None
    try:
        pids = node.pids
        os.kill(pids["gateway-0"], signal.SIGSTOP)
        os.kill(pids["supervisor"], signal.SIGKILL)
        node.process.wait()
        start = time.monotonic()
        again = restart_node(tmp_path, node.config_file)
        assert time.monotonic() - start < node.serves_again_within_s
        assert not alive(pids["gateway-0"])
        assert answers(again.endpoint)
    finally:
        if again is not None:
            end_node(again)
        end_node(node)


def test_a_child_that_hangs_is_replaced(tmp_path: Path) -> None:
    with running_node(tmp_path, mount=None, node={"gateways": 1, "hang_timeout_s": 3.0}) as node:
        pid = node.pids["gateway-0"]
        os.kill(pid, signal.SIGSTOP)
        node.wait_until_back("gateway-0", pid, deadline_s=60)
        assert "gateway-0 hangs: nothing heard for" in node.log
        assert answers(node.endpoint)


def test_systemd_hears_of_start_life_and_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(20)
        systemd.bind(str(path))
        with running_node(tmp_path, mount=None) as node:
            heard = b""
            while b"READY=1" not in heard:
                heard = systemd.recv(1000)
            assert node.endpoint.encode() in heard
            while heard != b"WATCHDOG=1":
                heard = systemd.recv(1000)
        while b"STOPPING=1" not in heard:
            heard = systemd.recv(1000)


def test_without_a_mount_the_node_serves_s3_and_says_so(tmp_path: Path) -> None:
    with running_node(tmp_path, mount={"enabled": False}) as node:
        assert node.mount is None
        assert node.ready["mount_absent"] == "mount.enabled is false"
        assert answers(node.endpoint)
        assert "no mount: mount.enabled is false; serving S3 only" in node.log


def test_a_taken_port_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = write_config(tmp_path, {"s3": {"port": port}, "mount": None})
        done = subprocess.run(
            [FOREBAY, "serve", "--config", config],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == ExitCode.CONFIGURATION
    assert f"cannot serve S3 on 127.0.0.1 port {port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


@needs_mount
def test_a_mount_point_in_use_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"mount": {"path": "/proc"}})
    done = subprocess.run(
        [FOREBAY, "serve", "--config", config],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == ExitCode.CONFIGURATION
    assert "forebay: /proc is the mount point of a proc file system" in done.stderr
    assert "Traceback" not in done.stderr
    assert Path("/proc/self").exists()


def test_a_missing_store_is_a_mistake_before_the_first_start_and_an_outage_later(
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path, {"mount": None})
    (tmp_path / "store").rmdir()
    done = serve(config)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "[stores.main] path:" in done.stderr

    (tmp_path / "store").mkdir()
    with running_node(tmp_path, mount=None) as node:
        node.forebay("buckets", "create", "kept")
    (tmp_path / "store").rename(tmp_path / "away")
    again = restart_node(tmp_path, config)
    try:
        listed = json.loads(again.forebay("buckets", "list", "--json").stdout)
        assert [bucket["name"] for bucket in listed["buckets"]] == ["kept"]
    finally:
        end_node(again)
