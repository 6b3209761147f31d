"""Chart of joules against seconds: settings with both intervals, and the frontier line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from etui import units
from etui.bench.report import svg
from etui.bench.report.layout import Box, Size, box_around, place_label
from etui.bench.report.svg import Axis
from etui.stats.tests import Interval
from etui.sweep.report.cells import accuracy_text, difference_text, joules_text
from etui.sweep.report.roles import Role, find_role, list_names, list_short_names
from etui.sweep.result import SettingResult, SweepResult
from etui.text.tables import fit_cells

WIDE = Size(960, 470, left=64)
NARROW = Size(400, 400, left=50, right=14, class_="narrow")

_LOG_FROM = 5.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""

_ORDER: dict[Role, int] = {"best": 0, "baseline": 1, "frontier": 2, "kept": 3, "dropped": 4}
_MOST_LABELS = 12
_NAME_CELLS = 38


@dataclass(frozen=True, slots=True)
class _Dot:
    """A setting in the chart; ``accuracy`` is the end of its label."""

    role: Role
    seconds: Interval
    joules: Interval
    name: str
    accuracy: str
    title: str


def draw_frontier(result: SweepResult, size: Size) -> Markup | None:
    """Draw the settings by time and joules; None if fewer than two have both."""
    dots = _dots(result)
    if len(dots) < 2:
        return None
    count = len(dots)
    dots = _near(dots)
    x = _axis([_extent(dot, dot.seconds) for dot in dots], size.left, size.width - size.right)
    y = _axis([_extent(dot, dot.joules) for dot in dots], size.height - size.bottom, size.top)
    tick_counts = (8, 6) if size.class_ == "wide" else (4, 6)
    parts = svg.frame(x, y, lambda v: f"{v:,g}", lambda v: f"{v:,g}", tick_counts)
    estimate = f" ({units.ESTIMATE})" if result.kind == units.ESTIMATE else ""
    middle = (size.left + size.width - size.right) / 2
    parts.append(svg.label(middle, size.height - 10, "seconds per answer", "title", "middle"))
    parts.append(svg.label(6, size.top - 18, f"joules per answer{estimate}", "title"))
    line = _staircase(result, x, y)
    if line:
        parts.append(svg.path(line, "hull"))
    taken: list[Box] = [
        box_around(x.at(dot.seconds.value), y.at(dot.joules.value), 9, 9) for dot in dots
    ]
    taken += [_around(*pair) for pair in pairwise(line)]
    for dot in reversed(dots):
        parts.append(_mark(dot, x, y))
    for dot in dots[:_MOST_LABELS]:
        if dot.role == "dropped":
            continue
        at = (x.at(dot.seconds.value), y.at(dot.joules.value))
        needed = dot.role in ("best", "baseline")
        class_ = f"name role-{dot.role}"
        parts.append(place_label(at, _label(dot, at[0], size), class_, taken, size, needed=needed))
    if len(dots) < count:
        more = units.count_text(count - len(dots), "dropped setting is", "dropped settings are")
        text = f"{more} far outside"
        parts.append(svg.label(size.width - size.right, size.top - 18, text, "note", "end"))
    name = "Joules against seconds per answer: " + "; ".join(
        dot.title for dot in dots if dot.role != "dropped"
    )
    return svg.drawing(size.width, size.height, parts, name, size.class_)


def _label(dot: _Dot, x: float, size: Size) -> str:
    """Return the name and accuracy, cut to the room on the wider side of the mark."""
    room = max(x - size.left, size.width - x) - 18
    cells = int(room / svg.CHARACTER_WIDTH) - len(dot.accuracy)
    return fit_cells(dot.name, max(6, min(cells, _NAME_CELLS))) + dot.accuracy


def _dots(result: SweepResult) -> list[_Dot]:
    names, short = list_names(result), list_short_names(result)
    found = []
    for one in result.settings:
        if one.joules is None or one.seconds is None:
            continue
        if one.joules.value <= 0 or one.seconds.value <= 0:
            continue
        share = one.accuracy.share.value if one.accuracy is not None else None
        accuracy = "" if share is None else f" · {units.accuracy_text(share)}"
        title = _title(names[one.setting], result, one)
        role, name = find_role(result, one), short[one.setting]
        found.append(_Dot(role, one.seconds, one.joules, name, accuracy, title))
    return sorted(found, key=lambda dot: (_ORDER[dot.role], dot.joules.value))


def _near(dots: Sequence[_Dot]) -> list[_Dot]:
    """Leave out dropped settings so far away that the others would be one spot."""
    kept = [dot for dot in dots if dot.role != "dropped"]
    if len(kept) < 2:
        return list(dots)
    seconds, joules = ([pick(dot) for dot in kept] for pick in (_seconds, _joules))
    rooms = [max(max(values) - min(values), 0.1 * max(values)) for values in (seconds, joules)]

    def is_near(dot: _Dot) -> bool:
        far_s = max(_seconds(dot) - max(seconds), min(seconds) - _seconds(dot))
        far_j = max(_joules(dot) - max(joules), min(joules) - _joules(dot))
        return far_s <= rooms[0] and far_j <= rooms[1]

    return [dot for dot in dots if dot.role != "dropped" or is_near(dot)]


def _seconds(dot: _Dot) -> float:
    return dot.seconds.value


def _joules(dot: _Dot) -> float:
    return dot.joules.value


def _title(name: str, result: SweepResult, one: SettingResult) -> str:
    parts = [
        f"{name}: {joules_text(one.joules, result.kind)}",
        units.seconds_text(one.seconds.value if one.seconds else None),
    ]
    if one.joules_difference is not None:
        change = difference_text(one.joules_difference)
        parts.append(f"{change} joules, {difference_text(one.seconds_difference)} time")
    if one.accuracy is not None:
        parts.append(f"accuracy {accuracy_text(one.accuracy)}")
    if one.dropped_after is not None:
        parts.append(f"dropped after block {one.dropped_after + 1}")
    return ", ".join(parts)


def _extent(dot: _Dot, figure: Interval) -> tuple[float, float]:
    """Return what an axis has to show of a figure.

    A dropped setting has few blocks, and so an interval that may be wider than all others: of it
    the value alone counts. No interval counts beyond the value's own size.
    """
    value = figure.value
    if dot.role == "dropped":
        return value, value
    low = value if figure.low is None else max(figure.low, 0.5 * value)
    high = value if figure.high is None else min(figure.high, 2 * value)
    return low, high


def _axis(extents: Sequence[tuple[float, float]], start: float, end: float) -> Axis:
    low, high = min(low for low, _ in extents), max(high for _, high in extents)
    if high / low > _LOG_FROM:
        return Axis(low / 1.15, high * 1.2, start, end, logarithmic=True)
    room = (high - low) * 0.1 or 0.1 * high
    return Axis(max(0.0, low - room), high + room, start, end)


def _staircase(result: SweepResult, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Return the frontier: between two settings it keeps the joules of the faster one."""
    corners = sorted(
        (one.seconds.value, one.joules.value)
        for one in result.settings
        if one.is_on_frontier and one.joules is not None and one.seconds is not None
    )
    if len(corners) < 2:
        return []
    line = [(x.at(corners[0][0]), y.at(corners[0][1]))]
    for seconds, joules in corners[1:]:
        line += [(x.at(seconds), line[-1][1]), (x.at(seconds), y.at(joules))]
    return line


def _around(one: tuple[float, float], other: tuple[float, float]) -> Box:
    """Return the box of a horizontal or vertical part of the line."""
    left, right = sorted((one[0], other[0]))
    top, bottom = sorted((one[1], other[1]))
    return (left - 2, top - 2, right + 2, bottom + 2)


def _mark(dot: _Dot, x: Axis, y: Axis) -> Markup:
    at_x, at_y = x.at(dot.seconds.value), y.at(dot.joules.value)
    parts = []
    for figure, axis, flat in ((dot.seconds, x, True), (dot.joules, y, False)):
        # A dropped setting has few blocks: its interval, in the tooltip, would cross the figure.
        if figure.low is None or figure.high is None or dot.role == "dropped":
            continue
        low, high = axis.at(max(figure.low, axis.low)), axis.at(figure.high)
        ends = (low, at_y, high, at_y) if flat else (at_x, low, at_x, high)
        parts.append(svg.line(*ends, "whisker"))
    radius = 4.5 if dot.role in ("dropped", "kept") else 7
    parts.append(svg.element("circle", cx=at_x, cy=at_y, r=radius, class_="dot"))
    return svg.group(f"role-{dot.role}", parts, dot.title)
