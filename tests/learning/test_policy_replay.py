"""Policies over tables of answers: rules, objectives with cross-fitted heads, cascades."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from etui.errors import UsageError
from etui.learning.fit import fit_accuracy
from etui.learning.fitted_file import Provenance
from etui.learning.judge import ReplayTable, judge
from etui.learning.policy_replay import replay_policy
from etui.learning.predictor import AccuracyPredictor
from etui.routing.library import check_text
from etui.yaml.named_files import NamedFile
from tests.learning import made

HEAD = """
version: 1
description: d
models: {small: [small], large: [large]}
arms:
  weak: {model: small}
  strong: {model: large}
"""


def policy(rules: str, arms: str = ""):
    text = HEAD + arms + rules
    found = check_text(text, NamedFile("p", Path("p.yaml"), "file"), ("small", "large"))
    assert found.policy is not None, found.errors
    return found.policy


RULES = policy(
    """
signals: {symbolic: {regex: '='}}
rules:
  - {name: symbols, priority: 9, when: symbolic, use: strong}
  - {name: rest, use: weak}
"""
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
CASCADE = policy(
    """
rules:
  - {name: up, cascade: {arms: [weak, strong], accept_at: 0.75}}
"""
)


def test_rules_send_each_question_to_their_arm():
    table = made.graded(300)
    routed = replay_policy(RULES, table, table.joules, label="J")
    hard = np.array(["=" in q.stem for q in table.questions])
    assert (routed.chosen == hard).all()
    assert (routed.cost == table.joules[np.arange(300), routed.chosen]).all()
    assert routed.rules == {"symbols": int(hard.sum()), "rest": int((~hard).sum())}


def test_a_good_policy_lies_above_the_mixture_and_a_random_one_does_not():
    table = made.graded(900, seed=4)
    shown = ReplayTable(table, table.joules, "J", ("counter",))
    routed = replay_policy(RULES, table, table.joules, label="J")
    found = judge(shown, {}, [routed])["policies"]["p"]
    assert found["difference"]["low"] > 0.02
    dearest = judge(shown, {})["arms"]["strong"]
    assert found["saved"] is None or found["saved"]["value"] > 0.1
    assert (found["saved"] is None) == (found["accuracy"] > dearest["accuracy"])
    coin = np.random.default_rng(0).random(900) < 0.5
    rows = np.arange(900)
    random = replace(
        routed,
        chosen=coin.astype(int),
        correct=table.correct[rows, coin.astype(int)],
        cost=table.joules[rows, coin.astype(int)],
    )
    found = judge(shown, {}, [random])["policies"]["p"]
    assert found["difference"]["low"] < 0 < found["difference"]["high"]


def test_an_objective_goes_by_heads_of_the_other_folds():
    table = made.graded(600)
    routed = replay_policy(OBJECTIVE, table, table.joules, label="J")
    hard = np.array(["=" in q.stem for q in table.questions])
    assert routed.chosen[hard].mean() > 0.8
    assert routed.chosen[~hard].mean() < 0.25
    # Heads that saw the answers could not be told from these by a question's own outcome.
    flipped = replace(table, correct=table.correct.copy())
    flipped.correct[5] = ~flipped.correct[5]
    again = replay_policy(OBJECTIVE, flipped, table.joules, label="J")
    assert again.chosen[5] == routed.chosen[5]


def test_an_objective_goes_by_heads_of_other_questions():
    origin = Provenance(fitted_at="", source=(), data_sha256="", n=600, excluded=0, etui="")
    heads = AccuracyPredictor(fit_accuracy(made.graded(600, seed=1), origin))
    table = made.graded(300)
    routed = replay_policy(OBJECTIVE, table, table.joules, label="J", heads=heads)
    hard = np.array(["=" in q.stem for q in table.questions])
    assert routed.chosen[hard].mean() > routed.chosen[~hard].mean() + 0.5
    # The answers that are judged have no part in what is chosen.
    wrong = replace(table, correct=~table.correct)
    again = replay_policy(OBJECTIVE, wrong, table.joules, label="J", heads=heads)
    assert (again.chosen == routed.chosen).all()


def test_a_cascade_goes_up_where_the_first_answer_is_unsure():
    table = made.graded(600)
    routed = replay_policy(CASCADE, table, table.joules, label="J")
    up = routed.hops == 2
    assert 0.1 < up.mean() < 0.9
    assert table.margin[~up, 0].mean() > table.margin[up, 0].mean() + 0.2
    assert routed.cost[up] == pytest.approx(table.joules[up].sum(axis=1))
    assert routed.cost[~up] == pytest.approx(table.joules[~up, 0])
    assert (routed.correct == table.correct[np.arange(600), routed.chosen]).all()


def test_a_cascade_without_confidence_is_told():
    table = replace(made.graded(60), confidence=None, margin=None)
    routed = replay_policy(CASCADE, table, table.joules, label="J")
    assert (routed.chosen == 0).all()
    assert "60 questions go to a cascade" in routed.notes[0]


def test_what_cannot_be_replayed_is_refused():
    table = made.graded(60)
    with pytest.raises(UsageError, match="texts of the questions"):
        replay_policy(RULES, replace(table, questions=()), table.joules, label="J")
    other = replace(table, arms=("a", "b"), facts={})
    with pytest.raises(UsageError, match="none of the arms"):
        replay_policy(RULES, other, table.joules, label="J")
    half = replace(table, arms=("weak", "b"), facts={})
    with pytest.raises(UsageError, match=r"no answers: strong \(\d+ questions\)"):
        replay_policy(RULES, half, table.joules, label="J")


def test_the_document_of_measured_joules():
    table = made.graded(300)
    again = made.graded(300, seed=8)
    shown = ReplayTable(table, table.joules, "J", ("counter",), repeats=again)
    p = np.column_stack([np.full(300, 0.5), 0.5 + 0.4 * ~table.correct[:, 0]])
    document = judge(shown, {"made": p})
    assert document["unit"] == "J"
    assert document["router"] == "made"
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


def test_a_dearer_arm_that_is_no_better_gives_nothing_to_gain():
    table = made.graded(100)
    flipped = replace(table, correct=table.correct[:, ::-1].copy())
    document = judge(ReplayTable(flipped, table.joules, "J"), {"made": np.full((100, 2), 0.5)})
    assert document["apgr"] is None
    assert [corner["arm"] for corner in document["hull"]] == ["weak"]
