"""Replay a policy over a table of answers: the arms it chooses and their results, hop by hop.

The accuracy predictions of the policy are fitted on the other folds, or were fitted on other
questions, so no question is decided by its own answer. Budgets, the state of the machine and
earlier turns of a chat are not replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from etui.arm import Arm
from etui.chat import Query
from etui.errors import UsageError
from etui.replay.cascade_walk import WalkNotes, walk_decision
from etui.routing.accuracy.predictor import AccuracyPredictor
from etui.routing.decide import decide
from etui.routing.policy import CascadePlan, Objective, Policy, drop_places, list_agreements
from etui.routing.prediction import (
    PredictedAccuracy,
    PredictedAgreement,
    PredictedJoules,
    RawConfidence,
)
from etui.routing.signals.question_words import QuestionText

if TYPE_CHECKING:
    from etui.routing.accuracy.table import Graded
    from etui.stats.arrays import Flags, Floats, Whole

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
    """Predicts joules by the mean costs of the table, and accuracy by fitted heads.

    Args:
        heads: Fitted accuracy predictor; None predicts no accuracy.
    """

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
    """Replay a policy over every question of a table.

    Args:
        graded: The answers; the questions must have texts.
        label: Description of the costs: where they are from, in words.
        heads: Heads fitted on other questions; None fits heads on the folds of these questions.
        say: Called with a line of progress for each fitted fold.

    Raises:
        UsageError: The questions have no texts, the policy has none of the arms, or chooses one
            that is not in the table.
        EtuiError: A rule finds no arm.
    """
    import numpy as np

    if not graded.questions:
        raise UsageError(
            "a policy needs the texts of the questions, and they are missing",
            "pass the folder of the MMLU files: --data DIR",
        )
    _check_arms(policy, graded)
    policy = drop_places(policy)
    models = {facts.model for facts in graded.facts.values() if facts.model is not None}
    is_available: Callable[[str], bool] = models.__contains__ if models else _is_always_available
    costs = {arm: float(cost[:, column].mean()) for column, arm in enumerate(graded.arms)}
    count = len(graded)
    chosen, hops = np.empty(count, dtype=np.int64), np.ones(count, dtype=np.int64)
    spent = np.empty(count)
    rules: dict[str, int] = {}
    missing: dict[str, int] = {}
    reading = WalkNotes(graded)
    folds = [(range(count), heads)] if heads else _folds(policy, graded, seed, say)
    for rows, fold_heads in folds:
        predictor = TablePredictor(costs, fold_heads, label)
        for row in rows:
            decision = decide(
                Query(format_question(graded.questions[row])),
                policy,
                available=is_available,
                outlook=predictor,
            )
            rules[str(decision.rule)] = rules.get(str(decision.rule), 0) + 1
            walk = walk_decision(decision, row, graded, cost, predictor)
            if isinstance(walk, str):
                missing[walk] = missing.get(walk, 0) + 1
                continue
            reading.add(decision, walk)
            chosen[row], hops[row], spent[row] = walk.column, walk.hops, walk.cost
    if missing:
        missing_text = ", ".join(f"{arm} ({n} questions)" for arm, n in sorted(missing.items()))
        raise UsageError(
            f"policy {policy.name!r} chooses arms that have no answers: {missing_text}",
            f"run them on the same questions: etui bench --arms {','.join(sorted(missing))}",
        )
    right = graded.correct[np.arange(count), chosen]
    return Routed(policy.name, chosen, right, spent, hops, rules, reading.notes())


def format_question(question: QuestionText) -> str:
    """Format a question as a user would type it: the stem, then the options with letters."""
    lines = [f"{letter}. {text}" for letter, text in zip(_LETTERS, question.options, strict=False)]
    return "\n".join((question.stem, *lines)).strip() or "?"


def _folds(
    policy: Policy, graded: Graded, seed: int, say: Callable[[str], None]
) -> Iterator[tuple[Sequence[int], AccuracyPredictor | None]]:
    """Yield the rows of each fold, with heads fitted on the others; one fold without heads."""
    from etui.routing.accuracy.fit import LEAST_QUESTIONS, fit_heads
    from etui.routing.accuracy.fitted_file import Provenance
    from etui.routing.accuracy.table import assign_folds

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
        found = fit_heads(training, origin, seed=seed, agreements=agreements)
        yield rows, AccuracyPredictor(found)


def _check_arms(policy: Policy, graded: Graded) -> None:
    if set(policy.arms) & set(graded.arms):
        return
    raise UsageError(
        f"policy {policy.name!r} has none of the arms of the answers: {', '.join(graded.arms)}",
        f"its arms: {', '.join(policy.arms)}; the names must match",
    )


def _is_always_available(_: str) -> bool:
    return True
