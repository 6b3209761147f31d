"""The queue of questions: one turn runs at a time, and later questions wait."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from queue import SimpleQueue

from textual import work
from textual.screen import Screen
from textual.timer import Timer

from etui.chat import Query
from etui.config.config import Config
from etui.errors import EtuiError
from etui.events import Loaded, Unloaded
from etui.runtime.route import Route
from etui.text.sanitize import sanitize
from etui.tui.chat import workers as threads
from etui.tui.chat.conversation import Asking, Conversation, new_chat
from etui.tui.chat.messages import (
    BudgetConfirm,
    ModelLoaded,
    ModelUnloaded,
    TextBatch,
    TurnEnded,
    TurnFact,
    TurnUpdated,
    WarmedUp,
    WarmingUp,
    WarmUpUpdated,
)
from etui.tui.chat.progress import TurnProgress, advance
from etui.tui.chat.prompt import Prompt
from etui.tui.chat.side_by_side import compare_costs
from etui.tui.chat.transcript import Transcript
from etui.tui.chat.turn_view import TurnView
from etui.tui.modals import ConfirmModal
from etui.tui.notices import notify_error
from etui.tui.pacing import QUIET, USUAL, Drawing, Pace
from etui.tui.power.panel import PowerPanel
from etui.tui.power.phases import Stage
from etui.tui.services import Services
from etui.turn.events import Decided, HopEnded, HopStarted, TurnFinished


class AnsweringScreen(Screen[None]):
    """Screen that runs the turns of one chat, in a worker thread that only posts facts.

    Questions also wait until the services are open, and while a model is loaded ahead.
    """

    def __init__(self, config: Config, route: Route) -> None:
        super().__init__()
        self._config = config
        self._route = route
        self._backend: Services | None = None
        self._conversation = new_chat()
        self._waiting: deque[TurnView] = deque()
        self._answering: TurnView | None = None
        self._progress = TurnProgress()
        self._drawing = Drawing()
        self._warming = False
        self._leaving = False
        self._confirming = SimpleQueue[bool]()
        self._ticker: Timer | None = None
        self._transcript = Transcript()
        self._panel = PowerPanel()
        self._prompt = Prompt()

    def on_mount(self) -> None:
        """Show the route and start the redraw timer."""
        self._panel.show_route(self._route)
        self._take_pace(QUIET if self._config.quiet else USUAL)

    @property
    def conversation(self) -> Conversation:
        """The chat that is shown."""
        return self._conversation

    @property
    def busy(self) -> bool:
        """Whether an answer is running."""
        return self._answering is not None

    def attach(self, backend: Services) -> None:
        """Use these services: load the likely model, then answer the waiting questions."""
        self._backend = backend
        self._drawing.decode_with(backend.threads, backend.cpus)
        backend.runner.on_loaded = lambda loaded: self.post_message(ModelLoaded(loaded))
        backend.runner.on_unloaded = lambda model: self.post_message(ModelUnloaded(model))
        backend.runner.confirm = self._confirm
        self._load_ahead()
        self._look_up_spending()

    def take_route(self, route: Route) -> None:
        """Use this route for the next questions."""
        self._route = route
        self._panel.show_route(route)
        self._look_up_spending()
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
        self._confirming.put(False)
        self._backend.runner.cancel()

    async def ask(self, asking: Asking) -> None:
        """Queue a question, to be answered after those before it."""
        view = TurnView(asking)
        await self._transcript.add(view)
        view.show_progress(TurnProgress(), time.monotonic_ns(), None)
        self._waiting.append(view)
        self._start_next()

    def action_stop(self) -> None:
        """Stop the running answer; without one, return a waiting question to the prompt."""
        if self._answering is not None and self._backend is not None:
            self._backend.runner.cancel()
        elif self._waiting:
            view = self._waiting.pop()
            self._prompt.put_back(view.asking.text)
            view.remove()

    def _start_next(self) -> None:
        if self._backend is None or self._warming or self.busy or not self._waiting:
            return
        view = self._answering = self._waiting.popleft()
        now_ns = time.monotonic_ns()
        self._progress = TurnProgress(Stage.ROUTING, now_ns)
        view.show_progress(self._progress, now_ns, None)
        query = self._conversation.query(view.asking)
        route = view.asking.route or self._route
        self._answer(self._backend, query, route, view.asking.replaces)

    @work(thread=True, exclusive=True, group="turn", exit_on_error=False)
    def _answer(self, backend: Services, query: Query, route: Route, replaces: str | None) -> None:
        threads.answer(
            backend,
            query,
            route,
            replaces,
            post=lambda fact: self.post_message(TurnUpdated(fact)),
            pace=self._drawing.pace,
            log_dir=self._config.log_dir,
        )

    async def on_turn_updated(self, news: TurnUpdated) -> None:
        """Advance the progress of the running turn, and show the fact."""
        view = self._answering
        if view is None:
            return
        now_ns = time.monotonic_ns()
        self._progress = advance(self._progress, news.fact, now_ns, self._panel.residents)
        self._panel.show_stage(self._progress.stage)
        await self._show_fact(view, news.fact)
        if self._progress.stage not in (Stage.THINKING, Stage.ANSWERING):
            view.show_progress(self._progress, now_ns, None)

    async def _show_fact(self, view: TurnView, fact: TurnFact) -> None:
        match fact:
            case Decided():
                view.show_decision(fact)
                if self._progress.stage is Stage.LOADING:
                    self._panel.show_loading(self._progress.model)
            case HopStarted():
                view.show_hop(fact)
                if self._progress.stage is Stage.LOADING:
                    self._panel.show_loading(self._progress.model)
            case HopEnded():
                await view.end_hop(fact)
            case Loaded():
                self._panel.show_loaded(fact)
            case Unloaded(model=model):
                self._panel.show_unloaded(model)
            case TextBatch():
                await view.write(fact)
            case TurnFinished():
                await self._finish_turn(view, fact)
            case TurnEnded():
                await self._end_turn(view, fact)

    async def _finish_turn(self, view: TurnView, finished: TurnFinished) -> None:
        record = finished.record
        await view.finish(finished)
        self._conversation = self._conversation.with_record(record)
        self._transcript.add_record(record, self._conversation.replaced())
        self._panel.show_record(record)
        self._panel.show_chat(self._conversation.records)
        before = [r for r in self._conversation.records if r.turn_id == view.asking.replaces]
        if before and before[0].query == record.query:
            view.show_costs(compare_costs(before[0], record))

    async def _end_turn(self, view: TurnView, ended: TurnEnded) -> None:
        await view.close_stream()
        view.ended = True
        if ended.engine_lost:
            self._panel.show_no_model()
        if ended.what:
            view.show_error(EtuiError(ended.what, ended.fix))
            notify_error(self, ended.what, ended.fix)
        self._answering = None
        if self._leaving:
            self.app.exit()
        self._start_next()
        self._look_up_spending()

    def _load_ahead(self) -> None:
        if self._backend is not None and not self._warming:
            self._warming = True
            self._warm_up(self._backend, self._route)

    @work(thread=True, exclusive=True, group="turn", exit_on_error=False)
    def _warm_up(self, backend: Services, route: Route) -> None:
        threads.warm_up(
            backend,
            route,
            post=lambda fact: self.post_message(WarmUpUpdated(fact)),
            log_dir=self._config.log_dir,
        )

    def on_warm_up_updated(self, news: WarmUpUpdated) -> None:
        """Show how loading a model ahead proceeds; afterwards start the next question."""
        match news.fact:
            case WarmingUp(model=model):
                if model not in self._panel.residents:
                    self._panel.show_loading(model)
            case WarmedUp(loaded=loaded, what=what, fix=fix):
                self._warming = False
                if loaded is not None:
                    self._panel.show_loaded(loaded)
                if what:
                    self._panel.show_no_model()
                    notify_error(self, what, fix)
                self._start_next()

    def _confirm(self, question: str) -> bool:
        """Ask the user from the turn's thread, which waits; leaving the app means no."""
        answer = self._confirming = SimpleQueue[bool]()
        self.post_message(BudgetConfirm(question, answer))
        return answer.get()

    def on_budget_confirm(self, request: BudgetConfirm) -> None:
        """Ask whether to exceed the budget; refuse while the app is leaving."""
        if self._leaving:
            request.answer.put(False)
        else:
            self.app.push_screen(
                ConfirmModal(request.question), lambda yes: request.answer.put(bool(yes))
            )

    def on_model_loaded(self, news: ModelLoaded) -> None:
        """Show the loaded model."""
        self._panel.show_loaded(news.loaded)

    def on_model_unloaded(self, news: ModelUnloaded) -> None:
        """Remove the unloaded model from the panel."""
        self._panel.show_unloaded(news.model)

    def _look_up_spending(self) -> None:
        if self._backend is not None:
            self._show_spending(self._backend, self._route)

    @work(exclusive=True, group="spending", exit_on_error=False)
    async def _show_spending(self, backend: Services, route: Route) -> None:
        """Show the totals of the day; the turn itself already reports an unreadable log."""
        try:
            spending = await asyncio.to_thread(backend.chats.spending, route)
        except EtuiError as error:
            self._panel.show_spending(None, sanitize(error.what))
        else:
            self._panel.show_spending(spending)

    def on_text_area_changed(self) -> None:
        """Draw answers less often while the user types."""
        self._drawing.key_typed()

    def _take_pace(self, pace: Pace) -> None:
        self._drawing.usual = pace
        if self._ticker is not None:
            self._ticker.stop()
        self._ticker = self.set_interval(pace.tick_seconds, self._tick)
        self._panel.show_pace(pace)

    async def _tick(self) -> None:
        self._drawing.look(busy=self.busy)
        if self._backend is None:
            return
        meter = self._backend.meter
        view, progress = self._answering, self._progress
        stage = progress.stage if view is not None else Stage.DONE
        await self._panel.show_power(meter, stage if not self._warming else Stage.LOADING)
        if view is None:
            return
        now_ns = time.monotonic_ns()
        joules = None
        if progress.energy_start_ns is not None and progress.stage is not Stage.DONE:
            joules = self._panel.show_turn(
                meter, progress.energy_start_ns, now_ns, progress.output_tokens
            )
        view.show_progress(progress, now_ns, joules)
