"""The shipped policies: sound, true to their probes, and served by the starter model alone."""

from __future__ import annotations

import json

import pytest

from etui.chat import Query
from etui.config.config import Config, shipped_dir
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.routing.decide import decide
from etui.routing.library import find_policy, load_policy
from etui.routing.policy import Policy
from etui.routing.probes import (
    group_paraphrases,
    load_cases,
    measure_coverage,
    measure_robustness,
    run_probes,
)
from etui.routing.schema.policy_file import json_schema

NAMES = ("frugal", "balanced", "best")
QUESTIONS = (
    "Hello!",
    "What is the capital of France?",
    "What is 17*23?",
    "Solve x^2 - 5x + 6 = 0 and prove it.",
    "Write a Python function.\n```\ndef f(): pass\n```",
    "Which?\nA) x\nB) y\nC) z\nD) w",
    "word " * 2000,
    "Übersetze das ins Deutsche, bitte.",
)


@pytest.fixture(params=NAMES)
def shipped(request: pytest.FixtureRequest, config: Config) -> Policy:
    return load_policy(request.param, config, load_catalogue(config).models)


def test_its_probes_and_cases_pass_and_reach_every_rule_and_arm(
    shipped: Policy, config: Config
) -> None:
    assert shipped.description
    probes = run_probes(shipped)
    assert len(probes) >= 4
    cases = load_cases(shipped, config)
    assert len(cases) >= 40
    outcomes = run_probes(shipped, cases)
    assert [(o.probe.id, o.failures) for o in (*probes, *outcomes) if o.failures] == []
    assert measure_coverage(shipped, outcomes).percent == 100
    assert measure_robustness(group_paraphrases(outcomes)) == 100
    tags = {tag for case in cases for tag in case.tags}
    assert {"paraphrase", "negative", "collision", "fallback", "stress", "host"} <= tags
    asked = [(case.query, case.host) for case in cases]
    assert len(set(asked)) == len(asked), "no question is asked twice"


def test_the_starter_alone_serves_every_question(shipped: Policy, config: Config) -> None:
    for question in QUESTIONS:
        arm = decide(Query(question), shipped, available={STARTER}).arm
        assert arm.model == STARTER
        assert arm.reasoning == "direct", "a thought does not pay on the starter"
    catalogue = load_catalogue(config)
    for plan in shipped.arms.values():
        if plan.arm.reasoning == "cot":
            assert all(catalogue.get(model).think_close for model in plan.models)


def test_they_differ_in_what_they_spend(config: Config) -> None:
    models = load_catalogue(config).models
    chosen = {
        name: decide(
            Query("Why is the sky blue?"), load_policy(name, config, models), available=models
        )
        for name in NAMES
    }
    assert {name: decision.arm.model for name, decision in chosen.items()} == {
        "frugal": "qwen3-0.6b",
        "balanced": "qwen3-4b",
        "best": "qwen3-8b",
    }
    assert chosen["best"].arm.reasoning == "cot"


def test_the_schema_beside_them_is_the_one_that_is_used() -> None:
    path = shipped_dir() / "policies" / "policy.schema.json"
    assert json.loads(path.read_text()) == json_schema(), "etui policy schema > " + path.name
    for name in NAMES:
        first = (shipped_dir() / "policies" / f"{name}.yaml").read_text().splitlines()[0]
        assert first == "# yaml-language-server: $schema=policy.schema.json"


def test_a_policy_of_the_user_takes_the_place_of_the_shipped(config: Config) -> None:
    models = load_catalogue(config).models
    assert find_policy("frugal", config).origin == "shipped"
    config.policies_dir.mkdir()
    own = config.policies_dir / "frugal.yaml"
    own.write_text("version: 1\narms: {a: {model: smollm2-135m}}\nrules: [{name: mine, use: a}]\n")
    place = find_policy("frugal", config)
    assert (place.origin, place.hides, place.path) == ("user", True, own)
    policy = load_policy("frugal", config, models)
    assert decide(Query("x"), policy, available=models).rule == "mine"
    assert load_policy(str(own), config, models).rules == policy.rules
