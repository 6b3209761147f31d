"""Chart of joules against seconds: settings with both intervals, and the frontier line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal, Protocol

from markupsafe import Markup

from etui import units
from etui.bench.report import svg
from etui.bench.report.layout import Box, Size, box_around, place_label
from etui.bench.report.svg import Axis
from etui.stats.tests import Interval
from etui.sweep.result import SettingResult, SweepResult
from etui.sweep.verdict import (
    accuracy_text,
    difference_text,
    joules_text,
    list_varied_axes,
    name_values,
    short_name,
)
from etui.text import fit_cells

Role = Literal["best", "baseline", "frontier", "kept", "dropped"]


NAMES: dict[Role, str] = {
    "best": "best by the goal",
    "baseline": "in use before (baseline)",
    "frontier": "on the frontier",
    "kept": "kept, not on the frontier",
    "dropped": "dropped or could not run",
}
"""Role -> its name in a legend, the most important first."""


def find_role(result: SweepResult, one: SettingResult) -> Role:
    """Return the most important part that a setting plays."""
    if one.setting == result.best and one.setting != result.baseline:
        return "best"
    if one.setting == result.baseline:
        return "baseline"
    if one.is_on_frontier:
        return "frontier"
    return "dropped" if one.dropped_after is not None or one.drop_reason else "kept"


def list_roles(result: SweepResult) -> dict[str, Role]:
    """Return the role of every setting, by its key."""
    return {one.setting: find_role(result, one) for one in result.settings}


def list_names(result: SweepResult) -> dict[str, str]:
    """Return a name for every setting, by its key: its values of the axes that differ."""
    varied = set(list_varied_axes(result.settings))
    return {
        one.setting: name_values([pair for pair in one.values if pair[0] in varied])
        for one in result.settings
    }


def list_short_names(result: SweepResult) -> dict[str, str]:
    """Return what differs from the baseline, by key; the baseline is named as such."""
    base = next((one.values for one in result.settings if one.setting == result.baseline), ())
    return {
        one.setting: "baseline" if one.setting == result.baseline else short_name(one.values, base)
        for one in result.settings
    }


def list_shown_roles(result: SweepResult) -> list[tuple[str, str]]:
    """Return the legend, CSS class and name, of the roles that occur."""
    found = set(list_roles(result).values())
    return [(f"role-{role}", name) for role, name in NAMES.items() if role in found]


POWER_SIZES = (Size(960, 320, left=64), Size(400, 280, left=50, right=14, class_="narrow"))


_POINTS = {"wide": 1800, "narrow": 700}
"""Most points of a drawing, over all visits."""


_LONGEST_GAP_S = 60.0
"""A longer pause between two visits, as of an interrupted sweep, is drawn with this length."""


class VisitWatts(Protocol):
    """Watts of one visit: a line of ``power.jsonl``."""

    @property
    def block(self) -> int:
        """Number of the block."""

    @property
    def setting(self) -> str:
        """Key of the setting."""

    @property
    def start_ns(self) -> int:
        """Start on the monotonic clock."""

    @property
    def end_ns(self) -> int:
        """End on the monotonic clock."""

    @property
    def watts(self) -> Sequence[float | None]:
        """Mean watts of equal slices; None where nothing was recorded."""


@dataclass(frozen=True, slots=True)
class PlacedVisit:
    """A visit on the time axis of the figure.

    Attributes:
        start_s, end_s: Seconds from the start, long pauses left out.
    """

    power: VisitWatts
    start_s: float
    end_s: float


def place_visits(power: Sequence[VisitWatts]) -> list[PlacedVisit]:
    """Put the visits one after another in the order given, with long pauses shortened.

    The monotonic clock begins again when the machine does, so a visit may seem to start before
    the one that came first.
    """
    placed: list[PlacedVisit] = []
    now, before = 0.0, None
    for one in power:
        if before is not None:
            pause = (one.start_ns - before) / 1e9
            now += min(pause, _LONGEST_GAP_S) if pause >= 0 else _LONGEST_GAP_S
        length = max(0.0, (one.end_ns - one.start_ns) / 1e9)
        placed.append(PlacedVisit(one, now, now + length))
        now, before = now + length, one.end_ns
    return placed


def thin_watts(watts: Sequence[float | None], most: int) -> list[float | None]:
    """Average neighbouring slices so that at most ``most`` are left; gaps stay gaps."""
    size = -(-len(watts) // max(most, 1)) or 1
    found: list[float | None] = []
    for start in range(0, len(watts), size):
        known = [value for value in watts[start : start + size] if value is not None]
        found.append(sum(known) / len(known) if known else None)
    return found


def draw_power(result: SweepResult, power: Sequence[VisitWatts], size: Size) -> Markup | None:
    """Draw the watts of all visits; None if nothing was recorded."""
    visits = place_visits(power)
    known = [watts for visit in visits for watts in visit.power.watts if watts is not None]
    if not known or visits[-1].end_s <= 0:
        return None
    seconds = visits[-1].end_s
    unit, scale = ("minutes", 60.0) if seconds > 240 else ("seconds", 1.0)
    x = Axis(0.0, seconds / scale, size.left, size.width - size.right)
    y = Axis(0.0, max(known) * 1.12 or 1.0, size.height - size.bottom, size.top)
    tick_counts = (8, 4) if size.class_ == "wide" else (4, 4)
    parts = svg.frame(x, y, lambda v: f"{v:g}", lambda v: f"{v:g} W", tick_counts)
    parts += _blocks(visits, x, size, scale)
    roles, names = list_roles(result), list_names(result)
    most = max(2, _POINTS[size.class_] // len(visits))
    # The important settings are drawn last, above the others.
    order = list(NAMES)
    for visit in sorted(visits, key=lambda v: -order.index(roles.get(v.power.setting, "dropped"))):
        role = roles.get(visit.power.setting, "dropped")
        lines = _lines(visit, thin_watts(visit.power.watts, most), x, y, scale)
        name = names.get(visit.power.setting, visit.power.setting)
        title = f"block {visit.power.block + 1}, {name}"
        parts.append(svg.group(f"role-{role}", [svg.path(at, "power") for at in lines], title))
    estimate = ", watts are estimates" if result.kind == units.ESTIMATE else ""
    middle = (size.left + size.width - size.right) / 2
    title = f"{unit} of the visits, blocks marked{estimate}"
    parts.append(svg.label(middle, size.height - 10, title, "title", "middle"))
    label = (
        f"Watts over time in {units.count_text(len(visits), 'visit')}, at most "
        f"{units.watts_text(max(known), result.kind)}"
    )
    return svg.drawing(size.width, size.height, parts, label, size.class_)


def _lines(
    visit: PlacedVisit, watts: Sequence[float | None], x: Axis, y: Axis, scale: float
) -> list[list[tuple[float, float]]]:
    """Return a line for each part of a visit without a gap."""
    step = (visit.end_s - visit.start_s) / max(len(watts), 1)
    lines: list[list[tuple[float, float]]] = []
    is_open = False
    for at, value in enumerate(watts):
        if value is None:
            is_open = False
            continue
        if not is_open:
            lines.append([])
            is_open = True
        start = visit.start_s + at * step
        height = y.at(value)
        lines[-1] += [(x.at(start / scale), height), (x.at((start + step) / scale), height)]
    return lines


def _blocks(visits: Sequence[PlacedVisit], x: Axis, size: Size, scale: float) -> list[Markup]:
    parts: list[Markup] = []
    free = 0.0
    bottom = size.height - size.bottom
    for at, (number, inside) in enumerate(groupby(visits, key=lambda visit: visit.power.block)):
        placed = list(inside)
        start, end = x.at(placed[0].start_s / scale), x.at(placed[-1].end_s / scale)
        if at % 2:
            parts.append(
                svg.element(
                    "rect",
                    x=start,
                    y=size.top - 16,
                    width=end - start,
                    height=bottom - size.top + 16,
                    class_="block-band",
                )
            )
        middle = (start + end) / 2
        width = len(f"{number + 1}") * svg.CHARACTER_WIDTH + 8
        if middle - width / 2 >= free:
            parts.append(svg.label(middle, size.top - 20, f"{number + 1}", "note", "middle"))
            free = middle + width / 2
    parts.append(svg.label(6, size.top - 20, "block", "note"))
    return parts


WIDE = Size(960, 470, left=64)
NARROW = Size(400, 400, left=50, right=14, class_="narrow")
FRONTIER_SIZES = (WIDE, NARROW)

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
