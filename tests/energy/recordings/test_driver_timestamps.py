"""Timestamps of the driver that are early, late, coarse or of something else."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from etui.energy.recorder import Recorder
from tests.support.devices import SENSORS, FakeClock, FakeDevice, Sensor
from tests.support.play import EnergyWindow, record, sample, windows
from tests.support.power_curves import CURVES, WattCurve

Warp = Callable[[float], float]


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


class Warped(FakeDevice):
    """A device whose timestamps are wrong."""

    warp: Warp = staticmethod(lambda at: at)

    def _reading(self, now_s: float):  # type: ignore[no-untyped-def]
        reading = super()._reading(now_s)
        assert reading.updated_ns is not None
        at_s = (reading.updated_ns - self.clock.start_ns) / 1e9
        return replace(reading, updated_ns=self.clock.at(self.warp(at_s)))


def play(
    warp: Warp, curve: WattCurve, sensor: Sensor, seconds: float, rng: random.Random
) -> tuple[Recorder, FakeClock]:
    clock = FakeClock()
    device = Warped(curve, clock, sensor)
    device.warp = warp  # type: ignore[method-assign]
    recorder = Recorder([device], clock=clock)
    sample(recorder, clock, seconds, rng)
    return recorder, clock


@pytest.mark.parametrize("name", WARPS)
def test_wrong_timestamps_do_not_falsify_the_energy(name: str) -> None:
    found: list[EnergyWindow] = []
    plain: list[EnergyWindow] = []
    for index, make in enumerate(CURVES.values()):
        rng = random.Random(index)
        curve = make(rng, 44)
        sensor = replace(SENSORS["counter 100 ms, stamped"], phase_s=rng.uniform(0, 0.1))
        recorder, clock = play(WARPS[name], curve, sensor, 40, random.Random(index))
        knots, _ = recorder._traces["gpu:FAKE"].counter.curve()
        assert (knots[1:] - knots[:-1]).min() > 1_000_000
        found += windows(recorder, clock, curve, 100, random.Random(index), lengths_s=(0.2, 8))
        unstamped = replace(sensor, stamps=False)
        recorder, clock = record(curve, unstamped, 40, random.Random(index))
        plain += windows(recorder, clock, curve, 100, random.Random(index), lengths_s=(0.2, 8))
    assert sum(window.inside for window in found) / len(found) >= 0.95
    assert error_95(found) < 1.2 * error_95(plain) + 0.002
    assert max((w.energy.uncertainty or 0.0) / w.truth for w in found) < 1.5


def error_95(found: list[EnergyWindow]) -> float:
    return sorted(window.error for window in found)[int(0.95 * len(found))]
