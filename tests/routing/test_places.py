"""A model that several machines serve: places as candidates, and the order they are tried in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Query
from etui.errors import EtuiError, ModelUnavailable
from etui.models.spec import ModelSpec
from etui.routing.decide import cheapest_arm, decide, decide_arm
from etui.routing.decision import Decision, PredictedAccuracy, PredictedJoules
from etui.routing.library import check_text, compile_text
from etui.routing.policy import (
    Place,
    Policy,
    drop_places,
    find_weights,
    list_places,
    list_served_places,
)
from etui.routing.signals import HostState
from etui.yaml.named_files import NamedFile


def spec(name: str, backend: str | None = None, same_as: str | None = None) -> ModelSpec:
    return ModelSpec(name, "tiny", (), backend=backend, same_as=same_as)


MODELS = {
    one.name: one
    for one in (
        spec("small"),
        spec("big"),
        spec("big-desk", "desk", "big"),
        spec("big-rack", "rack", "big"),
        spec("cloud", "far"),
    )
}
EVERY = frozenset(MODELS)
QUERY = Query("add 1 and 2")
BASE = """
version: 1
arms:
  quick: {model: small}
  deep: {model: big, reasoning: cot}
"""
CHEAPEST = "rules: [{name: best, objective: {minimize: joules}, arms: [deep]}]\n"


def make(text: str, models: Mapping[str, ModelSpec] = MODELS) -> Policy:
    return compile_text(text, "p", models)


@dataclass
class Curves:
    """What is known of each model: joules of an answer, of its load, and seconds."""

    joules_of: Mapping[str, float] = field(default_factory=dict)
    seconds_of: Mapping[str, float] = field(default_factory=dict)
    load: float = 0.0
    load_seconds: float = 0.0
    resident: str | None = None
    right: Mapping[str, float] = field(default_factory=lambda: {"quick": 0.6, "deep": 0.8})

    def _loads(self, arm: Arm) -> bool:
        return MODELS[arm.model].backend is None and arm.model != self.resident

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        joules = self.joules_of.get(arm.model)
        if joules is None:
            return None
        load = self.load if self._loads(arm) else 0.0
        return PredictedJoules(load, 0.0, joules, seconds=self.duration(arm, query))

    def duration(self, arm: Arm, query: Query) -> float | None:
        seconds = self.seconds_of.get(arm.model)
        if seconds is None:
            return None
        return seconds + (self.load_seconds if self._loads(arm) else 0.0)

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        p = self.right[arm.name]
        return PredictedAccuracy(p, p - 0.05, confidence, 40, "fitted")

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> None:
        return None


def chosen(
    policy: Policy, curves: Curves, available: frozenset[str] = EVERY, resident: str | None = None
) -> Decision:
    curves = replace(curves, resident=resident)
    host = HostState(resident=resident)
    return decide(QUERY, policy, available=available, predictor=curves, host=host)


DEAR = {"big": 90.0, "big-desk": 40.0, "big-rack": 60.0}


def test_each_place_is_a_candidate_and_the_cheapest_answers() -> None:
    decision = chosen(make(BASE + CHEAPEST), Curves(DEAR))
    assert (decision.arm.name, decision.arm.model) == ("deep", "big-desk")
    assert decision.why == (
        "best: deep on desk is the cheapest arm (≈40 J, deep on rack would take ≈20 J more)"
    )
    assert decision.margin_joules == 20.0
    assert decision.predicted_joules == 40.0
    trace = json.loads(json.dumps(decision.trace()))
    assert [(c["arm"], c["model"], c["machine"]) for c in trace["candidates"]] == [
        ("deep", "big-desk", "desk"),
        ("deep", "big-rack", "rack"),
        ("deep", "big", None),
    ]
    assert {c["accuracy"]["p"] for c in trace["candidates"]} == {0.8}


@pytest.mark.parametrize(
    ("joules", "load", "resident", "taken"),
    [
        ({"big": 50.0, "big-desk": 60.0}, 0.0, None, "big"),
        ({"big": 50.0, "big-desk": 60.0}, 300.0, "big", "big"),  # in memory: nothing to load
        ({"big": 50.0, "big-desk": 60.0}, 300.0, None, "big-desk"),  # the load costs more
        ({"big": 50.0, "big-desk": 60.0}, 300.0, "small", "big-desk"),
        ({"big": 50.0, "big-desk": 400.0}, 300.0, None, "big"),
        ({"big": 50.0}, 0.0, None, "big"),  # the desk has no meter: joules cannot judge it
        ({"big-desk": 500.0}, 0.0, None, "big-desk"),  # nothing is known of this machine
    ],
)
def test_the_load_of_this_machine_counts_and_a_remote_has_none(
    joules: dict[str, float], load: float, resident: str | None, taken: str
) -> None:
    policy = make(BASE + CHEAPEST)
    available = frozenset({"small", "big", "big-desk"})
    decision = chosen(policy, Curves(joules, load=load), available, resident)
    assert decision.arm.model == taken


def test_a_place_that_is_down_is_shown_and_another_answers() -> None:
    policy = make(BASE + CHEAPEST)
    decision = chosen(policy, Curves(DEAR), EVERY - {"big-desk"})
    assert decision.arm.model == "big-rack"
    failed = {c.arm.model: c.failed for c in decision.candidates}
    assert failed["big-desk"] == "big-desk on desk is not available"
    alone = chosen(policy, Curves(DEAR), frozenset({"big"}))
    assert alone.arm.model == "big"
    assert alone.why == (
        "best: deep on this machine is the cheapest arm (≈90 J, no other place qualifies)"
    )
    away = chosen(policy, Curves(DEAR), frozenset({"big-desk"}))
    assert away.arm.model == "big-desk"
    assert {c.failed for c in away.candidates} == {
        None, "big is not on this machine", "big-rack on rack is not available",
    }  # fmt: skip


def test_an_unmeasured_place_can_win_by_seconds_but_not_by_joules() -> None:
    seconds = {"big": 30.0, "big-desk": 3.0}
    curves = Curves({"big": 50.0}, seconds)
    available = frozenset({"big", "big-desk"})
    fast = make(
        BASE + "rules: [{name: fast, objective: {maximize: accuracy, seconds: {at_most: 10}}, "
        "arms: [deep]}]\n"
    )
    decision = chosen(fast, curves, available)
    assert decision.arm.model == "big-desk"
    assert decision.predicted_joules is None
    shown = {c.arm.model: (c.joules is None, c.seconds, c.failed) for c in decision.candidates}
    assert shown["big-desk"] == (True, 3.0, None)
    assert shown["big"] == (False, 30.0, "30 s exceeds the limit of 10 s")
    cheap = make(
        BASE + "rules: [{name: cheap, objective: {minimize: joules, seconds: {at_most: 10}}, "
        "arms: [deep], otherwise: quick}]\n"
    )
    decision = chosen(cheap, curves, available | {"small"})
    assert decision.arm.name == "quick"
    failed = {c.arm.model: c.failed for c in decision.candidates}
    assert failed["big-desk"] == "its joules are unknown"
    # Seconds of the load count against this machine.
    seconds = {"big": 2.0, "big-desk": 4.0}
    curves = Curves({"big": 10.0, "big-desk": 50.0}, seconds, load_seconds=9.0)
    assert chosen(cheap, curves, available).arm.model == "big-desk"
    assert chosen(cheap, curves, available, resident="big").arm.model == "big"


def test_the_model_in_memory_is_kept_unless_another_machine_saves_more() -> None:
    policy = make(
        BASE + "rules: [{name: best, objective: {minimize: joules}, "
        "switch_margin_joules: 30, arms: [deep]}]\n"
    )
    kept = chosen(policy, Curves({"big": 60.0, "big-desk": 40.0}), resident="big")
    assert kept.arm.model == "big"
    assert "deep on this machine is kept because big is in memory" in kept.why
    moved = chosen(policy, Curves({"big": 80.0, "big-desk": 40.0}), resident="big")
    assert moved.arm.model == "big-desk"


@pytest.mark.parametrize(
    ("small", "model", "facts"),
    [
        (55.0, "big-desk", "(≈40 J, quick would take ≈15 J more)"),
        (20.0, "small", "(≈20 J, deep on desk would take ≈20 J more)"),
    ],
)
def test_places_of_several_arms_compete(small: float, model: str, facts: str) -> None:
    both = "rules: [{name: best, objective: {minimize: joules}, arms: [quick, deep]}]\n"
    decision = chosen(make(BASE + both), Curves({"small": small, **DEAR}))
    assert decision.arm.model == model
    assert decision.why.endswith(facts)


def test_other_weights_of_a_role_are_only_used_if_the_first_are_nowhere() -> None:
    text = "version: 1\nmodels: {large: [big, small]}\narms: {deep: {model: large}}\n" + CHEAPEST
    policy = make(text)
    curves = Curves({"small": 1.0, **DEAR})
    assert policy.arms["deep"].models == ("big", "big-desk", "big-rack", "small")
    assert chosen(policy, curves).arm.model == "big-desk"
    fallback = chosen(policy, curves, frozenset({"small"}))
    assert fallback.arm.model == "small"
    assert fallback.why.endswith(" · big is not on disk: small answers instead")


@pytest.mark.parametrize(
    ("models", "available", "taken", "note"),
    [
        ("[big]", EVERY, "big", ""),
        ("[big]", {"big-desk", "big-rack"}, "big-desk",
         "big is not on disk: big-desk on desk answers instead"),
        ("[big]", {"big-rack"}, "big-rack",
         "big is not on disk: big-rack on rack answers instead"),
        ("[big-rack, big]", EVERY, "big-rack", ""),
        ("[big-rack, big]", {"big", "big-desk"}, "big",
         "big-rack on rack is not available: big answers instead"),
    ],
)  # fmt: skip
def test_a_named_arm_takes_the_first_place_that_is_there(
    models: str, available: set[str], taken: str, note: str
) -> None:
    text = f"version: 1\nmodels: {{large: {models}}}\narms: {{deep: {{model: large}}}}\n"
    policy = make(text + "rules: [{name: all, use: deep}]\n")
    decision = decide(QUERY, policy, available=available)
    assert decision.arm.model == taken
    assert note in decision.why
    assert decide_arm(policy, "deep", available=available).arm.model == taken


def test_the_other_places_follow_where_one_cannot_answer() -> None:
    policy = make(BASE + "rules: [{name: all, use: deep}]\n")
    decision = decide(QUERY, policy, available=EVERY)
    assert decision.fallbacks.places == {"deep": ("big-desk", "big-rack")}
    alone = decide(QUERY, policy, available={"big", "small"})
    assert alone.fallbacks.places == {}
    cascade = BASE + "rules: [{name: all, cascade: {arms: [quick, deep], accept_at: 0.8}}]\n"
    assert decide(QUERY, make(cascade), available=EVERY).fallbacks.places == {
        "deep": ("big-desk", "big-rack")
    }


def test_nowhere_available_says_where_it_looked() -> None:
    policy = make(BASE + "rules: [{name: all, use: deep}]\n")
    with pytest.raises(ModelUnavailable) as caught:
        decide(QUERY, policy, available=set())
    assert "big, big-desk on desk, big-rack on rack" in caught.value.what
    assert "etui models pull big`" in caught.value.fix
    far = make("version: 1\narms: {a: {model: cloud}}\nrules: [{name: all, use: a}]\n")
    with pytest.raises(ModelUnavailable) as caught:
        decide(QUERY, far, available=set())
    assert "cloud on far" in caught.value.what
    assert "pull" not in caught.value.fix  # there is nothing to pull
    assert "etui doctor" in caught.value.fix
    with pytest.raises(EtuiError, match="joules of all of its arms are unknown"):
        chosen(make(BASE + CHEAPEST), Curves())


def test_a_spent_budget_takes_the_cheapest_place() -> None:
    policy = make(BASE + CHEAPEST)
    curves = Curves({"small": 50.0, **DEAR})
    assert cheapest_arm(policy, QUERY, curves, EVERY).model == "big-desk"
    assert cheapest_arm(policy, QUERY, curves, EVERY - {"big-desk"}).model == "small"
    named = make(
        BASE + "budgets: {degrade_to: deep, hour: {joules: 5, when_exceeded: degrade}}\n" + CHEAPEST
    )
    assert cheapest_arm(named, QUERY, curves, EVERY).model == "big-desk"
    assert cheapest_arm(named, QUERY, Curves(), EVERY).model == "big"


def test_a_replay_has_no_places() -> None:
    text = "version: 1\nmodels: {large: [big-desk, big]}\narms: {deep: {model: large}}\n"
    policy = make(text + CHEAPEST)
    assert policy.arms["deep"].models == ("big-desk", "big", "big-rack")
    plain = drop_places(policy)
    assert plain.arms["deep"].models == ("big-desk", "big")
    decision = decide(QUERY, plain, available=EVERY, predictor=Curves(DEAR))
    assert [c.arm.model for c in decision.candidates] == ["big-desk"]
    untouched = make("version: 1\narms: {a: {model: small}}\nrules: [{name: r, use: a}]\n")
    assert drop_places(untouched).arms == untouched.arms


def test_a_bench_run_and_mere_names_have_no_places() -> None:
    from etui.bench.config import NamedText
    from etui.bench.plan import compile_policy
    from etui.models.catalogue import Catalogue

    policy = compile_policy(NamedText("p", BASE + CHEAPEST), Catalogue(MODELS))
    assert policy.arms["deep"].models == ("big",)
    assert list_places(("big",), tuple(MODELS)) == (Place("big", "big"),)


@given(st.lists(st.sampled_from("abcdef"), max_size=6), st.data())
def test_weights_are_found_in_any_chain_and_circle(names: list[str], data: st.DataObject) -> None:
    models = {
        name: spec(name, same_as=data.draw(st.sampled_from([None, *"abcdefg"])))
        for name in dict.fromkeys(names)
    }
    for name in models:
        weights = find_weights(models, name)
        assert weights in {*models, *"abcdefg"}
    places = list_places(tuple(models)[:2], models)
    assert len({place.model for place in places}) == len(places)
    assert {*tuple(models)[:2]} <= {place.model for place in places}


@given(st.sets(st.sampled_from(sorted(MODELS))))
def test_only_available_places_are_served(available: set[str]) -> None:
    plan = make(BASE + CHEAPEST).arms["deep"]
    served = [arm.model for arm in list_served_places(plan, available.__contains__)]
    assert served == [name for name in ("big", "big-desk", "big-rack") if name in available]


def test_the_check_warns_of_places_that_differ() -> None:
    text = "version: 1\narms: {deep: {model: big}}\nrules: [{name: all, use: deep}]\n"

    def warnings(models: Mapping[str, ModelSpec]) -> list[str]:
        checked = check_text(text, NamedFile("p", Path("p.yaml"), "file"), models)
        return [problem.message for problem in checked.warnings]

    assert warnings(MODELS) == []
    desk = replace(MODELS["big-desk"], context=2048, sha256="a" * 64, think_open="<think>")
    unlike = {**MODELS, "big-desk": desk, "big": replace(MODELS["big"], sha256="b" * 64)}
    found = warnings(unlike)
    assert len(found) == 3
    assert all(one.startswith("the places of arm 'deep' differ: ") for one in found)
    context, thinking, weights = found
    assert "big on this machine has a context of 4,096 tokens, big-desk on desk of 2,048" in context
    assert "big-desk on desk can think, big on this machine cannot" in thinking
    assert "not the same weights" in weights
