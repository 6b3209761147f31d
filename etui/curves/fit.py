"""Fit operating curves to measured points, with confidence bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from etui.curves.operating_curve import (
    Conditions,
    FittedPoint,
    OperatingCurve,
    PhaseCurve,
    Source,
    Speed,
    looked_back,
    mape,
)
from etui.errors import EtuiError
from etui.stats.distributions import fit_non_negative, t_p_value, t_quantile
from etui.text import utc_now
from etui.units import count_text, decode_speed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]


LEAST_POINTS = 6
"""Smallest number of points of a phase to fit: twice the number of its coefficients."""
_OWN_SPREAD = 0.02
"""Turns of one length differ by about this share on a quiet machine, however precise the meter is:
a point that is metered more precisely gets no more weight."""
_SHARPEST = 1e-6
"""Least spread of a point relative to the largest one, so that no weight overflows."""


@dataclass(frozen=True, slots=True)
class TurnPoint(FittedPoint):
    """Measured joules and tokens of one turn, by phase; None where not known."""

    prefill_uncertainty: float | None = None  # Half widths in joules
    decode_uncertainty: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PhasePoint:
    """One phase of one turn: the tokens after ``start`` tokens of context, and their joules."""

    start: float
    tokens: float
    joules: float
    uncertainty: float | None = None


class TooFewPoints(EtuiError):
    """There are too few points to fit a curve."""

    def __init__(self, phase: str, points: int, needed: int, why: str = "") -> None:
        have = f"{count_text(points, 'point')} of the {phase}"
        super().__init__(
            f"cannot fit a curve: {why or f'found {have}, but {needed} are needed'}",
            "measure more turns of different lengths: etui calibrate",
        )
        self.points = points
        self.needed = needed


def fit_turns(points: Sequence[TurnPoint]) -> tuple[PhaseCurve, PhaseCurve]:
    """Fit the curves of prefill and decode."""
    prefill, decode = split_phases(points)
    return fit_phase(prefill, "prefill", bend="if earned"), fit_phase(decode, "decode")


def split_phases(
    points: Sequence[TurnPoint],
) -> tuple[tuple[PhasePoint, ...], tuple[PhasePoint, ...]]:
    """Split turns into the points of prefill and decode; a phase without tokens has no point."""
    prefill = tuple(
        PhasePoint(p.cached_tokens, p.computed_tokens, p.prefill_joules, p.prefill_uncertainty)
        for p in points
        if p.computed_tokens > 0
    )
    decode = tuple(
        PhasePoint(
            p.cached_tokens + p.computed_tokens,
            p.output_tokens - 1,
            p.decode_joules,
            p.decode_uncertainty,
        )
        for p in points
        if p.output_tokens > 1
    )
    return prefill, decode


def fit_phase(points: Sequence[PhasePoint], phase: str, *, bend: str = "always") -> PhaseCurve:
    """Fit one phase by non-negative least squares.

    Source: Lawson and Hanson 1974, (`fit_non_negative`). A point is weighted by its
    uncertainty combined with 2 % of its joules; all have equal weight if one has no uncertainty.
    The term of the context (``bend``) is fitted ``always``, or only ``if earned``: if the corrected
    Akaike criterion (Hurvich and Tsai 1989) is lower with it. TooFewPoints if there are fewer than
    ``LEAST_POINTS``, or all have the same length.
    """
    import numpy as np

    usable = [p for p in points if math.isfinite(p.joules) and p.joules >= 0 and p.tokens > 0]
    if len(usable) < LEAST_POINTS:
        raise TooFewPoints(phase, len(usable), LEAST_POINTS)
    if len({p.tokens for p in usable}) < 2:
        why = f"all {len(usable)} points of the {phase} have the same length"
        raise TooFewPoints(phase, len(usable), LEAST_POINTS, why)
    tokens = np.array([p.tokens for p in usable], dtype=float)
    back = np.array([looked_back(p.start, p.tokens) for p in usable], dtype=float)
    joules = np.array([p.joules for p in usable], dtype=float)
    weights = _compute_weights(usable)
    plain = np.column_stack([np.ones_like(tokens), tokens])
    bent = np.column_stack([plain, back])
    design = bent
    if bend == "if earned":
        costs = [_compute_aicc(d, joules, weights) for d in (plain, bent)]
        design = plain if costs[0] <= costs[1] else bent
    found = _solve_nnls(design, joules, weights)
    e0, slope = float(found[0]), float(found[1])
    bend_joules = float(found[2]) if len(found) > 2 else 0.0
    predicted = design @ found
    band, proportional = _compute_band(joules, predicted, int(np.count_nonzero(found)))
    return PhaseCurve(
        e0=e0,
        slope=slope,
        bend=bend_joules,
        r2=_compute_r2(joules, predicted),
        n=len(usable),
        band=band,
        proportional=proportional,
        mape=mape(predicted.tolist(), joules.tolist()),
    )


def meter_share(points: Sequence[TurnPoint]) -> float:
    """Return the smallest relative uncertainty of the points; 0 where none is known.

    The part that comes from the ends of an interval shrinks with its length; the part that is left
    at the longest interval is that of the meter itself (the 40 % of an estimate).
    """
    shares = [
        min(p.prefill_uncertainty / p.prefill_joules, p.decode_uncertainty / p.decode_joules)
        for p in points
        if p.prefill_uncertainty is not None
        and p.decode_uncertainty is not None
        and p.prefill_joules > 0
        and p.decode_joules > 0
    ]
    return min(shares, default=0.0)


def _compute_weights(points: Sequence[PhasePoint]) -> Vector:
    """Compute the weight of each point: the reciprocal of its spread, relative to the largest."""
    import numpy as np

    if any(p.uncertainty is None for p in points):
        return np.ones(len(points))
    spreads = np.array([math.hypot(p.uncertainty or 0.0, _OWN_SPREAD * p.joules) for p in points])
    most = float(spreads.max())
    if most == 0:
        return np.ones(len(points))
    return 1.0 / np.maximum(spreads / most, _SHARPEST)


def _solve_nnls(design: Vector, joules: Vector, weights: Vector) -> Vector:
    """Solve non-negative least squares, with columns scaled to one norm.

    Without scaling, the columns of tokens and of their squares differ by a factor of 1e6.
    """
    import numpy as np

    weighted = design * weights[:, None]
    scale = np.linalg.norm(weighted, axis=0)
    solved: Vector = fit_non_negative(weighted / scale, joules * weights) / scale
    return solved


def _compute_aicc(design: Vector, joules: Vector, weights: Vector) -> float:
    import numpy as np

    n, terms = design.shape
    residuals = (joules - design @ _solve_nnls(design, joules, weights)) * weights
    squares = float(residuals @ residuals)
    total = float((joules * weights) @ (joules * weights))
    share = max(squares / total if total else 0.0, float(np.finfo(float).eps) ** 2)
    k = terms + 1  # the variance is one more parameter
    return float(n * math.log(share) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 1))


def _compute_r2(joules: Vector, predicted: Vector) -> float | None:
    spread = float(((joules - joules.mean()) ** 2).sum())
    return None if spread <= 0 else 1 - float(((joules - predicted) ** 2).sum()) / spread


def _compute_band(joules: Vector, predicted: Vector, terms: int) -> tuple[float, bool]:
    """Compute the half width of a prediction at 95 %.

    The residuals have either a constant spread or one proportional to the prediction; the likelier
    one is used (Gaussian, maximum likelihood), widened by Student's t for the number of points and
    by the uncertainty of the fit itself.
    """
    import numpy as np

    n = len(joules)
    freedom = max(n - terms, 1)
    errors = joules - predicted
    widen = t_quantile(0.025, freedom) * math.sqrt(1 + terms / n)
    constant = math.sqrt(float(errors @ errors) / freedom)
    if constant == 0 or not np.all(predicted > 0):
        return widen * constant, False
    shares: Any = errors / predicted
    share = math.sqrt(float(shares @ shares) / freedom)
    if share == 0:
        return 0.0, True
    proportional = n * math.log(share) + float(np.log(predicted).sum()) < n * math.log(constant)
    return (widen * share, True) if proportional else (widen * constant, False)


def fit_curve(
    points: Sequence[TurnPoint],
    model: str,
    sha256: str | None,
    conditions: Conditions,
    *,
    kind: str | None,
    source: Source,
) -> OperatingCurve:
    """Fit a curve to measured points, with a new id and the current time."""
    prefill, decode = fit_turns(points)
    return OperatingCurve(
        curve_id=uuid4().hex[:12],
        created_at=utc_now(),
        model=model,
        model_sha256=sha256,
        conditions=conditions,
        kind=kind,
        source=source,
        prefill=prefill,
        decode=decode,
        meter_share=meter_share(points),
        speed=compute_speed(points),
        points=tuple(
            FittedPoint(
                p.computed_tokens,
                p.cached_tokens,
                p.output_tokens,
                p.prefill_joules,
                p.decode_joules,
            )
            for p in points
        ),
    )


def compute_speed(points: Sequence[TurnPoint]) -> Speed:
    """Compute tokens per second and watts of all points together, by phase."""
    prefill = [p for p in points if p.prefill_seconds and p.computed_tokens > 0]
    decode = [p for p in points if p.decode_seconds and p.output_tokens > 1]
    prefill_s = math.fsum(p.prefill_seconds or 0.0 for p in prefill)
    decode_s = math.fsum(p.decode_seconds or 0.0 for p in decode)
    return Speed(
        _divide(sum(p.computed_tokens for p in prefill), prefill_s),
        decode_speed(sum(p.output_tokens for p in decode), decode_s, len(decode)),
        _divide(math.fsum(p.prefill_joules for p in prefill), prefill_s),
        _divide(math.fsum(p.decode_joules for p in decode), decode_s),
    )


def _divide(amount: float, seconds: float) -> float | None:
    return amount / seconds if seconds > 0 else None


def compute_error(curve: OperatingCurve, points: Sequence[TurnPoint]) -> float | None:
    """Compute the mean absolute relative error of the curve on these turns; None for no turns."""
    predicted = [curve.joules(p.computed_tokens, p.cached_tokens, p.output_tokens) for p in points]
    return mape(
        [joules.total for joules in predicted],
        [p.prefill_joules + p.decode_joules for p in points],
    )


Phase = Literal["prefill", "decode"]
_DRAWS = 10_000
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Share:
    """A share of joules with its interval at 95 %; from 0 to 1, since no joules are negative."""

    context: int
    value: float
    low: float
    high: float
    measured: bool  # Whether a context at least as long was measured; if not, it is extrapolated


@dataclass(frozen=True, slots=True)
class ContextTerm:
    """The term of the context of one phase."""

    phase: Phase  # `prefill` or `decode`
    points: int
    longest: float  # Longest measured context in tokens
    joules: float  # Additional joules per token for each token it looks back on
    low: float  # Ends of its interval at 95 %
    high: float
    p: float  # Two-sided p-value of 0
    shares: tuple[Share, ...]
    """The share of the term at some contexts: of the joules of a prompt of that length in prefill,
    of the joules of a token after that many in decode."""


def estimate_context_term(
    points: Sequence[PhasePoint], phase: Phase, contexts: Sequence[int], seed: int = 0
) -> ContextTerm | None:
    """Estimate the term of the context and test whether it differs from 0.

    A fitted curve has no coefficient below 0, so it cannot say this. Here the same model is fitted
    by weighted least squares without that bound. Long turns scatter more than short ones, so the
    covariance is the one that holds for unequal spreads (HC3: MacKinnon and White, Journal of
    Econometrics 29, 1985).

    None with fewer than ``LEAST_POINTS`` points, or if their lengths do not separate the term from
    the joules per token.
    """
    import numpy as np

    usable = [p for p in points if math.isfinite(p.joules) and p.tokens > 0]
    freedom = len(usable) - 3
    if len(usable) < LEAST_POINTS:
        return None
    weights = _compute_weights(usable)
    design = np.array([[1.0, p.tokens, looked_back(p.start, p.tokens)] for p in usable])
    scale = np.linalg.norm(design * weights[:, None], axis=0)
    weighted = design * weights[:, None] / scale
    if np.linalg.matrix_rank(weighted, tol=1e-6) < 3:
        return None
    joules = np.array([p.joules for p in usable]) * weights
    found, *_ = np.linalg.lstsq(weighted, joules, rcond=None)
    residuals = joules - weighted @ found
    inverse = np.linalg.inv(weighted.T @ weighted)
    leverage = np.einsum("ij,jk,ik->i", weighted, inverse, weighted)
    pulled = weighted * (residuals / np.maximum(1 - leverage, 1e-6))[:, None]
    covariance = inverse @ (pulled.T @ pulled) @ inverse
    error = math.sqrt(float(covariance[2, 2]))
    generator = np.random.default_rng(seed)
    normal = generator.multivariate_normal(np.zeros(3), covariance, _DRAWS, method="svd")
    spread = np.sqrt(freedom / generator.chisquare(freedom, _DRAWS))
    drawn = (found + normal * spread[:, None]) / scale
    longest = max(p.start + p.tokens for p in usable)
    half = t_quantile(_TAIL, freedom) * error
    term, unit = float(found[2]), float(scale[2])
    return ContextTerm(
        phase=phase,
        points=len(usable),
        longest=longest,
        joules=term / unit,
        low=(term - half) / unit,
        high=(term + half) / unit,
        p=t_p_value(term / error, freedom) if error > 0 else float(term == 0),
        shares=tuple(
            _estimate_share(found / scale, drawn, phase, context, longest) for context in contexts
        ),
    )


def _estimate_share(found: Any, drawn: Any, phase: Phase, context: int, longest: float) -> Share:
    import numpy as np

    def compute(coefficients: Any) -> Any:
        # No coefficient is negative, as in the fit; without this, noise divides by almost 0.
        e0, slope, bend = np.moveaxis(np.maximum(coefficients, 0.0), -1, 0)
        extra = bend * (context if phase == "decode" else looked_back(0, context))
        base = slope if phase == "decode" else e0 + slope * context
        total = base + extra
        return np.divide(extra, total, out=np.zeros_like(total), where=total > 0)

    low, high = np.percentile(compute(drawn), [100 * _TAIL, 100 * (1 - _TAIL)])
    return Share(context, float(compute(found)), float(low), float(high), longest >= context)
