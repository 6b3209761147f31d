"""The power channels as rows of text: one each, with the columns that fit the width."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from etui import units
from etui.energy import devices
from etui.energy.scopes import family
from etui.energy.sharing import DeviceVitals
from etui.plots.braille import NEAR_LIMIT_SHARE, braille_rows
from etui.plots.power_history import TOTAL, Buckets
from etui.plots.terminal import scale_top
from etui.text import fit_cells, one_line

Ink = Literal["text", "muted", "spark", "limit", "own", "others", "idle"]
"""What a part of a row means; each has a colour of its own."""

Run = tuple[str, Ink]
MISSING = "–"  # A value that no driver reports
_LEAST_SPARK = 3
_STACK_CELLS = 12
_BUSY = " busy"
_ROOMY = 60  # Width from which columns have a fixed width; below it they are as wide as their texts
_OWN, _OTHERS, _IDLE, _UNKNOWN = "█", "▒", "░", "┄"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the total, or a channel.

    Attributes:
        watts, limit_watts, idle_watts: Now; None if unknown.
        own_watts, others_watts: Above idle; None if unknown. Those of the total leave out the
            channels for which they are unknown, and ``all_known`` is False then.
    """

    key: str  # Channel of the history, or `TOTAL`
    name: str
    label: str  # Name of the hardware; empty for the total
    watts: float | None
    limit_watts: float | None
    idle_watts: float | None
    own_watts: float | None
    others_watts: float | None
    kind: str | None  # `estimate` for an estimate
    state: devices.ChannelState | None = None  # The channel; None for the total
    all_known: bool = True


@dataclass(frozen=True, slots=True)
class Column:
    """A column, the important ones first; it is left out where no row has a value."""

    title: str
    width: int
    text: Callable[[Row], str]
    from_width: int = 0  # Width of the rows from which it is shown,
    below: int = 1_000  # and from which it is not


def build_rows(states: Sequence[devices.ChannelState]) -> tuple[Row, ...]:
    """Return a row per channel, after that of the total where several channels are in it."""
    rows = [
        Row(
            state.power.channel.id,
            name,
            one_line(state.power.channel.label),
            state.power.watts,
            state.limit_watts,
            state.idle_watts,
            state.own_watts,
            state.others_watts,
            state.kind,
            state,
        )
        for state, name in zip(states, name_channels(states), strict=True)
    ]
    several = sum(state.power.in_total for state in states) > 1
    return (_build_total(states), *rows) if several else tuple(rows)


def name_channels(states: Sequence[devices.ChannelState]) -> list[str]:
    """Name every channel in few letters: ``GPU0``, ``CPU``, ``RAM``; numbered where several."""
    words = {"gpu": "GPU", "package": "CPU", "estimate": "CPU", "dram": "RAM", "psys": "machine",
             "wall": "wall"}  # fmt: skip
    kinds = [words.get(family(s.power.channel.scope), "") for s in states]
    names = []
    for at, (state, kind) in enumerate(zip(states, kinds, strict=True)):
        if not kind:
            names.append(one_line(state.power.channel.scope))
        elif kind == "wall" and kinds.count(kind) > 1:
            names.append(one_line(state.power.channel.id.partition(":")[2]))
        elif kind == "GPU" or kinds.count(kind) > 1:
            names.append(f"{kind}{kinds[:at].count(kind)}")
        else:
            names.append(kind)
    return names


def choose_columns(rows: Sequence[Row], width: int) -> list[tuple[Column, int]]:
    """Return the columns between graph and stack that fit, each with its width."""
    left = width - _name_width(rows, width) - 1 - _LEAST_SPARK - _stack_width(width)
    chosen: dict[str, tuple[Column, int]] = {}
    for column in (*_COLUMNS, *_NARROW_COLUMNS):
        texts = [column.text(row) for row in rows]
        if not column.from_width <= width < column.below or all(t in (MISSING, "") for t in texts):
            continue
        cells = column.width if width >= _ROOMY else max(len(text) for text in texts)
        if cells + 1 <= left:
            chosen[column.title] = (column, cells)
            left -= cells + 1
    if "use" in chosen and width < _ROOMY and left >= 2 * len(_BUSY):  # without a heading
        column, cells = chosen["use"]
        text = column.text
        busy = replace(
            column, text=lambda row: f"{text(row)}{_BUSY}".replace(MISSING + _BUSY, MISSING)
        )
        chosen["use"] = (busy, cells + len(_BUSY))
    order = [column.title for column in (*_COLUMNS, *_NARROW_COLUMNS)]
    return sorted(chosen.values(), key=lambda one: order.index(one[0].title))


def column_texts(row: Row | None) -> dict[str, str]:
    """Return the text of every column by its title; without a row, empty ones."""
    return {column.title: "" if row is None else column.text(row) for column in _COLUMNS}


def spark_width(rows: Sequence[Row], width: int) -> int:
    """Return the cells that are left for the graph of a row."""
    taken = sum(cells + 1 for _, cells in choose_columns(rows, width))
    return max(_LEAST_SPARK, width - _name_width(rows, width) - 1 - taken - _stack_width(width))


def header_text(rows: Sequence[Row], width: int, span: str) -> str:
    """Return the titles above the columns; ``span`` is the time that the graphs show, in words."""
    text = "".ljust(_name_width(rows, width) + 1)
    text += (span if len(rows) > 1 else "").ljust(spark_width(rows, width))
    text += "".join(f" {column.title:>{cells}}" for column, cells in choose_columns(rows, width))
    if _stack_width(width):
        text += f"  {_OWN} etui {_OTHERS} others {_IDLE} idle"
    return fit_cells(text, width)


def row_lines(
    row: Row, buckets: Buckets, rows: Sequence[Row], width: int, height: int
) -> list[list[Run]]:
    """Draw a row as lines of runs: texts on the first one, the graph on all, two values a cell."""
    cells = spark_width(rows, width)
    top = row_top(row, buckets)
    watts = buckets.means[-2 * cells :] if len(rows) > 1 else ()  # one is in the graph above
    graph = braille_rows(watts, spark_top(row, buckets, height), cells, height)
    ink: Ink = "limit" if is_near_limit(row) else "spark"
    room = _name_width(rows, width)
    first: list[Run] = [
        (f"{fit_cells(_full_name(row, room), room):<{room}} ", "text"),
        (graph[0], ink),
    ]
    for column, column_width in choose_columns(rows, width):
        text = column.text(row)
        shade: Ink = "muted" if text in (MISSING, units.UNMEASURED) else "text"
        if column.title == "watts" and ink == "limit":
            shade = "limit"
        first.append((f" {fit_cells(text, column_width):>{column_width}}", shade))
    if _stack_width(width):
        first += [("  ", "text"), *stack_runs(row, top, _STACK_CELLS)]
        if (beside := _stack_width(width) - 2 - _STACK_CELLS) > 0:
            first.append((f" {own_text(row, beside - 1):<{beside - 1}}", "text"))
    below: list[list[Run]] = [[(" " * (room + 1), "text"), (line, ink)] for line in graph[1:]]
    return [first, *below]


def row_top(row: Row, buckets: Buckets) -> float:
    """Return the watts at the right end of the row's stack."""
    return scale_top(row.limit_watts, max(buckets.highest or 0.0, row.watts or 0.0))


def spark_top(row: Row, buckets: Buckets, height: int) -> float:
    """Return the watts at the top of the row's graph.

    One line has four steps, too few for a quiet channel on the scale of its limit: it is drawn to
    its highest value then, but never on less than a quarter of the limit.
    """
    top = row_top(row, buckets)
    if height > 1 or not row.limit_watts:
        return top
    return min(top, max(buckets.highest or 0.0, row.limit_watts / 4))


def is_near_limit(row: Row) -> bool:
    """Return whether a row draws nearly its limit."""
    return bool(
        row.limit_watts
        and row.watts is not None
        and row.watts >= NEAR_LIMIT_SHARE * row.limit_watts
    )


def stack_runs(row: Row, top_watts: float, cells: int) -> list[Run]:
    """Draw etui's watts, those of others, those of unknown users and the idle watts in one bar."""
    if row.watts is None or top_watts <= 0:
        return [(MISSING.ljust(cells), "muted")]
    idle = min(row.idle_watts or 0.0, row.watts)
    own, others = row.own_watts or 0.0, row.others_watts or 0.0
    parts: list[tuple[float, str, Ink]] = [
        (own, _OWN, "own"),
        (others, _OTHERS, "others"),
        (max(0.0, row.watts - idle - own - others), _UNKNOWN, "muted"),
        (idle, _IDLE, "idle"),
    ]
    runs: list[Run] = []
    sum_watts, drawn = 0.0, 0
    for watts, mark, ink in parts:
        sum_watts += watts
        end = min(cells, round(sum_watts / top_watts * cells))
        if watts > 0 and end == drawn < cells and ink == "own":
            end += 1  # however little: one sees that etui uses it
        if end > drawn:
            runs.append((mark * (end - drawn), ink))
            drawn = end
    return [*runs, (" " * (cells - drawn), "text")]


def own_text(row: Row, room: int) -> str:
    """Return ``etui 48 W, others 12 W`` as far as there is room for it."""
    if row.watts is None or row.own_watts is None:
        return MISSING
    least = "" if row.all_known else "≥"
    own = f"etui {least}{units.short_watts_text(row.own_watts, row.kind)}"
    others = units.short_watts_text(row.others_watts, row.kind)
    both = f"{own}, others {others}"
    return both if len(both) <= room else own


def _build_total(states: Sequence[devices.ChannelState]) -> Row:
    counted = [state for state in states if state.power.in_total]

    known = [s for s in counted if s.own_watts is not None and s.others_watts is not None]
    return Row(
        TOTAL,
        "Total",
        "",
        devices.total_watts([state.power for state in states]),
        devices.total_limit_watts(states),
        devices.total_idle_watts(states),
        sum(state.own_watts or 0.0 for state in known) if known else None,
        sum(state.others_watts or 0.0 for state in known) if known else None,
        devices.total_kind(states),
        all_known=len(known) == len(counted),
    )


def _name_width(rows: Sequence[Row], width: int) -> int:
    longest = max((len(_full_name(row, 0)) for row in rows), default=5)
    if width >= 150:
        longest = max(longest, *(len(_full_name(row, 99)) for row in rows)) if rows else longest
    return min(longest, 8 if width < 78 else 10 if width < 150 else 26)


def _full_name(row: Row, room: int) -> str:
    """Return the name, with the label where there is room; a star is not in the total."""
    star = "*" if row.state is not None and not row.state.power.in_total else ""
    if room <= 10 or not row.label or row.label in row.name:
        return row.name + star
    return long_name(row) + star


def long_name(row: Row) -> str:
    """Return the name with the label, unless the label begins with it: ``GPU0 NVIDIA L40S``."""
    begins = re.match(rf"{re.escape(row.name)}\b", row.label)
    return row.label if begins else f"{row.name} {row.label}".strip()


def _stack_width(width: int) -> int:
    """Return the cells of the stack with its text: 0 where there is no room."""
    if width < 96:
        return 0
    return 2 + _STACK_CELLS + (0 if width < 112 else 14 if width < 140 else 29)


def _of_device(
    value: Callable[[DeviceVitals], float | None], form: Callable[[float], str]
) -> Callable[[Row], str]:
    """Format a value of the device of a row."""

    def text(row: Row) -> str:
        found = None if row.state is None else value(row.state.device)
        return MISSING if found is None else form(found)

    return text


def _memory(form: Callable[[int, int], str]) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        device = row.state.device if row.state else None
        used = None if device is None else device.memory_used_bytes
        total = None if device is None else device.memory_total_bytes
        return MISSING if used is None or total is None else form(used, total)

    return text


def _format_memory(used: int, total: int) -> str:
    return f"{units.significant(used / 1e9, 3)}/{units.significant(total / 1e9, 3)} GB"


def _watts(row: Row) -> str:
    return units.watts_of_text(row.watts, row.limit_watts, row.kind)


def _idle(row: Row) -> str:
    return MISSING if row.idle_watts is None else units.short_watts_text(row.idle_watts, row.kind)


def _shared(row: Row) -> str:
    """Return etui's watts where others use the device too; ``shared`` if its part is unknown."""
    if row.state is None or not row.state.device.shared:
        return ""
    if row.own_watts is None:
        return "shared"
    about = units.ABOUT if row.kind == units.ESTIMATE else ""
    return f"etui {about}{units.axis_text(row.own_watts)} W"


_COLUMNS = (
    Column("watts", 11, _watts),
    Column("use", 5, _of_device(lambda d: d.utilisation, lambda v: units.percent_text(round(v, 2))),
           20),
    Column("temp", 6, _of_device(lambda d: d.temperature_celsius, units.celsius_text), 38),
    Column("clock", 8, _of_device(lambda d: d.clock_mhz, units.clock_text), 70),
    Column("memory", 8, _of_device(lambda d: d.memory_mhz, units.clock_text), 170),
    Column("VRAM", 13, _memory(_format_memory), 118),
    Column("idle", 7, _idle, 140),
)  # fmt: skip
_NARROW_COLUMNS = (
    Column("VRAM", 9, _memory(units.memory_text), 25, 118),
    Column("etui", 11, _shared, 45, 96),
)
