"""Chart of accuracy against joules per question: arms with both intervals, and the mixture line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup

from etui import units
from etui.bench.accuracy import Oracle
from etui.bench.report import svg
from etui.bench.report.layout import Size, box_around, place_label
from etui.bench.report.svg import Axis
from etui.bench.summary import ArmSummary, Summary
from etui.bench.summary_text import ends, interval_text, joules_text

_LOG_FROM = 8.0
"""Ratio of the most expensive to the cheapest arm above which the joules axis is logarithmic."""


WIDE = Size(960, 470)
NARROW = Size(400, 400, left=46, right=14, class_="narrow")


@dataclass(frozen=True, slots=True)
class Dot:
    """One arm in the chart; ``low`` and ``high`` are ends of intervals."""

    name: str
    colour: int
    joules: float
    joules_low: float
    joules_high: float
    accuracy: float
    low: float
    high: float
    title: str


def draw_chart(summary: Summary, size: Size) -> Markup | None:
    """Draw the chart; None if an arm's energy is unmeasured."""
    dots = _dots(summary.arms)
    if not dots or len(dots) < len(summary.arms):
        return None
    if len(dots) == 1:
        size = replace(size, height=0.66 * size.height)
    best = summary.oracle
    x, y = _axes(dots, best, size)
    parts = svg.frame(x, y, lambda v: f"{v:,g}", lambda v: f"{v * 100:.0f} %", _ticks(size))
    parts.append(_titles(size, summary))
    chance = y.at(summary.chance)
    if 0 < summary.chance >= y.low:
        parts.append(svg.line(x.start, chance, x.end, chance, "chance"))
        parts.append(svg.label(x.end, chance - 6, "chance", "note", "end"))
    taken = [box_around(x.at(dot.joules), y.at(dot.accuracy), 9, 9) for dot in dots]
    mixtures = _mixtures(dots, summary.hull, x, y)
    if mixtures:
        parts.append(svg.path(mixtures, "hull"))
        taken += [box_around(*point, 2, 2) for point in mixtures]
    if best is not None and best.joules_per_question is not None:
        at = (x.at(best.joules_per_question), y.at(best.accuracy))
        taken.append(box_around(*at, 9, 9))
        text = f"oracle {units.accuracy_text(best.accuracy)}"
        parts.append(_oracle(at))
        parts.append(place_label(at, text, "note", taken, size))
    for dot in dots:
        parts.append(_mark(dot, x, y))
    for dot in sorted(dots, key=lambda dot: dot.joules):
        at = (x.at(dot.joules), y.at(dot.accuracy))
        text = f"{dot.name} {units.accuracy_text(dot.accuracy)}"
        parts.append(place_label(at, text, f"name arm-{dot.colour}", taken, size))
    name = "Accuracy against joules per question: " + "; ".join(dot.title for dot in dots)
    return svg.drawing(size.width, size.height, parts, name, size.class_)


def _dots(arms: Mapping[str, ArmSummary]) -> list[Dot]:
    found = []
    for colour, (name, arm) in enumerate(arms.items()):
        energy, micro = arm.energy, arm.accuracy.micro
        if energy is None or energy.per_question.value <= 0:
            continue
        joules, (low, high) = energy.per_question, ends(micro)
        value = joules.value
        found.append(
            Dot(
                name=name,
                colour=colour % 8,
                joules=value,
                joules_low=value if joules.low is None else max(joules.low, value / 20),
                joules_high=value if joules.high is None else joules.high,
                accuracy=micro.value,
                low=low,
                high=high,
                title=f"{name}: {units.accuracy_text(micro.value)} "
                f"({interval_text(micro)}), {joules_text(joules, energy.kind)} per question",
            )
        )
    return found


def _axes(dots: Sequence[Dot], best: Oracle | None, size: Size) -> tuple[Axis, Axis]:
    lows, highs = [dot.joules_low for dot in dots], [dot.joules_high for dot in dots]
    tops = [dot.high for dot in dots]
    if best is not None and best.joules_per_question is not None:
        lows.append(best.joules_per_question)
        highs.append(best.joules_per_question)
        tops.append(best.accuracy)
    logarithmic = max(highs) / min(lows) > _LOG_FROM
    ends = (size.left, size.width - size.right)
    if logarithmic:
        x = Axis(min(lows) / 1.5, max(highs) * 1.6, *ends, logarithmic=True)
    else:
        x = Axis(0.0, max(highs) * 1.15, *ends)
    low = min(0.25, *(dot.low for dot in dots))
    bottom = max(0.0, math.floor(low * 20 - 0.3) / 20)
    top = min(1.0, math.ceil(max(tops) * 20 + 0.6) / 20)
    return x, Axis(bottom, top, size.height - size.bottom, size.top)


def _ticks(size: Size) -> tuple[int, int]:
    return (8, 6) if size.class_ == "wide" else (4, 6)


def _titles(size: Size, summary: Summary) -> Markup:
    kinds = summary.kinds
    estimate = " (estimate)" if units.ESTIMATE in kinds else ""
    return svg.group(
        "titles",
        [
            svg.label(
                (size.left + size.width - size.right) / 2,
                size.height - 10,
                f"joules per question{estimate}",
                "title",
                "middle",
            ),
            svg.label(size.left - 40, size.top - 20, "accuracy", "title"),
        ],
    )


def _mixtures(
    dots: Sequence[Dot], hull: Sequence[str], x: Axis, y: Axis
) -> list[tuple[float, float]]:
    """Return the line along the hull; straight in joules, so curved on a logarithmic axis."""
    named = {dot.name: dot for dot in dots}
    corners = [named[name] for name in hull]
    if len(corners) < 2:
        return []
    steps = 40
    return [
        (
            x.at(left.joules + (right.joules - left.joules) * at / steps),
            y.at(left.accuracy + (right.accuracy - left.accuracy) * at / steps),
        )
        for left, right in pairwise(corners)
        for at in range(steps + 1)
    ]


def _mark(dot: Dot, x: Axis, y: Axis) -> Markup:
    at_x, at_y = x.at(dot.joules), y.at(dot.accuracy)
    parts = [
        svg.line(x.at(dot.joules_low), at_y, x.at(dot.joules_high), at_y, "whisker"),
        svg.line(at_x, y.at(dot.low), at_x, y.at(dot.high), "whisker"),
        svg.element("circle", cx=at_x, cy=at_y, r=7, class_="dot"),
    ]
    return svg.group(f"arm-{dot.colour}", parts, dot.title)


def _oracle(at: tuple[float, float]) -> Markup:
    x, y = at
    corners = f"{x:.1f},{y - 7:.1f} {x + 7:.1f},{y:.1f} {x:.1f},{y + 7:.1f} {x - 7:.1f},{y:.1f}"
    shape = svg.element("polygon", points=corners, class_="oracle")
    return svg.group("oracle-mark", [shape], "the cheapest correct arm for each question")
