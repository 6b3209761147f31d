"""Charts drawn in characters: lines and points, arms on a plane, bars, and power over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor

from etui import units

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GUTTER = 8
"""Cells to the left of the axis of a plane, for its numbers."""

_ROWS_WITH_MIDDLE = 7
"""Rows of a plane from which the middle of its axis has a label."""

_LEFT_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"
_LOWER_EIGHTHS = " ▁▂▃▄▅▆▇█"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """A line and its points, each drawn with a character of its own."""

    label: str
    line: Points
    points: Points
    line_mark: str
    point_mark: str


def plot(
    series: Sequence[Series], x_label: str, y_label: str, *, width: int = 64, height: int = 15
) -> list[str]:
    """Draw a plot with two axes from 0 and a legend of the characters, as lines of text."""
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
    for one in series:  # points after all lines, because the points were measured
        for pair in one.points:
            put(pair, one.point_mark)
    top, half = units.significant(most_y, 3), units.significant(most_y / 2, 3)
    margin = max(len(top), len(half))
    labels = {0: top, height - 1: "0"}
    if height % 2 and height >= _ROWS_WITH_MIDDLE:
        labels[height // 2] = half
    lines = [f"{y_label}"]
    for number, row in enumerate(cells):
        left = labels.get(number, "")
        lines.append(f"{left:>{margin}} {'┤' if left else '│'}{''.join(row)}".rstrip())
    end = units.significant(most_x, 3)
    axis = "".join("┴" if x in (0, (width - 1) // 2, width - 1) else "─" for x in range(width))
    lines.append(f"{'':>{margin}} └{axis}")
    lines.append(f"{'':>{margin}}  0{x_label:^{width - len(end) - 2}}{end}")
    lines += [f"{'':>{margin}}  {one.line_mark}{one.point_mark} {one.label}" for one in series]
    return lines


@dataclass(frozen=True, slots=True)
class ArmPoint:
    """One arm on the plane."""

    joules: float  # Joules per question
    accuracy: float  # Share of right answers
    low: float  # Ends of its 95 % interval
    high: float
    joules_low: float | None = None  # Ends of that of the joules; None if it is not known
    joules_high: float | None = None

    @property
    def joules_ends(self) -> tuple[float, float]:
        """Both ends of the interval of the joules; the value itself where one is not known."""
        low = self.joules if self.joules_low is None else self.joules_low
        high = self.joules if self.joules_high is None else self.joules_high
        return max(0.0, min(low, self.joules)), max(high, self.joules)


def plane_lines(
    arms: Mapping[str, ArmPoint],
    hull: Sequence[str],
    width: int,
    height: int,
    kind: str | None = None,
) -> list[str]:
    """Draw the plane with its axes, a letter for each arm, and bars for both of its intervals.

    ``hull``: arms on the upper hull, cheapest first; dots between them show their mixtures.
    ``width`` and ``height`` include the axes; ``kind`` is how the joules were determined.
    """
    if not arms:
        return ["no arm has both an accuracy and joules"]
    columns, rows = max(8, width - _GUTTER - 1), max(4, height - 2)
    right = 1.08 * max(point.joules_ends[1] for point in arms.values()) or 1.0
    bottom = max(0.0, floor(20 * min(point.low for point in arms.values()) - 0.4) / 20)
    top = min(1.0, ceil(20 * max(point.high for point in arms.values()) + 0.4) / 20)

    def column(joules: float) -> int:
        return min(columns - 1, round(joules / right * (columns - 1)))

    def row(accuracy: float) -> int:
        share = (accuracy - bottom) / (top - bottom) if top > bottom else 0.5
        return rows - 1 - min(rows - 1, max(0, round(share * (rows - 1))))

    cells = [[" "] * columns for _ in range(rows)]
    for left, other in pairwise(hull):
        a, b = arms[left], arms[other]
        for x in range(column(a.joules) + 1, column(b.joules)):
            share = (x / (columns - 1) * right - a.joules) / (b.joules - a.joules)
            cells[row(a.accuracy + share * (b.accuracy - a.accuracy))][x] = "·"
    for point in arms.values():
        at, (left_end, right_end) = row(point.accuracy), map(column, point.joules_ends)
        for x in range(left_end, right_end + 1):
            cells[at][x] = "─"
        for y in range(row(point.high), row(point.low) + 1):
            cells[y][column(point.joules)] = "│"
    for label, point in zip(LABELS, arms.values(), strict=False):
        cells[row(point.accuracy)][column(point.joules)] = label
    lines = [_add_axis(line, y, rows, top, bottom) for y, line in enumerate(cells)]
    middle = (columns - 1) // 2
    axis = ["─"] * columns
    for x in (0, middle, columns - 1):
        axis[x] = "┴"
    lines.append(" " * _GUTTER + "└" + "".join(axis))
    end = units.marked(units.per_text(right, "question", kind))
    half = units.energy_text(right * middle / (columns - 1), None, None)
    labels = "0".ljust(max(1, middle - len(half) // 2)) + half
    if len(labels) + len(end) + 2 > columns:
        labels = "0"
    lines.append(" " * (_GUTTER + 1) + labels + end.rjust(columns - len(labels)))
    return lines


def _add_axis(line: list[str], y: int, rows: int, top: float, bottom: float) -> str:
    """Put the axis before a row, with an accuracy at the top, in the middle and at the bottom."""
    label = ""
    if y in (0, rows - 1) or (y == (rows - 1) // 2 and rows >= _ROWS_WITH_MIDDLE):
        label = units.accuracy_text(top - (top - bottom) * y / (rows - 1))
    return f"{label:>{_GUTTER - 1}} {'┤' if label else '│'}{''.join(line)}"


def bar(value: float | None, highest: float, width: int) -> str:
    """Draw a bar of at most ``width`` characters, full at ``highest``.

    A known value above 0 draws at least the thinnest line; None and 0 draw nothing.
    """
    if value is None or value <= 0 or highest <= 0 or width <= 0:
        return ""
    share = min(1.0, value / highest)
    eighths = max(1, round(share * 8 * width))
    full, partial = divmod(eighths, 8)
    return _FULL * full + (_LEFT_EIGHTHS[partial] if partial else "")


def meter(share: float, width: int) -> str:
    """Draw a share of 1 as ``width`` cells, the rest as ``░``: ``███░░░░░``; above 1 it is full.

    Any share above 0 fills at least one cell, and only a whole one fills them all.
    """
    if width <= 0:
        return ""
    cells = round(min(1.0, max(0.0, share)) * width)
    if share > 0:
        cells = max(1, cells)
    if share < 1:
        cells = min(cells, max(width - 1, 1))
    return _FULL * cells + "░" * (width - cells)


def scale_top(limit_watts: float | None, highest_watts: float) -> float:
    """Return the top of the scale in watts: the limit, else the next of 1, 2, 5, 10 … above."""
    if limit_watts is not None and limit_watts > 0:
        return limit_watts
    step = 1.0
    while True:
        for factor in (1, 2, 5):
            if highest_watts <= step * factor:
                return step * factor
        step *= 10


def bar_rows(watts: Sequence[float | None], top_watts: float, width: int, height: int) -> list[str]:
    """Draw the graph as ``height`` rows of ``width`` characters, the newest sample at the right.

    One column is one sample. None (not known) leaves its column empty; a known value draws at
    least the lowest line, and a value above the top is drawn full.
    """
    shown = list(watts)[-width:] if width else []
    columns = [count_levels(value, top_watts, 8 * height) for value in shown]
    padding = " " * (width - len(columns))
    return [
        padding + "".join(_LOWER_EIGHTHS[min(8, max(0, level - 8 * row))] for level in columns)
        for row in reversed(range(height))
    ]


def idle_row(idle_watts: float | None, top_watts: float, height: int) -> int | None:
    """Return the row of the idle line from the top; None without a baseline or above the scale."""
    if idle_watts is None or not 0 <= idle_watts <= top_watts or not height:
        return None
    return height - 1 - min(height - 1, int(idle_watts / top_watts * height))


def count_levels(watts: float | None, top_watts: float, most: int) -> int:
    """Count the levels of a column, at least one and ``most`` at the top; 0 where unknown."""
    return 0 if watts is None else max(1, min(most, round(watts / top_watts * most)))
