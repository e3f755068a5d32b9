"""Every operation of S3's model and what the door does with it, as the table of
docs/s3-compatibility.md. Importing this module enters all operations that are offered.

`python -m s3api.offered PAGE` (script/operations) writes the table into the page, between the two
comments that mark its place; a test compares them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from s3api import gateway  # noqa: F401  it imports the modules of operations
from s3api.model import MODEL, Operation
from s3api.operations import OFFERED
from s3api.parsing import ALWAYS_HARMLESS

BEGIN = "<!-- begin of the generated table: script/operations -->\n"
END = "<!-- end of the generated table -->\n"


def table() -> str:
    """The table, with its marks."""
    lines = ["| operation | answer | members that are not honoured |", "|---|---|---|"]
    lines += [" | ".join(("| " + name, *_row(MODEL.operations[name]))) + " |" for name in _names()]
    return BEGIN + "\n".join(lines) + "\n" + END


def _names() -> Iterator[str]:
    yield from sorted(MODEL.operations)


def _row(operation: Operation) -> tuple[str, str]:
    offer = OFFERED.get(operation.name)
    if offer is None:
        return "NotImplemented", ""
    known = frozenset() if operation.input is None else frozenset(operation.input.members)
    left_out = known - offer.members - ALWAYS_HARMLESS
    return "partly" if left_out else "offered", ", ".join(sorted(left_out))


def replace_table(page: str) -> str:
    """The page with the table as it should be."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + table() + after


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(replace_table(path.read_text()))
