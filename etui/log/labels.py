"""Read what is known of the logged answers: the user's grades, and the audits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from etui.energy.types import Kind
from etui.log.queries import LogReader
from etui.log.records import AuditRecord, ReadRow, parse_audit
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
from etui.text import format_utc

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


_LABELLED_SQL = """
    SELECT turn_id, created_at, query, arm, model, reasoning, hops, policy,
        (SELECT good FROM grades WHERE grades.turn_id = turns.turn_id) AS good
    FROM turns
    WHERE (turn_id IN (SELECT turn_id FROM grades)
        OR turn_id IN (SELECT turn_id FROM audits WHERE agrees IS NOT NULL))
        AND status <> 'error'
    ORDER BY created_at, id
"""
_SPENT_SQL = f"""
    SELECT total(joules) + total(load_joules),
        coalesce(max(kind IS '{Kind.ESTIMATE.value}'), 0),
        coalesce(sum(joules IS NULL OR load_joules IS NULL), 0)
    FROM audits INDEXED BY audits_by_time WHERE created_at >= ?
"""
_LARGEST_LOAD_SQL = """
    SELECT max(joules) FROM (
        SELECT joules, created_at FROM loads WHERE model = ?1 AND joules > 0
        UNION ALL
        SELECT load_joules, created_at FROM audits WHERE model = ?1 AND load_joules > 0
        ORDER BY created_at DESC LIMIT 10
    )
"""


@dataclass(frozen=True, slots=True)
class LabelledTurn:
    """A turn with a grade or an audit.

    Attributes:
        arm, model, reasoning: What gave its answer; of a cascade, the hop that was taken.
    """

    turn_id: str
    created_at: str
    query: str
    policy: str | None
    arm: str
    model: str
    reasoning: str
    good: bool | None  # The user's grade; None without one
    audits: tuple[AuditRecord, ...]  # Audits whose answer could be compared, oldest first


@dataclass(frozen=True, slots=True)
class AuditSpending:
    """The joules that audits took since a point in time, with their loads."""

    joules: float  # Gross joules, estimates included
    estimated: bool
    unmeasured: int  # Audits that are missing in the sum in whole or in part


def read_labelled(log: LogReader) -> list[LabelledTurn]:
    """Read the turns with a grade or a comparable audit, oldest first.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    audits: dict[str, list[AuditRecord]] = {}
    for audit in read_audits(log):
        if audit.agrees is not None:
            audits.setdefault(audit.turn_id, []).append(audit)
    found = []
    for row in log.select(_LABELLED_SQL):
        arm, model, reasoning = _find_taken(row)
        found.append(
            LabelledTurn(
                turn_id=row["turn_id"],
                created_at=row["created_at"],
                query=row["query"],
                policy=row["policy"],
                arm=arm,
                model=model,
                reasoning=reasoning,
                good=None if row["good"] is None else bool(row["good"]),
                audits=tuple(audits.get(row["turn_id"], ())),
            )
        )
    return found


def read_audits(
    log: LogReader, since: datetime | None = None, turn_id: str | None = None
) -> list[AuditRecord]:
    """Read audits, oldest first, also those without a comparison.

    Args:
        since: Time with a zone from which they count; None reads all.
        turn_id: Only those of this turn; None reads all.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    rows = log.select(
        "SELECT * FROM audits WHERE created_at >= ?1 AND (?2 IS NULL OR turn_id = ?2) "
        "ORDER BY created_at, id",
        ("" if since is None else format_utc(since), turn_id),
    )
    return [parse_audit(row) for row in rows]


def sum_audits_since(log: LogReader, moment: datetime) -> AuditSpending:
    """Sum the joules of audits since an aware time.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    rows = log.select(_SPENT_SQL, (format_utc(moment),))
    if not rows:
        return AuditSpending(0.0, False, 0)
    joules, estimated, unmeasured = rows[0]
    return AuditSpending(joules, bool(estimated), unmeasured)


def find_largest_load(log: LogReader, model: str) -> float | None:
    """Return the joules of the largest of a model's last ten loads; None if none was measured.

    The loads of audits count, which are in no turn.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    rows = log.select(_LARGEST_LOAD_SQL, (model,))
    return None if not rows or rows[0][0] is None else float(rows[0][0])


def read_grades(log: LogReader, turn_ids: Sequence[str]) -> dict[str, bool]:
    """Read the grades of turns; those without one are missing.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    rows = log.select(
        "SELECT turn_id, good FROM grades WHERE turn_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(turn_ids)),),
    )
    return {row["turn_id"]: bool(row["good"]) for row in rows}


def read_named_arms(log: LogReader, turn_ids: Sequence[str]) -> frozenset[str]:
    """Read which of some turns were answered by an arm or a model that was named, not by a rule.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    rows = log.select(
        "SELECT turn_id FROM turns WHERE rule IS NULL "
        "AND turn_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(turn_ids)),),
    )
    return frozenset(row["turn_id"] for row in rows)


def _find_taken(row: ReadRow) -> tuple[str, str, str]:
    """Return arm, model and reasoning of the answer: of a cascade, those of the taken hop."""
    hops = row["hops"]
    for hop in () if hops == "[]" else json.loads(hops):
        if hop["taken"]:
            return hop["arm"], hop["model"], hop["reasoning"]
    return row["arm"], row["model"], row["reasoning"]
