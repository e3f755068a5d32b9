"""What systemd is told, and what the unit file promises."""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from node.systemd import Systemd

UNIT = Path(__file__).parent.parent / "systemd" / "forebay.service"


def test_states_are_sent_to_the_notify_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        systemd = Systemd()
        assert "NOTIFY_SOCKET" not in os.environ  # children must not speak for the node
        assert systemd.watchdog_interval_s == 15
        systemd.ready("serving")
        assert receiver.recv(200) == b"READY=1\nSTATUS=serving"
        systemd.alive()
        assert receiver.recv(200) == b"WATCHDOG=1"
        systemd.stopping("draining", 30)
        assert receiver.recv(200) == b"STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=30000000"


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    systemd = Systemd()
    assert systemd.watchdog_interval_s is None
    systemd.ready("serving")


def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Systemd().watchdog_interval_s is None


def test_a_systemd_that_does_not_listen_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    systemd = Systemd()
    systemd.ready("nobody there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(path))
        for _ in range(1000):  # more than its queue holds
            systemd.alive()


def unit() -> dict[str, str]:
    # SystemCallFilter and DeviceAllow stand there several times; the last one is enough here.
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def test_the_unit_waits_for_ready_and_watches() -> None:
    service = unit()
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) > 2 * 30  # twice the default of node.hang_timeout_s
    assert int(service["TimeoutStopSec"]) > 30  # node.drain_timeout_s
    assert service["KillMode"] == "mixed"


def test_the_unit_keeps_the_mount_visible_to_the_machine() -> None:
    # systemd.exec(5): each of these puts the service into a mount namespace of its own.
    hides = {
        "PrivateDevices", "PrivateMounts", "PrivateTmp", "ProtectControlGroups", "ProtectHome",
        "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
        "ProtectProc", "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths",
        "RootDirectory", "TemporaryFileSystem", "BindPaths", "DynamicUser", "MountFlags",
    }  # fmt: skip
    assert hides & set(unit()) == set()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    there = tmp_path / UNIT.name
    there.write_text(UNIT.read_text().replace("/opt/forebay/bin/forebay", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", there], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
