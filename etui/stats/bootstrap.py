"""Bootstrap over questions: intervals of sums, of means and of any figure of them.

There is one loop, :func:`sum_weighted`. It draws how often each question (or each kind of question)
counts in a resample. The questions of a bench run are drawn subject by subject
(:func:`resample_sums`); a replay judges policies on one sample of questions, drawn all together
(:func:`resample_means`).

Every resample takes all columns of a question together, so ratios and differences of columns keep
their correlation. Equal seeds and equal questions in equal order give equal figures. All
intervals are the central 95 % of the replicates (percentile method).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from etui.stats.arrays import Floats, Whole
from etui.stats.tests import CONFIDENCE, Interval

Draw = Callable[[int], Any]
"""Takes a number of resamples, returns their weights, shape (resamples, questions or kinds)."""

STRATIFIED_REPLICATES = 4000
PLAIN_REPLICATES = 10_000
_STRATUM_CHUNK = 500
"""Replicates drawn at once: bounds the memory for a subject of 1,534 questions to a few MB."""
_CHUNK = 1000
_MOST_KINDS = 800


def sum_weighted(draw: Draw, values: Any, replicates: int, chunk: int) -> Any:
    """Sum rows by the weights of resamples, in chunks that bound the memory of the weights.

    Equal seeds give equal sums only with equal chunks: other lengths may be rounded differently.
    Returns the shape (replicates, columns).
    """
    starts = range(0, replicates, chunk)
    return np.concatenate([draw(min(chunk, replicates - start)) @ values for start in starts])


def resample_sums(
    columns: Any, strata: Sequence[str], seed: int, replicates: int = STRATIFIED_REPLICATES
) -> Floats:
    """Sum columns over resamples drawn within each stratum: the stratified bootstrap.

    Each stratum of n questions gives n-1 draws with replacement, each counted n/(n-1) times, which
    keeps the variance of a sum unbiased for small strata too (Rao and Wu, JASA 83, 1988; n plain
    draws make the interval of a five-question subject a fifth too narrow). Strata of one question
    are pooled, since a single question shows no spread. Returns the shape (replicates, columns).
    """
    values = np.asarray(columns, dtype=np.float64)
    generator = np.random.default_rng(seed)
    sums = np.zeros((replicates, values.shape[1]))
    for members in _pool_strata(strata):
        inside = values[members]
        if len(members) < 2:
            sums += inside.sum(axis=0)
        else:
            draw = _make_rescaled_draw(generator, len(members))
            sums += sum_weighted(draw, inside, replicates, _STRATUM_CHUNK)
    return sums


def resample_means(columns: Floats, seed: int, replicates: int = PLAIN_REPLICATES) -> Floats:
    """Average columns over resamples of all rows: the plain bootstrap, without strata.

    Rows that agree in every column are counted together: a resample of n rows is then one
    multinomial draw over a few kinds. If nearly every row is a kind of its own (measured joules),
    each gets a Poisson(1) weight instead and the sum is divided by the total weight. This equals
    the multinomial draw except for its total (Hanley and MacGibbon, 2006) and is ten times as fast.
    Returns the shape (replicates, columns).
    """
    generator = np.random.default_rng(seed)
    kinds, counts = np.unique(columns, axis=0, return_counts=True)
    if len(kinds) <= _MOST_KINDS:
        draw = multinomial_draw(generator, counts)
        return np.asarray(sum_weighted(draw, kinds, replicates, replicates) / len(columns))
    values = np.column_stack([columns, np.ones(len(columns))]).astype(np.float32)
    centre = values.mean(axis=0, dtype=np.float64)
    centre[-1] = 0.0
    values -= centre.astype(np.float32)  # single precision then applies to the spread only
    draw = _make_poisson_draw(generator, len(columns))
    sums = sum_weighted(draw, values, replicates, _CHUNK).astype(np.float64)
    return np.asarray(sums[:, :-1] / sums[:, -1:] + centre[:-1])


def compute_interval(columns: Floats, replicates: Floats, figure: Callable[[Any], Any]) -> Interval:
    """Compute a figure of column means and its interval.

    ``columns`` have the shape (questions, columns), ``replicates`` come from ``resample_means`` of
    them; ``figure`` takes means, shape (k, columns), and returns the figure of each, shape (k,).
    """
    value = float(figure(columns.mean(axis=0)[None, :])[0])
    return Interval(value, *percentiles(figure(replicates), "nearest"), "bootstrap")


def percentiles(
    replicates: Floats, method: Literal["linear", "nearest"] = "linear"
) -> tuple[float | None, float | None]:
    """Return both ends of the central 95 %; an infinite end is None.

    ``linear`` interpolates between two ranks, and gives None if either of them is infinite;
    ``nearest`` takes the nearest rank.
    """
    tail = (1 - CONFIDENCE) / 2 * 100
    with np.errstate(invalid="ignore"):  # interpolation between two infinities
        low, high = np.percentile(replicates, [tail, 100 - tail], method=method)
    return (
        float(low) if np.isfinite(low) else None,
        float(high) if np.isfinite(high) else None,
    )


def ratio(above: Floats, below: Floats) -> Floats:
    """Divide elementwise; the result is infinite where the divisor is not above 0."""
    return np.divide(above, below, out=np.full_like(above, np.inf), where=below > 0)


def multinomial_draw(generator: np.random.Generator, counts: Whole) -> Draw:
    """Return a draw of question counts by kind; a resample has as many questions as the data."""
    total = int(counts.sum())
    return lambda rows: generator.multinomial(total, counts / total, size=rows)


def _make_rescaled_draw(generator: np.random.Generator, size: int) -> Draw:
    """Return a draw of weights for one stratum: size - 1 draws, scaled up to size (at least 2)."""

    def draw(rows: int) -> Floats:
        picks = generator.integers(0, size, size=(rows, size - 1))
        picks += size * np.arange(rows)[:, None]
        counts = np.bincount(picks.ravel(), minlength=rows * size).reshape(rows, size)
        return np.asarray(counts * (size / (size - 1)))

    return draw


def _make_poisson_draw(generator: np.random.Generator, size: int) -> Draw:
    """Return a draw of independent Poisson(1) weights in single precision."""
    # The inverse of the distribution in 2^16 steps, so a weight is one lookup. Less than 2^-16 of
    # the distribution is at 12 and above.
    distribution = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    weight_of = np.searchsorted(distribution, (np.arange(2**16) + 0.5) / 2**16).astype(np.float32)

    def draw(rows: int) -> Any:
        drawn = np.frombuffer(generator.bytes(2 * rows * size), dtype=np.uint16)
        return weight_of[drawn].reshape(rows, size)

    return draw


def _pool_strata(labels: Sequence[str]) -> list[list[int]]:
    """Group indices by stratum, sorted by name; pool the strata of one question."""
    found: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        found.setdefault(label, []).append(index)
    ordered = [found[label] for label in sorted(found)]
    single = [members[0] for members in ordered if len(members) == 1]
    strata = [members for members in ordered if len(members) > 1]
    if len(single) == 1 and strata:
        smallest = min(range(len(strata)), key=lambda at: len(strata[at]))
        strata[smallest] = [*strata[smallest], *single]
    elif single:
        strata.append(single)
    return strata
