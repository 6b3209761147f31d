"""Operating curves of a design run: joules over input and output, and their nonlinear part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from etui.bench.cost import find_weakest_kind
from etui.calibration.measure import MeasuredPoint
from etui.curves.fit import (
    ContextTerm,
    TooFewPoints,
    estimate_context_term,
    fit_phase,
    split_phases,
)
from etui.curves.operating_curve import PhaseCurve, mape
from etui.design._paired import Layout
from etui.stats.small_samples import estimate_means

CONTEXTS = (1024, 4096)
"""Contexts, in tokens, at which the share of the nonlinear part is stated."""


@dataclass(frozen=True, slots=True)
class LengthMean:
    """Repeated measurements of one length.

    Attributes:
        prefill, decode, total: Joules as mean and both ends of the interval at 95 %; the ends are
            None with one measurement.
    """

    computed: int  # Prompt tokens and output tokens
    output: int
    repeats: int  # Number of measurements
    prefill: tuple[float, float | None, float | None]
    decode: tuple[float, float | None, float | None]
    total: tuple[float, float | None, float | None]
    shared: bool  # Whether other processes used a GPU during one of them


@dataclass(frozen=True, slots=True)
class ModelCurve:
    """The operating curve of one model."""

    role: str
    model: str
    kind: str | None  # How its joules were determined; None if unknown
    points: int  # Number of fitted measurements
    shared: int  # Number of measurements during which other processes used the hardware
    means: tuple[LengthMean, ...]
    """Mean of each measured length, by prompt length and output length."""
    prefill: PhaseCurve | None  # The fitted phases; None if there are too few lengths
    decode: PhaseCurve | None
    terms: tuple[ContextTerm, ...]  # Tests of the nonlinear part, for the phases that allow one
    error: str  # Why nothing could be fitted; empty if something was
    held_out: float | None
    """Mean absolute relative error on lengths that were not fitted; None without any."""

    def joules(self, computed: float, output: float, *, bend: bool = True) -> float | None:
        """Predict the joules of a turn; ``bend`` False leaves out the terms of the context."""
        if self.prefill is None or self.decode is None:
            return None
        return predict_phase(self.prefill, 0, computed, bend=bend) + predict_phase(
            self.decode, computed, output - 1, bend=bend
        )


def predict_phase(curve: PhaseCurve, start: float, tokens: float, *, bend: bool = True) -> float:
    """Predict the joules of a phase; ``bend`` False leaves out the term of the context."""
    if bend or tokens <= 0:
        return curve.joules(start, tokens)
    return curve.e0 + curve.slope * tokens


def compute_curves(
    layout: Layout, points: Mapping[str, Sequence[MeasuredPoint]], seed: int
) -> tuple[ModelCurve, ...]:
    """Fit the curve of every model of a layout that has points, smallest model first."""
    found = [
        _compute_curve(role, model, points[model], seed)
        for role, model in layout.roles.items()
        if points.get(model)
    ]
    return tuple(found)


def _compute_curve(role: str, model: str, points: Sequence[MeasuredPoint], seed: int) -> ModelCurve:
    fitted = [one.point for one in points if not one.visit.held_out]
    tests = [one.point for one in points if one.visit.held_out]
    prefill_points, decode_points = split_phases(fitted)
    prefill = decode = None
    error = ""
    try:
        prefill = fit_phase(prefill_points, "prefill")
        decode = fit_phase(decode_points, "decode")
    except TooFewPoints as problem:
        prefill, error = None, problem.what
    terms = (
        estimate_context_term(prefill_points, "prefill", CONTEXTS, seed),
        estimate_context_term(decode_points, "decode", CONTEXTS, seed),
    )
    kinds = [one.kind for one in points if one.kind is not None]
    kind = find_weakest_kind(kinds) if len(kinds) == len(points) else None
    curve = ModelCurve(
        role=role,
        model=model,
        kind=kind,
        points=len(fitted),
        shared=sum(one.shared for one in points),
        means=_compute_means(points, seed),
        prefill=prefill,
        decode=decode if prefill is not None else None,
        terms=tuple(term for term in terms if term is not None),
        error=error,
        held_out=None,
    )
    predicted = [curve.joules(one.computed_tokens, one.output_tokens) for one in tests]
    known = [joules for joules in predicted if joules is not None]
    if not known:
        return curve
    measured = [one.prefill_joules + one.decode_joules for one in tests]
    return replace(curve, held_out=mape(known, measured))


def _compute_means(points: Sequence[MeasuredPoint], seed: int) -> tuple[LengthMean, ...]:
    by_length: dict[tuple[int, int], list[MeasuredPoint]] = {}
    for one in points:
        key = one.point.computed_tokens, one.point.output_tokens
        by_length.setdefault(key, []).append(one)
    lengths = sorted(by_length)
    values = [
        np.array([getattr(one.point, f"{phase}_joules") for one in by_length[length]])
        for length in lengths
        for phase in ("prefill", "decode")
    ]
    totals = [values[2 * at] + values[2 * at + 1] for at in range(len(lengths))]
    means = estimate_means([*values, *totals], seed)
    ends = [(one.mean, one.low, one.high) for one in means]
    return tuple(
        LengthMean(
            computed=length[0],
            output=length[1],
            repeats=len(by_length[length]),
            prefill=ends[2 * at],
            decode=ends[2 * at + 1],
            total=ends[2 * len(lengths) + at],
            shared=any(one.shared for one in by_length[length]),
        )
        for at, length in enumerate(lengths)
    )
