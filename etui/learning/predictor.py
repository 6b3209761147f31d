"""Predict the accuracy of arms with fitted heads: before an answer, and after it.

A prediction takes less than a millisecond for a question: features, field and words, then
the joint model of all arms at once; a fit of very few questions has rates alone.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from etui.arm import Arm
from etui.chat import Query
from etui.learning.features import (
    compute_features,
    load_classifier,
)
from etui.routing.decision import PredictedAccuracy, PredictedAgreement, RawConfidence
from etui.routing.text_measures import QuestionText, count_terms, split_question, tf_idf
from etui.stats.tests import compute_capital, wilson_low

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.learning.fitted_file import (
        AgreementHead,
        ArmHead,
        ConfidenceCurve,
        FittedModel,
    )
    from etui.routing.policy import Policy
    from etui.yaml.named_files import NamedFile


FITTED_ENDING = ".fitted.json"


@dataclass(frozen=True, slots=True)
class Need:
    """Predicted benefit of an arm over a base arm for one question."""

    need: Literal["reasoning", "larger_model"]
    base: str
    other: str
    gained: float  # Probability that only `other` is right
    lost: float  # Probability that only `base` is right
    n: int  # Number of questions the prediction was fitted on

    @property
    def gain(self) -> float:
        """Expected increase of the probability of a right answer by ``other``."""
        return self.gained - self.lost


@dataclass(frozen=True, slots=True)
class QuestionInputs:
    """Inputs of the heads for one question: features, tf-idf by bucket, band -> probability."""

    features: tuple[float, ...]
    words: dict[int, float]
    bands: dict[str, float]


class AccuracyPredictor:
    """Predicts with the fitted heads of one policy.

    Attributes:
        notice: What is to be said of the fit when it is used; empty without anything.
    """

    def __init__(self, model: FittedModel) -> None:
        self.model = model
        self.notice = ""
        self._aside: frozenset[str] = frozenset()
        self._by_bucket: dict[int, list[tuple[str, float]]] = {}
        for band, centroid in model.bands.centroids.items():
            for bucket, value in zip(centroid.at, centroid.value, strict=True):
                self._by_bucket.setdefault(bucket, []).append((band, value))
        self._joint = None
        if model.joint is not None:
            from etui.learning._joint import JointPredictor

            self._joint = JointPredictor(model.joint)
        self._fields = load_classifier() if model.bands.source == "fields" else None
        self._last: tuple[str, QuestionInputs] | None = None
        self._last_p: tuple[QuestionInputs, dict[str, float]] | None = None

    def set_aside(self, arms: frozenset[str], notice: str) -> AccuracyPredictor:
        """Return a predictor that has only the rates of some arms, whose fit has become worse."""
        other = copy(self)
        other._aside, other.notice = arms, notice
        return other

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """Predict how likely the arm is right; None if this arm with this model was not fitted.

        The one-sided Wilson bound is over the answers of the predicted bands, after the calibration
        error is subtracted from p.
        """
        head = self._find_head(arm)
        if head is None:
            return None
        if arm.name in self._aside:
            low = wilson_low(head.rate, head.n, confidence)
            return PredictedAccuracy(head.rate, low, confidence, head.n, "rate")
        inputs = self.prepare_inputs(query.text)
        p = self._predict_all(inputs)[arm.name]
        n = _count_band_answers(head, inputs.bands)
        low = wilson_low(max(0.0, p - head.quality.ece), n, confidence)
        return PredictedAccuracy(p, low, confidence, head.n, "fitted")

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Compute the probability that an answer is right, by its margin, else its confidence."""
        head = self._find_head(arm)
        raw = {"margin": margin, "confidence": confidence}
        for curve in head.curves if head is not None else ():
            value = raw[curve.of]
            if value is not None and math.isfinite(value):
                return evaluate_curve(curve, value)
        return None

    def agreement(
        self, arms: Sequence[Arm], raw: Sequence[RawConfidence] = ()
    ) -> PredictedAgreement | None:
        """Predict how likely an answer is right that the arms agree on.

        With an arm whose fit is set aside, the fit does not rule out that they agree.
        """
        for head in self.model.agreements:
            fits = all(m in (None, arm.model) for m, arm in zip(head.models, arms, strict=False))
            if head.arms == tuple(arm.name for arm in arms) and fits:
                return PredictedAgreement(
                    _calibrate_agreed(head, raw),
                    head.agreed.low,
                    head.agreed.high,
                    head.agreed.n,
                    tuple(share.p for share in head.apart),
                    head.known,
                    compute_ceiling(head) if self._aside.isdisjoint(head.arms) else 1.0,
                )
        return None

    def needs(self, query: Query) -> tuple[Need, ...]:
        """Predict the benefit of the larger arm for each fitted pair of arms."""
        p = self._predict_all(self.prepare_inputs(query.text))
        found = []
        for head in self.model.needs:
            base, other = p[head.base], p[head.other]
            both = compute_both(base, other, head.together)
            need = Need(head.need, head.base, head.other, other - both, base - both, head.n)
            found.append(need)
        return tuple(found)

    def prepare_inputs(self, text: str) -> QuestionInputs:
        """Compute the inputs of the heads for a question; the last result is cached."""
        if self._last is None or self._last[0] != text:
            self._last = (text, self.compute_inputs(split_question(text)))
        return self._last[1]

    def compute_inputs(self, question: QuestionText) -> QuestionInputs:
        """Compute the inputs of the heads for a question that is already split."""
        words = tf_idf(count_terms(question), self.model.idf)
        bands = self._predict_bands(question, words)
        return QuestionInputs(compute_features(question), words, bands)

    def _predict_all(self, inputs: QuestionInputs) -> dict[str, float]:
        """Predict p of all arms, by their joint model or else by the rates of the bands."""
        if self._last_p is None or self._last_p[0] is not inputs:
            if self._joint is not None:
                found = self._joint.predict(inputs.features, inputs.words, inputs.bands)
            else:
                found = {
                    name: sigmoid(_compute_band_logit(head, inputs.bands))
                    for name, head in self.model.arms.items()
                }
            self._last_p = (inputs, found)
        return self._last_p[1]

    def _predict_bands(self, question: QuestionText, words: dict[int, float]) -> dict[str, float]:
        if self._fields is not None:
            shares = self._fields.predict(question)
            return {name: p for name, p in zip(self._fields.names, shares, strict=True) if p}
        cosine = dict.fromkeys(self.model.bands.centroids, 0.0)
        for bucket, value in words.items():
            for band, weight in self._by_bucket.get(bucket, ()):
                cosine[band] += value * weight
        return softmax(cosine, self.model.bands.sharpness)

    def _find_head(self, arm: Arm) -> ArmHead | None:
        head = self.model.arms.get(arm.name)
        return None if head is None or head.model not in (None, arm.model) else head


def get_fitted_path(policy: Policy | NamedFile, config: Config) -> Path:
    """Return the path of a fitted file: beside the policy, or in the user's folder if shipped."""
    from etui.config.config import shipped_dir

    shipped = policy.path.parent == shipped_dir() / "policies"
    folder = config.policies_dir if shipped else policy.path.parent
    return folder / f"{policy.name}{FITTED_ENDING}"


def load_accuracy(policy: Policy, config: Config) -> AccuracyPredictor | None:
    """Load the fitted heads; None if nothing was fitted, InvalidFile if the file is damaged."""
    path = get_fitted_path(policy, config)
    if not path.is_file():
        return None
    from etui.learning.fitted_file import load_fitted

    return AccuracyPredictor(load_fitted(path))


def _calibrate_agreed(head: AgreementHead, raw: Sequence[RawConfidence]) -> float:
    if head.curve is None or len(raw) != len(head.arms):
        return head.agreed.p
    values = [margin if head.curve.of == "margin" else confidence for confidence, margin in raw]
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(values):
        return head.agreed.p
    return evaluate_curve(head.curve, sum(known) / len(known))


def compute_ceiling(head: AgreementHead) -> float:
    """Compute the highest probability of an agreed answer, whatever its margins, if any."""
    if head.curve is None:
        return head.agreed.p
    return max(head.agreed.p, *(evaluate_curve(head.curve, end) for end in (0.0, 1.0)))


def evaluate_curve(curve: ConfidenceCurve, value: float) -> float:
    """Evaluate a curve: linear between knots, constant outside of them."""
    if curve.kind == "platt":
        return sigmoid(curve.a * value + curve.b)
    at = bisect_right(curve.x, value)
    if at == 0:
        return curve.p[0]
    if at == len(curve.x):
        return curve.p[-1]
    x0, x1, p0, p1 = curve.x[at - 1], curve.x[at], curve.p[at - 1], curve.p[at]
    return p0 + (p1 - p0) * (value - x0) / (x1 - x0)


def compute_both(first: float, second: float, together: float) -> float:
    """Compute the probability that both arms are right, from that of each and a correlation."""
    spread = math.sqrt(first * (1 - first) * second * (1 - second))
    both = first * second + together * spread
    return min(max(both, first + second - 1, 0.0), first, second)


def sigmoid(z: float) -> float:
    """Compute 1 / (1 + exp(-z)) without overflow."""
    if z >= 0:
        return 1 / (1 + math.exp(-z))
    small = math.exp(z)
    return small / (1 + small)


def softmax(values: dict[str, float], sharpness: float) -> dict[str, float]:
    """Compute exp(sharpness * value), scaled to sum to 1."""
    if not values:
        return {}
    largest = max(values.values())
    raised = {name: math.exp(sharpness * (value - largest)) for name, value in values.items()}
    total = sum(raised.values())
    return {name: value / total for name, value in raised.items()}


def _compute_band_logit(head: ArmHead, bands: dict[str, float]) -> float:
    overall = logit(head.rate)
    if not bands:
        return overall
    known = {band: logit(rate.p) for band, rate in head.rates.items()}
    return sum(share * known.get(band, overall) for band, share in bands.items())


def _count_band_answers(head: ArmHead, bands: dict[str, float]) -> float:
    """Compute the expected number of graded answers in the predicted band; all without bands."""
    known = sum(share * head.rates[band].n for band, share in bands.items() if band in head.rates)
    return known if bands else float(head.n)


def logit(p: float) -> float:
    """Compute ln(p / (1-p)), with p kept at least 1e-4 away from 0 and 1."""
    p = min(max(p, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))


LEVEL = 0.05
"""Probability of setting aside a fit that is not worse than its rates, however often one looks."""

NEWEST = 200
"""Number of the last labels over which a fit must be worse too."""


@dataclass(frozen=True, slots=True)
class ArmHealth:
    """The fit of one arm against the labels since then; means are None without any label."""

    arm: str
    labels: int  # Number of labels since the fit
    predicted: float | None
    observed: float | None
    excess: float | None
    """Mean squared error of the fit minus that of the rate, over the last labels."""
    set_aside: bool  # Whether the rate predicts in place of the fit
    drifted: bool  # Whether the arm is right more, or less, often than predicted


def judge_arm(arm: str, rate: float, pairs: Sequence[tuple[float, float]]) -> ArmHealth:
    """Judge the fit of an arm against its rate, by (predicted, label) in [0, 1], oldest first."""
    if not pairs:
        return ArmHealth(arm, 0, None, None, None, set_aside=False, drifted=False)
    excess = [(p - y) ** 2 - (rate - y) ** 2 for p, y in pairs]
    mean = _mean(excess[-NEWEST:])
    worse = compute_capital(excess) >= 1 / LEVEL and mean > 0
    ahead = compute_capital(y - p for p, y in pairs)
    behind = compute_capital(p - y for p, y in pairs)
    return ArmHealth(
        arm=arm,
        labels=len(pairs),
        predicted=_mean([p for p, _ in pairs]),
        observed=_mean([y for _, y in pairs]),
        excess=mean,
        set_aside=worse,
        drifted=max(ahead, behind) >= 2 / LEVEL,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
