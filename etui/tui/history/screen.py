"""The history screen: every turn of the log, sorted, searched, shown in full and totalled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import ContentSwitcher, DataTable, Input, Static

from etui import units
from etui.config.config import Config
from etui.log.filters import Sort
from etui.log.queries import LogReader
from etui.log.totals import Total
from etui.plots.terminal import bar
from etui.text import count_cells, fit_cells, one_line, sanitize
from etui.tui.app_messages import AppRequest, ChatRequested
from etui.tui.commands import Command
from etui.tui.history.columns import SORTS
from etui.tui.history.day_bars import DayBars
from etui.tui.history.detail import DetailView
from etui.tui.history.queries import (
    PAGE_TURNS,
    TOTALS_BY,
    ChatFound,
    Days,
    Detail,
    Exported,
    Fact,
    HistoryNews,
    HistoryQuery,
    QueryFailed,
    Totals,
    TotalsBy,
    TurnPage,
    export_turns,
    find_chat,
    read_days,
    read_detail,
    read_page,
    read_totals,
    run_query,
)
from etui.tui.history.table import TurnsTable
from etui.tui.notices import notice_text, notify_error
from etui.tui.widgets.key_footer import KeyFooter

_BAR_WIDTH = 24

_ONE_LINE_FROM = 110
"""Width in cells from which a total and its bar share one line."""


def status_text(
    query: HistoryQuery, read: int, total: int, totals_by: TotalsBy | None, page: int
) -> str:
    """Describe the listed turns: ``1,204 turns with "joule", by joules, most first``."""
    words = f' with "{query.search}"' if query.search else ""
    text = f"{units.count_text(total, 'turn')}{words}"
    if totals_by is not None:
        return f"{text}, totals by {totals_by}"
    if total == 0:
        return "no turns" + (words or " in the log yet")
    first = _FIRST[query.sort][query.descending]
    more = f"; {read:,} read, more as you scroll" if page <= read < total else ""
    return f"{text}, by {query.sort.value.replace('-', ' ')}, {first} first{more}"


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
    """Draw a bar of joules for each group, with readings and estimates labelled in words."""
    if not totals:
        return ["no turns to total"]
    names = [one_line(total.key) or "(none)" for total in totals]
    name_width = min(28, max(count_cells(name) for name in names))
    highest = max((_total_joules(total) or 0.0) for total in totals)
    drawn = max(8, min(_BAR_WIDTH, width - name_width - 50))
    lines = [f"joules by {by}", ""]
    for name, total in zip(names, totals, strict=True):
        label = fit_cells(name, name_width)
        label += " " * (name_width - count_cells(label))
        length = bar(_total_joules(total), highest, drawn)
        if width < _ONE_LINE_FROM:
            lines += [f"{label}  {length}", f"    {_amount_text(total)}"]
        else:
            lines.append(f"{label}  {length:<{drawn}}  {_amount_text(total)}")
    return lines


def _total_joules(total: Total) -> float | None:
    known = [part for part in (total.joules, total.estimated_joules) if part is not None]
    return sum(known) if known else None


def _amount_text(total: Total) -> str:
    parts = []
    if total.joules is not None:
        parts.append(units.total_text(total.joules, total.uncertainty, total.kind))
    if total.estimated_joules is not None:
        parts.append(units.total_text(total.estimated_joules, None, units.ESTIMATE))
    if total.unmeasured_turns:
        parts.append(f"{units.count_text(total.unmeasured_turns, 'turn')} unmeasured")
    return f"{' and '.join(parts)} · {units.count_text(total.turns, 'turn')}"


_FETCH_WITHIN = 20
"""The next page is read when the cursor is within this many turns of the last one read."""

_DAYS_AFTER_SECONDS = 0.4
"""Delay from the last page to the bars of the days, so that typing never waits for them."""


class HistoryScreen(Screen[None]):
    """A table of turns next to the turn under the cursor, or the totals instead of both."""

    AUTO_FOCUS = "DataTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", id="history.search", key_display="/"),
        Binding("s", "sort(1)", "Sort", id="history.sort"),
        Binding("r", "reverse", "Reverse", id="history.reverse"),
        Binding("t", "totals", "Totals", id="history.totals"),
        Binding("b", "fold_days", "Days", id="history.days", show=False),
        Binding("enter", "open_chat", "Open chat", id="history.open"),
        Binding("e", "export('jsonl')", "Export", id="history.export"),
        Binding("E", "export('csv')", "Export as CSV", id="history.export_csv", show=False),
        Binding("escape", "back", "Back", id="history.back", show=False),
    ]

    HELP = """\
## History

Every turn of the log; Enter opens its chat there. `/` searches questions and answers, `s` sorts by
the next column (or click a heading), `r` reverses the order. The bars are the joules of the same
turns by day (`b` hides them), `t` shows their totals by model, by rule and by day. `e` exports them
as JSON lines to `exports` in ETUI_HOME, `E` as CSV.
"""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self._log: LogReader | None = None
        self._turn_query = HistoryQuery()
        self._total = 0
        self._reading = False
        self._totals_by: TotalsBy | None = None
        self._days_timer: Timer | None = None
        self._days = DayBars()
        self._table = TurnsTable()
        self._search = Input(placeholder="words in the question or the answer", id="search")
        self._detail = DetailView()
        self._totals_text = Static("", markup=False)
        self._status = Static("", markup=False, classes="status")

    def compose(self) -> ComposeResult:
        """Build the search field, the table with its detail, and the totals."""
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
        """Return the commands of this screen for the command palette."""
        return [
            Command("history: search", "Search questions and answers",
                    self.action_search),
            Command("history: sort", "Sort by the next column", partial(self.action_sort, 1)),
            Command("history: reverse", "Reverse the order", self.action_reverse),
            Command("history: totals", "Show totals by model, rule or day", self.action_totals),
            Command("history: days", "Show or hide the joules by day", self.action_fold_days),
            Command("history: open chat", "Show the turn in its chat", self.action_open_chat),
            Command("export: these turns as JSON lines", "Write every field to a file",
                    partial(self.action_export, "jsonl")),
            Command("export: these turns as CSV", "Write a file for a spreadsheet",
                    partial(self.action_export, "csv")),
        ]  # fmt: skip

    def on_mount(self) -> None:
        """Start without the search field."""
        self._search.display = False

    def on_screen_resume(self) -> None:
        """Read the turns again: new ones may have been logged since the last visit."""
        self._start_again()

    def on_unmount(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()

    def action_search(self) -> None:
        """Open the search field."""
        self._search.display = True
        self._search.focus()

    def action_sort(self, steps: int) -> None:
        """Sort by the next column."""
        sorts = list(Sort)
        next_sort = sorts[(sorts.index(self._turn_query.sort) + steps) % len(sorts)]
        self._sort_by(next_sort)

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._turn_query = replace(self._turn_query, descending=not self._turn_query.descending)
        self._start_again()

    def action_totals(self) -> None:
        """Cycle through totals by model, rule and day, then back to the turns."""
        groupings: list[TotalsBy | None] = [None, *TOTALS_BY]
        self._totals_by = groupings[(groupings.index(self._totals_by) + 1) % len(groupings)]
        switcher = self.query_one("#views", ContentSwitcher)
        switcher.current = "both" if self._totals_by is None else "totals"
        if self._totals_by is None:
            self._table.focus()
            self._show_status()
        else:
            self.query_one("#totals").focus()
            self._read_totals(self._turn_query, self._totals_by)

    def action_fold_days(self) -> None:
        """Show or hide the bars of the days."""
        self._days.folded = not self._days.folded
        self._days.draw()

    def action_open_chat(self) -> None:
        """Show the turn under the cursor in its chat."""
        turn = self._table.turn_under_cursor
        if turn is None:
            return
        if turn.chat_id is None:
            text = notice_text("this turn belongs to no chat", "it was asked outside of the app")
            self.notify(text, severity="warning", markup=False)
        else:
            self._find_chat(turn.chat_id, turn.turn_id)

    def action_export(self, ending: str) -> None:
        """Write the turns of the current query to a file."""
        self._export(self._turn_query, ending)

    def action_back(self) -> None:
        """Close the search, or else the totals."""
        if self._search.display:
            self._search.value = ""
            self._search.display = False
            self._table.focus()
        elif self._totals_by is not None:
            self._totals_by = TOTALS_BY[-1]
            self.action_totals()

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Read again with the new search words."""
        words = changed.value.strip()
        if words != self._turn_query.search:
            self._turn_query = replace(self._turn_query, search=words)
            self._start_again()

    def on_input_submitted(self) -> None:
        """Move the focus from the search field to the results."""
        (self._table if self._totals_by is None else self.query_one("#totals")).focus()

    def on_resize(self) -> None:
        """Draw the bars at the new width."""
        self._days.draw()

    def on_data_table_row_selected(self) -> None:
        """Open the chat of the selected turn."""
        self.action_open_chat()

    def on_data_table_header_selected(self, selected: DataTable.HeaderSelected) -> None:
        """Sort by the selected column; the current one reverses the order."""
        sort = SORTS.get(selected.column_key.value or "")
        if sort is not None and sort is self._turn_query.sort:
            self.action_reverse()
        elif sort is not None:
            self._sort_by(sort)

    def on_data_table_row_highlighted(self, highlighted: DataTable.RowHighlighted) -> None:
        """Show the turn under the cursor, and read the next page near the end."""
        row, turns = highlighted.cursor_row, self._table.turns
        if row < len(turns):
            self._read_detail(turns[row].turn_id)
        if row >= len(turns) - _FETCH_WITHIN and len(turns) < self._total:
            self._read(len(turns))

    def on_history_news(self, news: HistoryNews) -> None:
        """Show a result, unless the query has changed since."""
        match news.fact:
            case TurnPage() as page if page.query == self._turn_query:
                self._show_page(page)
            case Detail() as detail:
                self._detail.show(detail)
            case Days(query=query, totals=days) if query.search == self._turn_query.search:
                self._days.show(days)
            case ChatFound(chat=chat, turn_id=turn_id):
                self.app.post_message(AppRequest(ChatRequested(chat, turn_id)))
            case Totals() as totals if totals.query == self._turn_query:
                width = max(20, self.size.width - 4)
                self._totals_text.update("\n".join(totals_lines(totals.by, totals.totals, width)))
                self._show_status()
            case Exported(path=path, turns=turns):
                text = f"exported {units.count_text(turns, 'turn')} to {sanitize(str(path))}"
                self.notify(text, markup=False)
            case QueryFailed(what=what, fix=fix):
                notify_error(self, what, fix)

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
        if self._totals_by is not None:
            self._read_totals(self._turn_query, self._totals_by)

    def _read(self, offset: int) -> None:
        if not self._reading:
            self._reading = True
            self._read_page(self._turn_query, offset)

    def _show_page(self, page: TurnPage) -> None:
        self._reading = False
        self._total = page.total
        if page.offset == 0:
            self._detail.show(None)
        self._table.show(page.query, page.turns, page.offset)
        self._show_status()

    def _show_status(self) -> None:
        self._status.update(
            status_text(
                self._turn_query, len(self._table.turns), self._total, self._totals_by, PAGE_TURNS
            )
        )

    @work(thread=True, exclusive=True, group="history-page", exit_on_error=False)
    def _read_page(self, query: HistoryQuery, offset: int) -> None:
        self._read_and_post(lambda log: read_page(log, query, offset))

    @work(thread=True, exclusive=True, group="history-detail", exit_on_error=False)
    def _read_detail(self, turn_id: str) -> None:
        self._read_and_post(lambda log: read_detail(log, turn_id))

    @work(thread=True, exclusive=True, group="history-totals", exit_on_error=False)
    def _read_totals(self, query: HistoryQuery, by: TotalsBy) -> None:
        self._read_and_post(lambda log: read_totals(log, query, by))

    @work(thread=True, exclusive=True, group="history-days", exit_on_error=False)
    def _read_days(self) -> None:
        query = self._turn_query
        # A connection of its own: a page that is asked for meanwhile does not wait for the days.
        self._post(lambda: read_days(self._config, query))

    @work(thread=True, exclusive=True, group="history-chat", exit_on_error=False)
    def _find_chat(self, chat_id: str, turn_id: str) -> None:
        self._read_and_post(lambda log: find_chat(log, chat_id, turn_id))

    @work(thread=True, exclusive=True, group="history-export", exit_on_error=False)
    def _export(self, query: HistoryQuery, ending: str) -> None:
        self._read_and_post(
            lambda log: export_turns(
                log, query, self._config, "csv" if ending == "csv" else "jsonl"
            )
        )

    def _read_and_post(self, read: Callable[[LogReader], Fact]) -> None:
        """Read from the log in this thread, and post the result or the error."""

        def open_and_read() -> Fact:
            if self._log is None:
                self._log = LogReader(self._config)
            return read(self._log)

        self._post(open_and_read)

    def _post(self, read: Callable[[], Fact]) -> None:
        self.post_message(HistoryNews(run_query(read)))
