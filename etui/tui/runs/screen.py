"""The runs screen: the results of each bench run, a plot of its arms, and its report."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from etui.errors import format_internal_error
from etui.plots.terminal import plane_lines
from etui.text.sanitize import sanitize
from etui.tui.commands import Command
from etui.tui.notices import notice_text, notify_error
from etui.tui.runs.run_list import RunEntry, list_runs
from etui.tui.runs.table import RunsTable
from etui.tui.widgets.key_footer import KeyFooter

_NO_RUNS = """\
No bench run yet.

    etui bench --suite sample --model smollm2-135m

answers 60 questions in about a minute; its summary and report then appear here."""

_PLANE_HEIGHT = 14


class RunsRead(Message):
    """The current run folders, or the error that prevented reading them."""

    def __init__(self, runs: list[RunEntry], fault: str = "") -> None:
        super().__init__()
        self.runs = runs
        self.fault = fault


class RunsScreen(Screen[None]):
    """A table of runs next to the run under the cursor."""

    AUTO_FOCUS = "DataTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "open_report", "Open report", id="runs.open"),
        Binding("r", "read", "Read again", id="runs.read"),
        Binding("s", "sort", "Sort", id="runs.sort"),
        Binding("slash", "filter", "Filter", id="runs.filter", key_display="/"),
        Binding("escape", "back", "Back", id="runs.back", show=False),
    ]

    HELP = """\
## Runs

The runs of `etui bench`, with the accuracy and the joules of their best arm. `s` sorts by the next
column (or click a heading), `/` filters. Each arm is a letter at its joules per question and its
accuracy, with bars for both 95 % intervals; dots between arms show what a random mixture of the two
would reach. `o` or Enter opens the HTML report in a browser.
"""

    def __init__(self, runs_dir: Path) -> None:
        super().__init__()
        self._runs_dir = runs_dir
        self._is_read = False  # before, "no runs" would be a guess
        self._table = RunsTable()
        self._filter = Input(placeholder="words in a run", id="filter", compact=True)
        self._picture = Static("", markup=False)

    def compose(self) -> ComposeResult:
        """Build the filter, the table and the detail."""
        yield self._filter
        with Horizontal():
            yield self._table
            with VerticalScroll(id="run-detail", can_focus=True):
                yield self._picture
        yield KeyFooter()

    def commands(self) -> list[Command]:
        """Return the commands of this screen for the command palette."""
        return [
            Command("runs: open report", "Show the run under the cursor in a browser",
                    self.action_open_report),
            Command("runs: sort", "Sort by the next column", self.action_sort),
            Command("runs: filter", "Show the runs with these words", self.action_filter),
            Command("runs: read again", "Read the folder again", self.action_read),
        ]  # fmt: skip

    def on_mount(self) -> None:
        """Start without the filter."""
        self._filter.display = False

    def on_screen_resume(self) -> None:
        """Read the runs again."""
        self.action_read()

    def on_resize(self) -> None:
        """Draw the plot at the new width."""
        self._show_current()

    def action_read(self) -> None:
        """Read the folder again."""
        self._read_runs()

    def action_open_report(self) -> None:
        """Open the HTML report of the run under the cursor."""
        run = self._table.run_under_cursor
        if run is None:
            return
        if not run.report.is_file():
            self.notify(
                notice_text("no report yet", f"run: etui bench report {run.folder}"),
                severity="warning",
                markup=False,
            )
        elif not webbrowser.open(run.report.absolute().as_uri()):
            self.notify(
                notice_text("no browser found", f"open {run.report} yourself"),
                severity="warning",
                markup=False,
            )

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._table.sort_next()

    def action_filter(self) -> None:
        """Open the filter."""
        self._filter.display = True
        self._filter.focus()

    def action_back(self) -> None:
        """Close the filter."""
        if self._filter.display:
            self._filter.value = ""
            self._filter.display = False
            self._table.focus()

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Filter while the user types."""
        self._table.filter(changed.value)
        self._show_current()

    def on_input_submitted(self) -> None:
        """Move from the filter to the table."""
        self._table.focus()

    def on_data_table_header_selected(self, selected: DataTable.HeaderSelected) -> None:
        """Sort by the selected column; the current one reverses the order."""
        self._table.sort_by(selected.column_key.value)

    def on_data_table_row_selected(self) -> None:
        """Open the report of the selected run."""
        self.action_open_report()

    def on_data_table_row_highlighted(self) -> None:
        """Show the run under the cursor."""
        self._show_current()

    @work(thread=True, exclusive=True, group="runs", exit_on_error=False)
    def _read_runs(self) -> None:
        try:
            self.post_message(RunsRead(list_runs(self._runs_dir)))
        except OSError as error:
            fault = f"cannot read {self._runs_dir}: {error.strerror or error}"
            self.post_message(RunsRead([], fault))
        except Exception as error:  # noqa: BLE001 - a fault must reach the screen
            self.post_message(RunsRead([], format_internal_error(error)))

    def on_runs_read(self, read: RunsRead) -> None:
        """Fill the table and keep the cursor on its row."""
        if read.fault:
            notify_error(self, read.fault, "fix it, then press r to read again")
            return
        self._is_read = True
        self._table.display = bool(read.runs)
        self.set_class(not read.runs, "-empty")
        self._table.show(read.runs)
        self._show_current()

    def _show_current(self) -> None:
        run = self._table.run_under_cursor
        if run is None:
            if self._is_read:
                self._picture.update(_NO_RUNS)
            return
        lines = [run.name, "", *run.headline.splitlines()]
        if run.summary is not None:
            width = max(24, self._picture.size.width)
            lines += ["", *plane_lines(run.points, run.summary.hull, width, _PLANE_HEIGHT,
                                       run.kind)]  # fmt: skip
            lines += ["", *(f"! {warning}" for warning in run.summary.warnings)]
        self._picture.update(sanitize("\n".join(lines)))
