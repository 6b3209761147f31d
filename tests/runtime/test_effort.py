"""How much an answer thinks, by the effort that a client asks for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from etui.arm import OPEN_SAMPLING, VOTE_TEMPERATURE, Arm, EarlyExit, Sampling
from etui.chat import Query
from etui.config.config import Config
from etui.errors import InvalidRequest
from etui.log.writer import TurnWriter
from etui.models.catalogue import load_catalogue
from etui.models.files import model_path
from etui.routing.decision import Cascade, Decision
from etui.runtime.decide import THINK_TOKENS, Overrides, apply_effort, check_effort, choose
from etui.runtime.model_resolution import resolve_sampling
from etui.runtime.runtime import Runtime, open_runtime
from etui.text import utc_now
from tests.fixtures.turns import TURN

MINE = """
version: 1
arms:
  quick: {model: smollm2-135m}
  think: {model: smollm2-135m, reasoning: cot, think_tokens: 99}
  large: {model: qwen3-8b, reasoning: cot}
rules: [{name: all, use: quick}]
efforts: {high: think, none: quick, xhigh: large}
"""


def decide(arm: Arm, effort: str) -> Decision:
    return apply_effort(Decision(arm, "mine", "all", "all: no rule matched"), effort)


def test_the_ladder_doubles_and_medium_is_the_usual_budget() -> None:
    steps = list(THINK_TOKENS.values())
    assert steps[0] == 0
    assert all(high == 2 * low for low, high in pairwise(steps[1:]))
    assert THINK_TOKENS["medium"] == Arm("a", "m").think_tokens


@pytest.mark.parametrize("effort", [effort for effort in THINK_TOKENS if effort != "none"])
def test_a_direct_arm_thinks_as_much_as_asked(effort: str) -> None:
    decision = decide(Arm("quick", "m", readout="choices", max_tokens=7), effort)
    arm = decision.arm
    assert (arm.reasoning, arm.think_tokens) == ("cot", THINK_TOKENS[effort])
    assert (arm.name, arm.model, arm.readout, arm.max_tokens) == ("quick", "m", "text", 7)
    assert f"reasoning_effort {effort}: up to {arm.think_tokens} thinking tokens" in decision.why
    assert decision.why.startswith("all: no rule matched; ")


def test_none_answers_directly() -> None:
    thinks = Arm("think", "m", "cot", early_exit=EarlyExit(), exchange=3.0, style="native")
    decision = decide(thinks, "none")
    assert decision.arm == replace(
        thinks, reasoning="direct", early_exit=None, exchange=None, style="auto"
    )
    assert decision.why.endswith("reasoning_effort none: without thinking")
    direct = Arm("quick", "m", readout="choices")
    assert decide(direct, "none").arm == direct


def test_votes_think_as_much_each_and_none_takes_one_answer() -> None:
    votes = Arm(
        "votes",
        "m",
        "vote",
        sampling=Sampling(temperature=VOTE_TEMPERATURE, seed=3),
        sampling_from=replace(OPEN_SAMPLING, temperature="vote"),
    )
    high = decide(votes, "high").arm
    assert (high.reasoning, high.votes, high.think_tokens) == ("vote", votes.votes, 512)
    single = decide(votes, "none").arm
    assert (single.reasoning, single.sampling.temperature, single.sampling.seed) == ("direct", 0, 3)
    resolved = resolve_sampling(single, None, "gguf", tags=False)
    assert resolved.sampling.temperature == 0


def test_a_cascade_is_reduced_to_its_first_arm() -> None:
    arms = (Arm("a", "m"), Arm("b", "n"))
    before = Decision(arms[0], "mine", "all", "why", cascade=Cascade(arms, 0.5, 2))
    after = apply_effort(before, "low")
    assert (after.cascade, after.arm.name, after.arm.think_tokens) == (None, "a", 128)
    assert "only a answers, not the cascade" in after.notices[0]


@pytest.mark.parametrize(("text", "near"), [("hihg", "high"), ("LOW", "low"), ("", "use one of")])
def test_an_unknown_effort_is_refused_with_the_nearest(text: str, near: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_effort(text)
    assert caught.value.param == "reasoning_effort"
    assert near in caught.value.fix


@pytest.fixture
def runtime(config: Config) -> Runtime[Any]:
    config.models_dir.mkdir()
    model_path(load_catalogue(config).get("smollm2-135m"), config).touch()
    config.policies_dir.mkdir()
    (config.policies_dir / "mine.yaml").write_text(MINE)
    return open_runtime(config)


@pytest.mark.parametrize(
    ("overrides", "effort", "arm", "reasoning", "tokens"),
    [
        ({"policy": "mine"}, "high", "think", "cot", 99),  # by the table of the policy
        ({"policy": "mine"}, "none", "quick", "direct", 256),
        ({"policy": "mine"}, "max", "quick", "cot", 2048),  # not in the table: the ladder
        ({"policy": "mine"}, "xhigh", "quick", "cot", 1024),  # its arm has no model here
        ({"policy": "mine"}, None, "quick", "direct", 256),
        ({"policy": "mine", "arm": "quick"}, "high", "quick", "cot", 512),  # the arm is named
        ({"model": "smollm2-135m"}, "low", "direct", "cot", 128),
        ({"model": "smollm2-135m"}, "none", "direct", "direct", 256),
        ({"policy": "mine", "reasoning": "cot", "think_tokens": 5}, "max", "quick", "cot", 5),
    ],
)
def test_the_table_comes_before_the_ladder_and_options_before_both(
    runtime: Runtime[Any],
    overrides: dict[str, Any],
    effort: str | None,
    arm: str,
    reasoning: str,
    tokens: int,
) -> None:
    decision = choose(Query("hello"), Overrides(**overrides), runtime, effort=effort).decision
    found = decision.arm
    assert (found.name, found.reasoning, found.think_tokens) == (arm, reasoning, tokens)
    applied = effort is not None and "reasoning" not in overrides
    assert (f"reasoning_effort {effort}" in decision.why) is applied


def test_a_spent_budget_comes_before_the_effort(runtime: Runtime[Any], config: Config) -> None:
    budget = "budgets: {hour: {joules: 0.001, when_exceeded: degrade}, degrade_to: quick}\n"
    (config.policies_dir / "mine.yaml").write_text(MINE + budget)
    with TurnWriter(config) as writer:
        writer.save_turn(replace(TURN, created_at=utc_now()))
    decision = choose(Query("hello"), Overrides(policy="mine"), runtime, effort="high").decision
    assert (decision.arm.name, decision.arm.reasoning) == ("quick", "direct")
    assert "a budget is spent" in decision.why
