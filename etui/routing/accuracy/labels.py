"""Build a table for a fit from labels of different worth: the user's grades, and audits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from etui.routing.accuracy.agreement import (
    AUDIT_WEIGHT,
    PREDICTED_WEIGHT,
    AgreementModel,
    build_scale,
)
from etui.routing.accuracy.table import ArmFacts, Graded
from etui.routing.signals.question_words import QuestionText

GRADE_WEIGHT = 1.0
"""Weight of what the user says of an answer."""


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of an answer: the probability that it is right, and how much that counts."""

    p: float
    weight: float


@dataclass(frozen=True, slots=True)
class LabelledQuestion:
    """A question, and what is known of the answers to it, by arm."""

    question: QuestionText
    labels: Mapping[str, Label]
    subject: str = ""


def label_grade(arm: str, good: bool) -> dict[str, Label]:
    """Return the label of an answer that the user has graded."""
    return {arm: Label(float(good), GRADE_WEIGHT)}


def label_audit(
    model: AgreementModel,
    arm: str,
    audit_arm: str,
    agrees: bool,
    good: bool | None = None,
    *,
    predicted: bool = False,
) -> dict[str, Label]:
    """Return the labels of both arms of an audit.

    Args:
        model: How the agreement of the two arms comes about.
        audit_arm: The arm that answered as well.
        agrees: Whether both answers are the same.
        good: The user's grade of the audited answer, which counts in place of the agreement.
        predicted: Whether the model is that of questions like this one, by :func:`model_questions`,
            which contains this agreement already.
    """
    if predicted and good is None:
        own = Label(model.arm, PREDICTED_WEIGHT)
        return {arm: own, audit_arm: Label(model.audit, PREDICTED_WEIGHT)}
    own = (
        Label(model.arm_right(agrees), AUDIT_WEIGHT)
        if good is None
        else Label(float(good), GRADE_WEIGHT)
    )
    return {arm: own, audit_arm: Label(model.audit_right(agrees, good), AUDIT_WEIGHT)}


def model_questions(
    questions: Sequence[QuestionText], agrees: Sequence[bool], model: AgreementModel
) -> list[AgreementModel] | None:
    """Predict how often the answers to each question agree, and what follows for both arms.

    Two answers that differ do not show which of them is right: on hard questions both are wrong,
    and the audit arm is not worth its joules. Only the mean over similar questions separates hard
    ones from those that the audit arm alone gets right.

    Returns:
        A model for each question; None with fewer than 100 audits, or ten of either result.
    """
    import numpy as np

    from etui.routing.accuracy.agreement_fit import average_models
    from etui.routing.accuracy.logistic import has_enough

    flags = np.asarray(agrees, dtype=bool)
    if not has_enough(flags):
        return None
    return average_models(questions, flags, build_scale(model))


def format_question(question: QuestionText) -> str:
    """Write a question with its options, as one is asked."""
    letters = zip(ascii_uppercase, question.options, strict=False)
    return "\n".join((question.stem, *(f"{letter}) {text}" for letter, text in letters)))


def build_label_table(
    questions: Sequence[LabelledQuestion], facts: Mapping[str, ArmFacts] | None = None
) -> Graded:
    """Build the table of labelled questions; an arm without a label on a question has weight 0.

    A question with an uncertain label has two rows: the arm is right with p of the label's weight
    in the first, and wrong with the rest in the second.
    """
    import numpy as np

    arms = tuple(dict.fromkeys(arm for each in questions for arm in each.labels))
    column = {arm: at for at, arm in enumerate(arms)}
    kept: list[tuple[int, bool]] = []
    weights: list[list[float]] = []
    for number, each in enumerate(questions):
        for right in (True, False):
            row = [0.0] * len(arms)
            for arm, label in each.labels.items():
                row[column[arm]] = label.weight * (label.p if right else 1 - label.p)
            if any(row):
                kept.append((number, right))
                weights.append(row)
    return Graded(
        arms=arms,
        subjects=tuple(questions[number].subject for number, _ in kept),
        rows=tuple(number for number, _ in kept),
        questions=tuple(questions[number].question for number, _ in kept),
        correct=np.asarray([(right,) * len(arms) for _, right in kept], dtype=bool).reshape(
            len(kept), len(arms)
        ),
        facts=dict(facts or {}),
        weights=np.asarray(weights, dtype=np.float64).reshape(len(kept), len(arms)),
    )


def join_tables(first: Graded, second: Graded) -> Graded:
    """Join the questions of two tables; an arm that one of them lacks has weight 0 there.

    The facts of the first table are kept where both have some; joules are left out. Questions
    without texts in one of the tables have none in the joined one.
    """
    import numpy as np

    arms = tuple(dict.fromkeys((*first.arms, *second.arms)))

    def spread(columns: Any, table: Graded, empty: Any) -> Any:
        """Return the columns of a table at the places of the joined arms."""
        values = np.full((len(table), len(arms)), empty)
        if columns is not None:
            values[:, [arms.index(arm) for arm in table.arms]] = columns
        return values

    def join(name: str, empty: Any) -> Any:
        parts = [(getattr(table, name), table) for table in (first, second)]
        if all(columns is None for columns, _ in parts):
            return None
        return np.concatenate([spread(columns, table, empty) for columns, table in parts])

    weights = [
        spread(1.0 if table.weights is None else table.weights, table, 0.0)
        for table in (first, second)
    ]
    with_texts = bool(first.questions) and bool(second.questions)
    return Graded(
        arms=arms,
        subjects=(*first.subjects, *second.subjects),
        rows=(*first.rows, *second.rows),
        questions=(*first.questions, *second.questions) if with_texts else (),
        correct=join("correct", False),
        confidence=join("confidence", np.nan),
        margin=join("margin", np.nan),
        facts={**second.facts, **first.facts},
        weights=np.concatenate(weights),
    )
