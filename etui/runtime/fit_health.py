"""Compare a policy's fit with the labels of the log since then, and set aside what is worse.

The fit of an arm predicts each question; the arm's rate alone predicts the same for all. Where the
squared error of the fit is greater, by a test that may be looked at after each label, and was
greater over the last labels too, the rate predicts until the policy is fitted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from etui.arm import Arm
from etui.chat import Query
from etui.errors import LogUnavailable
from etui.routing.accuracy.drift import NEWEST, ArmHealth, judge_arm
from etui.routing.accuracy.labels import format_question
from etui.routing.accuracy.predictor import AccuracyPredictor, wilson_low
from etui.routing.prediction import PredictedAccuracy, PredictedAgreement, RawConfidence

if TYPE_CHECKING:
    from etui.config.config import Config
    from etui.log.label_table import LogLabels
    from etui.log.queries import LogReader
    from etui.routing.accuracy.fitted_file import FittedModel


@dataclass(frozen=True, slots=True)
class FitHealth:
    """A fit, its age, its scope, and how it has done since.

    Attributes:
        fitted_at: When it was fitted, ISO 8601.
        days: Its age.
        n: Number of graded questions.
        source: Where they come from.
        models: Arm -> the model that was fitted; None for any.
        alike: Share of the newest logged questions of which half the words were in fitted
            questions; None without a log.
        gone: Fitted arms that the policy has no more.
        arms: The fitted arms of the policy.
    """

    fitted_at: str
    days: float | None
    n: int
    source: tuple[str, ...]
    models: dict[str, str | None]
    alike: float | None
    gone: tuple[str, ...]
    arms: tuple[ArmHealth, ...]

    @property
    def set_aside(self) -> frozenset[str]:
        """Names of the arms whose fit is set aside."""
        return frozenset(arm.arm for arm in self.arms if arm.set_aside)


class GuardedHeads:
    """Predicts with the fit, and with the rate alone for arms whose fit is set aside."""

    def __init__(
        self, heads: AccuracyPredictor, set_aside: frozenset[str], notice: str = ""
    ) -> None:
        self._heads = heads
        self.notice = notice
        self.set_aside = set_aside

    def accuracy(self, arm: Arm, query: Query, confidence: float) -> PredictedAccuracy | None:
        """Predict the accuracy of an arm on a query; None if the arm was not fitted."""
        found = self._heads.accuracy(arm, query, confidence)
        if found is None or arm.name not in self.set_aside:
            return found
        head = self._heads.model.arms[arm.name]
        low = wilson_low(head.rate, head.n, confidence)
        return PredictedAccuracy(head.rate, low, confidence, head.n, "rate")

    def calibrated(self, arm: Arm, confidence: float | None, margin: float | None) -> float | None:
        """Compute the probability that a given answer is right, as the fit does."""
        return self._heads.calibrated(arm, confidence, margin)

    def agreement(
        self, arms: Sequence[Arm], raw: Sequence[RawConfidence] = ()
    ) -> PredictedAgreement | None:
        """Predict the worth of agreement as the fit does.

        With an arm whose fit is set aside, the fit does not say that asking is in vain.
        """
        found = self._heads.agreement(arms, raw)
        if found is None or self.set_aside.isdisjoint(arm.name for arm in arms):
            return found
        return replace(found, at_most=1.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._heads, name)


def measure_health(
    model: FittedModel,
    labels: LogLabels,
    arms: Sequence[str],
    newest: Sequence[str] = (),
    now: datetime | None = None,
) -> FitHealth:
    """Compare a fit with labels.

    Args:
        model: The fit.
        labels: The labels of the log; those before the fit are ignored.
        arms: Arms that the policy has now.
        newest: The newest questions of the log, for the scope.
        now: The time, with a zone; None is now.
    """
    heads = AccuracyPredictor(model)
    fitted_at = _parse_time(model.provenance.fitted_at)
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in model.arms if arm in arms}
    for each, created_at in zip(labels.questions, labels.created_at, strict=True):
        at = _parse_time(created_at)
        if fitted_at is None or at is None or at <= fitted_at:
            continue
        query = Query(format_question(each.question))
        for name, label in each.labels.items():
            if name in found:
                arm = Arm(name, model.arms[name].model or "")
                predicted = heads.accuracy(arm, query, 0.9)
                if predicted is not None:
                    found[name].append((predicted.p, label.p))
    now = now or datetime.now(UTC)
    return FitHealth(
        fitted_at=model.provenance.fitted_at,
        days=None if fitted_at is None else (now - fitted_at).total_seconds() / 86_400,
        n=model.provenance.n,
        source=tuple(model.provenance.source),
        models={name: head.model for name, head in model.arms.items()},
        alike=_measure_scope(heads, newest),
        gone=tuple(name for name in model.arms if name not in arms),
        arms=tuple(judge_arm(name, model.arms[name].rate, pairs) for name, pairs in found.items()),
    )


def read_health(
    config: Config, policy: str, arms: Sequence[str], model: FittedModel
) -> FitHealth | None:
    """Read the log and compare a policy's fit with it; None if the log cannot be read."""
    from etui.log.queries import LogReader

    try:
        with LogReader(config) as log:
            return read_health_from(log, policy, arms, model)
    except LogUnavailable:
        return None


def read_health_from(
    log: LogReader, policy: str, arms: Sequence[str], model: FittedModel
) -> FitHealth:
    """Compare a policy's fit with an open log.

    Raises:
        LogUnavailable: The log cannot be read.
    """
    from etui.log.label_table import collect_labels
    from etui.log.labels import read_labelled

    known = {name: head.rate for name, head in model.arms.items()}
    labels = collect_labels(read_labelled(log), policy, known, arms, by_question=False)
    newest = [turn.query for turn in log.list_turns(limit=NEWEST)]
    return measure_health(model, labels, arms, newest)


def build_notice(health: FitHealth, policy: str) -> str:
    """Build the notice about arms whose fit is set aside; empty without any."""
    if not health.set_aside:
        return ""
    names = ", ".join(arm.arm for arm in health.arms if arm.set_aside)
    return (
        f"the fit of {names} is worse than its rate on the labels since then, so the rate is used; "
        f"run: etui policy fit {policy} --log"
    )


def format_health(health: FitHealth) -> list[str]:
    """Format age, scope and state of a fit as lines."""
    from etui.units import count_text, percent_text

    age = "" if health.days is None else f", {count_text(int(health.days), 'day')} ago"
    lines = [
        f"fit of {health.fitted_at[:10]}{age}: {count_text(health.n, 'question')} of "
        f"{', '.join(health.source)}"
    ]
    if health.alike is not None:
        lines.append(f"{percent_text(health.alike)} of the newest questions are like those fitted")
    for arm in health.arms:
        if arm.predicted is None or arm.observed is None:
            continue
        state = "set aside: worse than its rate" if arm.set_aside else ""
        state = state or ("drifted" if arm.drifted else "holds")
        rates = f"{percent_text(arm.observed)} right, {percent_text(arm.predicted)} predicted"
        lines.append(f"{arm.arm}: {state}; {rates}, {count_text(arm.labels, 'label')} since")
    if health.gone:
        lines.append(f"fitted arms that the policy has no more: {', '.join(health.gone)}")
    return lines


def _measure_scope(heads: AccuracyPredictor, newest: Sequence[str]) -> float | None:
    if not newest:
        return None
    unseen = max(heads.model.idf)
    alike = 0
    for text in newest:
        words = heads.prepare_inputs(text).words
        seen = sum(heads.model.idf[bucket] < unseen for bucket in words)
        alike += bool(words) and seen >= len(words) / 2
    return alike / len(newest)


def _parse_time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
