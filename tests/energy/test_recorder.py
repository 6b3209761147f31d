"""Totals over several channels, baselines, curves, and memory."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.energy_record import compute_sensor_floor, explain_no_floor
from etui.energy.recorder import Recorder
from etui.energy.types import BaseSource, Channel, HalfWidths, Kind, Reading, combine
from tests.support.devices import SENSORS, FakeClock, FakeDevice, Sensor
from tests.support.play import count_bytes, record, sample
from tests.support.power_curves import CURVES, constant, steps


@given(st.floats(0, 1e6))
def test_the_floor_is_about_twice_the_half_width(half):
    assert compute_sensor_floor(half, "counter") == pytest.approx(2.0215 * half, rel=1e-3)
    assert compute_sensor_floor(half, "integrated") is not None


@pytest.mark.parametrize("kind", ["estimate", "model", "battery", None])
def test_what_is_no_sensor_has_no_floor(kind):
    assert compute_sensor_floor(1.0, kind) is None
    assert explain_no_floor(1.0, kind)
    assert compute_sensor_floor(None, "counter") is None
    assert "half width" in explain_no_floor(None, "counter")


def test_shared_parts_add_up_and_own_parts_do_not():
    assert combine([HalfWidths(shared=2.0)] * 8) == 16
    assert combine([HalfWidths(own=2.0)] * 4) == 4
    assert combine([HalfWidths(stated=3.0), HalfWidths(stated=1.0)]) == 4
    assert combine([HalfWidths(unknown=3.0), HalfWidths(unknown=1.0)]) == 4


@pytest.mark.parametrize("count", [1, 2, 8, 32])
def test_a_total_is_between_quadrature_and_the_sum(count):
    part = HalfWidths(shared=1.0, own=2.0)
    assert count**0.5 * part.total <= combine([part] * count) * 1.000001
    assert combine([part] * count) <= count * part.total


class _Fixed(BaseSource):
    """A source of one channel with the same power at any time, or none at all."""

    def __init__(self, clock: FakeClock, channel: Channel, watts: float | None) -> None:
        super().__init__(clock)
        self.channels = [channel]
        self.watts = watts

    def read(self) -> Mapping[str, Reading]:
        return {self.channels[0].id: Reading(self.clock(), None, self.watts)}


def _record(*watts: tuple[str, Kind, float | None]) -> tuple[Recorder, FakeClock]:
    clock = FakeClock()
    sources = [_Fixed(clock, Channel(name, name, kind), power) for name, kind, power in watts]
    recorder = Recorder(sources, clock=clock, unmeasured=["dram:0"])
    sample(recorder, clock, 3, random.Random(1))
    return recorder, clock


def test_the_sum_is_as_weak_as_its_weakest_channel():
    recorder, clock = _record(("gpu:A", Kind.INTEGRATED, 50.0), ("package:0", Kind.MODEL, 20.0))
    recorder.set_idle({"gpu:A": 10.0})
    found = recorder.energy(clock.at(0.5), clock.at(2.5))
    assert (found.joules, found.mean_watts) == (pytest.approx(140.0), pytest.approx(70.0))
    assert (found.kind, found.unmeasured) == (Kind.MODEL, ("dram:0",))
    assert found.idle_watts is None  # the baseline lacks one of the two


def test_a_channel_without_readings_is_unmeasured():
    silent = ("gpu:A", Kind.INTEGRATED, None)
    recorder, clock = _record(silent, ("package:0", Kind.INTEGRATED, 20.0))
    found = recorder.energy(clock.at(0.5), clock.at(2.5))
    assert (found.coverage, found.unmeasured) == (0.0, ("dram:0", "gpu:A"))
    recorder, clock = _record(silent)
    found = recorder.energy(clock.at(0.5), clock.at(2.5))
    assert (found.joules, found.uncertainty, found.kind) == (None, None, None)
    assert (found.unmeasured, found.flags) == (("dram:0", "gpu:A"), ("unmeasured",))


def test_the_peak_of_several_channels_is_that_of_their_sum():
    clock = FakeClock()
    curves = {"gpu:A": steps([(2, 50.0), (2, 90.0)]), "package:0": steps([(2, 60.0), (2, 10.0)])}
    sensor = SENSORS["RAPL, wraps at 3 kJ"]
    devices = [FakeDevice(curve, clock, sensor, scope=scope) for scope, curve in curves.items()]
    recorder = Recorder(devices, clock=clock)
    sample(recorder, clock, 3.8, random.Random(1))
    energy = recorder.energy(clock.at(0.5), clock.at(3.5))
    assert energy.peak_watts == pytest.approx(110, rel=0.01)  # and not the 150 of both peaks
    short = recorder.energy(clock.at(0.5), clock.at(0.6))
    assert short.peak_watts == pytest.approx(short.mean_watts)  # too short for slices
    one = recorder.energy(clock.at(0.5), clock.at(0.5))
    assert one.peak_watts is None


def machine(clock: FakeClock, *watts: tuple[str, float, str]) -> list[FakeDevice]:
    return [
        FakeDevice(constant(w, 100), clock, SENSORS[sensor], scope=scope)
        for scope, w, sensor in watts
    ]


def recorded(*watts: tuple[str, float, str], seconds: float = 12) -> tuple[Recorder, FakeClock]:
    clock = FakeClock()
    recorder = Recorder(machine(clock, *watts), clock=clock)
    sample(recorder, clock, seconds, random.Random(1))
    return recorder, clock


def test_disjoint_channels_are_summed_and_covering_ones_are_not():
    recorder, clock = recorded(
        ("gpu:A", 200, "counter 100 ms"),
        ("package:0", 50, "RAPL, wraps at 3 kJ"),
        ("psys", 280, "RAPL, wraps at 3 kJ"),
    )
    energy = recorder.energy(clock.at(2), clock.at(10))
    assert energy.joules == pytest.approx(2000, rel=0.005)
    assert {part.id for part in energy.channels} == {"gpu:A", "package:0"}
    assert [part.id for part in energy.cross_checks] == ["psys"]
    assert energy.mean_watts == pytest.approx(250, rel=0.005)
    assert energy.peak_watts == pytest.approx(250, rel=0.1)


def test_an_empty_phase_of_a_measured_turn_is_zero():
    recorder, clock = recorded(("gpu:A", 200, "counter 100 ms"))
    energy = recorder.energy(clock.at(5), clock.at(5))
    assert energy.joules == 0
    assert energy.coverage == 1
    before = recorder.energy(clock.at(-20), clock.at(-20))
    assert before.joules is None


def test_idle_is_taken_off_and_never_alone():
    clock = FakeClock()
    curve = steps([(20, 60.0), (10, 260.0)])
    device = FakeDevice(curve, clock, SENSORS["counter 100 ms"])
    rng = random.Random(1)
    recorder = Recorder(
        [device], clock=clock, sleep=lambda seconds: sample(recorder, clock, seconds, rng)
    )
    sample(recorder, clock, 2, rng)
    assert recorder.energy(clock.at(1), clock.at(2)).net_joules is None
    idle = recorder.measure_idle(5)
    assert idle.mean_watts == pytest.approx(60, rel=0.03)
    assert recorder.idle_watts == pytest.approx(60, rel=0.03)
    sample(recorder, clock, 22, rng)
    energy = recorder.energy(clock.at(21), clock.at(26))
    assert energy.joules == pytest.approx(1300, rel=0.005)
    assert energy.net_joules == pytest.approx(1000, rel=0.02)
    recorder.set_idle(None)
    assert recorder.energy(clock.at(21), clock.at(26)).net_joules is None


@given(
    curve=st.sampled_from(sorted(CURVES)),
    sensors=st.lists(st.sampled_from(sorted(SENSORS)), min_size=1, max_size=2),
    seed=st.integers(0, 1000),
    start_s=st.floats(-3, 9),
    seconds=st.floats(0.001, 8),
    points=st.integers(1, 60),
)
def test_the_power_curve_is_that_of_the_energies_of_its_slices(
    curve, sensors, seed, start_s, seconds, points
):
    clock, rng = FakeClock(), random.Random(seed)
    played = CURVES[curve](rng, 12)
    devices = [
        FakeDevice(played, clock, SENSORS[sensor], scope=f"gpu:{number}")
        for number, sensor in enumerate(sensors)
    ]
    recorder = Recorder(devices, clock=clock)
    sample(recorder, clock, 8, rng)
    start_ns, end_ns = clock.at(start_s), clock.at(start_s + seconds)
    marks = [start_ns + (end_ns - start_ns) * i // points for i in range(points + 1)]
    joules = [recorder.energy(*ends).joules for ends in pairwise(marks)]
    expected = [
        None if spent is None else spent / (end - start) * 1e9
        for spent, (start, end) in zip(joules, pairwise(marks), strict=True)
    ]
    assert [watts for _, watts in recorder.power_curve(start_ns, end_ns, points)] == expected


def test_slices_without_a_record_have_no_power():
    recorder, clock = recorded(("gpu:A", 200, "counter 100 ms"))
    points = recorder.power_curve(clock.at(-10), clock.at(10), 20)
    assert [watts for _, watts in points[:9]] == [None] * 9
    assert points[-1][1] == pytest.approx(200, rel=0.01)


def test_latest_shows_watts_and_joules_of_every_channel():
    recorder, _ = recorded(
        ("gpu:A", 200, "counter 100 ms + instant power"),
        ("psys", 280, "RAPL, wraps at 3 kJ"),
    )
    rows = {row.channel.id: row for row in recorder.latest()}
    assert rows["gpu:A"].watts == pytest.approx(200, rel=0.01)
    assert rows["gpu:A"].in_total
    assert not rows["psys"].in_total
    assert rows["psys"].watts == pytest.approx(280, rel=0.05)
    assert rows["psys"].joules_since_start == pytest.approx(280 * 12, rel=0.02)
    assert recorder.joules_since_start == pytest.approx(200 * 12, rel=0.02)


def test_a_channel_that_fell_silent_shows_no_watts():
    clock = FakeClock()
    device = FakeDevice(constant(90, 30), clock, fails=lambda now: now > 5)
    recorder = Recorder([device], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    assert recorder.latest()[0].watts is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_nonsense_readings_are_missing(bad):
    clock = FakeClock()

    class Odd(FakeDevice):
        def read(self) -> Mapping[str, Reading]:
            readings = dict(super().read())
            if int(self.clock.seconds * 10) % 7 == 0:
                reading = readings[self.channel.id]
                readings[self.channel.id] = replace(reading, joules=bad, watts=bad)
            return readings

    recorder = Recorder([Odd(constant(100, 30), clock)], clock=clock)
    sample(recorder, clock, 20, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(18))
    assert energy.joules == pytest.approx(1600, rel=0.01)
    assert energy.coverage < 1


def test_memory_stays_flat():
    clock = FakeClock()
    sensor = Sensor(counter_period_s=0.001, period_hint_s=0.001, power_period_s=0.02)
    device = FakeDevice(constant(100, 10), clock, sensor)
    recorder = Recorder([device], clock=clock, keep_seconds=30)
    sizes = []
    for _ in range(12):
        sample(recorder, clock, 30, random.Random(1))
        sizes.append(count_bytes(recorder))
    assert sizes[-1] == sizes[3]
    recent = recorder.energy(clock.now_ns - 20_000_000_000, clock.now_ns - 1_000_000_000)
    assert recent.joules == pytest.approx(1900, rel=0.01)
    assert recorder.energy(clock.at(2), clock.at(10)).joules is None  # no longer kept
    assert recorder.joules_since_start == pytest.approx(36_000, rel=0.01)


def test_an_estimate_carries_its_band_through_a_total():
    clock = FakeClock()
    device = FakeDevice(constant(50, 30), clock, SENSORS["RAPL, wraps at 3 kJ"])
    device.channel = Channel(
        "estimate:cpu", "estimate:cpu", Kind.ESTIMATE, relative_error=0.4, range_joules=3000.0
    )
    recorder = Recorder([device], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(8))
    assert energy.kind is Kind.ESTIMATE
    assert energy.joules == pytest.approx(300, rel=0.02)
    assert energy.uncertainty == pytest.approx(120, rel=0.05)


@pytest.mark.parametrize("sensor", list(SENSORS))
def test_many_intervals_at_once_have_the_joules_of_each_alone(sensor):
    clock, rng = FakeClock(), random.Random(11)
    devices = [
        FakeDevice(CURVES["bursts"](rng, 30), clock, SENSORS[name], scope=scope)
        for name, scope in ((sensor, "gpu:A"), ("RAPL, wraps at 3 kJ", "package:0"))
    ]
    recorder = Recorder(devices, clock=clock)
    for _ in range(6):
        sample(recorder, clock, 3, rng)
        recorder.mark(clock())
    sample(recorder, clock, 3, rng)
    edges = sorted(clock.at(rng.uniform(-1, 23)) for _ in range(200))
    spans = [*pairwise(edges), (edges[0], edges[-1]), (edges[50], edges[50])]
    alone = [recorder.energy(low, high).joules for low, high in spans]
    assert recorder.joules_of(spans) == alone
    assert None in alone
    assert recorder.joules_of([]) == []


def test_many_intervals_without_a_record_are_unmeasured():
    clock = FakeClock()
    assert Recorder([], clock=clock).joules_of([(0, 1), (1, 2)]) == [None, None]
    silent = Recorder(machine(clock, ("gpu:A", 100, "counter 100 ms")), clock=clock)
    assert silent.joules_of([(0, 1)]) == [None]


def test_a_rare_reading_is_no_gap():
    recorder, clock = record(
        constant(100, 90), SENSORS["counter 100 ms"], 60, random.Random(1), hz=0.5
    )
    energy = recorder.energy(clock.at(20), clock.at(50))
    assert energy.joules == pytest.approx(3000, rel=0.01)
    assert energy.coverage == 1
