"""Models of devices: the readings that a counter or a power sensor gives of a power curve."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from etui.energy.types import Channel, ChannelProbe, Kind, Reading


class PowerCurve(Protocol):
    """The true power of a device, in seconds since the start."""

    def watts(self, seconds: float) -> float:
        """Return the power at a time."""

    def joules(self, seconds: float) -> float:
        """Return the energy from the start to a time."""

    def between(self, start_s: float, end_s: float) -> float:
        """Return the energy of an interval, joules."""


class FakeClock:
    """A monotonic clock that moves only by ``advance``.

    Args:
        start_ns: Time at which it starts, nanoseconds.
    """

    def __init__(self, start_ns: int = 1_000_000_000_000) -> None:
        self.start_ns = start_ns
        self.now_ns = start_ns

    def __call__(self) -> int:
        """Return the time in nanoseconds."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.now_ns += round(seconds * 1e9)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return (self.now_ns - self.start_ns) / 1e9

    def at(self, seconds: float) -> int:
        """Convert seconds since the start to nanoseconds of the clock."""
        return self.start_ns + round(seconds * 1e9)


@dataclass(frozen=True, slots=True)
class Sensor:
    """How a device reports its energy and power."""

    counter_period_s: float | None = 0.1
    """Time between two refreshes of the energy counter; None without one."""
    counter_step_joules: float = 0.001
    range_joules: float | None = None  # Value at which the counter wraps; None if it never does
    begin_joules: float = 5000.0  # Value of the counter at the start
    stamps: bool = False  # Whether readings include the time of the refresh
    power_period_s: float | None = None
    """Time between two refreshes of the power reading; None without one."""
    power_window_s: float = 0.0  # Length of time before the refresh that the reading averages
    power_step_watts: float = 0.001  # Resolution of the power reading
    average_s: float = 0.0
    """Averaging time of the power reading that the channel declares (0 for instant)."""
    phase_s: float = 0.0  # Time of the first refresh
    jitter_s: float = 0.0  # Largest deviation of a refresh of the counter from a regular beat
    period_hint_s: float | None = None  # Period that the channel declares


class FakeDevice:
    """A source with one channel that plays a curve through a sensor.

    Args:
        curve: The true power, in seconds since the clock's start.
        sensor: How the device reports its energy and power.
        fails: Seconds -> whether a read at that time fails.
        resets: Times at which the counter restarts at 0, seconds.
    """

    name = "fake"

    def __init__(
        self,
        curve: PowerCurve,
        clock: FakeClock,
        sensor: Sensor | None = None,
        *,
        fails: Callable[[float], bool] = lambda seconds: False,
        resets: Sequence[float] = (),
        scope: str = "gpu:FAKE",
        limit_watts: float | None = 350.0,
    ) -> None:
        self.curve = curve
        self.clock = clock
        self.sensor = sensor or Sensor()
        self.fails = fails
        self.resets = tuple(resets)
        counter = self.sensor.counter_period_s is not None
        self.channel = Channel(
            id=scope,
            scope=scope,
            kind=Kind.COUNTER if counter else Kind.INTEGRATED,
            limit_watts=limit_watts,
            range_joules=self.sensor.range_joules,
            average_s=self.sensor.average_s,
            period_s=self.sensor.period_hint_s,
        )

    @property
    def channels(self) -> Sequence[Channel]:
        """The one channel."""
        return [self.channel]

    def probe(self) -> Sequence[ChannelProbe]:
        """Report the channel as readable."""
        return [ChannelProbe(self.channel.id, True, True)]

    def read(self) -> Mapping[str, Reading]:
        """Read the device now."""
        now_s = self.clock.seconds
        if self.fails(now_s):
            return {self.channel.id: Reading(self.clock(), None)}
        return {self.channel.id: self._reading(now_s)}

    def close(self) -> None:
        """Do nothing: no resource is open."""

    def _reading(self, now_s: float) -> Reading:
        sensor = self.sensor
        joules = watts = None
        updated_ns = None
        if sensor.counter_period_s is not None:
            refreshed_s = self._find_refresh(now_s, sensor.counter_period_s)
            joules = self._count(refreshed_s)
            updated_ns = self.clock.at(refreshed_s) if sensor.stamps else None
        if sensor.power_period_s is not None:
            refreshed_s = _floor(now_s, sensor.power_period_s, sensor.phase_s)
            watts = self._power(refreshed_s)
        return Reading(self.clock(), joules, watts, updated_ns=updated_ns)

    def _find_refresh(self, now_s: float, period_s: float) -> float:
        """Return the time of the last refresh of the counter."""
        sensor = self.sensor
        if not sensor.jitter_s:
            return _floor(now_s, period_s, sensor.phase_s)
        beat = math.floor((now_s - sensor.phase_s) / period_s) + 1
        while True:
            off = random.Random(beat).uniform(-sensor.jitter_s, sensor.jitter_s)
            at = beat * period_s + sensor.phase_s + off
            if at <= now_s:
                return at
            beat -= 1

    def _count(self, refreshed_s: float) -> float:
        sensor = self.sensor
        last_reset = max((t for t in self.resets if t <= refreshed_s), default=None)
        since = self.curve.joules(refreshed_s)
        if last_reset is not None:
            total = since - self.curve.joules(last_reset)
        else:
            total = sensor.begin_joules + since
        total = math.floor(total / sensor.counter_step_joules) * sensor.counter_step_joules
        return total % sensor.range_joules if sensor.range_joules else total

    def _power(self, refreshed_s: float) -> float:
        sensor = self.sensor
        if sensor.power_window_s:
            start_s = refreshed_s - sensor.power_window_s
            watts = self.curve.between(start_s, refreshed_s) / sensor.power_window_s
        else:
            watts = self.curve.watts(refreshed_s)
        return round(watts / sensor.power_step_watts) * sensor.power_step_watts


def _floor(now_s: float, period_s: float, phase_s: float) -> float:
    if period_s <= 0:
        return now_s
    return math.floor((now_s - phase_s) / period_s) * period_s + phase_s


SENSORS: dict[str, Sensor] = {
    "counter 100 ms": Sensor(),
    "counter 100 ms + instant power": Sensor(power_period_s=0.05, power_window_s=0.025),
    "counter 100 ms, stamped": Sensor(stamps=True, power_period_s=0.1, power_window_s=0.025),
    "counter 100 ms, uneven": Sensor(jitter_s=0.015),
    "counter 20 ms": Sensor(counter_period_s=0.02),
    "RAPL, wraps at 3 kJ": Sensor(
        counter_period_s=0.001,
        counter_step_joules=61e-6,
        range_joules=3000.0,
        begin_joules=2500.0,
        period_hint_s=0.001,
    ),
    "power, instant 20 ms": Sensor(counter_period_s=None, power_period_s=0.02, power_window_s=0.02),
    "power, 25 % duty": Sensor(counter_period_s=None, power_period_s=0.1, power_window_s=0.025),
    "power, whole watts": Sensor(
        counter_period_s=None, power_period_s=0.05, power_window_s=0.05, power_step_watts=1.0
    ),
    "power, 1 s average": Sensor(
        counter_period_s=None, power_period_s=0.1, power_window_s=1.0, average_s=1.0
    ),
}
"""Name -> sensor of a real kind of device."""
