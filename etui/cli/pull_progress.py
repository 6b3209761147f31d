"""Show the progress of a download on stderr: a bar in a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import click

from etui.cli.progress import Bar, Lines, open_bar
from etui.models.download import Progress
from etui.units import bytes_text, percent_text

_WORDS = {"wait": "waiting", "download": "pulling", "verify": "checking"}
_LINE_EVERY = 0.1
"""Share of the file between two lines without a terminal."""


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that takes the progress of ``pull``; ``quiet`` shows failures only."""
    if quiet:
        yield _show_failure
    elif sys.stderr.isatty():
        with _open_bar() as bar:
            yield partial(_show_bar, bar)
    else:
        yield partial(_show_line, Lines())


def _show_failure(progress: Progress) -> None:
    if progress.step == "failed":
        click.echo(_format_failure(progress), err=True)


@contextmanager
def _open_bar() -> Iterator[Bar]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with open_bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ) as bar:
        yield bar


def _show_bar(bar: Bar, progress: Progress) -> None:
    """Show a bar for each step."""
    if progress.step == "failed":
        bar.note(_format_failure(progress), highlight=True)
        return
    bar.show(
        f"{_WORDS[progress.step]} {progress.model}",
        progress.done_bytes,
        progress.total_bytes,
        step=(progress.model, progress.step),
    )


def _show_line(lines: Lines, progress: Progress) -> None:
    """Print a line when a step begins and at every tenth of a download."""
    if progress.step == "failed":
        click.echo(_format_failure(progress), err=True)
        return
    total = progress.total_bytes or 0
    if lines.begin((progress.model, progress.step)):
        text = _format_first_line(progress)
    elif progress.step == "download" and total and lines.is_due(progress.done_bytes):
        share = min(1.0, progress.done_bytes / total)
        done = f"{bytes_text(progress.done_bytes)} of {bytes_text(total)}"
        text = f"{progress.model}: {done} ({percent_text(share)})"
    else:
        return
    lines.show(text, progress.done_bytes, total * _LINE_EVERY)


def _format_first_line(progress: Progress) -> str:
    line = f"{_WORDS[progress.step]} {progress.model}: {progress.note}"
    if progress.step == "download" and progress.done_bytes:
        line += f" (resuming at {bytes_text(progress.done_bytes)})"
    return line


def _format_failure(progress: Progress) -> str:
    return f"{progress.model}: {progress.note}"
