"""Differences of settings to the baseline, and their costs, with intervals.

A difference is a log ratio: the mean over blocks of a setting's log less the mean log of the
baseline's two copies in the same block. So the block (temperature, background load) cancels, and
the reference has half the noise of one visit.

The meter's own uncertainty is not added to differences. It is an error of calibration (gain, a
sensor's offset at equal power), which all visits on one kind of channel share, so that it cancels
in a ratio; what varies from visit to visit (ticks of a counter, sampling) is in the scatter
already. It is added to joules of one setting, where it does not cancel.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, TypeVar

from etui.stats.small_samples import MeanEstimate, count_freedom, estimate_means
from etui.stats.student_t import t_p_value, t_quantile
from etui.stats.tests import CONFIDENCE, SIGNIFICANCE, Interval, holm
from etui.sweep.blocks import Block, Figure, PhaseCost, Visit
from etui.sweep.config import AXES, AxisName, Setting, Value
from etui.sweep.result import AxisEffect, DetectionFloor, Difference, Interaction

if TYPE_CHECKING:
    from etui.stats.arrays import Floats


_LARGEST_LOG = 500.0
"""Log of the largest factor: 1e217."""


def joules(visit: Visit) -> float | None:
    """Return the joules of one answer; None if a phase is unmeasured."""
    return visit.joules


def seconds(visit: Visit) -> float | None:
    """Return the seconds of one answer."""
    return visit.seconds


def prefill_joules_per_token(visit: Visit) -> float | None:
    """Return joules per computed prompt token; None if unmeasured."""
    return _per_token(visit.prefill)


def decode_joules_per_token(visit: Visit) -> float | None:
    """Return joules per drawn token; None if unmeasured."""
    return _per_token(visit.decode)


def read_logs(blocks: Sequence[Block], keys: Sequence[str], figure: Figure) -> Floats:
    """Take the logs of a figure.

    A visit that was disturbed, or whose figure is unmeasured or not above 0, is missing.

    Args:
        keys: Keys of the settings; visits of others are left out.

    Returns:
        Shape (blocks, settings, 2 copies), NaN where a visit is missing.
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
    """Average the copies that are there.

    Args:
        logs: Shape (blocks, settings, 2).

    Returns:
        Shape (blocks, settings); NaN where both are missing.
    """
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


def to_factor(log: float) -> float:
    """Return e to the power of a log, which is finite for the interval of two wild visits too."""
    return math.exp(min(log, _LARGEST_LOG))


def to_percent(log_ratio: float) -> float:
    """Turn a log ratio into percent of the reference."""
    return 100 * math.expm1(min(log_ratio, _LARGEST_LOG))


def _per_token(phase: PhaseCost) -> float | None:
    if phase.joules is None or phase.tokens <= 0:
        return None
    return phase.joules / phase.tokens


_POWER = 0.8

BASELINE_COPIES = 2
"""Visits of the baseline in a block, whose mean is the reference of all differences."""


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
        """Return the smallest log ratio that an estimate can show.

        A two-sided test at 5 % finds a true difference of this size with 80 % probability:
        ``(t(0.975) + t(0.8)) s sqrt(v)`` (Lachin, Controlled Clinical Trials 2, 1981, with t in
        place of the normal quantiles, as the noise is estimated). It is at least the difference
        that the A/A comparison itself has found.

        Args:
            variance_factor: Variance of the estimate in variances of one visit. For a setting
                against the mean of two copies of the baseline over n blocks it is 1.5 / n.
            freedom: Degrees of freedom of the estimate.

        Returns:
            A log ratio above 0; None if the noise is unknown.
        """
        if self.deviation is None or self.difference is None:
            return None
        known = min(freedom, float(count_freedom(self.blocks)))
        quantiles = t_quantile(SIGNIFICANCE / 2, known) + t_quantile(1 - _POWER, known)
        return max(quantiles * self.deviation * math.sqrt(variance_factor), abs(self.difference))

    def floor_of_blocks(self, blocks: int) -> float | None:
        """Return the smallest log ratio to the baseline that some blocks can show.

        Args:
            blocks: Number of blocks; None is returned for fewer than two.
        """
        if blocks < 2:
            return None
        return self.floor(compute_variance_factor(blocks), count_freedom(blocks))


@dataclass(frozen=True, slots=True)
class SweepRepeatability:
    """Noise of one visit's joules, and of its seconds."""

    joules: Repeatability
    seconds: Repeatability


def compute_variance_factor(blocks: int) -> float:
    """Return the variance of a mean difference to the baseline, in variances of one visit."""
    # Trimmed means weigh the values that are left in: close to 1/n for normal noise.
    return (1 + 1 / BASELINE_COPIES) / blocks


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


def measure_both(blocks: Sequence[Block], baseline: str, seed: int) -> SweepRepeatability:
    """Compare both copies of the baseline by joules and by seconds."""
    return SweepRepeatability(
        measure_repeatability(blocks, baseline, joules, seed),
        measure_repeatability(blocks, baseline, seconds, seed),
    )


def build_floor(noise: SweepRepeatability, claim_blocks: int) -> DetectionFloor | None:
    """Build the detection floor; None before the first block with both copies.

    Args:
        claim_blocks: Number of blocks behind the claims.
    """
    if not noise.seconds.blocks:
        return None
    return DetectionFloor(
        joules_percent=_percent(noise.joules.floor_of_blocks(claim_blocks)),
        seconds_percent=_percent(noise.seconds.floor_of_blocks(claim_blocks)),
        measured_joules_percent=_percent(noise.joules.difference),
        measured_seconds_percent=_percent(noise.seconds.difference),
        blocks=noise.seconds.blocks,
        claim_blocks=claim_blocks,
    )


def _percent(log_ratio: float | None) -> float | None:
    return None if log_ratio is None else to_percent(log_ratio)


_LEAST_FREEDOM = 2
"""Fewest degrees of freedom of all residuals for an interval."""

_PRIOR_FREEDOM = 4.0
"""Degrees of freedom that the pooled variance counts for. It fits settings whose noise varies by a
factor of 1.5 (the variance of the log of a variance is trigamma(2) = 0.64)."""

_NO_WEIGHT = 1e-12


@dataclass(frozen=True, slots=True)
class SettingMeans:
    """Fitted log costs."""

    keys: tuple[str, ...]
    """The settings that were measured in a block with others; the baseline is the first."""
    logs: Floats  # Log cost relative to the baseline, shape (settings,)
    covariance: Floats  # Their covariance in variances of one visit, shape (settings, settings)
    counts: Floats  # Visits, shape (blocks, settings)
    variances: Floats | None
    """Variance of the log of one visit of each setting, shape (settings,); None if the visits are
    too few."""
    freedom: Floats  # Degrees of freedom of each variance, shape (settings,)

    def estimate(self, weights: Floats) -> tuple[MeanEstimate, float, float]:
        """Estimate a contrast.

        Args:
            weights: Of the settings, shape (settings,), with the sum 0.

        Returns:
            The contrast with its interval (none where the visits are too few), its variance in
            variances of one visit, and its degrees of freedom.
        """
        mean = float(weights @ self.logs)
        gains = weights @ self.covariance
        # The estimate is a weighted sum over visits; these are the squares of their weights.
        centre = (self.counts @ gains) / self.counts.sum(axis=1)
        squares = self.counts * (gains[None, :] - centre[:, None]) ** 2
        blocks = int((squares.max(axis=1) > _NO_WEIGHT).sum())
        parts = squares.sum(axis=0)
        factor = float(parts.sum())
        if self.variances is None:
            return MeanEstimate(mean, None, None, None, None, blocks, None), factor, 1.0
        parts = parts * self.variances
        variance = float(parts.sum())
        if variance == 0:
            p = float(mean == 0)
            return MeanEstimate(mean, mean, mean, p, 0.0, blocks, "student"), factor, 1.0
        freedom = float(variance**2 / (parts**2 / self.freedom).sum())
        error = variance**0.5
        half = t_quantile((1 - CONFIDENCE) / 2, freedom) * error
        p = t_p_value(mean / error, freedom)
        deviation = error * blocks**0.5
        estimate = MeanEstimate(mean, mean - half, mean + half, p, deviation, blocks, "student")
        return estimate, factor, freedom


def fit_setting_means(
    blocks: Sequence[Block], keys: Sequence[str], figure: Figure
) -> SettingMeans | None:
    """Fit the log costs of the settings.

    Returns:
        None if the baseline was never measured together with another setting.
    """
    import numpy as np

    logs = read_logs(blocks, keys, figure)
    # Every setting needs a block with the baseline, which is in all of them.
    logs = logs[np.isfinite(logs[:, 0]).any(axis=1)]
    measured = np.flatnonzero(np.isfinite(logs).any(axis=(0, 2)))
    if len(measured) < 2:
        return None
    logs = logs[:, measured]
    there = np.isfinite(logs)
    counts = there.sum(axis=2).astype(np.float64)
    visits = counts.sum(axis=1)
    centred = np.where(
        there, logs - np.nansum(logs, axis=(1, 2), keepdims=True) / visits[:, None, None], 0.0
    )
    # Normal equations after the blocks are eliminated, relative to the baseline.
    normal = np.diag(counts.sum(axis=0)) - counts.T @ (counts / visits[:, None])
    covariance = np.zeros(normal.shape)
    covariance[1:, 1:] = np.linalg.inv(normal[1:, 1:])
    means = covariance @ centred.sum(axis=(0, 2))
    fitted = means[None, :] - (counts @ means / visits)[:, None]
    residuals = np.where(there, centred - fitted[:, :, None], 0.0)
    variances, freedom = _moderate(residuals, counts, covariance)
    compared = (counts[:, 1:] > 0).any(axis=1).sum()
    return SettingMeans(
        keys=tuple(keys[at] for at in measured.tolist()),
        logs=means,
        covariance=covariance,
        counts=counts,
        variances=variances if compared > 1 else None,
        freedom=freedom,
    )


def _moderate(
    residuals: Floats, counts: Floats, covariance: Floats
) -> tuple[Floats | None, Floats]:
    """Estimate the variance of one visit of each setting, and its degrees of freedom."""
    import numpy as np

    visits = counts.sum(axis=1)
    # Leverage of a visit: 1/n of its block, and the variance of its setting's mean less the
    # block's mean of them.
    shares = counts / visits[:, None]
    own = np.diag(covariance)[None, :] - 2 * shares @ covariance
    block = np.einsum("bs,st,bt->b", shares, covariance, shares)
    leverage = 1 / visits[:, None] + own + block[:, None]
    degrees = (counts * (1 - leverage)).sum(axis=0)
    total = float(degrees.sum())
    squares = (residuals**2).sum(axis=(0, 2))
    if total < _LEAST_FREEDOM:
        return None, degrees
    prior = min(_PRIOR_FREEDOM, total)
    freedom = degrees + prior
    return (squares + prior * squares.sum() / total) / freedom, freedom


Column = tuple[tuple[AxisName, Value], ...]
"""One effect: values that a setting must have; two for an interaction."""


EffectName = tuple[str, Column]
"""``joules`` or ``seconds``, and an effect."""


_ESTIMABLE = 1e-8


@dataclass(frozen=True, slots=True)
class AxisValues:
    """The values of an axis that a sweep compares."""

    axis: AxisName
    reference: Value  # The baseline's value
    others: tuple[Value, ...]  # The other values, in the order of the settings


def list_axes(settings: Sequence[Setting]) -> tuple[AxisValues, ...]:
    """List the axes with at least two values.

    Args:
        settings: All settings, the baseline first. Its value is the reference, or the first value
            that occurs if it has none.
    """
    found = []
    for axis in AXES:
        values = dict.fromkeys(
            value for setting in settings if (value := setting.get(axis)) is not None
        )
        if len(values) > 1:
            first, *others = values
            found.append(AxisValues(axis, first, tuple(others)))
    return tuple(found)


def estimate_effects(
    settings: Sequence[Setting],
    blocks: Sequence[Block],
    noise: SweepRepeatability,
) -> dict[EffectName, LogDifference]:
    """Estimate the effect of every value of every axis, and the interactions of two axes.

    The interactions of two axes, in joules, are fitted together with the effects of all axes.

    Args:
        settings: All settings, the baseline first.
        noise: Noise of a visit, from the A/A comparison.

    Returns:
        The effects and interactions that the settings determine, not judged yet.
    """
    axes = list_axes(settings)
    keys = [setting.key for setting in settings]
    by_joules = fit_setting_means(blocks, keys, joules)
    by_seconds = fit_setting_means(blocks, keys, seconds)
    alone: list[Column] = [((one.axis, value),) for one in axes for value in one.others]
    found: dict[EffectName, LogDifference] = {}
    for name, means, own in (
        ("joules", by_joules, noise.joules),
        ("seconds", by_seconds, noise.seconds),
    ):
        effects = _estimate(means, settings, alone, alone, own)
        found |= {(name, column): one for column, one in effects.items()}
    for one, other in combinations(axes, 2):
        both = _list_pairs(one, other)
        crossed = _estimate(by_joules, settings, [*alone, *both], both, noise.joules)
        found |= {("joules", column): difference for column, difference in crossed.items()}
    return found


def build_effects(
    settings: Sequence[Setting], judged: Mapping[EffectName, Difference]
) -> tuple[AxisEffect, ...]:
    """Build the effects of all axes; a figure that is not determined is None.

    Args:
        settings: All settings, the baseline first.
    """
    return tuple(
        AxisEffect(
            axis=one.axis,
            value=value,
            reference=one.reference,
            joules=judged.get(("joules", ((one.axis, value),))),
            seconds=judged.get(("seconds", ((one.axis, value),))),
        )
        for one in list_axes(settings)
        for value in one.others
    )


def build_interactions(
    settings: Sequence[Setting], judged: Mapping[EffectName, Difference]
) -> tuple[Interaction, ...]:
    """Build the interactions that are claimed.

    Args:
        settings: All settings, the baseline first.
    """
    references = {one.axis: one.reference for one in list_axes(settings)}
    return tuple(
        Interaction(
            axes=(column[0][0], column[1][0]),
            values=(column[0][1], column[1][1]),
            references=(references[column[0][0]], references[column[1][0]]),
            joules=difference,
        )
        for (_, column), difference in judged.items()
        if len(column) > 1 and difference.is_claimed
    )


def _list_pairs(one: AxisValues, other: AxisValues) -> list[Column]:
    """List the interactions of two axes."""
    return [
        ((one.axis, value), (other.axis, second)) for value in one.others for second in other.others
    ]


def _estimate(
    means: SettingMeans | None,
    settings: Sequence[Setting],
    columns: Sequence[Column],
    asked: Sequence[Column],
    noise: Repeatability,
) -> dict[Column, LogDifference]:
    """Fit effects to the settings' log costs."""
    import numpy as np

    if means is None:
        return {}
    values = {setting.key: dict(setting.values) for setting in settings}
    design = np.array(
        [[1.0, *(_has(values[key], column) for column in columns)] for key in means.keys]
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


def _has(values: Mapping[AxisName, Value], column: Column) -> bool:
    return all(values.get(axis) == value for axis, value in column)


_Name = TypeVar("_Name", bound=Hashable)
_Other = TypeVar("_Other", bound=Hashable)


@dataclass(frozen=True, slots=True)
class LogDifference:
    """A log ratio to a reference that is not yet judged."""

    estimate: MeanEstimate  # The log ratio with its interval
    floor: float | None  # Smallest log ratio that is claimed; None if it is unknown


def compare_with_baseline(
    blocks: Sequence[Block],
    keys: Sequence[str],
    figure: Figure,
    noise: Repeatability,
    seed: int,
) -> dict[str, LogDifference]:
    """Compare settings with the baseline.

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

    Args:
        noise: Noise of the figure, from the A/A comparison.

    Returns:
        Key -> difference, without the baseline and the settings that have no block with it.
    """
    import numpy as np

    means = fit_setting_means(blocks, keys, figure)
    if means is None:
        return {}
    found: dict[str, LogDifference] = {}
    for at, key in enumerate(means.keys[1:], start=1):
        estimate, factor, freedom = means.estimate(np.eye(len(means.keys))[at])
        own_blocks = int((means.counts[:, at] > 0).sum())
        found[key] = LogDifference(
            replace(estimate, values=own_blocks), noise.floor(factor, freedom)
        )
    return found


def judge(differences: Mapping[_Name, LogDifference]) -> dict[_Name, Difference]:
    """Adjust the p-values of a family by Holm, and decide what is claimed.

    A difference is claimed if its adjusted p-value is below 0.05, its interval excludes 0, and it
    is not below the detection floor. So a family of equal settings has a false claim in at most
    5 % of sweeps.
    """
    tested = {key: one.estimate.p for key, one in differences.items() if one.estimate.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {key: _judge(one, adjusted.get(key)) for key, one in differences.items()}


def judge_together(
    first: Mapping[_Name, LogDifference], second: Mapping[_Other, LogDifference]
) -> tuple[dict[_Name, Difference], dict[_Other, Difference]]:
    """Judge two groups of differences as one family."""
    judged = judge(dict(enumerate([*first.values(), *second.values()])))
    results = list(judged.values())
    return (
        dict(zip(first, results[: len(first)], strict=True)),
        dict(zip(second, results[len(first) :], strict=True)),
    )


def _judge(one: LogDifference, p: float | None) -> Difference:
    estimate = one.estimate
    low, high = estimate.low, estimate.high
    excludes_zero = low is not None and high is not None and (low > 0 or high < 0)
    is_claimed = (
        p is not None
        and p < SIGNIFICANCE
        and excludes_zero
        and one.floor is not None
        and abs(estimate.mean) >= one.floor
    )
    return Difference(
        percent=to_percent(estimate.mean),
        low=None if low is None else to_percent(low),
        high=None if high is None else to_percent(high),
        p=p,
        blocks=estimate.values,
        is_claimed=is_claimed,
    )


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
    estimates = estimate_means(list(found.values()), seed)
    return {
        key: Interval(to_factor(one.mean), _exp(one.low), _exp(one.high), one.method)
        for key, one in zip(found, estimates, strict=True)
    }


def estimate_race_costs(
    blocks: Sequence[Block], keys: Sequence[str], figure: Figure, seed: int
) -> dict[str, Interval]:
    """Estimate a figure of each setting from blocks in which not all settings are.

    A setting that was dropped after two blocks has next to no spread of its own. So its figure is
    the baseline's in all blocks times the ratio of both, and their errors are added in quadrature.

    Returns:
        Key -> the figure, without settings that have none; no interval with one block.
    """
    import numpy as np

    found = estimate_costs(blocks, keys[:1], figure, seed)
    means = fit_setting_means(blocks, keys, figure)
    if means is None:
        return found
    baseline = found[keys[0]]
    for at, key in enumerate(means.keys[1:], start=1):
        ratio, _, _ = means.estimate(np.eye(len(means.keys))[at])
        value = baseline.value * to_factor(ratio.mean)
        found[key] = Interval(
            value,
            _combine(value, ratio.mean, ratio.low, baseline.value, baseline.low, side=-1),
            _combine(value, ratio.mean, ratio.high, baseline.value, baseline.high, side=1),
            ratio.method,
        )
    return found


def add_meter_uncertainty(figure: Interval, relative: float | None) -> Interval:
    """Add the meter's uncertainty to an interval, in quadrature and separately at each end.

    Args:
        figure: Joules, or joules per token, with the scatter over blocks.
        relative: Half width of the meter at 95 %, as a share of the joules; None if unknown.
    """
    if figure.low is None or figure.high is None or relative is None:
        return figure
    off = relative * figure.value
    low = figure.value - math.hypot(figure.value - figure.low, off)
    high = figure.value + math.hypot(figure.high - figure.value, off)
    return Interval(figure.value, max(0.0, low), high, figure.method)


def read_meter_uncertainty(
    blocks: Sequence[Block], key: str, phases: Sequence[str]
) -> float | None:
    """Return the meter's mean half width of a setting as a share of its joules.

    Half widths of both phases are added, as an error of calibration has the same sign in both.

    Args:
        phases: ``prefill``, ``decode``, or both.

    Returns:
        None if a visit has none.
    """
    joules, widths = 0.0, 0.0
    for block in blocks:
        for visit in block.visits:
            if visit.setting != key or visit.disturbed:
                continue
            for phase in (getattr(visit, name) for name in phases):
                if phase.joules is None or phase.uncertainty is None:
                    return None
                joules += phase.joules
                widths += phase.uncertainty
    return widths / joules if joules > 0 else None


def _combine(
    value: float, log: float, log_end: float | None, base: float, base_end: float | None, side: int
) -> float | None:
    """Return an end of a product's interval, from the same ends of a log ratio and of its base."""
    if log_end is None or base_end is None:
        return None
    return value * to_factor(side * math.hypot(log_end - log, math.log(base_end / base)))


def _exp(log: float | None) -> float | None:
    return None if log is None else to_factor(log)
