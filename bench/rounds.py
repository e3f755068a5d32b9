"""Alternating rounds and their medians.

A machine's speed drifts by more than what is compared, so each round runs every contender once,
in turn, and a figure is the median over the rounds. What is reported is the ratio to a reference
measured in the same rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass
class Row:
    """One piece of work: figures by contender; larger is better."""

    name: str
    unit: str
    reference: str  # the contender that ratios are made to
    figures: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def ratio(self, contender: str) -> float | None:
        """The contender's figure over the reference's."""
        if contender not in self.figures or not self.figures.get(self.reference):
            return None
        return self.figures[contender] / self.figures[self.reference]


def measure(
    name: str,
    unit: str,
    reference: str,
    contenders: Mapping[str, Callable[[], float]],
    rounds: int,
) -> Row:
    """Run every contender `rounds` times, alternating. One that fails is out, with its reason."""
    row = Row(name, unit, reference)
    seen: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(rounds):
        for contender, run in contenders.items():
            if contender in row.failures:
                continue
            try:
                seen[contender].append(run())
            except Exception as exc:  # noqa: BLE001  a peer that cannot do it is a result
                row.failures[contender] = f"{type(exc).__name__}: {exc}"[:120]
    row.figures = {name: statistics.median(values) for name, values in seen.items() if values}
    return row
