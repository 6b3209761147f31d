"""The test by betting: its error is bounded however often one looks, and it has power."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.stats.tests import compute_capital


@given(st.lists(st.floats(-1, 1), max_size=50))
def test_capital_is_at_least_the_start_and_never_falls_with_more_values(
    values: list[float],
) -> None:
    assert compute_capital(values) >= 1
    assert compute_capital([*values, 1.0]) >= compute_capital(values)


def test_without_a_mean_few_series_are_rejected_at_any_time() -> None:
    draw = random.Random(0)
    wrong = sum(compute_capital(draw.choice((-1, 1)) for _ in range(300)) >= 20 for _ in range(400))
    assert wrong / 400 <= 0.05


def test_a_mean_above_zero_is_found() -> None:
    draw = random.Random(0)
    found = sum(
        compute_capital(draw.uniform(-0.6, 1.0) for _ in range(300)) >= 20 for _ in range(50)
    )
    assert found >= 45


def test_a_long_series_does_not_overflow_and_a_value_out_of_range_is_refused() -> None:
    assert compute_capital([1.0] * 5000) >= 1e200
    with pytest.raises(ValueError, match="not in"):
        compute_capital([1.5])
