"""Show the progress of a sweep: a bar or lines on stderr, or JSON lines on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from etui.cli.common import print_event
from etui.cli.progress import Lines, open_bar

if TYPE_CHECKING:
    from etui.measure.progress import Progress, Watch

_LINE_EVERY_SECONDS = 10.0
_PARTS = 1000
"""Steps of a bar for each unit of work, as rich's bar takes whole numbers."""


@contextmanager
def open_watch(*, jsonl: bool) -> Iterator[Watch]:
    """Yield what shows progress in this terminal or pipe."""
    if jsonl:
        yield _print_fields
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, TextColumn

        columns = BarColumn(bar_width=8), TextColumn("{task.description}", markup=False)
        with open_bar(*columns) as bar:

            def show(progress: Progress) -> None:
                if progress.total is None:
                    bar.note(progress.text)
                else:
                    done, total = round(_PARTS * (progress.done or 0)), _PARTS * progress.total
                    bar.show(progress.text, done, round(total))

            yield show
    else:
        lines = Lines(time.monotonic() + _LINE_EVERY_SECONDS)

        def write(progress: Progress) -> None:
            now = time.monotonic()
            if progress.total is None:
                click.echo(progress.text, err=True)
            elif lines.is_due(now) or progress.done == progress.total:
                lines.show(progress.text, now, _LINE_EVERY_SECONDS)

        yield write


def _print_fields(progress: Progress) -> None:
    if progress.fields:
        print_event(progress.event, **progress.fields)
