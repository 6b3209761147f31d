"""Differences of settings to the baseline, effects of axes, and costs, with intervals.

A difference is a log ratio: the mean over blocks of a setting's log less the mean log of the
baseline's two copies in the same block. So the block (temperature, background load) cancels, and
the reference has half the noise of one visit.

Where not all settings are in all blocks, a setting that was dropped early is compared through the
blocks it was in (:mod:`etui.stats.block_design`).

The log costs of the settings are taken as a sum of effects of their values, by least squares with
equal weights: for a full grid, the effect of a value is the mean over all combinations of the other
axes, however often each was measured.

The meter's own uncertainty is not added to differences. It is an error of calibration (gain, a
sensor's offset at equal power), which all visits on one kind of channel share, so that it cancels
in a ratio; what varies from visit to visit (ticks of a counter, sampling) is in the scatter
already. It is added to joules of one setting, where it does not cancel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from etui.stats.block_design import BlockMeans, fit_block_design
from etui.stats.small_samples import MeanEstimate, count_freedom, estimate_means
from etui.stats.tests import SIGNIFICANCE, Interval, holm, t_quantile
from etui.sweep.blocks import Block, Figure
from etui.sweep.config import AXES, AxisName, Setting, Value
from etui.sweep.result import AxisEffect, DetectionFloor, Difference, Interaction

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

FIGURES: Mapping[str, Figure] = {
    "joules": lambda visit: visit.joules,
    "seconds": lambda visit: visit.seconds,
    "prefill_joules_per_token": lambda visit: visit.prefill.joules_per_token,
    "decode_joules_per_token": lambda visit: visit.decode.joules_per_token,
}
"""Figures of one answer; settings are compared by the first two."""

COMPARED = ("joules", "seconds")

Column = tuple[tuple[AxisName, Value], ...]
"""One effect: values that a setting must have; two for an interaction."""

Name = tuple[str, str | Column]
"""A compared figure, and the key of a setting or an effect."""

_LARGEST_LOG = 500.0
"""Log of the largest factor: 1e217."""
_POWER = 0.8
_BASELINE_COPIES = 2
"""Visits of the baseline in a block, whose mean is the reference of all differences."""
_ESTIMABLE = 1e-8


def read_logs(blocks: Sequence[Block], keys: Sequence[str], figure: Figure) -> Floats:
    """Take the logs of a figure, shape (blocks, settings, 2 copies).

    A visit that was disturbed, or whose figure is unmeasured or not above 0, is NaN.
    """
    import numpy as np

    place = {key: at for at, key in enumerate(keys)}
    logs = np.full((len(blocks), len(keys), 2), np.nan)
    for row, block in enumerate(blocks):
        for visit in block.visits:
            value = None if visit.disturbed else figure(visit)
            if visit.setting in place and value is not None and value > 0:
                logs[row, place[visit.setting], visit.copy] = math.log(value)
    return logs


def average_copies(logs: Floats) -> Floats:
    """Average the copies that are there: shape (blocks, settings), NaN where both are missing."""
    import numpy as np

    there = np.isfinite(logs)
    count = there.sum(axis=-1)
    total = np.where(there, logs, 0.0).sum(axis=-1)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.asarray(mean)


def drop_missing(column: Floats) -> Floats:
    """Return the values of a column that are not NaN."""
    import numpy as np

    return np.asarray(column[np.isfinite(column)])


def to_percent(log_ratio: float) -> float:
    """Turn a log ratio into percent of the reference."""
    return 100 * math.expm1(min(log_ratio, _LARGEST_LOG))


def _to_factor(log: float) -> float:
    """Return e to the power of a log, which is finite for the interval of two wild visits too."""
    return math.exp(min(log, _LARGEST_LOG))


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Noise of a figure of one visit, from the baseline against itself in the same block (A/A)."""

    deviation: float | None
    """Standard deviation of the log of a visit's figure; None with fewer than two blocks."""
    difference: float | None
    """Mean log ratio of the second copy to the first, which should be about 0; None without a
    block."""
    p: float | None  # P-value of that difference; None with fewer than two blocks
    blocks: int  # Number of blocks with both copies

    def floor(self, variance_factor: float, freedom: float) -> float | None:
        """Return the smallest log ratio that an estimate can show; None if the noise is unknown.

        A two-sided test at 5 % finds a true difference of this size with 80 % probability:
        ``(t(0.975) + t(0.8)) s sqrt(v)`` (Lachin, Controlled Clinical Trials 2, 1981, with t in
        place of the normal quantiles, as the noise is estimated). It is at least the difference
        that the A/A comparison itself has found.

        Args:
            variance_factor: Variance of the estimate in variances of one visit. For a setting
                against the mean of two copies of the baseline over n blocks it is 1.5 / n.
            freedom: Degrees of freedom of the estimate.
        """
        if self.deviation is None or self.difference is None:
            return None
        known = min(freedom, float(count_freedom(self.blocks)))
        quantiles = t_quantile(SIGNIFICANCE / 2, known) + t_quantile(1 - _POWER, known)
        return max(quantiles * self.deviation * math.sqrt(variance_factor), abs(self.difference))

    def floor_of_blocks(self, blocks: int) -> float | None:
        """Return the smallest log ratio to the baseline that some blocks, at least 2, can show."""
        if blocks < 2:
            return None
        # Trimmed means weigh the values that are left in: close to 1/n for normal noise.
        return self.floor((1 + 1 / _BASELINE_COPIES) / blocks, count_freedom(blocks))


def measure_repeatability(
    blocks: Sequence[Block], baseline: str, figure: Figure, seed: int
) -> Repeatability:
    """Compare both copies of the baseline in every block that has them."""
    logs = read_logs(blocks, [baseline], figure)[:, 0, :]
    differences = drop_missing(logs[:, 1] - logs[:, 0])
    if not len(differences):
        return Repeatability(None, None, None, 0)
    found = estimate_means([differences], seed)[0]
    # A difference of two visits has twice the variance of one.
    deviation = None if found.deviation is None else found.deviation / math.sqrt(2)
    return Repeatability(deviation, found.mean, found.p, found.values)


def build_floor(noise: Mapping[str, Repeatability], claim_blocks: int) -> DetectionFloor | None:
    """Build the detection floor; None before the first block with both copies.

    Args:
        noise: Noise of the compared figures.
        claim_blocks: Number of blocks behind the claims.
    """
    if not noise["seconds"].blocks:
        return None

    def percent(log_ratio: float | None) -> float | None:
        return None if log_ratio is None else to_percent(log_ratio)

    return DetectionFloor(
        joules_percent=percent(noise["joules"].floor_of_blocks(claim_blocks)),
        seconds_percent=percent(noise["seconds"].floor_of_blocks(claim_blocks)),
        measured_joules_percent=percent(noise["joules"].difference),
        measured_seconds_percent=percent(noise["seconds"].difference),
        blocks=noise["seconds"].blocks,
        claim_blocks=claim_blocks,
    )


@dataclass(frozen=True, slots=True)
class LogDifference:
    """A log ratio to a reference that is not yet judged."""

    estimate: MeanEstimate  # The log ratio with its interval
    floor: float | None  # Smallest log ratio that is claimed; None if it is unknown


def judge(differences: Mapping[Name, LogDifference]) -> dict[Name, Difference]:
    """Adjust the p-values of a family by Holm, and decide what is claimed.

    A difference is claimed if its adjusted p-value is below 0.05, its interval excludes 0, and it
    is not below the detection floor. So a family of equal settings has a false claim in at most
    5 % of sweeps.
    """
    tested = {key: one.estimate.p for key, one in differences.items() if one.estimate.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {key: _judge(one, adjusted.get(key)) for key, one in differences.items()}


def _judge(one: LogDifference, p: float | None) -> Difference:
    estimate = one.estimate
    low, high = estimate.low, estimate.high
    return Difference(
        percent=to_percent(estimate.mean),
        low=None if low is None else to_percent(low),
        high=None if high is None else to_percent(high),
        p=p,
        blocks=estimate.values,
        is_claimed=p is not None
        and p < SIGNIFICANCE
        and (low is not None and high is not None and (low > 0 or high < 0))
        and one.floor is not None
        and abs(estimate.mean) >= one.floor,
    )


def compare_with_baseline(
    blocks: Sequence[Block],
    keys: Sequence[str],
    figure: Figure,
    noise: Repeatability,
    seed: int,
) -> dict[str, LogDifference]:
    """Compare settings with the baseline, the first key, by blocks in which all of them are.

    Args:
        noise: Noise of the figure, from the A/A comparison.

    Returns:
        Key -> difference, without the baseline and the settings that have no block with it.
    """
    logs = average_copies(read_logs(blocks, keys, figure))
    columns = {key: drop_missing(logs[:, at] - logs[:, 0]) for at, key in enumerate(keys) if at > 0}
    found = {key: column for key, column in columns.items() if len(column)}
    estimates = estimate_means(list(found.values()), seed)
    return {
        key: LogDifference(estimate, noise.floor_of_blocks(estimate.values))
        for key, estimate in zip(found, estimates, strict=True)
    }


def compare_in_race(
    blocks: Sequence[Block], keys: Sequence[str], figure: Figure, noise: Repeatability
) -> dict[str, LogDifference]:
    """Compare settings with the baseline by blocks in which not all of them are.

    Args, returns: As :func:`compare_with_baseline`.
    """
    import numpy as np

    fitted = fit_setting_means(blocks, keys, figure)
    if fitted is None:
        return {}
    names, means = fitted
    found: dict[str, LogDifference] = {}
    for at, key in enumerate(names[1:], start=1):
        estimate, factor, freedom = means.estimate(np.eye(len(names))[at])
        own_blocks = int((means.counts[:, at] > 0).sum())
        floor = noise.floor(factor, freedom)
        found[key] = LogDifference(replace(estimate, values=own_blocks), floor)
    return found


def estimate_costs(
    blocks: Sequence[Block], keys: Sequence[str], figure: Figure, seed: int
) -> dict[str, Interval]:
    """Estimate a figure of each setting: the geometric mean over blocks, so that ratios agree.

    Returns:
        Key -> the figure, without settings that have none; no interval with one block.
    """
    logs = average_copies(read_logs(blocks, keys, figure))
    columns = {key: drop_missing(logs[:, at]) for at, key in enumerate(keys)}
    found = {key: column for key, column in columns.items() if len(column)}

    def factor(log: float | None) -> float | None:
        return None if log is None else _to_factor(log)

    return {
        key: Interval(_to_factor(one.mean), factor(one.low), factor(one.high), one.method)
        for key, one in zip(found, estimate_means(list(found.values()), seed), strict=True)
    }


def estimate_race_costs(
    blocks: Sequence[Block], keys: Sequence[str], figure: Figure, seed: int
) -> dict[str, Interval]:
    """Estimate a figure of each setting from blocks in which not all settings are.

    A setting that was dropped after two blocks has next to no spread of its own. So its figure is
    the baseline's in all blocks times the ratio of both, and their errors are added in quadrature.

    Returns: As :func:`estimate_costs`.
    """
    import numpy as np

    found = estimate_costs(blocks, keys[:1], figure, seed)
    fitted = fit_setting_means(blocks, keys, figure)
    if fitted is None:
        return found
    names, means = fitted
    base = found[keys[0]]

    def combine(
        value: float, mean: float, end: float | None, base_end: float | None, side: int
    ) -> float | None:
        if end is None or base_end is None:
            return None
        return value * _to_factor(side * math.hypot(end - mean, math.log(base_end / base.value)))

    for at, key in enumerate(names[1:], start=1):
        ratio, _, _ = means.estimate(np.eye(len(names))[at])
        value = base.value * _to_factor(ratio.mean)
        low = combine(value, ratio.mean, ratio.low, base.low, side=-1)
        high = combine(value, ratio.mean, ratio.high, base.high, side=1)
        found[key] = Interval(value, low, high, ratio.method)
    return found


def add_meter_uncertainty(
    figure: Interval, blocks: Sequence[Block], key: str, phases: Sequence[str]
) -> Interval:
    """Add the meter's uncertainty to the joules of a setting, in quadrature, at each end.

    It is the mean half width of the visits as a share of their joules. Half widths of both phases
    are added, as an error of calibration has the same sign in both.

    Args:
        figure: Joules, or joules per token, with the scatter over blocks.
        phases: ``prefill``, ``decode``, or both.
    """
    relative = _read_meter_share(blocks, key, phases)
    if figure.low is None or figure.high is None or relative is None:
        return figure
    off = relative * figure.value
    low = figure.value - math.hypot(figure.value - figure.low, off)
    high = figure.value + math.hypot(figure.high - figure.value, off)
    return Interval(figure.value, max(0.0, low), high, figure.method)


def _read_meter_share(blocks: Sequence[Block], key: str, phases: Sequence[str]) -> float | None:
    joules, widths = 0.0, 0.0
    for visit in (visit for block in blocks for visit in block.visits):
        if visit.setting != key or visit.disturbed:
            continue
        for phase in (getattr(visit, name) for name in phases):
            if phase.joules is None or phase.uncertainty is None:
                return None
            joules += phase.joules
            widths += phase.uncertainty
    return widths / joules if joules > 0 else None


def fit_setting_means(
    blocks: Sequence[Block], keys: Sequence[str], figure: Figure
) -> tuple[tuple[str, ...], BlockMeans] | None:
    """Fit the log costs of the settings, and name those that were measured with the baseline."""
    found = fit_block_design(read_logs(blocks, keys, figure))
    return None if found is None else (tuple(keys[at] for at in found.measured), found)


def _list_axes(settings: Sequence[Setting]) -> dict[AxisName, tuple[Value, ...]]:
    """List the values of the axes that have at least two, that of the baseline first."""
    found: dict[AxisName, tuple[Value, ...]] = {}
    for axis in AXES:
        values = dict.fromkeys(
            value for setting in settings if (value := setting.get(axis)) is not None
        )
        if len(values) > 1:
            found[axis] = tuple(values)
    return found


def estimate_effects(
    settings: Sequence[Setting], blocks: Sequence[Block], noise: Mapping[str, Repeatability]
) -> dict[Name, LogDifference]:
    """Estimate the effect of every value of every axis, and the interactions of two axes.

    The interactions of two axes, in joules, are fitted together with the effects of all axes.

    Args:
        settings: All settings, the baseline first.
        noise: Noise of the compared figures, from the A/A comparison.

    Returns:
        The effects and interactions that the settings determine, not judged yet.
    """
    axes = _list_axes(settings)
    keys = [setting.key for setting in settings]
    means = {name: fit_setting_means(blocks, keys, FIGURES[name]) for name in COMPARED}
    alone: list[Column] = [((axis, value),) for axis in axes for value in axes[axis][1:]]
    found: dict[Name, LogDifference] = {}
    for name in COMPARED:
        effects = _fit_effects(means[name], settings, alone, alone, noise[name])
        found |= {(name, column): one for column, one in effects.items()}
    for first, second in combinations(axes, 2):
        both: list[Column] = [
            ((first, value), (second, other))
            for value in axes[first][1:]
            for other in axes[second][1:]
        ]
        crossed = _fit_effects(means["joules"], settings, [*alone, *both], both, noise["joules"])
        found |= {("joules", column): one for column, one in crossed.items()}
    return found


def _fit_effects(
    fitted: tuple[tuple[str, ...], BlockMeans] | None,
    settings: Sequence[Setting],
    columns: Sequence[Column],
    asked: Sequence[Column],
    noise: Repeatability,
) -> dict[Column, LogDifference]:
    """Fit effects to the settings' log costs."""
    import numpy as np

    if fitted is None:
        return {}
    keys, means = fitted
    values = {setting.key: set(setting.values) for setting in settings}
    design = np.array(
        [[1.0, *(values[key].issuperset(column) for column in columns)] for key in keys]
    )
    inverse = np.linalg.pinv(design)
    resolved = inverse @ design
    found: dict[Column, LogDifference] = {}
    for column in asked:
        at = 1 + columns.index(column)
        unit = np.zeros(len(resolved))
        unit[at] = 1.0
        if np.abs(resolved[at] - unit).max() > _ESTIMABLE:
            continue
        estimate, factor, freedom = means.estimate(inverse[at])
        found[column] = LogDifference(estimate, noise.floor(factor, freedom))
    return found


def build_effects(
    settings: Sequence[Setting], judged: Mapping[Name, Difference]
) -> tuple[AxisEffect, ...]:
    """Build the effects of all axes; a figure that is not determined is None."""
    return tuple(
        AxisEffect(
            axis=axis,
            value=value,
            reference=reference,
            joules=judged.get(("joules", ((axis, value),))),
            seconds=judged.get(("seconds", ((axis, value),))),
        )
        for axis, (reference, *others) in _list_axes(settings).items()
        for value in others
    )


def build_interactions(
    settings: Sequence[Setting], judged: Mapping[Name, Difference]
) -> tuple[Interaction, ...]:
    """Build the interactions that are claimed."""
    references = {axis: values[0] for axis, values in _list_axes(settings).items()}
    return tuple(
        Interaction(
            axes=(column[0][0], column[1][0]),
            values=(column[0][1], column[1][1]),
            references=(references[column[0][0]], references[column[1][0]]),
            joules=difference,
        )
        for (_, column), difference in judged.items()
        if isinstance(column, tuple) and len(column) > 1 and difference.is_claimed
    )
