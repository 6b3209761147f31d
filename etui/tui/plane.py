"""Accuracy against joules drawn in characters: arms as letters, their hull as a line of dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from etui import units

_LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GUTTER = 8
"""Cells left of the axis, for its numbers."""


@dataclass(frozen=True, slots=True)
class ArmPoint:
    """One arm on the plane; ``low`` and ``high`` are the 95 % interval of its accuracy."""

    joules: float
    accuracy: float
    low: float
    high: float


def plane_lines(
    arms: Mapping[str, ArmPoint],
    hull: Sequence[str],
    width: int,
    height: int,
    kind: str | None = None,
) -> list[str]:
    """The plane with its axes, and a legend that names the letters.

    Args:
        arms: Arm -> its point.
        hull: Arms on the upper hull, cheapest first; between them dots show their mixtures.
        width, height: Cells of the plane, axes and numbers included, the legend not.
        kind: How the joules are known.
    """
    if not arms:
        return ["no arm has both an accuracy and its joules"]
    columns, rows = max(8, width - _GUTTER - 1), max(4, height - 2)
    right = 1.08 * max(point.joules for point in arms.values()) or 1.0
    bottom = max(0.0, min(point.low for point in arms.values()) - 0.02)
    top = min(1.0, max(point.high for point in arms.values()) + 0.02)

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
        for y in range(row(point.high), row(point.low) + 1):
            cells[y][column(point.joules)] = "│"
    for label, point in zip(_LABELS, arms.values(), strict=False):
        cells[row(point.accuracy)][column(point.joules)] = label
    lines = [_with_axis(line, y, rows, top, bottom) for y, line in enumerate(cells)]
    lines.append(" " * _GUTTER + "└" + "─" * columns)
    end = units.per_text(right, "question", kind)
    lines.append(" " * _GUTTER + " 0" + end.rjust(columns - 1))
    return lines + _legend(arms, kind)


def _with_axis(line: list[str], y: int, rows: int, top: float, bottom: float) -> str:
    text = "".join(line)
    if y == 0:
        label = units.accuracy_text(top)
    elif y == rows - 1:
        label = units.accuracy_text(bottom)
    else:
        label = ""
    return f"{label:>{_GUTTER - 1}} │{text}"


def _legend(arms: Mapping[str, ArmPoint], kind: str | None) -> list[str]:
    lines = []
    for label, (name, point) in zip(_LABELS, arms.items(), strict=False):
        accuracy = units.accuracy_text(point.accuracy)
        interval = units.points_text(point.low, point.high)
        joules = units.per_text(point.joules, "question", kind)
        lines.append(f"{label} {name}: {accuracy} ({interval}), {joules}")
    return lines
