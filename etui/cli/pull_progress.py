"""How a pull shows on stderr: a bar in a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from etui.download import Progress
from etui.units import bytes_text, percent_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_WORDS = {"wait": "waiting", "download": "pulling", "verify": "checking"}
_LINE_EVERY = 0.1
"""Share of the file between two lines where there is no terminal."""


@contextmanager
def shown(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """What to hand to ``pull`` as its progress."""
    if quiet:
        yield _only_failures
    elif sys.stderr.isatty():
        with _bars() as bars:
            yield _Bar(bars)
    else:
        yield _Lines()


def _only_failures(progress: Progress) -> None:
    if progress.step == "failed":
        click.echo(f"{progress.model}: {progress.note}", err=True)


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class _Bar:
    """One bar a step; a step that is done gives way to the next."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._step: tuple[str, str] | None = None

    def __call__(self, progress: Progress) -> None:
        if progress.step == "failed":
            self._bars.console.print(f"{progress.model}: {progress.note}", markup=False)
            return
        if self._step != (progress.model, progress.step):
            self._step = (progress.model, progress.step)
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            words = f"{_WORDS[progress.step]} {progress.model}"
            # The bytes of an earlier attempt are there at once: they are no speed.
            self._bars.add_task(words, completed=progress.done_bytes, total=progress.total_bytes)
        self._bars.update(
            self._bars.task_ids[0], completed=progress.done_bytes, total=progress.total_bytes
        )


class _Lines:
    """A line when a step begins and at every tenth of it."""

    def __init__(self) -> None:
        self._step: tuple[str, str] | None = None
        self._next_bytes = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.step == "failed":
            click.echo(f"{progress.model}: {progress.note}", err=True)
            return
        total = progress.total_bytes or 0
        if self._step != (progress.model, progress.step):
            self._step = (progress.model, progress.step)
            click.echo(self._first(progress), err=True)
        elif progress.step == "download" and total and progress.done_bytes >= self._next_bytes:
            share = min(1.0, progress.done_bytes / total)
            done = f"{bytes_text(progress.done_bytes)} of {bytes_text(total)}"
            click.echo(f"{progress.model}: {done} ({percent_text(share)})", err=True)
        else:
            return
        self._next_bytes = progress.done_bytes + total * _LINE_EVERY

    def _first(self, progress: Progress) -> str:
        line = f"{_WORDS[progress.step]} {progress.model}: {progress.note}"
        if progress.step == "download" and progress.done_bytes:
            line += f" (going on from {bytes_text(progress.done_bytes)})"
        return line
