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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from etui.arm import TokenCost

_SAME_LIMIT = 0.01
"""Power limits within this share are equal: drivers round them."""
_MODEL_SETTINGS = {
    "kv_type": "KV cache of type",
    "flash_attention": "flash attention",
    "batch_tokens": "tokens of a batch",
}
"""Settings of a model, and how they are named."""
_PLACEMENT = {
    "gpu_layers": "layers on the GPU",
    "cpu_moe": "blocks with their experts in RAM",
    "split": "split over GPUs",
}
"""Settings that are compared only where a sweep chose them, and how they are named."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Everything besides the model that joules per token depend on; what is unknown is None."""

    machine: str  # Processor, number of CPUs and system, for people
    build: str  # Version of the engine
    threads: int  # Most threads of the engine; with `prefill_threads`, those of decode
    channels: tuple[str, ...] = ()  # Ids of the power channels in a total; empty where not known
    power_limit_watts: float | None = None
    """Sum of the limits of those channels; None if one has none."""
    prefill_threads: int | None = None
    """Most threads of prefill, where they differ from ``threads``."""
    kv_type: str | None = None  # These three as configured
    flash_attention: str | None = None
    batch_tokens: str | None = None  # Most tokens of a batch: a number or `auto`
    tuned: tuple[tuple[str, str], ...] = ()
    """Settings of the model that a sweep chose, and their values; the others are those of
    models.yaml."""


def parse_conditions(
    settings: Mapping[str, Any], channels: tuple[str, ...], power_limit_watts: float | None = None
) -> Conditions:
    """Read the conditions from a turn's ``settings``.

    A machine, a build and threads that an older etui did not record differ from every known value.
    The settings of a model that it did not record are unknown, which is not a difference: they were
    those of models.yaml. Those of a turn on a remote backend are the backend and its version.
    """
    if settings.get("backend"):
        # A server on another machine: threads and settings of this one have no effect there.
        host = settings.get("backend_host") or "unknown"
        return Conditions(
            machine=f"{settings['backend']} ({host})",
            build=f"server {settings.get('backend_server') or 'unknown'}",
            threads=0,
            channels=channels,
        )
    batch = settings.get("batch_tokens_setting")
    tuned = settings.get("tuned") or {}
    return Conditions(
        machine=settings.get("machine") or "unknown",
        build=f"llama-cpp-python {settings.get('llama_cpp_python') or 'unknown'}",
        threads=settings.get("threads") or 0,
        channels=channels,
        power_limit_watts=power_limit_watts,
        prefill_threads=settings.get("prefill_limit"),
        kv_type=settings.get("kv_type"),
        flash_attention=settings.get("flash_attention"),
        batch_tokens=None if batch is None else str(batch),
        tuned=tuple((key, str(value)) for key, value in tuned.get("values", {}).items()),
    )


def list_differences(then: Conditions, now: Conditions) -> tuple[str, ...]:
    """List what has changed, each in a few words; empty while the curve is still valid.

    A value that is not known on one side is not a difference, unless a sweep has chosen it since.
    """
    found = []
    if then.machine != now.machine:
        found.append(f"another machine ({then.machine})")
    if then.build != now.build:
        found.append(f"another build ({then.build})")
    if then.threads != now.threads:
        found.append(f"{then.threads} threads, now {now.threads}")
    prefill = then.prefill_threads or then.threads, now.prefill_threads or now.threads
    if prefill[0] != prefill[1] and prefill != (then.threads, now.threads):
        found.append(f"{prefill[0]} prefill threads, now {prefill[1]}")
    tuned = dict(now.tuned)
    for name, words in _MODEL_SETTINGS.items():
        old, new = getattr(then, name), getattr(now, name)
        if old is not None and new is not None and old != new:
            found.append(f"{words} {old}, now {new}")
        elif old is None and name in tuned:
            found.append(f"{words} unknown, now {new}")
    for name, words in _PLACEMENT.items():
        was, is_now = (dict(one.tuned).get(name, "as in models.yaml") for one in (then, now))
        if was != is_now:
            found.append(f"{words} {was}, now {is_now}")
    if then.channels and now.channels and set(then.channels) != set(now.channels):
        found.append(f"other power channels ({', '.join(sorted(then.channels))})")
    before, after = then.power_limit_watts, now.power_limit_watts
    if before is not None and after is not None and abs(before - after) > _SAME_LIMIT * before:
        found.append(f"power limit {before:.0f} W, now {after:.0f} W")
    return tuple(found)


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
class FittedPoint:
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
    """The curve of one model on one machine."""

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
    points: tuple[FittedPoint, ...] = ()  # The fitted points, for a figure
    gpu_layers: int | None = None  # Number of layers on a GPU; None where not known

    @property
    def n(self) -> int:
        """Number of points of the phase with fewer points."""
        return min(self.prefill.n, self.decode.n)

    def joules(self, computed: float, cached: float, output: float) -> PredictedCurveJoules:
        """Predict the gross joules of a turn, without loading the model.

        Of the prompt tokens, ``computed`` are computed, and ``cached`` before them are reused from
        the KV cache. The output is thinking and answer.
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
            joules_per_prompt_token_per_context=self.prefill.bend,
            prompt_uncertainty=math.hypot(
                self.prefill.band if self.prefill.proportional else 0.0, self.meter_share
            ),
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
