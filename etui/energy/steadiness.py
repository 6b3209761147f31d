"""How evenly a machine works through a run: drift, and its first answers beside the usual ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drift:
    """Cost of the last third of the answers relative to the first third, at equal tokens.

    Attributes:
        percent: Difference in per cent; 4 means that the last third cost 4 % more.
        low_percent, high_percent: Ends of its interval.
        p: Two-sided p-value of no difference.
    """

    percent: float
    low_percent: float
    high_percent: float
    p: float


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Whether a machine worked evenly through the answers of one system.

    Attributes:
        is_steady: True if every known drift is within the limit, False if one is shown to exist and
            may be beyond it, None if the answers cannot tell.
        why: The reason, in words.
        answers: Number of answers that were tested.
        limit_percent: The largest drift of a steady machine.
        joules: Drift of the joules; None if it cannot be computed.
        seconds: Drift of the time; None if it cannot be computed.
    """

    is_steady: bool | None
    why: str
    answers: int
    limit_percent: float
    joules: Drift | None
    seconds: Drift | None


@dataclass(frozen=True, slots=True)
class EarlyAnswer:
    """One of the first answers of a system, to compare with the later ones.

    Attributes:
        number: 1 for the first answer.
        joules: Gross joules; None if unmeasured.
        seconds: Duration.
        output_tokens: Thinking and answer tokens.
        joules_per_output_token: None if unmeasured or without output.
        joules_per_token: Joules per computed and output token; None if unmeasured.
        percent_of_usual: Its joules in per cent of what the other answers of the run cost for as
            many tokens; None if that cannot be computed.
    """

    number: int
    joules: float | None
    seconds: float
    output_tokens: int
    joules_per_output_token: float | None
    joules_per_token: float | None
    percent_of_usual: float | None
