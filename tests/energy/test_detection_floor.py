"""The smallest difference that a meter can show."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.energy_record import compute_sensor_floor, explain_no_floor


@given(st.floats(0, 1e6))
def test_the_floor_is_about_twice_the_half_width(half: float) -> None:
    assert compute_sensor_floor(half, "counter") == pytest.approx(2.0215 * half, rel=1e-3)
    assert compute_sensor_floor(half, "integrated") is not None


@pytest.mark.parametrize("kind", ["estimate", "model", "battery", None])
def test_what_is_no_sensor_has_no_floor(kind: str | None) -> None:
    assert compute_sensor_floor(1.0, kind) is None
    assert explain_no_floor(1.0, kind)
    assert compute_sensor_floor(None, "counter") is None
    assert "half width" in explain_no_floor(None, "counter")


def test_a_difference_of_the_floor_is_found_in_four_of_five() -> None:
    draw, half = random.Random(1), 1.0
    floor = compute_sensor_floor(half, "counter")
    assert floor is not None
    error, found = half / 1.96, 0
    for _ in range(4000):
        one, other = draw.gauss(0, error), draw.gauss(floor, error)
        found += abs(other - one) > 1.96 * error * 2**0.5
    assert found / 4000 == pytest.approx(0.8, abs=0.03)
