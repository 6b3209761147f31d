"""Place the labels of points on a chart so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, sin

_DIRECTIONS = 16
_RINGS = (8.0, 11.0, 16.0, 26.0, 38.0, 54.0, 74.0, 98.0, 126.0)
"""Gaps between a point and its label that are tried, in the unit of the boxes."""
_MARGIN = 1.5


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with its sides along the axes, in pixels or another unit."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0

    def grow(self, margin: float) -> Box:
        """Return the box with a margin on each side."""
        return Box(self.left - margin, self.bottom - margin, self.right + margin, self.top + margin)


@dataclass(frozen=True, slots=True)
class Label:
    """A label to be placed: its point, its size, and the direction that it prefers.

    Attributes:
        width, height: Size of the text.
    """

    x: float
    y: float
    width: float
    height: float
    angle: float = 270.0
    """Preferred direction from the point to the text, in degrees; 0 is to the right and 90 upwards.
    """


def place_labels(labels: Sequence[Label], obstacles: Sequence[Box], frame: Box) -> list[Box]:
    """Choose a box for each label, the first labels first.

    A label goes to the nearest free place around its point, in the preferred direction if several
    are as near. Without a free place it takes the one that covers the least.
    """
    taken = [*obstacles]
    found = []
    for label in labels:
        box = min(_list_places(label, frame), key=lambda place: _cover(place, taken, frame))
        found.append(box)
        taken.append(box.grow(_MARGIN))
    return found


def _list_places(label: Label, frame: Box) -> list[Box]:
    """List the boxes to try, best first: by their gap, then by the turn from the preference."""
    turns = sorted(range(_DIRECTIONS), key=lambda step: min(step, _DIRECTIONS - step))
    places = []
    for gap in _RINGS:
        for turn in turns:
            angle = (label.angle + 360 / _DIRECTIONS * turn) * pi / 180
            right, up = cos(angle), sin(angle)
            # The side of the text that faces the point keeps the gap; its middle slides along.
            x = label.x + gap * right + label.width / 2 * max(-1.0, min(1.0, 1.5 * right))
            y = label.y + gap * up + label.height / 2 * max(-1.0, min(1.0, 1.5 * up))
            places.append(_shift_inside(_center(x, y, label), frame))
    return places


def _center(x: float, y: float, label: Label) -> Box:
    half, up = label.width / 2, label.height / 2
    return Box(x - half, y - up, x + half, y + up)


def _shift_inside(box: Box, frame: Box) -> Box:
    """Move a box that crosses the frame inside it, as far as it fits."""
    x = max(frame.left - box.left, 0.0) or min(frame.right - box.right, 0.0)
    y = max(frame.bottom - box.bottom, 0.0) or min(frame.top - box.top, 0.0)
    return Box(box.left + x, box.bottom + y, box.right + x, box.top + y)


def _cover(box: Box, taken: Sequence[Box], frame: Box) -> float:
    """Compute how much a box covers, and how much of it is outside the frame."""
    area = (box.right - box.left) * (box.top - box.bottom)
    return sum(box.overlap(other) for other in taken) + area - box.overlap(frame)


def find_distance(box: Box, x: float, y: float) -> float:
    """Return the distance between a point and the nearest edge of a box; 0 inside it."""
    across = max(box.left - x, x - box.right, 0.0)
    up = max(box.bottom - y, y - box.top, 0.0)
    return hypot(across, up)
