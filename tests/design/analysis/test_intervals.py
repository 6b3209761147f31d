"""Intervals of a design run hold with as few questions as a short run has."""

from __future__ import annotations

import numpy as np
import pytest

from etui.design._arms import compute_mean_interval


def test_a_mean_is_known_less_well_with_fewer_questions() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 3.0, 5.0]
    found = compute_mean_interval(values, ["a"] * 6, 0)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    error = float(np.std(values, ddof=1)) / 6**0.5
    # Student's quantile for 5 degrees of freedom is 2.57, not 1.96
    assert (found.high - found.low) / 2 == pytest.approx(2.57 * error, rel=0.12)
    one = compute_mean_interval([3.0], ["a"], 0)
    assert one is not None
    assert (one.value, one.low, one.high) == (3.0, None, None)
    assert compute_mean_interval([], [], 0) is None


def test_the_interval_of_a_mean_holds_for_sixteen_questions() -> None:
    draw = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        found = compute_mean_interval(draw.normal(10, 3, 16).tolist(), ["a"] * 16, 0)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 10 <= found.high
    assert held / 200 >= 0.92
