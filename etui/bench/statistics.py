"""Intervals and tests: Wilson's interval, the stratified bootstrap, McNemar's test, Holm's order.

All intervals are at 95 %. A run's questions are one sample of the questions that could have been
asked, drawn subject by subject; the intervals say how far another such sample could lie. They hold
nothing of prompt wording or of decoding at other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.95
REPLICATES = 4000
_CHUNK = 500
"""Replicates drawn at once: bounds the memory for a subject of 1,534 questions to a few MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its interval at 95 %.

    Attributes:
        value: The figure.
        low, high: Ends of the interval; None where an end cannot be told (one question; joules per
            correct answer where another sample might have none).
        method: ``wilson`` or ``bootstrap``; None without an interval.
    """

    value: float
    low: float | None
    high: float | None
    method: str | None


def wilson(successes: int, trials: int) -> Interval:
    """Share of successes with its score interval (Wilson, JASA 22, 1927).

    Raises:
        ValueError: No trials, or more successes than trials.
    """
    from scipy.stats import binomtest

    if trials < 1:
        raise ValueError("a share needs at least one trial")
    found = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high), "wilson")


def resampled_sums(
    columns: Any, strata: Sequence[str], seed: int, replicates: int = REPLICATES
) -> Floats:
    """Sums of columns over samples drawn anew within each stratum: the stratified bootstrap.

    Each stratum of n questions gives n-1 draws with replacement, each counted n/(n-1) times, which
    makes the variance of a sum unbiased also where strata are small (Rao and Wu, JASA 83, 1988;
    plain draws of n make a subject of five questions a fifth too narrow). Strata of one question
    are pooled, since one question alone shows no spread.

    Args:
        columns: Numbers, shape (questions, columns). All columns of a question are drawn together,
            so ratios and differences of the sums keep their correlation.
        strata: The stratum of each question.
        seed: Equal seeds and equal questions in equal order give equal sums.
        replicates: Samples drawn.

    Returns:
        Shape (replicates, columns).
    """
    import numpy as np

    values = np.asarray(columns, dtype=np.float64)
    generator = np.random.default_rng(seed)
    sums = np.zeros((replicates, values.shape[1]))
    for members in _strata(strata):
        inside, size = values[members], len(members)
        if size < 2:
            sums += inside.sum(axis=0)
            continue
        for start in range(0, replicates, _CHUNK):
            rows = min(_CHUNK, replicates - start)
            picks = generator.integers(0, size, size=(rows, size - 1))
            picks += size * np.arange(rows)[:, None]
            counts = np.bincount(picks.ravel(), minlength=rows * size).reshape(rows, size)
            sums[start : start + rows] += (counts * (size / (size - 1))) @ inside
    return sums


def _strata(labels: Sequence[str]) -> list[list[int]]:
    """Indices of each stratum, in the order of their names; single ones pooled."""
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


def percentiles(replicates: Floats) -> tuple[float | None, float | None]:
    """Both ends of the central 95 %; an end that lies at infinity is None."""
    import numpy as np

    tail = (1 - CONFIDENCE) / 2 * 100
    with np.errstate(invalid="ignore"):  # between two infinities
        low, high = np.percentile(replicates, [tail, 100 - tail])
    return (
        float(low) if np.isfinite(low) else None,
        float(high) if np.isfinite(high) else None,
    )


def ratio(above: Floats, below: Floats) -> Floats:
    """Quotients; infinite where nothing is below."""
    import numpy as np

    return np.divide(above, below, out=np.full_like(above, np.inf), where=below > 0)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test (Psychometrika 12, 1947).

    The probability, if both were equally good, of a split at least as uneven among the questions
    that just one of them got right; 1 where there are none.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being several, in their order (Holm, Scand. J. Stat. 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = largest
    return adjusted
