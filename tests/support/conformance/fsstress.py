"""fsstress of kdave/xfstests: many processes, random calls on one tree. What it leaves behind is
what is judged: nothing may hang, and both sides of the cache must agree on it."""

from __future__ import annotations

import re
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
