"""Predictions judged by what was measured: how far off, which way, and whether curves still fit."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from etui.curves.operating_curve import OperatingCurve, mape
from etui.log.curve_lookup import LoggedTurn
from etui.log.filters import Clause

DRIFT_TURNS = 20
"""Last turns that a curve is held against."""

LEAST_DRIFT_TURNS = 8
"""Fewer say nothing of a curve."""


@dataclass(frozen=True, slots=True)
class PredictionOutcome:
    """One turn whose joules were predicted and measured, loads excluded.

    Attributes:
        shadow: What the policy on trial would have done, as the trace has it; None without one.
    """

    model: str
    arm: str
    kind: str | None
    predicted_joules: float | None
    measured_joules: float | None
    shadow: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class PredictionAccuracy:
    """How far predictions are off.

    Attributes:
        key: Model or arm.
        n: Turns with both numbers.
        mape: Mean absolute error relative to the measured joules.
        bias: Sum of the predicted over the sum of the measured joules, less 1: above 0 predicts
            too much.
    """

    key: str
    n: int
    mape: float | None
    bias: float | None


@dataclass(frozen=True, slots=True)
class ShadowSummary:
    """What a policy on trial would have done.

    Attributes:
        policy: Its name.
        turns: Turns it was asked about.
        elsewhere: Those that would have gone to another arm or model.
        undecided: Those it could not decide.
        compared: Turns elsewhere with a prediction of both.
        joules_difference: Predicted joules of the shadow less those of what answered, over the
            compared turns; None without any.
    """

    policy: str
    turns: int
    elsewhere: int
    undecided: int
    compared: int
    joules_difference: float | None


@dataclass(frozen=True, slots=True)
class Drift:
    """A curve held against the last turns.

    Attributes:
        turns: How many there are.
        median_error: Median of measured over predicted joules, less 1; None without turns.
        drifted: Half of the turns, or more, lie outside of the curve's own 95 % band.
    """

    curve: OperatingCurve
    turns: int
    median_error: float | None
    drifted: bool


def outcomes_sql(where: Clause) -> str:
    """The statement behind :func:`outcomes`."""
    return f"""
        SELECT model, arm, energy_kind, predicted_joules, energy_joules,
            json_extract(trace, '$.shadow') AS shadow
        {where.sql} ORDER BY created_at
    """


def outcomes(rows: Sequence[sqlite3.Row]) -> list[PredictionOutcome]:
    """Rows of :func:`outcomes_sql`."""
    return [
        PredictionOutcome(
            row["model"],
            row["arm"],
            row["energy_kind"],
            row["predicted_joules"],
            row["energy_joules"],
            json.loads(row["shadow"]) if row["shadow"] else None,
        )
        for row in rows
    ]


def accuracy_by(
    found: Sequence[PredictionOutcome], key: Callable[[PredictionOutcome], str]
) -> list[PredictionAccuracy]:
    """Accuracy of each group that has turns with both numbers, the largest first."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for one in found:
        predicted, measured = one.predicted_joules, one.measured_joules
        if predicted is not None and measured is not None and measured > 0:
            groups.setdefault(key(one), []).append((predicted, measured))
    made = [accuracy_of(name, pairs) for name, pairs in groups.items()]
    return sorted(made, key=lambda group: (-group.n, group.key))


def accuracy_of(key: str, pairs: Sequence[tuple[float, float]]) -> PredictionAccuracy:
    """Accuracy of (predicted, measured) joules."""
    predicted, measured = [p for p, _ in pairs], [m for _, m in pairs]
    total = math.fsum(measured)
    bias = math.fsum(predicted) / total - 1 if total > 0 else None
    return PredictionAccuracy(key, len(pairs), mape(predicted, measured), bias)


def shadow_summaries(found: Sequence[PredictionOutcome]) -> list[ShadowSummary]:
    """What each policy on trial would have done, by its name."""
    by_policy: dict[str, list[PredictionOutcome]] = {}
    for one in found:
        if one.shadow is not None:
            by_policy.setdefault(str(one.shadow.get("policy")), []).append(one)
    return [_summary(policy, turns) for policy, turns in sorted(by_policy.items())]


def drift_of(curve: OperatingCurve, turns: Sequence[LoggedTurn]) -> Drift:
    """Hold a curve against turns made under its conditions, newest first.

    A turn is outside when it is off by more than the curve's scatter and the turn's own ±
    together; what the meter leaves open of both alike (the 40 % of an estimate) hides nothing.
    """
    last = [turn for turn in turns if turn.created_at > curve.created_at][:DRIFT_TURNS]
    errors, outside = [], 0
    for turn in last:
        point = turn.point
        said = curve.joules(point.computed_tokens, point.cached_tokens, point.output_tokens)
        measured = point.prefill_joules + point.decode_joules
        if said.total <= 0:
            continue
        own = (point.prefill_uncertainty or 0.0) + (point.decode_uncertainty or 0.0)
        own = max(0.0, own - curve.meter_share * measured)
        errors.append(measured / said.total - 1)
        outside += abs(measured - said.total) > math.hypot(said.scatter, own)
    drifted = len(errors) >= LEAST_DRIFT_TURNS and 2 * outside > len(errors)
    return Drift(curve, len(errors), median(errors) if errors else None, drifted)


def _summary(policy: str, turns: Sequence[PredictionOutcome]) -> ShadowSummary:
    elsewhere = undecided = 0
    differences: list[float] = []
    for one in turns:
        shadow = one.shadow or {}
        if shadow.get("arm") is None:
            undecided += 1
        elif (shadow["arm"], shadow.get("model")) != (one.arm, one.model):
            elsewhere += 1
            predicted = shadow.get("predicted_joules")
            if predicted is not None and one.predicted_joules is not None:
                differences.append(predicted - one.predicted_joules)
    return ShadowSummary(
        policy,
        len(turns),
        elsewhere,
        undecided,
        len(differences),
        math.fsum(differences) if differences else None,
    )
