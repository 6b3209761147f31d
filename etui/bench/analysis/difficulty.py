"""Difficulty of questions: the expected accuracy of a model, from the answers of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.stats.arrays import Floats, Whole

_DEFAULT_SHRINKAGE = 2.0
"""Ratio of noise to spread if one model's answers cannot show it; on MMLU it is 1 to 3."""

_SHRINKAGE_RANGE = (0.1, 50.0)


def average_outcomes(outcomes: Floats, strata: Whole) -> Floats:
    """Average the outcomes of some models into the expected accuracy of each question.

    The mean of each model is removed first, since models may have answered different questions. The
    effect of a question is then shrunk towards that of its subject, the more so the fewer models
    answered it: by k / (k + noise variance / variance of the questions), both by the method of
    moments (Efron and Morris, JASA 70, 1975).

    Args:
        outcomes: 1, 0, or a share between them; NaN where a model did not answer. Shape
            (questions, models), at least one answer.
        strata: Number of the subject of each question, from 0, shape (questions,).

    Returns:
        Expected accuracy in [0, 1], shape (questions,). A question without answers has that of its
        subject, or of all questions.
    """
    import numpy as np

    answered = ~np.isnan(outcomes)
    counts = answered.sum(axis=1)
    grand = float(outcomes[answered].mean())
    with np.errstate(invalid="ignore"):
        sums = np.where(answered, outcomes, 0.0).sum(axis=0)
        model_means = sums / np.maximum(answered.sum(axis=0), 1)
    rest = np.where(answered, outcomes - model_means, 0.0)
    effects = rest.sum(axis=1) / np.maximum(counts, 1)
    weights = np.bincount(strata, counts)
    subject = np.bincount(strata, effects * counts) / np.maximum(weights, 1)
    own = effects - subject[strata]
    share = counts / (counts + _estimate_shrinkage(rest, effects, own, answered, counts))
    return np.asarray(np.clip(grand + subject[strata] + share * own, 0.0, 1.0))


def _estimate_shrinkage(
    rest: Floats, effects: Floats, own: Floats, answered: Whole, counts: Whole
) -> float:
    """Estimate the variance of one answer over that of the questions of a subject."""
    import numpy as np

    several = counts > 1
    if several.sum() < 10:
        return _DEFAULT_SHRINKAGE
    squares = np.where(answered, (rest - effects[:, None]) ** 2, 0.0).sum(axis=1)[several]
    noise = float((squares / (counts[several] - 1)).mean())
    spread = float((own[several] ** 2).mean() - noise * (1 / counts[several]).mean())
    low, high = _SHRINKAGE_RANGE
    return min(high, max(low, noise / spread)) if spread > 0 else high
