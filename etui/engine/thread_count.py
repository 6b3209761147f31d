"""How many threads compute the next batch: a pure rule over the times of the last ones.

The threads of llama.cpp meet at a barrier after every operation, several hundred times a token.
When another process takes one of their cores, all of them wait for the one that is not scheduled:
on two cores, two threads are then slower than one. The rule removes a thread when steps become late
*and* their threads were not scheduled, and adds one when cores have been idle.

Measured on two cores next to a spinning process, Qwen2.5-Coder 1.5B: 2 threads take 0.7 to 2.8 s a
token, 1 thread 0.15 s, and a quiet machine 0.08 s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from etui.engine.library import choose_threads

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


def choose_thread_limits(spec: ModelSpec, config: Config, *, on_gpu: bool = False) -> ThreadLimits:
    """Choose the most threads of a model.

    The model's own numbers are more specific than that of config.yaml, so they replace it. Whether
    they adapt is left to config.yaml: with ``auto`` they do. With layers on a GPU they never do:
    threads that wait for it look like threads that wait for a core.

    Args:
        on_gpu: Whether layers of the model are on a GPU.
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


WINDOW_NS = 60e6
"""Time constant of the window: a disturbed step counts for a few short steps or one long one."""

PRESSED_CORES, PRESSED_NS = 0.3, 10e6
"""Cores, and CPU time within the window, that other processes took from these threads."""

TICK_NS = 10e6
"""Longest tick of a scheduler: the CPU time of a thread on another core may be that old.

After a pause, one tick for each of these threads may seem lost; then the clocks follow.
"""

CALM_CORES = 0.2
"""Below this loss, a step counts as undisturbed, and its time as typical."""

LATE = 1.2
"""A step is late from this multiple of the typical time on."""

FASTER, SLOWER_NS = 0.1, 1e9
"""Weight of a faster step in a typical time, and time constant for slower ones.

A typical time follows the growth of a context, but not the first steps next to another process,
whose loss does not fill the window yet.
"""

SPARE_CORES = 0.7
"""Idle cores that allow one more thread; short-lived processes use the rest."""

FAILED_NS = 400_000_000
"""A thread that is removed within this time of its addition was a failed attempt."""

FIRST_HOLD_NS, LONGEST_HOLD_NS = 250_000_000, 1_000_000_000
"""Waiting times after failed attempts: each doubles the last one, up to the second value.

With one look at the machine (``LOOK_NS`` of ``cpu_limits``) before the attempt, a core that
becomes free is used within 1.2 s.
"""

MOST_ROWS = 16
"""Rows up to which a batch decodes; the time of a longer one is per row, and it is a prefill."""

_TYPICAL = 32
"""Typical times to keep, the least recently used dropped first."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Times of one computed batch, in nanoseconds."""

    end_ns: int
    wall_ns: int
    cpu_ns: int  # CPU time that the process used for it, in all threads
    rows: int = 1  # Tokens in the batch
    spare_cores: float | None = None
    """Mean number of idle cores since the last look; None without a new look."""
    after_pause: bool = False  # Whether the threads slept before it


@dataclass(frozen=True, slots=True)
class ThreadCount:
    """The number of threads, and what the rule remembers, sums over the window first."""

    limit: int  # Most threads: what the process may run on
    count: int  # Threads of the next batch, 1 to `limit`
    why: str = ""  # Reason for the last change; empty before the first
    wall_ns: float = 0.0  # Durations of the steps
    lost_ns: float = 0.0  # CPU time that their threads did not get
    expected_ns: float = 0.0  # The longest durations that are not late
    lag_ns: float = 0.0  # CPU time in `lost_ns` that may be late and not lost
    typical: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """Time of an undisturbed batch by threads and rows (0 rows: of one row of a long one), the last
    used at the end."""
    raised_ns: int | None = None  # When a thread was added last
    spare_cores: float | None = None  # Idle cores at the last look; None before one with this count
    hold_ns: int = 0  # Waiting time after the last failed attempt
    not_before_ns: int = 0  # When the next thread may be added

    @property
    def lost_cores(self) -> float:
        """Cores that these threads needed and did not get, mean over the window."""
        return max(0.0, self.lost_ns / self.wall_ns) if self.wall_ns else 0.0


def start(limit: int) -> ThreadCount:
    """Begin with the most threads."""
    return ThreadCount(limit, limit)


def restart(state: ThreadCount, capacity_cores: float) -> ThreadCount:
    """Choose the count after a time in which the threads slept; typical times are kept.

    Args:
        capacity_cores: Cores that were idle or used by this process, mean over that time.
    """
    count = min(state.limit, max(1, math.floor(capacity_cores + 1 - SPARE_CORES)))
    if count == state.count:
        return state
    why = f"{capacity_cores:.1f} cores are free"
    return _forget_window(replace(state, count=count, why=why, hold_ns=0, not_before_ns=0))


def advance(state: ThreadCount, step: StepTimes) -> ThreadCount:
    """Return the state after one batch, with the number of threads for the next one."""
    if state.limit == 1 or step.wall_ns <= 0:
        return state
    if not state.wall_ns:
        state = _forget_window(state)
    elif step.after_pause:  # the window stays: a slow reader pauses after every token
        state = replace(state, lag_ns=(state.count - 1) * TICK_NS, spare_cores=None)
    state = _observe(state, step)
    if step.spare_cores is not None:
        state = replace(state, spare_cores=step.spare_cores)
    if state.count > 1 and _is_pressed(state):
        return _lower(state, step)
    if (
        state.count < state.limit
        and step.spare_cores is not None
        and step.spare_cores >= SPARE_CORES
        and step.end_ns >= state.not_before_ns
    ):
        return _raise(state, step, step.spare_cores)
    return state


def _observe(state: ThreadCount, step: StepTimes) -> ThreadCount:
    rows, wall_ns = _unit(step)
    known = state.typical.get((state.count, rows))
    fewer = state.typical.get((state.count - 1, rows))
    kept = math.exp(-step.wall_ns / WINDOW_NS)
    # Not cut off at 0: a CPU time that comes a tick late is made up for by the next step.
    lost_ns = state.count * step.wall_ns - step.cpu_ns
    expected = max(LATE * known, fewer or 0.0) if known else 0.0
    state = replace(
        state,
        wall_ns=state.wall_ns * kept + step.wall_ns,
        lost_ns=state.lost_ns * kept + lost_ns,
        lag_ns=state.lag_ns * kept,
        expected_ns=state.expected_ns * kept + expected * (step.wall_ns / wall_ns),
    )
    if state.lost_cores > CALM_CORES:
        return state
    if known is not None:
        weight = FASTER if wall_ns < known else -math.expm1(-step.wall_ns / SLOWER_NS)
        wall_ns = known + weight * (wall_ns - known)
    typical = dict(state.typical)
    typical.pop((state.count, rows), None)
    typical[state.count, rows] = wall_ns
    if len(typical) > _TYPICAL:
        del typical[next(iter(typical))]
    return replace(state, typical=typical)


def _unit(step: StepTimes) -> tuple[int, float]:
    """Return what a step is compared with, and its time: long batches compare per row."""
    if step.rows <= MOST_ROWS:
        return step.rows, float(step.wall_ns)
    return 0, step.wall_ns / step.rows


def _is_pressed(state: ThreadCount) -> bool:
    """Check whether the threads were not scheduled, and the steps late for it.

    Without typical times the first is enough. A step that a longer context made late has lost no
    CPU time, and a thread that waits for others without being late does no harm. Where cores are
    idle, no other process takes them: the threads waited for the disk, as in the first batch of a
    model.
    """
    return (
        (state.spare_cores is None or state.spare_cores < SPARE_CORES)
        and state.lost_ns - state.lag_ns >= PRESSED_NS
        and state.lost_cores >= PRESSED_CORES
        and state.wall_ns > state.expected_ns
    )


def follow(state: ThreadCount, leader: ThreadCount, end_ns: int) -> ThreadCount:
    """Return the state after the other kind of batch has changed its count.

    Both kinds run on the same cores: what a prefill found out also holds for the decode after it,
    and must not be paid for twice. Typical times stay its own. The limits may differ: a leader that
    adds a thread within a low limit takes none from the other kind, and one that removes a thread
    adds none.
    """
    is_raise = leader.raised_ns == end_ns
    count = (max if is_raise else min)(state.count, min(state.limit, leader.count))
    if count == state.count:
        return state
    changed = replace(
        state,
        count=count,
        why=leader.why,
        raised_ns=end_ns if count > state.count else None,
        hold_ns=leader.hold_ns,
        not_before_ns=leader.not_before_ns,
    )
    return _forget_window(changed)


def _lower(state: ThreadCount, step: StepTimes) -> ThreadCount:
    """Remove a thread for every core lost, at least one: a process takes half a core or more."""
    lost = state.lost_cores
    failed = state.raised_ns is not None and step.end_ns - state.raised_ns < FAILED_NS
    hold_ns = min(max(FIRST_HOLD_NS, 2 * state.hold_ns), LONGEST_HOLD_NS) if failed else 0
    changed = replace(
        state,
        count=max(1, state.count - max(1, round(lost))),
        why=f"{state.count} threads got {state.count - lost:.1f} cores",
        hold_ns=hold_ns,
        not_before_ns=step.end_ns + hold_ns,
    )
    return _forget_window(changed)


def _raise(state: ThreadCount, step: StepTimes, spare_cores: float) -> ThreadCount:
    more = max(1, math.floor(spare_cores + 1 - SPARE_CORES))
    changed = replace(
        state,
        count=min(state.limit, state.count + more),
        why=f"{spare_cores:.1f} cores were idle",
        raised_ns=step.end_ns,
    )
    return _forget_window(changed)


def _forget_window(state: ThreadCount) -> ThreadCount:
    """Forget what was measured with another count."""
    return replace(
        state,
        wall_ns=0.0,
        lost_ns=0.0,
        expected_ns=0.0,
        lag_ns=(state.count - 1) * TICK_NS,
        spare_cores=None,
    )
