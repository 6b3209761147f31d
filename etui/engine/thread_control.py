"""Set the thread counts of a context between two batches, and record every change."""

from __future__ import annotations

import time
from collections.abc import Callable

from etui.engine import thread_count
from etui.engine.cpu_limits import LOOK_NS, FreeCpus
from etui.engine.thread_count import StepTimes, ThreadLimits
from etui.events import ThreadsChanged

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
        clock_ns: Monotonic clock.
    """

    def __init__(
        self,
        limits: ThreadLimits,
        free: FreeCpus | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.limits = limits
        self._free = free or FreeCpus()
        self._clock_ns = clock_ns
        self._count = thread_count.start(limits)
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
        if self.adapts and not adapted:
            self._look_from_now()
        self._count = thread_count.start(limits)

    @property
    def adapts(self) -> bool:
        """Whether the counts follow the load of the machine."""
        return self.limits.adapt and self.limits.most > 1

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
            self._count = thread_count.restart(self._count, free)

    def start_batch(self) -> None:
        """Read the clock right before a batch is computed."""
        if not self.adapts:
            return
        self._start_ns = self._clock_ns()
        if self._start_ns - self._end_ns >= _REST_NS:  # its mean would hide what is free now
            self._look_from_now()
            self._count = thread_count.rest(self._count)

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
        self._count = thread_count.advance(before, step)
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
