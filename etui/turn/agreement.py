"""Judge a step of several answers: whether they agree, and whether that makes them sure enough.

A live turn and a replay call the same functions, so that both walk a cascade alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from etui.arm import Arm
from etui.routing.limits import Agreement, Cascade
from etui.routing.prediction import PredictedAgreement, RawConfidence

PredictAgreement = Callable[[Sequence[Arm], Sequence[RawConfidence]], PredictedAgreement | None]
"""Predicts how likely an agreed answer is right; see ``Predictor.agreement``."""

Together = Literal["open", "agreed", "apart"]
"""Whether the answers of a step agree; ``open`` while another one may still decide."""

Failed = Literal["load", "answer"]
"""Where an arm failed: while loading its model, or while answering."""

ALL_VOTES = 1.0 - 1e-9
"""Share of the votes from which all of them are for one answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of asking an arm.

    Attributes:
        confidence, margin: Raw confidence and margin of the answer; None without one.
    """

    arm: Arm
    probability: float | None  # Calibrated probability of being right; None without a fit
    accepted: bool  # Sure enough, so that no further arm is needed
    usable: bool = True
    """Its text can be the answer of the turn: not empty, and without a failure or a stop."""
    answered: bool = True  # The text is an answer: a letter if the question has options
    failed: Failed | None = None  # Where it failed; None if it did not
    key: str | None = None
    """What the answer is compared by: a letter, a number, words; None without an answer."""
    confidence: float | None = None
    margin: float | None = None
    together: Together | None = None
    """Whether the answers of its step agree; None for an arm that is its own step."""


def settle(
    cascade: Cascade | None, outcomes: Sequence[Outcome], predict: PredictAgreement
) -> list[Outcome]:
    """Judge the step of the last outcome, if it is a step of several answers.

    While another answer may decide, none is accepted. An answer that all arms agree on is accepted
    if its probability of being right reaches that of the step: calibrated if the arms were fitted
    together, else the highest of their own confidences. Where they differ, none is accepted, and
    each has the probability of being right in spite of that. A step with an arm that failed is not
    judged: the others count like any arm of the cascade.

    Args:
        cascade: The cascade; None for a single arm.
        outcomes: The outcomes so far, in order.
        predict: Predicts the probability of an agreed answer.

    Returns:
        The outcomes with the probabilities and the verdict of that step.
    """
    found = list(outcomes)
    step = cascade.find_agreement(found[-1].arm.name) if cascade is not None and found else None
    if cascade is None or step is None:
        return found
    # An arm that was asked again for its letter counts with its last answer.
    places = {each.arm.name: at for at, each in enumerate(found) if each.arm.name in step.arms}
    given = [found[at] for at in places.values()]
    if any(each.failed is not None for each in given):
        return found
    together = compare(step, given)
    if together == "open":
        for at in places.values():
            found[at] = replace(found[at], accepted=False, together=together)
        return found
    asked = {each.arm.name: each.arm for each in given}
    arms = [asked.get(arm.name, arm) for arm in cascade.arms if arm.name in step.arms]
    raw = [(each.confidence, each.margin) for each in given] if together == "agreed" else []
    odds = predict(arms, raw)
    last = max(places.values())
    for name, at in places.items():
        each = found[at]
        probability = each.probability
        if odds is not None:
            alone = odds.apart[step.arms.index(name)]
            probability = odds.agreed if together == "agreed" else alone
        accepted = at == last and together == "agreed" and _is_sure(step, odds, given)
        found[at] = replace(each, probability=probability, accepted=accepted, together=together)
    return found


def compare(step: Agreement, given: Sequence[Outcome]) -> Together:
    """Compare the answers of a step so far; it is decided as soon as one differs or is missing."""
    if len(step.arms) == 1:
        confidence = given[0].confidence
        whole = confidence is not None and confidence >= ALL_VOTES
        return "agreed" if given[0].key is not None and whole else "apart"
    if any(each.key is None or each.key != given[0].key for each in given):
        return "apart"
    return "agreed" if len(given) == len(step.arms) else "open"


def draw_until_one_differs(cascade: Cascade | None, arm: Arm) -> Arm:
    """Return the arm; of a step of votes, one that stops at the first vote that differs.

    The other votes can no longer all agree, so they would be spent in vain.
    """
    step = cascade.find_agreement(arm.name) if cascade is not None else None
    if step is None or len(step.arms) > 1:
        return arm
    return replace(arm, stop=replace(arm.stop, rule="unanimous"))


def _is_sure(step: Agreement, odds: PredictedAgreement | None, given: Sequence[Outcome]) -> bool:
    if odds is not None:
        return odds.agreed >= step.accept_at
    known = [each.confidence for each in given if each.confidence is not None]
    return bool(known) and max(known) >= step.accept_at


def describe_agreement(step: Agreement, outcome: Outcome) -> str:
    """Describe what became of a step: ``agrees with quick``, ``differs from quick``."""
    others = " and ".join(name for name in step.arms if name != outcome.arm.name)
    if outcome.together == "agreed":
        return f"agrees with {others}" if others else "all its votes agree"
    if outcome.together == "apart":
        if outcome.key is None:
            return "without an answer to compare"
        return f"differs from {others}" if others else "its votes differ"
    return ""
