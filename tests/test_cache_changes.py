"""The change bus between a committing process and the mount: nothing committed stays untold."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cache.changes import Change, ChangeListener, ChangeSender

CHANGES = [Change(1, b"name", 0), Change(0, b"", 1)]
DEADLINE_S = 20.0


class Kernel:
    """What the mount is told."""

    def __init__(self) -> None:
        self.forgotten: queue.SimpleQueue[Sequence[Change]] = queue.SimpleQueue()
        self.answers = threading.Event()
        self.answers.set()

    def forget(self, changes: Sequence[Change]) -> None:
        self.answers.wait(DEADLINE_S)
        self.forgotten.put(changes)


@pytest.fixture
def address(tmp_path: Path) -> Path:
    return tmp_path / "changes.sock"


@contextlib.contextmanager
def mount(address: Path) -> Iterator[Kernel]:
    kernel = Kernel()
    listener = ChangeListener(address, kernel.forget)
    listener.start()
    try:
        yield kernel
    finally:
        listener.stop()


def no_timeout() -> None:
    pytest.fail("the mount did not answer in time")


def test_nothing_is_forgotten_before_the_commit_and_all_is_when_confirmed(address: Path) -> None:
    with mount(address) as kernel:
        sender = ChangeSender(address, no_timeout)
        for _ in range(3):
            notice = sender.notice()
            notice.warn(CHANGES)
            assert kernel.forgotten.empty()
            notice.confirm()
            assert kernel.forgotten.get_nowait() == CHANGES


def test_a_commit_that_fails_costs_no_more_than_a_needless_forgetting(address: Path) -> None:
    with mount(address) as kernel:
        sender = ChangeSender(address, no_timeout)
        sender.notice().withdraw()
        notice = sender.notice()
        notice.warn(CHANGES)
        notice.withdraw()
        assert kernel.forgotten.get(timeout=DEADLINE_S) == CHANGES
        sender.forget(CHANGES[:1])
        assert kernel.forgotten.get_nowait() == CHANGES[:1]
        assert kernel.forgotten.empty()


def test_a_process_killed_between_commit_and_confirmation_has_told(address: Path) -> None:
    script = f"""
        import os, signal
        from pathlib import Path
        from cache.changes import Change, ChangeSender
        notice = ChangeSender(Path({str(address)!r}), lambda: None).notice()
        notice.warn([Change(1, b"name", 0), Change(0, b"", 1)])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with mount(address) as kernel:
        killed = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=DEADLINE_S
        )
        assert killed.returncode == -signal.SIGKILL
        assert kernel.forgotten.get(timeout=DEADLINE_S) == CHANGES


def test_a_mount_that_came_since_the_warning_is_told(address: Path) -> None:
    sender = ChangeSender(address, no_timeout)
    before = sender.notice()
    before.warn(CHANGES)
    with mount(address) as first:
        before.confirm()
        assert first.forgotten.get_nowait() == CHANGES


def test_without_a_mount_nobody_is_waited_for(address: Path) -> None:
    notice = ChangeSender(address, no_timeout).notice()
    notice.warn(CHANGES)
    notice.confirm()
    assert not os.path.lexists(address)
