"""The correlation of two series, by which each lag is judged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.lags import correlate

watts = st.lists(st.tuples(st.floats(1, 500), st.floats(1, 500)), min_size=3, max_size=40)


@given(watts)
def test_it_is_that_of_numpy(pairs):
    first, second = np.array(pairs).T
    found = correlate(first, second)
    if found is None:
        assert 0 in (np.ptp(first), np.ptp(second))
    elif min(np.ptp(first), np.ptp(second)) > 1e-3:
        assert found == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-6)


def test_what_is_not_known_is_left_out():
    first = np.array([1.0, math.nan, 3.0, 2.0, 9.0])
    second = np.array([2.0, 100.0, 6.0, 4.0, math.nan])
    assert correlate(first, second) == pytest.approx(1.0)
    assert correlate(first, -second) == pytest.approx(-1.0)
    assert correlate(first, second, 4) is None
    assert correlate(first, np.full(5, 7.0)) is None
    assert correlate(first[:0], second[:0]) is None
