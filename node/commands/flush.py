"""`forebay flush`: wait until the stores have everything. Works whether the node runs or not."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from cache.volume import Volume
from node.commands.options import ConfigOption, JsonOption, print_json, progress_bar
from node.commands.paths import Target, parse
from node.config import load
from node.draining import as_facts, drain
from node.errors import ExitCode
from node.volumes import existing_volume


def flush(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH]", help="BUCKET/PREFIX, or a path inside the mount. None: everything."
        ),
    ] = None,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Give up after this.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait until everything that was written, or everything below PATH, is in its store.

    Failed attempts are repeated at once instead of after their pause. What a program has written
    to a file that is still open counts from its close or fsync on. Exit code 5 when something is
    left after --timeout.

    Example: `forebay flush photos/2024 --timeout 60`
    """
    settings = load(config)
    with existing_volume(settings) as volume:
        target = parse(path, settings) if path else None
        total, left = _persist(volume, target, timeout_s)
        backlog = as_facts(volume.queue.backlog())
    answer: dict[str, Any] = {
        "persisted": total - left,
        "left": left,
        "errors": backlog["errors"] if left else [],
    }
    if as_json:
        print_json(answer)
    elif left:
        typer.echo(f"{left} names are not in the store yet.", err=True)
        for failed in answer["errors"]:
            typer.echo(f"  {failed['name']}: {failed['error']}", err=True)
    else:
        typer.echo(f"Everything{f' below {path}' if path else ''} is in the store.")
    if left:
        raise typer.Exit(ExitCode.LEFT_OVER)


def _persist(volume: Volume, target: Target | None, timeout_s: float | None) -> tuple[int, int]:
    """Names that waited at the most, and those that still do."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with progress_bar() as progress:
        bar = progress.add_task("persisting", total=None)
        return drain(
            volume.queue,
            lambda: _waiting(volume, target),
            deadline=deadline,
            progress=lambda total, left: progress.update(bar, total=total, completed=total - left),
        )


def _waiting(volume: Volume, target: Target | None) -> int:
    if target is None:
        return volume.queue.backlog().names
    root = volume.buckets.get(target.bucket).root
    return len(volume.queue.pending_below(root, target.key))
