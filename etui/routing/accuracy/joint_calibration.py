"""Calibrate the joint model: what is shared by the arms, and what differs between them.

A router lives on the differences between arms, of which a forest invents some where answers are few
or many arms are alike. So the differences have a slope of their own, which is the smaller the less
they hold on questions that the trees did not see. The rates of the question's bands, which a forest
sees as columns and blurs, have a part in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

LEAST_P = 0.01
"""How far p is kept away from 0 and 1 before it is calibrated: no forest knows more than that."""
_PRIOR = (1.0, 0.5, 0.0, 0.1)
"""The weights without any evidence: of the forest's mean and differences, and of the bands'."""
_PRIOR_STRENGTH = 50.0
_ARM_STRENGTH = 300.0
_OFFSET_STRENGTH = 30.0
_MOST_MIXED = 0.7
_NONE_MIXED = 3_000
MIXED_SPREAD = 0.5
"""Factor of the differences that regressions predict: each is fitted alone, so they are noisier."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Weights of the parts of a question's logits; a part is the mean over the arms, or the rest.

    Attributes:
        band_mean, band_spread: The same of the expected rates of the bands.
    """

    slope: Floats  # Weight of the forest's mean, for each arm, (arms,)
    spread: float  # Weight of each arm's difference from the mean, by the forest
    band_mean: float
    band_spread: float
    offset: Floats  # Constant of each arm, (arms,)

    def apply(self, p: Floats, expected: Floats) -> Floats:
        """Calibrate the forest's probabilities, (questions, arms).

        Args:
            p: The forest's probabilities, (questions, arms).
            expected: Expected rates of the questions' bands, same shape.
        """
        import numpy as np
        from scipy.special import expit

        mean, rest = _split(p)
        band_mean, band_rest = _split(expected)
        z = self.slope * mean + self.spread * rest + self.offset
        return np.asarray(expit(z + self.band_mean * band_mean + self.band_spread * band_rest))


@dataclass(frozen=True, slots=True)
class RegressionMix:
    """Share of the arms' own regressions in the differences between the arms."""

    share: float  # Share of the regressions, from 0 to 1; the rest is the joint model's
    offset: Floats  # Constant of each arm, which keeps its mean difference as it was, (arms,)

    def apply(self, p: Floats, own: Floats) -> Floats:
        """Mix probabilities of the joint model with those of the regressions, (questions, arms)."""
        import numpy as np
        from scipy.special import expit

        mean, rest = _split(p)
        mixed = (1 - self.share) * rest + self.share * MIXED_SPREAD * _split(own)[1]
        return np.asarray(expit(mean + mixed + self.offset))


def is_mixed(questions: int) -> bool:
    """Return whether the regressions have a share in a fit of so many questions."""
    return questions < _NONE_MIXED


def fit_mix(p: Floats, own: Floats, questions: int) -> RegressionMix | None:
    """Fit the mix; None of many questions, or of one arm.

    A forest needs more answers than a regression to tell more from the same words. So the share of
    the regressions falls from 0.7 to none at 3,000 questions.

    Args:
        p: The joint model's probabilities of questions that it was not fitted on.
        own: Those of the regressions, same shape.
    """
    if not is_mixed(questions) or p.shape[1] < 2:
        return None
    share = _MOST_MIXED * (1 - questions / _NONE_MIXED)
    rest = _split(p)[1].mean(axis=0) - MIXED_SPREAD * _split(own)[1].mean(axis=0)
    return RegressionMix(share, share * rest)


def fit_calibration(p: Floats, expected: Floats, y: Floats, heavy: Floats) -> Calibration:
    """Fit the weights by penalised logistic regression over all arms (Newton steps).

    An arm's mean difference from the others is free, so a small weight of the differences leaves
    the arms' accuracies as they are.

    Args:
        p: The forest's probabilities of questions that its trees did not see, (questions, arms).
        expected: Expected rates of the bands, from other questions, same shape.
        y: Answers, right or wrong, same shape.
        heavy: Weight of each answer, same shape.
    """
    import numpy as np
    from scipy.special import expit

    mean, rest = _split(p)
    band_mean, band_rest = _split(expected)
    parts = [np.broadcast_to(mean, rest.shape), rest]
    parts += [np.broadcast_to(band_mean, rest.shape), band_rest]
    centers = np.stack([part.mean(axis=0) for part in parts])  # (parts, arms)
    count, arms = len(parts), y.shape[1]
    prior = np.concatenate([_PRIOR, np.zeros(arms), centers[0] + centers[1]])
    strength = np.concatenate(
        [
            np.full(count, _PRIOR_STRENGTH),
            np.full(arms, _ARM_STRENGTH),
            np.full(arms, _OFFSET_STRENGTH),
        ]
    )
    columns = [
        np.column_stack(
            [
                *(part[:, arm] - center[arm] for part, center in zip(parts, centers, strict=True)),
                mean[:, 0] - centers[0, arm],
                np.ones(len(y)),
            ]
        )
        for arm in range(arms)
    ]
    places = [[*range(count), count + arm, count + arms + arm] for arm in range(arms)]
    at = prior.copy()
    for _ in range(25):
        gradient, curvature = -strength * (at - prior), np.diag(strength)
        for arm, (own, place) in enumerate(zip(columns, places, strict=True)):
            guess = expit(own @ at[place])
            gradient[place] += own.T @ (heavy[:, arm] * (y[:, arm] - guess))
            spread = heavy[:, arm] * guess * (1 - guess)
            curvature[np.ix_(place, place)] += (own * spread[:, None]).T @ own
        move = np.linalg.solve(curvature, gradient)
        at = at + move
        if np.abs(move).max() < 1e-9:
            break
    slope = np.maximum(at[0] + at[count : count + arms], 0.0)
    spread, band, band_spread = max(float(at[1]), 0.0), float(at[2]), float(at[3])
    offset = at[count + arms :] - slope * centers[0]
    offset -= spread * centers[1] + band * centers[2] + band_spread * centers[3]
    return Calibration(slope, spread, band, band_spread, offset)


def _split(p: Floats) -> tuple[Floats, Floats]:
    """Split logits into their mean over the arms, (questions, 1), and the differences from it."""
    import numpy as np

    inside = np.clip(p, LEAST_P, 1 - LEAST_P)
    z = np.log(inside / (1 - inside))
    mean = z.mean(axis=1, keepdims=True)
    return mean, z - mean
