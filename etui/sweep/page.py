"""The page of a sweep, ``report.html`` of its folder: one file, which loads nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from markupsafe import Markup

from etui import units
from etui.codec import to_document
from etui.extras import has_extra
from etui.measure.page import build_tree, render_template
from etui.plots.figure import ARM_COLOURS, NO_FIGURE, RULE, SOFT, Figure, Panel, Point
from etui.stats.differences import Difference
from etui.stats.tests import Interval
from etui.sweep import verdict
from etui.sweep.blocks import Block, VisitPower
from etui.sweep.config import SweepConfig
from etui.sweep.document import build_command, build_energy_record, sum_cost
from etui.sweep.result import SettingResult, SweepResult, list_effects
from etui.text import fit_cells, one_line

Role = Literal["best", "baseline", "frontier", "kept", "dropped"]

_ROLES: dict[Role, tuple[str, str]] = {
    "best": ("best by the goal", ARM_COLOURS[0]),
    "baseline": ("baseline", ARM_COLOURS[1]),
    "frontier": ("on the frontier", ARM_COLOURS[2]),
    "kept": ("kept, not on the frontier", ARM_COLOURS[7]),
    "dropped": ("dropped or left out", SOFT),
}
"""Role -> its name in a legend, and its colour; the most important first."""

_GOALS = {
    "joules": "fewest joules",
    "time": "least time",
    "joules*time": "least product of joules and seconds",
}
_LOG_FROM = 5.0  # Ratio of the largest to the smallest value above which an axis is logarithmic
_MOST_LABELS = 12
_NAME_CELLS = 38
_MOST_POINTS = 1800  # Most points of the watts, over all visits
_LONGEST_GAP_S = 60.0
"""A longer pause between two visits, as of an interrupted sweep, is drawn with this length."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the table: its text, the number to sort by, and a CSS class."""

    text: str
    note: str = ""  # Its interval, on a line of its own; empty without one
    order: str = ""  # Number to sort by; empty puts the row last
    class_: str = ""  # `less`, `more` or `unclaimed` for differences, else empty


@dataclass(frozen=True, slots=True)
class Row:
    """A setting in the table."""

    name: str  # Its values of the axes that differ
    role: str
    state: str  # Its place: `best`, `dropped after 7`
    cells: tuple[Cell, ...]  # Figures, in the order of the headings


def render_report(
    config: SweepConfig,
    result: SweepResult,
    blocks: Sequence[Block],
    power: Sequence[VisitPower],
) -> str:
    """Render the page of a sweep, finished or not, with the watts of its visits in order."""
    roles = {find_role(result, one) for one in result.settings}
    names = verdict.list_names(result)
    goal = _GOALS[result.goal.measure]
    if result.goal.within_percent is not None:
        limit = units.change_text(result.goal.within_percent, signed=False)
        goal += f" at most {limit} slower than the fastest"
    return render_template(
        "etui.sweep",
        style="sweep.css",
        script="sort.js",
        model=one_line(config.model),
        created=one_line(config.created[:10]),
        sweep_id=one_line(config.id),
        goal=goal,
        verdict=verdict.format_verdict(result),
        is_complete=result.is_complete,
        settings=len(result.settings),
        visits=units.count_text(result.visits, "visit"),
        blocks=units.count_text(result.blocks, "block"),
        workload=one_line(config.workload),
        findings=build_findings(result),
        notes=[
            *map(one_line, result.notes),
            *(f"repeated: {one_line(text)}" for text in result.repeated),
        ],
        roles=[(f"role-{role}", name) for role, (name, _) in _ROLES.items() if role in roles],
        frontier=draw_frontier(result),
        has_frontier=sum(one.is_on_frontier for one in result.settings) > 1,
        has_accuracy=result.has_accuracy,
        effects=[
            (verdict.name_effect(one), _build_change(one.joules), _build_change(one.seconds))
            for one in list_effects(result)
        ],
        floor=verdict.floor_sentence(result),
        duration=f"{verdict.time_sentence(result)}{_cost_sentence(blocks, result.kind)}",
        drops=[
            (names[one.setting], verdict.describe_drop(one), one.drop_reason or verdict.DASH)
            for one in verdict.list_dropped(result)
        ],
        power=draw_power(result, power),
        headings=[heading for heading, _ in _list_columns(result)],
        rows=build_rows(result),
        conditions=build_tree(_list_conditions(config, result, blocks)),
        command=build_command(config),
        config=build_tree(to_document(config)),
        estimate=result.kind == units.ESTIMATE,
    )


def _cost_sentence(blocks: Sequence[Block], kind: str | None) -> str:
    cost = sum_cost(blocks)
    text = "" if cost is None else cost.text(about=kind == units.ESTIMATE)
    return f" The answers cost {text}, each block at the price of its time." if text else ""


def _list_conditions(
    config: SweepConfig, result: SweepResult, blocks: Sequence[Block]
) -> dict[str, Any]:
    """List the conditions of the baseline, as the energy record has them for each setting."""
    measured = build_energy_record(config, result, blocks).measurements[:1]
    found = to_document(measured[0]) if measured else {}
    return {name: value for name, value in found.items() if name not in ("results", "missing")}


def find_role(result: SweepResult, one: SettingResult) -> Role:
    """Return the most important part that a setting plays."""
    if one.setting == result.best and one.setting != result.baseline:
        return "best"
    if one.setting == result.baseline:
        return "baseline"
    if one.is_on_frontier:
        return "frontier"
    return "kept" if one.is_kept else "dropped"


def build_rows(result: SweepResult) -> list[Row]:
    """Build the table of settings, in the order of the result."""
    names, columns = verdict.list_names(result), _list_columns(result)
    return [
        Row(
            name=names[one.setting],
            role=find_role(result, one),
            state=verdict.state_text(result, one),
            cells=tuple(build(one) for _, build in columns),
        )
        for one in result.settings
    ]


def _list_columns(result: SweepResult) -> list[tuple[str, Callable[[SettingResult], Cell]]]:
    """List the headings of the table, and what builds the cell of a setting."""
    kind, mark = result.kind, verdict.mark_estimate(result)

    def build_joules(figure: Interval | None, missing: str = verdict.DASH) -> Cell:
        return _build_cell(missing if figure is None else verdict.joules_text(figure, kind), figure)

    found: list[tuple[str, Callable[[SettingResult], Cell]]] = [
        (f"joules per answer{mark}", lambda one: build_joules(one.joules, units.UNMEASURED)),
        (f"change in joules{mark}", lambda one: _build_change(one.joules_difference)),
        (
            "seconds per answer",
            lambda one: _build_cell(verdict.spread_seconds_text(one.seconds), one.seconds),
        ),
        ("change in time", lambda one: _build_change(one.seconds_difference)),
        (f"prefill, per token{mark}", lambda one: build_joules(one.prefill_joules_per_token)),
        (f"decode, per token{mark}", lambda one: build_joules(one.decode_joules_per_token)),
    ]
    if result.has_accuracy:

        def build_points(one: SettingResult) -> Cell:
            return _build_cell(verdict.accuracy_change_text(result, one), one.accuracy_points)

        def build_share(one: SettingResult) -> Cell:
            return _build_cell(verdict.accuracy_text(one.accuracy), one.accuracy_share)

        found += [("accuracy", build_share), ("change in points", build_points)]
    return found


def _build_cell(text: str, figure: Interval | None) -> Cell:
    order = "" if figure is None else repr(float(figure.value))
    return Cell(*split_ends(text), order, "unclaimed" if text.startswith("(") else "")


def _build_change(change: Difference | None) -> Cell:
    if change is None:
        return Cell(verdict.DASH, order="0")
    class_ = ("less" if change.percent < 0 else "more") if change.is_claimed else "unclaimed"
    return Cell(*split_ends(verdict.difference_text(change)), repr(float(change.percent)), class_)


def split_ends(text: str) -> tuple[str, str]:
    """Split a figure from its interval: ``(+1 % [0, 2])`` is ``(+1 %)`` and ``[0, 2]``."""
    figure, sign, rest = text.partition(" ± ")
    if sign:
        unit = "" if " " in figure else " " + rest.rpartition(" ")[2]
        return figure + unit, f"± {rest}"
    figure, bracket, ends = text.partition(" [")
    closing = ")" if ends.endswith("])") else ""
    return figure + closing, f"[{ends.removesuffix(closing)}" if bracket else ""


def build_findings(result: SweepResult) -> list[tuple[str, str, str]]:
    """Build the key figures, each as label, figure and note: changes of the best, and the floor."""
    base, best = result.find(result.baseline), result.find(result.best)
    found: list[tuple[str, str, str]] = []
    if best is not None:
        for heading, build in _list_columns(result):
            if heading.startswith("joules" if best is base else "change"):
                cell = build(best)
                found.append((heading, cell.text, cell.note))
    floors = [] if result.floor is None else verdict.list_floors(result.floor)
    texts = [f"{verdict.floor_text(percent)} of the {what}" for what, percent in floors]
    first, rest = (texts[0], ", ".join(texts[1:])) if texts else (units.UNMEASURED, "")
    return [*found, ("detection floor", first, rest)]


def draw_frontier(result: SweepResult) -> Markup | None:
    """Draw the settings by time and joules; None if fewer than two have both."""
    points: list[tuple[Role, Point]] = []
    for one in result.settings:
        role, joules, seconds = find_role(result, one), one.joules, one.seconds
        if joules is not None and seconds is not None and joules.value > 0 and seconds.value > 0:
            is_named = sum(other != "dropped" for other, _ in points) < _MOST_LABELS
            point = _make_point(result, one, seconds, joules)
            points.append((role, point if is_named else replace(point, label="")))
    if len(points) < 2:
        return None
    if not has_extra("figures"):
        return NO_FIGURE
    figure = Figure(8.6, 4.2)
    (panel,) = figure.panels
    kept = [point for role, point in points if role != "dropped"]
    framed = kept if len(kept) > 1 else [point for _, point in points]
    x_range = _set_range(panel, "x", [(point.x, point.x_ends) for point in framed])
    y_range = _set_range(panel, "y", [(point.y, point.y_ends) for point in framed])
    inside = [
        (role, point)
        for role, point in points
        if x_range[0] <= point.x <= x_range[1] and y_range[0] <= point.y <= y_range[1]
    ]
    far = len(points) - len(inside)
    more = units.count_text(far, "dropped setting is", "dropped settings are")
    mark = verdict.mark_estimate(result)
    panel.name_axes(
        "seconds per answer", f"joules per answer{mark}", f"{more} far outside" if far else ""
    )
    corners = sorted(
        (one.seconds.value, one.joules.value)
        for one in result.settings
        if one.is_on_frontier and one.joules is not None and one.seconds is not None
    )
    if len(corners) > 1:
        # Between two settings the frontier keeps the joules of the faster one.
        xs, ys = zip(*corners, strict=True)
        panel.line(xs, ys, SOFT, dashed=True, steps=True)
    order = list(_ROLES)
    inside.sort(key=lambda each: (order.index(each[0]), each[1].y))
    # The important settings are drawn last, above the others.
    panel.points([point for _, point in reversed(inside)])
    return figure.svg(
        "Joules against seconds per answer: "
        + "; ".join(point.note for role, point in inside if role != "dropped")
    )


def _make_point(
    result: SweepResult, one: SettingResult, seconds: Interval, joules: Interval
) -> Point:
    """Make the mark of a setting; a dropped one, of few blocks, has no label and no interval."""
    role = find_role(result, one)
    base = result.settings[0]
    label = fit_cells(
        "baseline" if one is base else verdict.short_name(one.values, base.values), _NAME_CELLS
    )
    parts = [
        f"{verdict.list_names(result)[one.setting]}: {verdict.joules_text(joules, result.kind)}",
        units.seconds_text(seconds.value),
    ]
    if one.joules_difference is not None:
        change = verdict.difference_text(one.joules_difference)
        parts.append(f"{change} joules, {verdict.difference_text(one.seconds_difference)} time")
    if one.accuracy is not None:
        label += f" · {units.accuracy_text(one.accuracy.share.value)}"
        parts.append(f"accuracy {verdict.accuracy_text(one.accuracy)}")
    if role == "dropped":
        note = ", ".join([*parts, f"dropped {verdict.describe_drop(one)}"])
        return Point(seconds.value, joules.value, colour=SOFT, note=note, size=4, filled=False)
    return Point(
        seconds.value,
        joules.value,
        (seconds.low, seconds.high),
        (joules.low, joules.high),
        colour=_ROLES[role][1],
        label=label,
        note=", ".join(parts),
        size=4 if role == "kept" else 7,
    )


def _set_range(
    panel: Panel, axis: str, figures: Sequence[tuple[float, tuple[float | None, float | None]]]
) -> tuple[float, float]:
    """Set what an axis shows: the figures, and their intervals up to the size of the value."""
    low = min(value if end is None else max(end, 0.5 * value) for value, (end, _) in figures)
    high = max(value if end is None else min(end, 2 * value) for value, (_, end) in figures)
    if high / low > _LOG_FROM:
        panel.log(axis)
        low, high = low / 1.5, high * 1.5
    else:
        room = max(0.5 * (high - low), 0.1 * high)
        low, high = max(0.0, low - room), high + room
    getattr(panel.axes, f"set_{axis}lim")(low, high)
    return low, high


def place_visits(power: Sequence[VisitPower]) -> list[tuple[float, float]]:
    """Put the visits one after another, with long pauses shortened: start and end in seconds.

    The monotonic clock begins again when the machine does: a visit may seem to start too early.
    """
    placed: list[tuple[float, float]] = []
    now, before = 0.0, None
    for one in power:
        if before is not None:
            pause = (one.start_ns - before) / 1e9
            now += min(pause, _LONGEST_GAP_S) if pause >= 0 else _LONGEST_GAP_S
        length = max(0.0, (one.end_ns - one.start_ns) / 1e9)
        placed.append((now, now + length))
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


def draw_power(result: SweepResult, power: Sequence[VisitPower]) -> Markup | None:
    """Draw the watts of all visits in the colours of their settings; None without any."""
    places = place_visits(power)
    known = [watts for visit in power for watts in visit.watts if watts is not None]
    if not known or places[-1][1] <= 0:
        return None
    if not has_extra("figures"):
        return NO_FIGURE
    unit, scale = ("minutes", 60.0) if places[-1][1] > 240 else ("seconds", 1.0)
    figure = Figure(8.6, 2.9)
    (panel,) = figure.panels
    estimate = ", watts are estimates" if result.kind == units.ESTIMATE else ""
    panel.name_axes(f"{unit} of the visits, blocks marked{estimate}", "watts")
    placed = list(zip(power, places, strict=True))
    for at, (number, inside) in enumerate(groupby(placed, key=lambda each: each[0].block)):
        visits = list(inside)
        if at % 2:
            start, end = visits[0][1][0] / scale, visits[-1][1][1] / scale
            panel.span(start, end, RULE, f"block {number + 1}")
    roles = {one.setting: find_role(result, one) for one in result.settings}
    most = max(2, _MOST_POINTS // len(power))
    for role in reversed(_ROLES):  # the important settings are drawn last, above the others
        times: list[float] = []
        watts: list[float] = []
        for visit, (start, end) in placed:
            if roles.get(visit.setting, "dropped") == role:
                thin = thin_watts(visit.watts, most)
                step = (end - start) / len(thin)
                times += [(start + at * step) / scale for at in range(len(thin) + 1)]
                watts += [float("nan") if each is None else each for each in thin]
                watts.append(float("nan"))  # nothing is drawn up to the next visit
        panel.line(times, watts, _ROLES[role][1], steps=True)
    panel.axes.set_ylim(0.0, max(known) * 1.12 or 1.0)
    return figure.svg(
        f"Watts over time in {units.count_text(len(power), 'visit')}, at most "
        f"{units.watts_text(max(known), result.kind)}"
    )
