"""Power over time in braille: two values and four levels a cell, with axes in watts and time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, TypeVar

from etui import units
from etui.plots.power_history import Buckets
from etui.plots.terminal import count_levels, idle_row, scale_top

_T = TypeVar("_T")
Ink = Literal[
    "plain", "load", "prefill", "thinking", "answer", "own", "others", "limit", "idle", "axis"
]
"""What a character of a graph means; each has a colour of its own."""

Run = tuple[str, Ink]
"""Characters of one ink."""

PHASE_INKS: dict[str, Ink] = {
    " ": "plain",
    "L": "load",
    "P": "prefill",
    "T": "thinking",
    "A": "answer",
}

PHASE_WORDS = {"L": "loading", "P": "read", "T": "think", "A": "write"}

_LEFT, _RIGHT = (0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08)
"""Bits of the dots of a cell, lowest first."""

_BLANK = 0x2800
_LEVELS = 4
NEAR_LIMIT_SHARE = 0.95
"""Share of the limit from which the top of a graph is drawn as near the limit."""

_LEAST_HEIGHT_FOR_HALF = 4
_TICK_CELLS = 12
"""Least cells between two marks of the time axis."""

_STEPS_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)
_LEGEND: tuple[tuple[Ink, str], ...] = (
    ("own", "etui"),
    ("others", "other programs and idle"),
    *((PHASE_INKS[phase], word) for phase, word in PHASE_WORDS.items()),
    ("limit", "near the max"),
    ("plain", "other work"),
)
"""What an ink means, in words below the graph."""
_IDLE_LINE, _IDLE_WORD = "┄", " idle "


@dataclass(frozen=True, slots=True)
class Graph:
    """What a graph shows."""

    buckets: Buckets  # Watts over time, two a cell
    limit_watts: float | None = None
    """Power limit, the top of the scale; None draws to the highest value."""
    idle_watts: float | None = None  # Watts of the idle line; None draws none
    end_word: str = "now"  # Name of the right end of the axis of time
    own: tuple[float | None, ...] = ()
    """Watts of etui itself in the same buckets, drawn at the bottom in an ink of their own, with
    the rest above; empty, or None in a bucket, colours by phase."""

    highest_watts: float | None = None  # Top of the scale without a limit; None rounds it up

    @property
    def top_watts(self) -> float:
        """Top of the scale."""
        if self.highest_watts is not None:
            return self.highest_watts
        known = [watts for watts in self.buckets.means if watts is not None]
        return scale_top(self.limit_watts, max([*known, self.idle_watts or 0.0]))


def braille_rows(
    watts: Sequence[float | None], top_watts: float, width: int, height: int
) -> list[str]:
    """Draw ``height`` rows of ``width`` cells, the newest value at the right.

    None leaves its half of a cell empty; a known value draws at least the lowest dot, and one above
    the top is drawn full.
    """
    levels = _pair_up([count_levels(w, top_watts, _LEVELS * height) for w in watts], width, 0)
    rows = []
    for row in reversed(range(height)):
        cells = []
        for left, right in levels:
            bits = sum(_LEFT[: max(0, min(_LEVELS, left - _LEVELS * row))])
            bits += sum(_RIGHT[: max(0, min(_LEVELS, right - _LEVELS * row))])
            cells.append(chr(_BLANK + bits) if bits else " ")
        rows.append("".join(cells))
    return rows


def _pair_up(values: Sequence[_T], width: int, empty: _T) -> list[tuple[_T, _T]]:
    """Return the two values of each cell: the last ones, after empty cells where they are few."""
    shown = list(values)[-2 * width :] if width else []
    padded = [empty] * (2 * width - len(shown)) + shown
    return list(zip(padded[::2], padded[1::2], strict=True))


def sparkline(watts: Sequence[float | None], top_watts: float, width: int) -> str:
    """Draw one row of ``width`` cells, the newest value at the right."""
    return braille_rows(watts, top_watts, width, 1)[0]


def gutter_width(graph: Graph) -> int:
    """Return the cells to the left of the plot: the numbers of the axis and its line."""
    numbers = [graph.top_watts, graph.top_watts / 2, graph.idle_watts or 0.0]
    return max(len(units.axis_text(number)) for number in numbers) + 1


def draw_graph(
    graph: Graph, width: int, height: int, *, axes: bool = True, letters: bool = True
) -> list[list[Run]]:
    """Draw a graph as ``height`` rows of runs, its axis and words among them, ``width`` cells wide.

    ``letters``: whether words below the axis name each phase, and each colour without a word.
    """
    gutter = gutter_width(graph) if axes else 0
    plot_width = max(0, width - gutter)
    below = (axes and height > 2) + (letters and height > 3)
    plot_height = max(1, height - below)
    phases = _cell_phases(graph.buckets.phases, plot_width)
    rows = list(_draw_plot(graph, plot_width, plot_height, phases))
    used = {ink for row in rows for text, ink in row if text.strip()}
    if axes:
        named = any(_IDLE_WORD in text for row in rows for text, _ in row)
        labels = axis_labels(graph, plot_height, idle=named)
        rows = [
            [(f"{label:>{gutter - 1}}" + ("┤" if label else "│"), "axis"), *row]
            for label, row in zip(labels, rows, strict=True)
        ]
        if height > 2:
            line = time_axis(plot_width, 2 * graph.buckets.seconds, graph.end_word)
            rows.append([(" " * (gutter - 1) + "└" + line, "axis")])
    if letters and height > 3:
        words = [_name_phase(len(list(run)), phase, used) for phase, run in groupby(phases)]
        runs = _add_legend(words, used)
        rows.append([(" " * gutter, "axis"), *runs] if gutter else runs)
    return rows[:height]


def _name_phase(cells: int, phase: str, used: set[Ink]) -> Run:
    """Write the word of a phase, and a line to its end: ``write─────``; nothing of a cut word."""
    word, ink = PHASE_WORDS.get(phase, ""), PHASE_INKS[phase]
    if len(word) >= cells:
        word = ""
    return (word.ljust(cells, "─" if word else " "), "axis" if word and ink not in used else ink)


def _add_legend(runs: list[Run], used: set[Ink]) -> list[Run]:
    """Name the colours that have no word, where the row is empty: ``█ load █ near the limit``."""
    named = {ink for text, ink in runs if text.strip()}
    legend = [(ink, word) for ink, word in _LEGEND if ink in used - named]
    if [ink for ink, _ in legend] == ["plain"] and not named:
        return runs  # one colour
    row, inks = "".join(text for text, _ in runs), [ink for text, ink in runs for _ in text]
    while legend:
        added: list[Run] = [
            each for ink, word in legend for each in (("█", ink), (f" {word} ", "axis"))
        ]
        text = "".join(part for part, _ in added)
        at = row.find(" " * (len(text) + 1)) + 1
        if at > 0:
            row = row[:at] + text + row[at + len(text) :]
            inks[at : at + len(text)] = [ink for part, ink in added for _ in part]
            break
        legend.pop()
    return _group(row, inks)


def axis_labels(graph: Graph, height: int, *, idle: bool = True) -> list[str]:
    """Return the number beside each of ``height`` rows, from the top; most are empty.

    The top of the scale, its half where there is room, and with ``idle`` the idle watts in their
    own row: a number whose line is hidden would have no name.
    """
    labels = [""] * height
    labels[0] = units.axis_text(graph.top_watts)
    if height >= _LEAST_HEIGHT_FOR_HALF:
        labels[height // 2] = units.axis_text(graph.top_watts / 2)
    at = idle_row(graph.idle_watts, graph.top_watts, height) if idle else None
    if at is not None and at > 0:
        for near in (at - 1, at + 1):
            if 0 < near < height:
                labels[near] = ""
        labels[at] = units.axis_text(graph.idle_watts or 0.0)
    return labels


def time_axis(width: int, seconds_per_cell: float, end_word: str = "now") -> str:
    """Draw an axis of ``width`` cells up to its end, with marks as nvitop has them: ``╴60s├``."""
    if width <= 0 or seconds_per_cell <= 0:
        return "─" * width
    cells = ["─"] * width
    if width >= 3 * len(end_word):
        cells[-len(end_word) :] = end_word
    step = next((s for s in _STEPS_SECONDS if s / seconds_per_cell >= _TICK_CELLS), None)
    if step is None:
        return "".join(cells)
    for age in range(step, int(width * seconds_per_cell) + 1, step):
        label = units.age_text(age)
        mark = f"╴{label}├"
        end = width - round(age / seconds_per_cell)
        start = end - len(mark) + 1
        if start >= 0:
            cells[start : end + 1] = mark
        elif 0 <= end < len(label) <= width:
            cells[: len(label)] = label  # the whole width, without room for its mark
    return "".join(cells)


def _draw_plot(graph: Graph, width: int, height: int, phases: str) -> Iterator[list[Run]]:
    values = graph.buckets.means[-2 * width :] if width else ()
    top = graph.top_watts
    rows = braille_rows(values, top, width, height)
    near = _near_limit(values, graph.limit_watts, width)
    idle = idle_row(graph.idle_watts, graph.top_watts, height)
    stack = _stack_dots(graph, width, height)
    for y, row in enumerate(rows):
        inks: list[Ink] = [
            "limit" if y == 0 and near[x] else PHASE_INKS[phase] for x, phase in enumerate(phases)
        ]
        if y == idle:
            inks = ["idle" if c == " " else ink for c, ink in zip(row, inks, strict=True)]
            row = _add_idle_line(row)
        inks = [_stack_ink(own, height - 1 - y, ink) for own, ink in zip(stack, inks, strict=True)]
        yield _group(row, inks)


def _group(row: str, inks: Sequence[Ink]) -> list[Run]:
    pairs = groupby(zip(row, inks, strict=True), key=lambda pair: pair[1])
    return [("".join(c for c, _ in run), ink) for ink, run in pairs]


def _stack_dots(graph: Graph, width: int, height: int) -> list[int | None]:
    """Return the dots of etui's own watts in each cell, the more of its two; None where unknown."""
    most = _LEVELS * height
    dots = [None if w is None else round(w / graph.top_watts * most) for w in graph.own]
    return [
        max((each for each in pair if each is not None), default=None)
        for pair in _pair_up(dots, width, None)
    ]


def _stack_ink(own: int | None, rows_below: int, ink: Ink) -> Ink:
    """Return the ink of a cell where etui's own dots are below the others'."""
    if own is None or ink in ("idle", "limit"):
        return ink
    return "own" if own - _LEVELS * rows_below >= _LEVELS // 2 else "others"


def _add_idle_line(row: str) -> str:
    """Draw the idle line where a row is empty, if its name has room: in the last such place."""
    at = row.rfind(" " * (len(_IDLE_WORD) + 2))
    line = row.replace(" ", _IDLE_LINE)
    return row if at < 0 else line[: at + 1] + _IDLE_WORD + line[at + 1 + len(_IDLE_WORD) :]


def _near_limit(
    values: Sequence[float | None], limit_watts: float | None, width: int
) -> list[bool]:
    if not limit_watts:
        return [False] * width
    near = [watts is not None and watts >= NEAR_LIMIT_SHARE * limit_watts for watts in values]
    return [left or right for left, right in _pair_up(near, width, False)]


def _cell_phases(phases: str, width: int) -> str:
    """Return one letter a cell: the later of its two, unless that is a space."""
    pairs = _pair_up(phases, width, " ")
    return "".join(right if right != " " else left for left, right in pairs)
