"""fsstress of kdave/xfstests: many processes, random calls on one tree. What it leaves behind is
what is judged: nothing may hang, and both sides of the cache must agree on it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from tests.support.conformance.cases import Case
from tests.support.conformance.programs import run

PROCESSES = 8
_GRACE_S = 300
_OPERATION = re.compile(r"^(\d+)/(\d+): ")


def case(built: Path, directory: Path, left: Path, seed: int, duration_s: int) -> Case:
    """Run it. Its processes end by themselves; one that hangs is a failure."""
    directory.mkdir()
    log = left / "fsstress.log"
    command = [
        str(built / "fsstress"),
        *("-d", str(directory), "-p", str(PROCESSES), "-s", str(seed), "-v"),
        *("-n", "2000", "-l", "0", f"--duration={duration_s}"),
    ]
    done = run(command, cwd=left, timeout_s=duration_s + _GRACE_S, into=log)
    operations = count_operations(log)
    failures = (f"exit code {done.exit_code}",) if done.exit_code else ()
    name = f"seed {seed}, {duration_s} s"
    return Case("fsstress", f"{PROCESSES} processes", name, operations, operations, 0, failures)


def count_operations(log: Path) -> int:
    """Operations begun by all processes. Each counts its own, and starts again with each loop."""
    total = 0
    last: dict[str, int] = {}
    with log.open(errors="replace") as lines:
        for line in lines:
            if found := _OPERATION.match(line):
                process, number = found[1], int(found[2])
                before = last.get(process, -1)
                total += number - before if number >= before else number + 1
                last[process] = number
    return total


def differences(left: Path, right: Path) -> list[str]:
    """What two trees do not have in common: names, kinds, bytes, permissions, owners, times."""
    ours, theirs = _entries(left), _entries(right)
    lines = [f"only in {left}: {name}" for name in sorted(ours.keys() - theirs.keys())]
    lines += [f"only in {right}: {name}" for name in sorted(theirs.keys() - ours.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        if told := _differ(ours[name], theirs[name]):
            lines.append(f"{name}: {told}")
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


def _differ(left: Path, right: Path) -> str:
    one, other = left.lstat(), right.lstat()
    # A device file's size and a directory's are the file system's own business.
    names = ["st_mode", "st_uid", "st_gid", "st_rdev"]
    if not stat.S_ISLNK(one.st_mode):
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
