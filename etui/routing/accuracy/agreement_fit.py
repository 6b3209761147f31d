"""Predict from its words how often two arms agree on a question, and what follows for both.

The difficulty d of a question is linear in its light features and the probabilities of its field.
The weights are fitted to the agreement of the audits, whose probability falls with d as the scale
of :func:`etui.routing.accuracy.agreement.build_scale` says, with an L2 penalty. The audit arm gains
most in the middle of the scale, so an error of d does not average out: the fit is repeated with
random weights of the audits (a Bayesian bootstrap), and what follows from each d is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etui.routing.accuracy.agreement import SCALE_START, SCALE_STEP, AgreementModel

if TYPE_CHECKING:
    from etui.routing.signals.question_words import QuestionText
    from etui.stats.arrays import Flags, Floats

REPEATS = 15
PENALTY = 0.1
_STEPS = 40


def average_models(
    questions: Sequence[QuestionText], agrees: Flags, scale: Sequence[AgreementModel]
) -> list[AgreementModel]:
    """Fit the difficulty of questions to their agreement; return the mean model of each question.

    Args:
        scale: Models of questions from easy to hard, by falling agreement.
    """
    import numpy as np

    columns = _build_columns(questions)
    draws = np.random.default_rng(0)
    start = _fit(columns, agrees, np.ones(len(agrees)), scale, np.zeros(columns.shape[1] + 1))
    grid = _list_difficulties(scale)
    parts = [
        np.asarray([getattr(model, name) for model in scale])
        for name in ("both", "only_arm", "only_audit")
    ]
    total = np.zeros((len(parts), len(agrees)))
    for _ in range(REPEATS):
        weights = _fit(columns, agrees, draws.exponential(size=len(agrees)), scale, start)
        difficulty = weights[0] + columns @ weights[1:]
        total += [np.interp(difficulty, grid, part) for part in parts]
    first = scale[0]
    return [
        AgreementModel(both, only_arm, only_audit, first.same_mistake, first.abilities)
        for both, only_arm, only_audit in (total / REPEATS).T.tolist()
    ]


def _build_columns(questions: Sequence[QuestionText]) -> Floats:
    """Build the light features, scaled, and the probabilities of the fields, of mean 0."""
    import numpy as np

    from etui.routing.accuracy.features import compute_features
    from etui.routing.accuracy.fields import predict_fields
    from etui.routing.accuracy.logistic import fit_scale

    light = np.asarray([compute_features(question) for question in questions])
    scaled = fit_scale(light, np.ones(len(light), dtype=bool)).apply(light)
    columns = np.column_stack([scaled, predict_fields(questions)])
    return np.asarray(columns - columns.mean(axis=0))


def _list_difficulties(scale: Sequence[AgreementModel]) -> Floats:
    import numpy as np

    return np.asarray(SCALE_START + SCALE_STEP * np.arange(len(scale)))


def _fit(
    columns: Floats, agrees: Flags, counts: Floats, scale: Sequence[AgreementModel], start: Floats
) -> Floats:
    """Fit intercept and weights of the difficulty, by penalised likelihood of the agreement."""
    import numpy as np
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
