"""The progress of a run: answered questions, accuracies, joules, and the time left."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etui.bench.config import RunConfig
from etui.bench.sample import Sample
from etui.measure.progress import Progress, Watch, watch_nothing
from etui.units import accuracy_text, count_text, energy_text, seconds_text, significant

_Z95 = 1.96
_SHOWN_ARMS = 3
_SHOWN_MACHINES = 6


@dataclass(slots=True)
class RunTally:
    """The progress of a run."""

    total: int  # Answers of the finished run, over all systems
    right: dict[str, int] = field(default_factory=dict)  # System -> count, in the order of the run
    asked: dict[str, int] = field(default_factory=dict)
    joules: float | None = 0.0  # Of the answers so far; None once those of one are unknown
    kind: str | None = None  # How the energy is known
    new: int = 0  # Answers of this process; a resumed run has others
    began: float = 0.0  # Monotonic time in seconds at which this process began
    machines: dict[str, int] = field(default_factory=dict)
    """Machine of a cluster -> its answers of this process, in the order of their first."""
    most_seconds: float | None = None  # Of this process; None without a limit

    @property
    def done(self) -> int:
        """Number of answers so far."""
        return sum(self.asked.values())

    def add(self, system: str, sample: Sample) -> None:
        """Count an answer."""
        self.asked[system] = self.asked.get(system, 0) + 1
        self.right[system] = self.right.get(system, 0) + sample.correct
        known = self.joules is not None and sample.joules is not None
        self.joules = (self.joules or 0.0) + (sample.joules or 0.0) if known else None
        self.kind = sample.kind or self.kind

    def add_new(self, system: str, sample: Sample) -> None:
        """Count an answer of this process."""
        self.add(system, sample)
        self.new += 1
        if sample.machine is not None:
            self.machines[sample.machine] = self.machines.get(sample.machine, 0) + 1

    def rate(self, now: float) -> float | None:
        """Return the answers per second since this process began; None before the first."""
        seconds = now - self.began
        return self.new / seconds if self.new and seconds > 0 else None

    def line(self, now: float) -> str:
        """Format the progress as one line.

        For example ``57 of 570 · 24.6 ± 11.0 % · 3.1/s · 2 min 45 s left · ≈812 J (estimate)``.
        """
        rate = self.rate(now)
        parts = [f"{self.done:,} of {self.total:,}"]
        shown = list(self.asked)[:_SHOWN_ARMS]
        for name in shown:
            label = f"{name} " if len(self.asked) > 1 else ""
            parts.append(f"{label}{format_accuracy(self.right[name], self.asked[name])}")
        if rate is not None:
            parts.append(f"{significant(rate, 2)}/s")
            parts.append(self._left((self.total - self.done) / rate, now))
        if self.done:
            parts.append(energy_text(self.joules, None, self.kind))
        if self.machines:
            counts = [f"{name} {count:,}" for name, count in self.machines.items()]
            more = ["..."] if len(counts) > _SHOWN_MACHINES else []
            parts.append(", ".join([*counts[:_SHOWN_MACHINES], *more]))
        return " · ".join(parts)

    def _left(self, whole_seconds: float, now: float) -> str:
        """Format the time until the run is complete, or until its limit if that is earlier."""
        if self.most_seconds is not None:
            until_limit = max(0.0, self.most_seconds - (now - self.began))
            if until_limit < whole_seconds:
                return f"{seconds_text(until_limit)} until the time limit"
        return f"{seconds_text(whole_seconds)} left"


def format_accuracy(right: int, asked: int) -> str:
    """Format ``24.6 ± 11.2 %``, with the 95 % half width by the normal approximation."""
    share = right / asked
    # Agresti and Coull (1998): add two right and two wrong, so that 0 of 3 is not certain.
    shrunk = (right + 2) / (asked + 4)
    half = _Z95 * math.sqrt(shrunk * (1 - shrunk) / (asked + 4))
    return f"{accuracy_text(share).removesuffix('%').strip()} ± {100 * half:.1f} %"


class RunProgress:
    """Counts the answers of a run, and shows its progress; each new sample is a JSON line."""

    def __init__(self, watch: Watch = watch_nothing, most_seconds: float | None = None) -> None:
        self._watch = watch
        self._most_seconds = most_seconds
        self._tally = RunTally(0)
        self._config: RunConfig | None = None

    def say(self, text: str) -> None:
        """Show a line about the current step."""
        self._watch(Progress(text))

    def begin(self, config: RunConfig, folder: Path, samples: Sequence[Sample]) -> None:
        """Show that the run starts, or resumes after ``samples``."""
        total = config.questions * len(config.contenders)
        self._config = config
        self._tally = RunTally(total, began=time.monotonic(), most_seconds=self._most_seconds)
        arms = config.contenders
        what = f"{count_text(config.questions, 'question')} of {config.suite} for {', '.join(arms)}"
        self.say(f"{what}, format {config.format}@{config.format_version}, results in {folder}")
        for sample in samples:
            self._tally.add(config.contender(sample.arm), sample)
        if samples:
            self.say(f"resuming after {count_text(len(samples), 'answer')}")

    def see(self, samples: Sequence[Sample]) -> None:
        """Show new answers, which are on disk; called from another thread, one call at a time."""
        if self._config is None or not samples:
            return
        for sample in samples:
            self._tally.add_new(self._config.contender(sample.arm), sample)
            self._watch(Progress(event="", fields=sample.to_json()))
        text = f"{self._tally.line(time.monotonic())} · {samples[-1].subject}"
        self._watch(Progress(text, self._tally.done, self._tally.total))

    def expect(self, questions: int) -> None:
        """Show that about so many questions are asked, since the run stops at a precision."""
        if self._config is not None:
            self._tally.total = questions * len(self._config.contenders)
