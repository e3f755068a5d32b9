"""The options every command has, and the one way in which commands speak.

With --json a command prints exactly one JSON object on stdout (its keys are stable; new ones may
be added); without it, text for people. Logs and progress go to stderr in both cases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration (TOML). Default: $FOREBAY_CONFIG, else the embedded configuration, "
        "which keeps everything in ./forebay-demo.",
    ),
]

JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object, for programs."),
]


def print_json(answer: dict[str, Any]) -> None:
    """The one line of a command's answer."""
    typer.echo(json.dumps(answer))


def print_record(fields: Mapping[str, Any], as_json: bool) -> None:
    """One thing with its fields, a line each for people."""
    if as_json:
        print_json(dict(fields))
        return
    for field, value in fields.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        typer.echo(f"{field.replace('_', ' ')}: {text}")


def time_text(moment_ns: int, timespec: str = "seconds") -> str:
    """A moment as 2024-05-01T12:00:00Z. timespec: as of datetime.isoformat."""
    moment = datetime.fromtimestamp(moment_ns / 1e9, UTC)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def readable(name: bytes) -> str:
    """A key or file name as text; bytes that are not UTF-8 as \\xNN."""
    return name.decode("utf-8", "backslashreplace")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under headings, as wide as the terminal; not cut when stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=1000)
    console.print(table)


def progress_bar() -> Progress:
    """A bar on stderr; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def human_bytes(size_bytes: float) -> str:
    """ "1.5 GiB": for people, rounded; not for reading back."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """ "42 s", "3 min", "5 h", "2 d"."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
