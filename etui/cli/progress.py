"""Show on stderr how far the work of a command is: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID


@contextmanager
def open_bar(*columns: ProgressColumn) -> Iterator[Bar]:
    """Open a bar on stderr, which is removed at the end.

    Args:
        columns: What a line of it consists of.
    """
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(progress)


class Bar:
    """One bar at a time; every step of the work has its own."""

    def __init__(self, progress: Progress) -> None:
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
        """Draw how far a step is.

        Args:
            description: Text of the bar.
            done: Work done, in any unit. What is done when a step begins is not part of its speed.
            total: The whole work; None where it is not known.
            step: Another value than before begins a new bar.
            fields: Values that the columns name.
        """
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
        self._progress.console.print(text, markup=False, highlight=highlight)


class Lines:
    """Lines at a distance from each other, in seconds, bytes or any other measure.

    Args:
        next_at: Where the first line is due.
    """

    def __init__(self, next_at: float = 0.0) -> None:
        self._next_at = next_at
        self._step: object = None

    def begin(self, step: object) -> bool:
        """Note which step the work is in; whether it is another than before."""
        changed, self._step = step != self._step, step
        return changed

    def is_due(self, at: float) -> bool:
        """Whether the distance from the last line is reached."""
        return at >= self._next_at

    def show(self, text: str, at: float, distance: float) -> None:
        """Print a line; the next one is due ``distance`` after ``at``."""
        click.echo(text, err=True)
        self._next_at = at + distance
