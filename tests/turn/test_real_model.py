"""A cascade on the starter model: what a hop of the same model computes anew is its instruction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etui.arm import Arm
from etui.backends.local import LocalBackend
from etui.chat import Query
from etui.config.config import Config
from etui.engine.library import Library
from etui.engine.model import Model
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.multiple_choice import parse_options
from etui.reasoning.extraction import extract
from etui.routing.decision import Agreement, Cascade, Decision, Fallbacks, TurnBudget
from etui.turn.events import TurnFinished
from etui.turn.interfaces import Unlogged
from tests.turn.play import run_turn, serve_one_model
from tests.turn.scripted import Meter10W

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
        writer=Unlogged(),
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
