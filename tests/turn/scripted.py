"""A turn by script: its events, ten watts, and a log in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from etui.arm import Arm
from etui.chat import Query
from etui.energy.types import ChannelEnergy, Energy, Kind
from etui.events import Answer, Finished, Loaded, Prefilled, Thought
from etui.models.spec import ModelSpec
from etui.routing.decision import Decision
from etui.turn.record import LoadRecord, TurnRecord, UnloadRecord
from tests.metering import Sliced
from tests.turn.play import run_turn, serve_one_model

S = 1_000_000_000
SPEC = ModelSpec("m", "tiny", (), sha256="ab" * 32)
DECISION = Decision(Arm("quick", "m"), "frugal", "default", "default: nothing else matched")


class Meter10W(Sliced):
    """Ten watts, always; remembers which end was settled."""

    def __init__(self, joules_known: bool = True) -> None:
        self.known = joules_known
        self.settled: list[int] = []

    def settle(self, end_ns: int) -> None:
        self.settled.append(end_ns)

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        if not self.known:
            return Energy(start_ns, end_ns, None, None, None, 0.0, unmeasured=("package:0",))
        joules = 10.0 * (end_ns - start_ns) / S
        channel = ChannelEnergy("gpu:0", Kind.COUNTER, joules, 0.5, 1.0, 10.0)
        return Energy(
            start_ns,
            end_ns,
            joules,
            0.5,
            Kind.COUNTER,
            1.0,
            idle_watts=4.0,
            mean_watts=10.0,
            channels=(channel,),
        )


@dataclass
class Saved:
    turns: list[TurnRecord] = field(default_factory=list)
    loads: list[LoadRecord] = field(default_factory=list)
    unloads: list[UnloadRecord] = field(default_factory=list)

    def save(self, record: TurnRecord | LoadRecord | UnloadRecord) -> None:
        match record:
            case TurnRecord():
                self.turns.append(record)
            case LoadRecord():
                self.loads.append(record)
            case UnloadRecord():
                self.unloads.append(record)


@dataclass
class Scripted:
    """Yields events, then raises what it was given."""

    events: list
    failure: BaseException | None = None
    cancelled: int = 0
    hurried: int = 0

    def answer(self, request):
        self.request = request
        yield from self.events
        if self.failure is not None:
            raise self.failure

    def cancel(self) -> None:
        self.cancelled += 1

    def hurry(self) -> None:
        self.hurried += 1


def finished(**changes) -> Finished:
    values = {
        "start_ns": 10 * S,
        "prefill_end_ns": 11 * S,
        "thinking_end_ns": 13 * S,
        "end_ns": 15 * S,
        "first_token_ns": 11 * S,
        "status": "complete",
        "why": "",
        "answer": "Four.",
        "thinking": "Two and two.",
        "prompt_tokens": 20,
        "cached_tokens": 5,
        "computed_tokens": 15,
        "thinking_tokens": 6,
        "output_tokens": 8,
    }
    return Finished(**{**values, **changes})


LOADED = Loaded("m", 7 * S, 10 * S, 0, 1000)
EVENTS = [
    LOADED,
    Prefilled(10 * S, 11 * S, 20, 5, 15),
    Thought(12 * S, "Two and two.", 6),
    Answer(14 * S, "Four.", 2),
]


def turn(answerer, meter=None, saved=None, query=None, decision=DECISION, settings=None, spec=SPEC):
    return run_turn(
        query or Query("2+2?"),
        decision,
        serve=serve_one_model(spec, Path("m.gguf")),
        answerer=answerer,
        meter=meter or Meter10W(),
        writer=saved if saved is not None else Saved(),
        settings=settings,
        clock_ns=lambda: 16 * S,
    )
