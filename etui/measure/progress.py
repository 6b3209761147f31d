"""The progress of an experiment: one event that the terminal, the app and ``--jsonl`` show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of an experiment.

    An event with ``total`` replaces the last such one in a terminal, where it moves the bar; one
    without is a line that stays. ``fields`` is its JSON line; an event without has none.
    """

    text: str = ""  # A line for people; empty shows nothing
    done: float | None = None
    total: float | None = None  # The whole work, in the unit of `done`
    event: str = "note"  # Kind of the JSON line; empty if `fields` is all of it
    fields: Mapping[str, object] = field(default_factory=dict)


Watch = Callable[[Progress], None]
"""Shows progress; may be called from another thread, one call at a time."""


def watch_nothing(progress: Progress) -> None:
    """Show nothing."""
