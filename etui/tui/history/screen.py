"""The history: every turn that was asked here, sorted, searched, looked into and added up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import ContentSwitcher, DataTable, Footer, Input, Static

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError, fault_text
from etui.log.filters import Sort
from etui.log.queries import LogReader
from etui.text.sanitize import sanitize
from etui.tui.commands import Command
from etui.tui.history.queries import (
    PAGE_TURNS,
    TOTALS_BY,
    Detail,
    Exported,
    HistoryNews,
    HistoryQuery,
    QueryFailed,
    Totals,
    TotalsBy,
    TurnPage,
    export_turns,
    read_detail,
    read_page,
    read_totals,
)
from etui.tui.history.text import COLUMNS, DetailView, status_text, totals_lines, turn_cells
from etui.tui.notices import notify_error

_FETCH_WITHIN = 20
"""The next page is read when the cursor is this near to the last turn that was read."""


class HistoryScreen(Screen[None]):
    """A table of turns, beside it the one under the cursor, or the totals in place of both."""

    AUTO_FOCUS = "DataTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", id="history.search", key_display="/"),
        Binding("s", "sort(1)", "Sort", id="history.sort"),
        Binding("r", "reverse", "Reverse", id="history.reverse"),
        Binding("t", "totals", "Totals", id="history.totals"),
        Binding("e", "export('jsonl')", "Export", id="history.export"),
        Binding("E", "export('csv')", "Export as CSV", id="history.export_csv", show=False),
        Binding("escape", "back", "Back", id="history.back", show=False),
    ]

    HELP = """\
## History

Every turn of the log. `/` searches questions and answers, `s` sorts by the next column (or click
a heading), `r` reverses. `t` shows what the same turns add up to by model, by rule and by day.
`e` writes them as JSON lines into `exports` in ETUI_HOME, `E` as CSV.
"""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self._log: LogReader | None = None
        self._wanted = HistoryQuery()
        self._ids: list[str] = []
        self._total = 0
        self._reading = False
        self._totals_by: TotalsBy | None = None
        self._table: DataTable[Text] = DataTable(
            cursor_type="row", zebra_stripes=True, id="turns", header_height=1
        )
        self._search = Input(placeholder="words in the question or the answer", id="search")
        self._detail = DetailView()
        self._sums = Static("", markup=False)
        self._status = Static("", markup=False, classes="status")

    def compose(self) -> ComposeResult:
        with Vertical():
            yield self._search
            with ContentSwitcher(initial="both", id="views"):
                with Horizontal(id="both"):
                    yield self._table
                    with VerticalScroll(id="detail", can_focus=True):
                        yield self._detail
                with VerticalScroll(id="totals", can_focus=True):
                    yield self._sums
            yield self._status
        yield Footer(show_command_palette=False)

    def commands(self) -> list[Command]:
        """What the command palette offers while the history is on the screen."""
        return [
            Command("history: search", "Look for words in questions and answers",
                    self.action_search),
            Command("history: sort", "Sort by the next column", partial(self.action_sort, 1)),
            Command("history: reverse", "Turn the order round", self.action_reverse),
            Command("history: totals", "By model, by rule, by day, and back", self.action_totals),
            Command("export: these turns as JSON lines", "Write them to a file with every figure",
                    partial(self.action_export, "jsonl")),
            Command("export: these turns as CSV", "Write them to a file for a spreadsheet",
                    partial(self.action_export, "csv")),
        ]  # fmt: skip

    def on_mount(self) -> None:
        for column in COLUMNS:
            self._table.add_column(column.title, key=column.key, width=column.width)
        self._search.display = False

    def on_screen_resume(self) -> None:
        """Turns may have come since the screen was last seen."""
        self._start_again()

    def on_unmount(self) -> None:
        if self._log is not None:
            self._log.close()

    def action_search(self) -> None:
        """Type words to look for."""
        self._search.display = True
        self._search.focus()

    def action_sort(self, steps: int) -> None:
        """Sort by the next column."""
        sorts = list(Sort)
        following = sorts[(sorts.index(self._wanted.sort) + steps) % len(sorts)]
        self._sort_by(following)

    def action_reverse(self) -> None:
        """Turn the order round."""
        self._wanted = replace(self._wanted, descending=not self._wanted.descending)
        self._start_again()

    def action_totals(self) -> None:
        """Totals by model, by rule, by day, and the turns again."""
        ways: list[TotalsBy | None] = [None, *TOTALS_BY]
        self._totals_by = ways[(ways.index(self._totals_by) + 1) % len(ways)]
        switcher = self.query_one("#views", ContentSwitcher)
        switcher.current = "both" if self._totals_by is None else "totals"
        if self._totals_by is None:
            self._table.focus()
            self._show_status()
        else:
            self.query_one("#totals").focus()
            self._read_totals(self._wanted, self._totals_by)

    def action_export(self, ending: str) -> None:
        """Write the turns that are shown into a file."""
        self._export(self._wanted, ending)

    def action_back(self) -> None:
        """Leave the search, then the totals."""
        if self._search.display:
            self._search.value = ""
            self._search.display = False
            self._table.focus()
        elif self._totals_by is not None:
            self._totals_by = TOTALS_BY[-1]
            self.action_totals()

    def on_input_changed(self, changed: Input.Changed) -> None:
        words = changed.value.strip()
        if words != self._wanted.search:
            self._wanted = replace(self._wanted, search=words)
            self._start_again()

    def on_input_submitted(self) -> None:
        (self._table if self._totals_by is None else self.query_one("#totals")).focus()

    def on_data_table_header_selected(self, selected: DataTable.HeaderSelected) -> None:
        sort = next((c.sort for c in COLUMNS if c.key == selected.column_key.value), None)
        if sort is not None and sort is self._wanted.sort:
            self.action_reverse()
        elif sort is not None:
            self._sort_by(sort)

    def on_data_table_row_highlighted(self, highlighted: DataTable.RowHighlighted) -> None:
        row = highlighted.cursor_row
        if row < len(self._ids):
            self._read_detail(self._ids[row])
        if row >= len(self._ids) - _FETCH_WITHIN and len(self._ids) < self._total:
            self._read(len(self._ids))

    def on_history_news(self, news: HistoryNews) -> None:
        match news.fact:
            case TurnPage() as page if page.wanted == self._wanted:
                self._show_page(page)
            case Detail() as detail:
                self._detail.show(detail)
            case Totals() as totals if totals.wanted == self._wanted:
                width = max(20, self.size.width - 4)
                self._sums.update("\n".join(totals_lines(totals.by, totals.totals, width)))
                self._show_status()
            case Exported(path=path, turns=turns):
                said = f"{units.count_text(turns, 'turn')} written to {sanitize(str(path))}"
                self.notify(said, markup=False)
            case QueryFailed(what=what, fix=fix):
                notify_error(self, what, fix)

    def _sort_by(self, sort: Sort) -> None:
        names = sort in (Sort.MODEL, Sort.RULE)
        self._wanted = replace(self._wanted, sort=sort, descending=not names)
        self._start_again()

    def _start_again(self) -> None:
        self._reading = False
        self._read(0)
        if self._totals_by is not None:
            self._read_totals(self._wanted, self._totals_by)

    def _read(self, offset: int) -> None:
        if not self._reading:
            self._reading = True
            self._read_page(self._wanted, offset)

    def _show_page(self, page: TurnPage) -> None:
        self._reading = False
        self._total = page.total
        if page.offset == 0:
            self._table.clear()
            self._ids.clear()
            self._detail.show(None)
        for turn in page.turns:
            self._ids.append(turn.turn_id)
            self._table.add_row(*turn_cells(turn), key=f"{len(self._ids)}")
        self._show_status()

    def _show_status(self) -> None:
        self._status.update(
            status_text(self._wanted, len(self._ids), self._total, self._totals_by, PAGE_TURNS)
        )

    @work(thread=True, exclusive=True, group="history-page", exit_on_error=False)
    def _read_page(self, wanted: HistoryQuery, offset: int) -> None:
        self._tell(lambda log: read_page(log, wanted, offset))

    @work(thread=True, exclusive=True, group="history-detail", exit_on_error=False)
    def _read_detail(self, turn_id: str) -> None:
        self._tell(lambda log: read_detail(log, turn_id))

    @work(thread=True, exclusive=True, group="history-totals", exit_on_error=False)
    def _read_totals(self, wanted: HistoryQuery, by: TotalsBy) -> None:
        self._tell(lambda log: read_totals(log, wanted, by))

    @work(thread=True, exclusive=True, group="history-export", exit_on_error=False)
    def _export(self, wanted: HistoryQuery, ending: str) -> None:
        self._tell(
            lambda log: export_turns(
                log, wanted, self._config, "csv" if ending == "csv" else "jsonl"
            )
        )

    def _tell(self, read: Callable[[LogReader], TurnPage | Detail | Totals | Exported]) -> None:
        """Read in this thread, and post what came of it."""
        fact: TurnPage | Detail | Totals | Exported | QueryFailed
        try:
            if self._log is None:
                self._log = LogReader(self._config)
            fact = read(self._log)
        except EtuiError as error:
            fact = QueryFailed(error.what, error.fix)
        except OSError as error:
            fact = QueryFailed(f"cannot write the export: {error}", "make room, or mend the folder")
        except Exception as error:  # noqa: BLE001 - a fault must reach the screen
            fact = QueryFailed(fault_text(error), "press F3 to read again")
        self.post_message(HistoryNews(fact))
