"""The history screen: every turn of the log, sorted, searched, shown in full and totalled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import ContentSwitcher, DataTable, Input, Static

from etui import units
from etui.atomic import open_private
from etui.config.config import Config
from etui.errors import EtuiError
from etui.log.daily_energy import EnergySum
from etui.log.export import write_csv, write_json_lines
from etui.log.filters import Sort, TurnFilter
from etui.log.queries import LogReader, TurnSummary
from etui.log.totals import Total
from etui.plots.terminal import bar
from etui.runtime.provenance import read_weights
from etui.text import (
    count_cells,
    cut_name,
    fit_cells,
    format_table,
    local_time,
    one_line,
    sanitize,
)
from etui.tui._work import faults_shown, in_thread, warn
from etui.tui.commands import ChatRequested, Command, build_commands
from etui.tui.history._detail import DayBars, DetailView, read_days, read_detail, sum_total
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.tables import FittedTable, TableColumn
from etui.turn.text import bound_text

T = TypeVar("T")

PAGE_TURNS = 100
"""Turns read at a time; the next page is read when the cursor comes near the last one."""

_FETCH_WITHIN = 20
"""The next page is read when the cursor is within this many turns of the last one read."""

_DAYS_AFTER_SECONDS = 0.4
"""Delay from the last page to the bars of the days, so that typing never waits for them."""

_READ_AGAIN = "press F3 to read again"
TotalsBy = Literal["model", "rule", "day"]
TOTALS_BY: dict[TotalsBy, str] = {
    "model": "; an answer by two models counts for both",
    "rule": "; rest: no rule matched, (none): no policy",
    "day": "",
}
"""What there are totals by, each with what to know of it."""


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which turns are shown, and in which order."""

    search: str = ""  # Words that occur in the question or the answer; empty for every turn
    sort: Sort = Sort.TIME
    descending: bool = True

    @property
    def turns(self) -> TurnFilter:
        return TurnFilter(search=self.search or None)


COLUMNS = (
    TableColumn("time", "TIME", 3, 11),
    TableColumn("question", "QUESTION", 0, 200, least=12, enough=30, sorts=False),
    TableColumn("joules", "ENERGY", 1, 18, right=True),
    TableColumn("per_token", "PER TOKEN", 4, 14, right=True),
    TableColumn("tokens", "TOKENS", 5, 9, right=True),
    TableColumn("seconds", "SECONDS", 6, 10, right=True),
    TableColumn("model", "MODEL", 2, 24, least=10, enough=18, middle=True),
    TableColumn("rule", "RULE", 7, 24, least=10),
)
"""Enough for question, joules and model on 40 columns, and for all on a wide terminal."""

SORTS = {sort.value.replace("joules-per-token", "per_token"): sort for sort in Sort}
"""Key of a column -> how it sorts the turns."""

_SORTED_COLUMNS = {sort: key for key, sort in SORTS.items()}
_NOTHING = "–"


def turn_texts(turn: TurnSummary) -> dict[str, str]:
    """Format a turn by column: ``■`` before the question of one that was ended, ``✗`` of a failed.

    Only the kind ``estimate`` is shown here; the detail shows the kind of every turn.
    """
    mark = "" if turn.status == "complete" else "✗ " if turn.status == "error" else "■ "
    mark += "" if turn.kept == "whole" else "[cut] "
    per_token = units.short_energy_text(turn.joules_per_token, turn.kind)
    kind = turn.kind if turn.kind == units.ESTIMATE else None
    return {
        "time": local_time(turn.created_at)[5:16],
        "question": mark + one_line(turn.query),
        "joules": bound_text(units.short_energy_text(turn.joules, kind), turn.status),
        "per_token": _NOTHING if not turn.tokens_output else per_token,
        "tokens": f"{turn.tokens_output:,}" if turn.tokens_output else _NOTHING,
        "seconds": units.seconds_text(turn.seconds_total),
        "model": one_line(turn.model),
        "rule": one_line(turn.rule or "-"),
    }


_MOST_BAR, _MOST_NAME = 40, 28


def status_text(
    query: HistoryQuery, read: int, total: int, page: int, *, totals: bool = False
) -> str:
    """Describe the listed turns: ``1,204 answers with "joule", by joules, most first``."""
    words = f' with "{query.search}"' if query.search else ""
    text = f"{units.count_text(total, 'answer')}{words}"
    if totals:
        return f"{text}, totals without loads and idling"
    if total == 0:
        return "no answers" + (words or " in the log yet")
    first = _FIRST[query.sort][query.descending]
    more = f" · {read:,} listed, more as you scroll" if page <= read < total else ""
    by = query.sort.value.replace("-", " ")
    return f"{text}, by {by}, {first} first · ■ ended early  ✗ failed{more}"


_FIRST = {
    Sort.TIME: ("oldest", "newest"),
    Sort.JOULES: ("least", "most"),
    Sort.JOULES_PER_TOKEN: ("least", "most"),
    Sort.SECONDS: ("shortest", "longest"),
    Sort.TOKENS: ("fewest", "most"),
    Sort.MODEL: ("a", "z"),
    Sort.RULE: ("a", "z"),
}


def totals_lines(by: TotalsBy, totals: Sequence[Total], width: int) -> list[str]:
    """Draw a row for each group: its bar of joules, readings and estimates in words, its turns."""
    if not totals:
        return ["no answers to total"]
    names = [one_line(total.key) or "(none)" for total in totals]
    cells = [_amount_cells(total, short=width < _SHORT_BELOW) for total in totals]
    amounts = format_table(cells, align=">>><")
    name_width = min(_MOST_NAME, max(count_cells(name) for name in names), width // 3)
    room = width - name_width - max(count_cells(text) for text in amounts) - 4
    drawn = max(0, min(_MOST_BAR, room))
    sums = [sum_total(total).joules or 0.0 for total in totals]
    lines = [fit_cells(f"Joules of answers by {by}{TOTALS_BY[by]}", width), ""]
    for name, joules, amount in zip(names, sums, amounts, strict=True):
        label = cut_name(fit_cells(name, 2 * name_width), name_width)
        label += " " * (name_width - count_cells(label))
        length = bar(joules, max(sums), drawn)
        lines.append(fit_cells(f"{label}  {length:<{drawn}}  {amount}", width))
    return lines


_SHORT_BELOW = 110  # Width in cells below which totals have no watt-hours


def _amount_cells(total: Total, *, short: bool) -> tuple[str, str, str, str]:
    """Format joules, watt-hours, turns, and turns without joules."""
    known = [
        f"{units.cell_text(joules, kind)} J"
        for joules, kind in ((total.joules, None), (total.estimated_joules, units.ESTIMATE))
        if joules is not None
    ]
    found = sum_total(total)
    hours = (found.joules or 0.0) / units.JOULES_PER_WATT_HOUR
    hours_text = "" if short or not known else f"{units.cell_text(hours, found.kind)} Wh"
    missing = f"{total.unmeasured_turns:,} unmeasured" if total.unmeasured_turns else ""
    return " and ".join(known), hours_text, units.count_text(total.turns, "answer"), missing


def export_turns(
    log: LogReader,
    query: HistoryQuery,
    config: Config,
    ending: str,
    now: Callable[[], datetime] = datetime.now,
) -> tuple[Path, int]:
    """Write the turns, oldest first, to a new file in ``exports`` in ETUI_HOME."""
    folder = config.home / "exports"
    path = folder / f"turns-{now():%Y%m%d-%H%M%S-%f}.{ending}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        count = log.count_turns(query.turns)
        with open(path, "x", encoding="utf-8", newline="", opener=open_private) as file:
            if ending == "csv":
                write_csv(log.turns(query.turns), file)
            else:
                write_json_lines(log.turns(query.turns), file, read_weights(config))
    except OSError as error:
        what = f"cannot write the export: {error}"
        raise EtuiError(what, "free some disk space, or fix the folder") from error
    return path, count


class TurnTable(FittedTable[TurnSummary]):
    """One row per turn."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.open_chat", "Open chat", id="history.open"),
    ]


class HistoryScreen(Screen[None]):
    """A table of turns next to the turn under the cursor, or the totals instead of both."""

    AUTO_FOCUS = "DataTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", id="history.search", key_display="/"),
        Binding("s", "sort", "Sort", id="history.sort"),
        Binding("r", "reverse", "Reverse", id="history.reverse"),
        Binding("t", "totals", "Totals", id="history.totals"),
        Binding("b", "fold_days", "Days", id="history.days", show=False),
        Binding("e", "export('jsonl')", "Export", id="history.export"),
        Binding("E", "export('csv')", "Export as CSV", id="history.export_csv", show=False),
        Binding("escape", "back", "Back", id="history.back"),
    ]

    HELP = "## History"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self._log: LogReader | None = None
        self._turn_query = HistoryQuery()
        self._total = 0
        self._reading = False
        self._shows_totals = False
        self._days_timer: Timer | None = None
        self._days = DayBars()
        self._table = TurnTable(COLUMNS, turn_texts, id="turns")
        self._search = Input(placeholder="words in the question or the answer", id="search")
        self._search.display = False
        self._detail = DetailView()
        self._totals_text = Static("", markup=False)
        self._status = Static("", markup=False, classes="status")

    def compose(self) -> ComposeResult:
        with Vertical():
            yield self._search
            yield self._days
            with ContentSwitcher(initial="both", id="views"):
                with Horizontal(id="both"):
                    yield self._table
                    with VerticalScroll(id="detail", can_focus=True):
                        yield self._detail
                with VerticalScroll(id="totals", can_focus=True):
                    yield self._totals_text
            yield self._status
        yield KeyFooter()

    def commands(self) -> list[Command]:
        return build_commands(
            ("history: search", "Search questions and answers", self.action_search),
            ("history: sort", "Sort by the next column", self.action_sort),
            ("history: reverse", "Reverse the order", self.action_reverse),
            ("history: totals", "Show totals by model, rule or day", self.action_totals),
            ("history: days", "Show or hide the joules by day", self.action_fold_days),
            ("history: open chat", "Show the turn in its chat", self.action_open_chat),
            ("export: these turns as JSON lines", "Write every field to a file",
             partial(self.action_export, "jsonl")),
            ("export: these turns as CSV", "Write a file for a spreadsheet",
             partial(self.action_export, "csv")),
        )  # fmt: skip

    def on_screen_resume(self) -> None:
        self._start_again()

    def on_unmount(self) -> None:
        if self._log is not None:
            self._log.close()

    def action_search(self) -> None:
        self._search.display = True
        self._search.focus()

    def action_sort(self) -> None:
        sorts = list(Sort)
        self._sort_by(sorts[(sorts.index(self._turn_query.sort) + 1) % len(sorts)])

    def action_reverse(self) -> None:
        self._turn_query = replace(self._turn_query, descending=not self._turn_query.descending)
        self._start_again()

    def action_totals(self) -> None:
        self._shows_totals = not self._shows_totals
        self.refresh_bindings()
        view = "totals" if self._shows_totals else "both"
        self.query_one("#views", ContentSwitcher).current = view
        (self.query_one("#totals") if self._shows_totals else self._table).focus()
        self._show_status()
        if self._shows_totals:
            self._read_totals()

    def action_fold_days(self) -> None:
        self._days.folded = not self._days.folded
        self._days.draw()

    def action_open_chat(self) -> None:
        turn = self._table.current
        if turn is None:
            return
        if turn.chat_id is None:
            warn(self, "this turn belongs to no chat", "it was asked outside of the app")
        else:
            self._find_chat(turn.chat_id, turn.turn_id)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self._shows_totals:
            return action not in ("sort", "reverse")
        return action != "back" or self._search.display

    def action_back(self) -> None:
        if self._search.display:
            self._search.value = ""
            self._search.display = False
            self._table.focus()
        elif self._shows_totals:
            self.action_totals()

    def on_input_changed(self, changed: Input.Changed) -> None:
        words = changed.value.strip()
        if words != self._turn_query.search:
            self._turn_query = replace(self._turn_query, search=words)
            self._start_again()

    def on_input_submitted(self) -> None:
        (self.query_one("#totals") if self._shows_totals else self._table).focus()

    def on_resize(self) -> None:
        self._days.draw()

    def on_data_table_row_selected(self) -> None:
        self.action_open_chat()

    def on_data_table_header_selected(self, selected: DataTable.HeaderSelected) -> None:
        """Sort by the selected column; the current one reverses the order."""
        sort = SORTS.get(selected.column_key.value or "")
        if sort is not None and sort is self._turn_query.sort:
            self.action_reverse()
        elif sort is not None:
            self._sort_by(sort)

    def on_data_table_row_highlighted(self, highlighted: DataTable.RowHighlighted) -> None:
        row, turns = highlighted.cursor_row, self._table.records
        if row < len(turns):
            self._read_detail(turns[row].turn_id)
        if row >= len(turns) - _FETCH_WITHIN and len(turns) < self._total:
            self._read(len(turns))

    def _sort_by(self, sort: Sort) -> None:
        by_name = sort in (Sort.MODEL, Sort.RULE)
        self._turn_query = replace(self._turn_query, sort=sort, descending=not by_name)
        self._start_again()

    def _start_again(self) -> None:
        self._reading = False
        self._read(0)
        if self._days_timer is not None:
            self._days_timer.stop()
        self._days_timer = self.set_timer(_DAYS_AFTER_SECONDS, self._read_days)
        if self._shows_totals:
            self._read_totals()

    def _read(self, offset: int) -> None:
        if not self._reading:
            self._reading = True
            self._read_page(offset)

    def _show_status(self) -> None:
        read = len(self._table.records)
        self._status.update(
            status_text(self._turn_query, read, self._total, PAGE_TURNS, totals=self._shows_totals)
        )

    @work(exclusive=True, group="history-page", exit_on_error=False)
    async def _read_page(self, offset: int) -> None:
        query = self._turn_query
        with faults_shown(self):
            turns, self._total = await self._read_log(
                lambda log: log.list_page(
                    query.turns,
                    sort=query.sort,
                    descending=query.descending,
                    limit=PAGE_TURNS,
                    offset=offset,
                )
            )
            self._reading = False
            if offset == 0:
                self._detail.show(None)
                key = _SORTED_COLUMNS[query.sort]
                self._table.show(turns, sorted_by=key, descending=query.descending)
            else:
                self._table.append(turns)
            self._show_status()

    @work(exclusive=True, group="history-detail", exit_on_error=False)
    async def _read_detail(self, turn_id: str) -> None:
        with faults_shown(self):
            read = partial(read_detail, turn_id=turn_id, config=self._config)
            self._detail.show(*await self._read_log(read))

    @work(exclusive=True, group="history-totals", exit_on_error=False)
    async def _read_totals(self) -> None:
        turns = self._turn_query.turns
        with faults_shown(self):
            found = await self._read_log(
                lambda log: {by: log.totals(by, turns) for by in TOTALS_BY}
            )
            width = max(20, self.size.width - 5)
            tables = ["\n".join(totals_lines(by, each, width)) for by, each in found.items()]
            self._totals_text.update("\n\n".join(tables))

    @work(exclusive=True, group="history-days", exit_on_error=False)
    async def _read_days(self) -> None:
        turns = self._turn_query.turns

        def read() -> Mapping[date, EnergySum]:
            # A connection of its own: a page asked for meanwhile does not wait for the days.
            with LogReader(self._config) as log:
                return read_days(log, turns)

        with faults_shown(self):
            what = "" if turns != TurnFilter() else ", loads and idling included"
            self._days.show(await in_thread(read, _READ_AGAIN), what)

    @work(exclusive=True, group="history-chat", exit_on_error=False)
    async def _find_chat(self, chat_id: str, turn_id: str) -> None:
        with faults_shown(self):
            chat = await self._read_log(lambda log: log.get_chat(chat_id))
            self.app.post_message(ChatRequested(chat, turn_id))

    @work(exclusive=True, group="history-export", exit_on_error=False)
    async def action_export(self, ending: str) -> None:
        query = self._turn_query
        with faults_shown(self):
            path, turns = await self._read_log(
                lambda log: export_turns(log, query, self._config, ending)
            )
            text = f"exported {units.count_text(turns, 'turn')} to {sanitize(str(path))}"
            self.notify(text, markup=False)

    async def _read_log(self, read: Callable[[LogReader], T]) -> T:
        def job() -> T:
            if self._log is None:
                self._log = LogReader(self._config)
            return read(self._log)

        return await in_thread(job, _READ_AGAIN)
