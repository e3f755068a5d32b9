"""The AWS CLI in this process: an interpreter for each command would take most of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# First: the CLI has a copy of its own, and gives it to whoever imports botocore after it.
import botocore.session  # noqa: F401  see above
import pytest
from awscli.clidriver import create_clidriver  # type: ignore[import-untyped]  # has none


class AwsCli:
    """`aws` with options that all commands get. Its credentials come from the environment, as the
    test has patched it."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *options: str) -> None:
        self._driver: Any = create_clidriver()
        self._capsys = capsys
        self._options = options

    def run(self, *arguments: str | Path) -> str:
        """What a command printed. AssertionError, with what it complained of, if it failed."""
        code = self._driver.main([*self._options, *map(str, arguments)])
        printed = self._capsys.readouterr()
        assert code == 0, printed.err
        out: str = printed.out
        return out
