"""`script/bench`: Forebay beside its references, as a table of ratios, and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import cold, eviction, growth, mount, s3, training, writes
from bench.rounds import Row


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    choices = ["s3", "writes", "mount", "growth", "cold", "training", "eviction"]
    parser.add_argument("what", nargs="*", choices=[*choices, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--seconds", type=int, default=3, help="of load in a round (default 3)")
    parser.add_argument("--gateways", type=int, default=1, help="gateway processes (default 1)")
    parser.add_argument("--megabytes", type=int, default=512, help="size of the large file")
    parser.add_argument("--entries", type=int, default=10_000, help="names in the large directory")
    parser.add_argument(
        "--without", nargs="+", default=[], help="contenders that `mount` leaves out"
    )
    parser.add_argument(
        "--objects",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        help="sizes of the nodes of `growth`; each object takes 500 B of disk",
    )
    parser.add_argument("--whole", action="store_true", help="a node of 10,000,000 objects, too")
    parser.add_argument("--chart", type=Path, default=Path("growth.svg"), help="of `growth`")
    parser.add_argument("--bound", type=float, default=100, help="MB/s of the wire to a far store")
    parser.add_argument("--delay", type=float, default=20, help="ms that a request takes there")
    parser.add_argument("--shards", type=int, default=4, help="of 100 MiB, for `training`")
    parser.add_argument(
        "--quick", action="store_true", help="less data over the wire; eviction: one cache only"
    )
    parser.add_argument("--json", type=Path, default=Path("bench-results.json"))
    parser.add_argument("--directory", type=Path, help="where to work; default: a temporary one")
    arguments = parser.parse_args()
    what = arguments.what or choices
    work = Path(tempfile.mkdtemp(prefix="forebay-bench-", dir=arguments.directory))
    rows: list[Row] = []
    try:
        if "s3" in what:
            (work / "s3").mkdir()
            rows += s3.run(work / "s3", arguments.rounds, arguments.seconds, arguments.gateways)
        if "writes" in what:
            (work / "writes").mkdir()
            rows += writes.run(
                work / "writes", arguments.rounds, arguments.seconds, arguments.gateways
            )
        if "mount" in what:
            (work / "mount").mkdir()
            rows += mount.run(
                work / "mount",
                arguments.rounds,
                arguments.megabytes,
                arguments.entries,
                arguments.without,
            )
        if "growth" in what:
            (work / "growth").mkdir()
            sizes = arguments.objects + [10_000_000] * arguments.whole
            rows += growth.run(
                work / "growth", sizes, arguments.rounds, arguments.seconds, arguments.chart
            )
        rows += _far(work, what, arguments)
        if "eviction" in what:
            rows += eviction.run(work / "eviction", quick=arguments.quick)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    show(rows)
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "rounds": arguments.rounds}
    arguments.json.write_text(
        json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1)
    )


def _far(work: Path, what: list[str], arguments: argparse.Namespace) -> list[Row]:
    """What is measured over a wire."""
    rows: list[Row] = []
    wire = arguments.bound, arguments.delay / 1000
    if "cold" in what:
        sizes = cold.QUICK if arguments.quick else cold.Sizes()
        rows += cold.run(work / "cold", arguments.rounds, *wire, sizes)
    if "training" in what:
        rows += training.run(work / "training", *wire, 1 if arguments.quick else arguments.shards)
    return rows


def show(rows: list[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in (*row.figures, *row.failures)))
    table = Table("work", "unit", *names, title="medians; in brackets the ratio to the reference")
    for row in rows:
        table.add_row(row.name, row.unit, *(_cell(row, name) for name in names))
    Console(width=140).print(table)


def _cell(row: Row, name: str) -> str:
    if name in row.failures:
        return f"failed: {row.failures[name]}"
    if name not in row.figures:
        return ""
    value = row.figures[name]
    figure = f"{value:,.{0 if value >= 100 else 1 if value >= 1 or not value else 2}f}"
    return figure if name == row.reference else f"{figure} ({row.ratio(name) or 0:.2f})"


main()
