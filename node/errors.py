"""How a command ends: the exit codes, and the error of an operator's mistake.

Anything raised as OperatorError is shown as one sentence without a traceback (`node/cli.py`);
its code is one of `ExitCode`, which `forebay --help` and docs/operations.md list. Everything else
that escapes a command is a bug, and shown as one.
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """The meanings are part of the interface: scripts decide on them. The docstring of each member
    is what `forebay --help` prints."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    NOT_RUNNING = 4
    LEFT_OVER = 5
    ALREADY_RUNNING = 6
    NOT_FOUND = 7
    BUG = 70

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "the operation failed; the sentence on stderr says why",
    ExitCode.USAGE: "wrong arguments",
    ExitCode.CONFIGURATION: "the configuration is wrong, or does not fit this machine",
    ExitCode.NOT_RUNNING: "the node is not running, or does not answer",
    ExitCode.LEFT_OVER: "ended, but something is left: dirty data (flush), damage (fsck)",
    ExitCode.ALREADY_RUNNING: "another node uses the same state directory",
    ExitCode.NOT_FOUND: "no such bucket, path or key",
    ExitCode.BUG: "a bug in Forebay; please report the traceback",
}


class OperatorError(Exception):
    """Something the operator can put right: one sentence that says what is wrong and what to do."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


class ConfigError(OperatorError):
    """A configuration that the node does not start with. The message names file, table and key."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ExitCode.CONFIGURATION)
