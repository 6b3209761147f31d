"""Mean and percentiles of a figure over the answers of a system, and of the gaps between tokens.

The gaps of all answers are pooled, because a percentile of the answers' percentiles is not one of
the gaps. A sample therefore keeps its gaps as a histogram whose bins are a 16th of an octave wide:
a pooled percentile is the middle of a bin, within 2.2 % of the true one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from etui.bench.store.sample import Sample
from etui.energy.energy_record import RecordPercentiles
from etui.energy.record_conditions import Distribution

_BINS_PER_OCTAVE = 16
_SHORTEST_SECONDS = 1e-9
"""Resolution of the clock: shorter gaps, 0 included, are counted as this."""

Bins = tuple[tuple[int, int], ...]
"""Number of a bin and its count, ascending."""


def compute_distribution(values: Iterable[float]) -> Distribution | None:
    """Compute mean and percentiles, interpolated between ranks; None without values."""
    import numpy as np

    array = np.asarray(list(values), dtype=np.float64)
    if not array.size:
        return None
    p50, p90, p95 = (float(value) for value in np.percentile(array, [50, 90, 95]))
    return Distribution(int(array.size), float(array.mean()), p50, p90, p95)


def compute_percentiles(samples: Sequence[Sample]) -> RecordPercentiles:
    """Compute the percentiles of a system; None where no sample has the figure."""
    measured = [(one.joules, one.tokens.output) for one in samples if one.joules is not None]
    return RecordPercentiles(
        joules_per_question=compute_distribution(joules for joules, _ in measured),
        joules_per_output_token=compute_distribution(
            joules / output for joules, output in measured if output
        ),
        ttft_seconds=compute_distribution(
            one.ttft_seconds for one in samples if one.ttft_seconds is not None
        ),
        inter_token_seconds=pool_gaps(
            one.inter_token_bins for one in samples if one.inter_token_bins
        ),
    )


def count_gaps(gaps: Iterable[float]) -> Bins:
    """Count gaps in bins.

    Args:
        gaps: Seconds, at least 0.
    """
    bins = Counter(
        math.floor(math.log2(max(gap, _SHORTEST_SECONDS)) * _BINS_PER_OCTAVE) for gap in gaps
    )
    return tuple(sorted(bins.items()))


def pool_gaps(parts: Iterable[Sequence[Sequence[int]]]) -> Distribution | None:
    """Compute mean and percentiles of all gaps of several answers; None without gaps.

    Args:
        parts: Results of :func:`count_gaps`.
    """
    total: Counter[int] = Counter()
    for part in parts:
        for number, count in part:
            total[number] += count
    bins = sorted((number, count) for number, count in total.items() if count > 0)
    count = sum(one for _, one in bins)
    if not count:
        return None
    mean = math.fsum(_middle(number) * one for number, one in bins) / count
    p50, p90, p95 = (_find_quantile(bins, count, share) for share in (0.5, 0.9, 0.95))
    return Distribution(count, mean, p50, p90, p95)


def _find_quantile(bins: Sequence[tuple[int, int]], count: int, share: float) -> float:
    """Return the middle of the bin with the value of the nearest rank."""
    rank, seen = math.ceil(share * count), 0
    for number, one in bins:
        seen += one
        if seen >= rank:
            return _middle(number)
    return _middle(bins[-1][0])


def _middle(number: int) -> float:
    return float(2.0 ** ((number + 0.5) / _BINS_PER_OCTAVE))
