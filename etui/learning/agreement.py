"""What the agreement of two answers says of whether either is right.

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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from etui.learning.features import compute_features, predict_fields
from etui.learning.regressions import fit_scale
from etui.routing.question_text import QuestionText
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

    Args:
        scale: Models of questions from easy to hard, by falling agreement.
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
    """Build the light features, scaled, and the probabilities of the fields, of mean 0."""
    light = np.asarray([compute_features(question) for question in questions])
    scaled = fit_scale(light, np.ones(len(light), dtype=bool)).apply(light)
    columns = np.column_stack([scaled, predict_fields(questions)])
    return np.asarray(columns - columns.mean(axis=0))


def _list_difficulties(scale: Sequence[AgreementModel]) -> Floats:
    return np.asarray(SCALE_START + SCALE_STEP * np.arange(len(scale)))


def _fit_difficulty(
    columns: Floats, agrees: Flags, counts: Floats, scale: Sequence[AgreementModel], start: Floats
) -> Floats:
    """Fit intercept and weights of the difficulty, by penalised likelihood of the agreement."""
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

        Its mean over the answers is the arm's accuracy, also where they agree more often than the
        model explains: then agreement says less.
        """
        apart = self.only_arm / (1 - self.agreement)
        if not agrees:
            return apart
        if self.observed is not None:
            return (self.arm - (1 - self.observed) * apart) / self.observed
        return self.both / self.agreement

    def audit_right(self, agrees: bool, arm_right: bool | None = None) -> float:
        """Compute the probability that the audit arm is right.

        Args:
            arm_right: Whether the audited arm is right, if the user has said so; else None.
        """
        if arm_right is None:
            return self.arm_right(True) if agrees else self.only_audit / (1 - self.agreement)
        if agrees:
            return float(arm_right)
        different = (1 - self.same_mistake) * self.neither
        return 0.0 if arm_right else self.only_audit / (self.only_audit + different)


def estimate_agreement(
    agreed: int, compared: int, audit: float, same_mistake: float = SAME_MISTAKE
) -> AgreementModel:
    """Estimate the joint probabilities from how often an arm agrees with its audit arm.

    Args:
        audit: Accuracy of the audit arm; kept in [0.02, 0.98].
    """
    share = (agreed + 1) / (compared + 2)
    ability = _find_ability(min(max(audit, 0.02), 0.98))

    def measure_agreement(candidate: float) -> float:
        return _build_model((candidate, ability), same_mistake).agreement

    own = _bisect(measure_agreement, share, ability)
    model = _build_model((own, ability), same_mistake)
    return replace(model, observed=share) if share > model.agreement + _SMALL else model


def build_scale(model: AgreementModel) -> tuple[AgreementModel, ...]:
    """Build the models of questions from easy to hard, by falling agreement.

    Among the easy ones both arms are right, among the hard ones both are wrong, and the audit arm
    gains most in between. Agreement rises again where both only guess, so the scale ends at its
    least agreement.
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
    """Compute the probability of a right answer at each difficulty of the grid."""
    return tuple(1 / (1 + math.exp(spread * z - ability)) for z in _GRID)


def _bisect(rising: Callable[[float], float], value: float, most: float) -> float:
    low, high = -_FURTHEST, most
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return high
