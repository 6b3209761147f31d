"""Set the thread counts of a context between two batches, and record every change."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from etui.engine import thread_count
from etui.engine.cpu_limits import LOOK_NS, SpareCpu
from etui.engine.thread_count import MOST_ROWS, StepTimes, ThreadLimits, advance, follow
from etui.events import ThreadsChanged

_PAUSE_NS = 5_000_000
"""Time between two batches after which the threads sleep: libgomp's spin for longer than this."""

_REST_NS = 1_000_000_000
"""Time without a batch after which the use of the CPUs meanwhile says what is free."""

_KEPT_CHANGES = 1000
"""Changes to keep for a caller that does not collect them."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Clocks in nanoseconds."""

    wall: Callable[[], int] = time.monotonic_ns
    cpu: Callable[[], int] = time.process_time_ns  # CPU time of this process
    thread: Callable[[], int] = time.thread_time_ns  # CPU time of the calling thread


class ThreadControl:
    """The decode and the prefill thread count of a context, and of those that draft for it.

    llama.cpp has a count for batches of one token and one for all others. Several votes or a draft
    to verify are short batches and run with the decode count.
    """

    def __init__(
        self, limits: ThreadLimits, spare: SpareCpu | None = None, clocks: Clocks | None = None
    ) -> None:
        self.limits = limits
        self._spare = spare or SpareCpu()
        self._clocks = clocks or Clocks()
        self._decode = thread_count.start(limits.decode)
        self._prefill = thread_count.start(limits.prefill)
        self._begun = (0, 0, 0)  # the running batch: this thread's work before it, CPU, clock
        self._ended = (0, 0)  # the last batch or choice: clock and CPU clock
        self._ended_thread_ns = 0
        self._changes: list[ThreadsChanged] = []
        if self.adapts:
            self._look_from_now()

    def _look_from_now(self) -> None:
        self._ended = self._clocks.wall(), self._clocks.cpu()
        self._spare.look(self._ended[0])

    def set_limits(self, limits: ThreadLimits) -> None:
        """Change the limits between two answers, and begin with them; the model stays in memory.

        Nothing happens if they are what they were: then the counts stay as the load left them.
        """
        if limits == self.limits:
            return
        adapted, self.limits = self.adapts, limits
        if self.adapts and not adapted:
            self._look_from_now()
        self._decode = thread_count.start(limits.decode)
        self._prefill = thread_count.start(limits.prefill)

    @property
    def adapts(self) -> bool:
        """Whether the counts follow the load of the machine."""
        return self.limits.adapt and max(self.limits.decode, self.limits.prefill) > 1

    @property
    def decode_threads(self) -> int:
        """Threads of the next short batch."""
        return self._decode.count

    @property
    def prefill_threads(self) -> int:
        """Threads of the next long batch."""
        return self._prefill.count

    def counts(self, rows: int) -> tuple[int, int]:
        """Return the threads for batches of one token and of all others, before one of ``rows``."""
        decode = self._decode.count
        return decode, decode if rows <= MOST_ROWS else self._prefill.count

    def restart(self, helper_seconds: float = 0.0) -> None:
        """Choose the counts by the CPUs that were free since the last batch or the creation.

        Args:
            helper_seconds: CPU time that other processes of etui used meanwhile: they are done.
        """
        now_ns = self._clocks.wall()
        if not self.adapts or now_ns - self._ended[0] < LOOK_NS:
            return
        idle = self._spare.look(now_ns, longest_ns=None)
        if idle is None:
            return
        cpu_ns = self._clocks.cpu()
        own_ns = cpu_ns - self._ended[1] + helper_seconds * 1e9
        capacity = idle + own_ns / (now_ns - self._ended[0])
        self._ended, self._ended_thread_ns = (now_ns, cpu_ns), self._clocks.thread()
        self._decode = thread_count.restart(self._decode, capacity)
        self._prefill = thread_count.restart(self._prefill, capacity)

    def start_batch(self) -> None:
        """Read the clocks right before a batch is computed."""
        if self.adapts:
            own_ns = self._clocks.thread() - self._ended_thread_ns
            self._begun = own_ns, self._clocks.cpu(), self._clocks.wall()

    def end_batch(self, rows: int, *, failed: bool) -> None:
        """Choose the counts of the next batch by the one that has ended now.

        A thread that falls asleep between two batches has its CPU time counted there. So the CPU
        time is that since the end of the last batch, less the work of this thread in between.
        """
        if not self.adapts:
            return
        own_ns, cpu_ns, start_ns = self._begun
        end_ns, cpu_end_ns = self._clocks.wall(), self._clocks.cpu()
        between_ns = start_ns - self._ended[0]
        is_pause = between_ns > _PAUSE_NS
        between_own_ns = min(max(0, own_ns), between_ns)  # another thread may have come before
        used_ns = cpu_end_ns - (cpu_ns if is_pause else self._ended[1] + between_own_ns)
        self._ended = end_ns, cpu_end_ns
        self._ended_thread_ns = self._clocks.thread()
        if failed:
            return
        spare = self._spare.look(end_ns)
        step = StepTimes(end_ns, end_ns - start_ns, used_ns, rows, spare, after_pause=is_pause)
        before = self._decode.count, self._prefill.count
        if rows <= MOST_ROWS:
            leader = self._decode = advance(self._decode, step)
            if leader.count != before[0]:
                self._prefill = follow(self._prefill, leader, end_ns)
        else:
            leader = self._prefill = advance(self._prefill, step)
            if leader.count != before[1]:
                self._decode = follow(self._decode, leader, end_ns)
        if before != (self._decode.count, self._prefill.count):
            self._record(end_ns, leader.why)

    def begin_answer(self) -> None:
        """Choose the counts after a pause, and record them where they are not the limit.

        A long prefill next to a busy core would find out within a batch, which can take seconds.
        """
        self._changes.clear()
        if self._clocks.wall() - self._ended[0] >= _REST_NS:
            self.restart()
        limits = self.limits
        if limits.note:
            self._record(self._clocks.wall(), limits.note)
        elif (self._decode.count, self._prefill.count) != (limits.decode, limits.prefill):
            self._record(self._clocks.wall(), self._decode.why or self._prefill.why)

    def take_changes(self) -> tuple[ThreadsChanged, ...]:
        """Return the changes since the last call, and forget them."""
        changes = tuple(self._changes)
        self._changes.clear()
        return changes

    def _record(self, t_ns: int, why: str) -> None:
        change = ThreadsChanged(t_ns, self._decode.count, self._prefill.count, why)
        self._changes = [*self._changes[-_KEPT_CHANGES:], change]
