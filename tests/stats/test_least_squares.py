"""Non-negative least squares: exact where it can be, and never below zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.stats.tests import fit_non_negative


def test_coefficients_of_exact_values_are_found():
    rows = [(1.0, x, y) for x, y in ((1.0, 2.0), (3.0, 1.0), (5.0, 7.0), (2.0, 9.0))]
    values = [2 + 3 * x + 0.5 * y for _, x, y in rows]
    assert fit_non_negative(rows, values) == pytest.approx([2, 3, 0.5])


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-100, 100)), min_size=3, max_size=20))
def test_no_coefficient_is_negative(points):
    found = fit_non_negative([(1.0, x) for x, _ in points], [y for _, y in points])
    assert all(coefficient >= 0 for coefficient in found)
