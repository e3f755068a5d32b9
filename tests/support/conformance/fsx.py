"""fsx of kdave/xfstests: one file, random calls, and every byte compared with what it should be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.conformance.cases import Case
from tests.support.conformance.programs import run

VARIANTS = {
    "with mmap": (),
    "without mmap": ("-R", "-W"),
    # What is read comes from us, not from the kernel's pages, and much of it was published.
    "pages dropped, reopened": ("-f", "-c", "20"),
    "a file of 8 MiB": ("-l", str(8 << 20), "-o", str(1 << 20)),
}
"""By the name of a row, options of fsx."""

_PER_SECOND = 20
"""Operations that even a busy machine does."""
_DISABLED = re.compile(r"^main: (filesystem does not support .*), disabling!", re.MULTILINE)
_DONE = re.compile(r"All (\d+) operations completed")
_REACHED = re.compile(r"^LOG DUMP \((\d+) total operations\)", re.MULTILINE)


def cases(
    built: Path,
    directory: Path,
    left: Path,
    variants: list[str],
    operations: int,
    seeds: list[int],
) -> Iterator[Case]:
    """Each variant with every seed, each for that many operations. `left`: for what is to be
    looked at after a failure."""
    for variant in variants:
        for seed in seeds:
            file = directory / f"fsx-{seed}"
            command = [
                str(built / "fsx"),
                *("-q", "-N", str(operations), "-S", str(seed), "-P", str(left)),
                *VARIANTS[variant],
                str(file),
            ]
            timeout_s = 120 + operations / _PER_SECOND
            done = run(command, cwd=left, timeout_s=timeout_s)
            case = read_output(variant, seed, operations, done.output, done.exit_code)
            if not case.ok:
                (left / f"fsx-{seed}.log").write_text(done.output)
            yield case
            file.unlink(missing_ok=True)


def read_output(variant: str, seed: int, operations: int, output: str, exit_code: int) -> Case:
    reached = _REACHED.search(output)
    passed = operations if _DONE.search(output) else int(reached[1]) if reached else 0
    failures: tuple[str, ...] = ()
    if exit_code or passed != operations:
        told = [line for line in output.splitlines() if line.startswith(("READ BAD", "Size error"))]
        failures = (f"exit code {exit_code} at operation {passed}: {' '.join(told[:1])}",)
    notes = tuple(_DISABLED.findall(output))
    name = f"{variant}, seed {seed}"
    return Case("fsx", variant, name, operations, passed, 0, failures, notes)
