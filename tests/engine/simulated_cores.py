"""A machine with some cores that other processes use, too: what its threads cost in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from etui.engine.cpu_limits import LOOK_NS
from etui.engine.thread_count import StepTimes, ThreadCount, ThreadLimits, advance
from etui.engine.thread_count import start as start_count

Placement = Literal["shared", "stacked"]


@dataclass
class SimulatedCores:
    """Threads that meet at barriers, beside spinning processes and etui's own front end.

    Attributes:
        cores: Number of cores.
        token_ns: Time of a one-row batch with one thread, nanoseconds.
        scaling: How much of the work the threads share, 0 to 1 (Amdahl).
        placement: Where threads find no core of their own, the scheduler lets one share with the
            other process (half speed at every barrier), or stacks two on one core (a barrier waits
            for whole time slices).
        busy: Cores on which other processes spin.
        front: CPUs that other processes of etui use: the threads get later, but no CPU is lost.
        noise: Idle time and CPU time are wrong by up to this many cores.
    """

    cores: int
    token_ns: float = 8.5e6
    scaling: float = 0.85
    placement: Placement = "shared"
    noise: float = 0.0
    busy: float = 0
    front: float = 0.0
    now_ns: int = 0
    own_ns: float = 0.0
    idle_ns: float = 0.0
    tokens: int = 0
    steps: int = 0
    changes: list[tuple[int, int, str]] = field(default_factory=list)
    _looked: tuple[int, float] = (0, 0.0)

    def start(self) -> ThreadCount:
        """The rule with as many threads as cores."""
        return start_count(ThreadLimits(self.cores, self.cores))

    def full_ns(self, threads: int, rows: int = 1) -> float:
        """Time of a batch on free cores."""
        cost = 1.0 if rows == 1 else 0.5 + 0.5 * rows
        return self.token_ns * cost * (1 - self.scaling + self.scaling / threads)

    def compute(self, threads: int, rows: int = 1) -> StepTimes:
        """Compute one batch."""
        crowded = max(0.0, threads + self.busy - self.cores)
        wall = self.full_ns(threads, rows)
        cpu = float(threads)
        if crowded and threads > 1:
            wall *= 1 + min(1.0, crowded) * (2.0 if self.placement == "shared" else 24.0)
            cpu -= min(threads - 1.0, crowded * (0.5 if self.placement == "shared" else 1.0))
        elif crowded:
            wall *= 1 + self.busy / self.cores if self.busy >= self.cores else 1.0
            cpu = min(1.0, self.cores / (self.busy + 1))
        beside = max(0.0, threads + self.busy + self.front - self.cores) - crowded
        wall *= 1 + 0.5 * beside
        cpu -= min(cpu / 2, beside)
        self.pass_time(wall, threads + self.busy + self.front)
        self.own_ns += (cpu + self.front) * wall
        self.tokens += rows
        self.steps += 1
        return StepTimes(self.now_ns, int(wall), rows, self._look())

    def pass_time(self, wall_ns: float, used_cores: float) -> None:
        """Let time pass in which some cores are used."""
        self.now_ns += int(wall_ns)
        self.idle_ns += max(0.0, self.cores - used_cores) * int(wall_ns)

    def _look(self) -> float | None:
        at_ns, free_ns = self._looked
        if self.now_ns - at_ns < LOOK_NS:
            return None
        now_ns = self.idle_ns + self.own_ns
        self._looked = self.now_ns, now_ns
        wrong = self.noise * (self.steps * 7919 % 1000 / 500 - 1)
        return min(max(0.0, (now_ns - free_ns) / (self.now_ns - at_ns) + wrong), float(self.cores))

    def run(self, state: ThreadCount, seconds: float, rows: int = 1) -> ThreadCount:
        """Decode under the rule for some seconds, and record its changes."""
        end_ns = self.now_ns + int(seconds * 1e9)
        while self.now_ns < end_ns:
            after = advance(state, self.compute(state.count(rows), rows))
            if after.most != state.most:
                self.changes.append((self.now_ns, after.most, after.why))
            state = after
        return state

    def run_fixed(self, threads: int, seconds: float, rows: int = 1) -> None:
        """Decode with a fixed count."""
        end_ns = self.now_ns + int(seconds * 1e9)
        while self.now_ns < end_ns:
            self.compute(threads, rows)
