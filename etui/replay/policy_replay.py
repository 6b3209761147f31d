"""A policy over a table of answers: which arm it takes, what came of it, hop by hop.

What the policy knows of accuracy is fitted on the other folds, or was on other questions, so no
question is decided by its own answer. Budgets, the state of the machine and earlier turns of a chat
have no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from etui.arm import Arm
from etui.chat import Query
from etui.errors import UsageError
from etui.routing.accuracy.predictor import AccuracyPredictor
from etui.routing.decide import decide
from etui.routing.decision import Decision
from etui.routing.limits import Cascade
from etui.routing.policy import CascadePlan, Objective, Policy
from etui.routing.prediction import PredictedAccuracy, PredictedJoules
from etui.routing.signals.question_words import QuestionText
from etui.turn.cascade import Outcome, advance, best_of, is_sure

if TYPE_CHECKING:
    from etui.routing.accuracy.table import Graded
    from etui.stats.arrays import Flags, Floats, Whole

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Routed:
    """What a policy did.

    Attributes:
        name: The policy.
        chosen: Column of the arm whose answer stood, (questions,).
        correct: Whether that was right.
        cost: Of all hops together.
        hops: How many arms answered.
        rules: Rule -> questions it decided.
        notes: What a reader should know.
    """

    name: str
    chosen: Whole
    correct: Flags
    cost: Floats
    hops: Whole
    rules: dict[str, int]
    notes: tuple[str, ...] = field(default=())


class TableOutlook:
    """Mean costs of the table for joules, and heads of the other folds for accuracy.

    Args:
        costs: Arm -> mean cost.
        heads: What was fitted; None predicts no accuracy.
        label: What the costs are.
    """

    def __init__(
        self, costs: dict[str, float], heads: AccuracyPredictor | None, label: str
    ) -> None:
        self._costs = costs
        self._heads = heads
        self._label = label

    def joules(self, arm: Arm, query: Query) -> PredictedJoules | None:
        """The arm's mean cost; None for an arm that the table does not have."""
        cost = self._costs.get(arm.name)
        return None if cost is None else PredictedJoules(0.0, 0.0, cost, source=self._label)

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """What the heads say."""
        return None if self._heads is None else self._heads.accuracy(arm, query, confidence)

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """What the heads say."""
        return None if self._heads is None else self._heads.calibrated(arm, confidence, margin)


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
    """The policy over every question of a table.

    Args:
        policy: The policy.
        graded: The answers; its questions have texts.
        cost: Cost of each answer, (questions, arms).
        label: What a cost is: where it is from, in words.
        heads: What was fitted on other questions; None fits on the folds of these.
        seed: Of the folds.
        say: Told of each fold that is fitted.

    Raises:
        UsageError: The questions have no texts, the policy has none of the arms, or takes one that
            the table does not have.
        EtuiError: A rule can come to no arm.
    """
    import numpy as np

    if not graded.questions:
        raise UsageError(
            "a policy decides by the text of a question, and none is here",
            "name the data: --data DIR, the folder of MMLU's files",
        )
    _check_arms(policy, graded)
    models = {facts.model for facts in graded.facts.values() if facts.model is not None}
    here: Callable[[str], bool] = models.__contains__ if models else _anything
    costs = {arm: float(cost[:, at].mean()) for at, arm in enumerate(graded.arms)}
    count = len(graded)
    chosen, hops = np.empty(count, dtype=np.int64), np.ones(count, dtype=np.int64)
    spent = np.empty(count)
    rules: dict[str, int] = {}
    absent: dict[str, int] = {}
    blind = 0
    folds = [(range(count), heads)] if heads else _folds(policy, graded, seed, say)
    for rows, known in folds:
        outlook = TableOutlook(costs, known, label)
        for row in rows:
            decision = decide(
                Query(as_asked(graded.questions[row])), policy, available=here, outlook=outlook
            )
            rules[str(decision.rule)] = rules.get(str(decision.rule), 0) + 1
            walked = _walk(decision, row, graded, cost, outlook)
            if isinstance(walked, str):
                absent[walked] = absent.get(walked, 0) + 1
                continue
            blind += decision.cascade is not None and graded.confidence is None
            chosen[row], hops[row], spent[row] = walked
    if absent:
        named = ", ".join(f"{arm} ({n} questions)" for arm, n in sorted(absent.items()))
        raise UsageError(
            f"policy {policy.name!r} takes arms whose answers are not here: {named}",
            f"run them on the same questions: etui bench --arms {','.join(sorted(absent))}",
        )
    notes = []
    if blind:
        notes.append(
            f"{blind} questions go to a cascade, and these outcomes hold no confidence: its first "
            "arm answers them; replay bench runs to see it go up"
        )
    right = graded.correct[np.arange(count), chosen]
    return Routed(policy.name, chosen, right, spent, hops, rules, tuple(notes))


def as_asked(question: QuestionText) -> str:
    """The question as one types it: the stem, then the options with their letters."""
    lines = [f"{letter}. {text}" for letter, text in zip(_LETTERS, question.options, strict=False)]
    return "\n".join((question.stem, *lines)).strip() or "?"


def _folds(
    policy: Policy, graded: Graded, seed: int, say: Callable[[str], None]
) -> Iterator[tuple[Sequence[int], AccuracyPredictor | None]]:
    """Rows of each fold with heads fitted on the others; all at once where no rule asks them."""
    from etui.routing.accuracy.fit import LEAST_QUESTIONS, fit_heads
    from etui.routing.accuracy.fitted_file import Provenance
    from etui.routing.accuracy.table import folds_of

    asks = any(isinstance(rule.then, CascadePlan | Objective) for rule in policy.rules)
    if not asks or len(graded) < 2 * LEAST_QUESTIONS:
        yield range(len(graded)), None
        return
    folds = folds_of(graded, seed=seed)
    count = int(folds.max()) + 1
    for fold in range(count):
        say(f"fold {fold + 1} of {count}")
        rest = graded.take(folds != fold)
        origin = Provenance(
            fitted_at="", source=(), data_sha256="", n=len(rest), excluded=0, etui=""
        )
        rows = [row for row, at in enumerate(folds.tolist()) if at == fold]
        yield rows, AccuracyPredictor(fit_heads(rest, origin, seed=seed))


def _walk(
    decision: Decision, row: int, graded: Graded, cost: Floats, outlook: TableOutlook
) -> tuple[int, int, float] | str:
    """Arm that stands, hops and cost; or the name of an arm that the table does not have."""
    if decision.cascade is None or graded.confidence is None:
        name = decision.arm.name
        if name not in graded.arms:
            return name
        at = graded.arms.index(name)
        return at, 1, float(cost[row, at])
    return _up(decision.cascade, row, graded, cost, outlook)


def _up(
    cascade: Cascade, row: int, graded: Graded, cost: Floats, outlook: TableOutlook
) -> tuple[int, int, float] | str:
    """Walk the cascade as a turn does, with the answers of the table."""
    spent = 0.0
    outcomes: list[Outcome] = []

    def predict(arm: Arm) -> float | None:
        predicted = outlook.joules(arm, Query("?"))
        return None if predicted is None else predicted.total

    while True:
        step = advance(cascade, outcomes, spent, predict)
        if step.arm is None or step.barred == "hops":
            break
        if step.arm.name not in graded.arms:
            return step.arm.name
        if step.barred is not None:
            break
        at = graded.arms.index(step.arm.name)
        spent += float(cost[row, at])
        confidence, margin = _raw(graded.confidence, row, at), _raw(graded.margin, row, at)
        probability = outlook.calibrated(step.arm, confidence, margin)
        accepted = is_sure(cascade, confidence, probability)
        outcomes.append(Outcome(step.arm, probability, accepted))
    taken = best_of(outcomes)
    assert taken is not None
    return graded.arms.index(outcomes[taken].arm.name), len(outcomes), spent


def _raw(values: Floats | None, row: int, at: int) -> float | None:
    if values is None:
        return None
    value = float(values[row, at])
    return value if value == value else None


def _check_arms(policy: Policy, graded: Graded) -> None:
    if set(policy.arms) & set(graded.arms):
        return
    raise UsageError(
        f"policy {policy.name!r} has none of the arms that were answered: {', '.join(graded.arms)}",
        f"its arms: {', '.join(policy.arms)}; the names must be the same",
    )


def _anything(_: str) -> bool:
    return True
