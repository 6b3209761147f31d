"""The meter against power curves whose integral is known, through models of real devices."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy._recordings.channel import find_plausible_watts
from etui.energy._recordings.counter import CounterRecording
from etui.energy._recordings.power import PowerRecording
from etui.energy.recorder import Recorder, read_suspended_ns
from etui.energy.types import Channel, Kind, Reading
from tests.support.devices import SENSORS, FakeClock, FakeDevice, Sensor
from tests.support.play import EnergyWindow, live_windows, record, sample, windows
from tests.support.power_curves import CURVES, WattCurve, constant, steps

Warp = Callable[[float], float]
POWER_ONLY = Sensor(counter_period_s=None, power_period_s=0.02, power_window_s=0.02)


BOTH = "counter 100 ms + instant power"


class Bent(FakeDevice):
    """A device whose counter, power or reading is changed: (device, seconds, value) -> value."""

    def __init__(self, *args: Any, bends: dict[str, Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self._bends = bends

    def _bend(self, what: str, at_s: float) -> Any:
        value = getattr(super(), what)(at_s)
        return self._bends[what](self, at_s, value) if what in self._bends else value

    def _count(self, refreshed_s: float) -> float:
        return self._bend("_count", refreshed_s)

    def _power(self, refreshed_s: float) -> float:
        return self._bend("_power", refreshed_s)

    def _reading(self, now_s: float) -> Reading:
        return self._bend("_reading", now_s)


def bend(
    curve: WattCurve, sensor: Sensor, seconds: float, rng: random.Random, **bends: Any
) -> tuple[Recorder, FakeClock]:
    """Record a curve through a bent device; other options are those of the device."""
    clock = FakeClock()
    options = {name: bends.pop(name) for name in ("scope", "limit_watts") if name in bends}
    named = {f"_{name}": change for name, change in bends.items()}
    recorder = Recorder([Bent(curve, clock, sensor, bends=named, **options)], clock=clock)
    sample(recorder, clock, seconds, rng)
    return recorder, clock


def share_inside(found: list[EnergyWindow]) -> float:
    return sum(window.inside for window in found) / len(found)


@pytest.mark.parametrize("scope", ["gpu:A", "package:0", "dram:0", "module:A", "psys"])
@pytest.mark.parametrize("name", [BOTH, "power, instant 20 ms"])
def test_ten_kilowatts_are_not_believed_without_a_limit(scope, name):
    """Power jumps to 10 kW for a while, and the counter by 1 kJ in it."""
    recorder, clock = bend(
        *(constant(100.0, 22), SENSORS[name], 12, random.Random(1)),
        power=lambda device, at, watts: 10_000.0 if 6 <= at < 6.3 else watts,
        count=lambda device, at, joules: joules + 1000.0 * (at > 6.1),
        scope=scope,
        limit_watts=None,
    )
    energy = recorder.energy(clock.at(2), clock.at(10))
    assert abs(energy.joules - 800) <= energy.uncertainty
    assert energy.peak_watts < 5000
    assert "gap" in energy.flags


@pytest.mark.parametrize(
    ("scope", "limit_watts", "least", "most"),
    [
        ("gpu:A", None, 1400, 3000),  # a B300
        ("package:0", None, 1000, 3000),  # 500 W, doubled for a short time
        ("module:A", None, 2700, 5000),  # a GB300 with two GPUs
        ("gpu:A", 700, 2000, 3000),
        ("package:0", 15, 1000, 3000),
        ("package:0", 4095.875, 1000, 2000),  # a mainboard without a limit states this one
    ],
)
def test_the_largest_hardware_is_still_believed(scope, limit_watts, least, most):
    channel = Channel(scope, scope, Kind.COUNTER, limit_watts=limit_watts)
    assert least <= find_plausible_watts(channel) < most


@pytest.mark.parametrize(
    "name", ["counter 100 ms", "counter 100 ms + instant power", "RAPL, wraps at 3 kJ"]
)
@pytest.mark.parametrize("limit_watts", [None, 350.0])
@pytest.mark.parametrize("late_s", [0.0, 0.12])
def test_a_suspend_is_a_gap(monkeypatch, name, limit_watts, late_s):
    """The counter went on by 300 J meanwhile; the monotonic clock stood still."""
    asleep = [0]
    monkeypatch.setattr("etui.energy.recorder.read_suspended_ns", lambda: asleep[0])

    def count(device, at, joules):
        more = 300.0 if at > 6.003 + late_s else 0.0
        return (joules + more) % (device.sensor.range_joules or 1e9)

    rng = random.Random(1)
    recorder, clock = bend(
        constant(60.0, 22), SENSORS[name], 6, rng, count=count, limit_watts=limit_watts
    )
    asleep[0] += 3600 * 10**9
    sample(recorder, clock, 6, rng)
    energy = recorder.energy(clock.at(3), clock.at(9))
    assert abs(energy.joules - 360) <= energy.uncertainty
    assert energy.joules < 400
    assert "gap" in energy.flags
    assert "gap" not in recorder.energy(clock.at(3), clock.at(5)).flags
    after = recorder.energy(clock.at(8), clock.at(10))
    assert after.joules == pytest.approx(120, rel=0.01)


def test_the_system_says_how_long_it_was_suspended():
    assert abs(read_suspended_ns() - read_suspended_ns()) < 100_000_000


@pytest.mark.parametrize("seconds", [0.6, 1.0, 3.0, 6.0, 10.0])
def test_a_counter_that_loses_energy_widens_the_uncertainty(seconds):
    """It is stuck for 3 s, and then continues without what was used meanwhile."""
    found: list[EnergyWindow] = []
    for seed in range(6):
        rng = random.Random(seed)
        curve = CURVES["stairs"](rng, 34)
        lost = curve.between(12, 15)
        sensor = replace(SENSORS[BOTH], phase_s=rng.uniform(0, 0.1))
        recorder, clock = bend(
            *(curve, sensor, 30, rng),
            count=lambda device, at, joules, lost=lost: (
                joules if at < 12 else FakeDevice._count(device, max(at, 15.0)) - lost
            ),
        )
        for _ in range(40):
            start = rng.uniform(12.2 - 0.8 * seconds, 14.8 - 0.2 * seconds)
            energy = recorder.energy(clock.at(start), clock.at(start + seconds))
            found.append(EnergyWindow(energy, curve.between(start, start + seconds)))
    assert share_inside(found) >= 0.95
    if seconds > 2:
        assert all("disagrees" in window.energy.flags for window in found)


def varying(low: float, high: float) -> Warp:
    return lambda at: at + random.Random(round(at * 1e4)).uniform(low, high)


WARPS: dict[str, Warp] = {
    "right": lambda at: at,
    "45 ms early": lambda at: at - 0.045,
    "one refresh early": lambda at: at - 0.1,
    "90 to 100 ms early": varying(-0.1, -0.09),
    "30 to 60 ms early": varying(-0.06, -0.03),
    "0 to 90 ms early": varying(-0.09, 0.0),
    "30 ms late": lambda at: at + 0.03,
    "whole seconds": lambda at: float(int(at)),
    "steps of 16 ms": lambda at: int(at / 0.016) * 0.016,
    "0.1 % fast": lambda at: at * 1.001,
    "set back after 20 s": lambda at: at if at < 20 else at - 0.5,
}


def stamped_curves() -> Iterator[tuple[int, WattCurve, Sensor]]:
    """A number, a curve and a sensor for each kind of curve."""
    for index, make in enumerate(CURVES.values()):
        rng = random.Random(index)
        curve = make(rng, 44)
        phase_s = rng.uniform(0, 0.1)
        yield index, curve, replace(SENSORS["counter 100 ms, stamped"], phase_s=phase_s)


@cache
def error_without_timestamps() -> float:
    found: list[EnergyWindow] = []
    for index, curve, sensor in stamped_curves():
        rng = random.Random(index)
        recorder, clock = record(curve, replace(sensor, stamps=False), 40, rng)
        found += windows(recorder, clock, curve, 100, random.Random(index), lengths_s=(0.2, 8))
    return error_95(found)


@pytest.mark.parametrize("name", WARPS)
def test_wrong_timestamps_do_not_falsify_the_energy(name):
    def warp(device, now_s, reading):
        at_s = (reading.updated_ns - device.clock.start_ns) / 1e9
        return replace(reading, updated_ns=device.clock.at(WARPS[name](at_s)))

    found: list[EnergyWindow] = []
    for index, curve, sensor in stamped_curves():
        recorder, clock = bend(curve, sensor, 40, random.Random(index), reading=warp)
        knots, _ = recorder._traces["gpu:FAKE"].counter.curve()
        assert (knots[1:] - knots[:-1]).min() > 1_000_000
        found += windows(recorder, clock, curve, 100, random.Random(index), lengths_s=(0.2, 8))
    assert share_inside(found) >= 0.95
    assert error_95(found) < 1.2 * error_without_timestamps() + 0.002
    assert max((w.energy.uncertainty or 0.0) / w.truth for w in found) < 1.5


def error_95(found: list[EnergyWindow]) -> float:
    return sorted(window.error for window in found)[int(0.95 * len(found))]


@cache
def recordings(name: str) -> list[tuple[Recorder, FakeClock, WattCurve]]:
    """A device's record of every kind of curve; windows of it are drawn by many tests."""
    made = []
    for index, make in enumerate(CURVES.values()):
        rng = random.Random(index)
        curve = make(rng, 50)
        placed = replace(SENSORS[name], phase_s=rng.uniform(0, 0.1))
        made.append((*record(curve, placed, 46, rng), curve))
    return made


def many_windows(name: str, lengths_s: tuple[float, float], count: int) -> list[EnergyWindow]:
    found: list[EnergyWindow] = []
    for seed, (recorder, clock, curve) in enumerate(recordings(name)):
        rng = random.Random(seed)
        found += windows(recorder, clock, curve, count, rng, lengths_s=lengths_s)
    return found


@pytest.mark.parametrize("name", SENSORS)
def test_the_truth_lies_within_the_stated_uncertainty(name):
    found = many_windows(name, (0.1, 30.0), 180)
    assert len(found) >= 1000
    assert share_inside(found) >= 0.95


@pytest.mark.parametrize("name", SENSORS)
def test_a_window_that_has_just_ended_holds_the_truth(name):
    """Nothing of what follows is known yet: that is how every answer is judged."""
    found: list[EnergyWindow] = []
    for index, make in enumerate(CURVES.values()):
        rng = random.Random(index)
        curve = make(rng, 130)
        placed = replace(SENSORS[name], phase_s=rng.uniform(0, 0.1))
        recorder, clock = record(curve, placed, 2, rng)
        found += live_windows(recorder, clock, curve, 15, rng)
    assert share_inside(found) >= 0.95


@pytest.mark.parametrize("hertz", [9.7, 19.7])
def test_a_load_that_a_sensor_sees_a_part_of_is_said_to_be_aliased(hertz):
    """A load at 9.7 Hz, seen 25 ms of each 100 ms, looks like one that swings in 3.3 s."""
    found: list[EnergyWindow] = []
    for seed in range(4):
        rng = random.Random(seed)
        curve = steps([(0.4 / hertz, 300.0), (0.6 / hertz, 60.0)] * int(46 * hertz))
        sensor = replace(SENSORS["power, 25 % duty"], phase_s=rng.uniform(0, 0.1))
        recorder, clock = record(curve, sensor, 40, rng)
        found += windows(recorder, clock, curve, 50, rng, lengths_s=(0.3, 10.0))
    assert share_inside(found) >= 0.95
    assert sum("aliased" in window.energy.flags for window in found) >= 0.95 * len(found)


@pytest.mark.parametrize(
    ("name", "hertz"), [("power, whole watts", 19.7), ("power, instant 20 ms", 13.1)]
)
def test_a_load_that_repeats_within_a_refresh_is_within_the_half_width(name, hertz):
    """Its readings hardly change, and do not say where in a refresh the energy was."""
    found: list[EnergyWindow] = []
    for seed in range(4):
        rng = random.Random(seed)
        curve = steps([(0.4 / hertz, 300.0), (0.6 / hertz, 60.0)] * int(46 * hertz))
        recorder, clock = record(curve, replace(SENSORS[name], phase_s=0.02 * seed), 40, rng)
        found += windows(recorder, clock, curve, 50, rng, lengths_s=(0.3, 10.0))
    assert share_inside(found) >= 0.95


@pytest.mark.parametrize("curve", CURVES)
def test_loads_that_do_not_repeat_are_not_said_to_be_aliased(curve):
    rng = random.Random(2)
    played = CURVES[curve](rng, 50)
    recorder, clock = record(played, SENSORS["power, 25 % duty"], 46, rng)
    found = windows(recorder, clock, played, 50, rng)
    assert sum("aliased" in window.energy.flags for window in found) <= 0.1 * len(found)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("name", SENSORS)
def test_a_jump_just_before_the_end_is_waited_for(name, learned):
    """The reading still shows the power before it, and nothing else tells of it."""
    inside = []
    for late_ms in range(2, 120, 9):
        rng = random.Random(late_ms)
        jump = 9.0 if learned else 3.0
        curve = steps([(1.5, 80.0), (1.5, 310.0)] * round((jump - 3) / 3) + [(3, 80.0), (9, 310.0)])
        recorder, clock = record(curve, SENSORS[name], jump - 0.6, rng)
        start_s = clock.seconds
        sample(recorder, clock, jump + late_ms / 1e3 - start_s, rng)
        [found] = live_windows(recorder, clock, curve, 1, rng, start_s=start_s)
        inside.append(found.inside)
    assert sum(inside) / len(inside) >= 0.95


@pytest.mark.parametrize(
    ("name", "lengths_s", "typical", "most"),
    [
        ("counter 100 ms", (2.0, 30.0), 0.002, 0.01),
        ("counter 100 ms", (0.3, 0.6), 0.02, 0.05),
        ("counter 100 ms, stamped", (2.0, 30.0), 0.002, 0.01),
        ("counter 20 ms", (2.0, 30.0), 0.004, 0.01),
        ("RAPL, wraps at 3 kJ", (2.0, 30.0), 0.001, 0.01),
        ("RAPL, wraps at 3 kJ", (0.3, 0.6), 0.01, 0.05),
        ("power, instant 20 ms", (5.0, 30.0), 0.01, 0.03),
        ("power, 1 s average", (5.0, 30.0), 0.01, 0.03),
    ],
)
def test_errors_are_small(name, lengths_s, typical, most):
    """Half of the windows within ``typical``, 95 % within ``most``."""
    errors = sorted(window.error for window in many_windows(name, lengths_s, 60))
    assert median(errors) <= typical
    assert errors[int(0.95 * len(errors))] <= most


@given(
    cuts=st.lists(st.floats(2.0, 18.0), min_size=2, max_size=8),
    seed=st.integers(0, 3),
    name=st.sampled_from(sorted(SENSORS)),
)
def test_adjacent_windows_add_up_exactly(cuts, seed, name):
    recorder, clock, _ = recordings(name)[seed]
    marks = sorted(clock.at(cut) for cut in cuts)
    parts = [recorder.energy(a, b) for a, b in pairwise(marks)]
    whole = recorder.energy(marks[0], marks[-1])
    assert sum(part.joules or 0.0 for part in parts) == whole.joules


@pytest.mark.parametrize("name", SENSORS)
def test_two_plateaus_hold_their_energy(name):
    """100 W for 10 s and 300 W for 10 s are 4000 J, whatever repeats in between."""
    curve = steps([(2, 100.0), (10, 100.0), (10, 300.0), (3, 300.0)])
    recorder, clock = record(curve, SENSORS[name], 24, random.Random(1))
    assert recorder.energy(clock.at(2), clock.at(22)).joules == pytest.approx(4000, rel=0.01)


def test_a_stated_uncertainty_is_worth_stating():
    """A half width that always holds would be useless: with a 100 ms counter it is small."""
    found = many_windows("counter 100 ms", (2.0, 30.0), 60)
    assert median(w.energy.uncertainty / w.truth for w in found) < 0.01


@pytest.mark.parametrize("name", ["counter 100 ms", BOTH])
def test_a_reset_costs_one_tick_and_adds_nothing(name):
    curve = constant(200.0, 22)
    recorder, clock = record(curve, SENSORS[name], 20, random.Random(2), resets=[8.03])
    energy = recorder.energy(clock.at(4), clock.at(12))
    assert abs(energy.joules - 1600) <= energy.uncertainty
    assert energy.joules <= 1600 * (1 + 1e-9 if name != BOTH else 1.005)
    assert energy.joules >= 1600 * 0.995 or name != BOTH  # power readings bridge it
    assert energy.coverage < 1


@pytest.mark.parametrize("name", ["counter 100 ms", "power, instant 20 ms", "RAPL, wraps at 3 kJ"])
def test_failed_reads_in_bursts_stay_within_the_uncertainty(name):
    found: list[EnergyWindow] = []
    for seed in range(4):
        rng = random.Random(seed)
        curve = CURVES["bursts"](rng, 44)
        bad = [(t, t + rng.uniform(0.05, 0.8)) for t in range(3, 40, 4)]
        recorder, clock = record(
            curve,
            SENSORS[name],
            42,
            rng,
            fails=lambda now, bad=bad: any(a <= now < b for a, b in bad),
        )
        found += windows(recorder, clock, curve, 80, rng)
    assert share_inside(found) >= 0.95
    assert any(window.energy.coverage < 1 for window in found)


@pytest.mark.parametrize("name", SENSORS)
def test_a_device_that_vanishes_is_missing_and_not_zero(name):
    curve = constant(150.0, 32)
    recorder, clock = record(curve, SENSORS[name], 30, random.Random(3), fails=lambda now: now > 10)
    after = recorder.energy(clock.at(15), clock.at(25))
    assert after.joules is None
    assert after.uncertainty is None
    assert after.kind is None
    assert after.coverage == 0
    assert after.unmeasured == ("gpu:FAKE",)
    across = recorder.energy(clock.at(5), clock.at(25))
    assert across.coverage == pytest.approx(0.25, abs=0.03)
    assert abs(across.joules - 3000) <= across.uncertainty


def test_a_counter_that_falls_silent_leaves_the_power_readings():
    """NotSupported for the counter alone: integrated power takes over, and says so."""
    recorder, clock = bend(
        *(constant(180.0, 22), SENSORS[BOTH], 20, random.Random(1)),
        reading=lambda device, at, found: replace(found, joules=None) if at > 6 else found,
    )
    energy = recorder.energy(clock.at(10), clock.at(15))
    assert energy.joules == pytest.approx(900, rel=0.01)
    assert energy.kind is Kind.INTEGRATED


@pytest.mark.parametrize("name", [BOTH, "counter 100 ms"])
def test_a_counter_that_never_moves_is_not_a_zero(name):
    recorder, clock = bend(
        *(constant(90.0, 12), SENSORS[name], 10, random.Random(1)), count=lambda *_: 0.0
    )
    energy = recorder.energy(clock.at(3), clock.at(8))
    if name != BOTH:
        assert energy.joules is None
        return
    assert energy.joules == pytest.approx(450, rel=0.01)
    assert energy.kind is Kind.INTEGRATED
    assert "no-counter" in energy.flags


def test_counter_and_integral_that_differ_are_flagged():
    recorder, clock = bend(
        *(constant(100.0, 12), SENSORS[BOTH], 10, random.Random(1)),
        power=lambda device, at, watts: 1.4 * watts,
    )
    energy = recorder.energy(clock.at(2), clock.at(8))
    assert energy.joules == pytest.approx(600, rel=0.01)
    assert "disagrees" in energy.flags
    check = recorder.cross_check("gpu:FAKE", clock.at(2), clock.at(8))
    assert check.difference == pytest.approx(0.4, abs=0.01)


def test_a_suspended_machine_leaves_a_gap_and_no_energy():
    clock = FakeClock()
    curve = constant(20.0, 40_000)
    recorder = Recorder([FakeDevice(curve, clock, POWER_ONLY)], clock=clock)
    rng = random.Random(1)
    sample(recorder, clock, 5, rng)
    clock.advance(8 * 3600)
    sample(recorder, clock, 5, rng)
    energy = recorder.energy(clock.at(2), clock.now_ns - 1_000_000_000)
    assert energy.joules == pytest.approx(140, abs=20)
    assert energy.coverage < 0.001


@pytest.mark.parametrize("name", SENSORS)
def test_windows_that_end_in_a_long_gap_say_how_little_is_known(name):
    """Reads fail for 2 to 6 s while the load comes and goes unseen."""
    found: list[EnergyWindow] = []
    for seed in range(6):
        rng = random.Random(seed)
        curve = CURVES["bursts"](rng, 44)
        length = rng.uniform(2, 6)
        recorder, clock = record(
            curve,
            SENSORS[name],
            40,
            rng,
            fails=lambda now, length=length: 15 <= now < 15 + length,
        )
        for _ in range(40):
            start, end = rng.uniform(3, 14), 15 + rng.uniform(0.1, length - 0.8)
            if rng.random() < 0.5:
                start, end = end, rng.uniform(22, 36)
            energy = recorder.energy(clock.at(start), clock.at(end))
            found.append(EnergyWindow(energy, curve.between(start, end)))
            assert energy.coverage < 1
            assert "gap" in energy.flags
    assert share_inside(found) >= 0.95


def test_a_total_of_several_devices_holds_the_truth():
    """They share a load, so that their errors come at the same moments."""
    inside = []
    for seed in range(5):
        rng = random.Random(seed)
        clock = FakeClock()
        curve = CURVES["bursts"](rng, 44)
        devices = [
            FakeDevice(curve, clock, replace(SENSORS[name], phase_s=rng.uniform(0, 0.1)), scope=s)
            for s, name in (
                ("gpu:A", "counter 100 ms"),
                ("gpu:B", "counter 100 ms, stamped"),
                ("gpu:C", "power, 25 % duty"),
                ("package:0", "RAPL, wraps at 3 kJ"),
            )
        ]
        recorder = Recorder(devices, clock=clock)
        sample(recorder, clock, 40, rng)
        for _ in range(60):
            start = rng.uniform(2, 28)
            end = start + rng.uniform(0.1, 9)
            energy = recorder.energy(clock.at(start), clock.at(end))
            inside.append(EnergyWindow(energy, 4 * curve.between(start, end)).inside)
            assert energy.kind is Kind.INTEGRATED
    assert sum(inside) / len(inside) >= 0.95


def test_a_swing_inside_each_tick_is_within_the_half_width():
    """Every tick has the same mean: only the power readings show what happens inside."""
    curve = steps([(0.05, 300.0), (0.05, 40.0)] * 20)
    power = PowerRecording(keep=999, gap_s=1.0)
    counter = CounterRecording(keep=999, gap_s=1.0, max_watts=1e4, power=power)
    for reads in range(400):
        power.observe(reads * 5_000_000, curve.watts(reads / 200))
        counter.observe(reads * 5_000_000, curve.joules(reads // 20 / 10))
    edge, middle = counter.at(1_000_000_000), counter.at(1_050_000_000)
    half_width = edge.systematic + edge.noise + middle.systematic + middle.noise
    error = abs(middle.joules - edge.joules - curve.between(1.0, 1.05))
    assert 3 < error < half_width < 30
