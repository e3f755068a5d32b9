# ruff: noqa: T201  a program that talks
"""Run suites of POSIX tests, unmodified, on the mount of a node of its own and on an ext4 of this
machine, and print how it went.

`script/conformance posix CHECKOUT...` runs this as root. A clone of pjd/pjdfstest brings pjdfstest,
one of kdave/xfstests fsx and fsstress. The node has a small cache, so that it evicts, and S3
clients at work on the same tree and beside it. Its mount has `dev` and `suid`, which pjdfstest
needs, and `allow_other`, for its other users; the rest is as by default. The ext4 is a file of
8 GiB.

The exit code says whether the suites ran, not whether their tests pass.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.conformance import LEFT, company, fsstress, fsx, pjdfstest
from tests.support.conformance.builds import Checkout, NoSuiteError, build, find_out
from tests.support.conformance.cases import Case, remarks, table
from tests.support.loop_disk import loop_disk
from tests.support.node import RunningNode, running_node
from tests.support.trees import differences

BUCKET = "conformance"
_EXT4_BYTES = 8 << 30
_CACHE = {"capacity_bytes": "128MiB", "segment_bytes": "4MiB", "index_bytes": "256MiB"}
_MOUNT = {"dev": True, "suid": True, "allow_other": True}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run of the suites that were built."""

    built: dict[str, Path]
    only: re.Pattern[str]
    operations: int
    seeds: list[int]
    duration_s: int

    def chosen(self, suite: str) -> Callable[[str], bool]:
        return lambda name: self.only.search(f"{suite} {name}") is not None


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/conformance posix", description=__doc__)
    parser.add_argument("checkouts", type=Path, nargs="+", metavar="CHECKOUT")
    parser.add_argument("--side", choices=["ext4", "forebay"], help="only this file system")
    parser.add_argument(
        "--only",
        default="",
        metavar="PATTERN",
        help="only `pjdfstest GROUP/FILE`, `fsx VARIANT`, `fsstress` that match",
    )
    parser.add_argument("--operations", type=int, default=20_000, help="of each run of fsx")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of fsx and fsstress")
    parser.add_argument("--seconds", type=int, default=60, help="of each run of fsstress")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the cases there, too")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("the suites make device files and change users: run this as root")
    LEFT.mkdir(exist_ok=True)
    try:
        checkouts = [find_out(directory) for directory in arguments.checkouts]
        built = {checkout.name: build(checkout) for checkout in checkouts}
    except NoSuiteError as exc:
        parser.error(str(exc))
    plan = Plan(
        built,
        re.compile(arguments.only),
        arguments.operations,
        arguments.seeds,
        arguments.seconds,
    )
    sides: dict[str, list[Case]] = {}
    for side, on in (("ext4", on_ext4), ("forebay", on_forebay)):
        if arguments.side in (None, side):
            sides[side] = []
            with tempfile.TemporaryDirectory(prefix="forebay-conformance-") as directory:
                for case in on(plan, Path(directory)):
                    sides[side].append(case)
                    name = f"{case.suite} {case.name or case.group}"
                    print(f"{side}: {name}: {case.passed} of {case.total}")
                    sys.stdout.flush()
    print()
    print("\n".join(table(sides)))
    print()
    print("\n".join(remarks(sides)))
    if arguments.json is not None:
        write_json(arguments.json, checkouts, sides)


def on_ext4(plan: Plan, directory: Path) -> Iterator[Case]:
    with loop_disk(directory / "image", directory / "ext4", _EXT4_BYTES) as disk:
        for case in run_suites(plan, disk.directory):
            yield case
            if case.suite == "fsstress":
                for tree in disk.directory.glob("fsstress-*"):
                    shutil.rmtree(tree)


def on_forebay(plan: Plan, directory: Path) -> Iterator[Case]:
    # Other users of the machine are to reach the mount.
    directory.chmod(0o755)
    with running_node(directory, auth={"mode": "simple"}, cache=_CACHE, mount=_MOUNT) as node:
        assert node.mount is not None
        node.forebay("buckets", "create", BUCKET)
        try:
            with company.keep(node.endpoint, BUCKET) as beside:
                yield from run_suites(plan, node.mount / BUCKET)
            failures = tuple(beside.failures[:20])
            passed = beside.requests - len(beside.failures)
            notes = (f"{beside.cut_off} GETs cut off",) if beside.cut_off else ()
            yield Case("S3", "requests beside", "", beside.requests, passed, 0, failures, notes)
            yield from agreement(node)
        finally:
            (LEFT / "node.log").write_text(node.log)
        unexpected = node.log.count("Traceback (most recent call last)")
        told = (f"{unexpected} exceptions in .conformance/node.log",) if unexpected else ()
        yield Case("node", "log", "", 1, int(not unexpected), 0, told)


def run_suites(plan: Plan, directory: Path) -> Iterator[Case]:
    """What was chosen, in the directory; only what fsstress made is left there."""
    if "pjdfstest" in plan.built:
        place = directory / "pjdfstest"
        place.mkdir()
        yield from pjdfstest.cases(plan.built["pjdfstest"], place, plan.chosen("pjdfstest"))
        place.rmdir()
    if "xfstests" in plan.built:
        built = plan.built["xfstests"]
        variants = [variant for variant in fsx.VARIANTS if plan.chosen("fsx")(variant)]
        yield from fsx.cases(built, directory, LEFT, variants, plan.operations, plan.seeds)
        if plan.chosen("fsstress")(""):
            for seed in plan.seeds:
                place = directory / f"fsstress-{seed}"
                yield fsstress.case(built, place, LEFT, seed, plan.duration_s)


def agreement(node: RunningNode) -> Iterator[Case]:
    """When all is in the store: fsck finds nothing, and the store's tree is the mount's."""
    assert node.mount is not None
    flushed = node.forebay("flush", check=False)
    told = () if flushed.returncode == 0 else (flushed.stdout + flushed.stderr,)
    yield Case("afterwards", "flush", "", 1, 1 - len(told), 0, told)
    checked = node.forebay("fsck", check=False)
    told = () if checked.returncode == 0 else (checked.stdout + checked.stderr,)
    yield Case("afterwards", "fsck", "", 1, 1 - len(told), 0, told, (checked.stdout.strip(),))
    mounted = node.mount / BUCKET
    names = sum(len(below) + len(files) for _, below, files in os.walk(mounted))
    different = differences(mounted, node.store_dir / BUCKET)
    passed = max(0, names - len(different))
    yield Case("afterwards", "store = mount", "", names, passed, 0, tuple(different[:20]))


def write_json(path: Path, checkouts: list[Checkout], sides: dict[str, list[Case]]) -> None:
    document = {
        "suites": {checkout.name: checkout.commit for checkout in checkouts},
        "sides": {side: [asdict(case) for case in cases] for side, cases in sides.items()},
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
