"""Quantiles of Student's t, against published tables."""

from __future__ import annotations

import pytest

from etui.stats.tests import t_quantile


@pytest.mark.parametrize(
    ("tail", "degrees", "value"),
    [(0.025, 1, 12.706), (0.025, 10, 2.228), (0.05, 5, 2.015), (0.0005, 20, 3.850), (0.5, 3, 0.0)],
)
def test_quantiles_are_those_of_the_table(tail, degrees, value):
    assert t_quantile(tail, degrees) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize(("tail", "degrees"), [(0.0, 3), (0.6, 3), (0.05, 0)])
def test_what_has_no_quantile_is_refused(tail, degrees):
    with pytest.raises(ValueError, match="quantile"):
        t_quantile(tail, degrees)
