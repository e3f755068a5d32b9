"""`mount.fuse.forebay`: what mount(8) runs for `mount -t fuse.forebay`, for fstab and mount units.

    mount -t fuse.forebay -o allow_other /etc/forebay/forebay.toml /srv/forebay

The source is a configuration; the directory and the options take the place of what its table
[mount] says. The node that is started lives as long as the mount: umount(8) ends it in order, its
S3 endpoint too. mount(8) returns when the node serves, or with the reason why it cannot; with the
option `foreground` the node is this very process (systemd: Type=notify).

An option that would not be honoured is refused. In the background the log goes to the journal where
that is what mount's stderr is (systemd's mount units), else to `forebay.log` in the state
directory. The arguments are those of a mount helper (mount(8), "EXTERNAL HELPERS"), the exit codes
mount(8)'s.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cache.errors import CacheError
from node import config_text, control, logs, mountpoint, run_lock
from node.config import NodeConfig, parse, secrets_of
from node.errors import OperatorError
from node.volumes import check_first_start

_PROGRAM = "mount.fuse.forebay"
_POLL_S = 0.05

_SETTINGS: dict[str, dict[str, Any]] = {
    "rw": {"read_only": False},
    "ro": {"read_only": True},
    "dev": {"dev": True},
    "nodev": {"dev": False},
    "suid": {"suid": True},
    "nosuid": {"suid": False},
    "exec": {"noexec": False},
    "noexec": {"noexec": True},
    "allow_other": {"allow_other": True},
    "relatime": {"relatime": True},
    "noatime": {"relatime": False},
}
"""Options, and what they set in [mount]."""
_FOR_MOUNT = frozenset(
    {
        "defaults", "auto", "noauto", "nofail", "user", "nouser", "users", "nousers", "owner",
        "noowner", "group", "nogroup", "_netdev",
    }
)  # fmt: skip
"""What fstab says to mount(8) and systemd."""
_ALWAYS = frozenset({"default_permissions", "async", "nodiratime", "subtype=forebay"})
"""What is so in any case (nodiratime: with noatime)."""


class MountCode(enum.IntEnum):
    """Exit codes of mount(8)."""

    DONE = 0
    USAGE = 1
    BUG = 4
    FAILED = 32


class UsageError(Exception):
    """One sentence about the arguments."""


@dataclass(slots=True)
class Arguments:
    source: Path
    directory: Path
    options: list[str]
    fake: bool = False
    foreground: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    """Of [mount]."""
    ignored: list[str] = field(default_factory=list)
    """Options that are unknown, in a sloppy mount."""


def main() -> None:
    """Entry point of the console script."""
    try:
        code = run(sys.argv[1:])
    except UsageError as exc:
        code = _complain(exc, MountCode.USAGE)
    except (OperatorError, CacheError, OSError) as exc:
        code = _complain(exc, MountCode.FAILED)
    except Exception as exc:  # noqa: BLE001 - the last one to see it, and it is shown whole
        traceback.print_exc()
        code = _complain(exc, MountCode.BUG)
    sys.exit(int(code))


def run(words: Sequence[str]) -> MountCode:
    """UsageError, OperatorError."""
    arguments = read(words)
    for option in arguments.ignored:
        _say(f"ignoring the unknown option {option}")
    text = config_text.find(arguments.source).with_mount(arguments.settings)
    config = parse(text)
    if arguments.fake:
        return MountCode.DONE
    if absent := mountpoint.unavailable():
        raise OperatorError(f"cannot mount: {absent}")
    if arguments.foreground:
        _serve(config)
    else:
        _start_in_background(config, arguments)
    return MountCode.DONE


def read(words: Sequence[str]) -> Arguments:
    """The arguments as mount(8) gives them. UsageError."""
    places: list[str] = []
    options: list[str] = []
    flags = ""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-o", "-t"):
            if not rest:
                raise UsageError(f"{word} lacks its argument")
            value = rest.pop(0)
            if word == "-o":
                options += [option for option in value.split(",") if option]
        elif word.startswith("-"):
            if not word[1:] or set(word[1:]) - set("sfnvrw"):
                raise UsageError(f"unknown argument {word}")
            flags += word[1:]
        else:
            places.append(word)
    if len(places) != 2:
        raise UsageError(f"usage: {_PROGRAM} CONFIGURATION DIRECTORY [-sfnvrw] [-o OPTIONS]")
    options += [{"r": "ro", "w": "rw"}[flag] for flag in flags if flag in "rw"]
    found = Arguments(Path(places[0]).absolute(), Path(places[1]).absolute(), options)
    found.fake = "f" in flags
    found.settings = {"path": str(found.directory), "enabled": True}
    if not set(places[0]) & set(", \t\n\\"):
        # As fstab has it, so that `mount -a` sees that it is mounted.
        found.settings["fsname"] = places[0]
    for option in options:
        _take(found, option, sloppy="s" in flags)
    if "nodiratime" in options and found.settings.get("relatime", True):
        raise UsageError("nodiratime is offered with noatime only")
    return found


def _take(found: Arguments, option: str, *, sloppy: bool) -> None:
    name, separator, value = option.partition("=")
    if option in _SETTINGS:
        found.settings |= _SETTINGS[option]
    elif name == "fsname" and separator:
        found.settings["fsname"] = value
    elif option == "foreground":
        found.foreground = True
    elif option == "remount":
        raise UsageError("cannot be remounted: umount, and mount with the new options")
    elif option in _ALWAYS or name in _FOR_MOUNT or name.startswith(("x-", "X-", "comment")):
        return
    elif sloppy:
        found.ignored.append(option)
    else:
        raise UsageError(f"unknown option {option}; settings belong into {found.source}")


def _serve(config: NodeConfig) -> None:
    """Be the node, until the mount is taken away or a signal comes."""
    from node.supervisor import Supervisor  # with its event loop, which only the node needs

    logs.configure("supervisor", config.log, secrets=secrets_of(config))
    check_first_start(config)
    Supervisor(config, until_unmounted=True).run(lambda _: None)


def _start_in_background(config: NodeConfig, arguments: Arguments) -> None:
    """Start the node in a session of its own; return when it serves. OperatorError if it ends."""
    _wait_for_predecessor(config)
    options = ",".join([*arguments.options, "foreground"])
    command = [sys.executable, "-P", "-m", "node.mount_helper"]
    command += [str(arguments.source), str(arguments.directory), "-s", "-o", options]
    with _log(config) as log, _notify_socket() as (notices, address):
        begin = 0 if log is None else log.tell()
        node = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
            env=os.environ | {"NOTIFY_SOCKET": address},
            start_new_session=True,
        )
        try:
            code = _until_ready(node, notices)
        except BaseException:
            node.send_signal(signal.SIGTERM)  # mount(8) was interrupted
            raise
        if code is not None:
            raise OperatorError(_last_words(log, begin) or f"the node ended with code {code}")


def _until_ready(node: subprocess.Popen[bytes], notices: socket.socket) -> int | None:
    """None once the node serves; its exit code if it ends before."""
    ended = os.pidfd_open(node.pid)
    try:
        while True:
            readable, _, _ = select.select([notices.fileno(), ended], [], [])
            if notices.fileno() in readable and b"READY=1" in notices.recv(4096).splitlines():
                return None
            if ended in readable:
                return node.wait()
    finally:
        os.close(ended)


def _wait_for_predecessor(config: NodeConfig) -> None:
    """A node whose mount was just taken away still drains its queue, and has the state directory
    until then."""
    lock = config.cache.run_dir / "supervisor.lock"
    deadline = time.monotonic() + config.node.drain_timeout_s
    while run_lock.holder(lock) and time.monotonic() < deadline:
        with contextlib.suppress(OperatorError):
            if control.ask(config.cache.run_dir, "status")["state"] != "stopping":
                return  # a node that lives: the new one will say so
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _notify_socket() -> Iterator[tuple[socket.socket, str]]:
    """Where the node says that it is ready, as it would to systemd; and the address as the
    environment spells it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind("")  # an abstract name that the kernel chooses
        yield notices, "@" + notices.getsockname()[1:].decode()


@contextlib.contextmanager
def _log(config: NodeConfig) -> Iterator[IO[bytes] | None]:
    """The file that takes the node's stderr; None if ours is the journal, which is as good."""
    status = os.fstat(sys.stderr.fileno())
    if os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
        yield None
        return
    config.cache.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (config.cache.state_dir / "forebay.log").open("ab+") as log:
        yield log


def _last_words(log: IO[bytes] | None, begin: int) -> str:
    """The last line that the node wrote, which says why it ended."""
    if log is None:
        return ""
    log.seek(begin)
    lines = log.read().decode("utf-8", "replace").splitlines()
    return lines[-1].removeprefix(f"{_PROGRAM}: ") if lines else ""


def _complain(exc: Exception, code: MountCode) -> MountCode:
    _say(str(exc) or type(exc).__name__)
    return code


def _say(sentence: str) -> None:
    sys.stderr.write(f"{_PROGRAM}: {sentence}\n")


if __name__ == "__main__":
    main()
