"""The models: what is there, what fits, what it costs; pull, load, check and calibrate."""

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
from textual.widgets import DataTable, Footer, ProgressBar, Static
from textual.worker import get_current_worker

from etui import units
from etui.config.config import Config
from etui.errors import EtuiError, fault_text
from etui.text.sanitize import sanitize
from etui.tui import jobs
from etui.tui.commands import Command
from etui.tui.jobs import JobEnded, JobNews, JobProgress, run_job
from etui.tui.modals import ConfirmModal
from etui.tui.models.calibration_job import calibrate
from etui.tui.models.cards import CardReader, Cards, ModelCard
from etui.tui.models.text import COLUMNS, curve_lines, fact_lines, model_cells
from etui.tui.notices import notice_text, notify_error
from etui.tui.services import Services

_LOOK_SECONDS = 1.0
"""Between two looks at which models are in memory."""

_PLOT_HEIGHT = 10

Job = Callable[[Services, Callable[[], bool]], JobEnded]


class CardsRead(Message):
    """The models as they are now, or why they could not be read."""

    def __init__(self, cards: Cards | None, what: str = "", fix: str = "") -> None:
        super().__init__()
        self.cards = cards
        self.what = what
        self.fix = fix


class ModelsScreen(Screen[None]):
    """A table of models, below it the one under the cursor with its curve.

    Args:
        backend: Gives what is behind the app, None until it is open.
    """

    AUTO_FOCUS = "DataTable"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Pull", id="models.pull"),
        Binding("l", "load", "Load", id="models.load"),
        Binding("u", "unload", "Unload", id="models.unload"),
        Binding("c", "calibrate", "Calibrate", id="models.calibrate"),
        Binding("C", "calibrate(True)", "Quick", id="models.calibrate_quick", show=False),
        Binding("v", "verify", "Verify", id="models.verify"),
        Binding("r", "read", "Read again", id="models.read", show=False),
        Binding("escape", "stop", "Stop", id="models.stop"),
    ]

    HELP = """\
## Models

The entries of models.yaml and the files of the models folder. `p` pulls the model under the
cursor, `l` loads it into memory and `u` gives it up, `v` checks its sha256 in full. `c` measures
what its tokens cost on this machine, `C` does so in less time and more roughly; every model is
given up meanwhile, and questions are refused. `Esc` stops what runs: what was downloaded or
measured is kept, and the same key goes on from there.
"""

    def __init__(self, config: Config, backend: Callable[[], Services | None]) -> None:
        super().__init__()
        self._config = config
        self._backend = backend
        self._reader: CardReader | None = None
        self._cards = Cards(())
        self._residents: tuple[str, ...] = ()
        self._doing = ""
        self._told = False  # whether the status line tells of a job
        self._forced: Callable[[], object] = lambda: None
        self._table: DataTable[Text] = DataTable(
            cursor_type="row", zebra_stripes=True, id="models", header_height=1
        )
        self._facts = Static("", markup=False)
        self._curve = Static("", markup=False)
        self._bar = ProgressBar(show_eta=False, id="job-bar")
        self._status = Static("", markup=False, classes="status")

    def compose(self) -> ComposeResult:
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
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        for column in COLUMNS:
            self._table.add_column(column.title, key=column.key)
        self._bar.display = False
        self.set_interval(_LOOK_SECONDS, self._look_at_residents)

    def on_screen_resume(self) -> None:
        """Models may have come and gone since the screen was last seen."""
        self.action_read()

    def on_resize(self) -> None:
        self._show_current()

    def on_unmount(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def commands(self) -> list[Command]:
        """What the command palette offers while the models are on the screen."""
        return [
            Command("models: pull", "Download the model under the cursor", self.action_pull),
            Command("models: load", "Bring it into memory", self.action_load),
            Command("models: unload", "Give its memory back", self.action_unload),
            Command("models: calibrate", "Measure what its tokens cost here",
                    self.action_calibrate),
            Command("models: calibrate quickly", "The same, rougher and in less time",
                    partial(self.action_calibrate, True)),
            Command("models: verify", "Check its sha256 in full", self.action_verify),
            Command("models: stop", "Stop what runs; what was done is kept", self.action_stop),
            Command("models: read again", "Look into the folder again", self.action_read),
        ]  # fmt: skip

    def action_read(self) -> None:
        """Look at the models again."""
        self._read()

    def action_pull(self) -> None:
        """Download the model under the cursor."""
        if card := self._current():
            name = card.spec.name
            self._begin(
                f"pulling {name} …",
                lambda b, stopped: jobs.pull(b.shelf, name, self._post, stopped),
            )

    def action_verify(self) -> None:
        """Hash the whole file of the model under the cursor."""
        if card := self._here():
            name = card.spec.name
            self._begin(
                f"checking {name} …",
                lambda b, stopped: jobs.verify(b.shelf, name, self._post, stopped),
            )

    def action_load(self) -> None:
        """Bring the model under the cursor into memory."""
        if card := self._here():
            name = card.spec.name
            self._begin(f"loading {name} …", lambda b, _stopped: jobs.load(b.runner, name))

    def action_unload(self) -> None:
        """Give the memory of the model under the cursor back."""
        if card := self._current():
            name = card.spec.name
            self._begin(f"unloading {name} …", lambda b, _stopped: jobs.unload(b.runner, name))

    def action_calibrate(self, quick: bool = False) -> None:
        """Measure what the tokens of the model under the cursor cost."""
        if card := self._here():
            self._calibrate(card.spec.name, ("--quick",) if quick else ())

    def action_stop(self) -> None:
        """Stop what runs."""
        self.workers.cancel_group(self, "job")

    def on_data_table_row_highlighted(self) -> None:
        self._show_current()

    def on_job_news(self, news: JobNews) -> None:
        match news.fact:
            case JobProgress(text=text, done=done, total=total):
                self._status.update(sanitize(f"{text} (Esc stops)"))
                self._bar.display = total is not None
                self._bar.update(total=total, progress=done)
            case JobEnded() as ended:
                self._end(ended)

    def on_cards_read(self, read: CardsRead) -> None:
        if read.cards is None:
            notify_error(self, read.what, read.fix)
            return
        current = self._current()
        self._cards = read.cards
        self._residents = self._resident_names()
        self._table.clear()
        for card in read.cards.models:
            resident = card.spec.name in self._residents
            self._table.add_row(*model_cells(card, read.cards, resident=resident))
        names = [card.spec.name for card in read.cards.models]
        if current is not None and current.spec.name in names:
            self._table.move_cursor(row=names.index(current.spec.name))
        if not self._told:
            self._status.update(
                f"{units.bytes_text(read.cards.ram_bytes)} of memory free · "
                f"models in {sanitize(str(self._config.models_dir))}"
            )
        self._show_current()

    def _calibrate(self, name: str, options: tuple[str, ...]) -> None:
        self._forced = partial(self._calibrate, name, (*options, "--force"))
        self._begin(
            f"calibrating {name} …",
            lambda b, stopped: calibrate(
                b.runner, self._config, name, self._post, stopped, options
            ),
        )

    def _begin(self, doing: str, job: Job) -> None:
        backend = self._backend()
        if backend is None:
            self.notify("etui is not open yet: try again in a moment", severity="warning")
        elif self._doing:
            self.notify(
                notice_text(f"{self._doing.removesuffix(' …')} still runs", "Esc stops it"),
                severity="warning", markup=False,
            )  # fmt: skip
        else:
            self._doing = doing
            self._told = True
            self._status.update(sanitize(doing))
            self._run(backend, job)

    @work(thread=True, exclusive=True, group="job", exit_on_error=False)
    def _run(self, backend: Services, job: Job) -> None:
        worker = get_current_worker()
        run_job(lambda: job(backend, lambda: worker.is_cancelled), self._post, self._config.log_dir)

    def _post(self, fact: jobs.JobFact) -> None:
        self.post_message(JobNews(fact))

    def _end(self, ended: JobEnded) -> None:
        self._doing = ""
        self._bar.display = False
        if ended.may_force:
            self._status.update(sanitize(ended.what))
            self._ask_to_force(ended.what, self._forced)
        elif ended.what:
            self._status.update(sanitize(f"✗ {ended.what}"))
            notify_error(self, ended.what, ended.fix)
        else:
            text = f"{ended.said}: {ended.fix}" if ended.fix else ended.said
            self._status.update(sanitize(text))
        self._read()

    @work(exclusive=True, group="force")
    async def _ask_to_force(self, what: str, force: Callable[[], object]) -> None:
        question = f"{what}.\nMeasure all the same? The curve will be too high."
        if await self.app.push_screen_wait(ConfirmModal(question)):
            force()

    @work(thread=True, exclusive=True, group="models-read", exit_on_error=False)
    def _read(self) -> None:
        try:
            if self._reader is None:
                self._reader = CardReader(self._config)
            self.post_message(CardsRead(self._reader.read()))
        except EtuiError as error:
            self.post_message(CardsRead(None, error.what, error.fix))
        except Exception as error:  # noqa: BLE001 - a fault must reach the screen
            self.post_message(CardsRead(None, fault_text(error), "press r to read again"))

    def _look_at_residents(self) -> None:
        if self.is_current and self._resident_names() != self._residents:
            self._read()

    def _resident_names(self) -> tuple[str, ...]:
        backend = self._backend()
        return () if backend is None else tuple(backend.runner.residents())

    def _current(self) -> ModelCard | None:
        row, models = self._table.cursor_row, self._cards.models
        return models[row] if 0 <= row < len(models) else None

    def _here(self) -> ModelCard | None:
        """The model under the cursor, if its file is there; else the way to get it is said."""
        card = self._current()
        if card is None or card.here:
            return card
        self.notify(
            notice_text(f"{card.spec.name} is not on this machine", "p pulls it"),
            severity="warning", markup=False,
        )  # fmt: skip
        return None

    def _show_current(self) -> None:
        card = self._current()
        if card is None:
            return
        resident = card.spec.name in self._residents
        facts = list(fact_lines(card, self._cards, resident=resident))
        wide = self.query_one("#model-curve").display
        pane = self._curve if wide else self._facts
        curve = list(curve_lines(card, pane.size.width, _PLOT_HEIGHT))
        if wide:
            self._curve.update(sanitize("\n".join(curve)))
        else:
            facts += ["", *curve]
        self._facts.update(sanitize("\n".join(facts)))
