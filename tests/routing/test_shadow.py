"""A shadow decides beside the policy in force and can never stop it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from etui.arm import Arm
from etui.chat import Query
from etui.config.config import Config
from etui.models.catalogue import load_catalogue
from etui.routing.decide import add_shadow, decide
from etui.routing.decision import Decision, PredictedAccuracy, Predictor
from etui.routing.library import load_policy
from etui.routing.policy import Policy
from etui.runtime.decide import choose
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import open_runtime

QUERY = Query("add")

FORCE = """
version: 1
arms: {quick: {model: smollm2-135m}}
rules: [{name: rest, use: quick}]
shadow: {policy: trial}
"""
TRIAL = """
version: 1
arms: {slow: {model: smollm2-135m, reasoning: cot}}
signals: {sums: {keywords: [add]}}
rules: [{name: sums, when: sums, use: slow}, {name: rest, use: slow}]
shadow: {policy: force}
"""


def decided(config: Config, trial: str) -> Decision:
    config.policies_dir.mkdir()
    config.models_dir.mkdir()
    (config.models_dir / "smollm2-135m.gguf").write_bytes(b"GGUF")
    (config.policies_dir / "force.yaml").write_text(FORCE)
    (config.policies_dir / "trial.yaml").write_text(trial)
    return choose(Query("add"), Overrides(policy="force"), open_runtime(config)).decision


def test_what_the_shadow_would_have_done_is_in_the_trace(config: Config) -> None:
    decision = decided(config, TRIAL)
    assert (decision.policy, decision.rule, decision.arm.reasoning) == ("force", "rest", "direct")
    assert decision.trace()["shadow"] == {
        "policy": "trial",
        "rule": "sums",
        "arm": "slow",
        "model": "smollm2-135m",
        "reasoning": "cot",
        "why": "sums: sums (add)",
        "predicted_joules": None,
    }


def test_a_broken_shadow_stops_nothing(config: Config) -> None:
    decision = decided(config, "version: 1\n")
    assert decision.arm.name == "quick"
    assert decision.shadow is not None
    assert decision.shadow.arm is None
    place = Path(config.policies_dir / "trial.yaml")
    assert decision.shadow.why == f"{place}:1:1: missing key 'arms'; missing key 'rules'"


def test_without_a_shadow_the_trace_says_none(config: Config) -> None:
    decision = decided(config, TRIAL)
    alone = choose(Query("add"), Overrides(policy="frugal"), open_runtime(config)).decision
    assert decision.shadow is not None
    assert alone.trace()["shadow"] is None


AHEAD = """
version: 1
arms: {slow: {model: smollm2-135m, reasoning: cot}}
rules:
  - name: near
    objective: {maximize: accuracy}
    arms: [slow]
"""


def test_a_shadow_knows_what_was_fitted_for_it(config: Config) -> None:
    config.policies_dir.mkdir()
    (config.policies_dir / "force.yaml").write_text(FORCE)
    (config.policies_dir / "trial.yaml").write_text(AHEAD)
    models = load_catalogue(config).models
    policy = load_policy("force", config, models)
    asked: list[str] = []

    def look_ahead(other: Policy) -> tuple[Predictor | None, None]:
        asked.append(other.name)
        return Sure(), None

    decision = decide(QUERY, policy, available=models)
    add = partial(
        add_shadow,
        decision,
        policy,
        QUERY,
        available=models,
        host=None,
        load=lambda name: load_policy(name, config, models),
    )
    unknown = add()
    assert unknown.shadow is not None
    assert unknown.shadow.why.startswith("rule 'near' of policy 'trial' cannot choose")
    known = add(look_ahead=look_ahead)
    assert asked == ["trial"]
    assert known.shadow is not None
    assert (known.shadow.rule, known.shadow.why) == (
        "near",
        "near: slow has the highest accuracy: 0.90",
    )


class Sure:
    """A predictor that is sure of everything and knows no joules."""

    def joules(self, arm: Arm, query: Query) -> None:
        return None

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy:
        return PredictedAccuracy(0.9, 0.8, confidence, 30, "fitted")

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float:
        return 0.9
