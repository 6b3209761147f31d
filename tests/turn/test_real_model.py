"""A cascade on the starter model: what a hop of the same model computes anew is its instruction."""

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
from etui.engine.library import Library
from etui.engine.model import Model
from etui.events import Answer, Loaded, SharedBatch
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER, ModelSpec
from etui.multiple_choice import parse_options
from etui.reasoning.extraction import extract
from etui.routing.decision import Agreement, Cascade, Decision, Fallbacks, TurnBudget
from etui.runtime.energy_books import LOADS, EnergyBookkeeper
from etui.turn.events import TurnFinished
from etui.turn.shared_meter import BatchLedger, SharedMeter
from tests.backends.asker import Asker
from tests.support.power_curves import steps
from tests.turn.play import run_turn, serve_one_model
from tests.turn.scripted import Meter10W, Saved

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
        books.add(batch.model, batch.start_ns, batch.end_ns)
        if len(batch.shares) > 1:
            joined.set()

    for event in backend.load(spec, starter_model):
        if isinstance(event, Loaded):
            books.add(LOADS, event.start_ns, event.end_ns)
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


QUESTION = (
    "A farmer has three fields. The first is twice as large as the second, and the third is as "
    "large as both of the others together. Which of the three fields is the largest?\n"
    "A) the first\nB) the second\nC) the third\nD) none of them"
)
CHOOSE = Arm("choose", STARTER, readout="choices")
DIRECT = Arm("direct", STARTER, max_tokens=6)
THINK = Arm("think", STARTER, "cot", think_tokens=8, max_tokens=4)


@pytest.fixture(scope="module")
def engine(starter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    config = Config(home=tmp_path_factory.mktemp("home"), models_dir=starter_model.parent)
    with closing(LocalBackend(replace(config, threads=1, context_tokens=512))) as engine:
        yield engine


def ask(engine: LocalBackend, path: Path, decision: Decision, config: Config, salt: str):
    """The record of a turn; the salt stands first, so that no earlier test left a prefix."""
    spec = load_catalogue(config).models[STARTER]
    turn = run_turn(
        Query(f"{salt} {QUESTION}"),
        decision,
        serve=serve_one_model(spec, path),
        answerer=engine,
        meter=Meter10W(),
        writer=Saved(),
    )
    (finished,) = [event for event in turn if isinstance(event, TurnFinished)]
    return finished.record


def question_tokens(path: Path, tmp_path: Path) -> int:
    library = Library(tmp_path)
    model = Model(library, path)
    count = len(model.tokenize(QUESTION))
    model.free()
    library.close()
    return count


@pytest.mark.parametrize("first", [CHOOSE, DIRECT])
def test_a_hop_of_the_same_model_reuses_the_question(
    engine, starter_model, config, tmp_path, first
):
    cascade = Cascade((first, THINK), accept_at=1.0, max_hops=2)
    decision = Decision(first, "p", "r", "r: always", cascade=cascade)
    record = ask(engine, starter_model, decision, config, f"Puzzle {first.name}:")
    one, two = record.hops
    assert (one.arm, two.arm) == (first.name, "think")
    assert one.tokens.cached < 40  # the template's words at most
    assert two.tokens.cached >= question_tokens(starter_model, tmp_path)
    assert two.tokens.computed < one.tokens.computed
    assert record.tokens.thinking > 0
    assert record.energy.joules == pytest.approx(one.joules + two.joules)
    assert record.energy.joules == pytest.approx(10 * record.seconds.total)


def test_asking_for_the_letter_alone_costs_no_second_reading(
    engine, starter_model, config, tmp_path
):
    mute = replace(DIRECT, max_tokens=1)
    fallbacks = Fallbacks(no_answer="ask_constrained")
    decision = Decision(mute, "p", "r", "r: always", fallbacks=fallbacks)
    record = ask(engine, starter_model, decision, config, "Riddle:")
    one, two = record.hops
    assert one.tokens.output <= 1
    assert record.answer[:2] in ("A)", "B)", "C)", "D)")
    assert two.tokens.cached >= question_tokens(starter_model, tmp_path)
    assert two.tokens.output == 0


def test_a_budget_of_tokens_ends_a_real_answer(engine, starter_model, config):
    long = replace(DIRECT, max_tokens=200)
    decision = Decision(long, "p", "r", "r: always", budget=TurnBudget(tokens=5))
    record = ask(engine, starter_model, decision, config, "Tell me all you know about it:")
    assert (record.status, record.tokens.output) == ("budget", 5)
    assert record.settings["ended"].startswith("the turn's budget of 5 tokens ended the answer")


def test_two_arms_that_agree_answer_on_one_prompt(engine, starter_model, config, tmp_path):
    """The same letter is accepted, another goes up; the second arm reuses the question."""
    step = Agreement((CHOOSE.name, DIRECT.name), accept_at=0.01)
    cascade = Cascade((CHOOSE, DIRECT, THINK), 0.99, 3, None, (step,))
    decision = Decision(CHOOSE, "p", "r", "r: always", cascade=cascade)
    record = ask(engine, starter_model, decision, config, "Do two agree:")
    first, second, *rest = record.hops
    assert (first.arm, second.arm, first.step, second.step) == ("choose", "direct", 1, 1)
    assert second.tokens.cached >= question_tokens(starter_model, tmp_path)
    said = extract(second.answer, QUESTION, parse_options(QUESTION)).key
    assert second.accepted == (said == first.answer.strip())
    assert [hop.step for hop in rest] == ([] if second.accepted else [2])
    joules = [hop.joules for hop in record.hops]
    assert None not in joules
    # Every hop is charged; the turn also has the moments between them.
    assert 0 < sum(filter(None, joules)) <= (record.energy.joules or 0.0) * 1.001
