"""The change bus: a commit is answered when the mount has forgotten, and never hangs on a mount."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cache import changes
from cache.changes import Change, ChangeListener, ChangeSender
from tests.support.volume import TestVolume, box
from tests.support.waiting import wait_until

__all__ = ["box"]

CHANGE = Change(2, b"name", 0)


class Mount:
    """A listener that notes what it was to forget."""

    def __init__(self, path: Path) -> None:
        self.forgotten: list[Change] = []
        self.error: Exception | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.listener = ChangeListener(path, self.forget)
        self.listener.start()

    def forget(self, some: Sequence[Change]) -> None:
        self.may_answer.wait()
        if self.error is not None:
            raise self.error
        self.forgotten += some


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "changes.sock"


@pytest.fixture
def mount(path: Path) -> Iterator[Mount]:
    mount = Mount(path)
    yield mount
    mount.may_answer.set()
    mount.listener.stop()


def sender(path: Path, timeouts: list[int]) -> ChangeSender:
    return ChangeSender(path, lambda: timeouts.append(1))


def test_forget_returns_when_the_mount_has_forgotten(path: Path, mount: Mount) -> None:
    timeouts: list[int] = []
    bus = sender(path, timeouts)
    for _ in range(3):
        bus.forget([CHANGE])
    assert mount.forgotten == [CHANGE] * 3
    assert timeouts == []


def test_without_a_mount_there_is_nothing_to_wait_for(path: Path) -> None:
    timeouts: list[int] = []
    sender(path, timeouts).forget([CHANGE])
    assert timeouts == []


def test_a_mount_that_follows_another_is_told(path: Path, mount: Mount) -> None:
    mount.listener.stop()
    timeouts: list[int] = []
    sender(path, timeouts).forget([CHANGE])
    after = Mount(path)
    try:
        sender(path, timeouts).forget([CHANGE])
    finally:
        after.listener.stop()
    assert (mount.forgotten, after.forgotten, timeouts) == ([], [CHANGE], [])


def test_a_mount_that_does_not_answer_is_given_up_and_counted(
    path: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "FORGET_TIMEOUT_S", 0.05)
    timeouts: list[int] = []
    bus = sender(path, timeouts)
    mount.may_answer.clear()
    bus.forget([CHANGE])
    assert timeouts == [1]
    mount.may_answer.set()
    bus.forget([CHANGE])
    assert timeouts == [1]


def test_a_mount_that_fails_to_forget_does_not_confirm(
    path: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "FORGET_TIMEOUT_S", 0.05)
    timeouts: list[int] = []
    mount.error = ValueError("the kernel would not")
    sender(path, timeouts).forget([CHANGE])
    assert timeouts == [1]


def test_a_sender_that_dies_behind_its_warning_is_believed(path: Path, mount: Mount) -> None:
    notice = sender(path, []).notice()
    notice.warn([CHANGE])
    assert mount.forgotten == []
    notice.withdraw()  # the connection ends, as with the process
    wait_until(lambda: mount.forgotten == [CHANGE])


def test_a_warning_is_acted_upon_once_it_is_confirmed(path: Path, mount: Mount) -> None:
    bus = sender(path, [])
    for number in range(3):
        notice = bus.notice()
        notice.warn([CHANGE])
        assert len(mount.forgotten) == number
        notice.confirm()
        assert len(mount.forgotten) == number + 1


def test_what_is_cut_off_in_mid_word_is_nothing(path: Path, mount: Mount) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.connect(str(path))
        raw.sendall(b"\0\0\1\0half")
    sender(path, []).forget([CHANGE])
    assert mount.forgotten == [CHANGE]


def test_a_socket_left_by_a_dead_mount_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.bind(str(path))
    mount = Mount(path)
    try:
        sender(path, []).forget([CHANGE])
        assert mount.forgotten == [CHANGE]
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        mount.listener.stop()


def test_what_the_s3_door_does_is_told_by_name(box: TestVolume) -> None:
    box.listed()
    mount = Mount(box.config.cache.change_socket)
    try:
        box.put(b"d/e/a")
        top = box.root
        inner = box.inode(b"d/e").id
        assert Change(top, b"d", 0) in mount.forgotten, "a negative entry may be held"
        assert Change(inner, b"a", 0) in mount.forgotten
        assert Change(0, b"", inner) in mount.forgotten, "the directory's times"
        mount.forgotten.clear()
        box.put(b"d/e/a", b"again")
        assert Change(inner, b"a", 0) in mount.forgotten
        mount.forgotten.clear()
        box.delete(b"d/e/a")
        assert {Change(inner, b"a", 0), Change(top, b"d", 0)} <= set(mount.forgotten)
        mount.forgotten.clear()
        with pytest.raises(AssertionError):
            box.put(b"b", check=lambda found: _fail())
        assert mount.forgotten == []
    finally:
        mount.listener.stop()


def _fail() -> None:
    raise AssertionError("a condition")
