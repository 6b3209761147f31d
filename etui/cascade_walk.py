"""Walk a cascade: which arm follows, what forbids it, and whose answer is the turn's.

All of it is arithmetic over the arms that were asked. A live turn and the replay of a policy over a
table of answers decide by the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from etui.arm import Arm
from etui.routing.plan import Cascade

Failed = Literal["load", "answer"]
"""An arm whose model could not be loaded, or one that failed while it answered."""

Barred = Literal["hops", "spent", "predicted"]
"""What forbids an arm: the number of hops, the joules spent, or those it is expected to take."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of asking an arm.

    Attributes:
        arm: What was asked.
        probability: Calibrated probability of being right; None where nothing was fitted.
        accepted: Sure enough, so that no further arm is asked.
        usable: Its text can be the turn's answer: it is there, and nothing cut it off.
        answered: The text is an answer: a letter where options were given.
        failed: What it failed at; None if it did not.
    """

    arm: Arm
    probability: float | None
    accepted: bool
    usable: bool = True
    answered: bool = True
    failed: Failed | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What follows in a cascade.

    Attributes:
        arm: The next arm; None at the end.
        barred: What forbids to ask it; None if it is to be asked.
        predicted: Joules it is expected to take, where they forbid it.
    """

    arm: Arm | None = None
    barred: Barred | None = None
    predicted: float | None = None


def is_sure(cascade: Cascade, confidence: float | None, probability: float | None) -> bool:
    """Return whether an answer is sure enough to be accepted.

    Args:
        cascade: Whose ``accept_at`` it has to reach.
        confidence: Raw, 0..1; counts where nothing was fitted. None is never sure.
        probability: Calibrated; None where nothing was fitted.
    """
    sure = confidence if probability is None else probability
    return sure is not None and sure >= cascade.accept_at


def advance(
    cascade: Cascade,
    outcomes: Sequence[Outcome],
    spent: float | None,
    predict: Callable[[Arm], float | None],
) -> Step:
    """Decide what follows the arms that were asked.

    After an arm that failed the next one is asked whatever was spent, unless an answer is there
    already; arms of a model that could not be loaded are passed over.

    Args:
        cascade: The arms and their limits.
        outcomes: Of the arms that were asked, in order; none at the start.
        spent: Joules so far, loads included; None when unmeasured.
        predict: Joules an arm is expected to take; None where that is not known.
    """
    if not outcomes:
        return Step(cascade.arms[0])
    last = outcomes[-1]
    if last.accepted or (last.failed is not None and best_of(outcomes) is not None):
        return Step()
    asked = {outcome.arm.name for outcome in outcomes}
    at = [index for index, arm in enumerate(cascade.arms) if arm.name in asked]
    behind = cascade.arms[at[-1] + 1 :] if at else cascade.arms
    if last.failed == "load":
        behind = tuple(arm for arm in behind if arm.model != last.arm.model)
    if not behind:
        return Step()
    if last.failed is not None:
        return Step(behind[0])
    return _limited(cascade, behind[0], len(at), spent or 0.0, predict)


def best_of(outcomes: Sequence[Outcome]) -> int | None:
    """Return the index of the answer that is the turn's; None if there is no answer.

    It is the one that was accepted, or the one most likely right, of equals the later. Raw
    confidences of different ways of answering are not comparable, so where one is uncalibrated the
    later arm's is taken.
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


def _limited(
    cascade: Cascade,
    arm: Arm,
    hops: int,
    spent: float,
    predict: Callable[[Arm], float | None],
) -> Step:
    if hops >= cascade.max_hops:
        return Step(arm, "hops")
    if cascade.max_joules is None:
        return Step(arm)
    if spent >= cascade.max_joules:
        return Step(arm, "spent")
    predicted = predict(arm)
    if predicted is not None and spent + predicted > cascade.max_joules:
        return Step(arm, "predicted", predicted)
    return Step(arm)
