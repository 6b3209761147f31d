"""Paired bootstrap over questions: how far figures of another sample of questions could lie.

Every resample draws questions with all that belongs to them, so differences between choices keep
their correlation. Intervals are the central 95 % of the replicates (percentile method).

Questions that agree in all that a figure depends on are counted together: a resample of n questions
is then one multinomial draw over the few kinds there are. Where nearly every question is a kind of
its own (measured joules), each gets a Poisson(1) weight instead and the mean is over the weights,
which is the multinomial but for its total (Hanley and MacGibbon, 2006), and ten times as quick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

REPLICATES = 10_000
_MOST_KINDS = 800
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the central 95 % of its bootstrap distribution; None where it has no end."""

    value: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """Plain JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high}


def resampled_means(columns: Floats, seed: int, replicates: int = REPLICATES) -> Floats:
    """Means of columns over resamples of the rows, shape (replicates, columns)."""
    import numpy as np

    generator = np.random.default_rng(seed)
    kinds, counts = np.unique(columns, axis=0, return_counts=True)
    n = len(columns)
    if len(kinds) <= _MOST_KINDS:
        drawn = generator.multinomial(n, counts / n, size=replicates)
        return np.asarray(drawn @ kinds / n)
    # The inverse of the distribution over 2^16 steps: a weight is one look-up.
    steps = (np.arange(2**16) + 0.5) / 2**16
    weight_of = np.searchsorted(_poisson_cdf(), steps).astype(np.float32)
    values = np.column_stack([columns, np.ones(n)]).astype(np.float32)
    centre = values.mean(axis=0, dtype=np.float64)
    centre[-1] = 0.0
    values -= centre.astype(np.float32)  # single precision is then of the spread, not of the mean
    means = np.empty((replicates, columns.shape[1]))
    for start in range(0, replicates, _CHUNK):
        rows = min(_CHUNK, replicates - start)
        drawn = np.frombuffer(generator.bytes(2 * rows * n), dtype=np.uint16)
        sums = (weight_of[drawn].reshape(rows, n) @ values).astype(np.float64)
        means[start : start + rows] = sums[:, :-1] / sums[:, -1:] + centre[:-1]
    return means


def _poisson_cdf() -> Floats:
    """Of a Poisson variable of mean 1, up to where nothing is left of 2^-16."""
    import math

    import numpy as np

    return np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])


def interval_of(columns: Floats, replicates: Floats, figure: Callable[[Any], Any]) -> Interval:
    """A figure of column means with its interval.

    Args:
        columns: Numbers, shape (questions, columns).
        replicates: Their ``resampled_means``.
        figure: Takes means, shape (k, columns), and gives the figure of each, shape (k,).
    """
    value = float(figure(columns.mean(axis=0)[None, :])[0])
    return _interval(value, figure(replicates))


def apgr_interval(
    score: Floats, weak: Any, strong: Any, seed: int, replicates: int = REPLICATES, bins: int = 200
) -> Interval:
    """APGR of two arms of fixed cost, by resamples of the questions.

    Questions are sorted by score once and taken together in ``bins`` of neighbours, in which their
    order no longer matters: the area changes by less than 1e-3.

    Args:
        score: What the router sorts by, highest to the strong arm first.
        weak, strong: Whether each arm is right.
    """
    import numpy as np

    order = np.argsort(-score, kind="stable")
    at = np.empty(len(score), dtype=np.int64)
    at[order] = np.arange(len(score)) * bins // len(score)
    kind = (strong.astype(np.int64) - weak.astype(np.int64)) + 1
    counts = np.bincount(at * 3 + kind, minlength=3 * bins)
    generator = np.random.default_rng(seed)
    areas = []
    for start in range(0, replicates, _CHUNK):
        rows = min(_CHUNK, replicates - start)
        drawn = generator.multinomial(len(score), counts / len(score), size=rows)
        areas.append(_areas(drawn.reshape(rows, bins, 3)))
    replicate = np.concatenate(areas)
    value = float(_areas(counts.reshape(1, bins, 3))[0])
    return _interval(value, replicate)


def _interval(value: float, replicate: Floats) -> Interval:
    """The central 95 %; an end that lies at infinity is None."""
    import numpy as np

    # Percentiles by rank: between a number and infinity there is nothing to interpolate.
    low, high = np.percentile(replicate, [2.5, 97.5], method="nearest")
    return Interval(
        value,
        float(low) if np.isfinite(low) else None,
        float(high) if np.isfinite(high) else None,
    )


def _areas(counts: Any) -> Any:
    """APGR of counts (rows, bins, loses/equal/gains)."""
    import numpy as np

    share = counts.sum(axis=2)
    share = share / share.sum(axis=1, keepdims=True)
    gain = np.cumsum(counts[:, :, 2] - counts[:, :, 0], axis=1).astype(np.float64)
    total = gain[:, -1:]
    pgr = np.divide(gain, total, out=np.zeros_like(gain), where=total > 0)
    before = np.concatenate([np.zeros((len(pgr), 1)), pgr[:, :-1]], axis=1)
    area = (share * (before + pgr) / 2).sum(axis=1)
    return np.where(total[:, 0] > 0, area, np.inf)  # where the strong arm is none, there is no area
