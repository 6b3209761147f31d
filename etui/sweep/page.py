"""The page of a sweep, ``report.html`` of its folder: one file, which loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from markupsafe import Markup

from etui import units
from etui.codec import to_document
from etui.measure.page import build_tree, render_template
from etui.plots.figure import ARM_COLOURS, RULE, SOFT, Figure, Point
from etui.stats.tests import Interval
from etui.sweep.blocks import Block, VisitPower
from etui.sweep.config import SweepConfig
from etui.sweep.document import build_command, build_conditions, describe_conditions
from etui.sweep.result import Accuracy, Difference, SettingResult, SweepResult
from etui.sweep.verdict import (
    DASH,
    accuracy_change_text,
    accuracy_text,
    computes_same,
    difference_text,
    floor_sentence,
    floor_text,
    format_verdict,
    is_accuracy_claimed,
    joules_text,
    list_names,
    name_effect,
    short_name,
    spread_seconds_text,
    state_text,
    time_sentence,
)
from etui.text import fit_cells, one_line

Role = Literal["best", "baseline", "frontier", "kept", "dropped"]

_ROLES: dict[Role, tuple[str, str]] = {
    "best": ("best by the goal", ARM_COLOURS[0]),
    "baseline": ("in use before (baseline)", ARM_COLOURS[1]),
    "frontier": ("on the frontier", ARM_COLOURS[2]),
    "kept": ("kept, not on the frontier", ARM_COLOURS[7]),
    "dropped": ("dropped or could not run", SOFT),
}
"""Role -> its name in a legend, and its colour; the most important first."""

_LOG_FROM = 5.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""
_MOST_LABELS = 12
_NAME_CELLS = 38
_MOST_POINTS = 1800
"""Most points of the watts, over all visits."""
_LONGEST_GAP_S = 60.0
"""A longer pause between two visits, as of an interrupted sweep, is drawn with this length."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the table: its text, the number to sort by, and a CSS class."""

    text: str
    note: str = ""  # Its interval, on a line of its own; empty without one
    order: str = ""  # Number to sort by; empty puts the row last
    class_: str = ""  # `less` or `more` for claimed differences, else empty


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
    """Render the page of a sweep, which may be unfinished.

    Args:
        power: Watts of its visits, in the order in which they were measured.
    """
    roles = {find_role(result, one) for one in result.settings}
    return render_template(
        "etui.sweep",
        style="sweep.css",
        script="sort.js",
        model=one_line(config.model),
        created=one_line(config.created[:10]),
        sweep_id=one_line(config.id),
        goal=_describe_goal(result),
        verdict=format_verdict(result),
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
        has_accuracy=_has_accuracy(result),
        effects=[
            (name_effect(one), _build_difference(one.joules), _build_difference(one.seconds))
            for one in result.effects
            if one.joules is not None or one.seconds is not None
        ],
        floor=floor_sentence(result),
        duration=time_sentence(result),
        drops=_list_drops(result),
        power=draw_power(result, power),
        headings=_list_headings(result),
        rows=build_rows(result),
        conditions=describe_conditions(
            build_conditions(config, result, blocks), one_line(config.model)
        ),
        command=build_command(config),
        config=build_tree(to_document(config)),
        estimate=result.kind == units.ESTIMATE,
    )


def _describe_goal(result: SweepResult) -> str:
    goal = result.goal
    text = {"joules": "fewest joules", "time": "least time"}.get(
        goal.measure, "least product of joules and seconds"
    )
    if goal.within_percent is not None:
        limit = units.change_text(goal.within_percent, signed=False)
        text += f" at most {limit} slower than the fastest"
    return text


def _has_accuracy(result: SweepResult) -> bool:
    return any(one.accuracy is not None for one in result.settings)


def _mark_estimate(result: SweepResult) -> str:
    return f" ({units.ESTIMATE})" if result.kind == units.ESTIMATE else ""


def find_role(result: SweepResult, one: SettingResult) -> Role:
    """Return the most important part that a setting plays."""
    if one.setting == result.best and one.setting != result.baseline:
        return "best"
    if one.setting == result.baseline:
        return "baseline"
    if one.is_on_frontier:
        return "frontier"
    return "kept" if one.is_kept else "dropped"


def _list_headings(result: SweepResult) -> list[str]:
    mark = _mark_estimate(result)
    found = [
        f"joules per answer{mark}",
        f"change in joules{mark}",
        "seconds per answer",
        "change in time",
        f"prefill, per token{mark}",
        f"decode, per token{mark}",
    ]
    return found + (["accuracy", "change in points"] if _has_accuracy(result) else [])


def build_rows(result: SweepResult) -> list[Row]:
    """Build the table of settings, in the order of the result."""
    names = list_names(result)
    return [
        Row(
            name=names[one.setting],
            role=find_role(result, one),
            state=state_text(result, one),
            cells=tuple(_list_cells(result, one)),
        )
        for one in result.settings
    ]


def _list_cells(result: SweepResult, one: SettingResult) -> list[Cell]:
    kind = result.kind

    def order(figure: Interval | None) -> str:
        return "" if figure is None else repr(float(figure.value))

    found = [
        Cell(*split_spread(joules_text(one.joules, kind)), order=order(one.joules)),
        _build_difference(one.joules_difference),
        Cell(*split_spread(spread_seconds_text(one.seconds)), order=order(one.seconds)),
        _build_difference(one.seconds_difference),
    ]
    for figure in (one.prefill_joules_per_token, one.decode_joules_per_token):
        text = DASH if figure is None else joules_text(figure, kind)
        found.append(Cell(*split_spread(text), order=order(figure)))
    if _has_accuracy(result):
        accuracy = one.accuracy
        share = None if accuracy is None else accuracy.share
        found.append(Cell(*split_interval(accuracy_text(accuracy)), order(share)))
        change = None if accuracy is None else accuracy.difference_points
        text, note = split_interval(accuracy_change_text(result, one))
        class_ = "unclaimed" if text.startswith("(") else ""
        found.append(Cell(text, note, order(change), class_))
    return found


def _build_difference(change: Difference | None) -> Cell:
    text, note = split_interval(difference_text(change))
    if change is None:
        return Cell(text, order="0")
    class_ = ("less" if change.percent < 0 else "more") if change.is_claimed else "unclaimed"
    return Cell(text, note, repr(float(change.percent)), class_)


def split_interval(text: str) -> tuple[str, str]:
    """Split a figure from its interval, so that ``(+1 % [0, 2])`` has ``(+1 %)`` and ``[0, 2]``."""
    figure, bracket, ends = text.partition(" [")
    if not bracket:
        return text, ""
    if ends.endswith("])"):
        return f"{figure})", f"[{ends.removesuffix(')')}"
    return figure, f"[{ends}"


def split_spread(text: str) -> tuple[str, str]:
    """Split a figure from its half width, so that ``9.4 ± 0.2 J`` has ``9.4 J`` and ``± 0.2 J``."""
    figure, sign, rest = text.partition(" ± ")
    if not sign:
        return text, ""
    if " " not in figure:
        figure += " " + rest.rpartition(" ")[2]
    return figure, f"± {rest}"


def _list_drops(result: SweepResult) -> list[tuple[str, str, str]]:
    """List name, time and reason of settings that could not run, then of those dropped."""
    names = list_names(result)
    dropped = [one for one in result.settings if not one.is_kept]
    dropped.sort(key=lambda one: -1 if one.dropped_after is None else one.dropped_after)
    return [
        (
            names[one.setting],
            "could not run"
            if one.dropped_after is None
            else f"after block {one.dropped_after + 1}",
            one.drop_reason or DASH,
        )
        for one in dropped
    ]


def build_findings(result: SweepResult) -> list[tuple[str, str, str]]:
    """Build the key figures of the best setting, each as label, figure and note."""
    base, best = result.find(result.baseline), result.find(result.best)
    found: list[tuple[str, str, str]] = []
    if base is not None and best is not None and best is not base:
        joules = None if best.joules is None else joules_text(best.joules, result.kind)
        found.append(_describe_change("Joules", best.joules_difference, joules, result.kind))
        found.append(_describe_change("Time", best.seconds_difference, None, None))
        if best.accuracy is not None:
            found.append(_describe_accuracy(result, best.accuracy))
    elif best is not None and best.joules is not None:
        text = joules_text(best.joules, result.kind) + _mark_estimate(result)
        found.append(("Current setting", text, "per answer; nothing beats it"))
    found.append(_describe_floor(result))
    dropped = any(one.dropped_after is not None for one in result.settings)
    if dropped and result.full_grid_seconds and result.is_complete:
        saved = 1 - result.seconds / result.full_grid_seconds
        if saved > 0:
            full = units.seconds_text(result.full_grid_seconds)
            note = f"of {full} without dropping settings (predicted)"
            found.append(("Measuring saved", units.percent_text(saved), note))
    return found[:4]


def _describe_change(
    label: str, change: Difference | None, figure: str | None, kind: str | None
) -> tuple[str, str, str]:
    if change is None:
        return (label, DASH if label == "Time" else units.UNMEASURED, "")
    text, ends = split_interval(difference_text(change))
    note = f"95 % interval {ends} %" if ends else "no interval"
    if not change.is_claimed:
        return (label, text, f"not a claim; {note}")
    if figure is not None:
        note += f", {figure} per answer"
    return (label, f"{text} ({units.ESTIMATE})" if kind == units.ESTIMATE else text, note)


def _describe_accuracy(result: SweepResult, accuracy: Accuracy) -> tuple[str, str, str]:
    share, change = accuracy_text(accuracy), accuracy.difference_points
    if computes_same(result, accuracy):
        return ("Accuracy", "same", f"numbers as in the baseline, {share}")
    if change is None:
        return ("Accuracy", share, "not compared with the baseline")
    figure, ends = split_interval(units.points_change_text(change.value, change.low, change.high))
    note = f"95 % interval {ends}, {share}" if ends else share
    if not is_accuracy_claimed(accuracy):
        return ("Accuracy", f"({figure})", f"not a claim; {note}")
    return ("Accuracy", figure, note)


def _describe_floor(result: SweepResult) -> tuple[str, str, str]:
    floor = result.floor
    joules = None if floor is None else floor.joules_percent
    seconds = None if floor is None else floor.seconds_percent
    note = "of the time" if joules is None else "of the joules"
    shown = seconds if joules is None else joules
    if shown is None:
        return ("Detection floor", units.UNMEASURED, "no difference is claimed")
    if joules is not None and seconds is not None:
        note += f", {floor_text(seconds)} of the time"
    return ("Detection floor", floor_text(shown), note)


@dataclass(frozen=True, slots=True)
class _Dot:
    """A setting in the chart of joules against seconds."""

    role: Role
    seconds: Interval
    joules: Interval
    label: str
    note: str


def draw_frontier(result: SweepResult) -> Markup | None:
    """Draw the settings by time and joules; None if fewer than two have both."""
    every = _list_dots(result)
    if len(every) < 2:
        return None
    dots = _leave_out_far(every)
    figure = Figure(8.6, 4.2)
    (panel,) = figure.panels
    far = len(every) - len(dots)
    more = units.count_text(far, "dropped setting is", "dropped settings are")
    mark = _mark_estimate(result)
    panel.name_axes(
        "seconds per answer", f"joules per answer{mark}", f"{more} far outside" if far else ""
    )
    order = list(_ROLES)
    dots = sorted(dots, key=lambda dot: (order.index(dot.role), dot.joules.value))
    named = [dot for dot in dots if dot.role != "dropped"][:_MOST_LABELS]
    for axis, figures in (("x", [dot.seconds for dot in dots]), ("y", [d.joules for d in dots])):
        ends = [_find_extent(dot.role, one) for dot, one in zip(dots, figures, strict=True)]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        if high / low > _LOG_FROM:
            panel.log(axis)
            low, high = low / 1.15, high * 1.2
        else:
            room = (high - low) * 0.1 or 0.1 * high
            low, high = max(0.0, low - room), high + room
        getattr(panel.axes, f"set_{axis}lim")(low, high)
    corners = sorted(
        (one.seconds.value, one.joules.value)
        for one in result.settings
        if one.is_on_frontier and one.joules is not None and one.seconds is not None
    )
    if len(corners) > 1:
        # Between two settings the frontier keeps the joules of the faster one.
        seconds, joules = zip(*corners, strict=True)
        panel.line(seconds, joules, SOFT, dashed=True, steps=True)
    for dot in reversed(dots):
        is_small = dot.role in ("kept", "dropped")
        # A dropped setting has few blocks: its interval would cross the figure.
        hidden = dot.role == "dropped"
        panel.points(
            [
                Point(
                    dot.seconds.value,
                    dot.joules.value,
                    x_ends=(None, None) if hidden else (dot.seconds.low, dot.seconds.high),
                    y_ends=(None, None) if hidden else (dot.joules.low, dot.joules.high),
                    colour=_ROLES[dot.role][1],
                    label=dot.label if dot in named else "",
                    note=dot.note,
                    size=4 if is_small else 7,
                    filled=not hidden,
                )
            ]
        )
    return figure.svg(
        "Joules against seconds per answer: "
        + "; ".join(dot.note for dot in dots if dot.role != "dropped")
    )


def _list_dots(result: SweepResult) -> list[_Dot]:
    names = list_names(result)
    base = result.settings[0]
    found = []
    for one in result.settings:
        if one.joules is None or one.seconds is None:
            continue
        if one.joules.value <= 0 or one.seconds.value <= 0:
            continue
        name = "baseline" if one is base else short_name(one.values, base.values)
        label = fit_cells(name, _NAME_CELLS)
        parts = [
            f"{names[one.setting]}: {joules_text(one.joules, result.kind)}",
            units.seconds_text(one.seconds.value),
        ]
        if one.joules_difference is not None:
            change = difference_text(one.joules_difference)
            parts.append(f"{change} joules, {difference_text(one.seconds_difference)} time")
        if one.accuracy is not None:
            label += f" · {units.accuracy_text(one.accuracy.share.value)}"
            parts.append(f"accuracy {accuracy_text(one.accuracy)}")
        if one.dropped_after is not None:
            parts.append(f"dropped after block {one.dropped_after + 1}")
        role = find_role(result, one)
        found.append(_Dot(role, one.seconds, one.joules, label, ", ".join(parts)))
    return found


def _leave_out_far(dots: Sequence[_Dot]) -> list[_Dot]:
    """Leave out dropped settings so far away that the others would be one spot."""
    kept = [dot for dot in dots if dot.role != "dropped"]
    if len(kept) < 2:
        return list(dots)
    ranges = []
    for values in ([dot.seconds.value for dot in kept], [dot.joules.value for dot in kept]):
        room = max(max(values) - min(values), 0.1 * max(values))
        ranges.append((min(values) - room, max(values) + room))
    (first, last), (low, high) = ranges
    return [
        dot
        for dot in dots
        if dot.role != "dropped"
        or (first <= dot.seconds.value <= last and low <= dot.joules.value <= high)
    ]


def _find_extent(role: Role, figure: Interval) -> tuple[float, float]:
    """Return what an axis has to show of a figure: no interval counts beyond the value's own size.

    A dropped setting has few blocks, and so an interval that may be wider than all others: of it
    the value alone counts.
    """
    value = figure.value
    if role == "dropped":
        return value, value
    low = value if figure.low is None else max(figure.low, 0.5 * value)
    high = value if figure.high is None else min(figure.high, 2 * value)
    return low, high


def place_visits(power: Sequence[VisitPower]) -> list[tuple[float, float]]:
    """Put the visits one after another, with long pauses shortened: start and end in seconds.

    The monotonic clock begins again when the machine does, so a visit may seem to start before
    the one that came first.
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
    # The important settings are drawn last, above the others.
    for role in reversed(_ROLES):
        times: list[float] = []
        watts: list[float] = []
        for visit, (start, end) in placed:
            if roles.get(visit.setting, "dropped") != role:
                continue
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
