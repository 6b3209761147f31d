"""Chart of watts over time: every visit in the colour of its setting, with the blocks marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from markupsafe import Markup

from etui import units
from etui.bench.report import svg
from etui.bench.report.layout import Size
from etui.bench.report.svg import Axis
from etui.sweep.report.roles import NAMES, list_names, list_roles
from etui.sweep.result import SweepResult

WIDE = Size(960, 320, left=64)
NARROW = Size(400, 280, left=50, right=14, class_="narrow")

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
