"""The runs screen: starts runs, sweeps and calibrations; their results, plot of arms and report."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from etui.bench.folder import runs_dir
from etui.config.config import Config
from etui.plots.terminal import plane_lines
from etui.sweep.folder import sweeps_dir
from etui.text import SEPARATOR, sanitize
from etui.tui._work import faults_shown, in_thread, warn
from etui.tui.bench_job import RUN_TITLE
from etui.tui.commands import Command, build_commands
from etui.tui.job_bar import JobBar, JobList
from etui.tui.measurements import resume_run, start_calibration, start_run, start_sweep
from etui.tui.runs._entries import (
    ASCENDING,
    COLUMNS,
    READ_AGAIN,
    RunEntry,
    arm_lines,
    list_runs,
    run_texts,
    sort_runs,
)
from etui.tui.runs._new_run import ChosenRun, NewRunModal
from etui.tui.runs._questions import QuestionsScreen, read_questions
from etui.tui.services import Services
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.tables import FittedTable, has_words

_NO_RUNS = """\
No run yet. n starts one: questions of a suite for a model or a policy, a calibration or a sweep.
It says what that costs and how long it takes before it begins. In a shell:

    etui bench --suite sample --model smollm2-135m"""

_PLANE_HEIGHT = 15
_RANGES, _MIXTURES = "│ ─  95 % ranges", "    ····  what a mixture of two arms reaches"


class RunTable(FittedTable[RunEntry]):
    """One row per run."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.questions", "Questions", id="runs.questions"),
    ]


class RunsScreen(Screen[None]):
    """A table of runs above the run under the cursor."""

    AUTO_FOCUS = "DataTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="runs.stop"),
        Binding("n", "new", "New", id="runs.new"),
        Binding("m", "continue", "Continue", id="runs.continue"),
        Binding("o", "open_report", "Open report", id="runs.open"),
        Binding("r", "read", "Read again", id="runs.read", show=False),
        Binding("s", "sort", "Sort", id="runs.sort"),
        Binding("slash", "filter", "Filter", id="runs.filter", key_display="/"),
        Binding("escape", "back", "Back", id="runs.back", show=False),
    ]

    HELP = "## Runs"

    def __init__(
        self, config: Config, backend: Callable[[], Services | None], app_jobs: JobList
    ) -> None:
        super().__init__()
        self._config = config
        self._backend = backend
        self._jobs = app_jobs
        self._is_read = False  # before, "no runs" would be a guess
        self._table = RunTable(COLUMNS, run_texts, id="runs")
        self._runs: Sequence[RunEntry] = ()
        self._sort_key: str | None = None
        self._descending = True
        self._filter = Input(placeholder="words in a run", id="filter", compact=True)
        self._picture = Static("", markup=False)
        self._job = JobBar(backend, config.log_dir, jobs=app_jobs)

    def compose(self) -> ComposeResult:
        yield self._filter
        yield self._table
        with VerticalScroll(id="run-detail", can_focus=True):
            yield self._picture
        yield self._job
        yield KeyFooter()

    def commands(self) -> list[Command]:
        return build_commands(
            ("runs: new", "Run questions of a suite, calibrate or sweep a model", self.action_new),
            ("runs: continue", "Answer what is left of the run under the cursor",
             self.action_continue),
            ("runs: stop", "Stop what is measured; the answers are kept", self.action_stop),
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
        self.call_after_refresh(self._show_current)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave out of the footer what cannot be done now."""
        run, is_running = self._table.current, self._job.is_running
        match action:
            case "stop":
                return is_running and not self._filter.display
            case "back":
                return self._filter.display
            case "continue":
                return run is not None and run.can_continue and not is_running
        return True

    @work(group="new", exclusive=True)
    async def action_new(self) -> None:
        if (services := self._backend()) is None:
            warn(self, "etui is still starting", "try again in a moment")
            return
        if (job := self._jobs.running) is not None:
            warn(self, f"{job.name.removesuffix(' …')} is still running", "Esc stops it")
            return
        models = [model.name for model in services.shelf.models() if model.on_disk]
        chosen = await self.app.push_screen_wait(NewRunModal(models, services.policies))
        match chosen:
            case ChosenRun(kind="run", run=run):
                start_run(self._job, self._config, run)
            case ChosenRun(kind="calibration", run=run):
                start_calibration(self._job, self._config, run.system)
            case ChosenRun(kind="sweep", run=run):
                start_sweep(self._job, self._config, run.system)

    def action_continue(self) -> None:
        run = self._table.current
        if run is not None and run.folder is not None and run.can_continue:
            title = RUN_TITLE.format(suite=run.suite, system=", ".join(run.models))
            resume_run(self._job, self._config, title, run.folder)

    def action_stop(self) -> None:
        self._job.stop()

    def on_job_bar_changed(self) -> None:
        self.refresh_bindings()
        job = self._jobs.running
        if job is not None and job.progress.subject in {str(run.folder) for run in self._runs}:
            self._show_current()
        else:
            self.action_read()  # there may be a new folder

    def on_job_bar_ended(self) -> None:
        self.refresh_bindings()
        self.action_read()

    @work(exclusive=True, group="questions", exit_on_error=False)
    async def action_questions(self) -> None:
        """Show the questions of a run; of a sweep or a calibration what else there is."""
        run = self._table.current
        if run is None or run.folder is None or not run.is_run:
            self.action_open_report()
            return
        folder = run.folder
        with faults_shown(self):
            found = await in_thread(lambda: read_questions(folder, self._config), READ_AGAIN)
            self.app.push_screen(QuestionsScreen(*found))

    def action_open_report(self) -> None:
        run = self._table.current
        if run is None:
            return
        if run.report is None:
            warn(self, "a calibration has no report", "F6 shows its curve")
        elif not run.report.is_file():
            fix = f"run: etui bench report {run.folder}" if run.is_run else "complete the sweep"
            warn(self, "no report yet", fix)
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
        self.action_questions()

    def on_data_table_row_highlighted(self) -> None:
        self._show_current()

    @work(exclusive=True, group="runs", exit_on_error=False)
    async def action_read(self) -> None:
        with faults_shown(self):
            folders = runs_dir(self._config), sweeps_dir(self._config)
            jobs = list(self._jobs.measurements)
            runs = await in_thread(lambda: list_runs(*folders, jobs), READ_AGAIN)
            self._is_read = True
            self._table.display = bool(runs)
            self.set_class(not runs, "-empty")
            known, self._runs = {run.name for run in self._runs}, runs
            self._job.show_idle(f"runs are kept in {folders[0]}")
            job = self._jobs.running
            began = "" if job is None else Path(job.progress.subject).name
            self._list("" if began in known else began)

    def _sort_by(self, key: str | None) -> None:
        """Sort by a column; the current one reverses the order, None is the order of the starts."""
        if key is not None and key == self._sort_key:
            self._descending = not self._descending
        else:
            self._sort_key, self._descending = key, key not in ASCENDING
        self._list()

    def _list(self, go_to: str = "") -> None:
        """Show the runs with the words of the filter; the cursor stays on its run.

        Args:
            go_to: Name of a run to put the cursor on, if it is shown.
        """
        current, row, runs = self._table.current, self._table.cursor_row, list(self._runs)
        if self._sort_key is not None:
            runs = sort_runs(runs, self._sort_key, self._descending)
        words = self._filter.value
        runs = [run for run in runs if has_words(" ".join(run_texts(run).values()), words)]
        names = [run.name for run in runs]
        if go_to in names:
            row = names.index(go_to)
        elif current is not None and current.name in names:
            row = names.index(current.name)
        self._table.show(runs, row, sorted_by=self._sort_key, descending=self._descending)
        self._show_current()

    def _show_current(self) -> None:
        run = self._table.current
        if run is None:
            if self._is_read:
                self._picture.update(_NO_RUNS)
            return
        self.refresh_bindings()
        lines = [SEPARATOR.join([run.name, *run.models]), ""]
        if run.folder is not None and (going := self._job.lines_for(str(run.folder))):
            lines += [*going, ""]
        width = max(24, self._picture.size.width)
        lines += arm_lines(run, width)
        if run.summary is not None:
            hull = run.summary.hull
            lines += ["", *plane_lines(run.points, hull, width, _PLANE_HEIGHT, run.kind)]
            lines.append(_RANGES + (_MIXTURES if len(hull) > 1 else ""))
            lines += ["", *(f"! {warning}" for warning in run.summary.warnings)]
        self._picture.update(sanitize("\n".join(lines)))
