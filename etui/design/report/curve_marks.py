"""Operating curves as lines and points to draw: joules, and joules per token, over lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from etui import units
from etui.design.analysis.operating_curves import (
    CONTEXTS,
    LengthMean,
    ModelCurve,
    predict_phase,
)

Over = Literal["input", "output"]

_STEPS = 60
_Mean = tuple[float, float | None, float | None]


@dataclass(frozen=True, slots=True)
class CurveSeries:
    """One model in a panel; x is tokens.

    Attributes:
        line, linear: The fitted curve, and its linear part alone.
    """

    role: str
    points: tuple[tuple[float, float, float | None, float | None], ...]
    """X, value, and the ends of its interval (None with one measurement)."""
    line: tuple[tuple[float, float], ...]
    linear: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...]  # X, lower and upper end of a single turn at 95 %
    measured_to: float  # The longest measured x; beyond it the curve is extrapolated


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """A panel of operating curves."""

    title: str
    y_label: str  # The unit of y
    x_label: str
    logarithmic: bool  # Whether y is logarithmic; x always is
    series: tuple[CurveSeries, ...]


def build_curve_panels(curves: Sequence[ModelCurve]) -> tuple[CurvePanel, ...]:
    """Build four panels: joules per token over input and output, and joules over the same."""
    fitted = [one for one in curves if one.prefill is not None and one.decode is not None]
    if not fitted:
        return ()
    estimate = " (estimate)" if any(one.kind == units.ESTIMATE for one in fitted) else ""
    longest_in = min(max(mean.computed for mean in one.means) for one in fitted)
    longest_out = min(max(mean.output for mean in one.means) for one in fitted)
    per_token, joules = f"J per output token{estimate}", f"J{estimate}"
    return (
        CurvePanel(
            f"per token, outputs of {longest_out:,} tokens",
            per_token, "input tokens", False,
            tuple(_per_token(one, "input", longest_out) for one in fitted),
        ),
        CurvePanel(
            f"per token, prompts of {longest_in:,} tokens",
            per_token, "output tokens", False,
            tuple(_per_token(one, "output", longest_in) for one in fitted),
        ),
        CurvePanel(
            "prompt (prefill)", joules, "input tokens", True,
            tuple(_prefill(one) for one in fitted),
        ),
        CurvePanel(
            f"answer (decode), prompts of {longest_in:,} tokens",
            joules, "output tokens", True,
            tuple(_decode(one, longest_in) for one in fitted),
        ),
    )  # fmt: skip


def _per_token(curve: ModelCurve, over: Over, fixed: int) -> CurveSeries:
    def divide(mean: LengthMean) -> _Mean:
        low, high = (None if end is None else end / mean.output for end in mean.total[1:])
        return mean.total[0] / mean.output, low, high

    def predict(x: float, *, bend: bool) -> float:
        computed, output = (x, fixed) if over == "input" else (fixed, x)
        joules = curve.joules(computed, output, bend=bend)
        assert joules is not None
        return joules / output

    def scatter(x: float) -> float:
        computed, output = (x, fixed) if over == "input" else (fixed, x)
        return _scatter(curve, computed, output) / output

    other = "output" if over == "input" else "computed"
    means = [mean for mean in curve.means if getattr(mean, other) == fixed]
    return _build(curve, over, means, divide, predict, scatter)


def _prefill(curve: ModelCurve) -> CurveSeries:
    phase = curve.prefill
    assert phase is not None
    longest = max(mean.output for mean in curve.means)
    means = [mean for mean in curve.means if mean.output == longest]
    return _build(
        curve,
        "input",
        means,
        lambda mean: mean.prefill,
        lambda x, *, bend: predict_phase(phase, 0, x, bend=bend),
        lambda x: phase.half_width(phase.joules(0, x)),
    )


def _decode(curve: ModelCurve, prompt: int) -> CurveSeries:
    phase = curve.decode
    assert phase is not None
    means = [mean for mean in curve.means if mean.computed == prompt]
    return _build(
        curve,
        "output",
        means,
        lambda mean: mean.decode,
        lambda x, *, bend: predict_phase(phase, prompt, x - 1, bend=bend),
        lambda x: phase.half_width(phase.joules(prompt, x - 1)),
    )


def _scatter(curve: ModelCurve, computed: float, output: float) -> float:
    assert curve.prefill is not None
    assert curve.decode is not None
    prefill = curve.prefill.joules(0, computed)
    decode = curve.decode.joules(computed, output - 1)
    return math.hypot(curve.prefill.half_width(prefill), curve.decode.half_width(decode))


def _build(
    curve: ModelCurve,
    over: Over,
    means: Sequence[LengthMean],
    read: Callable[[LengthMean], _Mean],
    predict: Callable[..., float],
    scatter: Callable[[float], float],
) -> CurveSeries:
    axis = "computed" if over == "input" else "output"
    lengths = sorted(getattr(mean, axis) for mean in curve.means)
    low, high = float(lengths[0]), float(max(lengths[-1], *CONTEXTS))
    steps = [low * (high / low) ** (step / _STEPS) for step in range(_STEPS + 1)]
    line = tuple((x, predict(x, bend=True)) for x in steps)
    return CurveSeries(
        role=curve.role,
        points=tuple((float(getattr(mean, axis)), *read(mean)) for mean in means),
        line=line,
        linear=tuple((x, predict(x, bend=False)) for x in steps),
        band=tuple((x, y - scatter(x), y + scatter(x)) for x, y in line),
        measured_to=float(lengths[-1]),
    )
