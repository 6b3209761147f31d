"""A simulated GPU that idles: cold, with the context of a process, or with a model in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass

from etui.energy.recorder import Recorder
from tests.support.devices import FakeClock, FakeDevice, Sensor
from tests.support.gpu import Plateaus
from tests.support.play import sample


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Watts of an idle GPU by what is on it, and while a model is loaded."""

    cold: float = 10.0
    context: float = 30.0
    loaded: float = 45.0
    loading: float = 150.0


class IdlingGpu:
    """A GPU, its clock, and the recorder that measures it.

    Args:
        power: Its watts.
        sensor: How it reports energy and power; None is a counter refreshed every 100 ms.
    """

    def __init__(self, power: IdlePower | None = None, sensor: Sensor | None = None) -> None:
        self.power = power or IdlePower()
        self.clock = FakeClock()
        self.curve = Plateaus(self.power.cold)
        self.recorder = Recorder([FakeDevice(self.curve, self.clock, sensor)], clock=self.clock)
        self._random = random.Random(1)

    def switch(self, watts: float) -> None:
        """Set the power from now on."""
        self.curve.switch(self.clock.seconds, watts)

    def wait(self, seconds: float) -> None:
        """Let time pass while the recorder samples."""
        sample(self.recorder, self.clock, seconds, self._random)
