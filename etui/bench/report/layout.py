"""Sizes of drawings, and places for labels that cover no mark and no other label."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from etui.bench.report import svg

_GAP = 12.0
"""Distance of a label from its mark."""
_FURTHER = (0.0, 18.0, 36.0)


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a drawing in user units (CSS pixels at full size), with margins for labels."""

    width: float
    height: float
    left: float = 58
    right: float = 26
    top: float = 34
    bottom: float = 56
    class_: str = "wide"


Box = tuple[float, float, float, float]
"""Left, top, right and bottom of what a label must not cover."""


def place_label(
    at: tuple[float, float],
    text: str,
    class_: str,
    taken: list[Box],
    size: Size,
    *,
    needed: bool = True,
) -> Markup:
    """Place a label next to a mark where there is room: left or right, then further away.

    A label that is not needed stays close to its mark.

    Args:
        at: Position of the mark.
        taken: What it must not cover; its own box is added.
        size: Size of the drawing, which it does not leave.
        needed: Whether it is drawn where there is no free place.
    """
    width = len(text) * svg.CHARACTER_WIDTH
    x, y = at
    options: list[tuple[float, float, str, Box]] = []
    for off in _FURTHER if needed else _FURTHER[:1]:
        for right, left, row in (
            (x + _GAP, x - _GAP - width, y - 9 - off),
            (x + _GAP, x - _GAP - width, y + 16 + off),
        ):
            options.append((right, row, "start", (right, row - 11, right + width, row + 4)))
            options.append((left + width, row, "end", (left, row - 11, left + width, row + 4)))
    inside = [
        option
        for option in options
        if option[3][0] >= size.left + 2 and option[3][2] <= size.width - 2 and option[3][1] > 0
    ]
    free = [option for option in inside if not any(_overlaps(option[3], box) for box in taken)]
    if not free and not needed:
        return Markup()
    best_x, best_y, anchor, box = (free or inside or _squeeze(options, taken, size))[0]
    taken.append(box)
    return svg.label(best_x, best_y, text, class_, anchor)


def _squeeze(
    options: list[tuple[float, float, str, Box]], taken: list[Box], size: Size
) -> list[tuple[float, float, str, Box]]:
    """Move labels that are too long for either side into the drawing, free places first."""
    moved = []
    last = size.width - 2
    for _, row, _, (left, top, right, bottom) in options:
        width = right - left
        if right > last:  # its width is an estimate, so it grows away from the edge
            moved.append((last, row, "end", (last - width, top, last, bottom)))
        else:
            start = max(2.0, left)
            moved.append((start, row, "start", (start, top, start + width, bottom)))
    return sorted(moved, key=lambda one: (one[3][1] <= 0, any(_overlaps(one[3], b) for b in taken)))


def box_around(x: float, y: float, half_width: float, half_height: float) -> Box:
    """Return the box around a point."""
    return (x - half_width, y - half_height, x + half_width, y + half_height)


def _overlaps(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
