"""A model of a GPU that runs a language model: its power depends on the load, and it warms up.

The time and power of a step depend on its tokens and on the context they look back on; the power
curve grows during the work, and a recorder samples it meanwhile. Tests and benchmarks compare
operating curves with its joules, which are known exactly.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from dataclasses import dataclass

from etui.energy.recorder import Recorder
from etui.energy.types import Energy, Phase
from tests.support.devices import FakeClock, FakeDevice, Sensor


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """The time and power that a GPU takes for a batch.

    Attributes:
        idle_watts, limit_watts: Power at no and at full load.
    """

    idle_watts: float = 60.0
    limit_watts: float = 350.0
    launch_s: float = 0.009  # Least seconds of a batch
    token_s: float = 0.0002  # Seconds per prompt token
    look_back_s: float = 1e-7  # Seconds of a token per token that it looks back on
    decode_use: float = 0.45  # Load of a step of one token, 0..1, in an empty context
    context_use: float = 5e-5  # Increase of that load per token of context
    warm_share: float = 0.05  # Additional power of the warm chip for the same work, relative
    warm_s: float = 40.0  # Time constant of warming up, seconds
    noise: float = 0.05  # Spread of a batch's power, relative

    def seconds(self, context: int, tokens: int) -> float:
        """Return the duration of a batch of ``tokens`` after ``context`` tokens."""
        looked_back = context * tokens + tokens**2 / 2
        return max(self.launch_s, self.token_s * tokens) + self.look_back_s * looked_back

    def watts(self, context: int, tokens: int) -> float:
        """Return the power of that batch on a cold chip."""
        use = self.decode_use + self.context_use * context + tokens / 512
        return self.idle_watts + (self.limit_watts - self.idle_watts) * min(use, 1.0)


class Plateaus:
    """A power curve of plateaus that grows with time; the last plateau continues after its end."""

    def __init__(self, watts: float) -> None:
        self._starts_s = [0.0]
        self._watts = [watts]
        self._joules = [0.0]

    def switch(self, at_s: float, watts: float) -> None:
        """Set the power from ``at_s`` on, which must not be before the last switch."""
        self._joules.append(self.joules(at_s))
        self._starts_s.append(at_s)
        self._watts.append(watts)

    def watts(self, seconds: float) -> float:
        """Return the power at a time."""
        return self._watts[max(0, bisect_right(self._starts_s, seconds) - 1)]

    def joules(self, seconds: float) -> float:
        """Return the energy from the start to a time."""
        at = max(0, bisect_right(self._starts_s, seconds) - 1)
        return self._joules[at] + (seconds - self._starts_s[at]) * self._watts[at]

    def between(self, start_s: float, end_s: float) -> float:
        """Return the energy of an interval, joules."""
        return self.joules(end_s) - self.joules(start_s)


class SimulatedGpu:
    """A simulated GPU and the recorder that measures it.

    Args:
        load: Time and power of its batches.
        sensor: How it reports energy and power; None is a counter refreshed every 100 ms.
    """

    def __init__(self, load: GpuLoad, sensor: Sensor | None = None, seed: int = 0) -> None:
        self.load = load
        self.clock = FakeClock()
        self.curve = Plateaus(load.idle_watts)
        device = FakeDevice(self.curve, self.clock, sensor, limit_watts=load.limit_watts)
        self.recorder = Recorder([device], clock=self.clock)
        self._random = random.Random(seed)
        self._warmth = 0.0  # 0 cold, 1 as warm as full load makes it
        self._next_sample_ns = self.clock()

    def work(self, context: int, tokens: int) -> None:
        """Compute a batch of ``tokens`` after ``context`` tokens."""
        warm = 1 + self.load.warm_share * self._warmth
        noisy = max(0.5, self._random.gauss(1.0, self.load.noise))
        self._spend(
            self.load.seconds(context, tokens), self.load.watts(context, tokens) * warm * noisy
        )

    def rest(self, seconds: float) -> None:
        """Do nothing for a while."""
        self._spend(seconds, self.load.idle_watts)

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Give the meter a mark, as the engine's events do."""
        self.recorder.mark(t_ns, phase)

    def settle(self, end_ns: int) -> bool:
        """Advance the clock until the meter has settled ``end_ns``, as a real one waits."""
        while not self.recorder.settle(end_ns):
            self.rest(0.01)
        return True

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Return the energy that the meter measured in an interval."""
        return self.recorder.energy(start_ns, end_ns)

    def power_curve(
        self, start_ns: int, end_ns: int, points: int
    ) -> list[tuple[int, float | None]]:
        """Return the watts that the meter measured in equal slices of an interval."""
        return self.recorder.power_curve(start_ns, end_ns, points)

    def truth(self, start_ns: int, end_ns: int) -> float:
        """Return the true joules of an interval."""
        start_s, end_s = ((t_ns - self.clock.start_ns) / 1e9 for t_ns in (start_ns, end_ns))
        return self.curve.between(start_s, end_s)

    def _spend(self, seconds: float, watts: float) -> None:
        self.curve.switch(self.clock.seconds, watts)
        end_ns = self.clock() + round(seconds * 1e9)
        while self._next_sample_ns <= end_ns:
            self.clock.now_ns = max(self.clock.now_ns, self._next_sample_ns)
            self.recorder.sample_now()
            self._next_sample_ns += round(1e9 / self.recorder.hz * self._random.uniform(0.9, 1.1))
        self.clock.now_ns = end_ns
        self.curve.switch(self.clock.seconds, self.load.idle_watts)
        aim = (watts - self.load.idle_watts) / (self.load.limit_watts - self.load.idle_watts)
        self._warmth += (aim - self._warmth) * (1 - math.exp(-seconds / self.load.warm_s))
