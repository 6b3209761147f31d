"""Cascades, objectives, budgets and fallbacks as they enter a decision."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import OPEN_SAMPLING, Arm
from etui.chat import Query
from etui.errors import EtuiError, ModelUnavailable
from etui.routing.decide import cheapest_arm, decide, decide_arm
from etui.routing.decision import (
    Agreement,
    Cascade,
    Decision,
    Fallbacks,
    PeriodBudget,
    PredictedAccuracy,
    PredictedAgreement,
    TurnBudget,
)
from etui.routing.library import compile_text
from etui.routing.objective import weigh
from etui.routing.policy import ArmPlan, Objective, Policy, list_priors
from etui.routing.signals import HostState
from etui.runtime.explain import _format_steps
from tests.routing.conftest import Make
from tests.routing.known import Known

POLICY = """
version: 1
arms: {quick: {model: m}, large: {model: n}}
signals: {asked: {keywords: [river]}}
rules:
  - name: late
    objective: {maximize: accuracy, prior: {quick: 0.1, large: 0.9}}
    arms: [quick, large]
  - name: early
    priority: 5
    when: asked
    objective: {maximize: accuracy, prior: {large: 0.4}}
    arms: [quick, large]
"""


def test_the_first_rule_that_is_tried_states_the_prior_of_an_arm() -> None:
    assert list_priors(compile_text(POLICY, "p", ["m", "n"])) == {"quick": 0.1, "large": 0.4}


ARMS = {name: ArmPlan(name, (name,), Arm(name, name)) for name in ("quick", "large")}


def winner(known: Known, exchange: float) -> str:
    objective = Objective("accuracy", tuple(ARMS), exchange=exchange)
    weighed = weigh(objective, ARMS, QUERY, lambda _: True, predictor=known, resident=None)
    assert weighed.winner is not None
    return weighed.winner.arm.name


def known(quick: tuple[float, float], large: tuple[float, float]) -> Known:
    """Each arm's joules and probability of being right."""
    right = {"quick": (quick[1], quick[1]), "large": (large[1], large[1])}
    return Known({"quick": quick[0], "large": large[0]}, right, load=0.0)


JOULES_AND_P = st.tuples(st.floats(1, 1e4), st.floats(0, 1))


def test_a_gain_is_bought_up_to_its_price_and_not_above_it() -> None:
    arms = known((10.0, 0.50), (60.0, 0.60))  # 50 J for ten points
    assert winner(arms, 5.1) == "large"
    assert winner(arms, 4.9) == "quick"
    unknown = Known({"quick": 10.0}, known((10.0, 0.5), (60.0, 0.9)).right)
    assert winner(unknown, 1e3) == "quick", "an arm of unknown joules is not taken"


@given(JOULES_AND_P, JOULES_AND_P, st.floats(1e-3, 1e3))
def test_the_winner_has_the_highest_worth_and_a_higher_rate_never_buys_less_accuracy(
    quick: tuple[float, float], large: tuple[float, float], exchange: float
) -> None:
    arms, given_ = known(quick, large), {"quick": quick, "large": large}
    worth = {name: 100 * p * exchange - joules for name, (joules, p) in given_.items()}
    more, chosen = winner(arms, 2 * exchange), winner(arms, exchange)
    assert given_[more][1] >= given_[chosen][1] - 1e-9
    if abs(worth["quick"] - worth["large"]) > 1e-6 * (1 + abs(worth["quick"])):
        assert chosen == max(worth, key=lambda name: worth[name])


EVERY = frozenset({"tiny", "small-1b", "large-8b"})
QUERY = Query("add 1 and 2")

BASE = """
version: 1
models: {small: [small-1b, tiny], large: [large-8b, tiny]}
arms:
  quick: {model: small}
  think: {model: small, reasoning: cot}
  large: {model: large, max_tokens: 900}
signals: {sums: {keywords: [add]}}
"""
OBJECTIVE = """
rules:
  - name: rest
    objective: {minimize: joules, accuracy: {at_least: 0.62, confidence: 0.9}}
    arms: [quick, think, large]
"""


def chosen(
    policy: Policy,
    predictor: Known | None = None,
    resident: str | None = None,
    available: frozenset[str] = EVERY,
) -> Decision:
    host = HostState(resident=resident)
    return decide(QUERY, policy, available=available, predictor=predictor, host=host)


SPENT = {"quick": 21.0, "think": 90.0, "large": 55.0}
RIGHT = {"quick": (0.70, 0.66), "think": (0.72, 0.61), "large": (0.81, 0.78)}


def test_the_cheapest_that_is_right_often_enough(make: Make) -> None:
    policy = make(BASE + OBJECTIVE)
    decision = chosen(policy, Known(SPENT, RIGHT))
    assert decision.arm.name == "quick"
    assert decision.why == (
        "rest: quick is the cheapest arm with accuracy >= 0.62 (≈21 J, large would take ≈34 J more)"
    )
    assert (decision.predicted_joules, decision.predicted_accuracy) == (21.0, 0.70)
    assert decision.margin_joules == 34.0
    assert [(c.arm.name, c.failed) for c in decision.candidates] == [
        ("quick", None),
        ("large", None),
        ("think", "accuracy bound 0.61 is below 0.62"),
    ]
    doubtful = chosen(policy, Known(SPENT, {**RIGHT, "quick": (0.70, 0.6)}))
    assert doubtful.arm.name == "large"
    assert doubtful.why.endswith("accuracy >= 0.62 (≈55 J, no other arm qualifies)")


def test_the_trace_of_an_objective_is_json(make: Make) -> None:
    decision = chosen(make(BASE + OBJECTIVE), Known(SPENT, RIGHT))
    trace = json.loads(json.dumps(decision.trace()))
    assert trace["predicted"] == {"joules": 21.0, "range": None, "accuracy": 0.70}
    assert trace["candidates"][0] == {
        "arm": "quick",
        "model": "small-1b",
        "machine": None,
        "seconds": 2.0,
        "joules": {
            "total": 21.0,
            "load": 0.0,
            "prefill": 1.0,
            "decode": 20.0,
            "uncertainty": None,
            "seconds": 2.0,
            "source": "test",
        },
        "accuracy": {"p": 0.70, "low": 0.66, "confidence": 0.9, "n": 40, "source": "fitted"},
        "failed": None,
    }
    assert trace["cascade"] is None
    assert trace["margin_joules"] == 34.0


def test_bounds_of_joules_and_seconds(make: Make) -> None:
    text = BASE + OBJECTIVE.replace(
        "minimize: joules, accuracy: {at_least: 0.62, confidence: 0.9}",
        "maximize: accuracy, joules: {at_most: 60}, seconds: {at_most: 3}",
    )
    decision = chosen(make(text), Known(SPENT, RIGHT))
    assert decision.arm.name == "large"
    assert decision.why == (
        "rest: large has the highest accuracy within 60 J: 0.81 (≈55 J, quick 0.70)"
    )
    assert decision.margin_joules == -34.0
    assert decision.candidates[-1].failed == "≈90 J exceeds the limit of 60 J"
    with pytest.raises(EtuiError) as caught:
        chosen(make(text), Known(SPENT, RIGHT, seconds=4.0))
    assert "no arm qualifies" in caught.value.what
    assert "4 s exceeds the limit of 3 s" in caught.value.what
    assert "otherwise" in caught.value.fix
    slow = chosen(make(text + "    otherwise: quick\n"), Known(SPENT, RIGHT, seconds=None))
    assert slow.candidates[0].failed == "its duration is unknown"


def test_the_model_in_memory_is_kept_for_a_small_gain(make: Make) -> None:
    policy = make(BASE + OBJECTIVE + "    switch_margin_joules: 40\n")
    predictor = Known(SPENT, RIGHT)
    decision = chosen(policy, predictor, resident="large-8b")
    assert decision.arm.name == "large"
    assert decision.margin_joules == -34.0
    assert decision.why == (
        "rest: large is kept because large-8b is in memory (≈55 J, quick would save ≈34 J)"
    )
    assert chosen(policy, predictor, resident="tiny").arm.name == "quick"
    assert chosen(policy, predictor).arm.name == "quick"
    wide = chosen(policy, Known({**SPENT, "large": 62.0}, RIGHT), resident="large-8b")
    assert wide.arm.name == "quick"
    # The load is part of the price.
    loading = Known(SPENT, RIGHT, resident="large-8b", load=50.0)
    assert chosen(make(BASE + OBJECTIVE), loading).arm.name == "large"


def test_nothing_fitted(make: Make) -> None:
    with pytest.raises(EtuiError) as caught:
        chosen(make(BASE + OBJECTIVE))
    assert caught.value.what == (
        "rule 'rest' of policy 'p' cannot choose: no accuracy was fitted for any of its arms"
    )
    assert "etui policy fit p --outcomes FILE" in caught.value.fix
    with pytest.raises(EtuiError) as caught:
        chosen(make(BASE + OBJECTIVE), Known({}, RIGHT))
    assert "etui calibrate MODEL" in caught.value.fix
    decision = chosen(make(BASE + OBJECTIVE + "    otherwise: think\n"))
    assert decision.arm.name == "think"
    assert decision.why == "rest: default arm (no accuracy data yet)"
    assert decision.predicted_accuracy is None
    assert [c.failed for c in decision.candidates] == ["no accuracy was fitted"] * 3


def test_a_stated_prior_is_named(make: Make) -> None:
    text = BASE + OBJECTIVE.replace("0.9}}", "0.9}, prior: {quick: 0.5, large: 0.8}}")
    decision = chosen(make(text), Known(SPENT))
    assert decision.arm.name == "large"
    assert decision.why.endswith("; based on the stated prior, no accuracy was fitted")
    accuracy = decision.candidates[1].accuracy
    assert accuracy == PredictedAccuracy(0.8, 0.8, 0.9, 0, "prior")
    assert chosen(make(text), Known(SPENT, RIGHT)).arm.name == "quick", "the fit goes first"


def test_nothing_qualifies(make: Make) -> None:
    low = Known(SPENT, dict.fromkeys(SPENT, (0.5, 0.4)))
    text = BASE + OBJECTIVE.replace("name: rest", "name: sums\n    when: sums")
    decision = chosen(make(text + "  - {name: rest, use: large}\n"), low)
    assert decision.rule == "rest"
    assert decision.rules[0].failed == (
        "no arm qualifies: quick, large, think: accuracy bound 0.40 is below 0.62"
    )
    kept = chosen(make(text + "    otherwise: quick\n  - {name: rest, use: large}\n"), low)
    assert (kept.rule, kept.arm.name) == ("sums", "quick")
    assert kept.why.startswith("sums: sums (add) · default arm (no arm qualifies: ")


def test_candidates_without_a_model_here(make: Make) -> None:
    policy = make(BASE.replace("large-8b, tiny", "large-8b") + OBJECTIVE)
    decision = chosen(policy, Known(SPENT, RIGHT), available=frozenset({"tiny"}))
    assert (decision.arm.name, decision.arm.model) == ("quick", "tiny")
    assert decision.why.endswith(" · small-1b is not on disk: tiny answers instead")
    assert decision.candidates[-1].failed == "large-8b is not on this machine"
    with pytest.raises(ModelUnavailable):
        chosen(policy, Known(SPENT, RIGHT), available=frozenset())


CASCADE = """
rules:
  - {name: rest, cascade: {arms: [quick, think, large], accept_at: 0.75, max_joules: 300}}
"""


def names(decision: Decision) -> list[str]:
    assert decision.cascade is not None
    return [arm.name for arm in decision.cascade.arms]


def test_a_cascade(make: Make) -> None:
    decision = chosen(make(BASE + CASCADE))
    assert decision.cascade == Cascade(decision.cascade.arms, 0.75, 3, 300.0)
    assert decision.arm == decision.cascade.arms[0]
    assert decision.why == "rest: quick first; think, then large if below 75 % sure"
    assert decision.predicted_joules is None
    models = {"quick": "small-1b", "think": "small-1b", "large": "large-8b"}
    assert decision.trace()["cascade"] == {
        "arms": [{"arm": name, "model": model} for name, model in models.items()],
        "accept_at": 0.75,
        "max_hops": 3,
        "max_joules": 300.0,
    }


def test_a_cascade_of_what_is_here(make: Make) -> None:
    same = chosen(make(BASE + CASCADE), available=frozenset({"tiny"}))
    assert names(same) == ["quick", "think"]
    assert same.cascade.max_hops == 2
    assert same.why.endswith("; large is skipped: on this machine it is the same as quick")
    policy = make(BASE.replace("small-1b, tiny", "small-1b") + CASCADE)
    alone = chosen(policy, Known(SPENT), available=frozenset({"large-8b"}))
    assert (alone.arm.name, alone.cascade, alone.predicted_joules) == ("large", None, 55.0)
    assert alone.why.startswith(
        "rest: only large; quick is skipped: small-1b is not on this machine"
    )
    with pytest.raises(ModelUnavailable):
        chosen(policy, available=frozenset())


AGREE = """
rules:
  - name: rest
    cascade:
      arms: [{agree: [quick, other], accept: 0.8}, large]
      accept_at: 0.75
"""


def agreeing(text: str = AGREE) -> str:
    return BASE.replace("arms:\n", "arms:\n  other: {model: tiny}\n", 1) + text


def test_a_step_of_several_answers(make: Make) -> None:
    decision = chosen(make(agreeing()))
    cascade = decision.cascade
    assert names(decision) == ["quick", "other", "large"]
    assert (cascade.max_hops, cascade.agreements) == (3, (Agreement(("quick", "other"), 0.8),))
    assert [cascade.number_step(name) for name in ("quick", "other", "large", "none")] == [
        *(1, 1, 2, None)
    ]
    assert (
        decision.why == "rest: quick and other first; large if they differ or are not sure enough"
    )
    traced = decision.trace()["cascade"]
    assert traced["agreements"] == [{"arms": ["quick", "other"], "accept_at": 0.8, "odds": None}]
    assert (
        next(_format_steps(traced)) == "quick and other if they agree (0.8 or more; uncalibrated)"
    )


def test_what_agreement_is_worth_is_part_of_the_decision(make: Make) -> None:
    odds = PredictedAgreement(0.81, 0.72, 0.88, 90, (0.3, 0.4), known=False, at_most=0.85)
    traced = chosen(make(agreeing()), Known(SPENT, odds=odds)).trace()["cascade"]
    assert traced["agreements"][0]["odds"] == {**asdict(odds), "apart": [0.3, 0.4]}
    assert json.loads(json.dumps(traced)) == traced
    assert next(_format_steps(traced)) == (
        "quick and other if they agree (0.8 or more; agreed answers are right at least 81 % "
        "[72, 88] of the time, n=90)"
    )


NEVER = PredictedAgreement(0.6, 0.5, 0.7, 90, (0.3, 0.4), at_most=0.64)
"""Agreement that a fit of 90 answers never finds right 80 % of the time."""


def test_a_step_that_is_never_accepted_is_not_asked(make: Make) -> None:
    decision = chosen(make(agreeing()), Known(SPENT, odds=NEVER))
    assert (decision.arm.name, decision.cascade) == ("large", None)
    assert decision.predicted_joules == SPENT["large"]
    assert decision.why == (
        "rest: only large; quick and other are not asked: where they agree at most 64.0 % are "
        "right, 80 % required"
    )
    longer = agreeing().replace("}, large]", "}, think, large]")
    decision = chosen(make(longer), Known(SPENT, odds=NEVER))
    assert names(decision) == ["think", "large"]
    assert (decision.cascade.agreements, decision.cascade.max_hops) == ((), 2)
    assert decision.why.startswith("rest: think first; large if below 75 % sure; quick and other")


@pytest.mark.parametrize(
    ("odds", "limit"),
    [
        (replace(NEVER, at_most=0.8), ""),  # reached at the highest margin
        (replace(NEVER, high=0.81), ""),  # too few answers to say so
        (replace(NEVER, known=False), ""),  # the least that it can be
        (None, ""),
        (NEVER, "max_hops: 2"),  # large would not be asked after them
        (NEVER, "max_joules: 100"),
    ],
)
def test_a_step_is_asked_unless_it_is_certainly_in_vain(
    make: Make, odds: PredictedAgreement | None, limit: str
) -> None:
    decision = chosen(make(agreeing() + f"      {limit}\n"), Known(SPENT, odds=odds))
    assert names(decision) == ["quick", "other", "large"]
    assert "not asked" not in decision.why


def test_a_step_that_is_asked_in_vain_is_named(make: Make) -> None:
    odds = replace(NEVER, high=0.81)
    traced = chosen(make(agreeing()), Known(SPENT, odds=odds)).trace()["cascade"]
    assert next(_format_steps(traced)).endswith(
        "n=90, 64.0 % at the best margins, so never accepted)"
    )


@pytest.mark.parametrize(
    ("large", "available", "arms", "why"),
    [
        ("large-8b, tiny", "small-1b large-8b", "quick large", "quick has no arm left to agree wi"),
        (
            "large-8b, tiny",
            "tiny large-8b",
            "quick large",
            "other is skipped: on this machine it is the same as quick",
        ),
        ("large-8b", "tiny small-1b", "quick other", "quick and other need not agree: no arm foll"),
    ],
)
def test_an_agreement_that_cannot_be_carried_out_is_tried_arm_by_arm(
    make: Make, large: str, available: str, arms: str, why: str
) -> None:
    policy = make(agreeing().replace("large-8b, tiny", large))
    decision = chosen(policy, available=frozenset(available.split()))
    assert names(decision) == arms.split()
    assert decision.cascade.agreements == ()
    assert why in decision.why


def test_votes_of_one_arm_are_a_step(make: Make) -> None:
    text = AGREE.replace("quick, other", "thrice")
    votes = "arms:\n  thrice: {model: small, reasoning: vote, votes: 3}\n"
    decision = chosen(make(BASE.replace("arms:\n", votes, 1) + text))
    # Only within its step it stops at the first vote that differs.
    assert decision.arm.stop.rule == "flip"
    assert decision.why.startswith("rest: the votes of thrice first; large if they differ")


BUDGETS = """
budgets:
  turn: {joules: 400, tokens: 2000, seconds: 60, when_exceeded: answer_now}
  hour: {joules: 20000, when_exceeded: degrade}
  day: {joules: 90000, when_exceeded: refuse}
fallbacks: {load_failed: quick, context_overflow: drop_history, no_answer: next_arm}
"""


def test_budgets_and_fallbacks(make: Make) -> None:
    policy = make(BASE + "rules: [{name: rest, use: large}]\n" + BUDGETS)
    decision = chosen(policy)
    assert decision.budget == TurnBudget(400.0, 2000, 60.0)
    quick = Arm("quick", "small-1b", sampling_from=OPEN_SAMPLING)
    assert decision.fallbacks == Fallbacks(quick, "drop_history", "next_arm")
    assert policy.period_budgets == (
        PeriodBudget("hour", 20000.0, "degrade"),
        PeriodBudget("day", 90000.0, "refuse"),
    )
    trace = decision.trace()
    assert trace["budget"] == {"joules": 400.0, "tokens": 2000, "seconds": 60.0}
    assert trace["fallbacks"]["load_failed"] == "quick"
    by_name = decide_arm(policy, "large", available=EVERY, query=QUERY, predictor=Known(SPENT))
    assert by_name.budget == decision.budget
    assert by_name.predicted_joules == 55.0
    bare = chosen(make(BASE + "rules: [{name: rest, use: large}]\n"), Known(SPENT))
    assert (bare.budget, bare.fallbacks, bare.predicted_joules) == (None, Fallbacks(), 55.0)


def test_the_arm_that_takes_over_when_a_budget_is_spent(make: Make) -> None:
    text = BASE + OBJECTIVE + "    otherwise: think\n"

    def arm(policy: Policy, known: Known | None, here: frozenset[str] = EVERY) -> str:
        return cheapest_arm(policy, QUERY, known, here).name

    named = make(text + "budgets: {hour: {joules: 9}, degrade_to: large}\n")
    assert arm(named, Known(SPENT)) == "large"
    assert arm(make(text), Known({**SPENT, "large": 5.0})) == "large"
    assert arm(make(text), Known()) == "think"
    assert arm(make(text), None) == "think"
    assert arm(make(text + "fallbacks: {load_failed: quick}\n"), None) == "quick"
    assert arm(make(BASE + CASCADE), None) == "quick"
    with pytest.raises(ModelUnavailable):
        cheapest_arm(named, QUERY, None, ())
