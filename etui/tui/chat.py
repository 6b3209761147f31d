"""The chat: questions, answers, and what they cost while the words come."""

from __future__ import annotations

import time
from collections import deque
from typing import ClassVar
from uuid import uuid4

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer

from etui.config import Config
from etui.engine.events import Loaded
from etui.errors import EngineFailed, EtuiError
from etui.log.records import TurnRecord
from etui.query import Message, Query
from etui.tui.backend import Backend, Route
from etui.tui.batch import batched
from etui.tui.messages import (
    TextBatch,
    TurnEnded,
    TurnFact,
    TurnNews,
    WarmedUp,
    WarmingUp,
    WarmUpNews,
)
from etui.tui.power_panel import PowerPanel
from etui.tui.progress import Stage, TurnProgress, advance
from etui.tui.prompt import Prompt
from etui.tui.transcript import Transcript
from etui.tui.turn_view import TurnView
from etui.turn import Decided, TurnFinished
from etui.visible import visible

TICK_SECONDS = 0.25
"""Between two looks at the meter; the recorder samples on its own thread whatever happens here."""


class ChatScreen(Screen[None]):
    """The transcript, the power panel and the prompt.

    One turn runs at a time, in a worker thread that only posts facts; questions asked meanwhile
    wait. Before the backend is there, and while a model is loaded ahead, they wait as well.
    """

    AUTO_FOCUS = "Prompt"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="chat.stop"),
        Binding("ctrl+t", "toggle_thought", "Thought", id="chat.thought"),
        Binding("ctrl+n", "new_chat", "New", id="chat.new", priority=True),
        Binding("pageup", "page(-1)", "Scroll up", id="chat.up", show=False, priority=True),
        Binding("pagedown", "page(1)", "Scroll down", id="chat.down", show=False, priority=True),
    ]

    def __init__(self, config: Config, route: Route) -> None:
        super().__init__()
        self._config = config
        self._route = route
        self._backend: Backend | None = None
        self._chat_id = uuid4().hex[:12]
        self._records: list[TurnRecord] = []
        self._waiting: deque[TurnView] = deque()
        self._answering: TurnView | None = None
        self._progress = TurnProgress()
        self._warming = False
        self._resident: str | None = None
        self._leaving = False
        self._transcript = Transcript()
        self._panel = PowerPanel()
        self._prompt = Prompt()

    def compose(self) -> ComposeResult:
        with Container(id="body"):
            yield self._transcript
            yield self._panel
        yield self._prompt
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._panel.show_route(self._route.policy, self._route.model)
        self.set_interval(TICK_SECONDS, self._tick)

    @property
    def busy(self) -> bool:
        """An answer is on its way."""
        return self._answering is not None

    def attach(self, backend: Backend) -> None:
        """The backend is there: load the likely model, then answer what was asked meanwhile."""
        self._backend = backend
        self._load_ahead()

    def take_route(self, route: Route) -> None:
        """The next questions go this way."""
        self._route = route
        self._panel.show_route(route.policy, route.model)
        if not self.busy:
            self._load_ahead()

    def leave(self) -> None:
        """Stop the running answer and exit once it is in the log."""
        self._leaving = True
        self._waiting.clear()
        if self._answering is None or self._backend is None:
            self.app.exit()
            return
        self.notify("saving the running answer …")
        self._backend.runner.cancel()

    async def on_prompt_sent(self, sent: Prompt.Sent) -> None:
        view = TurnView(sent.text)
        await self._transcript.add(view)
        view.show_progress(TurnProgress(), time.monotonic_ns(), None)
        self._waiting.append(view)
        self._next()

    def action_stop(self) -> None:
        """Stop the running answer, else give a waiting question back to the prompt."""
        if self._answering is not None and self._backend is not None:
            self._backend.runner.cancel()
        elif self._waiting:
            view = self._waiting.pop()
            self._prompt.put_back(view.question)
            view.remove()

    def action_toggle_thought(self) -> None:
        """Fold or unfold the last answer's thought."""
        if turns := self._transcript.turns:
            turns[-1].toggle_thought()

    async def action_new_chat(self) -> None:
        """Begin a chat without the answers so far."""
        if self.busy or self._waiting:
            self.notify("an answer is on its way: stop it with Esc first", severity="warning")
            return
        self._records.clear()
        self._panel.show_chat(self._records)
        self._chat_id = uuid4().hex[:12]
        await self._transcript.clear()
        self._prompt.focus()

    def action_page(self, pages: int) -> None:
        """Scroll the transcript by pages, wherever the focus is."""
        if pages < 0:
            self._transcript.scroll_page_up()
        else:
            self._transcript.scroll_page_down()

    def _next(self) -> None:
        if self._backend is None or self._warming or self.busy or not self._waiting:
            return
        view = self._answering = self._waiting.popleft()
        now_ns = time.monotonic_ns()
        self._progress = TurnProgress(Stage.ROUTING, now_ns)
        view.show_progress(self._progress, now_ns, None)
        query = Query(view.question, history=_messages(self._records), chat_id=self._chat_id)
        self._answer(self._backend, query, self._route)

    @work(thread=True, exclusive=True, group="turn", exit_on_error=False)
    def _answer(self, backend: Backend, query: Query, route: Route) -> None:
        ended = TurnEnded()
        try:
            for fact in batched(backend.runner.run(query, route)):
                self.post_message(TurnNews(fact))
        except EtuiError as error:
            ended = TurnEnded(error.what, error.fix, isinstance(error, EngineFailed))
        except Exception as error:  # noqa: BLE001 - a fault must reach the screen and end the turn
            ended = TurnEnded(*self._fault(error))
        self.post_message(TurnNews(ended))

    async def on_turn_news(self, news: TurnNews) -> None:
        view = self._answering
        if view is None:
            return
        now_ns = time.monotonic_ns()
        self._progress = advance(self._progress, news.fact, now_ns, self._resident)
        await self._show_fact(view, news.fact)
        if (
            self._progress.stage is not Stage.THINKING
            and self._progress.stage is not Stage.ANSWERING
        ):
            view.show_progress(self._progress, now_ns, None)

    async def _show_fact(self, view: TurnView, fact: TurnFact) -> None:
        match fact:
            case Decided():
                view.show_decision(fact)
                if self._progress.stage is Stage.LOADING:
                    self._panel.show_loading(self._progress.model)
            case Loaded():
                self._loaded(fact)
            case TextBatch():
                await view.write(fact)
            case TurnFinished(record=record):
                await view.finish(fact)
                self._panel.show_record(record)
                self._records.append(record)
                self._panel.show_chat(self._records)
            case TurnEnded():
                await self._end(view, fact)

    async def _end(self, view: TurnView, ended: TurnEnded) -> None:
        await view.close_stream()
        if ended.engine_lost:
            self._resident = None
            self._panel.show_no_model()
        if ended.what:
            view.show_error(EtuiError(ended.what, ended.fix))
            self._notify_error(ended.what, ended.fix)
        self._answering = None
        if self._leaving:
            self.app.exit()
        self._next()

    def _load_ahead(self) -> None:
        if self._backend is not None and not self._warming:
            self._warming = True
            self._warm_up(self._backend, self._route)

    @work(thread=True, exclusive=True, group="turn", exit_on_error=False)
    def _warm_up(self, backend: Backend, route: Route) -> None:
        try:
            model = backend.runner.likely_model(route)
            if model is not None:
                self.post_message(WarmUpNews(WarmingUp(model)))
            loaded = backend.runner.warm_up(route) if model is not None else None
            done = WarmedUp(loaded)
        except EtuiError as error:
            done = WarmedUp(None, error.what, error.fix)
        except Exception as error:  # noqa: BLE001 - a fault must reach the screen
            done = WarmedUp(None, *self._fault(error))
        self.post_message(WarmUpNews(done))

    def on_warm_up_news(self, news: WarmUpNews) -> None:
        match news.fact:
            case WarmingUp(model=model):
                if model != self._resident:
                    self._panel.show_loading(model)
            case WarmedUp(loaded=loaded, what=what, fix=fix):
                self._warming = False
                if loaded is not None:
                    self._loaded(loaded)
                if what:
                    self._panel.show_no_model()
                    self._notify_error(what, fix)
                self._next()

    def _loaded(self, loaded: Loaded) -> None:
        self._resident = loaded.model
        self._panel.show_loaded(loaded)

    async def _tick(self) -> None:
        if self._backend is None:
            return
        meter = self._backend.meter
        await self._panel.show_power(meter.latest())
        view, progress = self._answering, self._progress
        if view is None:
            return
        now_ns = time.monotonic_ns()
        joules = None
        if progress.energy_start_ns is not None and progress.stage is not Stage.DONE:
            energy = meter.energy(progress.energy_start_ns, now_ns)
            joules = self._panel.show_turn(energy, progress.output_tokens)
        view.show_progress(progress, now_ns, joules)

    def _fault(self, error: Exception) -> tuple[str, str]:
        what = f"a fault in etui: {type(error).__name__}: {error}"
        return what, f"ask again; the engine's own words are in {self._config.log_dir}"

    def _notify_error(self, what: str, fix: str) -> None:
        text = visible(f"{what}\n→ {fix}" if fix else what)
        self.notify(text, severity="error", timeout=12, markup=False)


def _messages(records: list[TurnRecord]) -> tuple[Message, ...]:
    """The chat so far, as a model reads it; a question without an answer is left out."""
    answered = (record for record in records if record.answer.strip())
    pairs = ((Message("user", r.query), Message("assistant", r.answer)) for r in answered)
    return tuple(message for pair in pairs for message in pair)
