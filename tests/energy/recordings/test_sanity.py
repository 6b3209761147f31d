"""Readings that cannot be right: impossible power, a suspend, a counter that loses energy."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from etui.energy.recorder import Recorder
from etui.energy.types import Channel, Kind
from tests.support.devices import SENSORS, FakeClock, FakeDevice
from tests.support.play import EnergyWindow, sample
from tests.support.power_curves import CURVES, constant


@pytest.mark.parametrize("scope", ["gpu:A", "package:0", "dram:0", "module:A", "psys"])
def test_ten_kilowatts_are_not_believed_without_a_limit(scope: str) -> None:
    clock = FakeClock()

    class Wild(FakeDevice):
        """Power jumps to 10 kW for a second, and the counter by 1 kJ in it."""

        def _power(self, refreshed_s: float) -> float:
            return 10_000.0 if 6 <= refreshed_s < 7 else super()._power(refreshed_s)

        def _count(self, refreshed_s: float) -> float:
            return super()._count(refreshed_s) + 1000.0 * (refreshed_s > 6.5)

    device = Wild(
        constant(100.0, 22),
        clock,
        SENSORS["counter 100 ms + instant power"],
        scope=scope,
        limit_watts=None,
    )
    recorder = Recorder([device], clock=clock)
    sample(recorder, clock, 12, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(10))
    assert energy.joules is not None
    assert energy.uncertainty is not None
    assert abs(energy.joules - 800) <= energy.uncertainty
    assert energy.peak_watts is not None
    assert energy.peak_watts < 5000
    assert "gap" in energy.flags


def test_power_alone_is_not_believed_beyond_what_hardware_draws() -> None:
    clock = FakeClock()

    class Wild(FakeDevice):
        def _power(self, refreshed_s: float) -> float:
            return 10_000.0 if 6 <= refreshed_s < 6.1 else super()._power(refreshed_s)

    sensor = SENSORS["power, instant 20 ms"]
    device = Wild(constant(100.0, 22), clock, sensor, limit_watts=None)
    recorder = Recorder([device], clock=clock)
    sample(recorder, clock, 12, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(10))
    assert energy.joules == pytest.approx(800, rel=0.01)
    assert energy.peak_watts == pytest.approx(100)


def test_the_largest_hardware_is_still_believed() -> None:
    from etui.energy._recordings.channel import find_plausible_watts

    def limit(scope: str, watts: float | None) -> float:
        return find_plausible_watts(Channel(scope, scope, Kind.COUNTER, limit_watts=watts))

    assert limit("gpu:A", None) >= 1400  # a B300
    assert limit("package:0", None) >= 1000  # 500 W, doubled for a short time
    assert limit("module:A", None) >= 2700  # a GB300 with two GPUs
    assert limit("gpu:A", 700) >= 2000
    assert limit("package:0", 15) >= 1000
    assert limit("package:0", 4095.875) < 2000  # a mainboard without a limit states this one


@pytest.mark.parametrize(
    "name", ["counter 100 ms", "counter 100 ms + instant power", "RAPL, wraps at 3 kJ"]
)
@pytest.mark.parametrize("limit_watts", [None, 350.0])
@pytest.mark.parametrize("late_s", [0.0, 0.12])
def test_a_suspend_is_a_gap(name: str, limit_watts: float | None, late_s: float) -> None:
    """The counter went on by 300 J meanwhile; the monotonic clock stood still."""
    clock = FakeClock()
    asleep = [0]

    class Slept(FakeDevice):
        def _count(self, refreshed_s: float) -> float:
            more = 300.0 if refreshed_s > 6.003 + late_s else 0.0
            return (super()._count(refreshed_s) + more) % (self.sensor.range_joules or 1e9)

    device = Slept(constant(60.0, 22), clock, SENSORS[name], limit_watts=limit_watts)
    recorder = Recorder([device], clock=clock, suspended=lambda: asleep[0])
    rng = random.Random(1)
    sample(recorder, clock, 6, rng)
    asleep[0] += 3600 * 10**9
    sample(recorder, clock, 6, rng)
    energy = recorder.energy(clock.at(3), clock.at(9))
    assert energy.joules is not None
    assert energy.uncertainty is not None
    assert abs(energy.joules - 360) <= energy.uncertainty
    assert energy.joules < 400
    assert "gap" in energy.flags
    assert "gap" not in recorder.energy(clock.at(3), clock.at(5)).flags
    after = recorder.energy(clock.at(8), clock.at(10))
    assert after.joules == pytest.approx(120, rel=0.01)


def test_the_system_says_how_long_it_was_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    from etui.energy import recorder
    from etui.energy import recorder as suspend

    assert abs(suspend.read_suspended_ns() - suspend.read_suspended_ns()) < 100_000_000
    asked: list[int] = []
    monkeypatch.setattr(recorder, "read_suspended_ns", lambda: asked.append(1) or 0)
    device = FakeDevice(constant(60.0, 22), FakeClock(), SENSORS["counter 100 ms"])
    Recorder([device]).sample_now()
    assert asked


@pytest.mark.parametrize("seconds", [0.6, 1.0, 3.0, 6.0, 10.0])
def test_a_counter_that_loses_energy_widens_the_uncertainty(seconds: float) -> None:
    """It is stuck for 3 s, and then continues without what was used meanwhile."""
    found: list[EnergyWindow] = []
    for seed in range(6):
        rng = random.Random(seed)
        clock = FakeClock()
        curve = CURVES["stairs"](rng, 34)

        class Lossy(FakeDevice):
            def _count(self, refreshed_s: float) -> float:
                lost = self.curve.between(12, 15)
                if refreshed_s < 12:
                    return super()._count(refreshed_s)
                return super()._count(max(refreshed_s, 15.0)) - lost

        sensor = replace(SENSORS["counter 100 ms + instant power"], phase_s=rng.uniform(0, 0.1))
        recorder = Recorder([Lossy(curve, clock, sensor)], clock=clock)
        sample(recorder, clock, 30, rng)
        for _ in range(40):
            start = rng.uniform(12.2 - 0.8 * seconds, 14.8 - 0.2 * seconds)
            energy = recorder.energy(clock.at(start), clock.at(start + seconds))
            found.append(EnergyWindow(energy, curve.between(start, start + seconds)))
    assert sum(window.inside for window in found) / len(found) >= 0.95
    if seconds > 2:
        assert all("disagrees" in window.energy.flags for window in found)


def test_the_uncertainty_is_not_widened_where_both_agree() -> None:
    clock = FakeClock()
    rng = random.Random(2)
    curve = CURVES["bursts"](rng, 64)
    device = FakeDevice(curve, clock, SENSORS["counter 100 ms + instant power"])
    recorder = Recorder([device], clock=clock)
    sample(recorder, clock, 60, rng)
    trace = recorder._traces["gpu:FAKE"]
    widened = 0
    for _ in range(300):
        start = rng.uniform(2, 50)
        ends = clock.at(start), clock.at(start + rng.uniform(0.2, 8))
        widened += trace._find_disagreement(*ends, trace.energy(*ends).uncertainty) > 0
    assert widened <= 9
