"""One turn in full: its power over time, its facts, its question and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from textwrap import wrap

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from etui import units
from etui.log.queries import LogReader
from etui.log.text import list_facts, list_texts
from etui.log.totals import Total
from etui.plots.braille import Graph
from etui.plots.power_history import Buckets
from etui.plots.terminal import bar_rows
from etui.tui.widgets.power_graph import PowerGraph
from etui.turn.record import LoadRecord, TurnRecord, UnloadRecord

_BAR_CELLS = 2
_STEP_CELLS = _BAR_CELLS + 1  # Cells from one bar to the next
_ROWS = 3
_HEIGHT_FROM = 20  # Rows of the screen from which the bars leave enough of them to the table


@dataclass(frozen=True, slots=True)
class DayEnergy:
    """What the turns of one day cost."""

    day: date
    joules: float | None  # Read and estimated joules together; None if nothing was measured
    estimated: bool


def list_days(totals: Sequence[Total], most: int) -> tuple[DayEnergy, ...]:
    """Return the last days up to the newest with a turn, oldest first; days without turns too."""
    by_day = {date.fromisoformat(total.key): total for total in totals if total.key}
    if not by_day or most <= 0:
        return ()
    newest = max(by_day)
    count = min(most, (newest - min(by_day)).days + 1)
    days = (newest - timedelta(days=back) for back in reversed(range(count)))
    return tuple(_day_energy(day, by_day.get(day)) for day in days)


def _day_energy(day: date, total: Total | None) -> DayEnergy:
    parts = [] if total is None else [total.joules, total.estimated_joules]
    known = [part for part in parts if part is not None]
    estimated = total is not None and total.estimated_joules is not None
    return DayEnergy(day, sum(known) if known else None, estimated)


def day_bar_lines(totals: Sequence[Total], width: int) -> list[str]:
    """Draw one bar for each of the last days, on a scale from 0 to the highest one.

    Returns:
        The sum and the highest day, the rows of the bars, and the dates below them.
    """
    days = list_days(totals, width // _STEP_CELLS)
    known = [(day.joules, day.day) for day in days if day.joules is not None]
    if not known:
        return []
    highest, highest_day = max(known)
    kind = units.ESTIMATE if any(day.estimated for day in days) else None
    head = f"{units.short_energy_text(sum(joules for joules, _ in known), kind)} in "
    head += units.count_text(len(days), "day")
    if len(known) > 1:
        head += f" · most {units.short_energy_text(highest, kind)} on {highest_day:%m-%d}"
    joules = [day.joules or None for day in days]
    columns = [each for each in joules for each in (*[each] * _BAR_CELLS, None)]
    rows = bar_rows(columns, highest or 1.0, len(columns), _ROWS)
    return [head, *rows, _date_line([day.day for day in days])]


def _date_line(days: Sequence[date]) -> str:
    """Write a date at the start of its bar wherever the one before it leaves room."""
    line = ""
    for number, day in enumerate(days):
        start, text = number * _STEP_CELLS, f"{day:%m-%d}"
        fits = start + len(text) <= len(days) * _STEP_CELLS or not line
        if fits and (not line or start >= len(line) + _STEP_CELLS):
            line = line.ljust(start) + text
    return line


class DayBars(Static):
    """The bars, drawn again at each width; hidden without anything to draw or room for it."""

    def __init__(self) -> None:
        super().__init__("", markup=False, id="days")
        self._totals: tuple[Total, ...] = ()
        self.folded = False
        self.display = False

    def show(self, totals: Sequence[Total]) -> None:
        self._totals = tuple(totals)
        self.draw()

    def draw(self) -> None:
        width = self.app.size.width - 2
        low = self.app.size.height < _HEIGHT_FROM
        lines = [] if self.folded or low else day_bar_lines(self._totals, width)
        self.display = bool(lines)
        self.update("\n".join(lines))


@dataclass(frozen=True, slots=True)
class Detail:
    """One turn in full, with the models that were loaded and unloaded for it."""

    turn: TurnRecord
    loads: Sequence[LoadRecord]
    unloads: Sequence[UnloadRecord]


def read_detail(log: LogReader, turn_id: str) -> Detail:
    """Read one turn in full."""
    turn = log.get_turn(turn_id)
    return Detail(turn, log.loads(None, turn.turn_id), log.unloads(None, turn.turn_id))


class DetailView(Vertical):
    """The graph of the live panel, drawn for a turn of the past, and the text below it."""

    def __init__(self) -> None:
        super().__init__()
        self._detail: Detail | None = None
        self._head = Static("", markup=False, classes="watts")
        self._graph = PowerGraph()
        self._graph.display = False
        self._lines = Static("select a turn", markup=False)

    def compose(self) -> ComposeResult:
        yield self._head
        yield self._graph
        yield self._lines

    def show(self, detail: Detail | None) -> None:
        self._detail = detail
        if detail is None:
            self._head.update("")
            self._graph.display = False
            self._lines.update("select a turn")
            return
        self._head.update(power_heading(detail.turn))
        self._graph.display = any(watts is not None for watts in detail.turn.power_watts)
        self._graph.show(turn_graph(detail.turn, max(40, 2 * self.size.width)))
        self._lines.update("\n".join(_detail_lines(detail, max(20, self.size.width))))

    def on_resize(self) -> None:
        self.show(self._detail)


def power_heading(turn: TurnRecord) -> str:
    """Format what the graph shows: ``power over 6.95 s``, or that nothing was measured."""
    if all(watts is None for watts in turn.power_watts):
        return f"power over time: {units.UNMEASURED}"
    known = [watts for watts in turn.power_watts if watts is not None]
    kind = turn.energy.kind if turn.energy.kind == units.ESTIMATE else None
    seconds = units.seconds_text(turn.seconds.total)
    return f"power over {seconds}, at most {units.short_watts_text(max(known), kind)}"


def turn_graph(turn: TurnRecord, values: int) -> Graph:
    watts = turn.power_watts
    means = tuple(watts[index * len(watts) // values] for index in range(values)) if watts else ()
    buckets = Buckets(turn.seconds.total / max(1, values), means, means, turn_phases(turn, values))
    return Graph(buckets, None, turn.energy.idle_watts, end_word="end")


def turn_phases(turn: TurnRecord, values: int) -> str:
    """Return the letter of the phase of each of ``values`` equal parts of a turn.

    The prefill is known by its seconds; thinking and answer share the decode by their tokens.
    """
    seconds, tokens = turn.seconds, turn.tokens
    if seconds.total <= 0:
        return " " * values
    prefill = round(values * min(1.0, seconds.prefill / seconds.total))
    share = tokens.thinking / tokens.output if tokens.output else 0.0
    thinking = round((values - prefill) * min(1.0, max(0.0, share)))
    return "P" * prefill + "T" * thinking + "A" * (values - prefill - thinking)


def _detail_lines(detail: Detail, width: int) -> list[str]:
    """Format the turn in full, each fact indented after its name."""
    facts = list_facts(detail.turn, detail.loads, detail.unloads)
    name_width = max(len(name) for name, _ in facts) + 2
    lines = []
    for name, text in facts:
        lines += wrap(f"{name:<{name_width}}{text}", width, subsequent_indent=" " * name_width) or [
            name
        ]
    for title, text in list_texts(detail.turn):
        lines += ["", f"{title}:", text]
    return lines
