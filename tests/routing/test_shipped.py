"""The shipped policies: sound, true to their probes, and served by the starter model alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etui.config import Config, shipped_dir
from etui.models import STARTER, load_catalogue
from etui.query import Query
from etui.routing.decide import decide
from etui.routing.policies import PolicyPlace, check_text, find_policy, load_policy
from etui.routing.probes import run_probes
from etui.routing.schema import json_schema

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


@pytest.mark.parametrize("name", NAMES)
def test_sound_and_true_to_its_probes(name: str, config: Config) -> None:
    policy = load_policy(name, config, load_catalogue(config).models)
    assert policy.description
    outcomes = run_probes(policy)
    assert len(outcomes) >= 4
    assert [outcome.failures for outcome in outcomes] == [()] * len(outcomes)


@pytest.mark.parametrize("name", NAMES)
def test_the_starter_alone_serves_every_question(name: str, config: Config) -> None:
    policy = load_policy(name, config, load_catalogue(config).models)
    for question in QUESTIONS:
        arm = decide(Query(question), policy, available={STARTER}).arm
        assert arm.model == STARTER
        assert arm.reasoning == "direct", "a thought does not pay on the starter"


@pytest.mark.parametrize("name", NAMES)
def test_thought_only_on_models_made_to_think(name: str, config: Config) -> None:
    catalogue = load_catalogue(config)
    policy = load_policy(name, config, catalogue.models)
    for plan in policy.arms.values():
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


LINES = {
    name: (shipped_dir() / "policies" / f"{name}.yaml").read_text().splitlines() for name in NAMES
}


PUT_IN = (
    *("", "-1", "0", ".inf", "yes", "[", "]", "{", "}", "- ", ": ", "&a ", "*a", "!!x ", "<<: "),
    *("'", "|", "\t", "1e999", "null", "not", "\\", "\x00", "é", "(a+)+"),
)


def check_mutated(lines: list[str], models: frozenset[str]) -> None:
    """A mutated policy is sound, or each of its errors has a place in it and words."""
    checked = check_text("\n".join(lines), PolicyPlace("m", Path("m.yaml"), "file"), models)
    assert (checked.policy is None) == bool(checked.errors)
    for problem in (*checked.errors, *checked.warnings):
        assert problem.message
        assert 1 <= problem.line <= len(lines) + 1
        assert problem.column >= 1
    if checked.policy is not None:
        decide(Query("What is 17*23?"), checked.policy, available=lambda _: True)


@pytest.mark.parametrize("name", NAMES)
def test_every_line_left_out_doubled_or_broken(name: str, config: Config) -> None:
    models = frozenset(load_catalogue(config).models)
    lines = LINES[name]
    for index, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        before, after = lines[:index], lines[index + 1 :]
        half = line[: len(line) // 2]
        for changed in ([], [line, line], [half], ["\t" + line], [line.replace(":", "", 1)]):
            check_mutated([*before, *changed, *after], models)


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_lines_mutated_at_random(data: st.DataObject) -> None:
    lines = list(LINES[data.draw(st.sampled_from(NAMES))])
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        line = lines[index]
        at = data.draw(st.integers(0, len(line)))
        cut = data.draw(st.integers(0, 6))
        put = data.draw(st.sampled_from(PUT_IN))
        lines[index] = line[:at] + put + line[at + cut :]
    catalogue = {"qwen3-8b", "qwen3-4b", "qwen3-0.6b", "smollm2-135m", "llama-3.2-1b"}
    check_mutated(lines, frozenset(catalogue))


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
