"""Turns of several clients on one machine whose power is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.attribution import CurveMeter
from etui.arm import Arm, TokenCost
from etui.chat import Query
from etui.errors import EngineFailed
from etui.events import Answer, BatchShare, Event, Finished, Prefilled, SharedBatch
from etui.models.spec import ModelSpec
from etui.routing.decision import Decision
from etui.turn.interfaces import Meter
from etui.turn.shared_meter import BatchLedger, SharedMeter
from tests.support.power_curves import WattCurve, steps
from tests.turn.play import run_turn, serve_one_model
from tests.turn.scripted import DECISION, Saved

S = 1_000_000_000
COST = TokenCost(2.0, joules_per_prompt_token=0.5)
"""F = 1.5 J a batch, m = 0.5 J a token."""


def batch(start_s: float, end_s: float, *shares: tuple[int, int, int]) -> SharedBatch:
    """A batch of (number, prompt tokens, decoded tokens)."""
    parts = tuple(BatchShare(*share) for share in shares)
    return SharedBatch("m", round(start_s * S), round(end_s * S), parts)


def ledger_of(*batches: SharedBatch) -> BatchLedger:
    ledger = BatchLedger()
    for each in batches:
        ledger.add(each)
    return ledger


def meter_of(
    machine: Meter, ledger: BatchLedger, *numbers: int, cost: TokenCost | None = COST
) -> SharedMeter:
    return SharedMeter(machine, ledger, lambda: numbers, lambda model: cost)


def watts(*levels: tuple[float, float]) -> CurveMeter:
    """A machine with plateaus of (seconds, watts)."""
    return CurveMeter(steps(levels))


def any_curve() -> WattCurve:
    return steps([(0.7, 90.0), (0.4, 240.0), (1.1, 30.0), (3.0, 150.0), (9.0, 60.0)])


@dataclass
class Client:
    """An answerer that shares batches: its events come while others are in the same batches."""

    number: int
    start_ns: int
    prefill_end_ns: int
    end_ns: int
    failure: EngineFailed | None = None
    cancelled: int = 0
    clock_ns: int = 0
    requests: list = field(default_factory=list)

    def events(self) -> Iterator[Event]:
        yield Prefilled(self.start_ns, self.prefill_end_ns, 20, 0, 20)
        yield Answer(self.end_ns, "Mars.", 3)
        if self.failure is not None:
            raise self.failure
        yield Finished(
            start_ns=self.start_ns,
            prefill_end_ns=self.prefill_end_ns,
            thinking_end_ns=self.prefill_end_ns,
            end_ns=self.end_ns,
            first_token_ns=self.prefill_end_ns,
            status="stopped" if self.cancelled else "complete",
            why="",
            answer="Mars.",
            thinking="",
            prompt_tokens=20,
            cached_tokens=0,
            computed_tokens=20,
            thinking_tokens=0,
            output_tokens=3,
        )

    def answer(self, request) -> Iterator[Event]:
        self.requests.append(request)
        return self.events()

    def cancel(self) -> None:
        self.cancelled += 1

    def hurry(self) -> None:
        pass

    def play(
        self,
        meter: Meter,
        *,
        query: Query | None = None,
        decision: Decision = DECISION,
        saved: Saved | None = None,
        seen: Callable[[Event], None] = lambda event: None,
        **options,
    ) -> Saved:
        """Run the turn to its end, whatever that is."""
        saved = saved if saved is not None else Saved()
        turn = run_turn(
            query or Query("Which planet is red?"),
            decision,
            serve=serve_one_model(ModelSpec("m", "tiny", (), sha256="ab" * 32), Path("m.gguf")),
            answerer=self,
            meter=meter,
            writer=saved,
            clock_ns=lambda: self.clock_ns or self.start_ns,
            **options,
        )
        with suppress(*([EngineFailed] if self.failure is not None else [])):
            for event in turn:
                seen(event)
        return saved


ARM = Arm("quick", "m")


def total(values: Sequence[float | None]) -> float:
    """Sum joules that must all be known."""
    assert None not in values
    return sum(value for value in values if value is not None)
