"""Show the progress of a command on stderr: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from etui.cli.common import print_event, print_json_line
from etui.cli.streams import control_stream
from etui.measure.progress import Progress, Watch, watch_nothing
from etui.text import sanitize
from etui.units import percent_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn, TaskID

_LINE_EVERY_SECONDS = 10.0


@contextmanager
def open_bar(*columns: ProgressColumn) -> Iterator[Bar]:
    """Open a bar on stderr, which is removed at the end."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=control_stream(err=True))
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress)


@contextmanager
def count_progress(description: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show how many of a number of things are done, as a bar in a terminal and nowhere else.

    The bar opens with the first count that is not the last one, so short work shows none.

    Yields:
        A function that takes the number of things done and the number of all.
    """
    with ExitStack() as stack:
        bars: list[Bar] = []

        def show(done: int, total: int) -> None:
            if not bars and done < total and shown and sys.stderr.isatty():
                bars.append(stack.enter_context(_open_count_bar()))
            for bar in bars:
                bar.show(description, done, total)

        yield show


@contextmanager
def _open_count_bar() -> Iterator[Bar]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    with open_bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ) as bar:
        yield bar


@contextmanager
def open_watch(*, jsonl: bool = False, texts: bool = True) -> Iterator[Watch]:
    """Yield what shows the progress of an experiment.

    Args:
        jsonl: Whether its JSON lines are printed on stdout.
        texts: Whether its texts are shown on stderr: as a bar in a terminal, at most one line of
            ten seconds elsewhere.
    """
    from rich.progress import BarColumn, TextColumn

    with ExitStack() as stack:
        show: Watch = watch_nothing
        if texts and sys.stderr.isatty():
            columns = BarColumn(bar_width=8), TextColumn("{task.description}", markup=False)
            show = partial(_show_in_bar, stack.enter_context(open_bar(*columns)))
        elif texts:
            show = partial(_show_as_line, Lines(time.monotonic() + _LINE_EVERY_SECONDS))

        def watch(progress: Progress) -> None:
            if jsonl and progress.fields and progress.event:
                print_event(progress.event, **progress.fields)
            elif jsonl and progress.fields:
                print_json_line(progress.fields)
            if progress.text:
                show(progress)

        yield watch


def _show_in_bar(bar: Bar, progress: Progress) -> None:
    if progress.total is None or progress.done is None:
        bar.note(progress.text)
    else:  # in thousandths, since rich's bar takes whole numbers
        bar.show(progress.text, round(1000 * progress.done), round(1000 * progress.total))


def _show_as_line(lines: Lines, progress: Progress) -> None:
    if progress.total is None or progress.done is None:
        click.echo(progress.text, err=True)
        return
    now = time.monotonic()
    if lines.is_due(now) or progress.done == progress.total:
        share = percent_text(progress.done / progress.total) if progress.total else ""
        lines.show(f"{share} · {progress.text}", now, _LINE_EVERY_SECONDS)


class Bar:
    """A progress bar that starts again at every step of the work."""

    def __init__(self, progress: RichProgress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._step: object = None

    def show(
        self,
        description: str,
        done: int,
        total: int | None,
        *,
        step: object = None,
        **fields: Any,
    ) -> None:
        """Draw the progress of a step.

        Args:
            done: Work done, in any unit. Work from before the step does not count in its speed.
            total: The whole work; None if it is not known.
            step: A value other than the last one starts a new bar.
        """
        description = sanitize(description)
        if self._task is not None and step != self._step:
            self._progress.remove_task(self._task)
            self._task = None
        if self._task is None:
            self._step = step
            self._task = self._progress.add_task(description, completed=done, total=total, **fields)
        self._progress.update(
            self._task, description=description, completed=done, total=total, **fields
        )

    def note(self, text: str, *, highlight: bool = False) -> None:
        """Print a line above the bar; ``highlight`` colours its numbers and names."""
        self._progress.console.print(sanitize(text), markup=False, highlight=highlight)


class Lines:
    """Progress lines at a minimum distance, in seconds, bytes or any other measure.

    Args:
        next_at: Position at which the first line is due.
    """

    def __init__(self, next_at: float = 0.0) -> None:
        self._next_at = next_at
        self._step: object = None

    def begin(self, step: object) -> bool:
        """Record the current step; return whether it differs from the last one."""
        changed, self._step = step != self._step, step
        return changed

    def is_due(self, at: float) -> bool:
        """Return whether the distance from the last line is reached."""
        return at >= self._next_at

    def show(self, text: str, at: float, distance: float) -> None:
        """Print a line; the next one is due ``distance`` after ``at``."""
        click.echo(text, err=True)
        self._next_at = at + distance
