"""Show the progress of a sweep: a bar or lines on stderr, or JSON lines on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etui.cli.common import print_event
from etui.cli.progress import Bar, Lines, open_bar
from etui.units import count_text, seconds_text

if TYPE_CHECKING:
    from etui.sweep.blocks import BlockPlan, Failure, Visit
    from etui.sweep.config import SweepConfig
    from etui.sweep.race import Drop
    from etui.sweep.result import DetectionFloor
    from etui.sweep.run import SweepAudience, SweepProgress

_LINE_EVERY_SECONDS = 10.0

_STEPS = {
    "floor": "floor",
    "race": "race",
    "confirm": "confirming",
    "accuracy": "accuracy",
    "done": "done",
}


def format_begin(config: SweepConfig, folder: Path, progress: SweepProgress) -> str:
    """Format the first line: what is measured, for how long, and where it is kept."""
    settings = count_text(len(config.design.settings), "setting")
    begun = f" ({count_text(progress.blocks, 'block')} already measured)" if progress.blocks else ""
    left = f"about {seconds_text(progress.seconds_left)}"
    return f"{config.model}: {settings}{begun}, {left}, in {folder}; Ctrl-C stops"


def format_progress(progress: SweepProgress, visit: int = 0, visits: int = 0) -> str:
    """Format the progress as one line.

    For example ``race · block 7 of at most 14, visit 3 of 12 · about 4 min left · 9 settings left ·
    best threads=2``.

    Args:
        progress: After the last complete block.
        visit: Visits of the running block that are done.
        visits: Visits of the running block; 0 if none is running.
    """
    step = _STEPS.get(progress.step, progress.step)
    if progress.step in ("accuracy", "done"):
        parts = [step, f"{count_text(progress.blocks, 'block')} measured"]
    else:
        total = progress.blocks + progress.blocks_left
        inner = f", visit {visit} of {visits}" if visits else ""
        parts = [step, f"block {progress.blocks + 1} of at most {total}{inner}"]
        parts.append(f"about {seconds_text(progress.seconds_left)} left")
    parts.append(f"{count_text(progress.remaining, 'setting')} left")
    if progress.best is not None:
        parts.append(f"best {progress.best}")  # last: a narrow terminal cuts it off
    return " · ".join(parts)


def format_floor(floor: DetectionFloor) -> str:
    """Format the smallest difference that the sweep can show."""
    from etui.sweep.verdict import WHOLE_PERCENT, floor_text

    floors = {"joules": floor.joules_percent, "time": floor.seconds_percent}
    known = {what: percent for what, percent in floors.items() if percent is not None}
    if not known:
        return "the detection floor is unknown: the baseline was not measured"
    below = [f"{floor_text(p)} of the {what}" for what, p in known.items() if p <= WHOLE_PERCENT]
    hidden = [f"the {what}" for what, percent in known.items() if percent > WHOLE_PERCENT]
    parts = []
    if below:
        parts.append(f"differences below {' and '.join(below)} cannot be shown")
    if hidden:
        parts.append(f"no difference of {' and '.join(hidden)} can be shown")
    return f"{', and '.join(parts)} with {count_text(floor.claim_blocks, 'block')}"


def format_drop(drop: Drop) -> str:
    """Format why a setting was dropped."""
    return f"dropped {drop.setting} after block {drop.block + 1}: {drop.reason}"


@dataclass(slots=True)
class TextAudience:
    """Shows a sweep to people."""

    show: Callable[[str, float, float], None]
    """Shows a line that replaces the last one, with the work done and all work, in blocks."""
    say: Callable[[str], None]  # Prints a line that stays
    last: SweepProgress | None = None  # The progress after the last complete block

    def note(self, text: str) -> None:
        """Print a line."""
        self.say(text)

    def begin(self, config: SweepConfig, folder: Path, progress: SweepProgress) -> None:
        """Print what is measured."""
        self.last = progress
        self.say(format_begin(config, folder, progress))

    def see_floor(self, floor: DetectionFloor) -> None:
        """Print the detection floor."""
        self.say(format_floor(floor))

    def see_visit(self, plan: BlockPlan, at: int, visit: Visit | Failure) -> None:
        """Show the progress within a block."""
        if self.last is not None:
            text = format_progress(self.last, at + 1, len(plan.order))
            done = self.last.blocks + (at + 1) / len(plan.order)
            self.show(text, done, self.last.blocks + self.last.blocks_left)

    def see_block(self, progress: SweepProgress) -> None:
        """Show the progress after a block."""
        self.last = progress
        self.show(
            format_progress(progress), progress.blocks, progress.blocks + progress.blocks_left
        )

    def see_drop(self, drop: Drop) -> None:
        """Print why a setting was dropped."""
        self.say(format_drop(drop))

    def see_answers(self, done: int, total: int) -> None:
        """Show how many questions are answered."""
        self.show(f"accuracy · {done:,} of {total:,} answers", done, total)


@dataclass(slots=True)
class JsonAudience:
    """Writes a sweep as JSON lines to stdout."""

    last: SweepProgress | None = field(default=None)  # The progress after the last complete block

    def note(self, text: str) -> None:
        """Write a ``note``."""
        print_event("note", text=text)

    def begin(self, config: SweepConfig, folder: Path, progress: SweepProgress) -> None:
        """Write ``begun``."""
        self.last = progress
        print_event(
            "begun",
            sweep=config.id,
            folder=str(folder),
            model=config.model,
            settings=[setting.key for setting in config.design.settings],
            baseline=config.design.settings[0].key,
            blocks=progress.blocks,
            blocks_left=progress.blocks_left,
            seconds_left=round(progress.seconds_left, 1),
        )

    def see_floor(self, floor: DetectionFloor) -> None:
        """Write the detection floor as a ``note``."""
        self.note(format_floor(floor))

    def see_visit(self, plan: BlockPlan, at: int, visit: Visit | Failure) -> None:
        """Write nothing: a line per block is enough for a program."""

    def see_block(self, progress: SweepProgress) -> None:
        """Write ``block``."""
        stage = self.last.step if self.last is not None else progress.step
        self.last = progress
        print_event(
            "block",
            stage=stage,
            block=progress.blocks,
            blocks_left=progress.blocks_left,
            remaining=progress.remaining,
            best=progress.best,
            seconds_left=round(progress.seconds_left, 1),
            joules=None if progress.joules is None else round(progress.joules, 3),
        )

    def see_drop(self, drop: Drop) -> None:
        """Write ``dropped``."""
        print_event("dropped", setting=drop.setting, reason=drop.reason)

    def see_answers(self, done: int, total: int) -> None:
        """Write ``answered``, at most a hundred times."""
        if done % max(1, total // 100) == 0 or done == total:
            print_event("answered", done=done, answers=total)


@contextmanager
def open_audience(*, jsonl: bool) -> Iterator[SweepAudience]:
    """Yield an audience that fits this terminal or pipe."""
    if jsonl:
        yield JsonAudience()
    elif sys.stderr.isatty():
        with _open_bar() as bar:
            yield TextAudience(bar.show, bar.note)
    else:
        lines = Lines(time.monotonic() + _LINE_EVERY_SECONDS)

        def show(text: str, done: float, total: float) -> None:
            now = time.monotonic()
            if lines.is_due(now) or done == total:
                lines.show(text, now, _LINE_EVERY_SECONDS)

        yield TextAudience(show, lambda text: click.echo(text, err=True))


class _SweepBar:
    """A bar in thousandths of a block, which rich's bar takes as whole numbers."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def show(self, text: str, done: float, total: float) -> None:
        self._bar.show(text, round(1000 * done), round(1000 * total))

    def note(self, text: str) -> None:
        self._bar.note(text)


@contextmanager
def _open_bar() -> Iterator[_SweepBar]:
    from rich.progress import BarColumn, TextColumn

    with open_bar(BarColumn(bar_width=8), TextColumn("{task.description}", markup=False)) as bar:
        yield _SweepBar(bar)
