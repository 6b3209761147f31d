"""The first answer of a new process: its meter has just begun, and reads are held up by its start.

Imports and the load of the model keep the interpreter, and other programs the CPUs: a read then
takes a while, and its value is of any time within it.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from etui.energy._recordings.counter import CounterRecording
from etui.energy._recordings.power import PowerRecording
from etui.energy.recorder import SETTLE_S, Recorder
from etui.energy.sampler import BURST_INTERVAL_NS, HURRY_INTERVAL_NS
from etui.energy.types import BaseSource, Channel, Reading
from tests.support.devices import SENSORS, FakeClock, FakeDevice, Sensor
from tests.support.play import EnergyWindow
from tests.support.power_curves import WattCurve, ramps, steps

DEVICES: dict[str, Sensor] = {
    "NVML": Sensor(stamps=True, power_period_s=0.05, power_window_s=0.025),
    "RAPL": replace(SENSORS["RAPL, wraps at 3 kJ"], begin_joules=100.0),
    "power": SENSORS["power, instant 20 ms"],
}


class HeldSource(BaseSource):
    """A source whose calls are held up, before and after the value is taken.

    Args:
        share: Share of the calls that are held up on one side.
    """

    name = "held"

    def __init__(self, device: FakeDevice, rng: random.Random, share: float) -> None:
        super().__init__(device.clock)
        self.add(device.channel)
        self._device, self._rng, self._share = device, rng, share

    def read_channel(self, channel: Channel) -> Reading:
        begin_ns = self.clock()
        self._hold()
        found = self._device._reading(self._device.clock.seconds)
        self._hold()
        reading = self.date(begin_ns, found.joules, found.watts)
        return replace(reading, updated_ns=found.updated_ns)

    def _hold(self) -> None:
        held_s = self._rng.expovariate(10_000)
        if self._rng.random() < self._share:
            held_s += self._rng.uniform(0, 0.08)
        self._device.clock.advance(held_s)


def ask_first(sensor: Sensor, rng: random.Random, *, busy: bool, power: str) -> EnergyWindow:
    """Measure the first answer of a process, whose meter begins with the load of the model.

    The power follows the ``turn``, or rises and falls at will: ``ramps``, or steep ``slopes``.
    """
    slow = 2.0 if busy else 1.0
    load, prefill, decode = rng.uniform(0.1, 0.5), rng.uniform(0.02, 0.1), rng.uniform(0.02, 0.5)
    before_s = rng.uniform(2.0, 4.6)
    start_s = before_s + slow * load
    first_s = start_s + slow * prefill
    end_s = first_s + slow * decode
    curve: WattCurve = ramps(rng, end_s + 3)
    if power == "slopes":
        curve = WattCurve(tuple((1.3 * i, 300.0 if i % 2 else 80.0) for i in range(12)))
    if power == "turn":
        levels = [(before_s, rng.uniform(15, 90)), (start_s - before_s, rng.uniform(60, 150))]
        levels += [(first_s - start_s, rng.uniform(150, 350)), (end_s - first_s, 180.0)]
        curve = steps([*levels, (3.0, levels[0][1])])
    clock = FakeClock()
    clock.advance(before_s)
    placed = replace(sensor, phase_s=rng.uniform(0, 0.1))
    source = HeldSource(FakeDevice(curve, clock, placed), rng, 0.1 if busy else 0.02)
    recorder = Recorder([source], clock=clock)

    def read_until(until_ns: int) -> None:
        while clock.now_ns < until_ns:
            recorder.sample_now()
            clock.advance(BURST_INTERVAL_NS / 1e9 + rng.expovariate(2000))

    for mark_s in (before_s, start_s, first_s, end_s):
        read_until(clock.at(mark_s))
        recorder.mark(clock.at(mark_s))
    start_ns, end_ns = clock.at(start_s), clock.at(end_s)
    while not recorder.settle(end_ns) and clock.now_ns < end_ns + SETTLE_S * 1e9:
        clock.advance(HURRY_INTERVAL_NS / 1e9)
    return EnergyWindow(recorder.energy(start_ns, end_ns), curve.between(start_s, end_s))


@pytest.mark.parametrize("power", ["turn", "ramps", "slopes"])
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_the_truth_of_the_first_answer_lies_within(device, busy, power):
    found = [
        ask_first(DEVICES[device], random.Random(seed), busy=busy, power=power)
        for seed in range(60)
    ]
    assert sum(window.inside for window in found) / len(found) >= 0.95


def test_three_changes_of_a_power_reading_bound_its_refresh():
    power = PowerRecording(keep=100, gap_s=0.5)
    assert power.longest_wait_ns == 100_000_000
    for step in range(14):
        power.observe(5_000_000 * step + 1, 40.0 + step // 4)
    assert power.longest_wait_ns == 25_000_000


def make_counter() -> CounterRecording:
    power = PowerRecording(keep=100, gap_s=0.5)
    return CounterRecording(keep=100, gap_s=0.5, max_watts=1000.0, power=power, period_s=0.001)


def test_a_read_that_was_held_up_widens_its_edge():
    """The value is of the begin of a call of 40 ms, or of its end."""
    counter = make_counter()
    counter.observe(0, 10.0)
    counter.observe(160_000_000, 25.0, half_ns=20_000_000)
    counter.observe(200_000_000, 30.0, half_ns=20_000_000)
    assert counter.at(160_000_000).noise > 0.02 * 100  # the mean power is 125 W


def test_a_read_that_was_held_up_among_quick_ones_is_left_out():
    """It would be an edge at a time that is not known, where the others are known to 1 ms."""
    counter = make_counter()
    for milliseconds in range(0, 50, 5):
        counter.observe(milliseconds * 1_000_000, 10.0 + milliseconds / 10)
    counter.observe(70_000_000, 15.1, half_ns=19_000_000)
    for milliseconds in range(90, 120, 5):
        counter.observe(milliseconds * 1_000_000, 10.0 + milliseconds / 10)
    assert counter.at(70_000_000).joules == pytest.approx(6.5, abs=0.1)


def test_a_read_that_another_thread_has_overtaken_is_no_reset():
    counter = make_counter()
    for step in range(5):
        counter.observe(step * 5_000_000, 10.0 + step)
    counter.observe(30_000_000, 16.0, added=True)
    counter.observe(31_000_000, 15.0, half_ns=9_000_000)  # its value is of 22 ms
    counter.observe(40_000_000, 18.0)
    assert counter.resets == 0
    assert counter.at(40_000_000).joules == pytest.approx(7.0, abs=0.5)
