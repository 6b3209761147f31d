"""The models screen: files, memory and energy cost; pull, load, verify, calibrate and sweep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import DataTable, ProgressBar, Static
from textual.worker import get_current_worker

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError, format_internal_error
from etui.text.sanitize import sanitize
from etui.tui import jobs
from etui.tui.commands import Command
from etui.tui.jobs import JobEnded, JobProgress, JobUpdated, run_job
from etui.tui.modals import ConfirmModal
from etui.tui.models.calibration_job import calibrate
from etui.tui.models.cards import CardReader, Cards, ModelCard
from etui.tui.models.sweep_job import apply_sweep, plan_sweep, revert_tuned, run_sweep
from etui.tui.models.text import COLUMNS, curve_lines, fact_lines, model_cells, wrap_facts
from etui.tui.notices import notice_text, notify_error
from etui.tui.services import Services
from etui.tui.widgets.key_footer import KeyFooter

_POLL_SECONDS = 1.0
"""Interval between checks of which models are in memory, in seconds."""

_PLOT_HEIGHT = 10

Job = Callable[[Services, Callable[[], bool]], JobEnded]


class CardsRead(Message):
    """The current models, or the error that prevented reading them."""

    def __init__(self, cards: Cards | None, what: str = "", fix: str = "") -> None:
        super().__init__()
        self.cards = cards
        self.what = what
        self.fix = fix


class ModelsScreen(Screen[None]):
    """A table of models, and below it the model under the cursor with its curve.

    Args:
        config: Folders and settings.
        backend: Returns the services of the app; None until they are open.
    """

    AUTO_FOCUS = "DataTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Pull", id="models.pull"),
        Binding("l", "load", "Load", id="models.load"),
        Binding("u", "unload", "Unload", id="models.unload"),
        Binding("c", "calibrate", "Calibrate", id="models.calibrate"),
        Binding("C", "calibrate(True)", "Quick", id="models.calibrate_quick", show=False),
        Binding("s", "sweep", "Sweep", id="models.sweep"),
        Binding("a", "apply_sweep", "Apply", id="models.apply"),
        Binding("R", "revert", "Revert", id="models.revert"),
        Binding("v", "verify", "Verify", id="models.verify"),
        Binding("r", "read", "Read again", id="models.read", show=False),
        Binding("escape", "stop", "Stop", id="models.stop"),
    ]

    HELP = """\
## Models

The entries of models.yaml and the files of the models folder. `p` pulls the model under the
cursor, `l` loads it into memory and `u` unloads it, `v` checks the sha256 of the whole file. `c`
measures what its tokens cost on this machine, `C` does so in less time and less precisely; all
models are unloaded during a calibration, and questions are refused. `s` sweeps the settings of the
model, to find those that cost the fewest joules; it says what it measures and how long it takes
before it begins. `a` applies the best setting of the model's newest sweep, and `R` goes back to
models.yaml. `Esc` stops the running job: what was downloaded or measured is kept, and the same key
resumes it.
"""

    def __init__(self, config: Config, backend: Callable[[], Services | None]) -> None:
        super().__init__()
        self._config = config
        self._backend = backend
        self._reader: CardReader | None = None
        self._cards = Cards(())
        self._residents: tuple[str, ...] = ()
        self._cool_downs = 0
        self._problem = ""
        self._running_job = ""
        self._status_shows_job = False  # instead of free memory and the folder
        self._job_details: tuple[str, tuple[str, ...]] = ("", ())  # the model, and lines on it
        self._next_step: Callable[[], object] = lambda: None
        self._table: DataTable[Text] = DataTable(
            cursor_type="row", zebra_stripes=True, id="models", header_height=1
        )
        self._facts = Static("", markup=False)
        self._curve = Static("", markup=False)
        self._bar = ProgressBar(show_eta=False, id="job-bar")
        self._status = Static("", markup=False, classes="status")

    def compose(self) -> ComposeResult:
        """Build the table, the detail and the line of the running job."""
        with Vertical():
            yield self._table
            with Horizontal(id="model-detail"):
                with VerticalScroll(id="model-facts", can_focus=True):
                    yield self._facts
                with VerticalScroll(id="model-curve", can_focus=True):
                    yield self._curve
            with Horizontal(id="job"):
                yield self._status
                yield self._bar
        yield KeyFooter()

    def on_mount(self) -> None:
        """Add the columns, and watch which models are in memory."""
        for column in COLUMNS:
            self._table.add_column(column.title, key=column.key)
        self._bar.display = False
        self.set_interval(_POLL_SECONDS, self._poll_residents)

    def on_screen_resume(self) -> None:
        """Read the models again: files may have changed since the last visit."""
        self.action_read()

    def on_resize(self) -> None:
        """Draw the curve at the new width."""
        self._show_current()

    def on_unmount(self) -> None:
        """Close the log."""
        if self._reader is not None:
            self._reader.close()

    def commands(self) -> list[Command]:
        """Return the commands of this screen for the command palette."""
        return [
            Command("models: pull", "Download the model under the cursor", self.action_pull),
            Command("models: load", "Load it into memory", self.action_load),
            Command("models: unload", "Unload it from memory", self.action_unload),
            Command("models: calibrate", "Measure what its tokens cost here",
                    self.action_calibrate),
            Command("models: calibrate quickly", "Measure in less time, less precisely",
                    partial(self.action_calibrate, True)),
            Command("models: sweep", "Find the settings that cost the fewest joules here",
                    self.action_sweep),
            Command("models: apply sweep", "Use the best setting of its newest sweep",
                    self.action_apply_sweep),
            Command("models: revert", "Use the settings of models.yaml again", self.action_revert),
            Command("models: verify", "Check the sha256 of the whole file", self.action_verify),
            Command("models: stop", "Stop the running job; its progress is kept", self.action_stop),
            Command("models: read again", "Read the folder again", self.action_read),
        ]  # fmt: skip

    def action_read(self) -> None:
        """Read the models again."""
        self._read_cards()

    def action_pull(self) -> None:
        """Download the model under the cursor."""
        if card := self._current_card():
            name = card.spec.name
            self._start_job(
                f"pulling {name} …",
                lambda services, stopped: jobs.pull(services.shelf, name, self._post, stopped),
            )

    def action_verify(self) -> None:
        """Check the sha256 of the whole file of the model under the cursor."""
        if card := self._require_file():
            name = card.spec.name
            self._start_job(
                f"checking {name} …",
                lambda services, stopped: jobs.verify(services.shelf, name, self._post, stopped),
            )

    def action_load(self) -> None:
        """Load the model under the cursor into memory."""
        if card := self._require_file():
            name = card.spec.name
            self._start_job(
                f"loading {name} …", lambda services, _stopped: jobs.load(services.runner, name)
            )

    def action_unload(self) -> None:
        """Unload the model under the cursor from memory."""
        if card := self._current_card():
            name = card.spec.name
            self._start_job(
                f"unloading {name} …", lambda services, _stopped: jobs.unload(services.runner, name)
            )

    def action_calibrate(self, quick: bool = False) -> None:
        """Measure what the tokens of the model under the cursor cost."""
        if card := self._require_file():
            self._start_calibration(card.spec.name, ("--quick",) if quick else ())

    def action_sweep(self) -> None:
        """Plan a sweep of the model under the cursor, and measure it once it is confirmed."""
        if card := self._require_file():
            name = card.spec.name
            self._start_job(
                f"planning a sweep of {name} …",
                lambda _services, stopped: plan_sweep(self._config, name, stopped),
                partial(self._start_sweep, name, ()),
            )

    def action_apply_sweep(self) -> None:
        """Apply the best setting of the newest sweep of the model under the cursor."""
        card = self._current_card()
        if card is None:
            return
        if card.sweep is None or not card.can_apply:
            self._warn(f"no sweep of {card.spec.name} has a better setting", "s starts a sweep")
            return
        name, folder = card.spec.name, card.sweep.folder
        self._start_job(
            f"applying the sweep of {name} …",
            lambda _services, stopped: apply_sweep(self._config, name, folder, stopped),
        )

    def action_revert(self) -> None:
        """Use the settings of models.yaml again for the model under the cursor."""
        card = self._current_card()
        if card is None:
            return
        name = card.spec.name
        if card.tuned is None:
            self._warn(f"{name} has the settings of models.yaml")
            return
        self._start_job(
            f"reverting {name} …", lambda _services, _stopped: revert_tuned(self._config, name)
        )

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave out of the footer what cannot be done now, so that a narrow one has room."""
        card = self._current_card()
        if action == "apply_sweep":
            return card is not None and card.can_apply
        if action == "revert":
            return card is not None and card.tuned is not None
        if action == "stop":
            return bool(self._running_job)
        return True

    def action_stop(self) -> None:
        """Stop the running job."""
        self.workers.cancel_group(self, "job")

    def on_data_table_row_highlighted(self) -> None:
        """Show the model under the cursor."""
        self._show_current()

    def on_job_updated(self, news: JobUpdated) -> None:
        """Show the progress or the end of the running job."""
        match news.fact:
            case JobProgress(text=text, done=done, total=total):
                self._show_details(news.fact.subject, news.fact.details)
                self._status.update(sanitize(f"{text} (Esc stops)"))
                self._bar.display = total is not None
                self._bar.update(total=total, progress=done)
            case JobEnded() as ended:
                self._end_job(ended)

    def on_cards_read(self, read: CardsRead) -> None:
        """Fill the table and keep the cursor on its model."""
        if read.cards is None:
            notify_error(self, read.what, read.fix)
            return
        current = self._current_card()
        self._cards = read.cards
        self._residents = self._resident_names()
        self._cool_downs = self._count_cool_downs()
        self._table.clear()
        for card in read.cards.models:
            resident = card.spec.name in self._residents
            self._table.add_row(*model_cells(card, read.cards, resident=resident))
        names = [card.spec.name for card in read.cards.models]
        if current is not None and current.spec.name in names:
            self._table.move_cursor(row=names.index(current.spec.name))
        if read.cards.problem and read.cards.problem != self._problem:
            notify_error(self, read.cards.problem)
        self._problem = read.cards.problem
        if not self._status_shows_job:
            cooled = "" if self._residents else read.cards.cool_down
            self._status.update(
                f"{units.bytes_text(read.cards.ram_bytes)} of memory free · "
                f"{f'after the last unload: {cooled} · ' if cooled else ''}"
                # The folder may be long, and a narrow screen cuts the end off.
                f"models in {sanitize(str(self._config.models_dir))}"
            )
        self._show_current()

    def _start_calibration(self, name: str, options: tuple[str, ...]) -> None:
        self._start_job(
            f"calibrating {name} …",
            lambda services, stopped: calibrate(
                services.runner, self._config, name, self._post, stopped, options
            ),
            partial(self._start_calibration, name, (*options, "--force")),
        )

    def _start_sweep(self, name: str, options: tuple[str, ...]) -> None:
        self._start_job(
            f"sweeping {name} …",
            lambda services, stopped: run_sweep(
                services.runner, self._config, name, self._post, stopped, options
            ),
            partial(self._start_sweep, name, (*options, "--force")),
        )

    def _start_job(
        self, job_text: str, job: Job, next_step: Callable[[], object] = lambda: None
    ) -> None:
        """Start a job unless one is running.

        Args:
            job_text: What it does, for the status line.
            job: The job.
            next_step: What to do if the job ends with a question and the user says yes.
        """
        backend = self._backend()
        if backend is None:
            self.notify("etui is still starting: try again in a moment", severity="warning")
        elif self._running_job:
            running = self._running_job.removesuffix(" …")
            self._warn(f"{running} is still running", "Esc stops it")
        else:
            self._running_job = job_text
            self._next_step = next_step
            self._status_shows_job = True
            self._status.update(sanitize(job_text))
            self.refresh_bindings()
            self._run_job(backend, job)

    @work(thread=True, exclusive=True, group="job", exit_on_error=False)
    def _run_job(self, backend: Services, job: Job) -> None:
        worker = get_current_worker()
        run_job(lambda: job(backend, lambda: worker.is_cancelled), self._post, self._config.log_dir)

    def _post(self, fact: jobs.JobFact) -> None:
        self.post_message(JobUpdated(fact))

    def _end_job(self, ended: JobEnded) -> None:
        self._running_job = ""
        self._bar.display = False
        self.refresh_bindings()
        self._show_details("", ())
        if ended.question:
            self._status.update(sanitize(ended.what or ended.said))
            self._ask_for_next_step(ended, self._next_step)
        elif ended.what:
            self._status.update(sanitize(f"✗ {ended.what}"))
            notify_error(self, ended.what, ended.fix)
        else:
            text = f"{ended.said}: {ended.fix}" if ended.fix else ended.said
            self._status.update(sanitize(text))
        self._read_cards()

    @work(exclusive=True, group="question")
    async def _ask_for_next_step(self, ended: JobEnded, go_on: Callable[[], object]) -> None:
        modal = ConfirmModal(ended.question, ended.question_details)
        if await self.app.push_screen_wait(modal):
            go_on()
        else:
            self._status.update("nothing was measured")

    @work(thread=True, exclusive=True, group="models-read", exit_on_error=False)
    def _read_cards(self) -> None:
        try:
            if self._reader is None:
                self._reader = CardReader(self._config)
            self.post_message(CardsRead(self._reader.read()))
        except EtuiError as error:
            self.post_message(CardsRead(None, error.what, error.fix))
        except Exception as error:  # noqa: BLE001 - a fault must reach the screen
            self.post_message(
                CardsRead(None, format_internal_error(error), "press r to read again")
            )

    def _poll_residents(self) -> None:
        seen = (self._residents, self._cool_downs)
        if self.is_current and (self._resident_names(), self._count_cool_downs()) != seen:
            self._read_cards()

    def _resident_names(self) -> tuple[str, ...]:
        backend = self._backend()
        return () if backend is None else tuple(backend.runner.residents())

    def _count_cool_downs(self) -> int:
        backend = self._backend()
        return 0 if backend is None else backend.runner.cool_downs()

    def _current_card(self) -> ModelCard | None:
        row, models = self._table.cursor_row, self._cards.models
        return models[row] if 0 <= row < len(models) else None

    def _require_file(self) -> ModelCard | None:
        """Return the model under the cursor if its file exists, or else show how to get it."""
        card = self._current_card()
        if card is None or card.has_file:
            return card
        if card.spec.backend is not None:
            self._warn(f"{card.spec.name} runs on the backend {card.spec.backend}")
            return None
        self._warn(f"{card.spec.name} is not on this machine", "p pulls it")
        return None

    def _warn(self, what: str, fix: str = "") -> None:
        self.notify(notice_text(what, fix), severity="warning", markup=False)

    def _show_details(self, subject: str, details: tuple[str, ...]) -> None:
        """Show or remove the progress of a job in the card of its model."""
        if (subject, details) != self._job_details:
            self._job_details = (subject, details)
            self._show_current()

    def _show_current(self) -> None:
        card = self._current_card()
        if card is None:
            return
        resident = card.spec.name in self._residents
        running = self._job_details[1] if self._job_details[0] == card.spec.name else ()
        facts = list(fact_lines(card, self._cards, resident=resident, running=running))
        has_curve_pane = self.query_one("#model-curve").display
        pane = self._curve if has_curve_pane else self._facts
        curve = list(curve_lines(card, pane.size.width, _PLOT_HEIGHT))
        if has_curve_pane:
            self._curve.update(sanitize("\n".join(curve)))
        else:
            facts += ["", *curve]
        self._facts.update(sanitize("\n".join(wrap_facts(facts, self._facts.size.width))))
        self.refresh_bindings()
