"""The time that a model is kept: T*, its interval, its bound, and what earlier gaps change."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.keep_warm import (
    FEW_GAPS,
    LEAST_SECONDS,
    Measured,
    choose_keep_warm,
    compute_break_even,
    compute_gap_joules,
    find_cheapest_time,
)

LOAD, WATTS = Measured(300.0, 12.0), Measured(35.0, 1.5)


def total(gaps: list[float], seconds: float, load: float, watts: float) -> float:
    return math.fsum(compute_gap_joules(gap, seconds, load, watts) for gap in gaps)


def test_break_even_is_load_over_extra_watts_with_an_interval():
    even = compute_break_even(LOAD, WATTS)
    assert even.seconds == pytest.approx(300 / 35)
    assert even.low < even.seconds < even.high
    # Both relative errors are 4 %: the interval is about 6 % wide on either side.
    assert even.low == pytest.approx(even.seconds * 0.94, rel=0.01)
    assert even.high == pytest.approx(even.seconds * 1.06, rel=0.01)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, inside = random.Random(3), 0
    for _ in range(4000):
        load = Measured(rng.gauss(300, 20 / 1.96), 20)
        watts = Measured(rng.gauss(6, 4 / 1.96), 4)  # a difference that is hardly known
        even = compute_break_even(load, watts)
        inside += even.low <= 50 <= even.high
    assert inside / 4000 == pytest.approx(0.95, abs=0.02)


def test_extra_watts_that_may_be_zero_have_no_upper_end():
    even = compute_break_even(LOAD, Measured(1.0, 1.2))
    assert even.seconds == 300
    assert even.high == math.inf
    assert even.low == pytest.approx(288 / 2.2)
    assert compute_break_even(LOAD, Measured(-3.0, 1.0)).seconds == math.inf
    assert compute_break_even(LOAD, Measured(-3.0, 1.0)).low == math.inf
    assert compute_break_even(LOAD, Measured(0.0)).high == math.inf


def test_missing_numbers_keep_the_model_and_say_which():
    gaps = [1e6] * 100
    no_load = choose_keep_warm(gaps, None, WATTS)
    assert (no_load.seconds, no_load.basis) == (None, "unknown")
    assert "joules of a load" in no_load.why
    no_watts = choose_keep_warm(gaps, LOAD, None)
    assert (no_watts.seconds, no_watts.break_even) == (None, None)
    assert "idle power" in no_watts.why
    assert choose_keep_warm(gaps, Measured(0.0, 0.0), WATTS).basis == "unknown"


@pytest.mark.parametrize("watts", [Measured(-5, 1), Measured(0.0, 0.5), Measured(0.4, 0.5)])
def test_idling_that_costs_nothing_measurable_never_unloads(watts):
    keep = choose_keep_warm([1e6] * 100, LOAD, watts)
    assert (keep.seconds, keep.basis) == (None, "no_extra")


def test_few_gaps_fall_back_to_break_even():
    keep = choose_keep_warm([3.0] * (FEW_GAPS - 1), LOAD, WATTS)
    assert keep.basis == "break_even"
    assert keep.seconds == pytest.approx(300 / 35)
    assert choose_keep_warm([], Measured(1.0), Measured(100.0)).seconds == LEAST_SECONDS


def test_a_user_who_always_comes_back_soon_after_break_even_is_waited_for():
    # Each gap is a little longer than T* (8.6 s): waiting costs 1.05 loads, unloading one and T*.
    gaps = [7.0, 8.0, 7.5, 6.5] * 20
    keep = choose_keep_warm(gaps, LOAD, WATTS)
    assert max(gaps) < keep.seconds < 20


def test_new_habits_replace_old_ones():
    before, now = [600.0] * 300, [3.0] * 200
    assert choose_keep_warm(before, LOAD, WATTS).seconds == LEAST_SECONDS
    later = choose_keep_warm(before + now, LOAD, WATTS).seconds
    assert later > 3


GAPS = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=60)
JOULES = st.floats(0.1, 1e5)
POWER = st.floats(0.01, 500)


@given(GAPS, JOULES, POWER)
def test_break_even_never_costs_more_than_twice_an_optimum_that_knows_the_gaps(gaps, load, watts):
    seconds = compute_break_even(Measured(load), Measured(watts)).seconds
    optimum = math.fsum(min(gap * watts, load) for gap in gaps)
    assert total(gaps, seconds, load, watts) <= 2 * optimum * (1 + 1e-9) + load


@given(GAPS, JOULES, POWER)
def test_the_chosen_time_is_no_worse_than_any_other_over_what_the_gaps_stand_for(gaps, load, watts):
    from etui.energy.keep_warm import _POINTS, HALF_LIFE_GAPS

    newest = len(gaps) - 1
    weighted = [
        (gap * point, 0.5 ** ((newest - index) / HALF_LIFE_GAPS))
        for index, gap in enumerate(gaps)
        for point in _POINTS
    ]

    def mean(seconds: float) -> float:
        return math.fsum(w * compute_gap_joules(g, seconds, load, watts) for g, w in weighted)

    chosen = mean(find_cheapest_time(gaps, load, watts))
    others = [LEAST_SECONDS, load / watts, math.inf, *(g for g, _ in weighted)]
    assert chosen <= min(mean(t) for t in others if t >= LEAST_SECONDS) * (1 + 1e-6) + 1e-6
