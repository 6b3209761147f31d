"""How a run shows on stderr: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import json
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
    from etui.bench.store.run_config import RunConfig
    from etui.bench.store.sample import Sample

_LINE_EVERY_SECONDS = 10.0
_Z95 = 1.96
_SHOWN_ARMS = 3


@dataclass(slots=True)
class RunTally:
    """Where a run stands.

    Attributes:
        total: Answers it will have, of all contenders.
        right, asked: Contender -> counts, in the order of the run.
    """

    total: int
    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    joules: float | None = 0.0
    kind: str | None = None
    new: int = 0
    began: float = 0.0

    @property
    def done(self) -> int:
        """Answers there are."""
        return sum(self.asked.values())

    def add(self, contender: str, sample: Sample) -> None:
        """Count an answer."""
        self.asked[contender] = self.asked.get(contender, 0) + 1
        self.right[contender] = self.right.get(contender, 0) + sample.correct
        known = self.joules is not None and sample.joules is not None
        self.joules = (self.joules or 0.0) + (sample.joules or 0.0) if known else None
        self.kind = sample.kind or self.kind

    def rate(self, now: float) -> float | None:
        """Answers a second since this process began; None before the first."""
        seconds = now - self.began
        return self.new / seconds if self.new and seconds > 0 else None

    def line(self, now: float) -> str:
        """``57 of 570 · 24.6 ± 11.0 % · 3.1/s · 2 min 45 s left · ~812 J (estimate)``"""
        rate = self.rate(now)
        parts = [f"{self.done:,} of {self.total:,}"]
        shown = list(self.asked)[:_SHOWN_ARMS]
        for name in shown:
            label = f"{name} " if len(self.asked) > 1 else ""
            parts.append(f"{label}{running_accuracy(self.right[name], self.asked[name])}")
        if rate is not None:
            parts.append(f"{significant(rate, 2)}/s")
            parts.append(f"{seconds_text((self.total - self.done) / rate)} left")
        if self.done:
            parts.append(energy_text(self.joules, None, self.kind))
        return " · ".join(parts)


def running_accuracy(right: int, asked: int) -> str:
    """``24.6 ± 11.2 %``: the half width at 95 % by the normal approximation, for a glance."""
    share = right / asked
    # Agresti and Coull (1998): two more of each, so that 0 of 3 is not certain.
    shrunk = (right + 2) / (asked + 4)
    half = _Z95 * math.sqrt(shrunk * (1 - shrunk) / (asked + 4))
    return f"{accuracy_text(share).removesuffix('%').strip()} ± {100 * half:.1f} %"


class Show(Protocol):
    """Somewhere to show where a run stands."""

    def __call__(self, tally: RunTally, subject: str) -> None: ...


class Watcher:
    """Watches a run: counts, shows, streams.

    Args:
        show: Where it is shown.
        note: Where lines on what is being done go.
        stream: Whether each sample is printed as a line of JSON.
    """

    def __init__(self, show: Show, note: Callable[[str], None], *, stream: bool) -> None:
        self._show = show
        self._note = note
        self._stream = stream
        self._tally = RunTally(0)
        self._config: RunConfig | None = None

    def say(self, text: str) -> None:
        """A line on what is being done."""
        self._note(text)

    def begin(self, config: RunConfig, folder: Path, samples: Sequence[Sample]) -> None:
        """The run begins, or goes on behind these answers."""
        total = config.questions * len(config.contenders)
        self._config = config
        self._tally = RunTally(total, began=time.monotonic())
        arms = config.contenders
        what = f"{count_text(config.questions, 'question')} of {config.suite} to {', '.join(arms)}"
        self._note(f"{what}, format {config.format}@{config.format_version}, into {folder}")
        for sample in samples:
            self._tally.add(config.contender(sample.arm), sample)
        if samples:
            self._note(f"going on behind {count_text(len(samples), 'answer')}")

    def see(self, samples: Sequence[Sample]) -> None:
        """Answers are on the disk."""
        if self._config is None or not samples:
            return
        for sample in samples:
            self._tally.add(self._config.contender(sample.arm), sample)
            self._tally.new += 1
            if self._stream:
                click.echo(json.dumps(sample.to_json(), ensure_ascii=False))
        self._show(self._tally, samples[-1].subject)


@contextmanager
def watching(*, stream: bool, quiet: bool) -> Iterator[Watcher]:
    """Who watches a run on this terminal, or in this pipe."""
    if quiet:
        yield Watcher(lambda tally, subject: None, lambda text: None, stream=stream)
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield Watcher(partial(_show_bar, bar), bar.note, stream=stream)
    else:
        lines = Lines(time.monotonic() + _LINE_EVERY_SECONDS)
        note = partial(click.echo, err=True)
        yield Watcher(partial(_show_line, lines), note, stream=stream)


@contextmanager
def _bar() -> Iterator[Bar]:
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
