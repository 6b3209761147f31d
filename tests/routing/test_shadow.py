"""A shadow decides beside the policy in force and can never stop it."""

from __future__ import annotations

from pathlib import Path

from etui.choice import Wish, choose
from etui.config import Config
from etui.models import load_catalogue
from etui.query import Query
from etui.routing.decision import Decision

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
    return choose(Query("add"), Wish(policy="force"), config, load_catalogue(config))


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
    alone = choose(Query("add"), Wish(policy="frugal"), config, load_catalogue(config))
    assert decision.shadow is not None
    assert alone.trace()["shadow"] is None
