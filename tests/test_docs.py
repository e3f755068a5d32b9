"""The pages of docs/, README.md and CHANGELOG.md say what is so: what can be compared is compared.

`docs/configuration.md` has its own test in test_node_config.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache as cached
from pathlib import Path

import msgspec
import pytest
import typer.main
from prometheus_client.metrics import MetricWrapperBase
from typer.core import TyperGroup

import cache.metrics
import s3api.metrics
from cache import keys, records
from cache.index import FORMAT, Table
from node.cli import make_app
from node.errors import ExitCode
from s3api.offered import replace_table  # enters all operations into OFFERED
from s3api.operations import OFFERED

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
CODE = sorted(
    path
    for package in ("cache", "fuse", "s3api", "node")
    for path in (ROOT / package).rglob("*.py")
)

ACCEPTANCE_IDS = {"A": 14, "B": 55, "C": 23, "D": 31, "E": 25, "F": 20}
"""Letter of a group -> number of its last id: A01 to A14, and so on."""


def rows(page: Path, *header: str) -> Iterator[list[str]]:
    """Cells of every row of the tables that have this header."""
    inside = False
    for line in page.read_text().splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        # A bar between backticks does not divide cells, but none of our tables has one.
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells == list(header):
            inside = True
        elif inside and set(cells[0]) != {"-"}:
            yield cells


def anchors(page: Path) -> set[str]:
    """The anchors that headings have, as code hosts make them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    }


# -------------------------------------------------------------------------------------- the pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = page if not path else page.parent / path
        assert found.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """`cache/index.py`, `script/run` and the like; `cache/index.py: Index` names the file, too."""
    pattern = r"`((?:cache|fuse|s3api|node|tests|script|systemd)/[\w./-]*)"
    for name in re.findall(pattern, page.read_text()):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_every_page_is_reachable_from_the_readme() -> None:
    linked = set(re.findall(r"\(docs/([\w-]+\.md)", (ROOT / "README.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")}


# ------------------------------------------------------------------------------------- acceptance


@cached
def functions_in(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def acceptance() -> list[list[str]]:
    return list(rows(DOCS / "acceptance.md", "id", "feature", "state", "shown by", "missing"))


def test_every_feature_is_in_the_acceptance_list_once() -> None:
    wanted = [
        f"{letter}{number:02d}"
        for letter, last in ACCEPTANCE_IDS.items()
        for number in range(1, last + 1)
    ]
    assert [row[0] for row in acceptance()] == wanted


@pytest.mark.parametrize("row", acceptance(), ids=lambda row: row[0])
def test_a_feature_is_shown_by_tests_that_exist(row: list[str]) -> None:
    _, feature, state, shown_by, missing = row
    assert feature
    tests = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", shown_by)
    assert shown_by == " ".join(f"`{file}::{name}`" for file, name in tests)
    for file, name in tests:
        assert (ROOT / file).exists(), file
        assert name in functions_in(ROOT / file), f"{file} has no {name}"
    match state:
        case "done":
            assert tests
            assert not missing
        case "partly":
            assert tests
            assert missing
        case "not yet":
            assert not tests
        case _:
            pytest.fail(f"unknown state {state!r}")


def test_the_counts_of_the_acceptance_list_are_right() -> None:
    states = [row[2] for row in acceptance()]
    shown = dict(rows(DOCS / "acceptance.md", "state", "features"))
    assert shown == {state: str(states.count(state)) for state in ("done", "partly", "not yet")}


# ---------------------------------------------------------------------------------------- metrics


def test_the_metrics_page_is_current() -> None:
    defined = []
    for module in (cache.metrics, s3api.metrics):
        for metric in vars(module).values():
            if isinstance(metric, MetricWrapperBase):
                (family,) = metric.describe()
                labels = " ".join(f"`{label}`" for label in metric._labelnames)
                defined.append([f"`{family.name}`", family.type, labels, family.documentation])
    listed = list(rows(DOCS / "metrics.md", "metric", "type", "labels", "meaning"))
    assert listed == defined


# --------------------------------------------------------------------------------------- commands


def commands() -> dict[str, frozenset[str]]:
    """Every command of `forebay`, with its own commands."""
    group = typer.main.get_command(make_app())
    assert isinstance(group, TyperGroup)
    return {
        name: frozenset(command.commands) if isinstance(command, TyperGroup) else frozenset()
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"(?:`|\$ )forebay ([a-z][a-z0-9-]*)(?: ([a-z][a-z-]*))?", page.read_text())
    for name, inner in named:
        assert name in commands(), f"{page.name} names forebay {name}"
        if inner and commands()[name]:
            assert inner in commands()[name], f"{page.name} names forebay {name} {inner}"


def test_operations_lists_every_command() -> None:
    listed = [row[0] for row in rows(DOCS / "operations.md", "command", "what it does")]
    assert [cell.strip("`").split()[1] for cell in listed] == list(commands())


def test_operations_lists_every_exit_code() -> None:
    listed = list(rows(DOCS / "operations.md", "exit code", "meaning"))
    assert listed == [[str(int(code)), code.meaning] for code in ExitCode]


def test_the_readme_names_every_script() -> None:
    readme = (ROOT / "README.md").read_text()
    for script in (ROOT / "script").iterdir():
        assert f"script/{script.name}" in readme


# ----------------------------------------------------------------------------------- what is kept


def test_every_record_is_described_field_by_field() -> None:
    page = (DOCS / "on-disk-format.md").read_text()
    structs = [
        found
        for module in (records, keys)
        for found in vars(module).values()
        if isinstance(found, type)
        and issubclass(found, msgspec.Struct)
        and found.__module__ == module.__name__
    ]
    assert structs
    for struct in structs:
        fields = " ".join(f"`{field.name}`" for field in msgspec.structs.fields(struct))
        assert f"- `{struct.__name__}`: {fields}\n" in page


def test_every_table_is_described() -> None:
    listed = [
        row[0].strip("`") for row in rows(DOCS / "on-disk-format.md", "table", "key", "value")
    ]
    assert [name for name in listed if name] == [table.value for table in Table]
    assert f"`{FORMAT.decode()}`" in (DOCS / "on-disk-format.md").read_text()


def test_the_examples_of_the_format_are_what_is_written() -> None:
    page = (DOCS / "on-disk-format.md").read_text()
    assert f"`{records.pack(records.Dentry(5, 1)).hex(' ')}`" in page
    whole = records.Extent(4096, 10, 3, 4096, 10, 0xABC, 0, 1).pack()
    (example,) = re.findall(r"^`(01 00000003 [0-9a-f ]+)`\.$", page, re.MULTILINE)
    assert bytes.fromhex(example) == whole
    assert f"{len(whole)} bytes: `01`, u32 segment" in page


# -------------------------------------------------------------------------------------------- S3


def test_the_table_of_operations_is_what_is_offered() -> None:
    page = (DOCS / "s3-compatibility.md").read_text()
    assert replace_table(page) == page, "run script/operations"
    listed = {row[0] for row in rows(DOCS / "s3-compatibility.md", "operation", "notes")}
    assert listed <= OFFERED.keys()


# ------------------------------------------------------------------------------------ concurrency

_LOCKS = re.compile(
    r"(?:threading\.(?:R?Lock|Condition|Semaphore|Thread)|trio\.CapacityLimiter|ThreadPoolExecutor"
    r"|asyncio\.Semaphore|fcntl\.(?:flock|lockf)|queue\.(?:Simple)?Queue)\("
)


def test_modules_that_lock_or_start_threads_are_named() -> None:
    page = (DOCS / "concurrency.md").read_text()
    for path in CODE:
        name = str(path.relative_to(ROOT))
        if _LOCKS.search(path.read_text()):
            assert f"`{name}" in page, f"{name} makes a lock, a thread or a queue"


def test_every_lock_of_the_page_exists() -> None:
    code = "\n".join(path.read_text() for path in CODE)
    for row in rows(DOCS / "concurrency.md", "lock", "guards", "held over"):
        for owner, attribute in re.findall(r"`(\w+)\.(_\w+)`", row[0]):
            assert f"class {owner}" in code, owner
            assert f"self.{attribute} = " in code, f"{owner}.{attribute}"
