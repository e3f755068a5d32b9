"""`forebay fsck`: does the index agree with itself and with the segment files."""

from __future__ import annotations

from typing import Annotated

import typer

from node.commands.options import (
    ConfigOption,
    JsonOption,
    human_bytes,
    print_json,
    progress_bar,
)
from node.config import load
from node.errors import ExitCode
from node.volumes import existing_volume


def fsck(
    data: Annotated[
        bool, typer.Option("--data", help="Also read every cached byte and check its checksum.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the cache; changes nothing. Works whether the node runs or not.

    Exit code 5 when something is wrong.

    Example: `forebay fsck --data`
    """
    with existing_volume(load(config)) as volume, progress_bar() as progress:
        bar = progress.add_task("checking", total=None)
        report = volume.fsck.run(
            read_data=data,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if as_json:
        print_json(
            {
                "inodes": report.inodes,
                "extents": report.extents,
                "segments": report.segments,
                "bytes_checked": report.bytes_checked,
                "problems": report.problems,
            }
        )
    else:
        for problem in report.problems:
            typer.echo(problem)
        read = f", {human_bytes(report.bytes_checked)} read" if data else ""
        typer.echo(
            f"{report.inodes} inodes, {report.extents} extents, {report.segments} segments"
            f"{read}: {len(report.problems) or 'no'} problems"
        )
    if report.problems:
        raise typer.Exit(ExitCode.LEFT_OVER)
