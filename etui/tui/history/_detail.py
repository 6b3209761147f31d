"""One turn in full: its power over time, its facts, its question and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from textwrap import wrap

from textual.containers import Vertical
from textual.widgets import Static

from etui import units
from etui.config.config import Config
from etui.log.daily_energy import EnergySum, read_daily_energy, sum_by_day
from etui.log.filters import TurnFilter
from etui.log.prices import read_prices
from etui.log.queries import LogReader
from etui.log.totals import Total
from etui.plots.braille import Graph
from etui.plots.power_history import Buckets
from etui.plots.terminal import bar_rows
from etui.tui.widgets.power_graph import PowerGraph
from etui.turn.facts import Fact, list_facts, list_texts
from etui.turn.record import TurnRecord

_LEAST_STEP, _MOST_STEP = 3, 13  # Cells from one bar to the next; a gap of one is in them
_ROWS = 3
_HEIGHT_FROM = 20  # Rows of the screen from which the bars leave enough of them to the table


_MOST_DAYS = 120  # More than have room on a wide terminal


def read_days(log: LogReader, turns: TurnFilter) -> dict[date, EnergySum]:
    """Read the joules of the last days up to the newest with a turn; days without turns too.

    Without a filter they are all that etui spent, as everywhere; else those of these turns.
    """
    if turns != TurnFilter():
        found = {date.fromisoformat(each.key): each for each in log.totals("day", turns)}
        sums = {day: sum_total(total) for day, total in found.items()}
    else:
        newest = log.select("SELECT date(max(created_at), 'localtime') AS day FROM turns")[0]["day"]
        if newest is None:
            return {}
        last = date.fromisoformat(newest)
        daily = read_daily_energy(log, last - timedelta(days=_MOST_DAYS - 1), last)
        sums = {day: each for day, each in sum_by_day(daily, _MOST_DAYS) if each != EnergySum()}
    if not sums:
        return {}
    oldest, last = min(sums), max(sums)
    days = (oldest + timedelta(days=n) for n in range((last - oldest).days + 1))
    return {day: sums.get(day, EnergySum()) for day in days}


def sum_total(total: Total) -> EnergySum:
    known = [part for part in (total.joules, total.estimated_joules) if part is not None]
    estimated = total.estimated_joules is not None
    return EnergySum(total.turns, sum(known) if known else None, estimated, total.unmeasured_turns)


def day_bar_lines(sums: Mapping[date, EnergySum], width: int, what: str = "") -> list[str]:
    """Draw one bar for each of the last days: a heading, the rows of the bars, and their dates.

    The heading has the sum, ``what`` is in it, and the highest day.
    """
    days = list(sums.items())[-max(0, width // _LEAST_STEP) :] if width >= _LEAST_STEP else []
    known = [(found.joules, day) for day, found in days if found.joules is not None]
    if not known:
        return []
    highest, highest_day = max(known)
    kind = units.ESTIMATE if any(found.estimated for _, found in days) else None
    head = f"{units.short_energy_text(sum(joules for joules, _ in known), kind)} in "
    head += f"{units.count_text(len(days), 'day')}{what}"
    step = max(_LEAST_STEP, min(_MOST_STEP, width // len(days)))
    if len(known) > 1:
        head += f" · most {units.short_energy_text(highest, kind)} on {highest_day:%m-%d}"
    joules = [found.joules or None for _, found in days]
    columns = [each for each in joules for each in (*[each] * (step - 1), None)]
    rows = bar_rows(columns, highest or 1.0, len(columns), _ROWS)
    return [head, *rows, _date_line([day for day, _ in days], step)]


def _date_line(days: Sequence[date], step: int) -> str:
    """Write a date at the start of its bar wherever the one before it leaves room."""
    line = ""
    for number, day in enumerate(days):
        start, text = number * step, f"{day:%m-%d}"
        fits = start + len(text) <= len(days) * step or not line
        if fits and (not line or start > len(line)):
            line = line.ljust(start) + text
    return line


class DayBars(Static):
    """The bars, drawn again at each width; hidden without anything to draw or room for it."""

    def __init__(self) -> None:
        super().__init__("", markup=False, id="days")
        self._sums: Mapping[date, EnergySum] = {}
        self._what = ""
        self.folded = False
        self.display = False

    def show(self, sums: Mapping[date, EnergySum], what: str = "") -> None:
        """Show these days; ``what`` says what is in their joules."""
        self._sums, self._what = sums, what
        self.draw()

    def draw(self) -> None:
        width = self.app.size.width - 2
        low = self.app.size.height < _HEIGHT_FROM
        lines = [] if self.folded or low else day_bar_lines(self._sums, width, self._what)
        self.display = bool(lines)
        self.update("\n".join(lines))


def read_detail(log: LogReader, turn_id: str, config: Config) -> tuple[TurnRecord, Sequence[Fact]]:
    """Read one turn in full, and its facts."""
    turn = log.get_turn(turn_id)
    prices = read_prices(log, config, strict=False)
    costs = () if prices is None else prices.facts(turn)
    loads, unloads = log.loads(None, turn_id), log.unloads(None, turn_id)
    return turn, list_facts(turn, loads, unloads, costs)


class DetailView(Vertical):
    """The graph of the live panel, drawn for a turn of the past, and the text below it."""

    def __init__(self) -> None:
        self._turn: TurnRecord | None = None
        self._facts: Sequence[Fact] = ()
        self._head = Static("", markup=False, classes="watts")
        self._graph = PowerGraph()
        self._graph.display = False
        self._lines = Static("select a turn", markup=False)
        super().__init__(self._head, self._graph, self._lines)

    def show(self, turn: TurnRecord | None, facts: Sequence[Fact] = ()) -> None:
        self._turn, self._facts = turn, facts
        if turn is None:
            self._head.update("")
            self._graph.display = False
            self._lines.update("select a turn")
            return
        self._head.update(power_heading(turn))
        self._graph.display = any(watts is not None for watts in turn.power_watts)
        self._graph.show(turn_graph(turn, max(40, 2 * self.size.width)))
        self._lines.update("\n".join(_detail_lines(turn, facts, max(20, self.size.width))))

    def on_resize(self) -> None:
        self.show(self._turn, self._facts)


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
    idle = turn.energy.idle_watts
    top = max([idle or 0.0, *(watts for watts in means if watts is not None)])
    return Graph(buckets, None, idle, end_word="end", highest_watts=top or None)


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


_MOST_NAME = 12  # Cells of the names of facts; a longer one moves its text


def _detail_lines(turn: TurnRecord, facts: Sequence[Fact], width: int) -> list[str]:
    """Format the turn in full, each fact indented after its name."""
    name_width = min(_MOST_NAME, max(len(name) for name, _ in facts))
    lines, indent = [], " " * (name_width + 1)
    for name, text in facts:
        first, *others = text.split("\n")
        if not others:
            lines += wrap(f"{name:<{name_width}} {first}", width, subsequent_indent=indent)
            continue
        lines.append(name)  # a table or a list has the whole width
        for line in (first, *others):
            lines += wrap(f"  {line}", width, subsequent_indent=indent)
    for title, text in list_texts(turn):
        lines += ["", f"{title}:", text]
    return lines
