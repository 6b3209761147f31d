"""Arms that answer by script on a clock of their own: ten watts, seconds that are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from etui.arm import Arm
from etui.chat import Query
from etui.errors import EtuiError
from etui.events import Answer, Finished, Loaded, Prefilled, Unloaded
from etui.models.spec import ModelSpec
from etui.routing.decision import (
    Agreement,
    Cascade,
    Decision,
    Fallbacks,
    PredictedAgreement,
    PredictedJoules,
    TurnBudget,
)
from etui.turn.interfaces import ResolvedModel
from tests.turn.play import run_turn
from tests.turn.scripted import Meter10W, S, Saved

CHOICE = "Which planet is red?\nA) Venus\nB) Mars"
QUICK, THINK, LARGE = (
    Arm("quick", "small"),
    Arm("think", "small", "cot"),
    Arm("large", "big", max_tokens=64),
)


@dataclass
class Part:
    """What one arm does when it is asked: seconds of each phase, its text, how it ends."""

    answer: str = "Mars."
    confidence: float | None = 0.5
    prefill: float = 1.0
    decode: float = 2.0
    load: float | None = None
    unload: float | None = None
    tokens: int = 4
    cached: int = 0
    status: str = "complete"
    why: str = ""
    failure: BaseException | None = None
    fails_at: str = "load"


@dataclass
class Stage:
    """An answerer, its clock, and the ``serve`` that goes with both."""

    parts: dict[str, Part | list[Part]]
    missing: dict[str, EtuiError] = field(default_factory=dict)
    now_ns: int = 100 * S
    requests: list = field(default_factory=list)
    hurried: int = 0
    cancelled: int = 0
    between_s: float = 0.5
    after_hurry: str | None = None
    fallbacks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def clock(self) -> int:
        return self.now_ns

    def serve(self, arm: Arm) -> ResolvedModel:
        self.now_ns += int(self.between_s * S)
        if arm.model in self.missing:
            raise self.missing[arm.model]
        spec = ModelSpec(arm.model, "tiny", (), sha256=arm.model * 8)
        others = self.fallbacks.get(arm.model, ())
        return ResolvedModel(spec, Path("m.gguf"), fallbacks=others)

    def cancel(self) -> None:
        self.cancelled += 1

    def hurry(self) -> None:
        self.hurried += 1

    def _spend(self, seconds: float) -> tuple[int, int]:
        start = self.now_ns
        self.now_ns += int(seconds * S)
        return start, self.now_ns

    def answer(self, request):
        self.requests.append(request)
        found = self.parts[request.arm.name]
        part = found.pop(0) if isinstance(found, list) else found
        if part.unload is not None:
            yield Unloaded("old", None, *self._spend(part.unload), "room", 1)
        if part.failure is not None and part.fails_at == "load":
            raise part.failure
        if part.load is not None:
            yield Loaded(request.model.name, *self._spend(part.load), 0, 1000)
        start, middle = self._spend(part.prefill)
        yield Prefilled(start, middle, 20, part.cached, 20 - part.cached)
        status, why, told = part.status, part.why, 0
        for _ in range(part.tokens):
            self._spend(part.decode / part.tokens)
            told += 1
            yield Answer(self.now_ns, part.answer if told == part.tokens else "", 1)
            if part.failure is not None:
                raise part.failure
            if self.hurried:
                status, why = "budget", f"the budget ended the answer after {told} tokens"
                break
        yield Finished(
            start_ns=start,
            prefill_end_ns=middle,
            thinking_end_ns=middle,
            end_ns=self.now_ns,
            first_token_ns=middle,
            status=status,
            why=why,
            answer=part.answer,
            thinking="",
            prompt_tokens=20,
            cached_tokens=part.cached,
            computed_tokens=20 - part.cached,
            thinking_tokens=0,
            output_tokens=told,
            confidence=part.confidence,
            margin=None,
        )


@dataclass
class Known:
    """An predictor that halves every confidence and knows the joules of some arms."""

    joules_of: dict[str, float] = field(default_factory=dict)
    calibrates: bool = True
    load: float = 0.0
    odds: dict[tuple[str, ...], PredictedAgreement] = field(default_factory=dict)

    def joules(self, arm, query):
        joules = self.joules_of.get(arm.name)
        return None if joules is None else PredictedJoules(self.load, 0.0, joules)

    def accuracy(self, arm, query, confidence):
        return None

    def calibrated(self, arm, confidence, margin):
        return confidence / 2 if self.calibrates and confidence is not None else None

    def agreement(self, arms, raw=()):
        return self.odds.get(tuple(arm.name for arm in arms))


def decided(
    *arms: Arm,
    accept_at: float = 0.75,
    max_hops: int | None = None,
    max_joules: float | None = None,
    budget: TurnBudget | None = None,
    agreements: tuple[Agreement, ...] = (),
    **fallbacks,
) -> Decision:
    """A decision for one arm, or for the cascade of several."""
    cascade = None
    if len(arms) > 1:
        cascade = Cascade(arms, accept_at, max_hops or len(arms), max_joules, agreements)
    return Decision(
        arms[0],
        "trial",
        "rule",
        "rule: because",
        cascade=cascade,
        budget=budget,
        fallbacks=Fallbacks(**fallbacks),
    )


@dataclass
class Played:
    """A turn that has ended: its events, its record, its error."""

    events: list
    saved: Saved
    error: BaseException | None

    @property
    def record(self):
        return self.saved.turns[0]

    def of(self, kind) -> list:
        return [event for event in self.events if isinstance(event, kind)]


def play(
    stage: Stage,
    decision: Decision,
    *,
    query: str = "Which planet is red?",
    predictor=None,
    meter=None,
    cancelled: Callable[[], bool] = lambda: False,
    seen: Callable[[object], None] = lambda event: None,
    saved: Saved | None = None,
) -> Played:
    """Run a turn to its end."""
    saved, events, error = saved or Saved(), [], None
    turn = run_turn(
        Query(query),
        decision,
        serve=stage.serve,
        answerer=stage,
        meter=meter or Meter10W(),
        writer=saved,
        predictor=predictor,
        cancelled=cancelled,
        clock_ns=stage.clock,
    )
    try:
        for event in turn:
            events.append(event)
            seen(event)
    except EtuiError as failure:
        error = failure
    return Played(events, saved, error)
