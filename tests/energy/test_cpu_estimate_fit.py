"""The CPU estimate's range, fitted to real readings."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.sources.estimate import fit_range


@given(idle=st.floats(1, 50), span=st.floats(5, 300), seed=st.integers(0, 99))
def test_an_exact_line_is_found(idle: float, span: float, seed: int) -> None:
    rng = random.Random(seed)
    uses = [0.0, 1.0, *(rng.random() for _ in range(10))]
    fitted = fit_range([(use, idle + span * use) for use in uses])
    assert fitted is not None
    assert fitted.idle_watts == pytest.approx(idle, rel=1e-6)
    assert fitted.limit_watts == pytest.approx(idle + span, rel=1e-6)
    assert fitted.band == pytest.approx(0, abs=1e-6)
    assert fitted.trustworthy


def test_scatter_becomes_the_band() -> None:
    rng = random.Random(1)
    readings = []
    for _ in range(400):
        use = rng.random()
        readings.append((use, 20 + 60 * use + rng.gauss(0, 5)))
    fitted = fit_range(readings)
    assert fitted is not None
    assert fitted.band == pytest.approx(2 * 5 / 50, rel=0.15)


def test_rest_alone_says_nothing_of_the_limit() -> None:
    fitted = fit_range([(0.02 + 0.001 * i, 10 + 0.1 * i) for i in range(20)])
    assert fitted is not None
    assert not fitted.trustworthy


@pytest.mark.parametrize(
    "readings", [[], [(0.5, 20.0)], [(0.5, 20.0), (0.5, 21.0)], [(0.0, 50.0), (1.0, 20.0)]]
)
def test_no_line_no_range(readings: list[tuple[float, float]]) -> None:
    assert fit_range(readings) is None
