"""The watts of a turn over its time."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.recorder import Recorder
from etui.energy.types import Energy
from etui.turn.accounting import MOST_SLICES, SHORTEST_SLICE_NS, power_curve
from tests.metering import Sliced
from tests.support.devices import FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import CURVES


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
