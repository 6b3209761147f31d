"""A small plot in text: lines and points over a grid of characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.units import significant

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """A line and the points that belong to it, drawn with a character each."""

    label: str
    line: Points
    points: Points
    line_mark: str
    point_mark: str


def plot(
    series: Sequence[Series], x_label: str, y_label: str, *, width: int = 64, height: int = 14
) -> list[str]:
    """Lines of text: the plot with its two axes from 0, and what the characters stand for."""
    everything = [pair for one in series for pair in (*one.line, *one.points)]
    most_x = max((x for x, _ in everything), default=0.0) or 1.0
    most_y = max((y for _, y in everything), default=0.0) or 1.0
    cells = [[" "] * width for _ in range(height)]

    def put(pair: tuple[float, float], mark: str) -> None:
        column = round(pair[0] / most_x * (width - 1))
        row = round(pair[1] / most_y * (height - 1))
        cells[height - 1 - row][column] = mark

    for one in series:
        for pair in one.line:
            put(pair, one.line_mark)
    for one in series:  # points over every line: they are what was measured
        for pair in one.points:
            put(pair, one.point_mark)
    top = significant(most_y, 3)
    margin = len(top)
    lines = [f"{y_label}"]
    for number, row in enumerate(cells):
        left = top if number == 0 else "0" if number == height - 1 else ""
        lines.append(f"{left:>{margin}} ┤{''.join(row)}".rstrip())
    end = significant(most_x, 3)
    lines.append(f"{'':>{margin}} └{'─' * width}")
    lines.append(f"{'':>{margin}}  0{x_label:^{width - len(end) - 2}}{end}")
    lines += [f"{'':>{margin}}  {one.line_mark}{one.point_mark} {one.label}" for one in series]
    return lines
