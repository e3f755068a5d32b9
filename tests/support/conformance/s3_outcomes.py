"""A pytest plugin that writes down how each test of a foreign suite ended, as one line of JSON.

It runs in the suite's own environment (`-p tests.support.conformance.s3_outcomes`), where nothing
of Forebay is installed: standard library and pytest only. It looks on and changes nothing. The
file is named by the environment variable CONFORMANCE_OUTCOMES.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_WORST = ("passed", "skipped", "failed")  # of setup, the test itself, and cleaning up
_MESSAGE_MAX = 300


class Outcomes:
    """Gathers the phases of each test, and appends a line when its last one has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcome = "passed"
        self._error = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._outcome, self._error = "passed", ""
        if _WORST.index(report.outcome) > _WORST.index(self._outcome):
            self._outcome = report.outcome
            self._error = f"{report.when}: " if report.when != "call" else ""
            self._error += _first_line(report)
        if report.when == "teardown":
            line = {
                "id": report.nodeid,
                "outcome": self._outcome,
                "error": self._error,
                "fails_on_aws": "fails_on_aws" in report.keywords,
                "marks": sorted(name for name in report.keywords if "[" not in name),
            }
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else _reason(report.longrepr)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:_MESSAGE_MAX] if lines else ""


def _reason(longrepr: object) -> str:
    # A skip is (file, line, "Skipped: why").
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Outcomes(Path(os.environ["CONFORMANCE_OUTCOMES"])))
