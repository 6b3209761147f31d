"""The frontier of a sweep: settings that no other one beats in joules, seconds and accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from etui.stats.small_samples import estimate_means
from etui.stats.tests import SIGNIFICANCE
from etui.sweep.analysis.costs import average_copies, drop_missing, read_logs
from etui.sweep.blocks import Block, Figure
from etui.sweep.result import Accuracy, Difference


@dataclass(frozen=True, slots=True)
class RelativeFigures:
    """Figures of a setting relative to the baseline."""

    joules: float | None  # Percent; None if unmeasured
    seconds: float
    accuracy: float | None  # Share of right answers; None without a suite


def find_frontier(candidates: Mapping[str, RelativeFigures]) -> tuple[str, ...]:
    """Find the candidates that no other one dominates.

    One dominates another if it is at least as good in every figure and better in one. A setting
    without a figure that others have is compared only with those that lack it too.

    Args:
        candidates: Key of the setting -> its figures.

    Returns:
        Keys in the order of the candidates. Equal candidates are all on the frontier.
    """
    return tuple(
        key
        for key, one in candidates.items()
        if not any(_dominates(other, one) for other in candidates.values())
    )


def choose_candidates(
    keys: Sequence[str],
    joules: Mapping[str, Difference],
    seconds: Mapping[str, Difference],
    accuracy: Mapping[str, Accuracy],
) -> dict[str, RelativeFigures]:
    """Collect the figures of the settings that were kept.

    An accuracy that differs from the baseline's by no more than noise (McNemar's test) counts as
    equal to it, so that a few lucky questions put no setting on the frontier.

    Args:
        keys: Keys of the settings that are left, the baseline first.
        joules: Differences to the baseline by joules.
        seconds: Differences to the baseline by seconds.
        accuracy: Empty without a suite.

    Returns:
        Key -> figures; a setting without seconds is left out.
    """
    baseline = keys[0]
    measured = bool(joules)
    found: dict[str, RelativeFigures] = {}
    for key in keys:
        if key == baseline:
            own: tuple[float | None, float] = (0.0 if measured else None, 0.0)
        elif key in seconds:
            own = (joules[key].percent if key in joules else None, seconds[key].percent)
        else:
            continue
        found[key] = RelativeFigures(*own, _distinct_accuracy(accuracy, key, baseline))
    return found


def find_indistinct(
    keys: Sequence[str], blocks: Sequence[Block], figure: Figure, seed: int
) -> tuple[tuple[str, str], ...]:
    """Find neighbours on the frontier whose figure is the same within noise.

    Args:
        keys: Keys of the settings on the frontier, in ascending order of the figure.
        figure: What is compared, within blocks.

    Returns:
        Pairs of neighbours whose 95 % interval contains 0; none with one block.
    """
    logs = average_copies(read_logs(blocks, keys, figure))
    pairs = list(pairwise(range(len(keys))))
    columns = [drop_missing(logs[:, other] - logs[:, one]) for one, other in pairs]
    measured = [at for at, column in enumerate(columns) if len(column) > 1]
    estimates = estimate_means([columns[at] for at in measured], seed)
    return tuple(
        (keys[pairs[at][0]], keys[pairs[at][1]])
        for at, one in zip(measured, estimates, strict=True)
        if one.low is not None and one.high is not None and one.low <= 0 <= one.high
    )


def _dominates(one: RelativeFigures, other: RelativeFigures) -> bool:
    """Test whether one candidate is at least as good in every figure and better in one."""
    if (one.joules is None) != (other.joules is None):
        return False
    if (one.accuracy is None) != (other.accuracy is None):
        return False
    pairs = [(one.seconds, other.seconds)]
    if one.joules is not None and other.joules is not None:
        pairs.append((one.joules, other.joules))
    if one.accuracy is not None and other.accuracy is not None:
        pairs.append((-one.accuracy, -other.accuracy))
    return all(own <= its for own, its in pairs) and any(own < its for own, its in pairs)


def _distinct_accuracy(accuracy: Mapping[str, Accuracy], key: str, baseline: str) -> float | None:
    own, reference = accuracy.get(key), accuracy.get(baseline)
    if own is None:
        return None
    if reference is None or (own.p is not None and own.p < SIGNIFICANCE):
        return own.share.value
    return reference.share.value
