"""pjd/pjdfstest: the results of system calls, for root and for other users."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.conformance.cases import Case
from tests.support.conformance.programs import run

_FILE_TIMEOUT_S = 900
_PLAN = re.compile(r"^1\.\.(\d+)")
_LINE = re.compile(r"^(not )?ok (\d+)(.*)")


def cases(built: Path, directory: Path, chosen: Callable[[str], bool]) -> Iterator[Case]:
    """Run each file of tests (named `rename/09`) that is chosen, in a directory of its own."""
    for script in sorted((built / "tests").glob("*/*.t")):
        name = f"{script.parent.name}/{script.stem}"
        if not chosen(name):
            continue
        place = directory / name.replace("/", "-")
        place.mkdir()
        # As `prove` runs them.
        done = run(["sh", str(script)], cwd=place, timeout_s=_FILE_TIMEOUT_S)
        yield read_tap(name, done.output, done.exit_code)
        subprocess.run(["rm", "-rf", place], check=False, timeout=_FILE_TIMEOUT_S)


def read_tap(name: str, output: str, exit_code: int) -> Case:
    """What one file said, in the Test Anything Protocol. Planned assertions of which nothing was
    heard have failed."""
    planned, passed, todo = 0, 0, 0
    failures = []
    heard = set()
    for line in output.splitlines():
        if plan := _PLAN.match(line):
            planned = int(plan[1])
        elif found := _LINE.match(line):
            failed, number, rest = found.groups()
            heard.add(int(number))
            if not failed:
                passed += 1
            elif "TODO" in rest:
                todo += 1
            else:
                failures.append(f"{number}{rest}")
    silent = planned - len(heard)
    if silent > 0 or exit_code:
        failures.append(f"{max(0, silent)} of {planned} never came; exit code {exit_code}")
    total = max(planned, len(heard))
    group = name.partition("/")[0]
    return Case("pjdfstest", group, name, total, passed, todo, tuple(failures))
