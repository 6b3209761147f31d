"""Decisions: order of rules, signals, roles, and the words that explain them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from etui.arm import OPEN_SAMPLING, Arm, Sampling
from etui.chat import Message, Query
from etui.config.config import Config
from etui.errors import ModelUnavailable, UsageError
from etui.models.catalogue import load_catalogue
from etui.routing.decide import add_shadow, decide, decide_arm
from etui.routing.decision import Decision, Predictor
from etui.routing.library import load_policy
from etui.routing.policy import Policy, add_fallback_model
from etui.routing.signals import HostState
from etui.runtime.decide import (
    choose,
    fallback_model_file,
    load_fallback_model,
    save_fallback_model,
)
from etui.runtime.overrides import Overrides
from etui.runtime.runtime import open_runtime
from tests.routing.conftest import Make
from tests.routing.known import Known
from tests.routing.seen import see_signals

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
    for folder in (config.policies_dir, config.models_dir):
        folder.mkdir(exist_ok=True)
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
    alone = choose(Query("add"), Overrides(policy="frugal"), open_runtime(config)).decision
    assert alone.trace()["shadow"] is None
    broken = decided(config, "version: 1\n")  # and stops nothing
    assert broken.shadow is not None
    assert (broken.arm.name, broken.shadow.arm) == ("quick", None)
    place = Path(config.policies_dir / "trial.yaml")
    assert broken.shadow.why == f"{place}:1:1: missing key 'arms'; missing key 'rules'"


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
        return Known(right={"slow": (0.9, 0.8)}), None

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


@pytest.fixture
def balanced(config: Config) -> Policy:
    return load_policy("balanced", config, load_catalogue(config).models)


def models_of(policy: Policy) -> Mapping[str, tuple[str, ...]]:
    return {name: plan.models for name, plan in policy.arms.items()}


def test_it_is_the_last_model_of_every_direct_arm_without_one(balanced: Policy) -> None:
    here = {"gemma-3-270m"}.__contains__
    extended = add_fallback_model(balanced, "gemma-3-270m", here)
    for name, plan in extended.arms.items():
        before = balanced.arms[name]
        if plan.arm.reasoning == "direct":
            assert plan.models == (*before.models, "gemma-3-270m")
            assert plan.arms[-1].model == "gemma-3-270m"
            assert len(plan.arms) == len(plan.models)
        else:
            assert plan == before, "an arm that thinks falls through"


def test_a_model_that_is_missing_or_not_needed_replaces_none(balanced: Policy) -> None:
    for here in ((), ("gemma-3-270m", "smollm2-135m")):
        assert add_fallback_model(balanced, "gemma-3-270m", here.__contains__) is balanced


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 3}'])
def test_a_damaged_choice_is_none(config: Config, text: str) -> None:
    assert load_fallback_model(config) is None
    fallback_model_file(config).write_text(text)
    assert load_fallback_model(config) is None
    save_fallback_model(config, "m")
    assert load_fallback_model(config) == "m"


EVERY = frozenset({"tiny", "small-1b", "large-8b"})

BASE = """
version: 1
models:
  small: [small-1b, tiny]
  large: [large-8b]
arms:
  quick: {model: small}
  think: {model: large, reasoning: cot, think_tokens: 64, temperature: 0.6, max_joules: 50}
"""


def test_rules_are_tried_by_priority_then_in_file_order(make: Make) -> None:
    policy = make(
        BASE
        + """
signals:
  sums: {keywords: [add, total]}
  asks: {question_marks: {at_least: 1}}
  loud: {regex: '!'}
rules:
  - {name: low, priority: 1, when: loud, use: quick}
  - {name: first, priority: 5, when: sums, use: think}
  - {name: second, priority: 5, when: asks, use: quick}
  - {name: rest, use: quick}
"""
    )
    assert [rule.name for rule in policy.rules] == ["first", "second", "low", "rest"]
    decision = decide(Query("add 1 and 2?!"), policy, available=EVERY)
    assert (decision.rule, decision.arm.name, decision.arm.model) == ("first", "think", "large-8b")
    assert decision.why == "first: sums (add)"
    decision = decide(Query("really?!"), policy, available=EVERY)
    assert decision.rule == "second"
    assert [(r.name, r.matched, r.failed) for r in decision.rules] == [
        ("first", False, "sums (0, at least 1)"),
        ("second", True, None),
    ]
    assert decide(Query("fine."), policy, available=EVERY).why == "rest: no rule matched"


def test_the_arm_carries_what_the_file_says(make: Make) -> None:
    decision = decide_arm(
        make(BASE + "rules: [{name: rest, use: quick}]"), "think", available=EVERY
    )
    assert (decision.policy, decision.rule) == ("p", None)
    assert decision.arm == Arm(
        name="think",
        model="large-8b",
        reasoning="cot",
        think_tokens=64,
        sampling=Sampling(temperature=0.6),
        sampling_from=replace(OPEN_SAMPLING, temperature="arm"),
        max_joules=50.0,
    )


def test_a_role_is_served_by_the_first_model_here(make: Make) -> None:
    policy = make(BASE + "rules: [{name: rest, use: quick}]")
    assert decide(Query("x"), policy, available=EVERY).arm.model == "small-1b"
    fallen = decide(Query("x"), policy, available={"tiny"})
    assert fallen.arm.model == "tiny"
    assert fallen.why == ("rest: no rule matched · small-1b is not on disk: tiny answers instead")
    with pytest.raises(UsageError) as caught:
        decide_arm(policy, "thnk", available=EVERY)
    assert caught.value.fix == "did you mean 'think'?"
    with pytest.raises(ModelUnavailable):
        decide_arm(policy, "think", available={"tiny"})


def test_a_rule_nothing_can_serve_gives_way(make: Make) -> None:
    policy = make(
        BASE
        + "signals: {sums: {keywords: [add]}}\n"
        + "rules: [{name: sums, when: sums, use: think}, {name: rest, use: quick}]"
    )
    decision = decide(Query("add"), policy, available={"tiny", "small-1b"})
    assert decision.rule == "rest"
    assert decision.rules[0].failed == "large-8b is not on this machine"
    assert decision.why == "rest: no model of arm think is on this machine"
    with pytest.raises(ModelUnavailable) as caught:
        decide(Query("add"), policy, available=())
    assert "arm 'think'" in caught.value.what
    assert "etui models pull tiny" in caught.value.fix


SIGNALS = """
signals:
  calc: {keywords: [how many, Calculate, c++, 計算]}
  two: {keywords: [red, green, blue], at_least: 2}
  symbolic: {regex: '\\d\\s*[-+*/=]', at_least: 2}
  short: {words: {at_most: 3}}
  german: {language: de}
  battery: {host: battery_percent, below: 30}
  unplugged: {host: on_battery}
  night: {host: hour, at_least: 22, below: 7}
  warm: {host: resident, is: small}
  score: {score: {calc: 0.1, symbolic: 0.2, short: -0.1}, at_least: 0.3}
  band: {score: {calc: 0.5, two: 0.25}, at_least: 0.25, below: 0.5}
rules: [{name: rest, use: quick}]
"""


def look(make: Make, text: str, host: HostState | None = None) -> dict[str, bool]:
    seen = see_signals(Query(text), make(BASE + SIGNALS), host=host)
    return {name: value.holds for name, value in seen.items()}


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("HOW  MANY\napples", "calc", True),
        ("How manyfold", "calc", False),
        ("recalculate it", "calc", False),
        ("I like C++.", "calc", True),
        ("次の計算をして", "calc", True),
        ("red and blue", "two", True),
        ("red, red, red", "two", False),
        ("1+2-3", "symbolic", True),
        ("1+2", "symbolic", False),
        ("one two three", "short", True),
        ("one two three four", "short", False),
        ("Wie ist das Wetter heute?", "german", True),
        ("How is the weather?", "german", False),
        ("how many: 1+2-3, say all of it", "score", True),
        ("how many: 1+2-3", "score", True),
        ("1+2-3 x y z u", "score", False),
        ("green blue", "band", True),
        ("how many green blue", "band", False),
        ("x", "band", False),
    ],
)
def test_signals_of_the_text(make: Make, text: str, name: str, expected: bool) -> None:
    assert look(make, text)[name] is expected


def test_signals_of_the_machine(make: Make) -> None:
    names = ("battery", "unplugged", "night", "warm")
    unknown = look(make, "x")
    assert not any(unknown[name] for name in names), "what is not known does not hold"
    state = HostState(battery_percent=12, on_battery=True, hour=23.5, resident="tiny")
    assert all(look(make, "x", state)[name] for name in names)
    state = HostState(battery_percent=80, on_battery=False, hour=12, resident="large-8b")
    assert not any(look(make, "x", state)[name] for name in names)


def test_the_trace_says_value_boundary_and_distance(make: Make) -> None:
    policy = make(BASE + SIGNALS)
    decision = decide(Query("how many 1+2"), policy, available=EVERY, every_signal=True)
    assert decide(Query("how many 1+2"), policy, available=EVERY).signals == ()
    rows = {row["name"]: row for row in decision.trace()["signals"]}
    assert rows["symbolic"] == {
        "name": "symbolic",
        "holds": False,
        "value": 1,
        "boundary": 2.0,
        "distance": 1.0,
        "test": "at least 2",
        "detail": "",
    }
    assert rows["calc"]["detail"] == "how many"
    assert rows["german"]["boundary"] == "de"
    assert rows["german"]["distance"] is None
    assert rows["battery"]["value"] is None
    assert rows["score"]["detail"] == "calc +0.1"


def test_length_counts_estimated_tokens(make: Make) -> None:
    policy = make(
        BASE
        + "signals: {long: {tokens: {at_least: 10}}, chat: {chat_tokens: {at_least: 12}}}\n"
        + "rules: [{name: long, when: {any: [long, chat]}, use: think}, {name: rest, use: quick}]"
    )

    def rule(query: Query) -> Decision:
        return decide(query, policy, available=EVERY)

    assert rule(Query("x" * 40)).rule == "long"
    assert rule(Query("x" * 36)).rule == "rest"
    assert (
        rule(Query("x" * 8, history=(Message("user", "y" * 40),))).why
        == "long: chat (12, at least 12)"
    )


def test_the_room_imports_neither_engine_nor_screen_nor_driver() -> None:
    code = (
        "import sys, etui.routing.decide, etui.routing.library, etui.routing.probes\n"
        "import etui.runtime.host\n"
        "import etui.routing.check\n"
        "bad = {'llama_cpp', 'textual', 'pynvml', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
