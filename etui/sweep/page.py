"""HTML report of a sweep: ``report.html`` of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etui import units
from etui.atomic import write_text
from etui.codec import to_document
from etui.measure.page import build_tree, render_template
from etui.stats.tests import Interval
from etui.sweep._charts import (
    FRONTIER_SIZES,
    POWER_SIZES,
    VisitWatts,
    draw_frontier,
    draw_power,
    find_role,
    list_names,
    list_shown_roles,
)
from etui.sweep.blocks import Block
from etui.sweep.config import SweepConfig
from etui.sweep.document import (
    build_command,
    build_conditions,
    describe_conditions,
)
from etui.sweep.result import Accuracy, Difference, SettingResult, SweepResult
from etui.sweep.verdict import (
    DASH,
    accuracy_change_text,
    accuracy_text,
    computes_same,
    difference_text,
    find_setting,
    floor_sentence,
    floor_text,
    format_verdict,
    is_accuracy_claimed,
    joules_text,
    name_effect,
    spread_seconds_text,
    state_text,
    time_sentence,
)
from etui.text import one_line


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


@dataclass(frozen=True, slots=True)
class DropRow:
    """A setting that was dropped, or could not run, with the reason."""

    name: str
    when: str
    reason: str


def list_headings(result: SweepResult) -> list[str]:
    """List the headings of the figures."""
    mark = f" ({units.ESTIMATE})" if result.kind == units.ESTIMATE else ""
    found = [
        f"joules per answer{mark}",
        f"change in joules{mark}",
        "seconds per answer",
        "change in time",
        f"prefill, per token{mark}",
        f"decode, per token{mark}",
    ]
    if _has_accuracy(result):
        found += ["accuracy", "change in points"]
    return found


def build_rows(result: SweepResult) -> list[Row]:
    """Build the table of settings, in the order of the result."""
    names = list_names(result)
    return [
        Row(
            name=names[one.setting],
            role=find_role(result, one),
            state=state_text(result, one),
            cells=_cells(result, one),
        )
        for one in result.settings
    ]


def build_drop_rows(result: SweepResult) -> list[DropRow]:
    """Build the table of dropped settings: those that could not run, then the first dropped."""
    names = list_names(result)
    dropped = [one for one in result.settings if one.dropped_after is not None or one.drop_reason]

    def when(one: SettingResult) -> int:
        return -1 if one.dropped_after is None else one.dropped_after

    return [
        DropRow(
            names[one.setting],
            "could not run"
            if one.dropped_after is None
            else f"after block {one.dropped_after + 1}",
            one.drop_reason or DASH,
        )
        for one in sorted(dropped, key=when)
    ]


def build_effect_rows(result: SweepResult) -> list[tuple[str, Cell, Cell]]:
    """Build the table of effects: the name of each, its change in joules and in time."""
    return [
        (name_effect(one), _difference(one.joules), _difference(one.seconds))
        for one in result.effects
        if one.joules is not None or one.seconds is not None
    ]


def build_findings(result: SweepResult) -> list[tuple[str, str, str]]:
    """Build the key figures of the best setting, each as label, figure and note."""
    base, best = find_setting(result, result.baseline), find_setting(result, result.best)
    found: list[tuple[str, str, str]] = []
    if base is not None and best is not None and best is not base:
        found.append(_finding("Joules", best.joules_difference, best.joules, result.kind))
        found.append(_finding("Time", best.seconds_difference, None, None))
        if best.accuracy is not None:
            found.append(_accuracy_finding(result, best.accuracy))
    elif best is not None and best.joules is not None:
        mark = f" ({units.ESTIMATE})" if result.kind == units.ESTIMATE else ""
        text = joules_text(best.joules, result.kind) + mark
        found.append(("Current setting", text, "per answer; nothing beats it"))
    found.append(_floor_finding(result))
    dropped = any(one.dropped_after is not None for one in result.settings)
    if dropped and result.full_grid_seconds and result.is_complete:
        saved = 1 - result.seconds / result.full_grid_seconds
        if saved > 0:
            full = units.seconds_text(result.full_grid_seconds)
            note = f"of {full} without dropping settings (predicted)"
            found.append(("Measuring saved", units.percent_text(saved), note))
    return found[:4]


def _finding(
    label: str, change: Difference | None, figure: Interval | None, kind: str | None
) -> tuple[str, str, str]:
    if change is None:
        return (label, DASH if label == "Time" else units.UNMEASURED, "")
    text, ends = split_interval(difference_text(change))
    note = f"95 % interval {ends} %" if ends else "no interval"
    if not change.is_claimed:
        return (label, text, f"not a claim; {note}")
    if figure is not None:
        note += f", {joules_text(figure, kind)} per answer"
    return (label, f"{text} ({units.ESTIMATE})" if kind == units.ESTIMATE else text, note)


def _accuracy_finding(result: SweepResult, accuracy: Accuracy) -> tuple[str, str, str]:
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


def _floor_finding(result: SweepResult) -> tuple[str, str, str]:
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


def _cells(result: SweepResult, one: SettingResult) -> tuple[Cell, ...]:
    kind = result.kind
    found = [
        Cell(*split_spread(joules_text(one.joules, kind)), order=_order(one.joules)),
        _difference(one.joules_difference),
        Cell(*split_spread(spread_seconds_text(one.seconds)), order=_order(one.seconds)),
        _difference(one.seconds_difference),
    ]
    for figure in (one.prefill_joules_per_token, one.decode_joules_per_token):
        found.append(Cell(*split_spread(_token(figure, kind)), order=_order(figure)))
    if _has_accuracy(result):
        accuracy = one.accuracy
        share = None if accuracy is None else accuracy.share
        change = None if accuracy is None else accuracy.difference_points
        text, note = split_interval(accuracy_text(accuracy))
        found.append(Cell(text, note, _order(share)))
        text, note = split_interval(accuracy_change_text(result, one))
        class_ = "unclaimed" if text.startswith("(") else ""
        found.append(Cell(text, note, _order(change), class_))
    return tuple(found)


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


def _difference(change: Difference | None) -> Cell:
    text, note = split_interval(difference_text(change))
    if change is None:
        return Cell(text, order="0")
    class_ = ("less" if change.percent < 0 else "more") if change.is_claimed else "unclaimed"
    return Cell(text, note, repr(float(change.percent)), class_)


def _token(figure: Interval | None, kind: str | None) -> str:
    return DASH if figure is None else joules_text(figure, kind)


def _order(figure: Interval | None) -> str:
    return "" if figure is None else repr(float(figure.value))


def _has_accuracy(result: SweepResult) -> bool:
    return any(one.accuracy is not None for one in result.settings)


_PACKAGE = "etui.sweep"


def write_report(
    path: Path,
    config: SweepConfig,
    result: SweepResult,
    blocks: Sequence[Block],
    power: Sequence[VisitWatts],
) -> None:
    """Write the report of a sweep, which may be unfinished.

    Args:
        path: The file; its folder exists.
        power: Watts of its visits, in the order in which they were measured.

    Raises:
        OSError: The file cannot be written; an earlier report is kept.
    """
    page = render_report(config, result, blocks, power)
    write_text(path, page, errors="replace")


def render_report(
    config: SweepConfig,
    result: SweepResult,
    blocks: Sequence[Block],
    power: Sequence[VisitWatts],
) -> str:
    """Render the page, a single file that loads nothing from the network or the disk.

    Args: see :func:`write_report`.
    """
    return render_template(
        _PACKAGE,
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
        roles=list_shown_roles(result),
        frontiers=[draw_frontier(result, size) for size in FRONTIER_SIZES],
        has_frontier=sum(one.is_on_frontier for one in result.settings) > 1,
        has_accuracy=any(one.accuracy is not None for one in result.settings),
        effects=build_effect_rows(result),
        floor=floor_sentence(result),
        duration=time_sentence(result),
        drops=build_drop_rows(result),
        powers=[draw_power(result, power, size) for size in POWER_SIZES],
        headings=list_headings(result),
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
