"""The watts of a turn over its time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.types import Energy
from etui.power_curve import MOST_SLICES, SHORTEST_SLICE_NS, power_curve


def steady(watts: float | None) -> object:
    def energy(start_ns: int, end_ns: int) -> Energy:
        joules = None if watts is None else watts * (end_ns - start_ns) / 1e9
        return Energy(start_ns, end_ns, joules, None, None, 1.0)

    return energy


@given(st.integers(1, 10**13), st.floats(0.1, 2000))
def test_slices_of_a_steady_load_all_show_it(length_ns: int, watts: float) -> None:
    curve = power_curve(5, 5 + length_ns, steady(watts))
    assert 1 <= len(curve) <= MOST_SLICES
    assert len(curve) == 1 or length_ns / len(curve) >= SHORTEST_SLICE_NS
    assert curve == pytest.approx([watts] * len(curve), rel=0.006)


def test_slices_add_up_to_the_whole_without_a_gap() -> None:
    asked: list[tuple[int, int]] = []

    def energy(start_ns: int, end_ns: int) -> Energy:
        asked.append((start_ns, end_ns))
        return Energy(start_ns, end_ns, 1.0, None, None, 1.0)

    power_curve(100, 1_234_567_890, energy)
    assert asked[0][0] == 100
    assert asked[-1][1] == 1_234_567_890
    assert all(end == start for (_, end), (start, _) in pairwise(asked))


def test_what_was_not_measured_stays_unknown() -> None:
    assert power_curve(0, 250_000_000, steady(None)) == (None, None)


def test_an_interval_without_a_length_has_no_curve() -> None:
    assert power_curve(7, 7, steady(50.0)) == ()
