"""How evenly a machine works through a run: drift, and its first answers beside the usual ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drift:
    """Cost of the last third of the answers relative to the first third, at equal tokens.

    Attributes:
        low_percent, high_percent: Ends of its interval.
    """

    percent: float  # Difference in per cent; 4 means that the last third cost 4 % more
    low_percent: float
    high_percent: float
    p: float  # Two-sided p-value of no difference


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Whether a machine worked evenly through the answers of one system."""

    is_steady: bool | None
    """True if every known drift is within the limit, False if one is shown to exist and may be
    beyond it, None if the answers cannot tell."""
    why: str  # The reason, in words
    answers: int  # Number of answers that were tested
    limit_percent: float  # The largest drift of a steady machine
    joules: Drift | None  # Drift of the joules; None if it cannot be computed
    seconds: Drift | None  # Drift of the time; None if it cannot be computed


@dataclass(frozen=True, slots=True)
class EarlyAnswer:
    """One of the first answers of a system, to compare with the later ones."""

    number: int  # 1 for the first answer
    joules: float | None  # Gross joules; None if unmeasured
    seconds: float
    output_tokens: int
    joules_per_output_token: float | None  # None if unmeasured or without output
    joules_per_token: float | None  # Joules per computed and output token; None if unmeasured
    percent_of_usual: float | None
    """Its joules in per cent of what the other answers of the run cost for as many tokens; None if
    that cannot be computed."""
