"""Play a curve through a device to the meter, and compare windows with the true energy."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etui.energy.recorder import SETTLE_OF_AVERAGE, SETTLE_S, Recorder
from etui.energy.sampler import BURST_INTERVAL_NS, BURST_NS, HURRY_INTERVAL_NS, dither_interval
from etui.energy.types import Energy
from tests.support.devices import FakeClock, FakeDevice, Sensor
from tests.support.power_curves import WattCurve


@dataclass(frozen=True, slots=True)
class EnergyWindow:
    """One window: the measured energy, and the true energy in joules."""

    energy: Energy
    truth: float

    @property
    def error(self) -> float:
        """Relative error; NaN when nothing was measured."""
        if self.energy.joules is None:
            return math.nan
        return abs(self.energy.joules - self.truth) / self.truth

    @property
    def inside(self) -> bool:
        """Whether the true energy is within the stated uncertainty."""
        joules, uncertainty = self.energy.joules, self.energy.uncertainty
        if joules is None or uncertainty is None:
            return False
        return abs(joules - self.truth) <= uncertainty + 1e-6


def sample(recorder: Recorder, clock: FakeClock, seconds: float, rng: random.Random) -> None:
    """Let the recorder sample for a while as its thread would, sometimes late."""
    begin_ns = clock.now_ns
    interval_ns = round(1e9 / recorder.hz)
    beat = 0
    while clock.now_ns - begin_ns < seconds * 1e9:
        recorder.sample_now()
        beat += 1
        young = clock.now_ns - begin_ns < BURST_NS
        pause_ns = BURST_INTERVAL_NS if young else dither_interval(interval_ns, beat)
        late_s = rng.expovariate(2000) + (rng.uniform(0, 0.03) if rng.random() < 0.01 else 0)
        clock.advance(pause_ns / 1e9 + late_s)


def record(
    curve: WattCurve,
    sensor: Sensor,
    seconds: float,
    rng: random.Random,
    *,
    hz: float = 20.0,
    fails: Callable[[float], bool] = lambda seconds: False,
    resets: Sequence[float] = (),
) -> tuple[Recorder, FakeClock]:
    """Record a device that plays a curve, and return the recorder and its clock."""
    clock = FakeClock()
    device = FakeDevice(curve, clock, sensor, fails=fails, resets=resets)
    recorder = Recorder([device], hz=hz, clock=clock)
    sample(recorder, clock, seconds, rng)
    return recorder, clock


def windows(
    recorder: Recorder,
    clock: FakeClock,
    curve: WattCurve,
    count: int,
    rng: random.Random,
    *,
    lengths_s: tuple[float, float] = (0.1, 30.0),
    margin_s: float = 1.5,
) -> list[EnergyWindow]:
    """Measure random windows of log-uniform length inside the record."""
    found = []
    end_s = clock.seconds - margin_s
    for _ in range(count):
        length = math.exp(rng.uniform(math.log(lengths_s[0]), math.log(lengths_s[1])))
        start = rng.uniform(margin_s, end_s - length)
        energy = recorder.energy(clock.at(start), clock.at(start + length))
        found.append(EnergyWindow(energy, curve.between(start, start + length)))
    return found


def live_windows(
    recorder: Recorder,
    clock: FakeClock,
    curve: WattCurve,
    count: int,
    rng: random.Random,
    *,
    lengths_s: tuple[float, float] = (0.1, 4.0),
    start_s: float | None = None,
) -> list[EnergyWindow]:
    """Measure windows at their end, as for answers: when settled, or after the longest wait.

    With ``start_s`` there is one window, from then to now.
    """
    found = []
    for _ in range(count):
        start_ns = clock.now_ns if start_s is None else clock.at(start_s)
        if start_s is None:
            sample(recorder, clock, rng.uniform(*lengths_s), rng)
        end_ns = clock.now_ns
        late_s = max(channel.average_s for channel in recorder.channels)
        limit_ns = end_ns + round((SETTLE_S + SETTLE_OF_AVERAGE * late_s) * 1e9)
        while not recorder.settle(end_ns) and clock.now_ns < limit_ns:
            clock.advance(HURRY_INTERVAL_NS / 1e9)
        energy = recorder.energy(start_ns, end_ns)
        begin_s, end_s = ((t_ns - clock.start_ns) / 1e9 for t_ns in (start_ns, end_ns))
        found.append(EnergyWindow(energy, curve.between(begin_s, end_s)))
    return found


def count_bytes(recorder: Recorder) -> int:
    """Memory of the rows that a recorder keeps of its counters and powers."""
    rows = [part._rows for t in recorder._traces.values() for part in (t.counter, t.power)]
    return sum(int(array.nbytes) for each in rows for array in each._arrays)
