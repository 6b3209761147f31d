"""The benchmark of sweeps: the truth of claims, the excess of a choice, and the summary."""

from __future__ import annotations

import math
import random

import pytest

from benchmarks.sweep import (
    Outcome,
    Stated,
    average_effect,
    compute_excess,
    format_summaries,
    list_claims,
    simulate_contended,
    summarize,
)
from etui.sweep.config import Goal
from tests.support.sweep_rig import MACHINES

pytestmark = pytest.mark.slow


def outcome(excess=0.0, is_baseline=False, seconds=40.0, stated=()):
    return Outcome(20, excess, 0.0, is_baseline, seconds, 100.0, tuple(stated))


def test_a_claim_is_false_if_its_sign_is_wrong_or_there_is_no_difference():
    assert not Stated(-18.0, -20.0, -16.0, True).is_false
    assert not Stated(-15.0, -20.0, -16.0, True).is_false
    assert not Stated(-15.0, -20.0, -16.0, True).holds
    assert Stated(2.0, -20.0, -16.0, True).is_false
    assert Stated(0.0, -20.0, -16.0, True).is_false
    assert not Stated(0.0, -20.0, 16.0, False).is_false


def test_an_effect_is_averaged_over_the_other_axes():
    values = {f"{n} {kind}": {"threads": n, "kv_type": kind} for n in (1, 2) for kind in ("a", "b")}
    logs = {"1 a": 0.0, "1 b": 0.3, "2 a": 1.0, "2 b": 1.1}
    assert average_effect(values, logs, ("threads", 2, 1)) == pytest.approx(0.9)
    assert average_effect(values, logs, ("kv_type", "a", "b")) == pytest.approx(-0.2)


def test_the_best_choice_has_no_excess_and_another_costs_what_it_costs():
    machine = MACHINES["caps"](random.Random(1))
    goal = Goal()
    best = machine.find_best(goal)
    assert compute_excess(machine, best, goal) == 0
    base = machine.settings[0].key
    assert compute_excess(machine, base, goal) == pytest.approx(
        machine.cost(base).joules / machine.cost(best).joules - 1
    )
    assert compute_excess(machine, None, goal) == math.inf
    assert compute_excess(machine, best, Goal("joules", within_percent=2)) == math.inf


def test_a_summary_counts_choices_claims_and_time():
    right, wrong = Stated(-18.0, -20.0, -16.0, True), Stated(-15.0, -20.0, -16.0, True)
    found = summarize("caps", [outcome(0.01, stated=[right] * 3), outcome(0.05, stated=[wrong])])
    assert (found.close, found.claims, found.hold, found.false) == (0.5, 4, 0.75, 0)
    assert (found.saved, found.half) == (0.6, 1.0)
    assert found.missed == ("close", "hold")
    assert "missed: close, hold" in format_summaries([found])[1]


def test_on_the_flat_machine_every_choice_but_the_baseline_is_false():
    outcomes = [outcome(is_baseline=True)] * 9 + [outcome(is_baseline=False)]
    found = summarize("flat", outcomes)
    assert found.false == 0.1
    assert found.hold is None
    assert found.missed == ("false",)
    assert "-" in format_summaries([found])[1]


def test_fifty_sweeps_beside_a_busy_process_end_in_time_and_claim_nothing_false():
    outcomes = [simulate_contended(number) for number in range(50)]
    assert not [one.false for one in outcomes if one.false]
    assert max(one.seconds for one in outcomes) < 900
    results = [one.result for one in outcomes]
    assert sum(result.is_complete for result in results) > 25
    # The other half of the truth: what can be shown is shown.
    differences = [one.seconds_difference for result in results for one in result.settings]
    assert sum(one is not None and one.is_claimed for one in differences) > 10


def test_claims_are_listed_by_setting_and_figure():
    claimed, open_ = ({"percent": -18.0, "is_claimed": is_claimed} for is_claimed in (True, False))
    one = {"setting": "threads=1", "joules_difference": open_, "seconds_difference": claimed}
    base = {"setting": "threads=2", "joules_difference": None, "seconds_difference": None}
    assert list_claims({"baseline": "threads=2", "settings": [base, one]}) == {
        ("threads=1 against threads=2", "seconds"): -18.0
    }
    assert list_claims({}) == {}
