"""A simulated machine as the rig of a sweep: noisy visits of settings with known costs."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from etui.sweep.blocks import PhaseCost, Visit
from etui.sweep.rig import SettingFailed
from etui.sweep.setting import Setting
from etui.testing.sweep_machines import OUTPUT_TOKENS, PROMPT_TOKENS, SimulatedMachine

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SimulatedNoise:
    """What disturbs the visits of a simulated machine.

    Attributes:
        joules, seconds: Standard deviation of the log of a visit's joules at equal seconds, and
            of its seconds; slower visits also cost more.
    """

    joules: float = 0.01
    seconds: float = 0.005
    uneven: float = 0.3
    """Standard deviation of the log of these, by setting: some settings are noisier."""
    warm_up: float = 0.03  # Rise of joules and seconds from the cold machine, as a share
    warm_up_s: float = 240.0  # Time constant of the rise
    wander: float = 0.01  # Standard deviation of a slow random drift
    wander_s: float = 600.0  # Its correlation time
    outliers: float = 0.01  # Probability that a visit is slower by 5 to 40 % without being noticed
    disturbances: float = 0.003  # Probability that a visit is noticed to be disturbed
    quantum: float = 0.1  # Joules of one step of the meter, over a whole visit


QUIET = SimulatedNoise(0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""No noise at all: figures are the truth."""


def draw_noise(rng: random.Random) -> SimulatedNoise:
    """Draw a noise between that of a quiet server and that of a laptop in use."""
    return SimulatedNoise(
        joules=math.exp(rng.uniform(math.log(0.003), math.log(0.02))),
        seconds=math.exp(rng.uniform(math.log(0.002), math.log(0.012))),
        uneven=rng.uniform(0.1, 0.4),
        warm_up=rng.uniform(0.0, 0.06),
        warm_up_s=rng.uniform(100.0, 600.0),
        wander=rng.uniform(0.0, 0.02),
        wander_s=rng.uniform(300.0, 1200.0),
        outliers=rng.uniform(0.0, 0.02),
        disturbances=rng.uniform(0.0, 0.005),
        quantum=rng.choice((0.001, 0.1, 0.5)),
    )


@dataclass(slots=True)
class SimulatedRig:
    """Measures a simulated machine on a simulated clock; implements ``etui.sweep.rig.Rig``."""

    machine: SimulatedMachine
    noise: SimulatedNoise = field(default_factory=SimulatedNoise)  # What disturbs the visits
    seed: int = 0
    failing: Mapping[str, str] = field(default_factory=dict)
    """Key of a setting -> why it cannot run."""
    unmeasured: frozenset[str] = frozenset()  # Keys of settings whose joules cannot be measured
    window_s: float = 2.0  # Least seconds of a phase; a shorter one is repeated
    overhead_s: float = 4.0  # Seconds of load, warm-up and cool-down of each visit
    now_s: float = 0.0  # The clock, seconds
    _rng: random.Random = field(init=False, repr=False)
    _wandered: float = field(init=False, default=0.0, repr=False)
    _wandered_at_s: float = field(init=False, default=0.0, repr=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(f"rig {self.seed}")
        self._wandered = self._rng.gauss(0, self.noise.wander)

    def clock(self) -> float:
        """Return the simulated time, seconds."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let simulated time pass."""
        self.now_s += seconds

    def visit(self, setting: Setting, copy: int) -> Visit:
        """Measure a setting; the clock goes on as long as it takes.

        Raises:
            SettingFailed: The setting is one of ``failing``.
        """
        if setting.key in self.failing:
            raise SettingFailed(self.failing[setting.key])
        truth, noise, rng = self.machine.costs[setting], self.noise, self._rng
        self.now_s += self.overhead_s
        start_s = self.now_s
        drift = self._drift()
        uneven = math.exp(noise.uneven * random.Random(f"{self.seed} {setting.key}").gauss(0, 1))
        slower = drift + rng.gauss(0, noise.seconds * uneven)
        costlier = slower + drift + rng.gauss(0, noise.joules * uneven)
        if rng.random() < noise.outliers:
            outlier = math.log1p(rng.uniform(0.05, 0.4))
            slower, costlier = slower + outlier, costlier + outlier
        disturbed = rng.random() < noise.disturbances
        phases = []
        for tokens, joules, seconds in (
            (PROMPT_TOKENS, truth.prefill_joules, truth.prefill_seconds),
            (OUTPUT_TOKENS, truth.decode_joules, truth.decode_seconds),
        ):
            taken = seconds * math.exp(slower)
            repeats = max(1, math.ceil(self.window_s / taken))
            self.now_s += repeats * taken
            phases.append(self._phase(tokens, joules * math.exp(costlier), taken, repeats))
        prefill, decode = phases
        if setting.key in self.unmeasured:
            prefill, decode = (
                PhaseCost(phase.tokens, None, None, phase.seconds) for phase in phases
            )
        return Visit(
            setting.key,
            copy,
            answers=max(1, math.ceil(self.window_s / truth.decode_seconds)),
            prefill=prefill,
            decode=decode,
            start_ns=round(start_s * _NS),
            end_ns=round(self.now_s * _NS),
            kind=None if setting.key in self.unmeasured else "counter",
            disturbed="another program used the CPU" if disturbed else "",
        )

    def _phase(self, tokens: int, joules: float, seconds: float, repeats: int) -> PhaseCost:
        quantum = self.noise.quantum
        if quantum:
            # The counter is somewhere within a step when the phase begins.
            begin = self._rng.random()
            steps = math.floor(begin + joules * repeats / quantum)
            joules = steps * quantum / repeats
        return PhaseCost(float(tokens), joules, quantum / repeats, seconds)

    def _drift(self) -> float:
        """Return the log of how much slower the machine is now than when cold."""
        noise = self.noise
        passed = self.now_s - self._wandered_at_s
        kept = math.exp(-passed / noise.wander_s)
        self._wandered = self._wandered * kept + self._rng.gauss(
            0, noise.wander * math.sqrt(1 - kept * kept)
        )
        self._wandered_at_s = self.now_s
        warm = noise.warm_up * (1 - math.exp(-self.now_s / noise.warm_up_s))
        return (warm + self._wandered) / 2
