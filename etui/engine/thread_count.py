"""How many threads compute the next batch: a rule over the times of the last ones, and its use.

The threads of llama.cpp meet at a barrier after every operation, several hundred times a token.
When another program takes one of their cores, all of them wait for the one that is not scheduled:
on two cores, two threads are then slower than one. So when other programs take cores, the rule
tries as many threads as are left, and keeps them if the batches became faster; when the cores are
free again, it tries more. An attempt that gains nothing is taken back, and the next one waits.

Measured on two cores next to a spinning process, Qwen2.5-Coder 1.5B: 2 threads take 0.7 to 2.8 s a
token, 1 thread 0.15 s, and a quiet machine 0.08 s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from etui.engine.cpu_limits import LOOK_NS, FreeCpus
from etui.engine.library import choose_threads
from etui.events import ThreadsChanged

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class ThreadLimits:
    """The most threads that compute a model."""

    decode: int  # of short batches
    prefill: int  # of long batches
    adapt: bool = True  # Whether fewer are used while other processes take the cores
    note: str = ""  # Why a limit is lower than asked for; empty if none is

    @property
    def most(self) -> int:
        """The most threads of either kind of batch."""
        return max(self.decode, self.prefill)


def choose_thread_limits(spec: ModelSpec, config: Config, *, on_gpu: bool = False) -> ThreadLimits:
    """Choose the most threads of a model.

    The model's own numbers are more specific than that of config.yaml, so they replace it. Whether
    they adapt is left to config.yaml: with ``auto`` they do. With layers on a GPU they never do:
    threads that wait for it look like threads that wait for a core.
    """
    decode = config.threads if spec.threads is None else spec.threads
    prefill = decode if spec.prefill_threads is None else spec.prefill_threads
    asked = {"threads": decode, "prefill_threads": prefill}
    most = {number: choose_threads(number, config.sysfs_dir) for number in {*asked.values()}}
    limits = {name: most[number] for name, number in asked.items()}
    lowered = [
        (number, limits[name], name)
        for name, number in asked.items()
        if number is not None and number > limits[name]
    ]
    note = ""
    if lowered:
        number, limit, name = max(lowered, key=lambda each: each[0])
        note = f"this process may run on {limit} of the {number} CPUs that `{name}` needs"
    adapt = config.threads is None and not on_gpu
    return ThreadLimits(limits["threads"], limits["prefill_threads"], adapt, note)


MOST_ROWS = 16
"""Rows up to which a batch decodes; a longer one is a prefill."""

TAKEN_CORES = 0.4
"""What other programs may take of a core before it counts as taken."""

LONGEST_TRIAL_NS = 1_000_000_000
"""Time of batches after which an attempt is kept if none had a length that was measured before."""

LEAST_GAIN = 1.1
"""Fewer threads are kept from this speed-up on."""

LEAST_RAISE = 0.95
"""More threads are kept from this speed-up on: on a quiet machine the most are right."""

LATE = 1.3
"""Batches that take this multiple of those before a failed attempt are a reason for another one."""

RELAPSE_NS = 2_000_000_000
"""Threads that are removed within this time of their addition were added too early."""

FIRST_HOLD_NS, LONGEST_HOLD_NS = 1_000_000_000, 16_000_000_000
"""Waiting times after failed attempts: each doubles the last one, up to the second value."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Times of one computed batch, in nanoseconds."""

    end_ns: int
    wall_ns: int
    rows: int = 1  # Tokens in the batch
    free_cores: float | None = None
    """Mean number of cores that other programs left since the last look; None without a look."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Times of batches with one number of threads, by their length.

    Attributes:
        times: By the rows of a short batch: the number of batches, and their nanoseconds. By the
            magnitude of the rows of a long one, negative: the number of rows, and nanoseconds.
    """

    times: Mapping[int, tuple[int, float]] = field(default_factory=dict)

    def add(self, step: StepTimes) -> Pace:
        """Add a batch."""
        length, units = step.rows, 1
        if step.rows > MOST_ROWS:
            length, units = -step.rows.bit_length(), step.rows
        before, total_ns = self.times.get(length, (0, 0.0))
        return Pace({**self.times, length: (before + units, total_ns + step.wall_ns)})

    def compare(self, before: Pace) -> tuple[float, float]:
        """Return the nanoseconds of the batches of a known length: at the pace before, and now."""
        expected_ns = actual_ns = 0.0
        for length, (units, total_ns) in self.times.items():
            if length in before.times:
                units_before, total_before_ns = before.times[length]
                expected_ns += units * total_before_ns / units_before
                actual_ns += total_ns
        return expected_ns, actual_ns


@dataclass(frozen=True, slots=True)
class Trial:
    """An attempt with another number of threads."""

    most_before: int
    before: Pace  # Of the batches right before it
    wall_ns: int = 0  # Time of all batches in it


@dataclass(frozen=True, slots=True)
class ThreadCount:
    """The numbers of threads, and what the rule remembers."""

    limits: ThreadLimits
    most: int  # Most threads of either kind of batch, for now
    why: str = ""  # Reason for the last change; empty before the first
    pace: Pace = field(default_factory=Pace)  # Since the last look or change
    trial: Trial | None = None
    raised_ns: int | None = None  # When threads were added last
    hold_ns: int = 0  # Waiting time after the last failed attempt
    not_before_ns: int = 0  # When the next attempt may begin
    failed: Pace = field(default_factory=Pace)
    """Right before the last attempt with fewer threads that failed."""

    @property
    def decode(self) -> int:
        """Threads of the next short batch."""
        return min(self.limits.decode, self.most)

    @property
    def prefill(self) -> int:
        """Threads of the next long batch."""
        return min(self.limits.prefill, self.most)

    def count(self, rows: int) -> int:
        """Return the threads of a batch."""
        return self.decode if rows <= MOST_ROWS else self.prefill


def start(limits: ThreadLimits) -> ThreadCount:
    """Begin with the most threads."""
    return ThreadCount(limits, limits.most)


def restart(state: ThreadCount, free_cores: float) -> ThreadCount:
    """Choose the numbers after a time in which nothing was computed."""
    begun = start(state.limits)
    most = _fit(state.limits, free_cores)
    return begun if most == begun.most else replace(begun, most=most, why=_describe(free_cores))


def rest(state: ThreadCount) -> ThreadCount:
    """Forget the times before a pause."""
    return state if state.trial else replace(state, pace=Pace())


def advance(state: ThreadCount, step: StepTimes) -> ThreadCount:
    """Return the state after one batch, with the numbers of threads for the next one."""
    if state.limits.most == 1 or step.wall_ns <= 0:
        return state
    if state.trial is not None:
        return _judge(state, state.trial, step)
    pace = state.pace.add(step)
    if step.free_cores is None:
        return replace(state, pace=pace)
    looked = replace(state, pace=Pace())
    most = _fit(state.limits, step.free_cores)
    tried = replace(
        looked, most=most, why=_describe(step.free_cores), trial=Trial(state.most, pace)
    )
    if tried.count(step.rows) == state.count(step.rows):
        return looked
    if step.end_ns < state.not_before_ns:
        # The wait after a failed attempt must not hold for a program that began since then.
        before_ns, now_ns = pace.compare(state.failed)
        if most > state.most or now_ns <= LATE * before_ns:
            return looked
    return tried


def _judge(state: ThreadCount, trial: Trial, step: StepTimes) -> ThreadCount:
    """Keep or take back an attempt at the next look, if batches of it can be compared."""
    taken_back = replace(state, most=trial.most_before, trial=None, pace=Pace())
    trial = replace(trial, wall_ns=trial.wall_ns + step.wall_ns)
    pace = state.pace
    if taken_back.count(step.rows) != state.count(step.rows):
        pace = pace.add(step)
    before_ns, now_ns = pace.compare(trial.before)
    if step.free_cores is None:
        return replace(state, trial=trial, pace=pace)
    lowers = state.most < trial.most_before
    if not now_ns and trial.wall_ns < LONGEST_TRIAL_NS:
        # Its reason may be gone before anything could be compared.
        if lowers and _fit(state.limits, step.free_cores) >= trial.most_before:
            return replace(taken_back, why=_describe(step.free_cores))
        return replace(state, trial=trial, pace=pace)
    if now_ns and before_ns < (LEAST_GAIN if lowers else LEAST_RAISE) * now_ns:
        most = _fit(state.limits, step.free_cores)
        if lowers and most < state.most:  # the others got more as soon as they could
            why = _describe(step.free_cores)
            return replace(state, most=most, why=why, trial=replace(trial, wall_ns=0), pace=Pace())
        count = state.count(step.rows)
        why = f"{count} thread{'s' * (count > 1)} gained nothing"
        failed = trial.before if lowers else state.failed
        return _wait(replace(taken_back, why=why, failed=failed), step.end_ns)
    kept = replace(state, trial=None, pace=Pace())
    if not lowers:
        return replace(kept, raised_ns=step.end_ns)
    if state.raised_ns is not None and step.end_ns - state.raised_ns < RELAPSE_NS:
        return _wait(kept, step.end_ns)
    return replace(kept, hold_ns=0, not_before_ns=0)


def _wait(state: ThreadCount, now_ns: int) -> ThreadCount:
    """Let the next attempt wait, twice as long as the last time if that was not long ago."""
    repeated = now_ns < state.not_before_ns + LONGEST_HOLD_NS
    hold_ns = min(max(FIRST_HOLD_NS, 2 * state.hold_ns * repeated), LONGEST_HOLD_NS)
    return replace(state, hold_ns=hold_ns, not_before_ns=now_ns + hold_ns)


def _fit(limits: ThreadLimits, free_cores: float) -> int:
    """Return the most threads that have a core each."""
    return min(limits.most, max(1, math.floor(free_cores + TAKEN_CORES)))


def _describe(free_cores: float) -> str:
    return f"{free_cores:.1f} cores are free"


_REST_NS = 1_000_000_000
"""Time without a batch after which the use of the CPUs meanwhile says what is free."""

_KEPT_CHANGES = 1000
"""Changes to keep for a caller that does not collect them."""


class ThreadControl:
    """The decode and the prefill thread count of a context, and of those that draft for it.

    llama.cpp has a count for batches of one token and one for all others. Several votes or a draft
    to verify are short batches and run with the decode count.

    Args:
        free: What other programs leave of the CPUs; None measures it for this process alone.
    """

    def __init__(
        self,
        limits: ThreadLimits,
        free: FreeCpus | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.limits = limits
        self.adapts = limits.adapt and limits.most > 1  # whether they follow the machine's load
        self._free = free or FreeCpus()
        self._clock_ns = clock_ns
        self._count = start(limits)
        self._start_ns = self._end_ns = 0  # of the last batch
        self._wanted_ns = 0.0  # CPU time of all threads in the batches since the last look
        self._changes: list[ThreadsChanged] = []
        if self.adapts:
            self._look_from_now()

    def _look_from_now(self) -> None:
        self._end_ns = self._clock_ns()
        self._wanted_ns = 0.0
        self._free.begin(self._end_ns)

    def set_limits(self, limits: ThreadLimits) -> None:
        """Change the limits between two answers, and begin with them; the model stays in memory.

        Nothing happens if they are what they were: then the counts stay as the load left them.
        """
        if limits == self.limits:
            return
        adapted, self.limits = self.adapts, limits
        self.adapts = limits.adapt and limits.most > 1
        if self.adapts and not adapted:
            self._look_from_now()
        self._count = start(limits)

    @property
    def decode_threads(self) -> int:
        """Threads of the next short batch."""
        return self._count.decode

    @property
    def prefill_threads(self) -> int:
        """Threads of the next long batch."""
        return self._count.prefill

    def counts(self, rows: int) -> tuple[int, int]:
        """Return the threads for batches of one token and of all others, before one of ``rows``."""
        return self._count.decode, self._count.count(rows)

    def restart(self) -> None:
        """Choose the counts by the CPUs that were free since the last batch or the creation."""
        if not self.adapts or self._clock_ns() - self._end_ns < LOOK_NS:
            return
        self._end_ns = self._clock_ns()
        self._wanted_ns = 0.0
        free = self._free.look_after_rest(self._end_ns)
        if free is not None:
            self._count = restart(self._count, free)

    def start_batch(self) -> None:
        """Read the clock right before a batch is computed."""
        if not self.adapts:
            return
        self._start_ns = self._clock_ns()
        if self._start_ns - self._end_ns >= _REST_NS:  # its mean would hide what is free now
            self._look_from_now()
            self._count = rest(self._count)

    def end_batch(self, rows: int, *, failed: bool) -> None:
        """Choose the counts of the next batch by the one that has ended now."""
        if not self.adapts:
            return
        self._end_ns = self._clock_ns()
        if failed:
            return
        wall_ns = self._end_ns - self._start_ns
        self._wanted_ns += wall_ns * self._count.count(rows)
        before = self._count
        free = self._free.look(self._end_ns, self._wanted_ns)
        if free is not None:
            self._wanted_ns = 0.0
        step = StepTimes(self._end_ns, wall_ns, rows, free)
        self._count = advance(before, step)
        if (before.decode, before.prefill) != (self._count.decode, self._count.prefill):
            self._record(self._count.why)

    def begin_answer(self) -> None:
        """Choose the counts after a pause, and record them where they are not the limit.

        A long prefill next to a busy core would find out within a batch, which can take seconds.
        """
        self._changes.clear()
        if self._clock_ns() - self._end_ns >= _REST_NS:
            self.restart()
        limits, count = self.limits, self._count
        if limits.note:
            self._record(limits.note)
        elif (count.decode, count.prefill) != (limits.decode, limits.prefill):
            self._record(count.why)

    def take_changes(self) -> tuple[ThreadsChanged, ...]:
        """Return the changes since the last call, and forget them."""
        changes = tuple(self._changes)
        self._changes.clear()
        return changes

    def _record(self, why: str) -> None:
        count = self._count
        change = ThreadsChanged(self._clock_ns(), count.decode, count.prefill, why)
        self._changes = [*self._changes[-_KEPT_CHANGES:], change]
