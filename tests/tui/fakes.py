"""A backend without a model: a scripted runner, a meter with known watts, a shelf in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from textual.app import ScreenStackError
from textual.css.query import NoMatches
from textual.pilot import Pilot, WaitForScreenTimeout

from etui.arm import Arm
from etui.chat import Query
from etui.config.config import Config
from etui.curves.prediction import DecodeForecast, MachineFacts
from etui.energy.types import Channel, ChannelPower, Energy, Kind
from etui.errors import EtuiError
from etui.events import Answer, Event, Finished, Loaded, Prefilled, Thought, Unloaded
from etui.log.chat_queries import ChatSummary
from etui.log.records import ChatRecord
from etui.log.totals import Total
from etui.models.download import Progress, Report
from etui.models.files import Verified
from etui.models.found import FoundModel
from etui.routing.decision import Decision, PredictedJoules, SignalValue
from etui.routing.library import policy_names
from etui.runtime.forecast import ArmForecast, Forecast, TokenCount
from etui.runtime.routes import Route, RouteChoice
from etui.runtime.search_models import SearchResult
from etui.tui.services import ListedModel, Services, SpendingTotals, Vitals
from etui.tui.start import EtuiApp
from etui.turn.accounting import Leg, compute_account
from etui.turn.chat_tree import tree_of
from etui.turn.events import Decided, HopEnded, HopStarted, TurnEvent, TurnFinished
from etui.turn.record import (
    CONTINUES,
    NAMES,
    REPLACES,
    SAVED_PROMPT,
    Seconds,
    Tokens,
    TurnEnergy,
    TurnRecord,
)

DEADLINE_SECONDS = 120.0
"""How long to wait for the app; only a guard against hangs, also on a busy machine."""

_LONGEST_STEP_SECONDS = 10.0
"""Most that one step of waiting counts: a machine that stood still has not run the app."""

MODEL = "smollm2-135m"
WATTS = 50.0
TOKENS_PER_SECOND = 200


async def until(pilot: Pilot[Any], predicate: Callable[[], object]) -> None:
    """Let the app run until ``predicate`` holds; fails after a long while.

    A widget that is not mounted yet is waited for too.
    """

    def holds() -> bool:
        try:
            return bool(predicate())
        except NoMatches:
            return False

    waited = 0.0
    while not holds():
        assert pilot.app._exception is None, pilot.app._exception
        assert waited < DEADLINE_SECONDS, "what was waited for never came"
        start = time.monotonic()
        await asyncio.sleep(0.01)
        waited += min(time.monotonic() - start, _LONGEST_STEP_SECONDS)
    if waited:
        with suppress(WaitForScreenTimeout, ScreenStackError):
            await pilot.pause(0)  # what came with it is handled and drawn too


@dataclass
class FakeMeter:
    """Known watts on every channel, for ever."""

    channels: tuple[Channel, ...] = (
        Channel("gpu:GPU-1", "gpu:GPU-1", Kind.COUNTER, limit_watts=100.0, label="NVIDIA L40S"),
    )

    idle_watts: float | None = None

    def vitals(self) -> Vitals:
        idle = {c.id: self.idle_watts for c in self.channels if self.idle_watts is not None}
        return Vitals(idle, 0.021)

    def latest(self) -> Sequence[ChannelPower]:
        now = time.monotonic_ns()
        return [ChannelPower(channel, now, WATTS, None, True) for channel in self.channels]

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        if not self.channels:
            return Energy(start_ns, end_ns, None, None, None, 0.0)
        joules = WATTS * len(self.channels) * (end_ns - start_ns) / 1e9
        kind = self.channels[0].kind
        idle = None if self.idle_watts is None else self.idle_watts * len(self.channels)
        return Energy(
            start_ns, end_ns, joules, 0.5, kind, 1.0, idle, mean_watts=WATTS, peak_watts=WATTS
        )


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class FakeRunner:
    """Streams ``pieces`` at 200 tokens a second and ends as a real turn does.

    A set ``hold`` makes it wait after the last piece until it is cancelled or let go.
    """

    meter: FakeMeter
    pieces: tuple[str, ...] = ("Paris ", "is ", "the ", "**capital** ", "of ", "France.")
    thoughts: tuple[str, ...] = ()
    why: str = "everything-else: no rule matched"
    signals: tuple[SignalValue, ...] = ()
    hold: bool = False
    error: EtuiError | None = None
    load_error: EtuiError | None = None
    slow_load: bool = False
    likely: str | None = MODEL
    other: Route | None = None
    held: list[str] = field(default_factory=list)  # Names of the models in memory
    resting: list[str] = field(default_factory=list)  # Why everything was given up, each time
    refusal: EtuiError | None = None  # Raised instead, as while an answer runs
    closed: bool = False
    cooled: int = 0
    busy: bool = False  # Whether an answer runs
    smallest: str | None = MODEL
    on_loaded: Callable[[Loaded], object] = lambda _loaded: None
    on_unloaded: Callable[[str], object] = lambda _model: None
    asked: list[tuple[Query, Route]] = field(default_factory=list)
    saved: list[TurnRecord] = field(default_factory=list)
    warmed: list[Route] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _end: threading.Event = field(default_factory=threading.Event)

    forecast_arms: tuple[tuple[str, float | None], ...] = (("quick", 0.5),)
    forecast_asked: list[str] = field(default_factory=list)
    counted_for: list[str] = field(default_factory=list)
    forecast_error: EtuiError | None = None
    forecast_go: threading.Event = field(default_factory=_set_event)
    exact: bool = True
    context_tokens: int = 2000
    confirm: Callable[[str], bool] | None = None
    over_budget: str = ""
    hops: tuple[tuple[HopStarted | None, tuple[str, ...], HopEnded], ...] = ()

    def small_model(self) -> str | None:
        return self.smallest

    def load(self, model: str) -> Loaded | None:
        if self.refusal:
            raise self.refusal
        if model in self.held:
            return None
        self.held.append(model)
        loaded = Loaded(model, 0, 400_000_000, 0, 98_362_432)
        self.on_loaded(loaded)
        return loaded

    def unload(self, model: str) -> Unloaded | None:
        if self.refusal:
            raise self.refusal
        if model not in self.held:
            return None
        self.held.remove(model)
        self.on_unloaded(model)
        return Unloaded(model, None, 0, 100_000_000, "asked", 98_362_432)

    def residents(self) -> Sequence[str]:
        return tuple(self.held)

    def cool_downs(self) -> int:
        return self.cooled

    def is_busy(self) -> bool:
        return self.busy

    @contextmanager
    def at_rest(self, why: str) -> Iterator[Callable[[], bool]]:
        if self.refusal:
            raise self.refusal
        self.held.clear()
        self.resting.append(why)
        yield lambda: self.closed

    def other_route(self, record: TurnRecord, route: Route, direction: str) -> Route | None:
        return self.other

    def likely_model(self, route: Route, chat_id: str | None = None) -> str | None:
        return route.model or self.likely

    def warm_up(self, route: Route, chat_id: str | None = None) -> Loaded | None:
        self.warmed.append(route)
        if self.load_error:
            raise self.load_error
        if self.slow_load:
            self._end.wait(DEADLINE_SECONDS)
        return Loaded(self.likely_model(route) or MODEL, 0, 400_000_000, 0, 98_362_432)

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        self.closed = True
        self._end.set()
        self._cancelled.set()

    def forecast(self, query: Query, route: Route, parts: Sequence[str]) -> Forecast:
        """Counts words; 0.5 J a word; the context holds ``context_tokens`` of them."""
        if not query.text.strip():
            return Forecast((), (), MODEL)
        self.forecast_asked.append(query.text)
        if self.forecast_error:
            raise self.forecast_error
        self.forecast_go.wait(DEADLINE_SECONDS)
        counts = tuple(TokenCount(len(part.split()), self.exact) for part in parts)
        tokens = sum(count.tokens for count in counts)
        arms = tuple(
            ArmForecast(
                arm,
                MODEL,
                None if factor is None else PredictedJoules(0.0, 0.0, tokens * factor),
            )
            for arm, factor in self.forecast_arms
        )
        context = self.context_tokens
        return Forecast(counts, arms, route.model or MODEL, context, context - 20, context - 10)

    def count_tokens(self, text: str, model: str) -> int:
        self.counted_for.append(model)
        return len(text.split())

    def run(
        self,
        query: Query,
        route: Route,
        replaces: str | None = None,
        prompt: str | None = None,
        *,
        tools: bool = False,
        names: str | None = None,
    ) -> Iterator[TurnEvent]:
        self.asked.append((query, route))
        self._cancelled.clear()
        if self.error:
            raise self.error
        if self.over_budget and not (self.confirm and self.confirm(self.over_budget)):
            raise EtuiError(self.over_budget, "wait an hour")
        arm = Arm(route.arm or "quick", route.model or MODEL)
        rule = self.why.partition(":")[0]
        decision = Decision(arm, route.policy, rule, self.why, signals=self.signals)
        yield Decided(decision)
        shown: list[Event] = []
        for started, texts, ended in self.hops:
            if started is not None:
                yield started
            yield from (Answer(time.monotonic_ns(), text, 1) for text in texts)
            yield ended
        for event in self._events():
            shown.append(event)
            yield event
            if self._cancelled.wait(1 / TOKENS_PER_SECOND):
                break
        while self.hold and not self.let_go.is_set() and not self._cancelled.is_set():
            self._cancelled.wait(0.01)
        record = self._record(query, decision, shown)
        record = replace(record, parent_id=query.parent_id)
        settings = {REPLACES: replaces, SAVED_PROMPT: prompt, NAMES: names}
        settings[CONTINUES] = query.options.continues
        record = replace(record, settings={k: v for k, v in settings.items() if v})
        self.saved.append(record)
        yield TurnFinished(record)

    def _events(self) -> Iterator[Event]:
        now = time.monotonic_ns()
        yield Prefilled(now, now + 1_000_000, 12, 0, 12)
        for text in self.thoughts:
            yield Thought(time.monotonic_ns(), text, 1)
        for text in self.pieces:
            yield Answer(time.monotonic_ns(), text, 1)

    def _record(self, query: Query, decision: Decision, shown: list[Event]) -> TurnRecord:
        now = time.monotonic_ns()
        prefilled = next(event for event in shown if isinstance(event, Prefilled))
        begun = query.last.content if query.last is not None else ""
        thoughts = [event for event in shown if isinstance(event, Thought)]
        answers = [event for event in shown if isinstance(event, Answer)]
        end = Finished(
            start_ns=prefilled.start_ns, prefill_end_ns=prefilled.end_ns,
            thinking_end_ns=thoughts[-1].t_ns if thoughts else prefilled.end_ns, end_ns=now,
            first_token_ns=prefilled.end_ns, why="",
            status="stopped" if self._cancelled.is_set() else "complete",
            answer=begun + "".join(event.text for event in answers),
            thinking="".join(event.text for event in thoughts),
            prompt_tokens=12, cached_tokens=0, computed_tokens=12,
            thinking_tokens=len(thoughts), output_tokens=len(thoughts) + len(answers),
        )  # fmt: skip
        energy, tokens, seconds = compute_account([Leg(end)], self.meter.energy)
        arm = decision.arm
        return turn_record(
            0, turn_id=f"turn-{len(self.saved)}", chat_id=query.chat_id, query=query.text,
            system=query.system, answer=end.answer, thinking=end.thinking, status=end.status,
            model=arm.model, arm=arm.name, reasoning=arm.reasoning, policy=decision.policy,
            rule=decision.rule, why=decision.why, tokens=tokens, seconds=seconds, energy=energy,
        )  # fmt: skip


@dataclass
class FakeShelf:
    """Models in memory; a pull runs through ``steps`` and puts the model there."""

    on_offer: tuple[ListedModel, ...] = (
        ListedModel(MODEL, "135M parameters, 98 MB", True),
        ListedModel("qwen3-0.6b", "0.6B parameters, 600 MB", False),
    )
    steps: tuple[int, ...] = (10_000_000, 98_000_000)
    error: EtuiError | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    pulled: list[str] = field(default_factory=list)
    measured: list[int] = field(default_factory=list)
    memory_error: EtuiError | None = None
    on_measured: Callable[[], object] = lambda: None
    of_others: tuple[FoundModel, ...] = ()
    searched: list[str] = field(default_factory=list)
    on_hub: Callable[[str], SearchResult] = lambda words: SearchResult(
        words, (), (), MachineFacts(), "the hub cannot be reached", "check the connection"
    )
    forecasts: list[DecodeForecast] = field(default_factory=list)  # Shown before each pull

    def search(self, words: str, limit: int, machine: MachineFacts) -> SearchResult:
        self.searched.append(words)
        return replace(self.on_hub(words), machine=machine)

    def models(self) -> Sequence[ListedModel]:
        return self.on_offer

    def pull(self, name: str, report: Report, forecast: DecodeForecast) -> str:
        self.forecasts.append(forecast)
        progress = Progress(name, "download", "wheels", 0, 98_000_000)
        for done in self.steps:
            report(replace(progress, done_bytes=done))
        while not self.go_on.wait(0.01):
            report(replace(progress, done_bytes=self.steps[-1]))
        if self.error:
            raise self.error
        report(replace(progress, step="verify", done_bytes=98_000_000))
        self.pulled.append(name)
        self.put_on_disk(name)
        return name.rpartition("/")[2].replace(":", "-").lower()  # the entry of a reference

    def found(self, read: object) -> Sequence[FoundModel]:
        return self.of_others

    def measure_memory(self, threads: int, is_busy: Callable[[], bool]) -> None:
        self.measured.append(threads)
        if self.memory_error:
            raise self.memory_error
        self.on_measured()

    def verify(self, name: str, report: Report) -> Verified:
        report(Progress(name, "verify", "file", 49_000_000, 98_000_000))
        while not self.go_on.wait(0.01):
            report(Progress(name, "verify", "file", 60_000_000, 98_000_000))
        if self.error:
            raise self.error
        return Verified(name, Path("file"), 98_000_000, "ab" * 32, "ab" * 32)

    def put_on_disk(self, name: str) -> None:
        self.on_offer = tuple(
            replace(model, on_disk=model.on_disk or model.name == name) for model in self.on_offer
        )


@dataclass
class FakeChats:
    """Chats in memory; the turns are those of the runner, and of ``kept``."""

    runner: FakeRunner
    kept: dict[str, tuple[ChatRecord, list[TurnRecord]]] = field(default_factory=dict)
    error: EtuiError | None = None
    today: SpendingTotals = field(default_factory=SpendingTotals)
    graded: dict[str, bool] = field(default_factory=dict)

    def chats(self, search: str) -> Sequence[ChatSummary]:
        if self.error:
            raise self.error
        found = [
            (chat, turns)
            for chat, turns in self.kept.values()
            if search in chat.name or any(search in t.query + t.answer for t in turns)
        ]
        return [
            ChatSummary(
                chat,
                chat.created_at,
                total_of(turns) if turns else None,
                max(1, len(tree_of(turns).leaves())),
            )
            for chat, turns in reversed(found)
        ]

    def turns(self, chat_id: str) -> Sequence[TurnRecord]:
        return self.kept[chat_id][1]

    def save(self, chat: ChatRecord) -> None:
        if self.error:
            raise self.error
        self.kept[chat.chat_id] = (chat, self.kept.get(chat.chat_id, (chat, []))[1])

    def delete(self, chat_id: str) -> None:
        del self.kept[chat_id]

    def grade(self, turn_id: str, good: bool | None) -> None:
        if self.error:
            raise self.error
        self.graded.pop(turn_id, None)
        if good is not None:
            self.graded[turn_id] = good

    def grades(self, turn_ids: Sequence[str]) -> dict[str, bool]:
        return {name: self.graded[name] for name in turn_ids if name in self.graded}

    def spending(self, route: Route) -> SpendingTotals:
        if self.error:
            raise self.error
        return self.today

    def keep(self, name: str, turns: Sequence[TurnRecord], chat_id: str = "chat-1") -> None:
        """Put a chat there; turns without a parent follow the turn before them."""
        chat = ChatRecord(chat_id, "2026-01-01T00:00:00Z", name)
        before = [None, *(turn.turn_id for turn in turns)]
        self.kept[chat_id] = (chat, [
            replace(turn, chat_id=chat_id, parent_id=turn.parent_id or parent)
            for turn, parent in zip(turns, before, strict=False)
        ])  # fmt: skip


def total_of(turns: Sequence[TurnRecord]) -> Total:
    joules = sum(turn.energy.joules or 0.0 for turn in turns)
    tokens = sum(turn.tokens.output for turn in turns)
    return Total("", len(turns), joules, None, "counter", None, 0, tokens, None, 1.0)


def turn_record(number: int, **changes: Any) -> TurnRecord:
    """A turn of the log, with 12.5 J and an answer of its own."""
    energy = TurnEnergy(
        joules=12.5, uncertainty=0.5, net_joules=10.0, idle_watts=5.0, kind="counter", coverage=1.0,
        mean_watts=25.0, peak_watts=30.0, joules_per_token=0.5,
        phases={"load": 0.0, "prefill": 2.5, "decode": 10.0}, thinking_joules=0.0, channels={},
        unmeasured=(), flags=(), start_ns=0, end_ns=500_000_000,
    )  # fmt: skip
    record = TurnRecord(
        turn_id=f"turn-of-log-{number}", created_at="2026-01-01T00:00:00Z", chat_id="chat-1",
        query=f"Question {number}?", system=None, answer=f"Answer {number}.", thinking="",
        status="complete", error=None, model=MODEL, model_sha256=None, arm="quick",
        reasoning="direct", policy="balanced", rule="everything-else",
        why="everything-else: no rule matched", tokens=Tokens(12, 0, 12, 0, 25),
        seconds=Seconds(0.0, 0.1, 0.4, 0.5, 0.1), energy=energy,
    )  # fmt: skip
    return replace(record, **changes)


@dataclass
class House:
    """The app with everything fake behind it."""

    config: Config
    meter: FakeMeter
    runner: FakeRunner
    shelf: FakeShelf
    chats: FakeChats
    routes: tuple[RouteChoice, ...] = ()

    def app(self, kind: type[EtuiApp] = EtuiApp) -> EtuiApp:
        backend = Services(
            self.runner,
            self.meter,
            self.shelf,
            self.chats,
            lambda: policy_names(self.config),
            list_routes=lambda _route: self.routes,
        )
        return kind(self.config, Route(self.config.policy), lambda _config: backend)
