"""Build a table for a fit from labels of different worth: the user's grades, and audits."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from etui.learning.agreement import (
    AUDIT_ACCURACY,
    AUDIT_WEIGHT,
    PREDICTED_WEIGHT,
    AgreementModel,
    average_models,
    build_scale,
    estimate_agreement,
)
from etui.learning.graded import ArmFacts, Graded
from etui.log.labels import LabelledTurn
from etui.routing.question_text import QuestionText, split_question

_LEAST_AUDITS = 100
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
    flags = np.asarray(agrees, dtype=bool)
    if len(flags) < _LEAST_AUDITS or min(flags.sum(), (~flags).sum()) < _LEAST_AUDITS / 10:
        return None
    return average_models(questions, flags, build_scale(model))


def build_label_table(
    questions: Sequence[LabelledQuestion], facts: Mapping[str, ArmFacts] | None = None
) -> Graded:
    """Build the table of labelled questions; an arm without a label on a question has weight 0.

    A question with an uncertain label has two rows: the arm is right with p of the label's weight
    in the first, and wrong with the rest in the second.
    """
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


LEAST_GRADES = 20
"""Grades of an audit arm's own answers from which its accuracy is that of the grades."""

Basis = Literal["answers", "grades", "prior", "assumed"]
"""Where the accuracy of an audit arm is from, best first: other answers of a fit, grades of its own
answers, the prior that the policy states, or nothing (``AUDIT_ACCURACY``)."""


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """How often an arm agrees with an audit arm.

    Attributes:
        agreed, compared: Number of answers that agree, of those that were compared.
    """

    arm: str
    audit_arm: str
    agreed: int
    compared: int
    model: AgreementModel  # The model of both accuracies that follows
    basis: Basis = "assumed"  # Where the accuracy of the audit arm is from


@dataclass(frozen=True, slots=True)
class LogLabels:
    """The labels of the log, for a fit."""

    questions: tuple[LabelledQuestion, ...]  # The questions with their labels, oldest first
    created_at: tuple[str, ...]
    facts: Mapping[str, ArmFacts]  # Arm -> model and reasoning
    pairs: tuple[PairAgreement, ...]  # How often each audited arm agrees with its audit arm
    grades: int  # Number of turns with a grade
    audits: int  # Number of compared audits
    left_out: int  # Turns of an arm that has another model now, or that the policy no longer has
    sha256: str  # Hash of the turns and their labels

    def table(self) -> Graded:
        """Build the table of a fit."""
        return build_label_table(self.questions, self.facts)


def collect_labels(
    turns: Sequence[LabelledTurn],
    policy: str | None = None,
    accuracies: Mapping[str, float] | None = None,
    arms: Collection[str] | None = None,
    *,
    priors: Mapping[str, float] | None = None,
    by_question: bool = True,
) -> LogLabels:
    """Collect the labels of the turns.

    Args:
        turns: Turns with a grade or a compared audit, oldest first.
        accuracies: Known accuracies of audit arms; without one it is that of the grades of the
            arm's own answers, or else its prior, or else ``AUDIT_ACCURACY``.
        by_question: Whether agreement is predicted for each question, which takes a fit.
    """
    of_policy = [turn for turn in turns if policy is None or turn.policy == policy]
    used = [_drop_arms(turn, arms) for turn in of_policy if arms is None or turn.arm in arms]
    facts = _find_facts(used)
    here = [turn for turn in used if facts[turn.arm].model == turn.model]
    known = _find_accuracies(accuracies or {}, _count_grades(here), priors or {})
    counted: dict[tuple[str, str], list[bool]] = {}
    for turn in here:
        for audit in turn.audits:
            if audit.agrees is not None and facts[audit.arm].model == audit.model:
                counted.setdefault((turn.arm, audit.arm), []).append(audit.agrees)
    pairs = {
        (arm, by): PairAgreement(
            arm,
            by,
            sum(found),
            len(found),
            estimate_agreement(sum(found), len(found), known.get(by, _ASSUMED)[0]),
            known.get(by, _ASSUMED)[1],
        )
        for (arm, by), found in counted.items()
    }
    questions, times = [], []
    digest = hashlib.sha256()
    models = _model_turns(here, facts, pairs) if by_question else {}
    for turn in here:
        labels = _label_turn(turn, facts, pairs, models)
        if labels:
            questions.append(LabelledQuestion(split_question(turn.query), labels))
            times.append(turn.created_at)
            digest.update(f"{turn.turn_id} {sorted(labels.items())}\n".encode())
    return LogLabels(
        questions=tuple(questions),
        created_at=tuple(times),
        facts=facts,
        pairs=tuple(pairs.values()),
        grades=sum(turn.good is not None for turn in here),
        audits=sum(pair.compared for pair in pairs.values()),
        left_out=len(of_policy) - len(here),
        sha256=digest.hexdigest(),
    )


def _drop_arms(turn: LabelledTurn, arms: Collection[str] | None) -> LabelledTurn:
    if arms is None or all(audit.arm in arms for audit in turn.audits):
        return turn
    return replace(turn, audits=tuple(audit for audit in turn.audits if audit.arm in arms))


def _label_turn(
    turn: LabelledTurn,
    facts: Mapping[str, ArmFacts],
    pairs: Mapping[tuple[str, str], PairAgreement],
    models: Mapping[str, AgreementModel],
) -> dict[str, Label]:
    labels = {} if turn.good is None else label_grade(turn.arm, turn.good)
    for audit in turn.audits:
        if audit.agrees is not None and facts[audit.arm].model == audit.model:
            own = models.get(audit.audit_id)
            model = own or pairs[turn.arm, audit.arm].model
            labels |= label_audit(
                model, turn.arm, audit.arm, audit.agrees, turn.good, predicted=own is not None
            )
    return labels


def _model_turns(
    turns: Sequence[LabelledTurn],
    facts: Mapping[str, ArmFacts],
    pairs: Mapping[tuple[str, str], PairAgreement],
) -> dict[str, AgreementModel]:
    """Return the model of the question of each audit, by its id; empty with too few audits."""
    found: dict[str, AgreementModel] = {}
    for (arm, by), pair in pairs.items():
        audits = [
            (turn.query, audit)
            for turn in turns
            if turn.arm == arm
            for audit in turn.audits
            if audit.arm == by and facts[by].model == audit.model
        ]
        texts = [split_question(query) for query, _ in audits]
        models = model_questions(texts, [bool(audit.agrees) for _, audit in audits], pair.model)
        ids = (audit.audit_id for _, audit in audits)
        found |= dict(zip(ids, models or (), strict=False))
    return found


def _find_facts(turns: Sequence[LabelledTurn]) -> dict[str, ArmFacts]:
    """Return the newest model and reasoning of each arm."""
    found: dict[str, ArmFacts] = {}
    for turn in turns:
        for audit in turn.audits:
            before = found.get(audit.arm)
            reasoning = before.reasoning if before is not None else None
            found[audit.arm] = ArmFacts(audit.model, reasoning)
        found[turn.arm] = ArmFacts(turn.model, turn.reasoning)
    return found


_ASSUMED: tuple[float, Basis] = (AUDIT_ACCURACY, "assumed")


def _find_accuracies(
    answers: Mapping[str, float], grades: Mapping[str, float], priors: Mapping[str, float]
) -> dict[str, tuple[float, Basis]]:
    """Return the best known accuracy of each arm, and where it is from."""
    found: dict[str, tuple[float, Basis]] = {arm: (p, "prior") for arm, p in priors.items()}
    found |= {arm: (p, "grades") for arm, p in grades.items()}
    return found | {arm: (p, "answers") for arm, p in answers.items()}


def _count_grades(turns: Sequence[LabelledTurn]) -> dict[str, float]:
    """Return the smoothed share of good answers of each arm with enough grades."""
    counts: dict[str, list[bool]] = {}
    for turn in turns:
        if turn.good is not None:
            counts.setdefault(turn.arm, []).append(turn.good)
    return {
        arm: (sum(good) + 1) / (len(good) + 2)
        for arm, good in counts.items()
        if len(good) >= LEAST_GRADES
    }
