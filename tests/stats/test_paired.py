"""Paired differences: the interval holds for few questions, and looks are counted honestly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.stats.tests import (
    count_questions_needed,
    estimate_paired_mean,
)

DIFFERENCES = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=60)


@given(DIFFERENCES)
def test_the_interval_contains_the_mean_and_is_never_a_point(values: list[float]) -> None:
    found = estimate_paired_mean(np.array(values))
    assert found.value == pytest.approx(np.mean(values))
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.01
    assert 0 <= found.p <= 1


@given(DIFFERENCES)
def test_swapping_the_sides_negates_the_result(values: list[float]) -> None:
    one, other = (estimate_paired_mean(np.array(values) * sign) for sign in (1, -1))
    assert one.low == pytest.approx(-other.high)
    assert one.p == pytest.approx(other.p)


def test_three_unanimous_answers_are_no_evidence() -> None:
    found = estimate_paired_mean(np.array([1.0, 1.0, 1.0]))
    assert found.low < 0
    assert found.p > 0.05


@pytest.mark.parametrize(
    ("gain", "loss", "count"), [(0.05, 0.05, 12), (0.2, 0.1, 30), (0.1, 0, 40)]
)
def test_the_interval_covers_the_truth_at_few_questions(gain, loss, count) -> None:
    draw = np.random.default_rng(1)
    rows = draw.choice([1.0, -1.0, 0.0], p=[gain, loss, 1 - gain - loss], size=(1500, count))
    found = [estimate_paired_mean(row) for row in rows]
    covered = sum(one.low <= gain - loss <= one.high for one in found) / len(found)
    assert covered >= 0.945


def test_more_questions_are_needed_for_smaller_differences_and_more_looks() -> None:
    assert count_questions_needed(0.5, 0.1) == 197
    assert count_questions_needed(0.5, 0.05) > 3.9 * 197
    assert count_questions_needed(0.5, 0.1, looks=7) > 197


def test_the_needed_questions_show_the_difference_in_four_of_five_runs() -> None:
    gain, loss = 0.3, 0.15
    deviation = math.sqrt(gain + loss - (gain - loss) ** 2)
    count = count_questions_needed(deviation, gain - loss)
    draw = np.random.default_rng(2)
    rows = draw.choice([1.0, -1.0, 0.0], p=[gain, loss, 1 - gain - loss], size=(800, count))
    shown = sum(estimate_paired_mean(row).low > 0 for row in rows) / len(rows)
    assert shown == pytest.approx(0.8, abs=0.05)
