"""What a turn may spend: joules, tokens, seconds, over all of its hops; the reason names which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etui.routing.decision import TurnBudget
from tests.turn.stage import LARGE, QUICK, Known, Part, Stage, decided, play


def stage(**changes) -> Stage:
    part = Part("Mars.", 0.5, prefill=1.0, decode=8.0, tokens=8)
    return Stage({"quick": replace(part, **changes), "large": Part("Venus.", 0.9)})


@pytest.mark.parametrize(
    ("budget", "after", "named"),
    [
        (TurnBudget(tokens=3), 3, "the turn's budget of 3 tokens"),
        (TurnBudget(seconds=3.0), 2, "the turn's budget of 3.00 s"),
        (TurnBudget(joules=40.0), 3, "the turn's budget of 40.0 J"),
    ],
)
def test_a_spent_budget_hurries_the_answer_and_is_named(budget, after, named):
    told = stage()
    record = play(told, decided(QUICK, budget=budget)).record
    assert record.status == "budget"
    assert told.hurried == 1
    assert record.tokens.output == after
    assert record.settings["ended"] == f"{named} ended the answer after {after} tokens"


def test_the_limit_of_an_arm_is_named_as_its_own():
    told = stage()
    record = play(told, decided(replace(QUICK, max_joules=40.0))).record
    assert record.settings["ended"].startswith("the energy budget of 40.0 J of arm quick ended")


@pytest.mark.parametrize(("own", "asked"), [(None, 500.0), (900.0, 500.0), (60.0, 60.0)])
def test_an_arm_plans_with_what_the_turn_has_left(own, asked):
    told = stage()
    play(told, decided(replace(QUICK, max_joules=own), budget=TurnBudget(joules=500.0)))
    assert told.requests[0].arm.max_joules == asked


def test_a_later_hop_has_what_the_first_left():
    told = stage()
    play(told, decided(QUICK, LARGE, budget=TurnBudget(joules=500.0)))
    assert told.requests[1].arm.max_joules == pytest.approx(500.0 - 90.0)


@pytest.mark.parametrize(
    "budget", [TurnBudget(tokens=8), TurnBudget(seconds=9.0), TurnBudget(joules=90.0)]
)
def test_no_hop_begins_once_the_budget_is_spent(budget):
    told = stage()
    record = play(told, decided(QUICK, LARGE, budget=budget)).record
    assert len(record.hops) == 1
    assert record.answer == "Mars."
    assert "no further arm: the turn's budget of" in record.why


def test_tokens_of_all_hops_count():
    told = stage()
    record = play(told, decided(QUICK, LARGE, budget=TurnBudget(tokens=10))).record
    assert (len(record.hops), record.tokens.output) == (2, 10)
    assert told.hurried == 1
    assert record.status == "budget"


def test_a_load_takes_no_seconds_of_the_budget():
    told = stage(load=60.0)
    record = play(told, decided(QUICK, budget=TurnBudget(seconds=30.0))).record
    assert (record.status, told.hurried) == ("complete", 0)


def test_a_turn_within_its_budget_is_left_alone():
    told = stage()
    budget = TurnBudget(joules=1000.0, tokens=1000, seconds=1000.0)
    record = play(told, decided(QUICK, budget=budget), predictor=Known()).record
    assert (record.status, told.hurried) == ("complete", 0)
