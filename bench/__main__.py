"""`script/bench`: Forebay beside its references, as a table of ratios, and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import cold, eviction, growth, mount, s3, training, writes
from bench.rounds import Row

Options = argparse.Namespace


def _s3(work: Path, options: Options) -> list[Row]:
    return s3.run(work, options.rounds, options.seconds, options.gateways)


def _writes(work: Path, options: Options) -> list[Row]:
    return writes.run(work, options.rounds, options.seconds, options.gateways)


def _mount(work: Path, options: Options) -> list[Row]:
    return mount.run(work, options.rounds, options.megabytes, options.entries, options.without)


def _growth(work: Path, options: Options) -> list[Row]:
    sizes = options.objects + [10_000_000] * options.whole
    return growth.run(work, sizes, options.rounds, options.seconds, options.chart)


def _cold(work: Path, options: Options) -> list[Row]:
    sizes = cold.QUICK if options.quick else cold.Sizes()
    return cold.run(work, options.rounds, options.bound, options.delay / 1000, sizes)


def _training(work: Path, options: Options) -> list[Row]:
    shards = 1 if options.quick else options.shards
    return training.run(work, options.bound, options.delay / 1000, shards)


def _eviction(work: Path, options: Options) -> list[Row]:
    return eviction.run(work, quick=options.quick)


BENCHES: dict[str, Callable[[Path, Options], list[Row]]] = {
    "s3": _s3,
    "writes": _writes,
    "mount": _mount,
    "growth": _growth,
    "cold": _cold,
    "training": _training,
    "eviction": _eviction,
}
"""Each is given an empty directory of its own."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*BENCHES, []], help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--seconds", type=int, default=3, help="of load in a round (default 3)")
    parser.add_argument("--gateways", type=int, default=1, help="gateway processes (default 1)")
    parser.add_argument("--megabytes", type=int, default=512, help="size of the large file")
    parser.add_argument("--entries", type=int, default=10_000, help="names in the large directory")
    parser.add_argument(
        "--without",
        nargs="+",
        action="extend",
        default=[],
        help="contenders that `mount` leaves out",
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
    work = Path(tempfile.mkdtemp(prefix="forebay-bench-", dir=arguments.directory))
    rows: list[Row] = []
    try:
        for name in arguments.what or BENCHES:
            place = work / name
            place.mkdir()
            rows += BENCHES[name](place, arguments)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    show(rows)
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "rounds": arguments.rounds}
    arguments.json.write_text(
        json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1)
    )


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
