"""Replay a policy over a table of answers: the arms it chooses and their results, hop by hop.

The accuracy predictions of the policy are fitted on the other folds, or were fitted on other
questions, so no question is decided by its own answer. Budgets, the state of the machine and
earlier turns of a chat are not replayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from etui.arm import Arm
from etui.chat import Query
from etui.errors import UsageError
from etui.learning._joint import QuestionColumns, fit_joint
from etui.learning.features import predict_fields
from etui.learning.fit import LEAST_QUESTIONS, fit_accuracy, one_thread
from etui.learning.fitted_file import Provenance
from etui.learning.graded import Graded, assign_folds
from etui.learning.predictor import AccuracyPredictor
from etui.learning.regressions import (
    build_corpus,
    compute_idf,
    compute_soft_rates,
    compute_tf_idf,
    expect_rates,
    number_bands,
)
from etui.routing.decide import decide
from etui.routing.decision import (
    Cascade,
    Decision,
    PredictedAccuracy,
    PredictedAgreement,
    PredictedJoules,
    Predictor,
    RawConfidence,
)
from etui.routing.policy import CascadePlan, Objective, Policy, drop_places, list_agreements
from etui.routing.text_measures import format_question
from etui.stats.arrays import Flags, Floats, Whole
from etui.turn.attempt import ArmAttempt
from etui.turn.cascade import advance, find_best, is_sure, settle


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


def _walk_decision(
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
    outcomes: list[ArmAttempt] = []

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
        outcome = ArmAttempt(
            step.arm,
            probability,
            accepted,
            answered=not lacks,
            key=_read_key(graded, row, column),
            confidence=confidence,
            margin=margin,
        )
        outcomes = settle(cascade, [*outcomes, outcome], predictor.agreement)
    best = find_best(outcomes)
    assert best is not None
    agreed = [each for each in outcomes if each.together == "agreed" and graded.answers is None]
    taken = any(each.accepted for each in agreed)
    assumed = taken and any(each.key == _WRONG for each in agreed)
    held_back = bool(agreed) and not taken
    column = graded.arms.index(best.arm.name)
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
    options = bool(graded.questions) and bool(graded.questions[row].options)
    return options and graded.answers is not None and int(graded.answers[row, column]) < 0


_NOTES = {
    "blind": "{} questions go to a cascade, and these outcomes have no confidence: the first arm "
    "answers them; replay bench runs to include the further hops",
    "unsure": "{} questions go to a cascade with `agree`, and these outcomes have no confidence: "
    "an arm that answers alone is never sure enough",
    "assumed": "on {} questions all arms of `agree` are wrong, and these outcomes do not say "
    "whether they agree: they are taken to, so that accuracy and cost are the least that they can "
    "be",
    "held_back": "on {} questions an agreed answer is not accepted, because these outcomes only "
    "show the least that it can be right; bench runs have the answers",
    "asked_again": "{} answers have no letter: a turn asks for it once more (no_answer: "
    "ask_constrained), which is not in the cost",
}
"""What a table cannot say of walks -> the note of a report."""


def _count_unknown(decision: Decision, walk: Walk, graded: Graded) -> Iterator[tuple[str, int]]:
    """Yield how often a walk needs what the table cannot say, by the keys of ``_NOTES``."""
    cascade = decision.cascade
    if cascade is not None and graded.confidence is None:
        yield ("unsure" if cascade.agreements else "blind"), 1
    yield "assumed", walk.assumed
    yield "held_back", walk.held_back
    if decision.fallbacks.no_answer == "ask_constrained":
        yield "asked_again", walk.without_letter


def _value_or_none(values: Floats | None, row: int, column: int) -> float | None:
    if values is None:
        return None
    value = float(values[row, column])
    return value if value == value else None


@dataclass(frozen=True, slots=True)
class Routed:
    """Result of a replayed policy."""

    name: str
    chosen: Whole  # Column of the arm whose answer was kept, shape (questions,)
    correct: Flags  # Whether that answer was right, shape (questions,)
    cost: Floats  # Cost of all hops together, shape (questions,)
    hops: Whole  # Number of arms that answered, shape (questions,)
    rules: dict[str, int]  # Rule -> number of questions it decided
    notes: tuple[str, ...] = field(default=())  # Remarks for the reader


class TablePredictor:
    """Predicts joules by the mean costs of the table, and accuracy by fitted heads."""

    def __init__(
        self, costs: dict[str, float], heads: AccuracyPredictor | None, label: str
    ) -> None:
        self._costs = costs
        self._heads = heads
        self._label = label

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        """Predict the mean cost of the arm; None for an arm that is not in the table."""
        cost = self._costs.get(arm.name)
        return None if cost is None else PredictedJoules(0.0, 0.0, cost, source=self._label)

    def duration(self, arm: Arm, query: Query) -> float | None:
        """Return None: a table has no durations."""
        return None

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """Predict the accuracy by the heads; None without heads."""
        return None if self._heads is None else self._heads.accuracy(arm, query, confidence)

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Calibrate a raw confidence by the heads; None without heads."""
        return None if self._heads is None else self._heads.calibrated(arm, confidence, margin)

    def agreement(
        self, arms: Sequence[Arm], raw: Sequence[RawConfidence] = ()
    ) -> PredictedAgreement | None:
        """Predict the probability of an agreed answer by the heads; None without heads."""
        return None if self._heads is None else self._heads.agreement(arms, raw)


def replay_policy(
    policy: Policy,
    graded: Graded,
    cost: Floats,
    *,
    label: str,
    heads: AccuracyPredictor | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Routed:
    """Replay a policy over every question of a table, which must have texts.

    Without heads that were fitted on other questions, they are fitted on the folds of these.

    UsageError without texts, without arms of the policy, or for an arm that is not in the table;
    EtuiError if a rule finds no arm.
    """
    if not graded.questions:
        raise UsageError(
            "a policy needs the texts of the questions, and they are missing",
            "pass the folder of the MMLU files: --data DIR",
        )
    _check_arms(policy, graded)
    policy = drop_places(policy)
    models = {facts.model for facts in graded.facts.values() if facts.model is not None}
    is_available = (lambda model: model in models) if models else (lambda _: True)
    costs = {arm: float(cost[:, column].mean()) for column, arm in enumerate(graded.arms)}
    count = len(graded)
    chosen, hops = np.empty(count, dtype=np.int64), np.ones(count, dtype=np.int64)
    spent = np.empty(count)
    rules: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    folds = [(range(count), heads)] if heads else _folds(policy, graded, seed, say)
    for rows, fold_heads in folds:
        predictor = TablePredictor(costs, fold_heads, label)
        for row in rows:
            decision = decide(
                Query(format_question(graded.questions[row])),
                policy,
                available=is_available,
                predictor=predictor,
            )
            rules[str(decision.rule)] += 1
            walk = _walk_decision(decision, row, graded, cost, predictor)
            if isinstance(walk, str):
                missing[walk] += 1
                continue
            for what, number in _count_unknown(decision, walk, graded):
                unknown[what] += number
            chosen[row], hops[row], spent[row] = walk.column, walk.hops, walk.cost
    if missing:
        missing_text = ", ".join(f"{arm} ({n} questions)" for arm, n in sorted(missing.items()))
        raise UsageError(
            f"policy {policy.name!r} chooses arms that have no answers: {missing_text}",
            f"run them on the same questions: etui bench --arms {','.join(sorted(missing))}",
        )
    right = graded.correct[np.arange(count), chosen]
    notes = tuple(text.format(unknown[what]) for what, text in _NOTES.items() if unknown[what])
    return Routed(policy.name, chosen, right, spent, hops, rules, notes)


def _folds(
    policy: Policy, graded: Graded, seed: int, say: Callable[[str], None]
) -> Iterator[tuple[Sequence[int], AccuracyPredictor | None]]:
    needs_heads = any(isinstance(rule.then, CascadePlan | Objective) for rule in policy.rules)
    if not needs_heads or len(graded) < 2 * LEAST_QUESTIONS:
        yield range(len(graded)), None
        return
    folds = assign_folds(graded, seed=seed)
    count = int(folds.max()) + 1
    for fold in range(count):
        say(f"fold {fold + 1} of {count}")
        training = graded.take(folds != fold)
        origin = Provenance(
            fitted_at="", source=(), data_sha256="", n=len(training), excluded=0, etui=""
        )
        rows = [row for row, column in enumerate(folds.tolist()) if column == fold]
        agreements = list_agreements(policy)
        found = fit_accuracy(training, origin, seed=seed, agreements=agreements)
        yield rows, AccuracyPredictor(found)


def _check_arms(policy: Policy, graded: Graded) -> None:
    if set(policy.arms) & set(graded.arms):
        return
    raise UsageError(
        f"policy {policy.name!r} has none of the arms of the answers: {', '.join(graded.arms)}",
        f"its arms: {', '.join(policy.arms)}; the names must match",
    )


ROUTERS = ("subject", "joint")
"""The routers of a replay."""
FOLDS = 5
TREES = 200
"""Trees of ``joint``: twice those of a fitted file, to judge with less noise."""


def compute_shares(graded: Graded, *, hide_subjects: bool = False) -> Floats:
    """Compute the share that each question has of each band, shape (questions, bands).

    The bands are the subjects or, without them, the fields that the shipped classifier predicts.
    """
    names, number = number_bands(graded.subjects)
    if graded.questions and (hide_subjects or len(names) < 2):
        return predict_fields(graded.questions)
    if hide_subjects:
        return np.ones((len(graded), 1))
    return np.asarray(number[:, None] == np.arange(len(names)), dtype=np.float64)


@one_thread()
def cross_fit(
    graded: Graded,
    *,
    routers: Sequence[str] = ROUTERS,
    hide_subjects: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Floats]:
    """Compute the probability that each arm is right, (questions, arms), by each router, best last.

    With ``hide_subjects`` only the words of a question are used, as in a chat; without texts only
    the router ``subject`` is fitted.
    """
    folds = assign_folds(graded, FOLDS, seed)
    shares = compute_shares(graded, hide_subjects=hide_subjects)
    corpus = build_corpus(graded.questions, len(graded))
    ways: tuple[Floats, ...] = (shares,)
    if "joint" in routers and not corpus.empty and not hide_subjects:
        ways = (shares, predict_fields(graded.questions))
    names = [name for name in ROUTERS if name in routers]
    if corpus.empty:
        names = ["subject"]
    found = {name: np.empty(graded.correct.shape) for name in names}
    inner = assign_folds(graded, FOLDS, seed + 1)
    count = int(folds.max()) + 1
    for fold in range(count):
        say(f"fold {fold + 1} of {count}")
        held, used = folds == fold, folds != fold
        correct, weights = graded.correct[used], graded.label_weights[used]
        rates, overall = compute_soft_rates(correct, shares[used], weights)
        expected = expect_rates(shares[held], rates, overall)
        if "subject" in found:
            found["subject"][held] = expected
        if "joint" in found:
            words = compute_tf_idf(corpus.counts, compute_idf(corpus.counts, used))
            columns = QuestionColumns(corpus.features, words, ways)
            fit = fit_joint(
                correct, columns.take(used), inner[used], weights=weights, seed=seed, trees=TREES
            )
            found["joint"][held] = expected if fit is None else fit.predict(columns.take(held))
    return found
