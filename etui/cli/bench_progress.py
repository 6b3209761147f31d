"""Show the progress of a run on stderr: a bar in a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from etui.cli.common import print_json_line
from etui.cli.progress import Bar, Lines, open_bar
from etui.units import (
    accuracy_text,
    count_text,
    energy_text,
    percent_text,
    seconds_text,
    significant,
)

if TYPE_CHECKING:
    from etui.bench.config import RunConfig
    from etui.bench.sample import Sample

_LINE_EVERY_SECONDS = 10.0
_Z95 = 1.96
_SHOWN_ARMS = 3
_SHOWN_MACHINES = 6


@dataclass(slots=True)
class RunTally:
    """The progress of a run.

    Attributes:
        right, asked: System -> count, in the order of the run.
    """

    total: int  # Answers of the finished run, over all systems
    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    joules: float | None = 0.0
    """Sum over the answers so far; None once the joules of one are unknown."""
    kind: str | None = None  # How the energy is known
    new: int = 0  # Answers of this process; a resumed run has others
    began: float = 0.0  # Monotonic time in seconds at which this process began
    machines: dict[str, int] = field(default_factory=dict)
    """Machine of a cluster -> its answers of this process, in the order of their first."""
    most_seconds: float | None = None
    """Seconds after which this process stops; None without a limit."""

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


class Show(Protocol):
    """A function that shows the progress of a run."""

    def __call__(self, tally: RunTally, subject: str) -> None:
        """Show the progress; ``subject`` is that of the last answer."""


class Watcher:
    """Counts the answers of a run, shows its progress and streams its samples.

    Args:
        note: Prints a line about the current step.
        stream: Whether each sample is printed as a line of JSON on stdout.
        most_seconds: Seconds after which the run stops; None without a limit.
    """

    def __init__(
        self,
        show: Show,
        note: Callable[[str], None],
        *,
        stream: bool,
        most_seconds: float | None = None,
    ) -> None:
        self._show = show
        self._note = note
        self._stream = stream
        self._most_seconds = most_seconds
        self._tally = RunTally(0)
        self._config: RunConfig | None = None

    def say(self, text: str) -> None:
        """Print a line about the current step."""
        self._note(text)

    def begin(self, config: RunConfig, folder: Path, samples: Sequence[Sample]) -> None:
        """Begin a run, or resume one after these answers."""
        total = config.questions * len(config.contenders)
        self._config = config
        self._tally = RunTally(total, began=time.monotonic(), most_seconds=self._most_seconds)
        arms = config.contenders
        what = f"{count_text(config.questions, 'question')} of {config.suite} for {', '.join(arms)}"
        self._note(f"{what}, format {config.format}@{config.format_version}, results in {folder}")
        for sample in samples:
            self._tally.add(config.contender(sample.arm), sample)
        if samples:
            self._note(f"resuming after {count_text(len(samples), 'answer')}")

    def see(self, samples: Sequence[Sample]) -> None:
        """Count answers that were written to disk, and show the progress."""
        if self._config is None or not samples:
            return
        for sample in samples:
            self._tally.add_new(self._config.contender(sample.arm), sample)
            if self._stream:
                print_json_line(sample.to_json())
        self._show(self._tally, samples[-1].subject)

    def expect(self, questions: int) -> None:
        """Show the progress against so many questions of each system."""
        if self._config is not None:
            self._tally.total = questions * len(self._config.contenders)


@contextmanager
def open_watcher(
    *, stream: bool, quiet: bool, most_seconds: float | None = None
) -> Iterator[Watcher]:
    """Yield a watcher that fits this terminal or pipe; with ``quiet`` it shows nothing."""
    if quiet:
        yield Watcher(lambda tally, subject: None, lambda text: None, stream=stream)
    elif sys.stderr.isatty():
        with _open_bar() as bar:
            show = partial(_show_bar, bar)
            yield Watcher(show, bar.note, stream=stream, most_seconds=most_seconds)
    else:
        lines = Lines(time.monotonic() + _LINE_EVERY_SECONDS)
        note = partial(click.echo, err=True)
        show = partial(_show_line, lines)
        yield Watcher(show, note, stream=stream, most_seconds=most_seconds)


@contextmanager
def _open_bar() -> Iterator[Bar]:
    from rich.progress import BarColumn, TextColumn

    with open_bar(BarColumn(bar_width=8), TextColumn("{task.description}", markup=False)) as bar:
        yield bar


def _show_bar(bar: Bar, tally: RunTally, subject: str) -> None:
    """Show one bar for the whole run."""
    bar.show(f"{tally.line(time.monotonic())} · {subject}", tally.done, tally.total)


def _show_line(lines: Lines, tally: RunTally, subject: str) -> None:
    """Print a line every ten seconds, and one at the end."""
    now = time.monotonic()
    if lines.is_due(now) or tally.done == tally.total:
        share = percent_text(tally.done / tally.total) if tally.total else ""
        lines.show(f"{share} · {tally.line(now)}", now, _LINE_EVERY_SECONDS)
