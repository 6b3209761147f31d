"""A node of a cluster whose engine only waits: what is left is the cost of the carrier.

Ray opens it by name in the process of a node. ``ETUI_FAKE_SECONDS`` is the time of a question.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from threading import Event

from etui.bench.config import BenchModel, RunConfig
from etui.bench.sample import Sample
from etui.bench.scoring import SubjectWork
from etui.cluster.messages import CurvePoint, Opening, Task
from etui.energy.types import Energy, EnergyOf, Kind
from etui.turn.record import Tokens

OPENER = "benchmarks.fake_node:FakeMachine"
SECONDS = "ETUI_FAKE_SECONDS"
WATTS = 10.0
MODEL = "smollm2-135m"


class SteadyMeter:
    """A meter of a machine that always draws the same power, and is never waited for."""

    def settle(self, end_ns: int) -> None:
        """Return at once."""

    def mark(self, t_ns: int, phase: str = "") -> None:
        """Ignore it: nothing steps."""

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return watts times seconds."""
        joules = WATTS * (end_ns - start_ns) / 1e9
        return Energy(start_ns, end_ns, joules, 0.0, Kind.COUNTER, 1.0)

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> list[tuple[int, float | None]]:
        """Return the same watts everywhere."""
        return [(start_ns, WATTS)] * points


@dataclass(frozen=True, slots=True)
class WaitedAnswer:
    """A question that was waited for."""

    system: str
    subject: str
    row: int
    start_ns: int
    end_ns: int

    def samples(self, energy_of: EnergyOf) -> list[Sample]:
        """Return the answer: always A."""
        energy = energy_of(self.start_ns, self.end_ns)
        return [
            Sample(
                arm=self.system, subject=self.subject, row=self.row, answer="A", choice="A",
                correct=True, status="answered", text="", logprobs=None, letter_mass=None,
                confidence=None, margin=None, shots=0, tokens=Tokens(9, 0, 9, 0, 1),
                prefix_tokens=0.0, joules=energy.joules, uncertainty=energy.uncertainty,
                kind="counter", prefill_joules=energy.joules, decode_joules=0.0,
                seconds=(self.end_ns - self.start_ns) / 1e9, prompt_sha256="0" * 16,
            )
        ]  # fmt: skip


@dataclass(slots=True)
class WaitingSystem:
    """Answers each question after a fixed time."""

    name: str
    seconds: float

    def answer(self, work: SubjectWork) -> Iterator[WaitedAnswer]:
        """Answer the questions that are left."""
        for question in work.questions:
            if question.row not in work.done:
                yield wait_for(self.name, work.subject, question.row, self.seconds)


def wait_for(system: str, subject: str, row: int, seconds: float) -> WaitedAnswer:
    """Wait as long as an engine would compute."""
    start_ns = time.monotonic_ns()
    Event().wait(seconds)
    return WaitedAnswer(system, subject, row, start_ns, time.monotonic_ns())


def describe_fake(plan: RunConfig, models: Mapping[str, str | None]) -> RunConfig:
    """Describe a run on the fake machine."""
    loaded = tuple(
        BenchModel(name, None, 0, 0, 4096, 8, 512, "f16", "auto", "single") for name in models
    )
    machine = {"name": "a fake", "memory_bytes": 1 << 30}
    return replace(plan, models=loaded, machine=machine, energy={"channels": {"fake:0": "counter"}})


@dataclass(slots=True)
class FakeMachine:
    """See :class:`etui.cluster.node.NodeMachine`."""

    seconds: float = field(default_factory=lambda: float(os.environ.get(SECONDS, "0.05")))
    meter: SteadyMeter = field(default_factory=SteadyMeter)
    host: str = "fake"
    tariff: None = None

    def open(self, opening: Opening, emit: Callable[[RunConfig], None]) -> None:
        """Load nothing."""
        emit(describe_fake(opening.config, opening.models))

    def answer(self, task: Task) -> Iterator[WaitedAnswer]:
        """Answer a piece."""
        for row in task.piece.rows:
            if row not in task.done:
                yield wait_for(task.piece.system, task.piece.subject, row, self.seconds)

    def measure_curves(self, task: Task, emit: Callable[[CurvePoint], None]) -> None:
        """Measure none."""

    def finish(self, emit: Callable[[object], None]) -> None:
        """Save nothing: no curve was measured."""

    def allow(self) -> None:
        """Ignore it."""

    def stop(self) -> None:
        """Ignore it: a question is short."""
