"""What a run of a suite of POSIX tests comes to, and how it is shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

_LINE_MAX = 400


@dataclass(frozen=True, slots=True)
class Case:
    """One file of pjdfstest, one run of fsx or fsstress, on one file system."""

    suite: str
    group: str
    """The row of the table."""
    name: str
    total: int
    """Assertions, or operations, that there are."""
    passed: int
    todo: int = 0
    """Of the total: those that fail, as the suite itself says they do on Linux."""
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the suite left out by itself on this file system."""

    @property
    def ok(self) -> bool:
        return not self.failures and self.passed + self.todo == self.total


@dataclass(frozen=True, slots=True)
class Sum:
    cases: int
    whole: int
    total: int
    passed: int
    todo: int

    @classmethod
    def of(cls, cases: Iterable[Case]) -> Sum:
        cases = list(cases)
        return cls(
            len(cases),
            sum(case.ok for case in cases),
            sum(case.total for case in cases),
            sum(case.passed for case in cases),
            sum(case.todo for case in cases),
        )

    def __str__(self) -> str:
        todo = f" + {self.todo} todo" if self.todo else ""
        return f"{self.passed:,}{todo} of {self.total:,} | {self.whole} of {self.cases}"


def table(sides: Mapping[str, Sequence[Case]]) -> Iterator[str]:
    """The lines of a Markdown table: for each row of a suite, what passed on each file system, and
    how many of the files or runs passed whole."""
    yield "| suite | " + " | ".join(f"{side} | whole" for side in sides) + " |"
    yield "|---" * (1 + 2 * len(sides)) + "|"
    suites: dict[str, dict[str, None]] = {}
    for cases in sides.values():
        for case in cases:
            suites.setdefault(case.suite, {})[case.group] = None
    for suite, groups in suites.items():
        mine = {side: [c for c in cases if c.suite == suite] for side, cases in sides.items()}
        for group in groups:
            sums = (Sum.of(c for c in cases if c.group == group) for cases in mine.values())
            yield f"| {suite} {group} | " + " | ".join(map(str, sums)) + " |"
        if len(groups) > 1:
            sums = (Sum.of(cases) for cases in mine.values())
            yield f"| **{suite}** | " + " | ".join(map(str, sums)) + " |"


def remarks(sides: Mapping[str, Sequence[Case]]) -> Iterator[str]:
    """A line for each failure, and for what was left out, by file system."""
    for side, cases in sides.items():
        for case in cases:
            for line in case.failures:
                yield f"{side}: {case.suite} {case.name or case.group}: FAILED {line[:_LINE_MAX]}"
        for note, number in _notes(cases).items():
            yield f"{side}: {note} (in {number} runs)"


def _notes(cases: Sequence[Case]) -> dict[str, int]:
    notes: dict[str, int] = {}
    for case in cases:
        for note in case.notes:
            notes[f"{case.suite}: {note}"] = notes.get(f"{case.suite}: {note}", 0) + 1
    return notes
