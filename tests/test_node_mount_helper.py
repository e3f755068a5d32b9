"""mount(8) and fstab: what the helper understands, and a node that is mounted with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node import mount_helper
from node.mount_helper import UsageError, read
from tests.support.mount import requires_fuse
from tests.support.node import write_config

MOUNT_UNIT = Path(__file__).parent.parent / "systemd" / "srv-forebay.mount"
PLACES = ["/etc/forebay.toml", "/srv/forebay"]


def settings(*words: str) -> dict[str, object]:
    found = read([*PLACES, *words]).settings
    for name in ("path", "enabled", "fsname"):
        del found[name]
    return found


def test_the_arguments_of_mount() -> None:
    found = read(["forebay.toml", "mnt", "-v", "-n", "-t", "fuse.forebay", "-o", "rw"])
    assert (found.source, found.directory) == (Path.cwd() / "forebay.toml", Path.cwd() / "mnt")
    assert found.settings == {
        "path": str(Path.cwd() / "mnt"),
        "enabled": True,
        "fsname": "forebay.toml",
        "read_only": False,
    }
    assert not found.fake
    assert not found.foreground


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("defaults,noauto,_netdev,nofail,user,x-systemd.automount,relatime", {"relatime": True}),
        ("nodiratime,noatime", {"relatime": False}),
        ("ro,noexec,allow_other", {"read_only": True, "noexec": True, "allow_other": True}),
        ("nodev,nosuid,dev,suid", {"dev": True, "suid": True}),  # the last one counts
    ],
)
def test_options(options: str, expected: dict[str, object]) -> None:
    assert settings("-o", options) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["-o", "bogus"],
        ["-o", "strictatime"],
        ["-o", "nodiratime"],
        ["-o", "read_ahead_kb=4096"],
        ["-o", "remount,ro"],
        ["-o"],
        ["-N", "1"],
        ["-"],
        ["third"],
    ],
)
def test_what_would_not_be_honoured_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        read([*PLACES, *words])


def test_a_sloppy_mount_names_what_it_ignores() -> None:
    assert read([*PLACES, "-s", "-o", "bogus,rw"]).ignored == ["bogus"]


def test_places_with_blanks_are_no_name_of_a_file_system() -> None:
    assert "fsname" not in read(["/etc/my forebay.toml", "/mnt"]).settings
    assert read([*PLACES, "-o", "fsname=mine"]).settings["fsname"] == "mine"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["-o", "bogus"], mount_helper.MountCode.USAGE, "unknown option bogus"),
        ([], mount_helper.MountCode.FAILED, "cannot be read"),
    ],
)
def test_how_it_ends(
    words: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing = str(tmp_path / "missing.toml")
    monkeypatch.setattr(sys, "argv", ["mount.fuse.forebay", missing, str(tmp_path), *words])
    with pytest.raises(SystemExit) as end:
        mount_helper.main()
    assert end.value.code == code
    assert says in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_mount_unit() -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", MOUNT_UNIT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


_SCRIPT = """\
set -eu
# Where mount(8) looks for its helpers, as only this namespace sees it.
mkdir up work mnt
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$PWD/up,workdir=$PWD/work" /usr/sbin ||
    { echo SKIP; exit 0; }
printf '#!/bin/sh\\nexec %s -P -m node.mount_helper "$@"\\n' "$PYTHON" > \
    /usr/sbin/mount.fuse.forebay
chmod +x /usr/sbin/mount.fuse.forebay
trap 'umount "$PWD/mnt" 2>/dev/null || true' EXIT

mount -t fuse.forebay -o noexec,allow_other "$PWD/forebay.toml" "$PWD/mnt"
grep " $PWD/mnt " /proc/mounts
mkdir mnt/bucket
echo content > mnt/bucket/file
! mount -t fuse.forebay "$PWD/forebay.toml" "$PWD/other" || exit 1
umount mnt

echo "$PWD/forebay.toml $PWD/mnt fuse.forebay ro,noatime,_netdev,nofail 0 0" > fstab
export LIBMOUNT_FSTAB=$PWD/fstab
mount mnt # as soon as the one before has drained and ended
grep " $PWD/mnt " /proc/mounts
mount -a
cat mnt/bucket/file
! touch mnt/bucket/new || exit 1
umount mnt
"""


@requires_fuse
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts as root")
def test_mount_and_a_line_of_fstab(tmp_path: Path) -> None:
    write_config(tmp_path, {"s3": {"enabled": False, "port": None, "address": None}})
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": sys.executable, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if "SKIP" in done.stdout:
        pytest.skip("no overlay file system here")
    assert done.returncode == 0, done.stderr + (tmp_path / "state" / "forebay.log").read_text()
    first, second, content = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path}/forebay.toml {tmp_path}/mnt fuse.forebay rw,")
    assert {"noexec", "allow_other"} < set(first.split()[3].split(","))
    assert {"ro", "noatime"} < set(second.split()[3].split(","))
    assert content == "content"
    assert (tmp_path / "store" / "bucket" / "file").read_text() == "content\n"
    assert "a node is already running" in done.stderr
    assert "Read-only file system" in done.stderr
