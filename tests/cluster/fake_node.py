"""A node without a model: it answers at once or after a while, and its meter counts watts.

Real processes of Ray open it by name, so its settings come from the environment of their raylet:
``ETUI_FAKE_NODE`` is a JSON object with the fields of :class:`Behaviour`.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass, field, replace
from threading import Event

from etui.bench.config import BenchModel
from etui.bench.sample import Sample
from etui.calibration.measure import MeasuredPoint
from etui.cluster.host import HostMeter
from etui.cluster.messages import CurvePoint, Measured
from etui.cluster.open_nodes import refuse_other_hash
from etui.curves.fit import TurnPoint
from etui.energy.types import Energy, Kind
from etui.errors import EtuiError, UsageError
from etui.measure.progress import Progress
from etui.measure.run import StopRequested
from etui.turn.record import Tokens

OPENER = "tests.cluster.fake_node:FakeNode"
WATTS = 10.0
SHA256 = "ab" * 32


@dataclass(frozen=True)
class Behaviour:
    """How a fake node behaves."""

    seconds: float = 0.0
    sha256: str = SHA256
    data_sha256: str | None = None
    memory_bytes: int = 8 << 30
    open_error: str | None = None
    answer_error: str | None = None
    answer_exit_code: int = 1


def read_behaviour():
    """Read what the environment describes."""
    return Behaviour(**json.loads(os.environ.get("ETUI_FAKE_NODE", "{}")))


def make_sample(system, subject, row, joules=2.0):
    right = (len(system) + len(subject) + row) % 3 != 0  # a pure function of the question
    return Sample(
        arm=system, subject=subject, row=row, answer="A", choice="A" if right else "B",
        correct=right, status="answered", text="", logprobs=None, letter_mass=None,
        confidence=None, margin=None, shots=0, tokens=Tokens(9, 0, 9, 0, 1), prefix_tokens=0.0,
        joules=joules, uncertainty=None if joules is None else 0.1,
        kind=None if joules is None else "counter", prefill_joules=joules, decode_joules=0.0,
        seconds=1.0, prompt_sha256="ab" * 8,
    )  # fmt: skip


class WattMeter:
    """A meter of a machine that always draws the same power."""

    def settle(self, end_ns):
        """Every reading is final at once."""

    def mark(self, t_ns, phase=""):
        """Nothing steps."""

    def power_curve(self, start_ns, end_ns, points):
        return [((start_ns + end_ns) // 2, WATTS)] * points

    def energy(self, start_ns, end_ns):
        joules = WATTS * (end_ns - start_ns) / 1e9
        return Energy(start_ns, end_ns, joules, 0.01 * joules, Kind.COUNTER, 1.0)


@dataclass(frozen=True)
class FakeAnswered:
    system: str
    subject: str
    row: int
    start_ns: int
    end_ns: int

    def samples(self, energy_of):
        energy = energy_of(self.start_ns, self.end_ns)
        return [make_sample(self.system, self.subject, self.row, energy.joules)]


@dataclass
class FakeNode:
    """See :class:`etui.cluster.node.NodeMachine`."""

    behaviour: Behaviour = field(default_factory=read_behaviour)
    meter: WattMeter = field(default_factory=WattMeter)
    stopped: Event = field(default_factory=Event)
    host: str = field(default_factory=lambda: str(uuid.uuid4()))
    finished: int = 0
    tariff: object = None

    def open(self, opening, emit):
        if self.behaviour.open_error is not None:
            raise EtuiError(self.behaviour.open_error, "fix it there")
        asked = opening.config
        refuse_other_hash(
            f"the data of {asked.suite}", self.behaviour.data_sha256, asked.data_sha256
        )
        emit(Progress("loading"))
        if opening.host is not None:
            self.meter = HostMeter(WattMeter(), opening.host)
        models = []
        for name in opening.models:
            refuse_other_hash(name, self.behaviour.sha256, opening.models[name])
            models.append(make_model(name, self.behaviour.sha256))
        machine = {"name": "A processor", "memory_bytes": self.behaviour.memory_bytes}
        found = replace(
            asked,
            models=tuple(models),
            machine=machine,
            energy={"channels": {"package:0": "counter"}},
        )
        emit(found)

    def answer(self, task):
        piece = task.piece
        for row in piece.rows:
            if row in task.done:
                continue
            start_ns = time.monotonic_ns()
            if self.behaviour.answer_error is not None:
                kind = UsageError if self.behaviour.answer_exit_code == 2 else EtuiError
                raise kind(self.behaviour.answer_error)
            if self.behaviour.seconds:
                self.stopped.wait(self.behaviour.seconds)
            if self.stopped.is_set():
                raise StopRequested
            yield FakeAnswered(piece.system, piece.subject, row, start_ns, time.monotonic_ns())

    def measure_curves(self, task, emit):
        if task.opening.points is not None:
            turn = TurnPoint(32, 0, 8, 1.5, 2.5, 0.1, None, 0.25, 0.5)
            for model in task.opening.models:
                emit(CurvePoint(model, MeasuredPoint(False, turn, Kind.COUNTER, False), 4.0))

    def finish(self, emit):
        self.finished += 1

    def measure(self, request, emit):
        while True:
            emit(Progress("1 of 2", 1, 2))
            if self.stopped.wait(0.01 if request.fresh else 0):
                raise KeyboardInterrupt
            if not request.fresh:
                break
        emit(Measured(True, folder=request.model))

    def allow(self):
        self.stopped.clear()

    def stop(self):
        self.stopped.set()


def make_model(name, sha256):
    return BenchModel(
        name=name, sha256=sha256, file_bytes=1, gpu_layers=0, context_tokens=4096, sequences=8,
        batch_tokens=512, kv_type="f16", flash_attention="auto", letters="single",
    )  # fmt: skip
