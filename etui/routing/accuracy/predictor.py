"""Predicts the accuracy of arms from what was fitted: before an answer, and after it.

Prediction is plain Python over a few hundred numbers: about a tenth of a millisecond a question
for the features, and less for each arm.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from etui.arm import Arm
from etui.chat import Query
from etui.routing.accuracy.features import features
from etui.routing.prediction import PredictedAccuracy
from etui.routing.signals.question_words import QuestionText, split_question, term_counts, tf_idf

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.routing.accuracy.fitted_file import ArmHead, ConfidenceCurve, FittedModel, Logistic
    from etui.routing.library import PolicyPlace
    from etui.routing.policy import Policy

FITTED_ENDING = ".fitted.json"


@dataclass(frozen=True, slots=True)
class Need:
    """Whether a question needs more than its base arm gives.

    Attributes:
        need: ``reasoning`` or ``larger_model``.
        base, other: Names of the two arms.
        gained: Probability that only ``other`` answers rightly.
        lost: Probability that only ``base`` does.
        n: Questions behind it.
    """

    need: Literal["reasoning", "larger_model"]
    base: str
    other: str
    gained: float
    lost: float
    n: int

    @property
    def gain(self) -> float:
        """What ``other`` is expected to add to the probability of a right answer."""
        return self.gained - self.lost


@dataclass(frozen=True, slots=True)
class Seen:
    """A question as the heads see it: features, tf-idf by bucket, band -> probability."""

    features: tuple[float, ...]
    words: dict[int, float]
    bands: dict[str, float]


class AccuracyPredictor:
    """The heads of one policy.

    Args:
        model: What was fitted.
    """

    def __init__(self, model: FittedModel) -> None:
        self.model = model
        self._by_bucket: dict[int, list[tuple[str, float]]] = {}
        for band, centroid in model.bands.centroids.items():
            for bucket, value in zip(centroid.at, centroid.value, strict=True):
                self._by_bucket.setdefault(bucket, []).append((band, value))
        self._words: dict[int, dict[int, float]] = {}
        self._last: tuple[str, Seen] | None = None

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """How likely the arm is right; None where this arm with this model was not fitted.

        The lower bound is Wilson's, one-sided, over the answers of the band the question seems to
        be of, after the cross-validated calibration error was taken off p.
        """
        head = self._head(arm)
        if head is None:
            return None
        seen = self.look(query.text)
        p = self._probability(head.logistic, seen, _band_logit(head, seen.bands))
        n = _band_answers(head, seen.bands)
        low = wilson_low(max(0.0, p - head.quality.ece), n, confidence)
        return PredictedAccuracy(p, low, confidence, head.n, "fitted")

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Probability that an answer is right by its margin, else by its confidence; None where
        neither was fitted for this arm."""
        head = self._head(arm)
        raw = {"margin": margin, "confidence": confidence}
        for curve in head.curves if head is not None else ():
            value = raw[curve.of]
            if value is not None and math.isfinite(value):
                return on_curve(curve, value)
        return None

    def needs(self, query: Query) -> tuple[Need, ...]:
        """What a question seems to need, for each pair of arms that was fitted."""
        seen = self.look(query.text)
        return tuple(
            Need(
                head.need,
                head.base,
                head.other,
                self._probability(head.gained, seen, 0.0),
                self._probability(head.lost, seen, 0.0),
                head.n,
            )
            for head in self.model.needs
        )

    def look(self, text: str) -> Seen:
        """The question as the heads see it; kept until another one is asked about."""
        if self._last is None or self._last[0] != text:
            self._last = (text, self.look_at(split_question(text)))
        return self._last[1]

    def look_at(self, question: QuestionText) -> Seen:
        """The same for a question that was taken apart already."""
        words = tf_idf(term_counts(question), self.model.idf)
        return Seen(features(question), words, self._bands(words))

    def _bands(self, words: dict[int, float]) -> dict[str, float]:
        cosine = dict.fromkeys(self.model.bands.centroids, 0.0)
        for bucket, value in words.items():
            for band, weight in self._by_bucket.get(bucket, ()):
                cosine[band] += value * weight
        return softmax(cosine, self.model.bands.sharpness)

    def _head(self, arm: Arm) -> ArmHead | None:
        head = self.model.arms.get(arm.name)
        return None if head is None or head.model not in (None, arm.model) else head

    def _probability(self, logistic: Logistic, seen: Seen, band_logit: float) -> float:
        weights = self._words.get(id(logistic))
        if weights is None:
            weights = dict(zip(logistic.words.at, logistic.words.value, strict=True))
            self._words[id(logistic)] = weights
        z = logistic.intercept + logistic.band * band_logit
        z += sum(w * x for w, x in zip(logistic.features, seen.features, strict=True))
        z += sum(weights.get(bucket, 0.0) * value for bucket, value in seen.words.items())
        return sigmoid(z)


def fitted_path(policy: Policy | PolicyPlace, config: Config) -> Path:
    """Where the model of a policy lies: beside it, of a shipped one in ETUI_HOME/policies."""
    from etui.config.config import shipped_dir

    shipped = policy.path.parent == shipped_dir() / "policies"
    folder = config.policies_dir if shipped else policy.path.parent
    return folder / f"{policy.name}{FITTED_ENDING}"


def load_heads(policy: Policy, config: Config) -> AccuracyPredictor | None:
    """The heads of a policy; None where nothing was fitted.

    Raises:
        InvalidFile: The file is damaged, or of another etui.
    """
    path = fitted_path(policy, config)
    if not path.is_file():
        return None
    from etui.routing.accuracy.fitted_file import load_fitted

    return AccuracyPredictor(load_fitted(path))


def wilson_low(p: float, n: float, confidence: float) -> float:
    """Lower end of Wilson's one-sided interval of a share p of n answers; 0 of none."""
    if n <= 0:
        return 0.0
    z = _quantile(confidence)
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return min(max((centre - half) / (1 + z * z / n), 0.0), 1.0)


def on_curve(curve: ConfidenceCurve, value: float) -> float:
    """The probability a curve gives: linear between knots, constant outside of them."""
    if curve.kind == "platt":
        return sigmoid(curve.a * value + curve.b)
    at = bisect_right(curve.x, value)
    if at == 0:
        return curve.p[0]
    if at == len(curve.x):
        return curve.p[-1]
    x0, x1, p0, p1 = curve.x[at - 1], curve.x[at], curve.p[at - 1], curve.p[at]
    return p0 + (p1 - p0) * (value - x0) / (x1 - x0)


def sigmoid(z: float) -> float:
    """1 / (1 + exp(-z)), without overflow."""
    if z >= 0:
        return 1 / (1 + math.exp(-z))
    small = math.exp(z)
    return small / (1 + small)


def softmax(values: dict[str, float], sharpness: float) -> dict[str, float]:
    """exp(sharpness * value), scaled to sum to 1."""
    if not values:
        return {}
    largest = max(values.values())
    raised = {name: math.exp(sharpness * (value - largest)) for name, value in values.items()}
    total = sum(raised.values())
    return {name: value / total for name, value in raised.items()}


def _band_logit(head: ArmHead, bands: dict[str, float]) -> float:
    """Expected logit of the shrunken rate, over the bands the question may be of."""
    overall = logit(head.rate)
    if not bands:
        return overall
    known = {band: logit(rate.p) for band, rate in head.rates.items()}
    return sum(share * known.get(band, overall) for band, share in bands.items())


def _band_answers(head: ArmHead, bands: dict[str, float]) -> float:
    """Graded answers of the band the question seems to be of; all of them without bands."""
    known = sum(share * head.rates[band].n for band, share in bands.items() if band in head.rates)
    return known if bands else float(head.n)


def logit(p: float) -> float:
    """ln(p / (1-p)), of a p kept within 1e-4 of the ends."""
    p = min(max(p, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))


@lru_cache(maxsize=64)
def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(min(max(confidence, 1e-9), 1 - 1e-9))
