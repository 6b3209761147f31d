"""Compare predicted with measured joules: error, bias, and whether curves still fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from etui.curves.operating_curve import OperatingCurve, mape
from etui.log.curve_lookup import LoggedTurn
from etui.log.filters import TurnFilter, build_clause

if TYPE_CHECKING:
    from etui.log.queries import LogReader

DRIFT_TURNS = 20
"""Number of last turns that a curve is compared with."""
LEAST_DRIFT_TURNS = 8
"""With fewer turns, a curve is not judged."""
CHAIN = " → "
"""Between the models of a cascade."""


@dataclass(frozen=True, slots=True)
class PredictionOutcome:
    """One turn whose joules were predicted and measured, loads excluded."""

    model: str
    arm: str
    kind: str | None
    predicted_joules: float | None
    measured_joules: float | None
    shadow: dict[str, Any] | None
    """Decision of the policy on trial, from the trace; None without one."""
    predicted_range: tuple[float, float] | None = None  # Joules that four of five lie between
    hops: tuple[tuple[str, str], ...] = ()
    """Arm and model of each hop, in order; empty without hops."""

    @property
    def models_text(self) -> str:
        """The model, or those of all hops: the joules of a cascade are not its last model's."""
        return CHAIN.join(dict.fromkeys(model for _, model in self.hops)) or self.model

    @property
    def arms_text(self) -> str:
        """The arm with its model, or those of all hops."""
        answered_by = self.hops or ((self.arm, self.model),)
        return CHAIN.join(f"{arm} ({model})" for arm, model in answered_by)


@dataclass(frozen=True, slots=True)
class PredictionAccuracy:
    """Error of the predictions of a group of turns."""

    key: str  # Model or arm; of turns with hops, those of all hops
    n: int  # Turns with both numbers
    mape: float | None  # Mean absolute error relative to the measured joules
    factor: float | None
    """Median of the larger over the smaller of both joules: half of them are off by less."""
    inside: float | None  # Share of the turns with a predicted range that lie in it; None without
    bias: float | None
    """Sum of the predicted over the sum of the measured joules, minus 1; above 0 the predictions
    are too high."""


@dataclass(frozen=True, slots=True)
class ShadowSummary:
    """What a policy on trial would have done."""

    policy: str
    turns: int
    elsewhere: int  # Turns for which it chose another arm or model
    undecided: int  # Turns that it could not decide
    compared: int  # Turns in `elsewhere` with predicted joules for both decisions
    joules_difference: float | None
    """Predicted joules of the policy on trial minus those of the actual decision, over the compared
    turns; None without any."""


@dataclass(frozen=True, slots=True)
class Drift:
    """A curve compared with the last turns."""

    curve: OperatingCurve
    turns: int
    median_error: float | None
    """Median of measured over predicted joules, minus 1; None without turns."""
    drifted: bool
    """There are at least ``LEAST_DRIFT_TURNS`` turns, and more than half of them are outside the
    curve's own 95 % band."""


def read_outcomes(log: LogReader, turn_filter: TurnFilter) -> list[PredictionOutcome]:
    """Read the turns of a filter, oldest first."""
    where = build_clause(turn_filter)
    sql = f"""
        SELECT model, arm, energy_kind, predicted_joules, energy_joules,
            json_extract(trace, '$.shadow') AS shadow,
            json_extract(trace, '$.predicted.range') AS range, hops
        {where.sql} ORDER BY created_at
    """
    return [
        PredictionOutcome(
            *(row["model"], row["arm"], row["energy_kind"]),
            *(row["predicted_joules"], row["energy_joules"]),
            json.loads(row["shadow"]) if row["shadow"] else None,
            tuple(json.loads(row["range"])) if row["range"] else None,
            tuple((hop["arm"], hop["model"]) for hop in json.loads(row["hops"])),
        )
        for row in log.select(sql, where.values)
    ]


def group_accuracy(
    outcomes: Sequence[PredictionOutcome], key: Callable[[PredictionOutcome], str]
) -> list[PredictionAccuracy]:
    """Compute the accuracy of each group of turns with both numbers, largest group first."""
    groups: dict[str, list[PredictionOutcome]] = {}
    for outcome in outcomes:
        if outcome.predicted_joules is not None and (outcome.measured_joules or 0.0) > 0:
            groups.setdefault(key(outcome), []).append(outcome)
    accuracies = [compute_accuracy(name, found) for name, found in groups.items()]
    return sorted(accuracies, key=lambda group: (-group.n, group.key))


def compute_accuracy(key: str, outcomes: Sequence[PredictionOutcome]) -> PredictionAccuracy:
    """Compute the accuracy of turns with predicted and measured joules above 0."""
    predicted = [one.predicted_joules or 0.0 for one in outcomes]
    measured = [one.measured_joules or 0.0 for one in outcomes]
    factors = [max(p / m, m / p) for p, m in zip(predicted, measured, strict=True) if p and m]
    held = [
        one.predicted_range[0] <= m <= one.predicted_range[1]
        for one, m in zip(outcomes, measured, strict=True)
        if one.predicted_range is not None
    ]
    return PredictionAccuracy(
        key,
        len(outcomes),
        mape(predicted, measured),
        median(factors) if factors else None,
        sum(held) / len(held) if held else None,
        math.fsum(predicted) / math.fsum(measured) - 1 if measured else None,
    )


def summarise_shadows(outcomes: Sequence[PredictionOutcome]) -> list[ShadowSummary]:
    """Summarise what each policy on trial would have done, sorted by name."""
    by_policy: dict[str, list[PredictionOutcome]] = {}
    for outcome in outcomes:
        if outcome.shadow is not None:
            by_policy.setdefault(str(outcome.shadow.get("policy")), []).append(outcome)
    found = []
    for policy, turns in sorted(by_policy.items()):
        elsewhere = undecided = 0
        differences: list[float] = []
        for turn in turns:
            shadow = turn.shadow or {}
            if shadow.get("arm") is None:
                undecided += 1
            elif (shadow["arm"], shadow.get("model")) != (turn.arm, turn.model):
                elsewhere += 1
                predicted = shadow.get("predicted_joules")
                if predicted is not None and turn.predicted_joules is not None:
                    differences.append(predicted - turn.predicted_joules)
        joules = math.fsum(differences) if differences else None
        counts = len(turns), elsewhere, undecided, len(differences)
        found.append(ShadowSummary(policy, *counts, joules))
    return found


def measure_drift(curve: OperatingCurve, turns: Sequence[LoggedTurn]) -> Drift:
    """Compare a curve with turns made under its conditions, newest first.

    A turn is outside if its error exceeds the curve's scatter and the turn's own uncertainty
    together. The part of the uncertainty that the meter causes in both alike (the 40 % of an
    estimate) is left out, since it would hide a drift.
    """
    last = [turn for turn in turns if turn.created_at > curve.created_at][:DRIFT_TURNS]
    errors, outside = [], 0
    for turn in last:
        point = turn.point
        predicted = curve.joules(point.computed_tokens, point.cached_tokens, point.output_tokens)
        measured = point.prefill_joules + point.decode_joules
        if predicted.total <= 0:
            continue
        own = (point.prefill_uncertainty or 0.0) + (point.decode_uncertainty or 0.0)
        own = max(0.0, own - curve.meter_share * measured)
        errors.append(measured / predicted.total - 1)
        outside += abs(measured - predicted.total) > math.hypot(predicted.scatter, own)
    drifted = len(errors) >= LEAST_DRIFT_TURNS and 2 * outside > len(errors)
    return Drift(curve, len(errors), median(errors) if errors else None, drifted)
