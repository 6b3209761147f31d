"""Turns that share batches of the starter model: with the idle time they have all joules."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.attribution import CurveMeter
from etui.arm import Arm, Sampling, TokenCost
from etui.backends.local import LocalBackend
from etui.chat import Query
from etui.config.config import Config
from etui.events import Answer, Loaded, SharedBatch
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER, ModelSpec
from etui.routing.decision import Decision
from etui.runtime.energy_books import EnergyBookkeeper
from etui.turn.shared_meter import BatchLedger, SharedMeter
from tests.backends.asker import Asker
from tests.support.power_curves import steps
from tests.turn.play import run_turn, serve_one_model
from tests.turn.scripted import Saved

WAIT_SECONDS = 60
S = 1_000_000_000
QUESTIONS = (
    "Write a long story about a ship and its crew.",
    "Write two sentences about the sea.",
    "What is the capital of France?",
    "Count from one to ten.",
)
ARM = Arm("quick", STARTER, max_tokens=24, sampling=Sampling(temperature=0))
LONG = replace(ARM, max_tokens=400)
"""Goes on until it is stopped."""


@pytest.fixture
def spec(config: Config) -> ModelSpec:
    return replace(load_catalogue(config).models[STARTER], context=2048)


@pytest.fixture
def backend(config: Config, starter_model: Path) -> Iterator[LocalBackend]:
    config = replace(config, models_dir=starter_model.parent, threads=1, parallel=4)
    with closing(LocalBackend(config)) as backend:
        yield backend


def test_turns_in_real_batches_and_idle_time_have_all_joules(
    backend: LocalBackend, spec: ModelSpec, starter_model: Path
) -> None:
    begin_ns = time.monotonic_ns()
    # Another power every 7 ms, for longer than the test can take.
    levels = [(begin_ns / S, 10.0), *((0.007, 20.0 + 37 * i % 211) for i in range(60_000))]
    machine, ledger = CurveMeter(steps(levels)), BatchLedger()
    books = EnergyBookkeeper(machine, begin_ns)
    batches: list[SharedBatch] = []
    joined = threading.Event()

    def report(batch: SharedBatch) -> None:
        batches.append(batch)
        ledger.add(batch)
        books.add_turn(batch.model, batch.start_ns, batch.end_ns)
        if len(batch.shares) > 1:
            joined.set()

    for event in backend.load(spec, starter_model):
        if isinstance(event, Loaded):
            books.add_load(event.start_ns, event.end_ns)
    backend.on_batch = report
    cost = TokenCost(2.0, joules_per_prompt_token=0.1)
    start, saved = threading.Barrier(len(QUESTIONS)), Saved()
    faults: list[BaseException] = []

    def ask(number: int) -> None:
        answerer = Asker(backend)
        meter = SharedMeter(machine, ledger, lambda: answerer.numbers, lambda model: cost)
        stopped = threading.Event()
        start.wait(WAIT_SECONDS)
        try:
            for event in run_turn(
                Query(QUESTIONS[number]),
                Decision(ARM if number else LONG, None, None, ""),
                serve=serve_one_model(spec, starter_model),
                answerer=answerer,
                meter=meter,
                writer=saved,
                cancelled=stopped.is_set,
                turn_id=f"turn-{number}",
            ):
                if isinstance(event, Answer) and number == 0 and joined.is_set():
                    stopped.set()  # leaves while the others go on
        except BaseException as error:  # noqa: BLE001 - shown by the test
            faults.append(error)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(QUESTIONS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert not faults
    end_ns = time.monotonic_ns()
    by_id = {turn.turn_id: turn for turn in saved.turns}
    assert len(by_id) == len(QUESTIONS)
    assert by_id["turn-0"].status == "stopped"
    assert max(len(batch.shares) for batch in batches) > 1
    read, whole = books.read(end_ns), machine.energy(begin_ns, end_ns).joules
    turns = math.fsum(turn.energy.joules or 0.0 for turn in saved.turns)
    assert read.total == pytest.approx(whole, rel=1e-9)
    assert read.loads is not None
    assert read.loads > 0
    assert turns == pytest.approx(read.turns, rel=1e-9)
    for turn in saved.turns:
        phases = turn.energy.phases
        both = (phases["prefill"] or 0.0) + (phases["decode"] or 0.0)
        assert both == pytest.approx(turn.energy.joules, rel=1e-9)
        assert turn.energy.attribution is not None
        assert turn.energy.attribution.batches > 0
    assert "shapley" in {
        turn.energy.attribution.method for turn in saved.turns if turn.energy.attribution
    }
