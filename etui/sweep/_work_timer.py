"""Measure the jobs of a workload with a loaded model: prefill and decode in windows of their own.

The prompts are computed one after another, each from an empty cache, and all of them again until
the window is long enough for the meter. Then each answer is decoded alone in the cache, and again
after a roll back, until the window is long enough.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from etui.arm import Speculate
from etui.energy.scopes import weakest
from etui.energy.types import Energy, Kind
from etui.engine.session import Session, Step, TokenSequence
from etui.events import Verified
from etui.sweep.blocks import PhaseCost, SettingFailed
from etui.sweep.workload import GREEDY, Job
from etui.turn.interfaces import Meter

_WARM_UP_PROMPT, _WARM_UP_OUTPUT = 128, 8
"""Tokens of the warm-up: enough to wake the threads, raise the clocks and touch the weights."""


class Overdue(Exception):
    """Work that takes longer than it may; sequences may be left open."""


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of work that was run ``runs`` times in these intervals of the monotonic clock, ns."""

    intervals: tuple[tuple[int, int], ...]
    runs: int
    drawn: int = 0  # Tokens drawn by one run, over its sequences
    drafted: float = 0.0  # Drafted tokens of one run, and those accepted: the mean of its runs
    accepted: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of all runs."""
        return sum(end - start for start, end in self.intervals) / 1e9


@dataclass(frozen=True, slots=True)
class TimedWork:
    """The windows of one visit."""

    prefill: Window  # The prompts of all jobs, one after another
    decodes: tuple[Window, ...]  # The answer of each job that has one
    answers: int  # Number of jobs
    computed: int  # Prompt tokens computed in the whole of `prefill`

    @property
    def intervals(self) -> tuple[tuple[int, int], ...]:
        """All intervals, in the order of time."""
        windows = (self.prefill, *self.decodes)
        return tuple(sorted(each for window in windows for each in window.intervals))


@dataclass(frozen=True, slots=True)
class WorkCost:
    """Cost of one answer, the mean over the jobs."""

    prefill: PhaseCost
    decode: PhaseCost
    kind: Kind | None  # How the energy was determined; None if it is unmeasured
    mean_watts: float | None  # Mean power of all intervals; None if unmeasured
    shared: bool  # Whether other processes used a measured device
    coverage: float  # Share of the phase with the larger gaps that the meter recorded, 0..1


@dataclass(slots=True)
class WorkTimer:
    """A loaded model, which nothing else uses meanwhile, and a meter that measures its work.

    After an error, sequences may be left open: the model has to be loaded again.
    """

    session: Session
    meter: Meter
    window_s: float  # Least seconds of each phase
    sequences: int = 1  # Sequences decoded in parallel for each answer
    speculate: Speculate = "off"  # Sequences decoded in parallel draft none
    clock: Callable[[], int] = time.monotonic_ns
    deadline_ns: float = math.inf  # When a step that ends later raises Overdue

    def __post_init__(self) -> None:
        if self.sequences > 1:
            self.speculate = "off"

    def warm_up(self, jobs: Sequence[Job]) -> tuple[float, float]:
        """Compute the beginning of a job, which is not measured.

        Returns what it took, and what all jobs, once each, would take so: nanoseconds.
        """
        job = max(jobs, key=lambda each: len(each.output))
        short = Job(job.prompt[:_WARM_UP_PROMPT], job.output[:_WARM_UP_OUTPUT])
        start_ns = self.clock()
        group = self._open(short, self._prefill(short)[0])
        middle_ns = self.clock()
        self._decode_once(group, short)
        end_ns = self.clock()
        self._close(group)
        prompts = sum(len(each.prompt) for each in jobs) / len(short.prompt)
        outputs = sum(len(each.output) for each in jobs) / max(len(short.output), 1)
        all_ns = prompts * (middle_ns - start_ns) + outputs * (end_ns - middle_ns)
        return end_ns - start_ns, all_ns

    def measure(self, jobs: Sequence[Job]) -> TimedWork:
        """Run all jobs until the windows of both phases are full."""
        self.session.forget()
        prefill, computed, last = self._measure_prefill(jobs)
        answers = sum(len(job.output) > 1 for job in jobs)
        least_s = self.window_s / max(answers, 1)
        decodes: list[Window] = []
        ready: TokenSequence | None = last
        for job in reversed(jobs):  # the last one is in the cache already
            sequence, ready = ready, None
            if len(job.output) > 1:
                decodes.append(self._measure_decode(job, sequence, least_s))
            elif sequence is not None:
                self.session.close(sequence, keep=False)
        return TimedWork(prefill, tuple(decodes), len(jobs), computed)

    def _measure_prefill(self, jobs: Sequence[Job]) -> tuple[Window, int, TokenSequence]:
        """Compute all prompts again and again; return the last sequence, which is left open.

        Each sequence is closed before the next is opened, so that no prompt shares a prefix.
        """
        start_ns = self._mark()
        runs = computed = 0
        while True:
            runs += 1
            for number, job in enumerate(jobs, start=1):
                sequence, count = self._prefill(job)
                computed += count
                end_ns = self.clock()
                if number == len(jobs) and end_ns - start_ns >= self.window_s * 1e9:
                    self.meter.mark(end_ns)
                    return Window(((start_ns, end_ns),), runs), computed, sequence
                self.session.close(sequence, keep=False)

    def _measure_decode(self, job: Job, sequence: TokenSequence | None, least_s: float) -> Window:
        """Decode an answer again and again, in one interval while the model can be rolled back.

        A model that cannot be rolled back is prefilled again, outside the intervals.
        """
        group = self._open(job, sequence or self._prefill(job)[0])
        intervals: list[tuple[int, int]] = []
        verified: list[Verified] = []
        runs = 0
        is_fresh = True
        while not runs or Window(tuple(intervals), runs).seconds < least_s:
            if runs and not self._roll_back(group, job):
                self.meter.mark(intervals[-1][1])
                self._close(group)
                group = self._open(job, self._prefill(job)[0])
                is_fresh = True
            start_ns = self._mark() if is_fresh else intervals.pop()[0]
            verified += self._decode_once(group, job)
            intervals.append((start_ns, self.clock()))
            runs += 1
            is_fresh = False
        self.meter.mark(intervals[-1][1])
        self._close(group)
        return Window(
            tuple(intervals),
            runs,
            (len(job.output) - 1) * self.sequences,
            sum(each.drafted for each in verified) / runs,
            sum(each.accepted for each in verified) / runs,
        )

    def _prefill(self, job: Job) -> tuple[TokenSequence, int]:
        """Compute a prompt and draw the first token; return the number of computed tokens."""
        sequence = self.session.open(job.prompt, GREEDY, job.output)
        computed = 0
        while True:
            step = self._step([sequence])
            computed += sum(step.computed.values())
            if step.sampled:
                return sequence, computed

    def _open(self, job: Job, sequence: TokenSequence) -> list[TokenSequence]:
        """Fork a sequence after its prefill; without an answer there is nothing to fork for."""
        count = self.sequences if job.output else 1
        return [sequence, *(self.session.fork(sequence, GREEDY) for _ in range(count - 1))]

    def _decode_once(self, group: Sequence[TokenSequence], job: Job) -> list[Verified]:
        """Draw all tokens of an answer after the first, in every sequence."""
        verified: list[Verified] = []
        if self.speculate != "off":
            self.session.forget()  # a draft model would still know the prompt, or the answer
            refused = self.session.speculate(group[0], self.speculate)
            if refused and self.speculate != "auto":
                raise SettingFailed(f"no speculation: {refused}")
        left = (len(job.output) - 1) * len(group)
        while left > 0:
            step = self._step(group)
            left -= len(step.sampled)
            verified += step.verified
        if self.speculate != "off":
            verified += self.session.settle(group[0])
        return verified

    def _roll_back(self, group: Sequence[TokenSequence], job: Job) -> bool:
        """Go back to the prompt, and queue the first token again; False if the model cannot.

        If that token stayed computed, an answer of two tokens would be drawn again from the logits
        after it, and its runs would cost nothing.
        """
        for each in group:
            count = len(each.tokens) - len(job.prompt)
            if not self.session.rollback(each, count) or each.pending:
                return False
            self.session.extend(each, job.output[:1])
        return True

    def _step(self, group: Sequence[TokenSequence]) -> Step:
        step = self.session.step(group)
        if self.clock() > self.deadline_ns:
            raise Overdue
        return step

    def _close(self, group: Sequence[TokenSequence]) -> None:
        for sequence in group:
            self.session.close(sequence, keep=False)

    def _mark(self) -> int:
        """Return the time, and note that the power steps now."""
        now_ns = self.clock()
        self.meter.mark(now_ns)
        return now_ns


def compute_cost(work: TimedWork, energy: Callable[[int, int], Energy]) -> WorkCost:
    """Compute the cost of one answer, the mean over the jobs, from the meter's record."""
    measured = {interval: energy(*interval) for interval in work.intervals}
    parts = list(measured.values())
    computed = work.computed / (work.prefill.runs * work.answers)
    prefill, covered = _compute_phase(computed, [work.prefill], measured, work.answers)
    drawn = sum(window.drawn for window in work.decodes) / work.answers
    decode, decode_covered = _compute_phase(drawn, work.decodes, measured, work.answers)
    joules = [part.joules for part in parts if part.joules is not None]
    seconds = sum(part.seconds for part in parts)
    is_measured = len(joules) == len(parts) and seconds > 0
    return WorkCost(
        prefill=prefill,
        decode=decode,
        kind=weakest(part.kind for part in parts if part.kind is not None) if is_measured else None,
        mean_watts=math.fsum(joules) / seconds if is_measured else None,
        shared=any(part.shared for part in parts),
        coverage=min(covered, decode_covered),
    )


def _compute_phase(
    tokens: float,
    windows: Sequence[Window],
    measured: Mapping[tuple[int, int], Energy],
    answers: int,
) -> tuple[PhaseCost, float]:
    """Compute the cost of a phase of one answer, and the share of it that the meter recorded.

    The half widths of intervals are added: errors of a meter are rarely independent. A phase
    without work has cost nothing, which is known and not a missing value.
    """
    parts = [
        (measured[interval], window.runs) for window in windows for interval in window.intervals
    ]
    lasted = math.fsum(part.seconds for part, _ in parts)
    recorded = math.fsum(part.coverage * part.seconds for part, _ in parts)
    seconds = math.fsum(window.seconds / window.runs for window in windows) / answers
    joules = half_width = None
    if all(part.joules is not None for part, _ in parts):
        joules = math.fsum((part.joules or 0.0) / runs for part, runs in parts) / answers
        half_width = math.fsum((part.uncertainty or 0.0) / runs for part, runs in parts) / answers
    return PhaseCost(tokens, joules, half_width, seconds), recorded / lasted if lasted else 1.0
