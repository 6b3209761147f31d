"""The share of joules that attention over the context takes: the nonlinear part of a curve.

The fit of an operating curve keeps its coefficients from falling below 0, so it cannot say whether
the term of the context differs from 0. Here the same model is fitted by weighted least squares
without that bound; its covariance gives the test and the intervals. Long turns scatter more than
short ones, so the covariance is the one that holds for unequal spreads (HC3: MacKinnon and White,
Journal of Econometrics 29, 1985).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from etui.curves.fit import LEAST_POINTS, PhasePoint, compute_weights
from etui.curves.operating_curve import looked_back

Phase = Literal["prefill", "decode"]

_DRAWS = 10_000
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Share:
    """A share of joules with its interval at 95 %; from 0 to 1, since no joules are negative.

    Attributes:
        low, high: Ends of the interval.
    """

    context: int
    value: float
    low: float
    high: float
    measured: bool  # Whether a context at least as long was measured; if not, it is extrapolated


@dataclass(frozen=True, slots=True)
class ContextTerm:
    """The term of the context of one phase.

    Attributes:
        low, high: Ends of its interval at 95 %.
    """

    phase: Phase  # `prefill` or `decode`
    points: int
    longest: float  # Longest measured context in tokens
    joules: float  # Additional joules per token for each token it looks back on
    low: float
    high: float
    p: float  # Two-sided p-value of 0
    shares: tuple[Share, ...]
    """The share of the term at some contexts: of the joules of a prompt of that length in prefill,
    of the joules of a token after that many in decode."""


def estimate_context_term(
    points: Sequence[PhasePoint], phase: Phase, contexts: Sequence[int], seed: int = 0
) -> ContextTerm | None:
    """Estimate the term of the context and test whether it differs from 0.

    Args:
        contexts: Contexts in tokens at which to state the share.
        seed: Seed of the draws behind the intervals of the shares.

    Returns:
        None with fewer than ``LEAST_POINTS`` points, or if their lengths do not separate the term
        from the joules per token.
    """
    import numpy as np
    from scipy.special import stdtr, stdtrit

    usable = [p for p in points if math.isfinite(p.joules) and p.tokens > 0]
    freedom = len(usable) - 3
    if len(usable) < LEAST_POINTS:
        return None
    weights = compute_weights(usable)
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
    half = -float(stdtrit(freedom, _TAIL)) * error
    term, unit = float(found[2]), float(scale[2])
    return ContextTerm(
        phase=phase,
        points=len(usable),
        longest=longest,
        joules=term / unit,
        low=(term - half) / unit,
        high=(term + half) / unit,
        p=float(2 * stdtr(freedom, -abs(term) / error)) if error > 0 else float(term == 0),
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
