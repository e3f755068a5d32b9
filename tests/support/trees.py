"""Real directory trees to copy around, and the programs that compare them.

The trees are slices of /usr/share of the machine that runs the test: names, sizes, links and modes
that nobody made up for us. What a slice happens to lack is added: an empty directory, a dangling
link, odd modes and names.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

SHARE = Path("/usr/share")
LARGEST = 2 << 20
"""Files above this are left out: many small ones say more in the same time."""


def slice_of(directories: list[str], target: Path, files: int) -> Path:
    """Copy at most `files` files and links of directories below /usr/share, with all of their
    attributes. Those that this machine lacks are passed over."""
    left = files
    target.mkdir()
    for name in directories:
        for source in _walk(SHARE / name):
            if left == 0:
                break
            copy = target / source.relative_to(SHARE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)
            left -= 1
    assert left < files * 3 // 4, f"too little in {directories} for a test of a real tree"
    _add_rarities(target / "rarities")
    for directory, _, _ in os.walk(target, topdown=False):
        source = SHARE / Path(directory).relative_to(target)
        if source.exists():
            shutil.copystat(source, directory)
    return target


def _walk(directory: Path) -> Iterator[Path]:
    for above, below, names in os.walk(directory):
        below.sort()
        for name in sorted(names + [d for d in below if (Path(above) / d).is_symlink()]):
            path = Path(above) / name
            if path.is_symlink() or (path.is_file() and path.stat().st_size <= LARGEST):
                yield path


def _add_rarities(directory: Path) -> None:
    directory.mkdir()
    (directory / "empty directory").mkdir()
    (directory / "empty file").touch()
    (directory / "dangling").symlink_to("nowhere/at all")
    (directory / "to a directory").symlink_to("empty directory")
    (directory / "größe & #1?%41+").write_text("a name that URLs and XML have to quote")
    (directory / "private").write_bytes(os.urandom(5000))
    (directory / "private").chmod(0o600)
    (directory / "program").write_text("#!/bin/sh\n")
    (directory / "program").chmod(0o755)
    (directory / "old").write_text("from the epoch's first second")
    os.utime(directory / "old", ns=(1_000_000_001, 1_000_000_001))
    (directory / "large").write_bytes(
        os.urandom(9 << 20)
    )  # more than one part, more than one extent
    (directory / "drop box").mkdir(mode=0o700)
    (directory / "drop box").chmod(0o1777)


def as_files(tree: Path, target: Path) -> Path:
    """The tree as a client sees it that knows only keys and bytes: a link is a file with its
    target in it, an empty directory is not there."""
    target.mkdir()
    for key, content in as_objects(tree).items():
        if not key.endswith("/"):
            file = target / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return target


def as_objects(tree: Path) -> dict[str, bytes]:
    """What the S3 door shows of a tree that was copied into the mount, relative to it: files,
    links as their targets, and each directory as an empty object `name/`."""
    found: dict[str, bytes] = {}
    for above, below, names in os.walk(tree):
        for name in below + names:
            path = Path(above) / name
            key = path.relative_to(tree).as_posix()
            if path.is_symlink():
                found[key] = os.fsencode(os.readlink(path))
            elif path.is_dir():
                found[key + "/"] = b""
            else:
                found[key] = path.read_bytes()
    return found


def assert_same_names_and_bytes(tree: Path, copy: Path) -> None:
    """diff(1) finds nothing."""
    _assert_says_nothing("diff", "-r", "--no-dereference", tree, copy)


def assert_same(tree: Path, copy: Path) -> None:
    """diff(1) and rsync(1) with checksums find nothing: names, bytes, links, modes, owners and
    times agree."""
    assert_same_names_and_bytes(tree, copy)
    _assert_says_nothing("rsync", "-nac", "--delete", "--itemize-changes", f"{tree}/", f"{copy}/")


def _assert_says_nothing(*command: str | Path) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        errors="backslashreplace", check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout[-3000:]


def differences(left: Path, right: Path, *, times: bool = True) -> list[str]:
    """What two trees do not have in common: names, kinds, bytes, permissions, owners, and times
    unless they are of no interest."""
    ours, theirs = _entries(left), _entries(right)
    lines = [f"only in {left}: {name}" for name in sorted(ours.keys() - theirs.keys())]
    lines += [f"only in {right}: {name}" for name in sorted(theirs.keys() - ours.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        if told := _differ(ours[name], theirs[name], times):
            lines.append(f"{name} ({stat.filemode(ours[name].lstat().st_mode)}): {told}")
    return lines


def _entries(root: Path) -> dict[str, Path]:
    """Everything below root by its path, but what the store keeps of the bucket itself."""
    found = {}
    for above, directories, files in os.walk(root):
        if Path(above) == root:
            directories[:] = [name for name in directories if name != ".forebay"]
        for name in (*directories, *files):
            path = Path(above) / name
            found[str(path.relative_to(root))] = path
    return found


def _differ(left: Path, right: Path, times: bool) -> str:
    one, other = left.lstat(), right.lstat()
    # A device file's size and a directory's are the file system's own business.
    names = ["st_mode", "st_uid", "st_gid", "st_rdev"]
    if times and not stat.S_ISLNK(one.st_mode):
        names.append("st_mtime_ns")
    if stat.S_ISREG(one.st_mode) or stat.S_ISLNK(one.st_mode):
        names.append("st_size")
    told = [
        f"{name} {getattr(one, name)} and {getattr(other, name)}"
        for name in names
        if getattr(one, name) != getattr(other, name)
    ]
    if not told and stat.S_ISLNK(one.st_mode) and left.readlink() != right.readlink():
        told = [f"target {left.readlink()} and {right.readlink()}"]
    if not told and stat.S_ISREG(one.st_mode) and not _same_bytes(left, right):
        told = ["other bytes"]
    return ", ".join(told)


def _same_bytes(left: Path, right: Path) -> bool:
    with left.open("rb") as one, right.open("rb") as other:
        while piece := one.read(1 << 20):
            if piece != other.read(len(piece)):
                return False
        return not other.read(1)
