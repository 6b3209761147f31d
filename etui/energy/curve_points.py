"""From measured turns to the operating curve of a model, and to its speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from uuid import uuid4

from etui.energy.conditions import Conditions
from etui.energy.curve import OperatingCurve, Residual, Source, Speed, mape
from etui.energy.curve_fit import TurnPoint, fit_turns, meter_share
from etui.text.timestamps import utc_now


def curve_of_points(
    points: Sequence[TurnPoint],
    model: str,
    sha256: str | None,
    here: Conditions,
    *,
    kind: str | None,
    source: Source,
    idle_watts: float | None = None,
    held_out_mape: float | None = None,
    gpu_layers: int | None = None,
) -> OperatingCurve:
    """The curve of measured points, with an id and the time it is.

    Raises:
        TooFewPoints: There are too few of different lengths; says how many there are.
    """
    prefill, decode = fit_turns(points)
    return OperatingCurve(
        curve_id=uuid4().hex[:12],
        created_at=utc_now(),
        model=model,
        model_sha256=sha256,
        conditions=here,
        kind=kind,
        source=source,
        prefill=prefill,
        decode=decode,
        meter_share=meter_share(points),
        idle_watts=idle_watts,
        speed=speed_of(points),
        held_out_mape=held_out_mape,
        points=tuple(
            Residual(
                p.computed_tokens,
                p.cached_tokens,
                p.output_tokens,
                p.prefill_joules,
                p.decode_joules,
            )
            for p in points
        ),
        gpu_layers=gpu_layers,
    )


def speed_of(points: Sequence[TurnPoint]) -> Speed:
    """Tokens over seconds and joules over seconds of all points together, by phase."""
    prefill = [p for p in points if p.prefill_seconds and p.computed_tokens > 0]
    decode = [p for p in points if p.decode_seconds and p.output_tokens > 1]
    prefill_s = math.fsum(p.prefill_seconds or 0.0 for p in prefill)
    decode_s = math.fsum(p.decode_seconds or 0.0 for p in decode)
    return Speed(
        _over(sum(p.computed_tokens for p in prefill), prefill_s),
        _over(sum(p.output_tokens - 1 for p in decode), decode_s),
        _over(math.fsum(p.prefill_joules for p in prefill), prefill_s),
        _over(math.fsum(p.decode_joules for p in decode), decode_s),
    )


def _over(amount: float, seconds: float) -> float | None:
    return amount / seconds if seconds > 0 else None


def error_on(curve: OperatingCurve, points: Sequence[TurnPoint]) -> float | None:
    """Mean absolute error of the curve on these turns, relative to their joules; None for none."""
    said = [curve.joules(p.computed_tokens, p.cached_tokens, p.output_tokens) for p in points]
    return mape(
        [joules.total for joules in said], [p.prefill_joules + p.decode_joules for p in points]
    )
