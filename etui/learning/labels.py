"""Labels of different worth for a fit: grades of the user, and the agreement of two answers.

Let R and T say that the audited arm and the audit arm are right, and c be the probability that two
wrong answers are the same. They agree with probability

    P(agree) = P(R and T) + c P(neither)

so to take agreement for a right answer overstates the arm's accuracy by

    P(agree) - P(R) = c P(neither) - P(only R)

Arms are right and wrong on the same questions far more often than by chance, and a model without
that takes an arm that often agrees for better than its audit arm. Here both depend on one
difficulty z of the question, normal with mean 0 and standard deviation 1:

    P(R | z) = 1 / (1 + exp(s z - u))        P(T | z) = 1 / (1 + exp(s z - v))

v follows from the accuracy of the audit arm, u from the share of answers that agree, with
u <= v: the audit arm is the better one. The probability that an arm is right, given that both
agree or differ, is Bayes' rule over z.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from etui.learning.features import compute_features, predict_fields
from etui.learning.graded import ArmFacts, Graded
from etui.learning.regressions import fit_scale
from etui.log.labels import LabelledTurn
from etui.routing.text_measures import QuestionText, split_question
from etui.stats.arrays import Flags, Floats

REPEATS = 15
PENALTY = 0.1
_STEPS = 40


def average_models(
    questions: Sequence[QuestionText], agrees: Flags, scale: Sequence[AgreementModel]
) -> list[AgreementModel]:
    """Fit the difficulty of questions to their agreement; return the mean model of each question.

    The difficulty is linear in the light features and the probabilities of the field, with an L2
    penalty. The audit arm gains most in the middle of the scale, so an error of the difficulty does
    not average out: the fit is repeated with random weights of the audits (a Bayesian bootstrap),
    and what follows from each is averaged.
    """
    columns = _build_columns(questions)
    draws = np.random.default_rng(0)
    start = _fit_difficulty(
        columns, agrees, np.ones(len(agrees)), scale, np.zeros(columns.shape[1] + 1)
    )
    grid = _list_difficulties(scale)
    parts = [
        np.asarray([getattr(model, name) for model in scale])
        for name in ("both", "only_arm", "only_audit")
    ]
    total = np.zeros((len(parts), len(agrees)))
    for _ in range(REPEATS):
        weights = _fit_difficulty(
            columns, agrees, draws.exponential(size=len(agrees)), scale, start
        )
        difficulty = weights[0] + columns @ weights[1:]
        total += [np.interp(difficulty, grid, part) for part in parts]
    first = scale[0]
    return [
        AgreementModel(both, only_arm, only_audit, first.same_mistake, first.abilities)
        for both, only_arm, only_audit in (total / REPEATS).T.tolist()
    ]


def _build_columns(questions: Sequence[QuestionText]) -> Floats:
    light = np.asarray([compute_features(question) for question in questions])
    scaled = fit_scale(light, np.ones(len(light), dtype=bool)).apply(light)
    columns = np.column_stack([scaled, predict_fields(questions)])
    return np.asarray(columns - columns.mean(axis=0))


def _list_difficulties(scale: Sequence[AgreementModel]) -> Floats:
    return np.asarray(SCALE_START + SCALE_STEP * np.arange(len(scale)))


def _fit_difficulty(
    columns: Floats, agrees: Flags, counts: Floats, scale: Sequence[AgreementModel], start: Floats
) -> Floats:
    from scipy.optimize import minimize

    grid = _list_difficulties(scale)
    agreement = np.asarray([model.agreement for model in scale])
    slopes = np.gradient(agreement, grid)

    def measure_loss(weights: Floats) -> tuple[float, Any]:
        difficulty = weights[0] + columns @ weights[1:]
        inside = (difficulty > grid[0]) & (difficulty < grid[-1])
        p = np.clip(np.interp(difficulty, grid, agreement), 1e-9, 1 - 1e-9)
        slope = counts * np.interp(difficulty, grid, slopes) * inside
        slope *= np.where(agrees, -1 / p, 1 / (1 - p))
        loss = -(counts * np.log(np.where(agrees, p, 1 - p))).sum()
        penalty = PENALTY * weights[1:]
        gradient = np.append(slope.sum(), columns.T @ slope + penalty)
        return float(loss + penalty @ weights[1:] / 2), gradient

    found = minimize(measure_loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
    return np.asarray(found.x)


SAME_MISTAKE = 0.35
"""Probability that two wrong answers are the same (c): with four options, a random wrong answer is
the same in one of three cases, and models share some of their mistakes."""

AUDIT_ACCURACY = 0.8
"""Accuracy of an audit arm of which nothing is known."""

AUDIT_WEIGHT = 0.5
"""Weight of a label by agreement; one by the user has 1. The probabilities above have the
uncertainty of one label already; this is for the assumptions that they rest on."""

PREDICTED_WEIGHT = 1.0
"""Weight of a label that follows from the agreement predicted for its question. It is drawn to the
mean already, as far as the audits leave it open; a smaller weight would do that twice."""

SPREAD = 2.5
"""Standard deviation of the difficulty in logits (s). With it, two arms of MMLU that are right on
68 % and 81 % are both right on 62.9 % and both wrong on 13.9 %; measured are 62.8 and 13.8 %."""

SPREAD_WITHIN = 2.2
"""The same among questions whose words are alike: what is left once the words are known."""

SCALE_START = -8.0
SCALE_STEP = 0.1
"""Difficulty of the first model of a scale, and from one to the next, in logits."""
_SCALE_STEPS = 161
_GRID = tuple(-4.5 + 0.15 * at for at in range(61))
_DENSITY = tuple(math.exp(-z * z / 2) for z in _GRID)
_MASS = tuple(d / sum(_DENSITY) for d in _DENSITY)
_SMALL = 1e-6
_FURTHEST = 15.0
"""Largest ability in logits; accuracies are closer to 0 and 1 only."""


@dataclass(frozen=True, slots=True)
class AgreementModel:
    """The joint probabilities of an audited arm and its audit arm."""

    both: float  # Probability that both are right
    only_arm: float  # Probability that only the audited arm is right
    only_audit: float  # Probability that only the audit arm is right
    same_mistake: float = SAME_MISTAKE  # Probability that two wrong answers are the same
    abilities: tuple[float, float] = (0.0, 0.0)
    """Those of the audited arm and of the audit arm, in logits."""
    observed: float | None = None
    """Share of answers that agree, where two arms of these accuracies would agree less often; None
    where they would agree as often."""

    @property
    def neither(self) -> float:
        """Probability that both are wrong."""
        return max(0.0, 1 - self.both - self.only_arm - self.only_audit)

    @property
    def arm(self) -> float:
        """Probability that the audited arm is right."""
        return self.both + self.only_arm

    @property
    def audit(self) -> float:
        """Probability that the audit arm is right."""
        return self.both + self.only_audit

    @property
    def agreement(self) -> float:
        """Probability that both answers agree."""
        return self.both + self.same_mistake * self.neither

    @property
    def bias(self) -> float:
        """Agreement minus the probability that the audited arm is right."""
        return self.agreement - self.arm

    def arm_right(self, agrees: bool) -> float:
        """Compute the probability that the audited arm is right, given whether they agree.

        Where they agree more often than the model explains, agreement says less.
        """
        apart = self.only_arm / (1 - self.agreement)
        if not agrees:
            return apart
        if self.observed is not None:
            return (self.arm - (1 - self.observed) * apart) / self.observed
        return self.both / self.agreement

    def audit_right(self, agrees: bool, arm_right: bool | None = None) -> float:
        """Compute the probability that the audit arm is right, by a grade if there is one."""
        if arm_right is None:
            return self.arm_right(True) if agrees else self.only_audit / (1 - self.agreement)
        if agrees:
            return float(arm_right)
        different = (1 - self.same_mistake) * self.neither
        return 0.0 if arm_right else self.only_audit / (self.only_audit + different)


def estimate_agreement(
    agreed: int, compared: int, audit: float, same_mistake: float = SAME_MISTAKE
) -> AgreementModel:
    """Estimate the joint probabilities from the share that agrees and the audit arm's accuracy."""
    share = (agreed + 1) / (compared + 2)
    ability = _find_ability(min(max(audit, 0.02), 0.98))

    def measure_agreement(candidate: float) -> float:
        return _build_model((candidate, ability), same_mistake).agreement

    own = _bisect(measure_agreement, share, ability)
    model = _build_model((own, ability), same_mistake)
    return replace(model, observed=share) if share > model.agreement + _SMALL else model


def build_scale(model: AgreementModel) -> tuple[AgreementModel, ...]:
    """Build the models of questions from easy to hard, by falling agreement.

    The audit arm gains most in between. Agreement rises again where both only guess, so the scale
    ends at its least agreement.
    """
    scale: list[AgreementModel] = []
    for step in range(_SCALE_STEPS):
        difficulty = SCALE_START + step * SCALE_STEP
        found = _build_model(model.abilities, model.same_mistake, SPREAD_WITHIN, difficulty)
        if scale and found.agreement >= scale[-1].agreement:
            break
        scale.append(found)
    return tuple(scale)


def compute_bias(both_wrong: float, only_arm: float, same_mistake: float = SAME_MISTAKE) -> float:
    """Compute by how much the share of agreement exceeds the share of right answers of an arm."""
    return same_mistake * both_wrong - only_arm


def _build_model(
    abilities: tuple[float, float],
    same_mistake: float,
    spread: float = SPREAD,
    difficulty: float = 0.0,
) -> AgreementModel:
    first, second = (_list_chances(ability - difficulty, spread) for ability in abilities)
    parts = tuple(zip(_MASS, first, second, strict=True))
    return AgreementModel(
        both=sum(mass * p * q for mass, p, q in parts),
        only_arm=sum(mass * p * (1 - q) for mass, p, q in parts),
        only_audit=sum(mass * (1 - p) * q for mass, p, q in parts),
        same_mistake=same_mistake,
        abilities=abilities,
    )


def _find_ability(accuracy: float) -> float:
    def measure_accuracy(ability: float) -> float:
        return sum(m * p for m, p in zip(_MASS, _list_chances(ability), strict=True))

    return _bisect(measure_accuracy, accuracy, _FURTHEST)


def _list_chances(ability: float, spread: float = SPREAD) -> tuple[float, ...]:
    return tuple(1 / (1 + math.exp(spread * z - ability)) for z in _GRID)


def _bisect(rising: Callable[[float], float], value: float, most: float) -> float:
    low, high = -_FURTHEST, most
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return high


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
    """Return the labels of both arms of an audit, of which a grade counts more than agreement.

    ``predicted``: the model is that of questions like this one, which has this agreement already.
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
    ones from those that the audit arm alone gets right. None with fewer than 100 audits, or ten of
    either result.
    """
    flags = np.asarray(agrees, dtype=bool)
    if len(flags) < _LEAST_AUDITS or min(flags.sum(), (~flags).sum()) < _LEAST_AUDITS / 10:
        return None
    return average_models(questions, flags, build_scale(model))


def build_label_table(
    questions: Sequence[LabelledQuestion], facts: Mapping[str, ArmFacts] | None = None
) -> Graded:
    """Build the table of labelled questions; an arm without a label on a question has weight 0.

    A question with an uncertain label has two rows, right with p of its weight and wrong with the
    rest.
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

    The facts of the first table go first; joules, and texts that only one has, are left out.
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
    """How often an arm agrees with an audit arm, of the answers that were compared."""

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
    """Collect the labels of turns with a grade or a compared audit, oldest first.

    The accuracy of an audit arm is that of ``accuracies``, else of the grades of its own answers,
    else its prior, else ``AUDIT_ACCURACY``. By question, agreement is predicted, which takes a fit.
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
    found: dict[str, tuple[float, Basis]] = {arm: (p, "prior") for arm, p in priors.items()}
    found |= {arm: (p, "grades") for arm, p in grades.items()}
    return found | {arm: (p, "answers") for arm, p in answers.items()}


def _count_grades(turns: Sequence[LabelledTurn]) -> dict[str, float]:
    counts: dict[str, list[bool]] = {}
    for turn in turns:
        if turn.good is not None:
            counts.setdefault(turn.arm, []).append(turn.good)
    return {
        arm: (sum(good) + 1) / (len(good) + 2)
        for arm, good in counts.items()
        if len(good) >= LEAST_GRADES
    }
