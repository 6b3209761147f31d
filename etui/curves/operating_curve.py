"""The operating curve of a model on a machine: joules of a turn as a function of its tokens.

Prefill and decode are told apart, gross joules both:

    E_prefill = e0_p + a * computed + a2 * (cached * computed + computed^2 / 2)
    E_decode  = e0_d + b * steps    + c  * (prompt * steps   + steps^2 / 2)

``steps`` is output - 1: the first output token is drawn where the prefill ends. The terms in
brackets are the tokens that attention looks back on, summed over the tokens of the phase. No
coefficient is negative (see ``curve_fit.py``).
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
    """Tokens in the context, summed over ``tokens`` that follow ``start`` of them."""
    return start * tokens + tokens**2 / 2


@dataclass(frozen=True, slots=True)
class PhaseCurve:
    """One phase: ``e0 + slope * tokens + bend * looked_back``, joules.

    Attributes:
        e0: Joules of a phase whatever its length.
        slope: Joules of a token in an empty context.
        bend: Further joules of a token for each token it looks back on.
        r2: Share of the points' variance that the curve explains; None where they have none.
        n: Points it was fitted to.
        band: Half width of a prediction at 95 %, from the residuals: joules, or with
            ``proportional`` a share of the prediction.
        proportional: Whether the residuals grow with the joules.
        mape: Mean absolute residual relative to the measured joules, of the fitted points.
    """

    e0: float
    slope: float
    bend: float = 0.0
    r2: float | None = None
    n: int = 0
    band: float = 0.0
    proportional: bool = True
    mape: float | None = None

    def joules(self, start: float, tokens: float) -> float:
        """Joules of ``tokens`` behind ``start`` tokens of context; 0 for no tokens."""
        if tokens <= 0:
            return 0.0
        return self.e0 + self.slope * tokens + self.bend * looked_back(start, tokens)

    def half_width(self, joules: float) -> float:
        """Half width at 95 % of a predicted energy, joules."""
        if joules <= 0:
            return 0.0
        return self.band * joules if self.proportional else self.band


@dataclass(frozen=True, slots=True)
class PredictedCurveJoules:
    """What a curve says of one turn, joules; the last two are half widths at 95 %.

    ``scatter`` is how far a turn lies off the curve on the same meter; ``uncertainty`` holds what
    the meter itself may be off, too.
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
    """One fitted point: what was measured and what the curve says, joules, both phases."""

    computed_tokens: int
    cached_tokens: int
    output_tokens: int
    prefill_joules: float
    decode_joules: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second and mean watts by phase; None where not known."""

    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    prefill_watts: float | None = None
    decode_watts: float | None = None

    def seconds(self, computed: float, output: float) -> float | None:
        """Expected seconds of a turn, its load excluded; None where the speed is not known."""
        prefill, decode = self.prefill_tokens_per_second, self.decode_tokens_per_second
        if not prefill or (output > 1 and not decode):
            return None
        return computed / prefill + (max(output - 1, 0) / decode if decode else 0.0)


@dataclass(frozen=True, slots=True)
class OperatingCurve:
    """The curve of one model on one machine.

    Attributes:
        curve_id: Its row in the log.
        created_at: ISO 8601, UTC.
        model, model_sha256: Whose it is.
        conditions: What it holds for.
        kind: How the energy behind it is known (``counter``, ``estimate``, ...).
        source: Measured on purpose, or fitted to turns of the log.
        prefill, decode: The two phases.
        meter_share: What of every energy the meter itself leaves open, relative: no number of
            repeats takes it away (0.4 for an estimate).
        idle_watts: Idle power when it was measured, for whoever wants net joules; None without.
        speed: Tokens a second of the same points.
        held_out_mape: Mean absolute error on points off the grid that were not fitted; None
            without such points.
        points: The fitted points, for a picture.
        gpu_layers: Layers that were on a GPU; None where not known.
    """

    curve_id: str
    created_at: str
    model: str
    model_sha256: str | None
    conditions: Conditions
    kind: str | None
    source: Source
    prefill: PhaseCurve
    decode: PhaseCurve
    meter_share: float = 0.0
    idle_watts: float | None = None
    speed: Speed = Speed()
    held_out_mape: float | None = None
    points: tuple[Residual, ...] = ()
    gpu_layers: int | None = None

    @property
    def n(self) -> int:
        """Points of the phase that has fewer."""
        return min(self.prefill.n, self.decode.n)

    def joules(self, computed: float, cached: float, output: float) -> PredictedCurveJoules:
        """Gross joules of a turn, its load excluded.

        Args:
            computed: Prompt tokens that are computed.
            cached: Tokens of the context before them, reused from the KV cache.
            output: Tokens put out, thinking and answer.
        """
        prefill = self.prefill.joules(cached, computed)
        decode = self.decode.joules(cached + computed, output - 1)
        scatter = math.hypot(self.prefill.half_width(prefill), self.decode.half_width(decode))
        uncertainty = math.hypot(scatter, self.meter_share * (prefill + decode))
        return PredictedCurveJoules(prefill, decode, scatter, uncertainty)

    def to_decode_price(self) -> TokenCost:
        """The curve as the price that regulates a thought."""
        return TokenCost(
            joules_per_token=self.decode.slope,
            joules_per_token_per_context=self.decode.bend,
            joules_per_prompt_token=self.prefill.slope,
            source=source_words(self.source),
        )


def source_words(source: Source) -> str:
    """Where a prediction is from: ``operating curve``, or ``operating curve of the log``."""
    return "operating curve" if source == "calibration" else "operating curve of the log"


def mape(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Mean absolute error relative to what was measured, 0.1 for 10 %; None without pairs.

    Pairs of which nothing was measured (0 J) are left out.
    """
    errors = [abs(p - m) / m for p, m in zip(predicted, measured, strict=True) if m > 0]
    return math.fsum(errors) / len(errors) if errors else None
