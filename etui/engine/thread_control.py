"""Set the thread counts of a context between two batches, and record every change."""

from __future__ import annotations

import time
from collections.abc import Callable

from etui.engine import thread_count
from etui.engine.cpu_limits import LOOK_NS, SpareCpu
from etui.engine.thread_count import MOST_ROWS, StepTimes, advance, follow
from etui.events import ThreadsChanged

_PAUSE_NS = 5_000_000
"""Time between two batches after which the threads sleep: libgomp's spin for longer than this."""

_REST_NS = 1_000_000_000
"""Time without a batch after which the use of the CPUs meanwhile says what is free."""

_KEPT_CHANGES = 1000
"""Changes to keep for a caller that does not collect them."""


class ThreadControl:
    """The thread counts of one context: a decode and a prefill count.

    llama.cpp has a count for batches of one token and one for all others. Several votes or a draft
    to verify are short batches and run with the decode count.

    Args:
        limit: Most threads of decode.
        prefill_limit: Most threads of prefill; None is ``limit``.
        adapt: Whether to follow the load of the machine; False keeps the limits.
        note: Why the limit is not what the settings ask for; reported with the first changes.
        spare: The idle CPUs of the machine.
        cpu_clock: CPU time of this process, nanoseconds.
        thread_clock: CPU time of the calling thread, nanoseconds.
    """

    def __init__(
        self,
        limit: int,
        prefill_limit: int | None = None,
        *,
        adapt: bool = True,
        note: str = "",
        spare: SpareCpu | None = None,
        cpu_clock: Callable[[], int] = time.process_time_ns,
        thread_clock: Callable[[], int] = time.thread_time_ns,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.limit = limit
        self.prefill_limit = limit if prefill_limit is None else prefill_limit
        self.adapts = adapt and max(self.limit, self.prefill_limit) > 1
        self._note = note
        self._spare = spare or SpareCpu()
        self._cpu_clock, self._thread_clock, self._clock = cpu_clock, thread_clock, clock
        self._decode = thread_count.start(self.limit)
        self._prefill = thread_count.start(self.prefill_limit)
        self._applied = (limit, limit)  # as a context is created
        self._ended = (0, 0)  # the last batch or choice: clock and CPU clock
        self._ended_thread_ns = 0
        self._changes: list[ThreadsChanged] = []
        if self.adapts:
            self._look_from_now()

    def _look_from_now(self) -> None:
        self._ended = self._clock(), self._cpu_clock()
        self._spare.look(self._ended[0])

    def set_limits(self, decode: int, prefill: int, *, adapt: bool, note: str = "") -> None:
        """Change the limits between two answers, and begin with them; the model stays in memory.

        Nothing happens if they are what they were: then the counts stay as the load left them.
        """
        adapts = adapt and max(decode, prefill) > 1
        before = (self.limit, self.prefill_limit, self.adapts, self._note)
        if (decode, prefill, adapts, note) == before:
            return
        if adapts and not self.adapts:
            self._look_from_now()
        self.limit, self.prefill_limit, self.adapts, self._note = decode, prefill, adapts, note
        self._decode, self._prefill = thread_count.start(decode), thread_count.start(prefill)

    @property
    def decode_threads(self) -> int:
        """Threads of the next short batch."""
        return self._decode.count

    @property
    def prefill_threads(self) -> int:
        """Threads of the next long batch."""
        return self._prefill.count

    def loaded(self, helper_seconds: float = 0.0) -> None:
        """Choose the first counts by the CPUs that were free while the model was loaded.

        Args:
            helper_seconds: CPU time that other processes of etui used meanwhile: they are done.
        """
        self._restart(helper_seconds)

    def _restart(self, helper_seconds: float = 0.0) -> None:
        """Choose the counts by the CPUs that were free since the last batch or the creation."""
        now_ns = self._clock()
        if not self.adapts or now_ns - self._ended[0] < LOOK_NS:
            return
        idle = self._spare.look(now_ns, longest_ns=None)
        if idle is None:
            return
        cpu_ns = self._cpu_clock()
        own_ns = cpu_ns - self._ended[1] + helper_seconds * 1e9
        capacity = idle + own_ns / (now_ns - self._ended[0])
        self._ended, self._ended_thread_ns = (now_ns, cpu_ns), self._thread_clock()
        self._decode = thread_count.restart(self._decode, capacity)
        self._prefill = thread_count.restart(self._prefill, capacity)

    def compute(
        self, rows: int, set_threads: Callable[[int, int], None], run: Callable[[], int]
    ) -> int:
        """Compute a batch with the threads for its length, and choose those of the next.

        Args:
            set_threads: Sets the threads of batches of one token, and of all others.
            run: Computes the batch and returns a code, 0 for success.

        Returns:
            The code.
        """
        is_short = rows <= MOST_ROWS
        decode = self.decode_threads
        counts = (decode, decode if is_short else self.prefill_threads)
        if counts != self._applied:
            set_threads(*counts)
            self._applied = counts
        if not self.adapts:
            return run()
        own_ns = self._thread_clock() - self._ended_thread_ns
        cpu_ns, start_ns = self._cpu_clock(), self._clock()
        code = run()
        self._measure(rows, start_ns, cpu_ns, own_ns, failed=code != 0)
        return code

    def _measure(self, rows: int, start_ns: int, cpu_ns: int, own_ns: int, *, failed: bool) -> None:
        """Advance the rule by the batch that has ended now.

        A thread that falls asleep between two batches has its CPU time counted there. So the CPU
        time is that since the end of the last batch, less the work of this thread in between.
        """
        end_ns, cpu_end_ns = self._clock(), self._cpu_clock()
        between_ns = start_ns - self._ended[0]
        is_pause = between_ns > _PAUSE_NS
        between_own_ns = min(max(0, own_ns), between_ns)  # another thread may have come before
        used_ns = cpu_end_ns - (cpu_ns if is_pause else self._ended[1] + between_own_ns)
        self._ended = end_ns, cpu_end_ns
        self._ended_thread_ns = self._thread_clock()
        if failed:
            return
        spare = self._spare.look(end_ns)
        step = StepTimes(end_ns, end_ns - start_ns, used_ns, rows, spare, after_pause=is_pause)
        self._advance(step, is_short=rows <= MOST_ROWS)

    def _advance(self, step: StepTimes, *, is_short: bool) -> None:
        before = self._decode.count, self._prefill.count
        if is_short:
            own = self._decode
            leader = self._decode = advance(own, step)
        else:
            own = self._prefill
            leader = self._prefill = advance(own, step)
        if leader.count == own.count:
            return
        if is_short:
            self._prefill = follow(self._prefill, leader, step.end_ns)
        else:
            self._decode = follow(self._decode, leader, step.end_ns)
        if before != (self._decode.count, self._prefill.count):
            self._record(step.end_ns, leader.why)

    def begin_answer(self) -> None:
        """Choose the counts after a pause, and record them where they are not the limit.

        A long prefill next to a busy core would find out within a batch, which can take seconds.
        """
        self._changes.clear()
        if self._clock() - self._ended[0] >= _REST_NS:
            self._restart()
        if self._note:
            self._record(self._clock(), self._note)
        elif (self._decode.count, self._prefill.count) != (self.limit, self.prefill_limit):
            self._record(self._clock(), self._decode.why or self._prefill.why)

    def take_changes(self) -> tuple[ThreadsChanged, ...]:
        """Return the changes since the last call, and forget them."""
        changes = tuple(self._changes)
        self._changes.clear()
        return changes

    def _record(self, t_ns: int, why: str) -> None:
        change = ThreadsChanged(t_ns, self._decode.count, self._prefill.count, why)
        self._changes = [*self._changes[-_KEPT_CHANGES:], change]


class FollowedThreads(ThreadControl):
    """The counts of another control, for a context that computes between its batches (drafts)."""

    def __init__(self, leader: ThreadControl) -> None:
        super().__init__(leader.limit, adapt=False)
        self._leader = leader

    @property
    def decode_threads(self) -> int:
        """Threads of the next short batch."""
        return self._leader.decode_threads

    @property
    def prefill_threads(self) -> int:
        """Threads of the next long batch."""
        return self._leader.prefill_threads
