"""Chart of accuracy against joules per question: every arm, the mixtures, and routers."""

from __future__ import annotations

import math
from itertools import pairwise

from markupsafe import Markup

from etui import units
from etui.bench.report import svg
from etui.bench.report.layout import Box, Size, box_around, place_label
from etui.bench.report.svg import Axis
from etui.design.report.marks import Plane, PlaneDot, Shape

WIDE = Size(960, 480)
NARROW = Size(400, 400, left=46, right=14, class_="narrow")

_LOG_FROM = 6.0
_STEPS = 40


def draw_plane(plane: Plane, size: Size) -> Markup:
    """Draw the plane; labels that would cover others are left to tooltips."""
    x, y = _choose_axes(plane, size)
    ticks = (8, 6) if size.class_ == "wide" else (4, 5)
    parts = svg.frame(x, y, lambda v: f"{v:,g}", lambda v: f"{v * 100:.0f} %", ticks)
    mark = " (estimate)" if plane.estimate else ""
    middle = (size.left + size.width - size.right) / 2
    parts.append(
        svg.label(middle, size.height - 10, f"joules per question{mark}", "title", "middle")
    )
    parts.append(svg.label(size.left - 40, size.top - 20, "accuracy", "title"))
    if y.low <= plane.chance:
        at = y.at(plane.chance)
        parts.append(svg.line(x.start, at, x.end, at, "chance"))
        parts.append(svg.label(x.end, at - 6, "chance", "note", "end"))
    line = _follow_hull(plane, x, y)
    taken: list[Box] = [
        box_around(x.at(dot.joules[0]), y.at(dot.accuracy[0]), 8, 8) for dot in plane.dots
    ]
    if len(line) > 1:
        parts.append(svg.path(line, "hull"))
        taken += [box_around(*point, 2, 2) for point in line]
    for dot in plane.dots:
        parts.append(_draw_dot(dot, x, y))
    for name, joules, accuracy in plane.routers:
        at_x, at_y = x.at(joules), y.at(accuracy)
        taken.append(box_around(at_x, at_y, 8, 8))
        text = f"{name}: {units.accuracy_text(accuracy)}"
        parts.append(svg.group("oracle-mark", [_diamond(at_x, at_y)], text))
        parts.append(place_label((at_x, at_y), name, "note", taken, size, needed=True))
    # Corners and direct answers first, so that the labels that matter find a place.
    order = sorted(
        plane.dots, key=lambda dot: (not dot.on_hull, dot.shape != "direct", dot.joules[0])
    )
    for dot in order:
        place = x.at(dot.joules[0]), y.at(dot.accuracy[0])
        needed = dot.on_hull or dot.shape == "direct"
        parts.append(
            place_label(place, dot.label, f"name arm-{dot.colour}", taken, size, needed=needed)
        )
    name = "Accuracy against joules per question: " + "; ".join(map(_describe, plane.dots))
    return svg.drawing(size.width, size.height, parts, name, size.class_)


def draw_shape(shape: Shape, x: float, y: float, radius: float, class_: str = "dot") -> Markup:
    """Draw the mark of a way of reasoning: circle, square or triangle."""
    if shape == "direct":
        return svg.element("circle", cx=x, cy=y, r=radius, class_=class_)
    if shape == "cot":
        side = 1.75 * radius
        return svg.element(
            "rect", x=x - side / 2, y=y - side / 2, width=side, height=side, class_=class_
        )
    up, down, wide = y - 1.2 * radius, y + 0.8 * radius, 1.15 * radius
    corners = f"{x - wide:.1f},{down:.1f} {x + wide:.1f},{down:.1f} {x:.1f},{up:.1f}"
    return svg.element("polygon", points=corners, class_=class_)


def _choose_axes(plane: Plane, size: Size) -> tuple[Axis, Axis]:
    lows = [dot.joules[1] for dot in plane.dots] + [joules for _, joules, _ in plane.routers]
    highs = [dot.joules[2] for dot in plane.dots]
    ends = size.left, size.width - size.right
    if max(highs) / min(lows) > _LOG_FROM:
        x = Axis(min(lows) / 1.3, max(highs) * 1.5, *ends, logarithmic=True)
    else:
        x = Axis(0.0, max(highs) * 1.15, *ends)
    low = min([plane.chance, *(dot.accuracy[1] for dot in plane.dots)])
    high = max([dot.accuracy[2] for dot in plane.dots] + [right for _, _, right in plane.routers])
    bottom = max(0.0, math.floor(low * 20 - 0.3) / 20)
    top = min(1.0, math.ceil(high * 20 + 0.6) / 20)
    return x, Axis(bottom, top, size.height - size.bottom, size.top)


def _follow_hull(plane: Plane, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Return the line of mixtures; straight in joules, so curved on a logarithmic axis."""
    corners = [plane.dots[at] for at in plane.hull]
    return [
        (
            x.at(left.joules[0] + (right.joules[0] - left.joules[0]) * step / _STEPS),
            y.at(left.accuracy[0] + (right.accuracy[0] - left.accuracy[0]) * step / _STEPS),
        )
        for left, right in pairwise(corners)
        for step in range(_STEPS + 1)
    ]


def _draw_dot(dot: PlaneDot, x: Axis, y: Axis) -> Markup:
    at_x, at_y = x.at(dot.joules[0]), y.at(dot.accuracy[0])
    parts = [
        svg.line(x.at(dot.joules[1]), at_y, x.at(dot.joules[2]), at_y, "whisker"),
        svg.line(at_x, y.at(dot.accuracy[1]), at_x, y.at(dot.accuracy[2]), "whisker"),
        draw_shape(dot.shape, at_x, at_y, 6.5),
    ]
    return svg.group(f"arm-{dot.colour}", parts, _describe(dot))


def _describe(dot: PlaneDot) -> str:
    value, low, high = dot.accuracy
    return (
        f"{dot.role} {dot.label}: {units.accuracy_text(value)} ({units.points_text(low, high)}), "
        f"{units.significant(dot.joules[0], 3)} J per question"
    )


def _diamond(x: float, y: float) -> Markup:
    corners = f"{x:.1f},{y - 7:.1f} {x + 7:.1f},{y:.1f} {x:.1f},{y + 7:.1f} {x - 7:.1f},{y:.1f}"
    return svg.element("polygon", points=corners, class_="oracle")
