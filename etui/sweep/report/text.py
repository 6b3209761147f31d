"""The result of a sweep as lines for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from etui import units
from etui.sweep.report.cells import (
    DASH,
    accuracy_change_text,
    accuracy_text,
    difference_text,
    joules_text,
    seconds_text,
    state_text,
    token_text,
)
from etui.sweep.report.names import list_varied_axes, name_values
from etui.sweep.report.sentences import (
    floor_sentence,
    name_effect,
    time_sentence,
)
from etui.sweep.report.verdict import format_verdict
from etui.sweep.result import SweepResult
from etui.text import tables
from etui.text.tables import one_line

_WIDTH = 120
_SENTENCE_WIDTH = 100

_MOST_NOTES = 8
_MOST_DROPS = 16
"""Dropped settings whose reasons are printed."""

_Column = tuple[str, str, list[str]]
"""Heading, alignment and cells."""

_UNCLAIMED = "In parentheses: within noise or below the detection floor, so not a claim."

__all__ = ["format_table", "format_verdict"]


def format_table(result: SweepResult, width: int = _WIDTH) -> list[str]:
    """Format a result: the settings, the detection floor, effects of the axes, drops and notes.

    Args:
        result: The result, of a sweep that may still run.
        width: Most terminal cells of a line; names of settings are cut or put above their figures
            for it. Figures are never cut.
    """
    lines = _settings_lines(result, width)
    varied = list_varied_axes(result.settings)
    same = [pair for one in result.settings[:1] for pair in one.values if pair[0] not in varied]
    if same:
        lines.append(f"All settings have {name_values(same)}.")
    if any("(" in line and "[" in line for line in lines):
        lines.append(_UNCLAIMED)
    sections = [
        lines,
        [floor_sentence(result)],
        _effect_lines(result, width),
        _drop_lines(result),
        [time_sentence(result), *_shorten_list("repeated", result.repeated)],
        _shorten_list("note", result.notes),
    ]
    found: list[str] = []
    for section in sections:
        if section and found:
            found.append("")
        found += section
    return [part for line in found for part in _wrap(line, min(width, _SENTENCE_WIDTH))]


def _settings_lines(result: SweepResult, width: int) -> list[str]:
    """Format the settings in the first form that fits: one table, two, or names above figures."""
    names = _value_columns(result)
    costs, parts = _cost_columns(result), _part_columns(result)
    states = [state_text(result, one) for one in result.settings]
    state = [("", "<", states)]
    lines = _columns([*names, *costs, *parts, *state])
    if _fits(lines, width):
        return lines
    lines, more = _columns([*names, *costs, *state]), _columns([*names, *parts])
    if parts and _fits(lines, width) and _fits(more, width):
        return [*lines, "", *more]
    varied = list_varied_axes(result.settings)
    keys = [name_values([p for p in one.values if p[0] in varied]) for one in result.settings]
    named = [f"{key}: {text}" if text else key for key, text in zip(keys, states, strict=True)]
    lines = _under_names(named, [*costs, *parts], width)
    if _fits(lines, width):
        return lines
    lines = []
    for group in (*_group_columns(costs, width), *_group_columns(parts, width)):
        lines += [*([""] if lines else []), *_under_names(keys if lines else named, group, width)]
    return lines


def _group_columns(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """Group neighbouring columns into tables that fit; a column that does not is one by itself."""
    groups: list[list[_Column]] = []
    for column in columns:
        if groups and _fits(_indented([*groups[-1], column]), width):
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _indented(columns: Sequence[_Column]) -> list[str]:
    return _columns([("", "<", [""] * len(columns[0][2])), *columns])


def _under_names(keys: Sequence[str], columns: Sequence[_Column], width: int) -> list[str]:
    """Format the figures of each setting on a line below its name."""
    lines = _indented(columns)
    found = lines[:1]
    for key, line in zip(keys, lines[1:], strict=True):
        found += [*textwrap.wrap(key, width, break_on_hyphens=False), line]
    return found


def _value_columns(result: SweepResult) -> list[_Column]:
    columns: list[_Column] = []
    for axis in list_varied_axes(result.settings):
        cells = [dict(one.values).get(axis) for one in result.settings]
        texts = [DASH if value is None else one_line(str(value)) for value in cells]
        columns.append((axis, "<", texts))
    return columns


def _cost_columns(result: SweepResult) -> list[_Column]:
    kind, rows = result.kind, result.settings
    mark = f" ({units.ESTIMATE})" if kind == units.ESTIMATE else ""
    return [
        (f"J/answer{mark}", ">", [joules_text(one.joules, kind) for one in rows]),
        (f"change{mark}", ">", [difference_text(one.joules_difference) for one in rows]),
        ("time", ">", [seconds_text(one.seconds) for one in rows]),
        ("change", ">", [difference_text(one.seconds_difference) for one in rows]),
    ]


def _part_columns(result: SweepResult) -> list[_Column]:
    kind, rows = result.kind, result.settings
    prefill = [token_text(one.prefill_joules_per_token, kind) for one in rows]
    decode = [token_text(one.decode_joules_per_token, kind) for one in rows]
    columns: list[_Column] = []
    if {*prefill, *decode} != {DASH}:
        columns += [("prefill/token", ">", prefill), ("decode/token", ">", decode)]
    if any(one.accuracy is not None for one in rows):
        columns += [
            ("accuracy", ">", [accuracy_text(one.accuracy, spread=False) for one in rows]),
            ("change in points", ">", [accuracy_change_text(result, one) for one in rows]),
        ]
    return columns


def _columns(columns: Sequence[_Column]) -> list[str]:
    return tables.format_table(
        list(zip(*(cells for _, _, cells in columns), strict=True)),
        header=[heading for heading, _, _ in columns],
        align="".join(side for _, side, _ in columns),
        measure=tables.count_cells,
    )


def _fits(lines: Sequence[str], width: int) -> bool:
    return max(map(tables.count_cells, lines), default=0) <= width


def _effect_lines(result: SweepResult, width: int) -> list[str]:
    rows = [
        [
            name_effect(one),
            difference_text(one.joules),
            difference_text(one.seconds),
        ]
        for one in result.effects
        if one.joules is not None or one.seconds is not None
    ]
    if not rows:
        return []
    mark = f" ({units.ESTIMATE})" if result.kind == units.ESTIMATE else ""
    header = ["effect of an axis, over the others", f"joules{mark}", "time"]
    lines = tables.format_table(rows, header=header, align="<>", measure=tables.count_cells)
    if _fits(lines, width):
        return lines
    names, *columns = zip(*rows, strict=True)
    figures = [(name, ">", list(cells)) for name, cells in zip(header[1:], columns, strict=True)]
    lines = [f"{header[0]}:"]
    for group in _group_columns(figures, width):
        lines += _under_names(names, group, width)
    return lines


def _shorten_list(name: str, texts: Sequence[str]) -> list[str]:
    lines = [f"{name}: {one_line(text)}" for text in texts[:_MOST_NOTES]]
    if len(texts) > _MOST_NOTES:
        lines.append(f"{name}: {len(texts) - _MOST_NOTES:,} more in the report and in --json")
    return lines


def _drop_lines(result: SweepResult) -> list[str]:
    rows = []
    varied = list_varied_axes(result.settings)
    for one in result.settings:
        name = name_values([pair for pair in one.values if pair[0] in varied])
        reason = one_line(one.drop_reason)
        if one.dropped_after is not None:
            rows.append(
                (one.dropped_after, f"dropped {name} after block {one.dropped_after + 1}", reason)
            )
        elif reason:
            rows.append((-1, f"could not run {name}", reason))
    lines = [": ".join(part for part in parts if part) for _, *parts in sorted(rows)]
    if len(lines) > _MOST_DROPS:
        more = units.count_text(len(lines) - _MOST_DROPS, "more setting was", "more settings were")
        lines[_MOST_DROPS:] = [f"{more} dropped; the report and --json have the reasons"]
    return lines


def _wrap(line: str, width: int) -> list[str]:
    """Wrap a sentence; rows of tables, which have runs of spaces, stay as they are."""
    if tables.count_cells(line) <= width or "  " in line:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
