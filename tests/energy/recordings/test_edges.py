"""Counter steps and the clock of a counter's edges."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy._recordings.edges import DriverClock, EdgeClock, count_joules

RANGE = 262_143.328850


def test_a_constant_error_is_learned():
    """Timestamps 45 ms early date the refreshes as well as right ones."""
    clock = DriverClock()
    rng = random.Random(1)
    spans = []
    for tick in range(60):
        refresh = tick * 100_000_000
        before, now = refresh - rng.randint(0, 50_000_000), refresh + rng.randint(0, 50_000_000)
        stamp = refresh - 45_000_000
        found = clock.moved(before, now, stamp, 1e8)
        clock.still(stamp)
        if found is not None and tick > 20:
            assert abs(found.t_ns - refresh) <= found.half_ns
            spans.append(found.half_ns)
    assert len(spans) > 30
    assert max(spans) <= 5_000_000


def test_the_time_of_the_call_is_not_used():
    clock = DriverClock()
    for tick in range(20):
        refresh = tick * 100_000_000
        assert clock.moved(refresh - 5_000_000, refresh, refresh, 1e8) is None
        clock.still(refresh + 5_000_000)


@given(
    before=st.floats(0, RANGE, exclude_max=True),
    spent=st.floats(0.001, 500),
)
def test_a_wrap_gives_the_energy_that_was_spent(before, spent):
    now = (before + spent) % RANGE
    joules = count_joules(before, now, seconds=1.0, range_joules=RANGE, max_watts=1000)
    assert joules == pytest.approx(spent, abs=1e-6)


@pytest.mark.parametrize(
    ("before", "now", "seconds", "range_joules", "expected"),
    [
        (7, 7, 1.0, RANGE, 0.0),
        (100_000, 3, 1.0, RANGE, None),  # a drop far from the range
        (100_000, 3, 1.0, None, None),  # a drop without a range
        (100, 100 + RANGE, 0.05, None, None),  # a jump beyond any power
        (100, 200, 400, RANGE, None),  # more time than one range takes
    ],
)
def test_a_counter_that_restarts_or_jumps_is_not_believed(
    before, now, seconds, range_joules, expected
):
    assert expected == count_joules(
        before, now, seconds=seconds, range_joules=range_joules, max_watts=1000
    )


@pytest.mark.parametrize("period_ms", [45.0, 60.0, 100.0, 250.0])
def test_the_clock_finds_period_and_edges(period_ms):
    """Reads every 5 ms for a second, then about every 50 ms, as the sampler does."""
    rng = random.Random(5)
    clock = EdgeClock()
    period = period_ms * 1e6
    now, before, still, errors = 0.0, 0.0, False, []
    while now < 30e9:
        before, now = now, now + (5e6 if now < 1e9 else rng.uniform(20e6, min(70e6, period)))
        if now // period == before // period:
            still = True
            clock.still(int(before), int(now))
            continue
        edge = clock.moved(int(before), int(now), stood_still=still)
        still = False
        truth = now // period * period
        assert before <= edge.t_ns <= now
        if now > 2e9:
            errors.append((abs(edge.t_ns - truth), edge.half_ns))
    assert clock.period_ns == pytest.approx(period, rel=0.03)
    inside = sum(error <= half for error, half in errors) / len(errors)
    assert inside >= 0.9
    typical = sum(error for error, _ in errors) / len(errors)
    assert typical < (6e6 if period_ms >= 100 else 0.3 * period)


@pytest.mark.parametrize("seed", range(5))
def test_sparse_reads_do_not_take_an_edge_for_the_next_one(seed):
    """A busy machine reads at any time; an edge that may be one of two is not placed at either."""
    rng = random.Random(seed)
    clock, period = EdgeClock(), 1e8
    now, before, still, inside = rng.uniform(0, period), 0.0, False, []
    while now < 40e9:
        before, now = now, now + (5e6 if now < 1e9 else rng.expovariate(1 / 40e6))
        if now // period == before // period:
            still = True
            clock.still(int(before), int(now))
            continue
        edge = clock.moved(int(before), int(now), stood_still=still)
        still = False
        inside.append(abs(edge.t_ns - now // period * period) <= edge.half_ns + 1)
    assert sum(inside) / len(inside) >= 0.98


def test_a_wrong_hint_gives_way_to_a_counter_that_stands():
    clock = EdgeClock(0.001)
    clock.still(0, 50_000_000)
    assert clock.period_ns is None


@pytest.mark.parametrize("seed", range(12))
def test_sparse_reads_do_not_spoil_the_period_that_dense_reads_gave(seed):
    """A counter with 100 ms shows 9 or 10 edges in the first second; the next have 50 ms reads."""
    rng = random.Random(seed)
    clock = EdgeClock()
    period = 100e6
    now, before, still, periods = rng.uniform(0, period), 0.0, False, []
    begin = now
    while now < begin + 6e9:
        before, now = now, now + (5e6 if now < begin + 1e9 else rng.uniform(30e6, 70e6))
        if now // period == before // period:
            still = True
            continue
        clock.moved(int(before), int(now), stood_still=still)
        still = False
        if now > begin + 1.5e9:
            periods.append(clock.period_ns)
    assert periods == pytest.approx([period] * len(periods), rel=0.008)


def test_an_edge_that_two_beats_explain_is_placed_at_neither():
    """Reads of a busy machine: the edge is 100 or 200 ms after the one before it."""
    clock = EdgeClock()
    for tick in range(12):
        clock.moved(tick * 100_000_000 - 5_000_000, tick * 100_000_000, stood_still=True)
    clock.moved(1_160_000_000, 1_220_000_000, stood_still=False)
    edge = clock.moved(1_299_000_000, 1_397_000_000, stood_still=True)
    assert edge.t_ns - edge.half_ns <= 1_300_000_000
    assert edge.t_ns + edge.half_ns >= 1_390_000_000
