"""How a pull shows on stderr: a bar in a terminal, a line now and then elsewhere, or nothing."""

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
"""Share of the file between two lines where there is no terminal."""


@contextmanager
def shown(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Yield what to hand to ``pull`` as its progress."""
    if quiet:
        yield _only_failures
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield partial(_show_bar, bar)
    else:
        yield partial(_show_line, Lines())


def _only_failures(progress: Progress) -> None:
    if progress.step == "failed":
        click.echo(_failure(progress), err=True)


@contextmanager
def _bar() -> Iterator[Bar]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    with open_bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ) as bar:
        yield bar


def _show_bar(bar: Bar, progress: Progress) -> None:
    """Show a bar for each step."""
    if progress.step == "failed":
        bar.note(_failure(progress), highlight=True)
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
        click.echo(_failure(progress), err=True)
        return
    total = progress.total_bytes or 0
    if lines.begin((progress.model, progress.step)):
        text = _first_line(progress)
    elif progress.step == "download" and total and lines.is_due(progress.done_bytes):
        share = min(1.0, progress.done_bytes / total)
        done = f"{bytes_text(progress.done_bytes)} of {bytes_text(total)}"
        text = f"{progress.model}: {done} ({percent_text(share)})"
    else:
        return
    lines.show(text, progress.done_bytes, total * _LINE_EVERY)


def _first_line(progress: Progress) -> str:
    line = f"{_WORDS[progress.step]} {progress.model}: {progress.note}"
    if progress.step == "download" and progress.done_bytes:
        line += f" (going on from {bytes_text(progress.done_bytes)})"
    return line


def _failure(progress: Progress) -> str:
    return f"{progress.model}: {progress.note}"
