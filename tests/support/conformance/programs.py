"""Running a foreign program on a file system that may hang."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

_TIMED_OUT = -1


@dataclass(frozen=True, slots=True)
class Done:
    exit_code: int
    """-1: it was killed after its time."""
    output: str
    """What it said, on both streams."""


def run(command: list[str], *, cwd: Path, timeout_s: float, into: Path | None = None) -> Done:
    """Run it to its end, or kill it and all that it started. into: a file for what it says, where
    that is much; Done.output is empty then."""
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if into is None else stack.enter_context(into.open("wb")),
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Done(_TIMED_OUT, output or "")
    return Done(process.returncode, output or "")
