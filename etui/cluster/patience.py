"""How long a node may be silent, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass

MOST_DEATHS = 3
"""Deaths in a row, without an answer between them, after which a node is given up."""

MOST_LOSSES = 3
"""Losses of one piece after which the run ends: the piece, not the nodes, is the cause."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of silence, in seconds."""

    ready: float = 60.0  # Until the process of a node has started and said its versions
    opening: float = 600.0  # Between two messages while models are pulled and loaded
    first: float = 600.0  # Until the first answer of a node of which no answer is known
    least: float = 60.0  # Between two answers; the floor under `factor`
    factor: float = 20.0  # Times the longest time between two answers so far
    stopping: float = 10.0  # For the end of the current question after the run was stopped

    def limit_silence(self, longest_seconds: float | None) -> float:
        """Return how long a node may be silent while it answers.

        Args:
            longest_seconds: Its longest time to an answer so far; None before the first.
        """
        if longest_seconds is None:
            return self.first
        return max(self.least, self.factor * longest_seconds)


DEFAULT_PATIENCE = Patience()


def build_patience(seconds: float | None) -> Patience:
    """Build the limits from the one a user gives; None takes the defaults."""
    if seconds is None:
        return DEFAULT_PATIENCE
    # The factor stays: a node that is known to be slow is not silent.
    return Patience(ready=seconds, opening=seconds, first=seconds, least=seconds)
