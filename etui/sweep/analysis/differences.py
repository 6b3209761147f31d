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
from typing import TypeVar

from etui.stats.small_samples import MeanEstimate, estimate_means
from etui.stats.tests import SIGNIFICANCE, Interval, holm
from etui.sweep.analysis.costs import (
    average_copies,
    drop_missing,
    read_logs,
    to_factor,
    to_percent,
)
from etui.sweep.analysis.floor import Repeatability
from etui.sweep.analysis.setting_means import fit_setting_means
from etui.sweep.blocks import Block, Figure
from etui.sweep.result import Difference

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
