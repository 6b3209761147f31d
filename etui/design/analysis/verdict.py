"""The verdict: sentences that follow from intervals by fixed rules.

A difference is claimed only if its interval excludes no difference and its test, adjusted for
everything looked at together, is below 5 %. Anything else is undecided, with the number of
questions that would decide it. Every sentence names its figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etui.design.analysis.band_verdict import judge_bands
from etui.design.analysis.bands import Bands
from etui.design.analysis.curve_verdict import judge_curves
from etui.design.analysis.operating_curves import ModelCurve
from etui.design.analysis.router_verdict import judge_replay
from etui.design.analysis.routing import BY_SUBJECT, Replay
from etui.design.analysis.statement import Statement
from etui.design.analysis.thinking_verdict import (
    Comparisons,
    judge_arms,
    judge_replacements,
    judge_thinking,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """All sentences."""

    headline: str  # The answer to the question of the design, in one sentence
    statements: tuple[Statement, ...]
    """Thinking, replacement, places, routers, curves, and every arm, in this order."""

    def about(self, *topics: str) -> tuple[Statement, ...]:
        """Return the statements about some topics."""
        return tuple(one for one in self.statements if one.about in topics)

    @property
    def summary(self) -> tuple[Statement, ...]:
        """The sentences that answer the question: those of the other places follow below them.

        They are about thinking, replacement, groups (subjects without groups), and the router by
        subject, or why there is none.
        """
        places = self.about("band")
        first = places[0].what if places else ""
        return (
            *self.about("thinking", "replacement"),
            *(one for one in places if one.what == first),
            *(one for one in self.about("router") if one.subject in (BY_SUBJECT, "")),
        )


def reach_verdict(
    comparisons: Comparisons,
    bands: Sequence[Bands],
    replay: Replay,
    curves: Sequence[ModelCurve],
    kind: str | None,
) -> Verdict:
    """Derive the verdict from the figures.

    Args:
        comparisons: The arms against each other.
        bands: Differences by group and by subject.
        kind: Kind of the joules.
    """
    thinking = judge_thinking(comparisons)
    return Verdict(
        _write_headline(thinking),
        (
            *thinking,
            *judge_replacements(comparisons),
            *(one for inside in bands for one in judge_bands(inside, kind)),
            *judge_replay(replay),
            *judge_curves(curves),
            *judge_arms(comparisons),
        ),
    )


_HEADLINES = {
    "pays": "pays for",
    "does not pay": "does not pay for",
    "undecided": "is undecided for",
    "unknown": "is not judged for",
}


def _write_headline(thinking: Sequence[Statement]) -> str:
    if not thinking:
        return "No arm of this run thinks"
    roles: dict[str, list[str]] = {}
    for one in thinking:
        roles.setdefault(one.outcome, []).append(one.subject)
    parts = [
        f"{words} {' and '.join(roles[outcome])}"
        for outcome, words in _HEADLINES.items()
        if outcome in roles
    ]
    return f"Thinking {', and '.join(parts)}"
