"""The watts of a turn over its time."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.recorder import Recorder
from etui.energy.types import Energy
from etui.turn.accounting import (
    MOST_SLICES,
    SHORTEST_SLICE_NS,
    Leg,
    TimeInterval,
    compute_account,
    compute_spans,
    energy_over,
    merge_adjacent,
    power_curve,
    subtract,
    sum_seconds,
)
from tests.metering import Sliced
from tests.support.devices import FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import CURVES
from tests.turn.scripted import Meter10W, S, finished

TICKS = st.integers(0, 5)


@st.composite
def turns(draw) -> list[Leg]:
    now, legs = 10 * S, []
    for _ in range(draw(st.integers(1, 4))):
        gap, unload, load, prefill, decode = (draw(TICKS) * S for _ in range(5))
        now += gap
        unloads = (TimeInterval(now, now + unload),) if unload else ()
        now += unload
        loaded = TimeInterval(now, now + load) if load else None
        now += load
        end = finished(
            start_ns=now,
            prefill_end_ns=now + prefill,
            thinking_end_ns=now + prefill,
            first_token_ns=now + prefill,
            end_ns=now + prefill + decode,
            thinking_tokens=0,
        )
        legs.append(Leg(end, loaded, unloads))
        now += prefill + decode
    return legs


@given(turns())
def test_phases_sum_to_the_turn_and_the_turn_is_all_but_the_loads(legs):
    energy, tokens, seconds = compute_account(legs, Meter10W().energy)
    away = sum(leg.load.seconds for leg in legs[1:] if leg.load)
    away += sum(gone.seconds for leg in legs[1:] for gone in leg.unloads)
    length = (legs[-1].end.end_ns - legs[0].end.start_ns) / S
    assert seconds.total == pytest.approx(length - away)
    assert seconds.prefill + seconds.decode == pytest.approx(seconds.total)
    assert energy.joules == pytest.approx(10 * seconds.total)
    assert energy.phases["prefill"] + energy.phases["decode"] == pytest.approx(energy.joules)
    assert tokens.output == 8 * len(legs)
    assert 0 <= seconds.ttft <= seconds.total + 1e-9


@given(turns())
def test_hops_sum_to_the_turn(legs):
    spans = compute_spans(legs)
    energy, _, seconds = compute_account(legs, Meter10W().energy)
    each = [energy_over((*leg.prefill, *leg.decode), Meter10W().energy).joules for leg in spans]
    assert sum(each) == pytest.approx(energy.joules)
    assert sum(leg.seconds for leg in spans) == pytest.approx(seconds.total)


def test_without_cuts_what_lies_inside_alone():
    whole = TimeInterval(10, 20)
    assert subtract(whole, []) == (whole,)
    assert subtract(whole, [TimeInterval(0, 5), TimeInterval(25, 30)]) == (whole,)
    assert subtract(whole, [TimeInterval(12, 14), TimeInterval(14, 15)]) == (
        TimeInterval(10, 12),
        TimeInterval(15, 20),
    )
    assert subtract(whole, [TimeInterval(5, 30)]) == (TimeInterval(20, 20),)
    assert subtract(whole, [TimeInterval(18, 30)]) == (TimeInterval(10, 18),)


def test_joined_keeps_touching_intervals_one_and_never_comes_to_none():
    assert merge_adjacent(
        [TimeInterval(1, 2), TimeInterval(2, 2), TimeInterval(2, 5), TimeInterval(7, 9)]
    ) == (
        TimeInterval(1, 5),
        TimeInterval(7, 9),
    )
    assert merge_adjacent([TimeInterval(3, 3), TimeInterval(4, 6)]) == (TimeInterval(4, 6),)
    assert merge_adjacent([TimeInterval(3, 3)]) == (TimeInterval(3, 3),)
    assert sum_seconds([TimeInterval(0, S), TimeInterval(5 * S, 6 * S)]) == 2


def test_half_widths_of_parts_add_up_and_a_missing_part_leaves_it_unmeasured():
    parts = [TimeInterval(0, S), TimeInterval(5 * S, 6 * S)]
    energy = energy_over(parts, Meter10W().energy)
    assert (energy.joules, energy.uncertainty) == (pytest.approx(20), pytest.approx(1.0))

    def half_known(start_ns, end_ns):
        return Meter10W(joules_known=start_ns < 3 * S).energy(start_ns, end_ns)

    energy = energy_over(parts, half_known)
    assert (energy.joules, energy.uncertainty, energy.kind) == (None, None, None)
    assert energy.unmeasured == ("package:0",)


@dataclass
class Steady(Sliced):
    """Always the same watts."""

    watts: float | None

    def settle(self, end_ns: int) -> None: ...

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        joules = None if self.watts is None else self.watts * (end_ns - start_ns) / 1e9
        return Energy(start_ns, end_ns, joules, None, None, 1.0)


@given(st.integers(1, 10**13), st.floats(0.1, 2000))
def test_slices_of_a_steady_load_all_show_it(length_ns: int, watts: float) -> None:
    curve = power_curve(5, 5 + length_ns, Steady(watts))
    assert 1 <= len(curve) <= MOST_SLICES
    assert len(curve) == 1 or length_ns / len(curve) >= SHORTEST_SLICE_NS
    assert curve == pytest.approx([watts] * len(curve), rel=0.006)


def test_slices_add_up_to_the_whole_without_a_gap() -> None:
    clock = FakeClock()
    recorder = Recorder([FakeDevice(CURVES["stairs"](random.Random(2), 30), clock)], clock=clock)
    sample(recorder, clock, 25, random.Random(2))
    start_ns, end_ns = clock.at(3.1), clock.at(22.7)
    curve = power_curve(start_ns, end_ns, recorder)
    assert len(curve) == MOST_SLICES
    seconds = (end_ns - start_ns) / 1e9 / len(curve)
    joules = recorder.energy(start_ns, end_ns).joules
    assert sum(watts * seconds for watts in curve) == pytest.approx(joules, rel=0.005)


def test_watts_have_three_digits() -> None:
    assert power_curve(0, 100_000_000, Steady(123.456)) == (123.0,)
    assert power_curve(0, 100_000_000, Steady(0.0123456)) == (0.0123,)


def test_what_was_not_measured_stays_unknown() -> None:
    assert power_curve(0, 250_000_000, Steady(None)) == (None, None)


def test_an_interval_without_a_length_has_no_curve() -> None:
    assert power_curve(7, 7, Steady(50.0)) == ()
