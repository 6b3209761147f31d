"""The runs screen: starts runs, sweeps and calibrations; their results, plot of arms and report."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, cast

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import DataTable, Input, Select, Static

from etui import units
from etui.bench.config import RunConfig
from etui.bench.folder import read_run, runs_dir
from etui.bench.sample import Sample
from etui.config.config import Config
from etui.datasets.mmlu import suite_dir
from etui.datasets.questions import Question
from etui.datasets.suites import NAMED, SAMPLE, is_named_suite, load_suite, suite_title
from etui.errors import EtuiError
from etui.plots.terminal import plane_lines
from etui.sweep.folder import sweeps_dir
from etui.text import SEPARATOR, local_time, one_line, sanitize
from etui.tui import measurements
from etui.tui._work import faults_shown, in_thread, warn
from etui.tui.commands import Command, build_commands
from etui.tui.jobs import JobBar, JobList
from etui.tui.modals import BoxModal, labelled
from etui.tui.runs import _entries as entries
from etui.tui.services import Services
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.tables import FittedTable, TableColumn, has_words

_NO_RUNS = """\
No run yet. n starts one: questions of a suite for a model or a policy, a calibration or a sweep.
It says what that costs and how long it takes before it begins. In a shell:

    etui bench --suite sample --model smollm2-135m"""

_PLANE_HEIGHT = 15
_RANGES, _MIXTURES = "│ ─  95 % ranges", "    ····  what a mixture of two arms reaches"


_KINDS: tuple[tuple[str, measurements.MeasuredKind], ...] = (
    ("answer questions: accuracy and joules", "run"),
    ("calibrate: what its tokens cost here", "calibration"),
    ("sweep: which settings cost the fewest joules", "sweep"),
)
_MOST_QUESTIONS = 100_000


class NewRunModal(BoxModal[measurements.NewRun]):
    """Asks for suite, model or policy, and number of questions; the price is shown after it."""

    AUTO_FOCUS = "#who"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "take", "Price it", id="new_run.take", priority=True),
        Binding("escape", "dismiss", "Cancel", id="new_run.leave"),
    ]

    HELP = "## New run"

    def __init__(self, models: Sequence[str], policies: Sequence[str]) -> None:
        systems = [(f"{by} {sanitize(name)}", (by, name))
                   for by, names in (("model", models), ("policy", policies))
                   for name in names]  # fmt: skip
        suites = [
            (suite_title(name), name) for name in (SAMPLE, *(n for n in NAMED if n != SAMPLE))
        ]
        self._kind = Select(_KINDS, allow_blank=False, compact=True, id="kind")
        self._suite = Select(suites, allow_blank=False, compact=True, id="suite")
        self._who = Select(systems, allow_blank=False, compact=True, id="who")
        self._questions = Input("60", type="integer", compact=True, id="questions")
        self._note = Static("", markup=False, classes="problem")
        rows = (("measure", self._kind), ("of", self._who), ("suite", self._suite),
                ("questions", self._questions))  # fmt: skip
        super().__init__(
            "What to measure", "Tab moves · Enter chooses · Ctrl+S shows cost and time, then asks",
            *(labelled(label, field, "field") for label, field in rows), self._note,
        )  # fmt: skip

    def on_select_changed(self) -> None:
        is_run = self._kind.value == "run"
        for field in (self._suite, self._questions):
            assert field.parent is not None
            cast("Widget", field.parent).display = is_run

    def on_input_submitted(self) -> None:
        self.action_take()

    def action_take(self) -> None:
        kind = cast("measurements.MeasuredKind", self._kind.value)
        by, name = cast("tuple[Literal['model', 'policy'], str]", self._who.value)
        count = self._questions.value.strip()
        if kind != "run" and by == "policy":
            self._note.update(f"a policy has no {kind}: choose a model")
        elif kind == "run" and not (count.isdecimal() and 0 < int(count) <= _MOST_QUESTIONS):
            self._note.update(f"questions: a whole number from 1 to {_MOST_QUESTIONS:,}")
        else:
            self.dismiss(
                measurements.NewRun(str(self._suite.value), name, int(count or 1), by, kind)
            )


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """An answer of a run with its question; None where the suite is not on this machine."""

    sample: Sample
    question: Question | None
    suite: str


def read_questions(folder: Path, config: Config) -> tuple[str, list[AskedQuestion]]:
    """Read a title of a run, and its answers in order, with the questions if they are here."""
    run = read_run(folder)
    suite: Mapping[str, Sequence[Question]] = {}
    with suppress(EtuiError):
        suite = _read_suite(run.config, config)
    found = {(q.subject, q.row): q for rows in suite.values() for q in rows}
    name, arms = run.config.suite, run.config.arms.items()
    began = local_time(run.config.started_at)[:16]
    title = [f"{suite_title(name)} {began}", *(f"{a}: {arm['model']}" for a, arm in arms)]
    asked = [AskedQuestion(s, found.get((s.subject, s.row)), name) for s in run.samples]
    return one_line(SEPARATOR.join(title)), asked


def _read_suite(run: RunConfig, config: Config) -> Mapping[str, Sequence[Question]]:
    """Read the questions of a suite that is here; nothing is downloaded."""
    data = None if run.data_path is None else Path(run.data_path)
    if data is not None and not is_named_suite(run.suite):
        return load_suite(str(data), run.split, None, config).questions
    if data is None and run.suite != SAMPLE and not suite_dir(config, run.suite).is_dir():
        return {}
    return load_suite(run.suite, run.split, data, config).questions


COLUMNS = (
    TableColumn("right", "", 0, most=2, sorts=False),
    TableColumn("question", "QUESTION", 1, most=200, least=16, enough=40, sorts=False),
    TableColumn("arm", "ARM", 3, most=24, sorts=False),
    TableColumn("answer", "ANSWER", 2, most=24, sorts=False),
    TableColumn("joules", "JOULES", 4, most=12, right=True, sorts=False),
    TableColumn("seconds", "SECONDS", 5, most=10, right=True, sorts=False),
)
_UNANSWERED = {"no_answer": "none", "truncated": "cut off", "error": "failed"}


def question_texts(asked: AskedQuestion) -> dict[str, str]:
    """Format an answer by column: ``✗``, its question, the arm, ``B, right is C``, its cost."""
    sample, kind = asked.sample, asked.sample.kind
    text = f"{sample.subject} {sample.row}" if asked.question is None else asked.question.text
    answer = sample.choice or _UNANSWERED.get(sample.status, sample.status)
    return {
        "right": "✓" if sample.correct else "✗",
        "question": one_line(text),
        "arm": one_line(sample.arm),
        "answer": one_line(answer if sample.correct else f"{answer}, right is {sample.answer}"),
        "joules": units.short_energy_text(sample.joules, kind if kind == units.ESTIMATE else None),
        "seconds": f"{sample.seconds:,.2f} s",
    }


def question_lines(asked: AskedQuestion) -> list[str]:
    """Format a question in full with its options, and what the model wrote."""
    sample, question = asked.sample, asked.question
    lines = [f"{sample.subject} {sample.row}", ""]
    if question is None:
        lines.append(f"questions not on this machine; `etui bench --suite {asked.suite}` gets them")
    else:
        lines += [question.text, ""]
        for letter, choice in zip(question.letters, question.choices, strict=True):
            mark = "✓" if letter == sample.answer else "✗" if letter == sample.choice else " "
            lines.append(f"{mark} {letter}  {choice}")
    chosen = ": the most probable option is the answer" if sample.logprobs else ""
    return [*lines, "", sample.text.strip() or sample.error or f"nothing was written{chosen}"]


class QuestionsScreen(ModalScreen[None]):
    """The questions of one run, above the one under the cursor in full."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter", "dismiss", "Close", id="questions.close", key_display="esc",
                priority=True),
    ]  # fmt: skip
    HELP = "## Questions"

    def __init__(self, title: str, asked: Sequence[AskedQuestion]) -> None:
        super().__init__()
        self._title = Static(sanitize(title), markup=False, classes="title")
        self._asked = asked
        self._table = FittedTable[AskedQuestion](COLUMNS, question_texts, id="questions")
        self._text = Static("", markup=False)

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._table
        with VerticalScroll(id="question-text", can_focus=True):
            yield self._text
        yield KeyFooter()

    def on_mount(self) -> None:
        self._table.show(self._asked)

    def on_data_table_row_highlighted(self, _moved: DataTable.RowHighlighted) -> None:
        if (asked := self._table.current) is not None:
            self._text.update(sanitize("\n".join(question_lines(asked))))


class RunTable(FittedTable[entries.RunEntry]):
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
        self._table = RunTable(entries.COLUMNS, entries.run_texts, id="runs")
        self._runs: Sequence[entries.RunEntry] = ()
        self._sort_key: str | None = None
        self._descending = True
        self._filter = Input(placeholder="words in a run", id="filter", compact=True)
        self._filter.display = False
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

    def on_screen_resume(self) -> None:
        self.action_read()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_current)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
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
        match await self.app.push_screen_wait(NewRunModal(models, services.policies())):
            case measurements.NewRun(kind="run") as new:
                measurements.start_run(self._job, self._config, new)
            case measurements.NewRun(kind="calibration", system=model):
                measurements.start_calibration(self._job, self._config, model)
            case measurements.NewRun(kind="sweep", system=model):
                measurements.start_sweep(self._job, self._config, model)

    def action_continue(self) -> None:
        run = self._table.current
        if run is not None and run.folder is not None and run.can_continue:
            title = measurements.NewRun(run.suite, ", ".join(run.models), 0).title
            measurements.resume_run(self._job, self._config, title, run.folder)

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
            found = await in_thread(
                lambda: read_questions(folder, self._config), entries.READ_AGAIN
            )
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
            runs = await in_thread(lambda: entries.list_runs(*folders, jobs), entries.READ_AGAIN)
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
            self._sort_key, self._descending = key, key not in entries.ASCENDING
        self._list()

    def _list(self, go_to: str = "") -> None:
        """Show the runs with the words of the filter; the cursor stays, or goes to a name."""
        current, row, runs = self._table.current, self._table.cursor_row, list(self._runs)
        if self._sort_key is not None:
            runs = entries.sort_runs(runs, self._sort_key, self._descending)
        words = self._filter.value
        runs = [run for run in runs if has_words(" ".join(entries.run_texts(run).values()), words)]
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
        lines += entries.arm_lines(run, width)
        if run.summary is not None:
            hull = run.summary.hull
            lines += ["", *plane_lines(run.points, hull, width, _PLANE_HEIGHT, run.kind)]
            lines.append(_RANGES + (_MIXTURES if len(hull) > 1 else ""))
            lines += ["", *(f"! {warning}" for warning in run.summary.warnings)]
        self._picture.update(sanitize("\n".join(lines)))
