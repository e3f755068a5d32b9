"""One event, one line on stderr, with the process that says it: plain text, or JSON.

Configured once at the start of each process (supervisor, children, commands). Values that the
configuration marks as secret are blanked out of whatever is logged, also of what libraries say.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

_CHATTY = ("asyncio", "awscrt", "boto3", "botocore", "s3transfer", "urllib3")
"""Libraries that log every call at DEBUG: heard from WARNING on, whatever our own level is."""

HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class LogConfig:
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe event that is logged. `debug` is one line per operation: slow."""

    format: Literal["plain", "json"] = "plain"
    """`json`: one object per line, for a log collector."""


def configure(role: str, config: LogConfig, *, secrets: Iterable[str] = ()) -> None:
    """Send this process's log to stderr, each line with `role` ("mount", "gateway-0")."""
    handler = logging.StreamHandler(sys.stderr)
    kind = JsonLines if config.format == "json" else PlainLines
    handler.setFormatter(kind(role, secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


class _Lines(logging.Formatter):
    """What both formats share: time, process, and the blanking of secrets."""

    def __init__(self, role: str, secrets: Iterable[str]) -> None:
        super().__init__()
        self.process = f"{role}[{os.getpid()}]"
        # A secret of a few characters would blank out half of every line, and protect nothing.
        self.secrets = tuple(secret for secret in secrets if len(secret) >= 6)

    def format(self, record: logging.LogRecord) -> str:
        line = self.compose(record, record.getMessage(), self._traceback(record))
        for secret in self.secrets:
            line = line.replace(secret, HIDDEN)
        return line

    def compose(self, record: logging.LogRecord, message: str, traceback: str) -> str:
        raise NotImplementedError

    def _traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class PlainLines(_Lines):
    """`2025-11-21T09:00:00.123Z INFO mount[812] fuse.mount: mounted on /srv/forebay`"""

    def compose(self, record: logging.LogRecord, message: str, traceback: str) -> str:
        # A line break in a message (a file name can hold one) must not look like an event.
        message = message.replace("\n", "\\n")
        head = f"{_time(record)} {record.levelname} {self.process} {record.name}: {message}"
        return f"{head}\n{traceback}" if traceback else head


class JsonLines(_Lines):
    def compose(self, record: logging.LogRecord, message: str, traceback: str) -> str:
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            "message": message,
        }
        if traceback:
            event["traceback"] = traceback
        return json.dumps(event, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
