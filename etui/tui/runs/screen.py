"""The runs screen: the results of each bench run, a plot of its arms, and its report."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from etui import units
from etui.bench.summary import ArmSummary
from etui.errors import format_internal_error
from etui.plots.terminal import plane_lines
from etui.text import one_line, sanitize
from etui.tui.commands import Command
from etui.tui.notices import notice_text, notify_error
from etui.tui.runs.run_list import RunEntry, list_runs
from etui.tui.widgets.columns import FittedColumn, TableColumn, fit_columns, measure_columns
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.list_keys import RowTable, has_words

COLUMNS = (
    TableColumn("run", "RUN", 0, 40, least=12),
    TableColumn("what", "WHAT", 4, 44, least=12),
    TableColumn("questions", "QUESTIONS", 5, 18, right=True),
    TableColumn("best", "BEST", 1, 9, right=True),
    TableColumn("model", "MODEL", 3, 28, least=8),
    TableColumn("joules", "J/QUESTION", 2, 14, right=True),
    TableColumn("per_token", "J/TOKEN", 6, 14, right=True),
)
"""The accuracy and the joules are those of the arm with the most right answers."""


def run_texts(run: RunEntry) -> dict[str, str]:
    """Format a run by column; a run without a summary says why."""
    summary, arm = run.summary, best_arm(run)
    texts = {column.key: "" for column in COLUMNS} | {"run": one_line(run.name)}
    texts["model"] = one_line(", ".join(run.models))
    if summary is None:
        return texts | {"what": one_line(run.why)}
    setup = f"{summary.suite} {summary.format} {summary.shots}-shot"
    texts["what"] = f"{setup}, {units.count_text(len(summary.arms), 'arm')}"
    texts["questions"] = f"{summary.questions:,}{'' if summary.complete else ' (stopped)'}"
    if arm is not None:
        kind = arm.energy.kind if arm.energy is not None else None
        shown = kind if kind == units.ESTIMATE else None
        texts["best"] = units.accuracy_text(arm.accuracy.micro.value)
        texts["joules"] = units.short_energy_text(joules_per_question(run), shown)
        texts["per_token"] = units.short_energy_text(joules_per_token(run), shown)
    return texts


def best_arm(run: RunEntry) -> ArmSummary | None:
    """Return the arm with the most right answers; None without a summary or an arm."""
    arms = [] if run.summary is None else list(run.summary.arms.values())
    return max(arms, key=lambda arm: arm.accuracy.micro.value, default=None)


def joules_per_question(run: RunEntry) -> float | None:
    """Return the joules per question of the best arm; None if they are not known."""
    arm = best_arm(run)
    return None if arm is None or arm.energy is None else arm.energy.per_question.value


def joules_per_token(run: RunEntry) -> float | None:
    """Return the joules per output token of the best arm; None if they are not known."""
    arm = best_arm(run)
    figure = None if arm is None or arm.energy is None else arm.energy.per_output_token
    return None if figure is None else figure.value


def sort_runs(runs: Sequence[RunEntry], key: str, descending: bool) -> list[RunEntry]:
    """Sort runs by a column; those without a value come last in either direction.

    Args:
        runs: The runs, the one started last first: their order among equals.
        descending: Whether the highest value comes first.
    """

    def value(run: RunEntry) -> float | str | None:
        match key:
            case "best":
                arm = best_arm(run)
                return None if arm is None else arm.accuracy.micro.value
            case "joules":
                return joules_per_question(run)
            case "per_token":
                return joules_per_token(run)
            case "questions":
                return None if run.summary is None else float(run.summary.questions)
        return run_texts(run)[key].casefold() or None

    known = [(found, run) for run in runs if (found := value(run)) is not None]
    ordered = sorted(known, key=lambda pair: pair[0], reverse=descending)
    return [run for _, run in ordered] + [run for run in runs if value(run) is None]


_SCROLLBAR_CELLS = 2

_ASCENDING = frozenset({"run", "what", "model", "joules", "per_token"})
"""Columns of which the lowest value comes first when they are chosen."""


class RunsTable(RowTable[Text]):
    """One row per run; at first in the order in which they were started, the last one first."""

    def __init__(self) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True, id="runs")
        self._all: Sequence[RunEntry] = ()
        self._shown: list[RunEntry] = []
        self._fitted: tuple[FittedColumn, ...] = ()
        self._sort_key: str | None = None
        self._descending = True
        self._words = ""

    @property
    def run_under_cursor(self) -> RunEntry | None:
        """The run of the selected row."""
        row = self.cursor_row
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def show(self, runs: Sequence[RunEntry]) -> None:
        """Show these runs, the one started last first."""
        self._all = runs
        self._draw()

    def filter(self, words: str) -> None:
        """Show only the runs that have all words in a cell."""
        self._words = words
        self._draw()

    def sort_by(self, key: str | None) -> None:
        """Sort by a column; the current one reverses the order, None is the order of the starts."""
        if key is not None and key == self._sort_key:
            self._descending = not self._descending
        else:
            self._sort_key, self._descending = key, key not in _ASCENDING
        self._draw()

    def sort_next(self) -> None:
        """Sort by the next column, or by the starts after the last one."""
        keys = [None, *(one.column.key for one in self._fitted)]
        at = keys.index(self._sort_key) if self._sort_key in keys else 0
        self.sort_by(keys[(at + 1) % len(keys)])

    def on_resize(self) -> None:
        """Choose the columns again."""
        texts = [run_texts(run) for run in self._shown]
        if self._all and self._fit(texts) != self._fitted:
            self._draw()

    def _fit(self, texts: Sequence[dict[str, str]]) -> tuple[FittedColumn, ...]:
        width = self.size.width - _SCROLLBAR_CELLS
        return fit_columns(COLUMNS, measure_columns(COLUMNS, texts), width)

    def _draw(self) -> None:
        current, row = self.run_under_cursor, self.cursor_row
        runs = list(self._all)
        if self._sort_key is not None:
            runs = sort_runs(runs, self._sort_key, self._descending)
        rows = [(run, run_texts(run)) for run in runs]
        words = self._words
        rows = [(run, texts) for run, texts in rows if has_words(" ".join(texts.values()), words)]
        self._shown = [run for run, _ in rows]
        self._fitted = self._fit([texts for _, texts in rows])
        self.clear(columns=True)
        for one in self._fitted:
            heading = one.column.heading(self._sort_key, self._descending)
            label = Text(heading, justify="right" if one.column.right else "left")
            self.add_column(label, key=one.column.key, width=one.width)
        for number, (_, texts) in enumerate(rows):
            self.add_row(*(_cell(texts, one) for one in self._fitted), key=f"{number}")
        names = [run.name for run in self._shown]
        if current is not None and current.name in names:
            row = names.index(current.name)
        if names:
            self.move_cursor(row=max(0, min(row, len(names) - 1)), animate=False)


def _cell(texts: dict[str, str], one: FittedColumn) -> Text:
    return Text(
        texts[one.column.key],
        justify="right" if one.column.right else "left",
        no_wrap=True,
        overflow="ellipsis",
    )


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
