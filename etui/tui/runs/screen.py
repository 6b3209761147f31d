"""The bench runs: how each came out, its arms drawn by joules and accuracy, its report opened."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from etui import units
from etui.errors import fault_text
from etui.plots.terminal import plane_lines
from etui.text.sanitize import sanitize
from etui.tui.commands import Command
from etui.tui.notices import notice_text, notify_error
from etui.tui.runs.run_list import RunEntry, runs_in

_NONE = """\
No bench run yet.

    etui bench --suite sample --model smollm2-135m

answers 60 questions in a minute or so; its summary and its report are then found here."""

_PLANE_HEIGHT = 14


class RunsRead(Message):
    """The run folders as they are now, or why they could not be read."""

    def __init__(self, runs: list[RunEntry], fault: str = "") -> None:
        super().__init__()
        self.runs = runs
        self.fault = fault


class RunsScreen(Screen[None]):
    """A table of runs, beside it the one under the cursor."""

    AUTO_FOCUS = "DataTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "open_report", "Open report", id="runs.open"),
        Binding("r", "read", "Read again", id="runs.read"),
    ]

    HELP = """\
## Runs

The runs of `etui bench`. Each arm is a letter at its joules a question and its accuracy, with its
95 % interval; dots between arms are what a random mixture of the two would reach. `o`, or Enter,
opens the HTML report in a browser.
"""

    def __init__(self, runs_dir: Path) -> None:
        super().__init__()
        self._runs_dir = runs_dir
        self._runs: list[RunEntry] = []
        self._table: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=True, id="runs")
        self._picture = Static("", markup=False)

    def compose(self) -> ComposeResult:
        with Horizontal():
            yield self._table
            with VerticalScroll(id="run-detail", can_focus=True):
                yield self._picture
        yield Footer(show_command_palette=False)

    def commands(self) -> list[Command]:
        """What the command palette offers while the runs are on the screen."""
        return [
            Command("runs: open report", "Show the run under the cursor in a browser",
                    self.action_open_report),
            Command("runs: read again", "Look into the folder again", self.action_read),
        ]  # fmt: skip

    def on_mount(self) -> None:
        for title in ("RUN", "WHAT", "QUESTIONS", "BEST"):
            self._table.add_column(title)

    def on_screen_resume(self) -> None:
        self.action_read()

    def on_resize(self) -> None:
        self._show_current()

    def action_read(self) -> None:
        """Look into the folder again."""
        self._read()

    def action_open_report(self) -> None:
        """Open the HTML report of the run under the cursor."""
        run = self._current()
        if run is None:
            return
        if not run.report.is_file():
            self.notify(
                notice_text("no report yet", f"etui bench report {run.folder}"),
                severity="warning",
                markup=False,
            )
        elif not webbrowser.open(run.report.absolute().as_uri()):
            self.notify(
                notice_text("no browser here", f"open {run.report} yourself"),
                severity="warning",
                markup=False,
            )

    def on_data_table_row_selected(self) -> None:
        self.action_open_report()

    def on_data_table_row_highlighted(self) -> None:
        self._show_current()

    @work(thread=True, exclusive=True, group="runs", exit_on_error=False)
    def _read(self) -> None:
        try:
            self.post_message(RunsRead(runs_in(self._runs_dir)))
        except OSError as error:
            said = f"cannot read {self._runs_dir}: {error.strerror or error}"
            self.post_message(RunsRead([], said))
        except Exception as error:  # noqa: BLE001 - a fault must reach the screen
            self.post_message(RunsRead([], fault_text(error)))

    def on_runs_read(self, read: RunsRead) -> None:
        if read.fault:
            notify_error(self, read.fault, "mend it and press r to read again")
            return
        place = self._table.cursor_row
        self._runs = read.runs
        self._table.clear()
        for run in self._runs:
            self._table.add_row(*(Text(sanitize(cell), no_wrap=True) for cell in _cells(run)))
        self._table.display = bool(self._runs)
        if self._runs:
            self._table.move_cursor(row=min(place, len(self._runs) - 1))
        self._show_current()

    def _current(self) -> RunEntry | None:
        row = self._table.cursor_row
        return self._runs[row] if 0 <= row < len(self._runs) else None

    def _show_current(self) -> None:
        run = self._current()
        if run is None:
            self._picture.update(_NONE)
            return
        lines = [run.name, "", *run.headline.splitlines()]
        if run.summary is not None:
            width = max(24, self._picture.size.width)
            lines += ["", *plane_lines(run.points, run.summary.hull, width, _PLANE_HEIGHT,
                                       run.kind)]  # fmt: skip
            lines += ["", *(f"! {warning}" for warning in run.summary.warnings)]
        self._picture.update(sanitize("\n".join(lines)))


def _cells(run: RunEntry) -> tuple[str, ...]:
    if run.summary is None:
        return run.name, run.why, "", ""
    summary = run.summary
    what = f"{summary.suite} {summary.format} {summary.shots}-shot"
    arms = summary.arms
    best = max((arm.accuracy.micro.value for arm in arms.values()), default=None)
    done = "" if summary.complete else " (stopped)"
    return (
        run.name,
        f"{what}, {units.count_text(len(arms), 'arm')}",
        f"{summary.questions:,}{done}",
        units.accuracy_text(best),
    )
