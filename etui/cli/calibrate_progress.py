"""How a calibration shows: on stderr a bar with the time left or a line now and then, or JSON lines
on stdout for the program that started it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from etui.calibration.grid import Grid, Visit, expected_seconds, seconds_left
from etui.cli.progress import open_bar
from etui.curves.operating_curve import Speed
from etui.units import count_text, seconds_text

_LINES = 10
"""Lines of a whole calibration where there is no terminal."""


@contextmanager
def shown(
    model: str, order: Sequence[Visit], grid: Grid, speed: Speed, done: int
) -> Iterator[Callable[[int], None]]:
    """Say how long it will take, and hand out what is to be told how many points are done."""
    expected = expected_seconds(order[done:], grid, speed)
    begun = f" ({done} are there)" if done else ""
    points = count_text(len(order), "point")
    click.echo(f"{model}: {points}{begun}, about {seconds_text(expected)}; Ctrl-C stops", err=True)
    if sys.stderr.isatty():
        with _bar(model, order, grid, speed, done) as progress:
            yield progress
        return
    start = time.monotonic()
    every = max(1, len(order) // _LINES)

    def now_and_then(count: int) -> None:
        if count % every == 0 or count == len(order):
            elapsed = time.monotonic() - start
            left = seconds_text(seconds_left(order, done, count, elapsed, grid, speed))
            click.echo(f"{model}: {count} of {points}, about {left} left", err=True)

    yield now_and_then


@contextmanager
def told(
    model: str, order: Sequence[Visit], grid: Grid, speed: Speed, done: int
) -> Iterator[Callable[[int], None]]:
    """The same as JSON lines on stdout: ``done`` of ``points``, and ``seconds_left``."""
    start = time.monotonic()

    def tell(count: int, event: str = "measured") -> None:
        elapsed = time.monotonic() - start
        left = seconds_left(order, done, count, elapsed, grid, speed)
        rounded = None if left is None else round(left, 1)
        json_line(event, model=model, done=count, points=len(order), seconds_left=rounded)

    tell(done, "begun")
    yield tell


def json_line(event: str, **facts: object) -> None:
    """Print one JSON line, seen at once by whoever reads."""
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


@contextmanager
def _bar(
    model: str, order: Sequence[Visit], grid: Grid, speed: Speed, done: int
) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

    start = time.monotonic()
    with open_bar(
        TextColumn("{task.description}"),
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
