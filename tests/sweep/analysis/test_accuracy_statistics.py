"""Accuracies of settings on the same questions: shares, differences, and one family of tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.stats.tests import mcnemar, wilson
from etui.sweep.analysis import analyse, compare_accuracies
from etui.sweep.config import SweepDesign
from tests.sweep.measured import Measured, grid

KEYS = ["a", "b", "c", "d"]


def draw(seed: int, share: float, count: int = 200) -> list[bool]:
    return list(np.random.default_rng(seed).random(count) < share)


def test_shares_have_wilsons_interval_and_the_baseline_no_difference():
    found = compare_accuracies(["a"], {"a": [True, False, True, True]}, {}, seed=0)
    assert found["a"].share == wilson(3, 4)
    assert (found["a"].correct, found["a"].questions) == (3, 4)
    assert (found["a"].difference_points, found["a"].p) == (None, None)


def test_a_difference_is_that_of_the_same_questions():
    base = draw(1, 0.6)
    other = [right and at % 5 > 0 for at, right in enumerate(base)]
    found = compare_accuracies(["a", "b"], {"a": base, "b": other}, {}, seed=0)["b"]
    lost = sum(base) - sum(other)
    assert found.difference_points.value == pytest.approx(-100 * lost / 200)
    assert found.difference_points.low < found.difference_points.value < 0
    assert found.difference_points.high < 0
    assert found.p == pytest.approx(mcnemar(lost, 0))


def test_settings_with_the_same_numbers_share_answers_and_one_test():
    answers = {"a": draw(1, 0.6), "c": draw(2, 0.5)}
    measured_as = {"b": "a", "d": "c"}
    found = compare_accuracies(KEYS, answers, measured_as, seed=0)
    assert [found[key].measured_as for key in KEYS] == ["a", "a", "c", "c"]
    same = found["b"].difference_points
    assert (same.value, same.low, same.high, found["b"].p) == (0.0, 0.0, 0.0, 1.0)
    assert found["c"].difference_points == found["d"].difference_points
    only_c = sum(c and not a for a, c in zip(answers["a"], answers["c"], strict=True))
    only_a = sum(a and not c for a, c in zip(answers["a"], answers["c"], strict=True))
    # One comparison, though two settings have its answers.
    assert found["c"].p == found["d"].p == pytest.approx(mcnemar(only_c, only_a))


def test_equal_answers_leave_what_wilson_has_not_excluded():
    base = draw(3, 0.5, 50)
    one = compare_accuracies(["a", "b"], {"a": base, "b": list(base)}, {}, seed=0)["b"]
    assert one.difference_points.value == 0
    unseen = 100 * wilson(0, 50).high
    assert (one.difference_points.low, one.difference_points.high) == (-unseen, unseen)
    assert one.p == 1.0


def test_settings_without_answers_are_left_out_and_no_baseline_has_no_difference():
    found = compare_accuracies(KEYS, {"b": [True, False], "c": []}, {}, seed=0)
    assert list(found) == ["b"]
    assert (found["b"].difference_points, found["b"].p) == (None, None)
    assert compare_accuracies(KEYS, {}, {}, seed=0) == {}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_swapping_the_baseline_flips_the_sign(pairs):
    one, other = ([pair[at] for pair in pairs] for at in (0, 1))
    there = compare_accuracies(["a", "b"], {"a": one, "b": other}, {}, seed=0)["b"]
    back = compare_accuracies(["a", "b"], {"a": other, "b": one}, {}, seed=0)["b"]
    assert back.difference_points.value == pytest.approx(-there.difference_points.value)
    assert back.p == pytest.approx(there.p)
    assert there.difference_points.low <= there.difference_points.value
    assert there.difference_points.value <= there.difference_points.high


def test_intervals_of_differences_hold():
    """Two models with 60 % and 55 %, whose errors are correlated as those of two quantisations."""
    random, held = np.random.default_rng(0), 0
    sweeps = 200
    for _ in range(sweeps):
        hard = random.random(150)
        base = list(hard + 0.1 * random.normal(size=150) < 0.60)
        other = list(hard + 0.1 * random.normal(size=150) < 0.55)
        points = compare_accuracies(["a", "b"], {"a": base, "b": other}, {}, 0)[
            "b"
        ].difference_points
        held += points.low <= -5 <= points.high
    assert held / sweeps >= 0.93


def test_accuracy_reaches_the_result_its_frontier_and_its_notes():
    design = SweepDesign(grid(threads=(1, 2), kv_type=("f16", "q4_0")), halving=False)

    def cost(one, plan):
        return 10.0 / one.get("threads") - (one.get("kv_type") == "q4_0"), 1.0

    base = draw(1, 0.6)
    worse = [right and at % 3 > 0 for at, right in enumerate(base)]
    answers = {"threads=1 kv_type=f16": base, "threads=1 kv_type=q4_0": worse}
    measured_as = {
        "threads=2 kv_type=f16": "threads=1 kv_type=f16",
        "threads=2 kv_type=q4_0": "threads=1 kv_type=q4_0",
    }
    blocks = Measured(cost, noise=0.002).blocks(design)
    result = analyse(design, blocks, answers, measured_as)
    rows = {one.setting: one for one in result.settings}
    assert rows["threads=2 kv_type=q4_0"].accuracy.measured_as == "threads=1 kv_type=q4_0"
    assert rows["threads=2 kv_type=q4_0"].accuracy.p < 0.05
    assert any(
        note.startswith("threads=2 kv_type=q4_0 answers fewer questions right: ")
        for note in result.notes
    )
    assert (
        "accuracy of threads=2 kv_type=f16 is that of threads=1 kv_type=f16, which computes the "
        "same numbers"
    ) in result.notes
    # The fewest joules with fewer right answers, and the fewest joules without.
    frontier = {one.setting for one in result.settings if one.is_on_frontier}
    assert {"threads=2 kv_type=q4_0", "threads=2 kv_type=f16"} <= frontier
