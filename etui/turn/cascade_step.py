"""Walk a cascade over the outcomes of its arms: which arm follows, and which answer counts.

A live turn and a replay call the same functions, so that both walk a cascade alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from etui.arm import Arm
from etui.routing.limits import Cascade
from etui.turn.agreement import Outcome

Barred = Literal["hops", "spent", "predicted"]
"""The limit that prevents an arm: number of hops, joules spent, or joules predicted for it."""


@dataclass(frozen=True, slots=True)
class CascadeStep:
    """What follows in a cascade."""

    arm: Arm | None = None  # The next arm; None at the end
    barred: Barred | None = None  # The limit that prevents it; None if it runs
    predicted: float | None = None  # Its predicted joules, if they are what prevents it


def is_sure(cascade: Cascade, confidence: float | None, probability: float | None) -> bool:
    """Return whether an answer is sure enough to be accepted.

    Args:
        cascade: The cascade with the threshold ``accept_at``.
        confidence: Raw confidence, 0..1, used without a fit. None is never sure.
        probability: Calibrated probability; None without a fit.
    """
    sure = confidence if probability is None else probability
    return sure is not None and sure >= cascade.accept_at


def advance(
    cascade: Cascade,
    outcomes: Sequence[Outcome],
    spent: float | None,
    predict: Callable[[Arm], float | None],
) -> CascadeStep:
    """Decide what follows the arms that have run.

    After a failed arm the next one runs regardless of the joules spent, unless there is an answer
    already; arms of a model that could not be loaded are skipped.

    Args:
        cascade: The arms and their limits.
        outcomes: Outcomes of the arms that have run, in order; empty at the start.
        spent: Joules so far, loads included; None if unmeasured.
        predict: Predicts the joules of an arm; returns None if unknown.
    """
    if not outcomes:
        return CascadeStep(cascade.arms[0])
    last = outcomes[-1]
    if last.accepted or (last.failed is not None and find_best_outcome(outcomes) is not None):
        return CascadeStep()
    asked = {outcome.arm.name for outcome in outcomes}
    at = [index for index, arm in enumerate(cascade.arms) if arm.name in asked]
    behind = cascade.arms[at[-1] + 1 :] if at else cascade.arms
    step = cascade.find_agreement(last.arm.name)
    if step is not None and last.together == "apart":  # no other answer can make them agree
        behind = tuple(arm for arm in behind if arm.name not in step.arms)
    if last.failed == "load":
        behind = tuple(arm for arm in behind if arm.model != last.arm.model)
    if not behind:
        return CascadeStep()
    if last.failed is not None:
        return CascadeStep(behind[0])
    following = _list_step(cascade, behind)
    return _apply_limits(cascade, following, len(at), spent or 0.0, predict)


def _list_step(cascade: Cascade, behind: Sequence[Arm]) -> tuple[Arm, ...]:
    """Return the arms that are still to be asked in the step of the next arm, that arm first."""
    step = cascade.find_agreement(behind[0].name)
    if step is None:
        return (behind[0],)
    return tuple(arm for arm in behind if arm.name in step.arms)


def find_best_outcome(outcomes: Sequence[Outcome]) -> int | None:
    """Return the index of the answer of the turn; None if there is no answer.

    It is the accepted one, or the one most likely right; of equals the later one. Raw confidences
    of different reasoning methods are not comparable, so if one of them is uncalibrated, the last
    answer is used.
    """
    answers = [index for index, outcome in enumerate(outcomes) if outcome.usable]
    answers = [index for index in answers if outcomes[index].answered] or answers
    if not answers:
        return None
    accepted = [index for index in answers if outcomes[index].accepted]
    if accepted:
        return accepted[-1]
    ranked = [(outcomes[index].probability, index) for index in answers]
    calibrated = [(p, index) for p, index in ranked if p is not None]
    return max(calibrated)[1] if len(calibrated) == len(answers) else answers[-1]


def _apply_limits(
    cascade: Cascade,
    following: Sequence[Arm],
    hops: int,
    spent: float,
    predict: Callable[[Arm], float | None],
) -> CascadeStep:
    """Check the limits for the rest of a step: one that cannot be finished is not started."""
    arm = following[0]
    if hops + len(following) > cascade.max_hops:
        return CascadeStep(arm, "hops")
    if cascade.max_joules is None:
        return CascadeStep(arm)
    if spent >= cascade.max_joules:
        return CascadeStep(arm, "spent")
    known = [joules for each in following if (joules := predict(each)) is not None]
    predicted = sum(known) if known else None
    if predicted is not None and spent + predicted > cascade.max_joules:
        return CascadeStep(arm, "predicted", predicted)
    return CascadeStep(arm)
