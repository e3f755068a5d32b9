"""Charts as SVG, by hand: a few panels of lines over a logarithmic number of objects.

Nothing of it is a library's, because a chart of twenty points needs none: a panel is axes, a line
for each series, and a dashed one for the mark that it is to stay below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

_COLUMNS = 2
_WIDTH, _HEIGHT = 460, 300  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 58, 40  # around its lines
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    series: Mapping[str, Sequence[tuple[int, float]]]  # (objects, figure), by name
    mark: float | None = None  # the most that the figures may be

    @property
    def x_range(self) -> tuple[float, float]:
        """Decades."""
        numbers = [math.log10(x) for points in self.series.values() for x, _ in points]
        return math.floor(min(numbers)), max(math.ceil(max(numbers)), math.floor(min(numbers)) + 1)

    @property
    def y_step(self) -> float:
        """Between two lines of the grid: a number that is easy to count in, five lines or so."""
        highest = max(y for points in self.series.values() for _, y in points)
        rough = max(highest, self.mark or 0) * 1.05 / 5
        power = 10.0 ** math.floor(math.log10(rough))
        return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def write(path: Path, title: str, panels: Sequence[Panel]) -> None:
    rows = -(-len(panels) // _COLUMNS)
    width, height = _COLUMNS * _WIDTH, rows * _HEIGHT + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(width / 2, 20, title, anchor="middle", size=14),
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        parts.append(f'<g transform="translate({column * _WIDTH} {30 + row * _HEIGHT})">')
        parts += _panel(panel)
        parts.append("</g>")
    parts.append("</svg>\n")
    path.write_text("\n".join(parts))


def _panel(panel: Panel) -> list[str]:
    first, last = panel.x_range
    step = panel.y_step
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def across(x: float) -> float:
        return _LEFT + (math.log10(x) - first) / (last - first) * inner_width

    def down(y: float) -> float:
        return _TOP + inner_height * (1 - y / (5 * step))

    parts = [_text(_LEFT, 14, panel.title, size=12)]
    for line in range(6):
        y = down(line * step)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "#ddd"))
        parts.append(_text(_LEFT - 6, y + 4, f"{line * step:g}", anchor="end"))
    for decade in range(int(first), int(last) + 1):
        x = across(10.0**decade)
        parts.append(_line(x, _TOP, x, _TOP + inner_height, "#ddd"))
        parts.append(_text(x, _TOP + inner_height + 16, f"{10**decade:,}", anchor="middle"))
    middle = _LEFT + inner_width / 2
    parts.append(_text(middle, _HEIGHT - 8, "objects", anchor="middle"))
    if panel.mark is not None:
        y = down(panel.mark)
        parts.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "#555", ' stroke-dasharray="5 4"'))
        parts.append(_text(_WIDTH - _RIGHT, y - 4, f"mark: {panel.mark:g}", anchor="end"))
    for number, (name, points) in enumerate(panel.series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [(across(x), down(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        if len(panel.series) > 1:
            x, y = _LEFT + number % 3 * 132, 30 + number // 3 * 14
            parts.append(_line(x, y - 4, x + 14, y - 4, colour, ' stroke-width="2"'))
            parts.append(_text(x + 18, y, name))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' font-family="sans-serif">'
        f"{escape(text)}</text>"
    )
