"""Turn the grades and audits of the log into the table of a fit."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from etui.log.labels import LabelledTurn
from etui.routing.accuracy.agreement import AUDIT_ACCURACY, AgreementModel, estimate_agreement
from etui.routing.accuracy.labels import (
    Label,
    LabelledQuestion,
    build_label_table,
    label_audit,
    label_grade,
    model_questions,
)
from etui.routing.accuracy.table import ArmFacts, Graded
from etui.routing.signals.question_words import split_question

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
        policy: Only turns that this policy decided; None takes all.
        accuracies: Known accuracies of audit arms; without one it is that of the grades of the
            arm's own answers, or else its prior, or else ``AUDIT_ACCURACY``.
        arms: Arms that the policy has now; others are left out. None takes all.
        priors: Accuracies of arms that the policy states.
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
