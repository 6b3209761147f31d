"""The models screen: files, memory and energy cost; pull, load, verify, calibrate and sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Input, TextArea

from etui import units
from etui.config.config import Config
from etui.models.spec import ModelSampling, ModelSpec
from etui.text import sanitize
from etui.tui import jobs
from etui.tui._work import faults_shown, in_thread, notify_error, warn
from etui.tui.commands import Command, build_commands
from etui.tui.jobs import JobBar, JobList
from etui.tui.measurements import apply_sweep, revert_tuned, start_calibration, start_sweep
from etui.tui.modals import BoxModal, labelled
from etui.tui.models._cards import Cards, ModelCard
from etui.tui.models._model_list import CardsScreen
from etui.tui.models._text import (
    COLUMNS,
    curve_lines,
    describe_no_match,
    fact_lines,
    wrap_facts,
)
from etui.tui.services import Services
from etui.tui.widgets.key_footer import KeyFooter
from etui.tui.widgets.lines import TitledLines

_PLOT_HEIGHT = 10
_KEYS = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty")


class OwnSettingsModal(BoxModal[tuple[str, dict[str, float]]]):
    """Dialog whose result is the system prompt and the sampling values that are set."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "take", "Save", id="own.take", priority=True),
        Binding("escape", "dismiss", "Cancel", id="own.leave", priority=True),
    ]

    def __init__(self, spec: ModelSpec) -> None:
        own = spec.own
        set_values = asdict(own.sampling if own is not None else ModelSampling())
        asked = asdict(spec.sampling or ModelSampling())
        system = own.system if own is not None else None
        self._system = TextArea(sanitize(system or ""), soft_wrap=True, compact=True)
        self._system.placeholder = "system prompt"
        self._inputs = {
            key: Input(
                _show(set_values[key]),
                _show(asked[key]) or "as the file says",
                type="number",
                compact=True,
            )
            for key in _KEYS
        }

        rows = [labelled(key, field, "setting") for key, field in self._inputs.items()]
        super().__init__(
            f"Settings of {spec.name}",
            "The prompt is for chats that have none. An empty line leaves the value to the model. "
            "Tab goes on.",
            VerticalScroll(self._system, *rows, classes="details"),
        )

    def on_mount(self) -> None:
        self._system.focus()

    def action_take(self) -> None:
        """Close the dialog with the values; go to the first that is no number, if one is not."""
        values = {}
        for key, field in self._inputs.items():
            try:
                if field.value.strip():
                    values[key] = float(field.value)
            except ValueError:
                field.focus()
                return
        self.dismiss((self._system.text.strip(), values))


async def edit_own_settings(app: App[Any], config: Config, spec: ModelSpec) -> bool:
    """Ask for the settings of a model and write them; return whether they were saved."""
    from etui.runtime.models_file import set_own_settings

    found = await app.push_screen_wait(OwnSettingsModal(spec))
    if found is None:
        return False
    system, sampling = found
    await in_thread(lambda: set_own_settings(config, spec.name, system, sampling))
    app.notify(sanitize(f"{spec.name}: its next answers use these settings"), markup=False)
    return True


def _show(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


class ModelDetail(Horizontal):
    """Two panes; a narrow screen hides the second, and the curve follows the facts."""

    def __init__(self) -> None:
        self._facts = TitledLines(classes="facts")
        self._curve = TitledLines(classes="facts")
        super().__init__(
            VerticalScroll(self._facts, id="model-facts", can_focus=True),
            VerticalScroll(self._curve, id="model-curve", can_focus=True),
            id="model-detail",
        )

    def show(self, card: ModelCard, cards: Cards, *, resident: bool, job: Sequence[str]) -> None:
        facts = list(fact_lines(card, cards, resident=resident, running=job))
        has_curve_pane = self.query_one("#model-curve").display
        pane = self._curve if has_curve_pane else self._facts
        curve = list(curve_lines(card, pane.size.width, _PLOT_HEIGHT))
        if has_curve_pane:
            self._curve.set_text(sanitize("\n".join(curve)))
        else:
            facts += ["", *curve]
        self._facts.set_text(sanitize("\n".join(wrap_facts(facts, self._facts.size.width))))

    def clear(self, why: str) -> None:
        self._facts.set_text(why)
        self._curve.set_text("")


_POLL_SECONDS = 1.0  # Interval between checks of which models are in memory, in seconds


class ModelsScreen(CardsScreen[None]):
    """A table of models, and below it the model under the cursor with its curve."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="models.stop"),
        Binding("escape", "show_all", "Show all", id="models.show_all"),
        Binding("p", "pull", "Pull", id="models.pull"),
        Binding("l", "load", "Load", id="models.load"),
        Binding("u", "unload", "Unload", id="models.unload"),
        Binding("c", "calibrate", "Calibrate", id="models.calibrate"),
        Binding("C", "calibrate(True)", "Quick", id="models.calibrate_quick", show=False),
        Binding("s", "sweep", "Sweep", id="models.sweep"),
        Binding("a", "apply_sweep", "Apply", id="models.apply"),
        Binding("R", "revert", "Revert", id="models.revert"),
        Binding("v", "verify", "Check file", id="models.verify"),
        Binding("e", "own_settings", "Settings", id="models.settings"),
        Binding("r", "read", "Read again", id="models.read", show=False),
    ]

    HELP = "## Models"

    def __init__(
        self, config: Config, backend: Callable[[], Services | None], app_jobs: JobList
    ) -> None:
        super().__init__(config, backend, COLUMNS, JobBar(backend, config.log_dir, jobs=app_jobs))
        self._cool_downs = 0
        self._problem = ""
        self._pulled = ""  # A new model to go to, once it is in the list

    def compose(self) -> ComposeResult:
        with Vertical():
            yield self._list
            yield ModelDetail()
            yield self._job
        yield KeyFooter()

    def on_mount(self) -> None:
        self.set_interval(_POLL_SECONDS, self._poll_residents)

    def on_screen_resume(self) -> None:
        self.action_read()

    def on_resize(self) -> None:
        self._show_current()

    def commands(self) -> list[Command]:
        return build_commands(
            ("models: pull", "Download the model under the cursor", self.action_pull),
            ("models: load", "Load it into memory", self.action_load),
            ("models: unload", "Unload it from memory", self.action_unload),
            ("models: calibrate", "Measure what its tokens cost here", self.action_calibrate),
            ("models: calibrate quickly", "Measure in less time, less precisely",
             partial(self.action_calibrate, True)),
            ("models: sweep", "Find the settings that cost the fewest joules here",
             self.action_sweep),
            ("models: apply sweep", "Use the best setting of its newest sweep",
             self.action_apply_sweep),
            ("models: revert", "Use the settings of models.yaml again", self.action_revert),
            ("models: settings …", "Its system prompt and sampling on this machine",
             self.action_own_settings),
            ("models: verify", "Check the sha256 of the whole file", self.action_verify),
            ("models: stop", "Stop the running job; its progress is kept", self.action_stop),
            ("models: read again", "Read the folder again", self.action_read),
        )  # fmt: skip

    def action_pull(self) -> None:
        card = self._list.current
        if card is not None and card.found is not None:
            name = card.spec.name
            self._job.start(f"checking {name} …", partial(jobs.use_found, name, card.forecast))
        elif card is not None:
            self._pull(card.spec.name, card.forecast)

    @work(exclusive=True, group="settings")
    async def action_own_settings(self) -> None:
        card = self._list.current
        if card is not None and card.found is None:
            with faults_shown(self):
                if await edit_own_settings(self.app, self._config, card.spec):
                    self.action_read()

    def action_verify(self) -> None:
        if card := self._require_file():
            self._job.start(f"checking {card.spec.name} …", partial(jobs.verify, card.spec.name))

    def action_load(self) -> None:
        if card := self._require_file():
            self._job.start(f"loading {card.spec.name} …", partial(jobs.load, card.spec.name))

    def action_unload(self) -> None:
        if card := self._list.current:
            self._job.start(f"unloading {card.spec.name} …", partial(jobs.unload, card.spec.name))

    def action_calibrate(self, quick: bool = False) -> None:
        if card := self._require_file():
            start_calibration(self._job, self._config, card.spec.name, card.curve, quick=quick)

    def action_sweep(self) -> None:
        if card := self._require_file():
            start_sweep(self._job, self._config, card.spec.name)

    def action_apply_sweep(self) -> None:
        if card := self._list.current:
            name, sweep = card.spec.name, card.sweep
            if sweep is None or not card.can_apply:
                warn(self, f"no sweep of {name} has a better setting", "s starts a sweep")
                return
            self._job.start(
                f"applying the sweep of {name} …",
                partial(apply_sweep, self._config, name, sweep.folder),
            )

    def action_revert(self) -> None:
        if card := self._list.current:
            name = card.spec.name
            if card.tuned is None:
                warn(self, f"{name} has the settings of models.yaml")
                return
            self._job.start(f"reverting {name} …", partial(revert_tuned, self._config, name))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        card = self._list.current
        if action == "apply_sweep":
            return card is not None and card.can_apply
        if action == "revert":
            return card is not None and card.tuned is not None
        return super().check_action(action, parameters)

    def on_job_bar_changed(self) -> None:
        self._show_current()
        self.refresh_bindings()

    def on_job_bar_ended(self, news: JobBar.Ended) -> None:
        self._show_current()
        self.refresh_bindings()
        self._pulled = "" if self._cards.find(news.ended.model) else news.ended.model
        self.action_read()

    def _show_cards(self, cards: Cards) -> None:
        self._cards = cards
        self._residents, self._cool_downs = self._read_memory()
        self._list.show(cards, self._residents, self._pulled or None)
        self._pulled = ""
        if cards.problem and cards.problem != self._problem:
            notify_error(self, cards.problem)
        self._problem = cards.problem
        cooled = "" if self._residents else cards.cool_down
        self._job.show_idle(
            f"{units.bytes_text(cards.machine.ram_bytes)} of memory free · "
            f"{f'idle power after the last unload: {cooled} · ' if cooled else ''}"
            # The folder may be long, and a narrow screen cuts the end off.
            f"models in {self._config.models_dir}"
        )
        self._show_current()

    def _poll_residents(self) -> None:
        if self.is_current and self._read_memory() != (self._residents, self._cool_downs):
            self.action_read()

    def _read_memory(self) -> tuple[tuple[str, ...], int]:
        """Return the models in memory, and how often it cooled down after an unload."""
        if (backend := self._backend()) is None:
            return (), 0
        return tuple(backend.runner.residents()), backend.runner.cool_downs()

    def _require_file(self) -> ModelCard | None:
        """Return the model under the cursor if its file exists, or else show how to get it."""
        card = self._list.current
        if card is not None and card.found is not None:
            warn(self, f"{card.spec.name} is not one of etui's models", "p uses it where it is")
            return None
        if card is None or card.has_file:
            return card
        if card.spec.backend is not None:
            warn(self, f"{card.spec.name} runs on the backend {card.spec.backend}")
            return None
        warn(self, f"{card.spec.name} is not on this machine", "p pulls it")
        return None

    def _show_current(self) -> None:
        detail = self.query_one(ModelDetail)
        card = self._list.current
        if card is None:
            detail.clear(describe_no_match(self._list.words))
            self.refresh_bindings()
            return
        name = card.spec.name
        resident = name in self._residents
        detail.show(card, self._cards, resident=resident, job=self._job.lines_for(name))
        self.refresh_bindings()
