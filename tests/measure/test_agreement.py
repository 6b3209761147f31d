"""Which channels are compared, and the bias, scatter and lag between them."""

from __future__ import annotations

import math
import random

import pytest

from etui.energy.recorder import Recorder
from etui.energy.types import Channel, Kind
from etui.measure.agreement import Side, compare_channels, find_pairs
from tests.support.devices import FakeClock, FakeDevice, Sensor
from tests.support.play import sample
from tests.support.power_curves import WattCurve, constant, steps

RAPL = Sensor(counter_period_s=0.001, counter_step_joules=61e-6, period_hint_s=0.001)
COUNTER = Sensor(counter_period_s=0.1, power_period_s=0.05)


def channel(scope, kind=Kind.COUNTER, name=None):
    return Channel(name or scope, scope, kind)


def names(channels, doubled=()):
    return {
        (pair.first.name, pair.second.name, pair.second_covers_more)
        for pair in find_pairs(channels, doubled)
    }


def test_pairs_follow_from_the_scopes():
    package, gpu, psys = channel("package:0"), channel("gpu:A"), channel("psys")
    twin = channel("gpu:A", Kind.INTEGRATED, "gpu:A/hwmon")
    wall = channel("wall", Kind.INTEGRATED, "wall:plug")
    battery = channel("battery", Kind.BATTERY)
    assert names([package, channel("dram:0")]) == set()
    assert names([gpu], ["gpu:A"]) == {("gpu:A", "gpu:A (power)", False)}
    assert names([gpu, twin]) == {("gpu:A", "gpu:A/hwmon", False)}
    assert names([package, gpu, wall]) == {("package:0 + gpu:A", "wall:plug", True)}
    assert names([package, psys]) == {("package:0", "psys", True)}
    assert names([psys, wall]) == {("psys", "wall:plug", True)}
    assert names([battery, wall]) == set()  # a machine on battery takes nothing from the wall
    assert names([channel("estimate:cpu", Kind.ESTIMATE), wall]) == set()


def record(seconds, *devices):
    clock = devices[0].clock
    recorder = Recorder(devices, clock=clock)
    start_ns = clock()
    sample(recorder, clock, seconds, random.Random(2))
    return recorder, start_ns, clock()


class Late:
    """A curve as a meter shows it that is late, and has a loss and a base of its own."""

    def __init__(self, curve: WattCurve, late_s: float, slope: float, base: float) -> None:
        self._curve, self._late_s, self._slope, self._base = curve, late_s, slope, base

    def watts(self, seconds):
        return self.between(seconds - 0.01, seconds + 0.01) / 0.02

    def joules(self, seconds):
        ripple = math.cos(3.7 * seconds) / 3.7  # a value that never changes would be a dead meter
        steady = self._base * seconds + ripple
        return steady + self._slope * self._curve.joules(seconds - self._late_s)

    def between(self, start_s, end_s):
        return self.joules(end_s) - self.joules(start_s)


def test_a_wall_meter_that_is_late_scatters_no_more_than_its_noise():
    draw = random.Random(3)
    curve = steps([(draw.uniform(3, 8), draw.choice([10.0, 40.0, 65.0])) for _ in range(40)])
    clock = FakeClock()
    inner = FakeDevice(curve, clock, RAPL, scope="package:0")
    plug = Sensor(None, power_period_s=1.0, power_window_s=1.0, power_step_watts=0.1)
    outer = FakeDevice(Late(curve, 2.0, 1.1, 12.0), clock, plug, scope="wall")
    recorder, start_ns, end_ns = record(120, inner, outer)
    (pair,) = find_pairs(recorder.channels, recorder.list_doubled())
    assert pair.second == Side(("wall",))
    found = compare_channels(recorder, pair, start_ns, end_ns)
    assert found.lag_seconds == pytest.approx(2.5, abs=0.6)  # it shows the mean of a second
    assert found.slope == pytest.approx(1.1, abs=0.1)
    assert found.offset_watts == pytest.approx(12, abs=4)
    truth = 12 + 0.1 * found.first_watts
    assert found.bias_watts == pytest.approx(truth, abs=1.5)
    assert abs(found.bias_watts - truth) <= found.bias_half_watts + 1.0
    assert found.scatter_watts < 6


def test_a_counter_is_compared_with_its_own_power():
    clock = FakeClock()
    gpu = FakeDevice(steps([(3, 60.0), (3, 200.0)] * 10), clock, COUNTER)
    recorder, start_ns, end_ns = record(50, gpu)
    (pair,) = find_pairs(recorder.channels, recorder.list_doubled())
    found = compare_channels(recorder, pair, start_ns, end_ns)
    assert abs(found.bias_percent) < 1
    assert found.lag_seconds == pytest.approx(0, abs=0.15)
    assert found.slope == pytest.approx(1, abs=0.03)


def test_even_power_shows_no_lag():
    clock = FakeClock()
    recorder, start_ns, end_ns = record(30, FakeDevice(constant(100.0, 60), clock, COUNTER))
    (pair,) = find_pairs(recorder.channels, recorder.list_doubled())
    found = compare_channels(recorder, pair, start_ns, end_ns)
    assert found.lag_seconds is None
    assert found.slope is None
    assert abs(found.bias_watts) < 0.5


def test_a_short_recording_has_no_figures():
    clock = FakeClock()
    recorder, start_ns, end_ns = record(2, FakeDevice(constant(100.0, 60), clock, COUNTER))
    (pair,) = find_pairs(recorder.channels, recorder.list_doubled())
    assert compare_channels(recorder, pair, start_ns, end_ns).bias_watts is None
