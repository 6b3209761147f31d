"""The queue of questions: one turn runs at a time, and later questions wait."""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from textual.screen import ModalScreen, Screen
from textual.timer import Timer

from etui.chat import Query
from etui.config.config import Config
from etui.errors import EngineFailed, EtuiError, format_internal_error
from etui.events import Loaded, Unloaded
from etui.runtime.routes import Route
from etui.text import sanitize
from etui.tui._work import in_thread, notify_error, start
from etui.tui.chat._batches import TextBatch, TurnEnded, TurnFact, batch_events
from etui.tui.chat._conversation import Asking, Conversation, new_chat
from etui.tui.chat._prompt import Prompt
from etui.tui.chat._title_row import TITLE_BUDGET_CELLS, TitleFacts, TitleRow
from etui.tui.chat._transcript import Transcript
from etui.tui.chat._turn_view import TurnView
from etui.tui.chat.progress import TurnProgress, advance, build_notes
from etui.tui.modals import ConfirmModal
from etui.tui.pacing import QUIET, USUAL, Drawing, Pace
from etui.tui.power.energy_text import budget_bar, budget_share_text, tightest_budget
from etui.tui.power.feed import Stage
from etui.tui.power.panel import PowerPanel
from etui.tui.services import Services
from etui.turn.events import (
    Decided,
    HopEnded,
    HopStarted,
    RoundStarted,
    ToolEnded,
    TurnFinished,
)
from etui.turn.record import TurnRecord

if TYPE_CHECKING:
    from etui.tools.toolbox import Consent, Tool

_STREAMING = (Stage.THINKING, Stage.ANSWERING)
_BLANK = " "  # The least text that a tokenizer counts
_MOST_TICKS = 2
"""Ticks after which the numbers of a streaming answer change without a new batch of its text."""


class TurnQueue:
    """Queue of the questions of a chat: one turn runs at a time, in a thread that posts facts."""

    def __init__(
        self,
        screen: Screen[None],
        config: Config,
        route: Route,
        transcript: Transcript,
        panel: PowerPanel,
        prompt: Prompt,
        title: TitleRow,
    ) -> None:
        self._screen = screen
        self._config = config
        self.route = route
        self.services: Services | None = None
        self.on_ended: Callable[[], object] = lambda: None
        is_chosen = route != Route(config.policy, config.model)
        self.conversation = new_chat(route=route if is_chosen else None)
        self._waiting: deque[TurnView] = deque()
        self._answering: TurnView | None = None
        self._progress = TurnProgress()
        self._drawing = Drawing()
        self._counted_ns = 0
        self._warming = False
        self._leaving = False
        self._confirming = SimpleQueue[Any]()
        self.tools_on = False
        self._ticker: Timer | None = None
        self._transcript = transcript
        self._panel = panel
        self._prompt = prompt
        self._title = title
        self._contexts: dict[str, int] = {}
        self._counted: Conversation | None = None
        self._context_tokens: int | None = None

    def start(self) -> None:
        self._show_title()
        self.take_pace(QUIET if self._config.quiet else USUAL)

    @property
    def busy(self) -> bool:
        return self._answering is not None

    @property
    def is_empty(self) -> bool:
        return not self.busy and not self._waiting

    @property
    def pace(self) -> Pace:
        """How often the screen is drawn while nothing slows it down."""
        return self._drawing.usual

    def attach(self, backend: Services) -> None:
        self.services = backend
        self._drawing.decode_with(backend.threads, backend.cpus)
        screen, panel = self._screen, self._panel
        backend.runner.on_loaded = partial(screen.call_later, panel.show_loaded)
        backend.runner.on_unloaded = partial(screen.call_later, panel.show_unloaded)
        backend.runner.confirm = self._confirm
        self._load_ahead()
        self._look_up_spending()

    def take_route(self, route: Route) -> None:
        self.route = route
        self._show_title()
        self._look_up_spending()
        if not self.busy:
            self._load_ahead()

    def leave(self) -> None:
        self._leaving = True
        self._waiting.clear()
        if self._answering is None or self.services is None:
            self._screen.app.exit()
            return
        self._screen.notify("saving the running answer …")
        self._confirming.put(None)
        self.services.runner.cancel()

    async def ask(self, asking: Asking) -> None:
        view = TurnView(asking)
        await self._transcript.add(view)
        begun = self.conversation.find(asking.continues)
        if begun is not None:
            self._show_beginning(begun, shown=False)
            await view.write(TextBatch("", begun.answer, 0, 0))
        self._waiting.append(view)
        self._start_next()
        self._number_waiting()

    def stop(self) -> None:
        """Stop the running answer; without one, return a waiting question to the prompt."""
        if self._answering is not None and self.services is not None:
            self.services.runner.cancel()
        elif self._waiting:
            view = self._waiting[-1]
            self._prompt.put_back(view.asking)
            self.withdraw(view)

    @property
    def waiting(self) -> tuple[TurnView, ...]:
        return tuple(self._waiting)

    def withdraw(self, view: TurnView) -> None:
        """Take a waiting question out of the queue, and focus the next one or the prompt."""
        if view not in self._waiting:
            return
        at = self._waiting.index(view)
        self._waiting.remove(view)
        if view.has_focus:
            following = self._waiting[min(at, len(self._waiting) - 1)] if self._waiting else None
            (following or self._prompt).focus()
        view.remove()
        self._number_waiting()

    def _number_waiting(self) -> None:
        for place, view in enumerate(self._waiting, 1):
            view.show_queued(place)
        self._screen.refresh_bindings()

    def take_back(self) -> list[Asking]:
        views = list(self._waiting)
        self._waiting.clear()
        for view in views:
            view.remove()
        return [view.asking for view in views]

    def _start_next(self) -> None:
        if self.services is None or self._warming or self.busy or not self._waiting:
            return
        view = self._answering = self._waiting.popleft()
        now_ns = time.monotonic_ns()
        self._progress, self._counted_ns = TurnProgress(Stage.ROUTING, now_ns), 0
        view.show_progress(self._progress, now_ns, None)
        self._number_waiting()
        query = self.conversation.query(view.asking)
        self.conversation = self.conversation.with_pictures(query)
        route = view.asking.route or self.route
        job = partial(self._answer, self.services, query, route, view.asking)
        self._screen.run_worker(job, thread=True, exclusive=True, group="turn", exit_on_error=False)

    def _answer(self, services: Services, query: Query, route: Route, asking: Asking) -> None:
        """Run one turn to its end, in a thread; the last fact is always ``TurnEnded``."""
        post = partial(self._screen.call_later, self._take)
        ended = TurnEnded()
        try:
            offered = self.tools_on and asking.continues is None
            if offered:
                services.runner.tools.ask = self._ask_about_call
            events = services.runner.run(
                query, route, asking.replaces, asking.prompt, tools=offered
            )
            for fact in batch_events(events, pace=self._drawing.pace):
                post(fact)
        except EtuiError as error:
            ended = TurnEnded(error.what, error.fix, isinstance(error, EngineFailed))
        except Exception as error:  # noqa: BLE001 - a fault must reach the screen and end the turn
            fix = f"ask again; the log files are in {self._config.log_dir}"
            ended = TurnEnded(format_internal_error(error), fix)
        post(ended)

    async def _take(self, fact: TurnFact) -> None:
        view = self._answering
        if view is None:
            return
        now_ns = time.monotonic_ns()
        self._progress = advance(self._progress, fact, now_ns, self._panel.residents)
        self._panel.show_stage(self._progress.stage)
        await self._show_fact(view, fact)
        if isinstance(fact, TextBatch) and now_ns - self._counted_ns >= self._tick_ns:
            self._show_numbers(view, now_ns)
            self._panel.draw(now_ns)
        # The last fact of a turn may have begun the next one: its progress is not this view's.
        if view is self._answering and self._progress.stage not in _STREAMING:
            view.show_progress(self._progress, now_ns, None)

    async def _show_fact(self, view: TurnView, fact: TurnFact) -> None:
        match fact:
            case Decided() | HopStarted():
                view.show_route(fact)
                self._panel.show_answering(self._progress.model)
                self._show_title()
                if self._progress.stage is Stage.LOADING:
                    self._panel.show_loading(self._progress.model)
            case HopEnded():
                await view.end_hop(fact)
            case ToolEnded(call=call):
                await view.add_call(call)
            case RoundStarted():
                await view.begin_round(fact)
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
        was_away = self.conversation.chat.head is not None
        self.conversation = self.conversation.with_record(record)
        self._transcript.add_record(record)
        if view.asking.continues is not None and record.answer.strip():
            await self._transcript.remove_turn(view.asking.continues)
        self.show_branches(self.conversation.replaced())
        chat, is_first = self.conversation.chat, len(self.conversation.records) == 1
        if (was_away and chat.head is None) or (is_first and chat.route_policy is not None):
            start(self._screen, self.save_chat, "chat")
        self._panel.show_record(record)
        self._panel.show_chat(self.conversation.records)

    def show_branches(self, replaced: Collection[str] = ()) -> None:
        away = self.conversation.replaced()
        self._transcript.elsewhere = [r for r in self.conversation.records if r.turn_id in away]
        self._transcript.mark(
            replaced=replaced,
            branches=self.conversation.places(),
            costs=build_notes(self.conversation.records),
        )

    def _show_beginning(self, begun: TurnRecord, *, shown: bool) -> None:
        for turn in self._transcript.turns:
            if turn.record is not None and turn.record.turn_id == begun.turn_id:
                turn.display = shown

    async def save_chat(self) -> None:
        """Store the branch and the route of the chat; a failure is the writer's to report."""
        if self.services is not None:
            chats, chat = self.services.chats, self.conversation.named
            with suppress(EtuiError):
                await in_thread(lambda: chats.save(chat))

    async def _end_turn(self, view: TurnView, ended: TurnEnded) -> None:
        await view.close_stream()
        view.ended = True
        if view.record is None:
            view.show_progress(self._progress, time.monotonic_ns(), None)
        if ended.engine_lost:
            self._panel.show_no_model()
        if ended.what:
            view.show_error(ended.what, ended.fix)
            notify_error(self._screen, ended.what, ended.fix)
        begun = self.conversation.find(view.asking.continues)
        if begun is not None and (view.record is None or not view.record.answer.strip()):
            self._show_beginning(begun, shown=True)
        self._answering = None
        self._panel.end_turn()
        if self._leaving:
            self._screen.app.exit()
        self._start_next()
        self._look_up_spending()
        self.on_ended()

    def _load_ahead(self) -> None:
        if self.services is not None and not self._warming:
            self._warming = True
            chat_id = self.conversation.chat.chat_id
            start(
                self._screen, partial(self._warm_up, self.services, self.route, chat_id), "warm-up"
            )

    async def _warm_up(self, services: Services, route: Route, chat_id: str) -> None:
        """Load the likely model, then start the next question, and load what forecasts need."""
        runner, model = services.runner, None
        fix = f"ask again; the log files are in {self._config.log_dir}"
        try:
            model = await in_thread(lambda: runner.likely_model(route, chat_id), fix)
            if model is not None:
                if model not in self._panel.residents:
                    self._panel.show_loading(model)
                loaded = await in_thread(lambda: runner.warm_up(route, chat_id), fix)
                if loaded is not None:
                    self._panel.show_loaded(loaded)
        except EtuiError as error:
            self._panel.show_no_model()
            notify_error(self._screen, error.what, error.fix)
        self._warming = False
        self._start_next()
        if model is not None:
            # Forecast nothing: imports and vocabulary take 0.5 to 2.4 s the first time, and then
            # make no key or attached file wait. The first forecast of a draft reports a fault.
            with suppress(EtuiError):
                await in_thread(lambda: runner.forecast(Query(_BLANK), route, ()))
                await in_thread(lambda: runner.count_tokens(_BLANK, model))

    def _confirm(self, question: str) -> bool:
        return bool(self._ask(partial(ConfirmModal, question)))

    def _ask_about_call(self, tool: Tool, arguments: str) -> Consent:
        from etui.tui.chat._dialogs import CallModal  # not needed for the first paint

        said: Consent | None = self._ask(partial(CallModal, tool, arguments))
        return said or "no"

    def _ask(self, build: Callable[[], ModalScreen[Any]]) -> Any:
        """Ask the user from the turn's thread, which waits; None if the app is leaving."""
        answer = self._confirming = SimpleQueue[Any]()
        self._screen.call_later(self._show_question, build, answer)
        while self._screen.is_running:
            with suppress(Empty):
                return answer.get(timeout=1.0)
        return None

    def _show_question(
        self, build: Callable[[], ModalScreen[Any]], answer: SimpleQueue[Any]
    ) -> None:
        if self._leaving:
            answer.put(None)
        else:
            self._screen.app.push_screen(build(), answer.put)

    def turn_tools(self, on: bool) -> None:
        self.tools_on = on
        self._show_title()

    def _look_up_spending(self) -> None:
        if self.services is not None:
            job = partial(self._show_spending, self.services, self.route)
            start(self._screen, job, "spending", exclusive=True)

    async def _show_spending(self, services: Services, route: Route) -> None:
        """Show the totals of the day; the turn itself already reports an unreadable log."""
        try:
            self._panel.show_spending(await in_thread(lambda: services.chats.spending(route)))
        except EtuiError as error:
            self._panel.show_spending(None, sanitize(error.what))
        if self._panel.answering not in self._contexts:
            with suppress(EtuiError):  # the models screen says why
                models = await in_thread(services.shelf.models)
                self._contexts = {m.name: m.context_tokens for m in models if m.context_tokens}

    def _show_title(self) -> None:
        progress, model = self._progress, self.route.model or self._panel.answering
        if self._counted is not self.conversation:  # a tick is too often for a long chat
            self._counted = self.conversation
            self._context_tokens = self.conversation.context_tokens
        tokens = self._context_tokens
        if self.busy and progress.total_tokens:
            tokens = progress.total_tokens + progress.answer_tokens
        budget = tightest_budget(self._panel.budgets)
        self._title.show(
            TitleFacts(
                chat=self.conversation.name,
                route=self.route,
                tools=self.tools_on,
                model=model,
                context_tokens=tokens,
                context_limit=self._contexts.get(model),
                budget="" if budget is None else budget_bar(budget, TITLE_BUDGET_CELLS),
                short_budget="" if budget is None else budget_share_text(budget),
            )
        )

    def note_typing(self) -> None:
        self._drawing.key_typed()

    def take_pace(self, pace: Pace) -> None:
        self._drawing.usual = pace
        if self._ticker is not None:
            self._ticker.stop()
        self._ticker = self._screen.set_interval(pace.tick_seconds, self._tick)
        self._panel.show_pace(pace)

    async def _tick(self) -> None:
        self._drawing.look(busy=self.busy)
        if self._drawing.may_collect(gc.get_count()[2], busy=self.busy):
            gc.collect()
        self._show_title()
        if self.services is None:
            return
        meter = self.services.meter
        view, progress = self._answering, self._progress
        stage = progress.stage if view is not None else Stage.DONE
        now_ns = time.monotonic_ns()
        # Numbers and the graph of a running answer change with its text: one drawing, not two.
        follows = stage in _STREAMING and now_ns - self._counted_ns < _MOST_TICKS * self._tick_ns
        stage = stage if not self._warming else Stage.LOADING
        self._panel.show_power(meter, stage, draw=not follows)
        if view is not None and not follows:
            self._show_numbers(view, now_ns)

    def _show_numbers(self, view: TurnView, now_ns: int) -> None:
        progress, services, energy = self._progress, self.services, None
        self._counted_ns = now_ns
        is_measured = progress.energy_start_ns is not None and progress.stage is not Stage.DONE
        if is_measured and services is not None:
            energy = self._panel.show_turn(services.meter, progress, now_ns)
        view.show_progress(progress, now_ns, energy)

    @property
    def _tick_ns(self) -> int:
        return int(self._drawing.usual.tick_seconds * 1e9)
