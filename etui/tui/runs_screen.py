"""The runs screen: the results of each bench run, a plot of its arms, and its report."""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from etui import units
from etui.bench.summary import ArmSummary, Summary
from etui.bench.summary_text import ends, headline
from etui.codec import from_document
from etui.errors import EtuiError
from etui.plots.terminal import ArmPoint, plane_lines
from etui.text import one_line, sanitize
from etui.tui._work import faults_shown, in_thread, warn
from etui.tui.commands import Command, build_commands
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.tables import FittedTable, TableColumn, has_words


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run folder."""

    name: str
    folder: Path
    summary: Summary | None  # Content of `summary.json`; None if it is missing or cannot be read
    why: str = ""  # Why there is no summary; empty if there is one
    models: tuple[str, ...] = ()  # Models of its arms, in the order of the arms

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def headline(self) -> str:
        """The results, one line for each arm."""
        return self.why if self.summary is None else headline(self.summary)

    @property
    def kind(self) -> str | None:
        """Kind of its joules: ``estimate`` if any of them is one."""
        kinds = {arm.energy.kind for arm in self._arms.values() if arm.energy}
        return "estimate" if "estimate" in kinds else next(iter(kinds), None)

    @property
    def points(self) -> dict[str, ArmPoint]:
        """Its arms by joules and accuracy; arms without joules are left out."""
        return {
            name: ArmPoint(
                arm.energy.per_question.value,
                arm.accuracy.micro.value,
                *ends(arm.accuracy.micro),
                arm.energy.per_question.low,
                arm.energy.per_question.high,
            )
            for name, arm in self._arms.items()
            if arm.energy
        }

    @property
    def best(self) -> ArmSummary | None:
        """The arm with the most right answers; None without a summary or an arm."""
        return max(self._arms.values(), key=lambda arm: arm.accuracy.micro.value, default=None)

    @property
    def figures(self) -> dict[str, float | None]:
        """The numbers to sort by, by column: those of the best arm; None if not known."""
        arm = self.best
        energy = None if arm is None else arm.energy
        per_token = None if energy is None else energy.per_output_token
        return {
            "questions": None if self.summary is None else float(self.summary.questions),
            "best": None if arm is None else arm.accuracy.micro.value,
            "joules": None if energy is None else energy.per_question.value,
            "per_token": None if per_token is None else per_token.value,
        }

    @property
    def _arms(self) -> Mapping[str, ArmSummary]:
        return {} if self.summary is None else self.summary.arms


def list_runs(folder: Path) -> list[RunEntry]:
    """List the run folders in ``folder``, the one started last first.

    Raises:
        EtuiError: The folder cannot be read.
    """
    if not folder.is_dir():
        return []
    try:
        runs = [_read_run(path) for path in folder.iterdir() if (path / "config.json").is_file()]
    except OSError as error:
        what = f"cannot read {folder}: {error.strerror or error}"
        raise EtuiError(what, _READ_AGAIN) from error
    return sorted(runs, key=_start_key, reverse=True)


def _start_key(run: RunEntry) -> tuple[str, str]:
    return ("" if run.summary is None else run.summary.started_at, run.name)


def _read_models(folder: Path) -> tuple[str, ...]:
    """Read the models from ``config.json``; none if it cannot be read."""
    try:
        arms = json.loads((folder / "config.json").read_text(encoding="utf-8"))["arms"].values()
        return tuple(dict.fromkeys(str(arm["model"]) for arm in arms))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def _read_run(folder: Path) -> RunEntry:
    models = _read_models(folder)
    try:
        document = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        summary = from_document(Summary, document, extra="ignore")
        run = RunEntry(folder.name, folder, summary, models=models)
        _ = run.headline, run.points  # so that a damaged summary fails here, not while drawing
    except FileNotFoundError:
        return RunEntry(folder.name, folder, None, "not finished: no summary yet", models)
    except (OSError, ValueError, KeyError) as error:
        why = f"summary.json cannot be read: {error}"
        return RunEntry(folder.name, folder, None, why, models)
    return run


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
    summary, arm, figures = run.summary, run.best, run.figures
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
        texts["joules"] = units.short_energy_text(figures["joules"], shown)
        texts["per_token"] = units.short_energy_text(figures["per_token"], shown)
    return texts


def sort_runs(runs: Sequence[RunEntry], key: str, descending: bool) -> list[RunEntry]:
    """Sort runs by a column; those without a value come last in either direction."""

    def value(run: RunEntry) -> float | str | None:
        figures = run.figures
        return figures[key] if key in figures else run_texts(run)[key].casefold() or None

    known = [(found, run) for run in runs if (found := value(run)) is not None]
    ordered = sorted(known, key=lambda pair: pair[0], reverse=descending)
    return [run for _, run in ordered] + [run for run in runs if value(run) is None]


_ASCENDING = frozenset({"run", "what", "model", "joules", "per_token"})
"""Columns of which the lowest value comes first when they are chosen."""


_NO_RUNS = """\
No bench run yet.

    etui bench --suite sample --model smollm2-135m

answers 60 questions in about a minute; its summary and report then appear here."""

_PLANE_HEIGHT = 14
_READ_AGAIN = "fix it, then press r to read again"


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
        self._table = FittedTable[RunEntry](COLUMNS, run_texts, id="runs")
        self._runs: Sequence[RunEntry] = ()
        self._sort_key: str | None = None
        self._descending = True
        self._filter = Input(placeholder="words in a run", id="filter", compact=True)
        self._picture = Static("", markup=False)

    def compose(self) -> ComposeResult:
        yield self._filter
        with Horizontal():
            yield self._table
            with VerticalScroll(id="run-detail", can_focus=True):
                yield self._picture
        yield KeyFooter()

    def commands(self) -> list[Command]:
        return build_commands(
            ("runs: open report", "Show the run under the cursor in a browser",
             self.action_open_report),
            ("runs: sort", "Sort by the next column", self.action_sort),
            ("runs: filter", "Show the runs with these words", self.action_filter),
            ("runs: read again", "Read the folder again", self.action_read),
        )  # fmt: skip

    def on_mount(self) -> None:
        self._filter.display = False

    def on_screen_resume(self) -> None:
        self.action_read()

    def on_resize(self) -> None:
        self._show_current()

    def action_open_report(self) -> None:
        run = self._table.current
        if run is None:
            return
        if not run.report.is_file():
            warn(self, "no report yet", f"run: etui bench report {run.folder}")
        elif not webbrowser.open(run.report.absolute().as_uri()):
            warn(self, "no browser found", f"open {run.report} yourself")

    def action_sort(self) -> None:
        keys = [None, *self._table.shown_keys]
        at = keys.index(self._sort_key) if self._sort_key in keys else 0
        self._sort_by(keys[(at + 1) % len(keys)])

    def action_filter(self) -> None:
        self._filter.display = True
        self._filter.focus()

    def action_back(self) -> None:
        if self._filter.display:
            self._filter.value = ""
            self._filter.display = False
            self._table.focus()

    def on_input_changed(self, changed: Input.Changed) -> None:
        self._list()

    def on_input_submitted(self) -> None:
        self._table.focus()

    def on_data_table_header_selected(self, selected: DataTable.HeaderSelected) -> None:
        """Sort by the selected column; the current one reverses the order."""
        self._sort_by(selected.column_key.value)

    def on_data_table_row_selected(self) -> None:
        self.action_open_report()

    def on_data_table_row_highlighted(self) -> None:
        self._show_current()

    @work(exclusive=True, group="runs", exit_on_error=False)
    async def action_read(self) -> None:
        with faults_shown(self):
            runs = await in_thread(lambda: list_runs(self._runs_dir), _READ_AGAIN)
            self._is_read = True
            self._table.display = bool(runs)
            self.set_class(not runs, "-empty")
            self._runs = runs
            self._list()

    def _sort_by(self, key: str | None) -> None:
        """Sort by a column; the current one reverses the order, None is the order of the starts."""
        if key is not None and key == self._sort_key:
            self._descending = not self._descending
        else:
            self._sort_key, self._descending = key, key not in _ASCENDING
        self._list()

    def _list(self) -> None:
        """Show the runs with the words of the filter; the cursor stays on its run."""
        current, row, runs = self._table.current, self._table.cursor_row, list(self._runs)
        if self._sort_key is not None:
            runs = sort_runs(runs, self._sort_key, self._descending)
        words = self._filter.value
        runs = [run for run in runs if has_words(" ".join(run_texts(run).values()), words)]
        names = [run.name for run in runs]
        if current is not None and current.name in names:
            row = names.index(current.name)
        self._table.show(runs, row, sorted_by=self._sort_key, descending=self._descending)
        self._show_current()

    def _show_current(self) -> None:
        run = self._table.current
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
