"""The screen for a machine without a model: choose one, and pull it there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from etui import units
from etui.config.config import Config
from etui.curves.prediction import DecodeForecast, speed_basis, unmeasured_text
from etui.errors import EtuiError
from etui.models.recommend import LEAST_TOKENS_PER_SECOND, Fit
from etui.models.spec import STARTER, HubSource, WheelsSource
from etui.runtime.decide import save_fallback_model
from etui.text import sanitize
from etui.tui._work import notice_text, notify_error
from etui.tui.jobs import JobBar, JobEnded
from etui.tui.models._cards import Cards, ModelCard
from etui.tui.models._model_list import CardsScreen
from etui.tui.models._text import (
    CHOOSER_COLUMNS,
    RECOMMENDED,
    choice_lines,
    describe_no_match,
    wrap_facts,
)
from etui.tui.services import Services
from etui.tui.widgets.key_footer import KeyFooter

_FAILED = "✗"


class FirstRunScreen(CardsScreen[bool]):
    """Lists the models with what each costs here; the result is True once one is on disk."""

    READ_AGAIN = "press r to check again"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="first_run.stop"),
        Binding("escape", "show_all", "Show all", id="first_run.show_all"),
        Binding("p", "pull", "Pull", id="first_run.pull"),
        Binding("r", "look_again", "Check again", id="first_run.look_again"),
    ]

    HELP = "## First run"

    def __init__(self, services: Services, config: Config) -> None:
        job = JobBar(lambda: services, config.log_dir, quiet=True)
        super().__init__(config, lambda: services, CHOOSER_COLUMNS, job)
        self._services = services
        self._moved = False
        self._cursor_before = ""
        self._pulling = ""
        self._title = Static("No model on this machine yet", classes="title", markup=False)
        self._advice = Static("", classes="advice", markup=False)
        self._problem = Static("", classes="problem", markup=False)
        self._facts = Static("", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield self._title
            yield self._advice
            yield self._list
            with VerticalScroll(id="choice", can_focus=True):
                yield self._problem
                yield self._facts
            yield self._job
        yield KeyFooter()

    def on_mount(self) -> None:
        self._problem.display = False
        self.action_read()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show_current)

    def action_pull(self) -> None:
        card = self._list.current
        if card is None or self._job.is_running:
            return
        name = card.spec.name
        if card.spec.backend is not None:
            self._show_problem(f"{name} runs on the backend {card.spec.backend}")
        elif card.found is not None and card.found.problem:
            self._show_problem(f"{name} {card.found.problem}")
        else:
            self._pull(name, card.forecast)

    def _pull(self, name: str, forecast: DecodeForecast) -> None:
        self._pulling = name
        self._problem_text = ""
        self._problem.display = False
        self.remove_class("-problem")
        super()._pull(name, forecast)

    def action_look_again(self) -> None:
        if self._job.is_running:
            return
        found = [model.name for model in self._services.shelf.models() if model.on_disk]
        if found:
            self._finish(found[0])
            return
        self._show_problem(f"still no model in {self._config.models_dir}")
        self.action_read()

    def on_job_bar_changed(self) -> None:
        self.refresh_bindings()

    def on_job_bar_ended(self, news: JobBar.Ended) -> None:
        self.refresh_bindings()
        match news.ended:
            case JobEnded(what="", stopped=False, model=model):
                self._finish(model)
            case JobEnded(said=said, what="", fix=fix):
                self._show_problem(said, fix)
                self.action_read()
            case JobEnded(what=what, fix=fix):
                other = suggest_other_source(self._pulling, self._cards)
                short = f"{_FAILED} not pulled · enter says why"
                self._show_problem(f"{_FAILED} {what}", f"{fix}{other}", short)
                self.action_read()

    def _show_cards(self, cards: Cards) -> None:
        """Show the models; the cursor begins on the recommended one."""
        cards = self._cards = replace(cards, models=sort_choices(cards))
        first = cards.recommended or STARTER
        # The recommendation may change once the memory is measured, unless the user moved away.
        here = self._list.current
        cursor = None if self._moved or self._job.is_running else first
        if here is not None and here.spec.name not in (first, self._cursor_before):
            cursor, self._moved = None, True
        self._cursor_before = first
        self._list.show(cards, (), cursor)
        self._title.update(describe_start(cards))
        self._advice.update(sanitize(describe_advice(cards)))
        self._job.show_idle(
            f"enter details · / find, also on Hugging Face · {describe_memory(cards)}"
        )
        self._show_current()

    def _finish(self, name: str) -> None:
        try:
            save_fallback_model(self._config, name)
        except EtuiError as error:  # the model is there: say it, and go on
            notify_error(self, error.what, error.fix)
        self.dismiss(True)

    def _show_problem(self, what: str, fix: str = "", short: str = "") -> None:
        self._problem_text = notice_text(what, fix)
        self._problem.set_class(what.startswith(_FAILED), "-error")
        self._problem.update(self._problem_text)
        self._problem.display = True
        self.add_class("-problem")
        self._job.show_outcome(short or what)
        self.query_one("#choice").scroll_home(animate=False)

    def _show_current(self) -> None:
        card = self._list.current
        if card is None:
            self._facts.update(describe_no_match(self._list.words))
        else:
            lines = wrap_facts(self._lines(card), self._facts.size.width)
            self._facts.update(sanitize("\n".join(lines)))
        self.refresh_bindings()

    def _lines(self, card: ModelCard) -> Iterator[str]:
        yield from choice_lines(card, self._cards)
        yield ""
        yield f"Instead of p: a GGUF file of your own in {self._config.models_dir}, then r"


def describe_start(cards: Cards) -> str:
    """Write whether this machine has models of other programs, none being etui's."""
    found = sum(card.found is not None and not card.found.problem for card in cards.models)
    if not found:
        return "No model on this machine yet"
    verb = "is" if found == 1 else "are"
    return f"{units.count_text(found, 'model')} of other programs {verb} here: p uses one in place"


_FIT_ORDER: tuple[Fit, ...] = ("gpu", "memory", "unknown", "too large")


def sort_choices(cards: Cards) -> tuple[ModelCard, ...]:
    """Sort what is offered: the model to begin with, then what is here already, then the others.

    Within both come first those that fit and are fast enough, from large to small, then the slower
    ones from small to large, those of which it is unknown, and at last those that are too large.
    """

    def rank(card: ModelCard) -> tuple[bool, bool, bool, int, bool, int, str]:
        fit, size = card.fit, card.file_bytes or 0
        is_broken = card.found is not None and bool(card.found.problem)
        is_slow = (card.forecast.tokens_per_second or math.inf) < LEAST_TOKENS_PER_SECOND
        return (
            card.spec.name != (cards.recommended or STARTER),
            is_broken,
            card.found is None,
            _FIT_ORDER.index("memory" if fit == "gpu" else fit),
            is_slow,
            size if is_slow or fit == "too large" else -size,
            card.spec.name,
        )

    return tuple(sorted(cards.models, key=rank))


def suggest_other_source(name: str, cards: Cards) -> str:
    """Suggest a model of another kind of source, where the hub gave nothing; empty without one."""
    card = cards.find(name)
    if card is None or not all(isinstance(one, HubSource) for one in card.spec.sources):
        return ""
    others = [
        other
        for other in cards.models
        if other.spec.name != name
        and other.fit in ("gpu", "memory")
        and any(isinstance(source, WheelsSource) for source in other.spec.sources)
    ]
    if not others:
        return ""
    best = max(others, key=lambda other: (other.file_bytes or 0, other.spec.name))
    return f"; {best.spec.name} comes from the package index and not from the hub"


def describe_advice(cards: Cards) -> str:
    """Write which model to begin with and why, or why none can be named yet."""
    card = None if cards.recommended is None else cards.find(cards.recommended)
    if card is None:
        fits = any(card.spec.recommend and card.fit == "memory" for card in cards.models)
        if fits and cards.machine.memory_bytes_per_second is None:
            why = f"the speed of the memory is {unmeasured_text(cards.machine)}"
            return f"No recommendation: {why}; r checks again."
        return f"No model that answers well fits here; {STARTER} is a tiny demo."
    on_gpu = card.fit == "gpu"
    free = units.bytes_text(cards.machine.gpu_bytes if on_gpu else cards.machine.ram_bytes)
    facts = [f"{units.bytes_text(card.need_bytes)} of {free} free{' on the GPU' if on_gpu else ''}"]
    if (speed := card.forecast.tokens_per_second) is not None:
        facts.append(f"about {units.significant(speed, 2)} tok/s")
    if (joules := card.forecast.joules_per_token) is not None:
        facts.append(f"about {units.significant(joules, 2)} J per decoded token here")
    is_slow = speed is not None and speed < LEAST_TOKENS_PER_SECOND
    size = f"about the largest with {LEAST_TOKENS_PER_SECOND:g} tok/s or more"
    basis = speed_basis(card.forecast, cards.machine, on_gpu=on_gpu)
    faster = "\n`etui engine build` may make answers faster." if cards.prebuilt else ""
    return (
        f"{RECOMMENDED} {card.spec.name}: {', '.join(facts)}.\nBasis: "
        f"{'the fastest' if is_slow else size} of the chat models that fit; speed: {basis}; "
        f"not how well they answer.{faster}"
    )


def describe_memory(cards: Cards) -> str:
    """Write the free memory of the machine and of its GPU."""
    text = f"{units.bytes_text(cards.machine.ram_bytes)} of memory free"
    if cards.machine.gpu_bytes is None:
        return f"{text} · no usable GPU"
    return f"{text} · {units.bytes_text(cards.machine.gpu_bytes)} free on the GPU"
