"""What a running node leaves in the machine: locks, orphans, the port, mount points, the socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from node import control, mountpoint, orphans, port, run_lock
from node.errors import ExitCode, OperatorError


@contextmanager
def holder(path: Path, *, on_term: str = "sys.exit(0)") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until it is killed."""
    script = textwrap.dedent(
        f"""
        import signal, sys, threading
        from pathlib import Path
        from node import run_lock
        signal.signal(signal.SIGTERM, lambda *_: {on_term})
        lock = run_lock.take(Path({str(path)!r}))
        print("locked", flush=True)
        threading.Event().wait()
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_lock_says_who_holds_it_and_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert run_lock.holder(path) == 0
    with holder(path) as process:
        assert run_lock.holder(path) == process.pid
        with pytest.raises(run_lock.LockHeldError) as caught:
            run_lock.take(path)
        assert caught.value.pid == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert run_lock.holder(path) == 0
        with run_lock.take(path):
            pass


def test_a_lock_is_not_inherited(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    lock = run_lock.take(path)
    with subprocess.Popen(["sleep", "600"]) as process:
        lock.close()
        assert run_lock.holder(path) == 0
        process.kill()


def test_an_orphan_that_ends_by_itself_is_awaited(tmp_path: Path) -> None:
    with holder(orphans.lock_path(tmp_path, "mount")) as process:
        process.send_signal(signal.SIGTERM)
        orphans.wait_until_gone(tmp_path)
        assert process.wait(60) == 0


def test_an_orphan_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "_PATIENCE_S", 0.1)
    with holder(orphans.lock_path(tmp_path, "mover"), on_term="None") as process:
        orphans.wait_until_gone(tmp_path)
        assert process.wait(60) == -signal.SIGKILL


def test_a_reserved_port_is_shared_with_gateways_only() -> None:
    with port.reserved("127.0.0.1", 0) as number:
        with (
            pytest.raises(OperatorError, match=f"port {number}: Address already in use") as caught,
            port.reserved("127.0.0.1", number),
        ):
            pytest.fail("two nodes have one port")
        assert caught.value.code is ExitCode.CONFIGURATION
        with socket.socket() as gateway:
            gateway.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            gateway.bind(("127.0.0.1", number))
            gateway.listen()
            # The reservation does not listen: every connection reaches the gateway.
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", number)):
                    gateway.accept()[0].close()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(OperatorError, match=r"192\.0\.2\.1"), port.reserved("192.0.2.1", 0):
        pytest.fail("bound")


def test_a_mount_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    mountpoint.clear(Path("/proc"))
    assert Path("/proc/self").exists()
    mountpoint.clear(tmp_path)


def test_only_the_parents_of_a_mount_point_are_resolved(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    (real / "mnt").symlink_to("elsewhere")
    assert mountpoint.real_path(tmp_path / "link" / "mnt") == real / "mnt"


def test_the_control_socket_answers_and_refuses_nonsense(tmp_path: Path) -> None:
    async def main() -> None:
        async with control.listening(tmp_path, {"status": lambda: {"state": "serving"}}):
            assert control.socket_path(tmp_path).stat().st_mode & 0o777 == 0o600
            answer = await trio.to_thread.run_sync(control.ask, tmp_path, "status")
            assert answer == {"state": "serving"}
            with pytest.raises(OperatorError, match="ask one of status"):
                await trio.to_thread.run_sync(control.ask, tmp_path, "nonsense")
            stream = await trio.open_unix_socket(control.socket_path(tmp_path))
            await stream.send_all(b"not json\n")
            assert b"not a question" in await stream.receive_some()

    trio.run(main)
    assert not control.socket_path(tmp_path).exists()


def test_a_socket_without_a_node_says_that_none_runs(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with pytest.raises(OperatorError, match=r"no node is running on .*forebay serve") as caught:
        control.ask(run_dir, "status")
    assert caught.value.code is ExitCode.NOT_RUNNING
    # A socket that a killed node left behind is no node either.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(control.socket_path(run_dir)))
    with pytest.raises(OperatorError, match="no node is running"):
        control.ask(run_dir, "status")
