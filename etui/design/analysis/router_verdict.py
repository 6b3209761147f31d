"""What a router would have saved."""

from __future__ import annotations

from etui.design.analysis.routing import (
    BY_LENGTH,
    BY_SUBJECT,
    FRUGAL,
    MIXTURE,
    ORACLE,
    Replay,
    RoutedFigures,
)
from etui.design.analysis.statement import (
    UNDECIDED,
    UNKNOWN,
    Evidence,
    Statement,
    build_evidence,
    percent_change_text,
    points_text,
)
from etui.design.analysis.strategies import Strategy

ROUTER_NAMES = {
    ORACLE: "the oracle",
    FRUGAL: "the frugal oracle",
    MIXTURE: "the best random mixture of arms",
    BY_SUBJECT: "a router by subject",
    BY_LENGTH: "a router by prompt length",
}

_NOTES = {
    ORACLE: " It takes the cheapest right arm of each question and knows every outcome, lucky "
    "guesses included; no router reaches it.",
    FRUGAL: " It takes the cheapest right arm where {reference} is right and the cheapest arm "
    "elsewhere: a bound on what a router could save without getting fewer right.",
}
_TOLERATED = 0.03
"""Loss of accuracy, as a share, up to which an interval shows a router to be no worse."""


def judge_replay(replay: Replay) -> list[Statement]:
    """Say what each way to choose an arm would have saved."""
    if replay.why_not or replay.reference is None:
        text = f"Nothing can be said about a router: {replay.why_not}."
        return [Statement("router", "", UNKNOWN, text, (), (), replay.questions)]
    return [_judge_router(one, replay, replay.reference) for one in replay.routed]


def _judge_router(one: RoutedFigures, replay: Replay, reference: Strategy) -> Statement:
    saved = build_evidence("saved joules", "share", one.saved)
    change = build_evidence("accuracy", "points", one.difference)
    lead = (
        () if one.lead is None else (build_evidence("lead over the mixture", "points", one.lead),)
    )
    name = ROUTER_NAMES[one.name].capitalize()
    words = {1: "more right", -1: "fewer right"}.get(change.side, change.note)
    accuracy = f"{points_text(change)} ({words})"
    of = f"of the joules of {reference.label}"
    if saved.side > 0:
        outcome = _name_saving(change)
        text = f"{name} would have saved {percent_change_text(saved)} {of} at {accuracy}."
    elif saved.side < 0:
        more = Evidence("", "share", -saved.value, _negate(saved.high), _negate(saved.low))
        outcome = "uses more"
        text = (
            f"{name} would have used {percent_change_text(more)} more joules than "
            f"{reference.label} at {accuracy}."
        )
    else:
        outcome = UNDECIDED
        text = (
            f"{name} saves nothing that can be claimed: {percent_change_text(saved)} {of} at "
            f"{accuracy}."
        )
    if set(one.shares) == {reference.arm}:
        text = f"{name} takes {reference.label} for every question, and so saves nothing."
    elif lead:
        text += (
            f" Against a random mixture of arms for the same joules it is at {points_text(lead[0])}"
            f"{_bracket(lead[0].note)}."
        )
    text += _NOTES.get(one.name, "").format(reference=reference.label)
    decisive: tuple[str, ...] = (saved.name,) if saved.side else ()
    if outcome == "saves at a loss":
        decisive = (saved.name, change.name)
    return Statement(
        "router", one.name, outcome, text, (saved, change, *lead), decisive, replay.questions
    )


def _name_saving(change: Evidence) -> str:
    if change.side < 0:
        return "saves at a loss"
    if change.low is not None and change.low > -_TOLERATED:
        return "saves"
    return "saves, accuracy undecided"


def _bracket(note: str) -> str:
    return f" ({note})" if note else ""


def _negate(value: float | None) -> float | None:
    return None if value is None else -value
