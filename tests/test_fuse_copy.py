"""A real tree through the mount: copied in, compared as programs compare, and again after a
restart, and as plain files in the store."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.mount import mounted, requires_fuse

pytestmark = [
    requires_fuse,
    pytest.mark.skipif(shutil.which("rsync") is None, reason="needs rsync"),
]

SOURCES = ("zoneinfo", "perl5", "doc", "man", "terminfo", "icons", "mime")
ENTRIES = 500


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A slice of /usr/share: files, symlinks, hard links, empty directories, odd modes."""
    tree = tmp_path / "tree"
    tree.mkdir()
    left = ENTRIES
    for source in SOURCES:
        for path, directories, files in os.walk(f"/usr/share/{source}"):
            directories.sort()
            target = tree / source / os.path.relpath(path, f"/usr/share/{source}")
            target.mkdir(parents=True, exist_ok=True)
            shutil.copystat(path, target)
            for name in sorted(files)[: left // 20 + 1]:
                shutil.copy2(Path(path) / name, target / name, follow_symlinks=False)
                left -= 1
            if left <= 0:
                break
    (tree / "empty" / "below").mkdir(parents=True)
    (tree / "empty" / "below").chmod(0o1777)
    (tree / "dangling").symlink_to("no/such/file")
    (tree / "a b\nümläut").write_bytes(os.urandom(10_000))
    (tree / "large").write_bytes(os.urandom(20_000_000))
    (tree / "large").chmod(0o600)
    os.link(tree / "large", tree / "linked")
    os.utime(tree / "large", ns=(1, 123_456_789_123_456_789))
    return tree


def _same(one: Path, other: Path) -> None:
    subprocess.run(["diff", "-r", "--no-dereference", one, other], check=True)
    # With checksums, modes, owners, times of files, and hard links.
    rsync = ["rsync", "-naHAcO", "--delete", "--itemize-changes", f"{one}/", f"{other}/"]
    differences = subprocess.run(rsync, check=True, capture_output=True, text=True).stdout
    assert differences == ""


def _sync_directories(top: Path) -> None:
    """What close(2) has no part in, such as a symlink, is in the store when its directory is
    synced; else the mover takes it there soon."""
    for path, _, _ in os.walk(top):
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)


def test_a_copied_tree_is_the_same_here_after_a_restart_and_in_the_store(
    tmp_path: Path, tree: Path
) -> None:
    with mounted(tmp_path) as mount:
        copy = mount.bucket / "copy"
        subprocess.run(["cp", "-a", tree, copy], check=True)
        _same(tree, copy)
        mount.stop()
        mount.start()
        _same(tree, copy)
        _sync_directories(mount.bucket)
        subprocess.run(["diff", "-r", "--no-dereference", tree, mount.store / "copy"], check=True)
        subprocess.run(["rm", "-rf", copy], check=True)
        assert os.listdir(mount.bucket) == []
