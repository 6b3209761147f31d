"""Walk the decision for one question over a table of answers, as a turn does, and charge all of it.

Every arm that answers is charged, whether its answer is taken or not; so are both arms of a step
whose answers are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.arm import Arm
from etui.chat import Query
from etui.routing.decision import Decision
from etui.routing.limits import Cascade
from etui.routing.prediction import Predictor
from etui.turn.agreement import Outcome, settle
from etui.turn.cascade_step import advance, find_best_outcome, is_sure

if TYPE_CHECKING:
    from etui.routing.accuracy.table import Graded
    from etui.stats.arrays import Floats


@dataclass(frozen=True, slots=True)
class Walk:
    """The walk of one question through a policy."""

    column: int  # Column of the arm whose answer was kept
    hops: int  # Number of arms that answered
    cost: float
    assumed: bool = False
    """Arms that are all wrong were taken to agree, as their answers are not known, and their answer
    was accepted."""
    held_back: bool = False
    """An agreed answer was not accepted, by a share that is the least it can be."""
    without_letter: int = 0  # Answers without a letter, which a turn may ask for once more


def walk_decision(
    decision: Decision, row: int, graded: Graded, cost: Floats, predictor: Predictor
) -> Walk | str:
    """Return the walk of a question; or the name of an arm that is not in the table."""
    cascade = decision.cascade
    if cascade is None or (graded.confidence is None and not cascade.agreements):
        name = decision.arm.name
        if name not in graded.arms:
            return name
        column = graded.arms.index(name)
        return Walk(
            column, 1, float(cost[row, column]), without_letter=_lacks_letter(graded, row, column)
        )
    keep = decision.fallbacks.no_answer == "keep"
    return walk_cascade(cascade, row, graded, cost, predictor, keep=keep)


def walk_cascade(
    cascade: Cascade,
    row: int,
    graded: Graded,
    cost: Floats,
    predictor: Predictor,
    *,
    keep: bool = True,
) -> Walk | str:
    """Walk a cascade as a turn does, with the answers of the table.

    ``keep`` lets an answer without a letter be sure enough, as the fallback of that name does.
    """
    spent, lacking = 0.0, 0
    outcomes: list[Outcome] = []

    def predict(arm: Arm) -> float | None:
        predicted = predictor.joules(arm, Query("?"))
        return None if predicted is None else predicted.total

    while True:
        step = advance(cascade, outcomes, spent, predict)
        if step.arm is None or step.barred == "hops":
            break
        if step.arm.name not in graded.arms:
            return step.arm.name
        if step.barred is not None:
            break
        column = graded.arms.index(step.arm.name)
        spent += float(cost[row, column])
        confidence = _value_or_none(graded.confidence, row, column)
        margin = _value_or_none(graded.margin, row, column)
        probability = predictor.calibrated(step.arm, confidence, margin)
        lacks = _lacks_letter(graded, row, column)
        lacking += lacks
        accepted = is_sure(cascade, confidence, probability) and (keep or not lacks)
        outcome = Outcome(
            step.arm,
            probability,
            accepted,
            answered=not lacks,
            key=_read_key(graded, row, column),
            confidence=confidence,
            margin=margin,
        )
        outcomes = settle(cascade, [*outcomes, outcome], predictor.agreement)
    best = find_best_outcome(outcomes)
    assert best is not None
    agreed = [each for each in outcomes if each.together == "agreed" and graded.answers is None]
    taken = any(each.accepted for each in agreed)
    assumed = taken and any(each.key == _WRONG for each in agreed)
    held_back = bool(agreed) and not taken
    column = graded.arms.index(outcomes[best].arm.name)
    return Walk(column, len(outcomes), spent, assumed, held_back, lacking)


_RIGHT, _WRONG = "right", "wrong"
"""What answers are compared by where only right and wrong are known."""


def _read_key(graded: Graded, row: int, column: int) -> str | None:
    """Return what an answer is compared by; of answers that are not known all wrong ones agree."""
    if graded.answers is None:
        return _RIGHT if graded.correct[row, column] else _WRONG
    number = int(graded.answers[row, column])
    return str(number) if number >= 0 else None


def _lacks_letter(graded: Graded, row: int, column: int) -> bool:
    """Return whether a multiple choice is known to be without an answer."""
    options = bool(graded.questions) and bool(graded.questions[row].options)
    return options and graded.answers is not None and int(graded.answers[row, column]) < 0


@dataclass(slots=True)
class WalkNotes:
    """Counts what a table cannot say of the walks, for the notes of a report."""

    graded: Graded
    blind: int = 0
    unsure: int = 0
    assumed: int = 0
    held_back: int = 0
    asked_again: int = 0

    def add(self, decision: Decision, walk: Walk) -> None:
        """Count a walk."""
        cascade = decision.cascade
        if cascade is not None and self.graded.confidence is None:
            self.blind += not cascade.agreements
            self.unsure += bool(cascade.agreements)
        self.assumed += walk.assumed
        self.held_back += walk.held_back
        if decision.fallbacks.no_answer == "ask_constrained":
            self.asked_again += walk.without_letter

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each thing that the table cannot say."""
        found = []
        if self.blind:
            found.append(
                f"{self.blind} questions go to a cascade, and these outcomes have no confidence: "
                "the first arm answers them; replay bench runs to include the further hops"
            )
        if self.unsure:
            found.append(
                f"{self.unsure} questions go to a cascade with `agree`, and these outcomes have no "
                "confidence: an arm that answers alone is never sure enough"
            )
        if self.assumed:
            found.append(
                f"on {self.assumed} questions all arms of `agree` are wrong, and these outcomes do "
                "not say whether they agree: they are taken to, so that accuracy and cost are the "
                "least that they can be"
            )
        if self.held_back:
            found.append(
                f"on {self.held_back} questions an agreed answer is not accepted, because these "
                "outcomes only show the least that it can be right; bench runs have the answers"
            )
        if self.asked_again:
            found.append(
                f"{self.asked_again} answers have no letter: a turn asks for it once more "
                "(no_answer: ask_constrained), which is not in the cost"
            )
        return tuple(found)


def _value_or_none(values: Floats | None, row: int, column: int) -> float | None:
    if values is None:
        return None
    value = float(values[row, column])
    return value if value == value else None
