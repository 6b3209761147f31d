"""Predict whether a question needs reasoning and, separately, whether it needs a larger model."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

from etui.routing.accuracy.design import Design, export_logistic
from etui.routing.accuracy.fitted_file import NeedHead
from etui.routing.accuracy.logistic import choose_strength, fit_linear
from etui.routing.accuracy.metrics import compute_auc
from etui.routing.accuracy.rates import compute_smoothed_rate
from etui.routing.accuracy.table import ArmFacts

if TYPE_CHECKING:
    from etui.routing.accuracy.table import Graded
    from etui.stats.arrays import Flags, Floats, Whole

Pair = tuple[Literal["reasoning", "larger_model"], int, int]


def find_pairs(graded: Graded) -> list[Pair]:
    """Find pairs of arms that differ in one respect, the cheaper arm first.

    ``reasoning``: a direct arm and one that thinks or votes, of the same model. ``larger_model``:
    the same reasoning method on two models, the smaller file first; if sizes are unknown, the arm
    that is right less often first.
    """
    found: list[Pair] = []
    facts = [graded.facts.get(name, ArmFacts()) for name in graded.arms]
    right = compute_smoothed_rate(graded.correct, graded.weights)
    for one, other in combinations(range(len(graded.arms)), 2):
        a, b = facts[one], facts[other]
        models = (a.model or a.asked, b.model or b.asked)
        same_model = models[0] is not None and models[0] == models[1]
        ways = {a.reasoning, b.reasoning}
        if same_model and None not in ways and "direct" in ways and len(ways) == 2:
            direct = one if a.reasoning == "direct" else other
            found.append(("reasoning", direct, other if direct == one else one))
        elif not same_model and a.reasoning == b.reasoning:
            sizes = (a.file_bytes, b.file_bytes)
            if sizes[0] is not None and sizes[1] is not None:
                swap = sizes[0] > sizes[1]
            else:
                swap = bool(right[one] > right[other])
            found.append(("larger_model", *((other, one) if swap else (one, other))))
    return found


def fit_needs(
    graded: Graded, design: Design, groups: Whole, folds: Whole | None, seed: int
) -> tuple[NeedHead, ...]:
    """Fit the head of each pair; without folds its quality is not measured."""
    heads = []
    for need, base, other in find_pairs(graded):
        first, second = graded.correct[:, base], graded.correct[:, other]
        heavy = _weigh_pair(graded, base, other)
        parts = []
        for target in (second & ~first, first & ~second):
            strength = choose_strength(design.columns, target, groups, seed, heavy)
            linear = fit_linear(design.columns, target, strength, heavy)
            parts.append((target, strength, export_logistic(linear, design.scale, band=False)))
        gained, strength, head = parts[0]
        auc = None
        if folds is not None and strength is not None:
            p = _cross_predict(design.columns, gained, strength, folds, heavy)
            auc = compute_auc(p, gained, heavy)
        heads.append(
            NeedHead(
                need=need,
                base=graded.arms[base],
                other=graded.arms[other],
                gained=head,
                lost=parts[1][2],
                n=len(graded) if heavy is None else max(1, round(float(heavy.sum()))),
                auc=auc,
            )
        )
    return tuple(heads)


def _weigh_pair(graded: Graded, base: int, other: int) -> Floats | None:
    """Return the weight of each question for a pair of arms: that of its less certain label."""
    import numpy as np

    if graded.weights is None:
        return None
    return np.minimum(graded.weights[:, base], graded.weights[:, other])


def _cross_predict(
    columns: Any, target: Flags, strength: float, folds: Whole, weights: Floats | None
) -> Floats:
    """Predict held-out questions.

    The idf of the words is that of all questions, which leaks no answers.
    """
    import numpy as np

    p = np.empty(len(target))
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        inside = None if weights is None else weights[~held]
        linear = fit_linear(columns[~held], target[~held], strength, inside)
        p[held] = linear.probability(columns[held])
    return p
