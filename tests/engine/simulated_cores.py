"""A machine with some cores, on which other processes spin: what its threads cost in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from etui.engine.cpu_limits import LOOK_NS
from etui.engine.thread_count import StepTimes, ThreadCount, advance

Placement = Literal["shared", "stacked"]


@dataclass
class SimulatedCores:
    """Threads that meet at barriers, beside spinning processes.

    Attributes:
        cores: Number of cores.
        token_ns: Time of a one-row batch with one thread, nanoseconds.
        scaling: How much of the work the threads share, 0 to 1 (Amdahl).
        placement: Where threads find no core of their own, the scheduler lets one share with the
            other process (half speed at every barrier), or stacks two on one core (a barrier waits
            for whole time slices).
        tick_ns: The CPU time of threads on other cores is up to a tick old.
    """

    cores: int
    token_ns: float = 8.5e6
    scaling: float = 0.85
    placement: Placement = "shared"
    tick_ns: int = 0
    busy: int = 0
    now_ns: int = 0
    cpu_ns: float = 0.0
    idle_ns: float = 0.0
    tokens: int = 0
    steps: int = 0
    changes: list[tuple[int, int, str]] = field(default_factory=list)
    _counted_ns: float = 0.0
    _looked: tuple[int, float] = (0, 0.0)

    def full_ns(self, threads: int, rows: int = 1) -> float:
        """Time of a batch on free cores."""
        cost = 1.0 if rows == 1 else 0.5 + 0.5 * rows
        return self.token_ns * cost * (1 - self.scaling + self.scaling / threads)

    def compute(self, threads: int, rows: int = 1) -> StepTimes:
        """Compute one batch."""
        crowded = max(0, threads + self.busy - self.cores)
        wall = self.full_ns(threads, rows)
        cpu = threads * wall
        if crowded and threads > 1:
            wall *= 3.0 if self.placement == "shared" else 25.0
            lost = min(threads - 1.0, crowded * (0.5 if self.placement == "shared" else 1.0))
            cpu = (threads - lost) * wall
        elif crowded:
            wall *= 1 + self.busy / self.cores if self.busy >= self.cores else 1.0
            cpu = min(wall, threads * wall)
        idle = max(0.0, self.cores - threads - self.busy) * wall
        self.now_ns += int(wall)
        self.cpu_ns += cpu
        self.idle_ns += idle
        self.tokens += rows
        self.steps += 1
        counted = self.cpu_ns - (self.steps * 7919 % 1000) / 1000 * self.tick_ns
        counted, last = max(counted, self._counted_ns), self._counted_ns
        self._counted_ns = counted
        return StepTimes(self.now_ns, int(wall), int(counted - last), rows, self._look())

    def _look(self) -> float | None:
        at_ns, idle_ns = self._looked
        if self.now_ns - at_ns < LOOK_NS:
            return None
        self._looked = self.now_ns, self.idle_ns
        return (self.idle_ns - idle_ns) / (self.now_ns - at_ns)

    def run(self, state: ThreadCount, seconds: float, rows: int = 1) -> ThreadCount:
        """Decode under the rule for some seconds, and record its changes."""
        end_ns = self.now_ns + int(seconds * 1e9)
        while self.now_ns < end_ns:
            after = advance(state, self.compute(state.count, rows))
            if after.count != state.count:
                self.changes.append((self.now_ns, after.count, after.why))
            state = after
        return state

    def run_fixed(self, threads: int, seconds: float, rows: int = 1) -> None:
        """Decode with a fixed count."""
        end_ns = self.now_ns + int(seconds * 1e9)
        while self.now_ns < end_ns:
            self.compute(threads, rows)

    def joules_per_token(self, idle_watts: float, core_watts: float) -> float:
        """Joules of all cores that were not idle, and of the rest of the machine."""
        used_ns = self.cores * self.now_ns - self.idle_ns
        return (idle_watts * self.now_ns + core_watts * used_ns) / 1e9 / self.tokens
