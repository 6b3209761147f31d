"""The operating curve of a model on a machine: joules of a turn as a function of its tokens.

Prefill and decode have separate terms, both in gross joules:

    E_prefill = e0_p + a * computed + a2 * (cached * computed + computed^2 / 2)
    E_decode  = e0_d + b * steps    + c  * (prompt * steps   + steps^2 / 2)

``steps`` is output - 1: the first output token is drawn at the end of the prefill. The terms in
brackets are the tokens that attention looks back on, summed over the tokens of the phase. No
coefficient is negative (see :mod:`etui.curves.fit`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from etui.arm import TokenCost
from etui.curves.measured_under import Conditions

Source = Literal["calibration", "log"]


def looked_back(start: float, tokens: float) -> float:
    """Sum the context lengths of ``tokens`` tokens that follow ``start`` tokens."""
    return start * tokens + tokens**2 / 2


@dataclass(frozen=True, slots=True)
class PhaseCurve:
    """One phase: ``e0 + slope * tokens + bend * looked_back``, joules."""

    e0: float  # Joules of a phase, independent of its length
    slope: float  # Joules per token in an empty context
    bend: float = 0.0  # Additional joules per token for each token that it looks back on
    r2: float | None = None
    """Share of the points' variance that the curve explains; None if they have no variance."""
    n: int = 0  # Number of fitted points
    band: float = 0.0
    """Half width of a prediction at 95 %, from the residuals: joules, or with ``proportional`` a
    share of the prediction."""
    proportional: bool = True  # Whether the residuals grow with the joules
    mape: float | None = None
    """Mean absolute residual relative to the measured joules, of the fitted points."""

    def joules(self, start: float, tokens: float) -> float:
        """Predict the joules of ``tokens`` after ``start`` tokens of context; 0 for no tokens."""
        if tokens <= 0:
            return 0.0
        return self.e0 + self.slope * tokens + self.bend * looked_back(start, tokens)

    def half_width(self, joules: float) -> float:
        """Return the half width at 95 % of a predicted energy, joules."""
        if joules <= 0:
            return 0.0
        return self.band * joules if self.proportional else self.band


@dataclass(frozen=True, slots=True)
class PredictedCurveJoules:
    """The prediction of a curve for one turn, joules; the last two are half widths at 95 %.

    ``scatter`` is the deviation of a turn from the curve on the same meter; ``uncertainty`` also
    includes the error of the meter itself.
    """

    prefill: float
    decode: float
    scatter: float
    uncertainty: float

    @property
    def total(self) -> float:
        """Joules of both phases."""
        return self.prefill + self.decode


@dataclass(frozen=True, slots=True)
class Residual:
    """One fitted point: its tokens and the measured joules of both phases."""

    computed_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_joules: float
    decode_joules: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second and mean watts by phase; None where not known."""

    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    prefill_watts: float | None = None
    decode_watts: float | None = None

    def seconds(self, computed: float, output: float) -> float | None:
        """Predict the seconds of a turn without loading; None where the speed is not known."""
        prefill, decode = self.prefill_tokens_per_second, self.decode_tokens_per_second
        if not prefill or (output > 1 and not decode):
            return None
        return computed / prefill + (max(output - 1, 0) / decode if decode else 0.0)


@dataclass(frozen=True, slots=True)
class OperatingCurve:
    """The curve of one model on one machine.

    Attributes:
        model, model_sha256: The model and the hash of its file.
        prefill, decode: The two phases.
    """

    curve_id: str
    created_at: str  # ISO 8601, UTC
    model: str
    model_sha256: str | None
    conditions: Conditions
    kind: str | None  # How its energy was determined (`counter`, `estimate`, ...)
    source: Source  # `calibration`, or `log` for a fit to turns of the log
    prefill: PhaseCurve
    decode: PhaseCurve
    meter_share: float = 0.0
    """Relative uncertainty of the meter itself, which no number of repeats reduces (0.4 for an
    estimate)."""
    idle_watts: float | None = None
    """Idle power during the measurement, to compute net joules; None if unknown."""
    speed: Speed = Speed()  # Tokens per second of the same points
    held_out_mape: float | None = None
    """Mean absolute relative error on points off the grid that were not fitted; None without such
    points."""
    points: tuple[Residual, ...] = ()  # The fitted points, for a figure
    gpu_layers: int | None = None  # Number of layers on a GPU; None where not known

    @property
    def n(self) -> int:
        """Number of points of the phase with fewer points."""
        return min(self.prefill.n, self.decode.n)

    def joules(self, computed: float, cached: float, output: float) -> PredictedCurveJoules:
        """Predict the gross joules of a turn, without loading the model.

        Args:
            computed: Prompt tokens to compute.
            cached: Tokens of the context before them, reused from the KV cache.
            output: Output tokens, of thinking and answer.
        """
        prefill = self.prefill.joules(cached, computed)
        decode = self.decode.joules(cached + computed, output - 1)
        scatter = math.hypot(self.prefill.half_width(prefill), self.decode.half_width(decode))
        uncertainty = math.hypot(scatter, self.meter_share * (prefill + decode))
        return PredictedCurveJoules(prefill, decode, scatter, uncertainty)

    def to_decode_price(self) -> TokenCost:
        """Return the cost per token by which thinking is regulated."""
        return TokenCost(
            joules_per_token=self.decode.slope,
            joules_per_token_per_context=self.decode.bend,
            joules_per_prompt_token=self.prefill.slope,
            source=format_source(self.source),
        )


def format_source(source: Source) -> str:
    """Return the source of a prediction: ``operating curve``, or ``operating curve of the log``."""
    return "operating curve" if source == "calibration" else "operating curve of the log"


_LEAST_MEASURED_JOULES = 1e-6


def mape(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Compute the mean absolute error relative to the measured value; None without pairs.

    An error of 10 % is 0.1. Pairs with a measured value below a microjoule are left out: no meter
    resolves it, and the quotient could exceed the largest float.
    """
    pairs = zip(predicted, measured, strict=True)
    errors = [abs(p - m) / m for p, m in pairs if m >= _LEAST_MEASURED_JOULES]
    return math.fsum(errors) / len(errors) if errors else None
