"""Replays over tables of answers: routers and their curves, the hull, and policies."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.cli.policy_replay import replay_lines
from etui.errors import UsageError
from etui.learning.fit import fit_accuracy
from etui.learning.graded import Graded
from etui.learning.judge import (
    ReplayTable,
    accuracy_at,
    apgr,
    choices_at,
    compute_area_intervals,
    compute_curve,
    cost_at,
    cost_for,
    find_ends,
    gain_curve,
    judge,
    list_hull_places,
    oracle_curve,
)
from etui.learning.policy_replay import replay_policy
from etui.learning.predictor import AccuracyPredictor
from etui.routing.library import compile_text
from etui.stats.frontier import cheapest_correct
from tests.learning import made

FIXED = np.array([1.0, 10.0])


def tile(pairs: list[tuple[int, int]]):
    correct = np.array(pairs, dtype=bool)
    return correct, np.tile(FIXED, (len(correct), 1))


def area(p, correct, cost):
    curve = compute_curve(p, cost.mean(axis=0), correct, cost)
    return apgr(*gain_curve(curve, find_ends(correct, cost)))


def test_apgr_by_hand():
    # Sorted by score: gain, nothing, loss, gain. PGR over the share: 0, 1, 1, 0, 1.
    correct, cost = tile([(0, 1), (1, 1), (1, 0), (0, 1)])
    p = np.array([[0.0, 0.9], [0.0, 0.6], [0.0, 0.3], [0.0, 0.1]])
    assert area(p, correct, cost) == pytest.approx(0.25 * (0.5 + 1 + 0.5 + 0.5))
    curve = compute_curve(p, FIXED, correct, cost)
    x, pgr = gain_curve(curve, find_ends(correct, cost))
    assert cost_for(x, pgr, 0.5) == pytest.approx(0.25)
    assert cost_for(x, pgr, 1.5) is None
    # Questions of equal score change sides together.
    assert area(np.full((4, 2), 0.5), correct, cost) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=4, max_size=60))
def test_no_router_beats_the_oracle(pairs):
    correct, cost = tile([*pairs, (0, 1)])
    ends = find_ends(correct, cost)
    if ends.gain <= 0:
        return
    best = apgr(*gain_curve(oracle_curve(correct, cost), ends))
    p = np.random.default_rng(len(pairs)).random(correct.shape)
    assert area(p, correct, cost) <= best + 1e-9
    taken = cheapest_correct(correct, cost)
    assert correct[np.arange(len(correct)), taken].mean() == correct.any(axis=1).mean()
    # Where the cheap arm is right, or none is, the cheap arm is taken.
    assert not taken[correct[:, 0] | ~correct.any(axis=1)].any()


def test_a_router_over_three_arms_takes_each_where_it_pays():
    correct = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]] * 10, dtype=bool)
    cost = np.tile([1.0, 3.0, 9.0], (40, 1))
    curve = compute_curve(correct.astype(float), cost.mean(axis=0), correct, cost)
    assert (curve.cost[0], curve.accuracy[0], curve.accuracy.max()) == (1, 0.25, 0.75)
    assert cost_at(curve, 0.75) == pytest.approx((1 + 3 + 9 + 1) / 4)
    assert cost_at(curve, 0.9) is None
    assert accuracy_at(curve, 1.0) == 0.25
    assert (np.diff(curve.cost) >= 0).all()
    taken = choices_at(correct.astype(float), np.array([1.0, 3.0, 9.0]), 0.01)
    assert taken[:4].tolist() == [0, 1, 2, 0]
    # The ends are the cheapest arm and the best of the others.
    correct = np.array([[0, 1, 1], [0, 1, 0], [1, 1, 1]], dtype=bool)
    ends = find_ends(correct, np.tile([1.0, 4.0, 9.0], (3, 1)))
    assert (ends.weak, ends.strong) == (0, 1)
    assert ends.gain == pytest.approx(2 / 3)


@pytest.mark.parametrize("arms", [2, 4, 9])
def test_the_interval_of_apgr_contains_it_with_any_number_of_arms(arms):
    draw = np.random.default_rng(3)
    count, hard = 2000, draw.random((2000, 1))
    chance = np.clip(0.3 + 0.6 * np.linspace(0, 1, arms) - 0.4 * hard, 0, 1)
    correct, costs = draw.random((count, arms)) < chance, 2.0 ** np.arange(arms)
    cost = np.tile(costs, (count, 1))
    for p, pays in ((chance + 0.3 * correct, True), (draw.random((count, arms)), False)):
        found = compute_area_intervals(p, correct, cost, seed=0)
        assert found.apgr.value == pytest.approx(area(p, correct, cost))
        assert found.apgr.low < found.apgr.value < found.apgr.high
        # Against the mixture what all arms share cancels out.
        assert found.over_mixture.low < found.over_mixture.value < found.over_mixture.high
        assert (found.over_mixture.low > 0) is pays
    if arms == 2:  # the mixture of two arms is a random choice between them
        assert found.apgr.value - found.over_mixture.value == pytest.approx(0.5)


def test_the_interval_of_apgr_is_as_wide_as_new_questions_vary_it():
    """Of 100 tables, the intervals of about 95 contain what a hundred times the questions give."""
    costs = np.array([1.0, 3.0, 8.0, 30.0])

    def draw_table(seed, count):
        draw = np.random.default_rng(seed)
        ease = draw.normal(0, 1, (count, 1))
        chance = 1 / (1 + np.exp(-(ease + np.array([0.1, 0.7, 1.5, 2.2]))))
        p = 1 / (1 + np.exp(-(0.7 * ease + np.array([0.1, 0.6, 1.3, 1.9]))))
        return p, draw.random(chance.shape) < chance, np.tile(costs, (count, 1))

    p, correct, cost = draw_table(1000, 60_000)
    truth = area(p, correct, cost)
    mixture = judge(
        ReplayTable(
            Graded(tuple("abcd"), ("s",) * 60_000, tuple(range(60_000)), (), correct), cost
        ),
        {},
    )["mixture"]["apgr"]
    inside = np.zeros(2)
    for seed in range(60):
        found = compute_area_intervals(*draw_table(seed, 600), seed=0, replicates=300)
        for at, (interval, true) in enumerate(
            ((found.apgr, truth), (found.over_mixture, truth - mixture))
        ):
            inside[at] += interval.low <= true <= interval.high
    assert (inside >= 51).all()


# the hull


def test_corners_and_geometric_middles_of_a_hull_with_an_arm_below_it():
    places = list_hull_places([1.0, 3.0, 8.0, 30.0], [0.5, 0.5, 0.8, 0.9])
    kinds = ["corner", "middle"] * 2 + ["corner"]
    arms = [(0,), (0, 2), (2,), (2, 3), (3,)]
    assert [(place.kind, place.arms) for place in places] == list(zip(kinds, arms, strict=True))
    assert [place.cost for place in places] == pytest.approx([1, sqrt(8), 8, sqrt(240), 30])


@given(st.lists(st.tuples(st.floats(0.01, 1e4), st.floats(0, 1)), min_size=1, max_size=9))
def test_places_ascend_and_alternate(points):
    places = list_hull_places(*zip(*points, strict=True))
    assert len(places) % 2 == 1
    assert [place.kind for place in places[::2]] == ["corner"] * (len(places) // 2 + 1)
    assert all(a.cost <= b.cost * (1 + 1e-12) for a, b in pairwise(places))
    for left, middle, right in zip(places[::2], places[1::2], places[2::2], strict=False):
        assert middle.arms == left.arms + right.arms


def nested(*accuracies: float, count: int = 400) -> Graded:
    """Nested answers: what an arm knows, the better ones know too, but for a few."""
    draw = np.random.default_rng(4)
    hard = draw.random(count)
    correct = np.column_stack([hard + draw.normal(0, 0.1, count) < a for a in accuracies])
    names = tuple(f"arm{at}" for at in range(len(accuracies)))
    return Graded(names, ("s",) * count, tuple(range(count)), (), correct)


def test_the_document_has_a_row_for_each_place_with_its_gain():
    graded = nested(0.5, 0.45, 0.8, 0.9)
    cost = np.tile([1.0, 3.0, 8.0, 30.0], (len(graded), 1))
    guess = np.random.default_rng(5).random((len(graded), 1))
    document = judge(ReplayTable(graded, cost), {"knowing": 0.8 * graded.correct + 0.5 * guess})
    rows = document["energy"]["at_hull"]
    assert ["+".join(row["arms"]) for row in rows] == [
        "arm0", "arm0+arm2", "arm2", "arm2+arm3", "arm3",
    ]  # fmt: skip
    for row in rows:
        assert row["cost"] <= row["budget"] * (1 + 1e-6)
        gain = row["accuracy"] - row["mixture_accuracy"]
        assert row["difference"]["value"] == pytest.approx(gain)
    assert rows[0]["difference"]["value"] == pytest.approx(0)
    assert rows[2]["difference"]["low"] > 0
    assert rows[1]["saved"]["value"] > 0.1
    # The arm below the hull is not compared with, but a router may use it.
    assert sum(row["shares"]["arm1"] for row in rows) > 0
    assert document["mixture"]["apgr"] > 0.6, "a random mixture passes through the third arm"
    router = document["routers"]["knowing"]
    assert router["apgr"] - document["mixture"]["apgr"] == pytest.approx(
        router["over_mixture"]["value"], abs=1e-6
    )
    assert document["over_mixture"]["low"] > 0
    low, high = document["apgr_interval"]
    assert low < document["apgr"] < high
    text = "\n".join(replay_lines(document))
    assert "mixture of the hull" in text
    assert "arm0..arm2" in text
    assert "50% of the way" in text


def test_a_costlier_arm_that_is_no_better_gives_nothing_to_gain():
    graded = nested(0.9, 0.5)
    cost = np.tile([1.0, 3.0], (len(graded), 1))
    document = judge(ReplayTable(graded, cost), {"knowing": graded.correct.astype(float)})
    assert document["apgr"] is document["energy"] is None
    assert [c["arm"] for c in document["hull"]] == ["arm0"]


def test_the_document_of_measured_joules():
    table = made.graded(300)
    again = made.graded(300, seed=8)
    shown = ReplayTable(table, table.joules, "J", ("counter",), repeats=again)
    p = np.column_stack([np.full(300, 0.5), 0.5 + 0.4 * ~table.correct[:, 0]])
    document = judge(shown, {"made": p})
    assert (document["unit"], document["router"]) == ("J", "made")
    assert document["apgr"] > 0.8
    assert document["cpt50"] <= document["cpt80"] < 0.5
    assert [corner["arm"] for corner in document["hull"]] == ["weak", "strong"]
    oracle = document["oracle"]
    assert oracle["reproducible"]["accuracy"] < oracle["accuracy"]
    assert oracle["cost"] < document["arms"]["strong"]["cost"]
    at = document["energy"]["at_budget"]
    assert [point["share"] for point in at] == [0.25, 0.5, 0.75]
    assert all(point["cost"] <= point["budget"] + 1e-9 for point in at)
    # Joules of a question vary, so its APGR over joules is not that over calls, but near.
    assert document["energy"]["apgr"] == pytest.approx(document["apgr"], abs=0.1)


# policies

HEAD = "version: 1\narms: {weak: {model: small}, strong: {model: large}}\n"


def policy(rules: str):
    return compile_text(HEAD + rules, "p", ("small", "large"))


RULES = policy(
    "signals: {symbolic: {regex: '='}}\n"
    "rules: [{name: symbols, priority: 9, when: symbolic, use: strong}, {name: rest, use: weak}]"
)
OBJECTIVE = policy(
    """
rules:
  - name: all
    objective: {minimize: joules, accuracy: {at_least: 0.6, confidence: 0.8}}
    arms: [weak, strong]
    otherwise: strong
"""
)
CASCADE = policy("rules: [{name: up, cascade: {arms: [weak, strong], accept_at: 0.75}}]")


def replay(policy, table, **options):
    return replay_policy(policy, table, table.joules, label="J", **options)


def is_hard(table) -> np.ndarray:
    return np.array(["=" in q.stem for q in table.questions])


def test_rules_send_each_question_to_their_arm():
    table = made.graded(300)
    routed, hard = replay(RULES, table), is_hard(table)
    assert (routed.chosen == hard).all()
    assert (routed.cost == table.joules[np.arange(300), routed.chosen]).all()
    assert routed.rules == {"symbols": int(hard.sum()), "rest": int((~hard).sum())}


def test_a_good_policy_lies_above_the_mixture_and_a_random_one_does_not():
    table = made.graded(900, seed=4)
    shown = ReplayTable(table, table.joules, "J", ("counter",))
    routed = replay(RULES, table)
    coin = (np.random.default_rng(0).random(900) < 0.5).astype(int)
    at = np.arange(900), coin
    random = replace(
        routed, name="coin", chosen=coin, correct=table.correct[at], cost=table.joules[at]
    )
    document = judge(shown, {}, [routed, random])
    found, other = document["policies"]["p"], document["policies"]["coin"]
    assert found["difference"]["low"] > 0.02
    assert found["saved"] is None or found["saved"]["value"] > 0.1
    best = document["arms"]["strong"]["accuracy"]
    assert (found["saved"] is None) == (found["accuracy"] > best)
    assert other["difference"]["low"] < 0 < other["difference"]["high"]


def test_an_objective_goes_by_heads_of_the_other_folds():
    table = made.graded(600)
    routed, hard = replay(OBJECTIVE, table), is_hard(table)
    assert routed.chosen[hard].mean() > 0.8
    assert routed.chosen[~hard].mean() < 0.25
    # Heads that saw the answers could not be told from these by a question's own outcome.
    flipped = replace(table, correct=table.correct.copy())
    flipped.correct[5] = ~flipped.correct[5]
    assert replay(OBJECTIVE, flipped).chosen[5] == routed.chosen[5]


def test_an_objective_goes_by_heads_of_other_questions():
    heads = AccuracyPredictor(fit_accuracy(made.graded(600, seed=1), made.ORIGIN))
    table = made.graded(300)
    routed, hard = replay(OBJECTIVE, table, heads=heads), is_hard(table)
    assert routed.chosen[hard].mean() > routed.chosen[~hard].mean() + 0.5
    # The answers that are judged have no part in what is chosen.
    wrong = replace(table, correct=~table.correct)
    assert (replay(OBJECTIVE, wrong, heads=heads).chosen == routed.chosen).all()
    # A cascade goes on where the first answer is unsure.
    routed = replay(CASCADE, table, heads=heads)
    up = routed.hops == 2
    assert 0.1 < up.mean() < 0.9
    assert table.margin[~up, 0].mean() > table.margin[up, 0].mean() + 0.2
    assert routed.cost[up] == pytest.approx(table.joules[up].sum(axis=1))
    assert routed.cost[~up] == pytest.approx(table.joules[~up, 0])
    assert (routed.correct == table.correct[np.arange(300), routed.chosen]).all()


def test_what_cannot_be_replayed_is_noted_or_refused():
    table = made.graded(60)
    routed = replay(CASCADE, replace(table, confidence=None, margin=None))
    assert (routed.chosen == 0).all()
    assert "60 questions go to a cascade" in routed.notes[0]
    with pytest.raises(UsageError, match="texts of the questions"):
        replay(RULES, replace(table, questions=()))
    with pytest.raises(UsageError, match="none of the arms"):
        replay(RULES, replace(table, arms=("a", "b"), facts={}))
    with pytest.raises(UsageError, match=r"no answers: strong \(\d+ questions\)"):
        replay(RULES, replace(table, arms=("weak", "b"), facts={}))
