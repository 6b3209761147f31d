"""How a calibration shows on stderr: a bar with the time left, or a line now and then."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from etui.energy.curve import Speed
from etui.energy.curve_plan import Grid, Visit, expected_seconds, seconds_left
from etui.units import count_text, seconds_text

_LINES = 10
"""Lines of a whole calibration where there is no terminal."""


@contextmanager
def stop_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal stop it as Ctrl-C does, so that its points are kept."""
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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

    def line(count: int) -> None:
        if count % every == 0 or count == len(order):
            elapsed = time.monotonic() - start
            left = seconds_text(seconds_left(order, done, count, elapsed, grid, speed))
            click.echo(f"{model}: {count} of {points}, about {left} left", err=True)

    yield line


@contextmanager
def _bar(
    model: str, order: Sequence[Visit], grid: Grid, speed: Speed, done: int
) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        task = bars.add_task(f"calibrating {model}", total=len(order), completed=done, left="")

        start = time.monotonic()

        def update(count: int) -> None:
            elapsed = time.monotonic() - start
            left = seconds_text(seconds_left(order, done, count, elapsed, grid, speed))
            bars.update(task, completed=count, left=f"{left} left")

        update(done)
        yield update
