"""Programs that wait for a store that hangs, and are told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse.interrupts import is_ending, is_to_end
from tests.support import faulty_store
from tests.support.mount import Mounted, mounted, requires_fuse

AT_ONCE_S = 20.0  # far below the deadlines of 30 and 120 s


def status(*, pending: int = 0, shared: int = 0, blocked: int = 0, caught: int = 0) -> bytes:
    """Lines of /proc/TID/status with one signal in each set; 0: none."""
    sets = {"SigPnd": pending, "ShdPnd": shared, "SigBlk": blocked, "SigCgt": caught}
    lines = [f"{name}:\t{1 << number - 1 if number else 0:016x}\n" for name, number in sets.items()]
    return "".join(["Name:\tls\n", *lines]).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (status(), False),
        (status(pending=signal.SIGKILL), True),  # what any fatal signal becomes
        (status(shared=signal.SIGUSR1), True),
        (status(shared=signal.SIGUSR1, caught=signal.SIGUSR1), False),
        (status(shared=signal.SIGINT, caught=signal.SIGINT), True),
        (status(shared=signal.SIGTERM, blocked=signal.SIGTERM), False),
        (status(shared=signal.SIGTSTP), False),
        (status(caught=signal.SIGINT), False),
    ],
)
def test_which_signals_count(text: bytes, expected: bool) -> None:
    assert is_ending(text) == expected


def test_a_thread_that_cannot_be_looked_at_goes_on_waiting() -> None:
    assert not is_to_end(0)
    assert not is_to_end(os.getpid())


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    home = tmp_path_factory.mktemp("hanging")
    for directory in ("hung-ls", "hung-kill", "hung-python"):
        (home / "store" / directory).mkdir(parents=True)
    (home / "store" / "hung-file").write_bytes(b"content" * 100_000)
    with mounted(home, prepare="tests.support.faulty_store:break_by_name") as mount:
        (mount.bucket / "file").write_bytes(b"content")
        with faulty_store.hanging(home):
            yield mount


LIST = "import os, sys, signal; signal.signal(signal.SIGINT, lambda *_: sys.exit(3));\
 os.listdir(sys.argv[1])"


@requires_fuse
@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        (lambda bucket: ["ls", bucket / "hung-ls"], signal.SIGINT, -signal.SIGINT),
        (lambda bucket: ["ls", bucket / "hung-kill"], signal.SIGKILL, -signal.SIGKILL),
        (lambda bucket: [sys.executable, "-c", LIST, bucket / "hung-python"], signal.SIGINT, 3),
        (lambda bucket: ["cat", bucket / "hung-file"], signal.SIGINT, -signal.SIGINT),
        (lambda bucket: ["cp", bucket / "file", bucket / "hung-new"], signal.SIGINT, -2),
    ],
    ids=["ls", "ls-kill", "python", "cat", "cp"],
)
def test_they_end_at_once(
    hanging: Mounted, command: Callable[[Path], list[str | Path]], number: int, code: int
) -> None:
    (hanging.home / "hung").unlink(missing_ok=True)
    # Tests that run in the background of a shell ignore SIGINT, and so would what they start.
    heeding = ["env", "--default-signal=INT", *command(hanging.bucket)]
    program = subprocess.Popen(heeding, stdout=subprocess.DEVNULL)
    faulty_store.wait_until_one_hangs(hanging.home)
    start = time.monotonic()
    program.send_signal(number)
    assert program.wait(60) == code
    assert time.monotonic() - start < AT_ONCE_S
    assert (hanging.bucket / "file").read_bytes() == b"content"  # and the mount goes on
