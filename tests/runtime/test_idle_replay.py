"""Days replayed under fixed keep-warm times, T* and auto."""

from __future__ import annotations

import math
from statistics import fmean

import pytest

from etui.energy.keep_warm import LEAST_SECONDS, Measured
from etui.runtime.keep_warm import (
    FIXED_SECONDS,
    IdleCost,
    choose_times,
    find_best_fixed,
    replay_gaps,
)
from tests.support.idle_days import DAYS, draw_gaps, flatten

COST = IdleCost(Measured(1500.0, 60.0), Measured(35.0, 1.0), Measured(10.0, 0.5))
GAPS = [5.0, 7.0, 6.0, 400.0, 4000.0]


def test_the_joules_of_each_time_are_idling_and_loads() -> None:
    found = replay_gaps(GAPS, COST, choose_times(GAPS, COST))
    assert (found.gaps, found.gap_seconds) == (5, 4418.0)
    five = found.get("5 min")
    assert (five.loads, five.warm_seconds) == (2, 618.0)
    assert five.extra.value == 2 * 1500 + 618 * 35
    assert five.extra.uncertainty == pytest.approx(math.hypot(120, 618))
    assert five.joules.value == five.extra.value + 4418 * 10
    never = found.get("never")
    assert (never.loads, never.warm_seconds, never.seconds) == (0, 4418.0, math.inf)
    assert found.get("T*").seconds == pytest.approx(1500 / 35)
    best = found.get("best fixed")
    assert (best.seconds, best.extra.value) == (7.0, 2 * 1500 + 32 * 35)
    assert all(best.extra.value <= time.extra.value for time in found.times if time.seconds)
    assert [time.name for time in found.times] == [*FIXED_SECONDS, "T*", "auto", "best fixed"]


def test_an_unknown_error_stays_unknown() -> None:
    cost = IdleCost(COST.load_joules, COST.extra_watts, Measured(10.0))
    found = replay_gaps([30.0], cost, [60.0]).get("1 min")
    assert found.extra.uncertainty is not None
    assert found.joules.uncertainty is None


@pytest.mark.parametrize("kind", DAYS)
def test_the_best_fixed_time_is_the_best_of_all(kind: str) -> None:
    gaps = flatten(draw_gaps(DAYS[kind], 2, 5))
    for load, watts in ((60.0, 35.0), (4000.0, 20.0), (9000.0, 8.0)):

        def joules(seconds: float, load: float = load, watts: float = watts) -> float:
            return sum(min(g, seconds) * watts + (g > seconds) * load for g in gaps)

        best = joules(find_best_fixed(gaps, load, watts))
        others = (LEAST_SECONDS, *gaps, *range(2, 4000, 7), math.inf)
        assert best <= min(joules(max(t, LEAST_SECONDS)) for t in others) + 1e-6


def test_auto_knows_only_earlier_gaps() -> None:
    gaps = flatten(draw_gaps(DAYS["office"], 3, 1))
    times = choose_times(gaps, COST)
    for cut in (0, 5, 40, len(gaps) - 1):
        assert choose_times(gaps[:cut] + [1e6] * 3, COST)[: cut + 1] == times[: cut + 1]
    learned = choose_times(gaps[20:], COST, gaps[:20])
    assert learned == times[20:]


@pytest.mark.parametrize("kind", DAYS)
@pytest.mark.parametrize("load", [60.0, 1500.0, 6000.0])
def test_auto_stays_within_a_tenth_of_the_best_fixed_time(kind: str, load: float) -> None:
    """A day, its cold idle power included, after a week of the same habits."""
    cost = IdleCost(Measured(load, load / 30), Measured(35.0, 1.0), Measured(10.0, 0.5))
    ratios, extra = [], []
    for seed in range(2):
        days = draw_gaps(DAYS[kind], 9, seed)
        for number in range(7, 9):
            if not days[number]:
                continue
            times = choose_times(days[number], cost, flatten(days[:number]))
            found = replay_gaps(days[number], cost, times)
            auto, best = found.get("auto"), found.get("best fixed")
            ratios.append(auto.joules.value / best.joules.value)
        rest = flatten(days[3:])
        week = replay_gaps(rest, cost, choose_times(rest, cost, flatten(days[:3])))
        extra.append(week.get("auto").extra.value / week.get("best fixed").extra.value)
    assert max(ratios) <= 1.1
    assert fmean(extra) <= 1.1  # without the cold power, which no time can save
