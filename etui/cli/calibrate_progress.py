"""Show the progress of a calibration: a bar or lines on stderr, or JSON lines on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from etui.calibration.grid import Grid, Visit, expected_seconds, seconds_left
from etui.cli.common import print_event
from etui.cli.progress import open_bar
from etui.curves.operating_curve import Speed
from etui.units import count_text, seconds_text

_LINES = 10
"""Number of lines for a whole calibration without a terminal."""


@contextmanager
def show_progress(
    model: str, order: Sequence[Visit], grid: Grid, speed: Speed, done: int
) -> Iterator[Callable[[int], None]]:
    """Print the expected time on stderr; yield a function that takes the number of points done."""
    expected = expected_seconds(order[done:], grid, speed)
    begun = f" ({done} already measured)" if done else ""
    points = count_text(len(order), "point")
    click.echo(f"{model}: {points}{begun}, about {seconds_text(expected)}; Ctrl-C stops", err=True)
    if sys.stderr.isatty():
        with _open_bar(model, order, grid, speed, done) as progress:
            yield progress
        return
    start = time.monotonic()
    every = max(1, len(order) // _LINES)

    def show_line(count: int) -> None:
        if count % every == 0 or count == len(order):
            elapsed = time.monotonic() - start
            left = seconds_text(seconds_left(order, done, count, elapsed, grid, speed))
            click.echo(f"{model}: {count} of {points}, about {left} left", err=True)

    yield show_line


@contextmanager
def print_progress_lines(
    model: str, order: Sequence[Visit], grid: Grid, speed: Speed, done: int
) -> Iterator[Callable[[int], None]]:
    """Do the same as JSON lines on stdout, with ``done``, ``points`` and ``seconds_left``.

    ``next`` has the lengths of the next measurement; null after the last.
    """
    start = time.monotonic()

    def print_count(count: int, event: str = "measured") -> None:
        elapsed = time.monotonic() - start
        left = seconds_left(order, done, count, elapsed, grid, speed)
        rounded = None if left is None else round(left, 1)
        coming = order[count].length if count < len(order) else None
        lengths = (
            None
            if coming is None
            else {"prompt_tokens": coming.computed, "output_tokens": coming.output}
        )
        print_event(
            event,
            model=model,
            done=count,
            points=len(order),
            seconds_left=rounded,
            next=lengths,
        )

    print_count(done, "begun")
    yield print_count


@contextmanager
def _open_bar(
    model: str, order: Sequence[Visit], grid: Grid, speed: Speed, done: int
) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    start = time.monotonic()
    with open_bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    ) as bar:

        def update(count: int) -> None:
            elapsed = time.monotonic() - start
            left = seconds_text(seconds_left(order, done, count, elapsed, grid, speed))
            bar.show(f"calibrating {model}", count, len(order), left=f"{left} left")

        update(done)
        yield update
