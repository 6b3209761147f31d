"""A machine with a known loss of its power supply, and a slow wall meter, on a simulated clock."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from etui.calibration.wall import Load, WallRun
from etui.energy.recorder import Recorder
from etui.energy.types import BaseSource, Channel, Kind, Reading
from etui.energy.wall_model import WallCalibration
from etui.measure.progress import watch_nothing
from tests.support.devices import FakeClock

HZ = 4.0
TABLE_LOADS = (0.0, 0.02, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Supply:
    """A power supply: its loss as shares of what it is rated for.

    ``table`` has the loss at ``TABLE_LOADS`` instead, with straight lines between.
    """

    rated_watts: float = 400.0
    fixed: float = 0.012
    linear: float = 0.05
    square: float = 0.05
    table: tuple[float, ...] = ()

    def wall_watts(self, watts: float) -> float:
        load = watts / self.rated_watts
        if not self.table:
            return watts + self.rated_watts * (
                self.fixed + (self.linear + self.square * load) * load
            )
        at = next(
            (i for i, end in enumerate(TABLE_LOADS[1:], 1) if load <= end), len(self.table) - 1
        )
        low, high = TABLE_LOADS[at - 1], TABLE_LOADS[at]
        share = (load - low) / (high - low)
        loss = self.table[at - 1] + (self.table[at] - self.table[at - 1]) * share
        return watts + self.rated_watts * loss


@dataclass(frozen=True, slots=True)
class Plug:
    """A wall meter."""

    resolution_watts: float = 0.1
    period_s: float = 1.0
    delay_s: float = 0.0
    time_constant_s: float = 0.5
    noise: float = 0.0  # Deviation of a reading, relative
    gain: float = 1.0
    relative_error: float = 0.0


@dataclass
class Machine:
    """The machine; ``sleep`` moves its clock.

    Args:
        loads: Name of a load -> inner watts of CPU and GPU; the first is idle.
        other: Seconds -> watts of another program, inside and of what has no channel.
    """

    loads: Mapping[str, tuple[float, float]]
    supply: Supply = field(default_factory=Supply)
    plug: Plug = field(default_factory=Plug)
    base_watts: float = 20.0
    cpu_share: float = 0.0  # Watts without a channel that each watt of the CPU brings with it
    wobble: float = 0.01  # Deviation of the inner power in a quarter of a second, relative
    other: Callable[[float], tuple[float, float]] = lambda seconds: (0.0, 0.0)
    kind: Kind = Kind.COUNTER
    seed: int = 0

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.random = random.Random(self.seed)
        self.cpu_watts, self.gpu_watts = self.loads[next(iter(self.loads))]
        self.steady = self.cpu_watts, self.gpu_watts
        self.cpu_joules = self.gpu_joules = self.wall_joules = 0.0
        wall = self.true_watts(*self.steady)
        self._late = wall
        self._delayed = deque([wall], maxlen=1 + round(self.plug.delay_s * HZ))
        self._shown = wall
        self._shown_s = -math.inf
        self.has_gpu = any(gpu for _, gpu in self.loads.values())
        self.meter = Channel(
            "wall:plug", "wall", Kind.INTEGRATED,
            period_s=2.5, relative_error=self.plug.relative_error,
        )  # fmt: skip
        self.recorder = Recorder(
            [_Inside(self), _Wall(self)], hz=HZ, clock=self.clock, sleep=self.sleep,
            keep_seconds=7200, estimate="always",
        )  # fmt: skip

    def true_watts(self, cpu: float, gpu: float, beside: float = 0.0) -> float:
        inside = self.base_watts + cpu * (1 + self.cpu_share) + gpu + beside
        return self.supply.wall_watts(inside)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(max(1, round(seconds * HZ))):
            inside, beside = self.other(self.clock.seconds)
            cpu, gpu = (
                watts * max(0.0, 1 + self.random.gauss(0.0, self.wobble)) for watts in self.steady
            )
            cpu += inside
            step_s = 1 / HZ
            wall = self.true_watts(cpu, gpu, beside)
            self.cpu_joules += cpu * step_s
            self.gpu_joules += gpu * step_s
            self.wall_joules += wall * step_s
            constant_s = self.plug.time_constant_s
            keep = math.exp(-step_s / constant_s) if constant_s else 0.0
            self._late = keep * self._late + (1 - keep) * wall
            self._delayed.append(self._late)
            self.clock.advance(step_s)
            now_s = self.clock.seconds
            if now_s - self._shown_s >= self.plug.period_s - 1e-6:
                reading = self._delayed[0] * self.plug.gain
                reading *= 1 + self.random.gauss(0.0, self.plug.noise)
                step = self.plug.resolution_watts
                self._shown, self._shown_s = round(reading / step) * step, now_s
            self.recorder.sample_now()

    @contextmanager
    def hold(self, load: Load) -> Iterator[None]:
        """Run a load of this name."""
        self.steady = self.loads[load.name]
        yield
        self.steady = self.loads[next(iter(self.loads))]

    def calibrate(self, rounds: int = 5, seed: int = 0) -> WallCalibration:
        """Calibrate with the real fit and the real windows."""
        most = max(self.loads, key=lambda name: sum(self.loads[name]))
        loads = [Load(name, (_work,) * (1 + (name == most))) for name in self.loads]
        loads[0] = Load(loads[0].name)
        run = WallRun(
            self.recorder, self.meter, loads, watch_nothing,
            hold=self.hold, clock=self.clock, sleep=self.sleep,
        )  # fmt: skip
        self.sleep(2.0)
        return run.measure(rounds, seed)

    def run_turn(self, parts: Sequence[tuple[float, float, float]]) -> tuple[int, int, float]:
        """Run (seconds, CPU watts, GPU watts) in turn; return the ends and the wall joules."""
        self.sleep(1.0)
        start_ns, before = self.clock(), self.wall_joules
        for seconds, cpu, gpu in parts:
            self.steady = cpu, gpu
            self.sleep(seconds)
        end_ns, joules = self.clock(), self.wall_joules - before
        self.steady = self.loads[next(iter(self.loads))]
        self.sleep(1.0)
        return start_ns, end_ns, joules


def _work(stop: object) -> None:
    """Stand for a worker; the machine holds the load."""


class _Inside(BaseSource):
    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.clock)
        self.machine = machine
        if machine.kind is Kind.ESTIMATE:
            self.add(
                Channel(
                    "estimate:cpu",
                    "estimate:cpu",
                    Kind.ESTIMATE,
                    relative_error=0.4,
                    period_s=0.001,
                    idle_watts=10.0,
                )
            )
        else:
            self.add(Channel("package:0", "package:0", machine.kind, period_s=0.001))
        if machine.has_gpu:
            self.add(Channel("gpu:A", "gpu:A", Kind.COUNTER, period_s=0.1))

    def read_channel(self, channel: Channel) -> Reading:
        joules = self.machine.gpu_joules if channel.id == "gpu:A" else self.machine.cpu_joules
        return Reading(self.clock(), round(joules, 4))


class _Wall(BaseSource):
    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.clock)
        self.machine = machine
        self.add(machine.meter)

    def read_channel(self, channel: Channel) -> Reading:
        return Reading(self.clock(), None, self.machine._shown)


def make_machine(seed: int, exact: bool = False) -> Machine:
    """Make a random machine: inner 10-500 W, base 5-80 W, a plug of 0.1-1 W and 0.5-10 s.

    Args:
        exact: Whether the scale of the plug has no error.
    """
    draw = random.Random(seed)
    most = math.exp(draw.uniform(math.log(10.0), math.log(500.0)))
    has_gpu = most > 60 and draw.random() < 0.5
    cpu = most * (draw.uniform(0.2, 0.5) if has_gpu else 1.0)
    gpu = (most - cpu) if has_gpu else 0.0
    idle, idle_gpu = cpu * draw.uniform(0.08, 0.3), gpu * draw.uniform(0.05, 0.15)
    shares = {
        "1 thread": 0.3,
        "2 threads": 0.45,
        "4 threads": 0.7,
        "6 threads": 0.85,
        "8 threads": 1.0,
        "decode": draw.uniform(0.5, 0.9),
        "prefill": draw.uniform(0.7, 1.0),
    }
    loads = {"idle": (idle, idle_gpu)}
    for name, share in shares.items():
        on_gpu = has_gpu and name in ("decode", "prefill")
        busy = 0.15 if on_gpu else share
        gpu_busy = (share if name == "decode" else 1.0) if on_gpu else 0.0
        loads[name] = idle + (cpu - idle) * busy, idle_gpu + (gpu - idle_gpu) * gpu_busy
    if has_gpu:
        loads["prefill and 4 threads"] = idle + (cpu - idle) * 0.7, gpu
    base = draw.uniform(5.0, 80.0)
    rated = (most + base) * draw.uniform(1.3, 3.0)
    table: tuple[float, ...] = ()
    if draw.random() < 0.3:  # efficiencies as 80 PLUS states them, with straight lines between
        best = draw.uniform(0.85, 0.94)
        sizes = zip(TABLE_LOADS[2:], (best - 0.05, best - 0.01, best, best - 0.02), strict=True)
        losses = [load * (1 / share - 1) for load, share in sizes]
        table = (0.6 * losses[0], 0.68 * losses[0], *losses)
    other_s = draw.uniform(100.0, 1500.0)
    until_s = other_s + draw.uniform(20.0, 200.0)
    inside, beside = most * draw.uniform(0.03, 0.2), draw.uniform(0.0, 2.0)
    is_disturbed = draw.random() < 0.4

    def other(seconds: float) -> tuple[float, float]:
        return (inside, beside) if is_disturbed and other_s < seconds < until_s else (0.0, 0.0)

    lag_s = draw.uniform(0.5, 10.0)
    delayed = draw.choice((0.0, 0.0, 0.5, 1.0))
    plug = Plug(
        resolution_watts=draw.choice((0.1, 0.2, 0.5, 1.0)),
        period_s=draw.choice((0.5, 1.0, 2.0, 5.0, 10.0)),
        delay_s=lag_s * delayed,
        time_constant_s=lag_s * (1 - delayed),
        noise=draw.uniform(0.0, 0.003),
        gain=1.0 if exact else 1 + draw.uniform(-0.01, 0.01),
        relative_error=0.0 if exact else 0.01,
    )
    supply = Supply(
        rated, draw.uniform(0.005, 0.02), draw.uniform(0.02, 0.08), draw.uniform(0.02, 0.08), table
    )
    return Machine(
        loads, supply, plug, base, draw.uniform(0.0, 0.15), draw.uniform(0.002, 0.02), other,
        seed=seed,
    )  # fmt: skip
