"""Differences of settings to the baseline, effects of axes, and costs, with intervals.

A difference is a log ratio: the mean over blocks of a setting's log less the mean log of the
baseline's two copies in the same block. So the block (temperature, background load) cancels, and
the reference has half the noise of one visit. Where not all settings are in all blocks, a setting
that was dropped early is compared through the blocks it was in (:mod:`etui.stats.block_design`).

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
from typing import TypeVar

import numpy as np

from etui.stats.arrays import Floats
from etui.stats.block_design import BlockMeans, fit_block_design
from etui.stats.differences import (
    LARGEST_LOG,
    Difference,
    LogDifference,
    compute_floor,
    to_percent_or_none,
)
from etui.stats.small_samples import MeanEstimate, count_freedom, estimate_means
from etui.stats.tests import SIGNIFICANCE, Interval
from etui.sweep.blocks import Block, Figure
from etui.sweep.config import AXES, AxisName, Setting, Value
from etui.sweep.result import AxisEffect, DetectionFloor, Interaction

FIGURES: Mapping[str, Figure] = {
    "joules": lambda visit: visit.joules,
    "seconds": lambda visit: visit.seconds,
    "prefill_joules_per_token": lambda visit: visit.prefill.joules_per_token,
    "decode_joules_per_token": lambda visit: visit.decode.joules_per_token,
}
"""Figures of one answer; settings are compared by the first two."""

COMPARED = ("joules", "seconds")

_METER_PHASES: Mapping[str, tuple[str, ...]] = {
    "joules": ("prefill", "decode"),
    "prefill_joules_per_token": ("prefill",),
    "decode_joules_per_token": ("decode",),
}
"""Figure in joules -> the phases that it is measured in."""

Column = tuple[tuple[AxisName, Value], ...]
"""One effect: values that a setting must have; two for an interaction."""

Name = tuple[str, str | Column]  # A compared figure, and the key of a setting or an effect

K = TypeVar("K")

_BASELINE_COPIES = 2
"""Visits of the baseline in a block, whose mean is the reference of all differences."""
_ESTIMABLE = 1e-8


def read_logs(blocks: Sequence[Block], keys: Sequence[str], figure: Figure) -> Floats:
    """Take the logs of a figure, shape (blocks, settings, 2 copies); NaN where it is unusable."""
    place = {key: at for at, key in enumerate(keys)}
    logs = np.full((len(blocks), len(keys), 2), np.nan)
    for row, block in enumerate(blocks):
        for visit in block.visits:
            value = None if visit.disturbed else figure(visit)
            if visit.setting in place and value is not None and value > 0:
                logs[row, place[visit.setting], visit.copy] = math.log(value)
    return logs


def read_mean_logs(blocks: Sequence[Block], keys: Sequence[str], figure: Figure) -> Floats:
    """Average the logs of the copies that are there: shape (blocks, settings), NaN without any."""
    logs = read_logs(blocks, keys, figure)
    there = np.isfinite(logs)
    count = there.sum(axis=-1)
    total = np.where(there, logs, 0.0).sum(axis=-1)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def estimate_columns(columns: Mapping[K, Floats], seed: int) -> dict[K, MeanEstimate]:
    """Estimate the mean of each column that has values, which are not NaN."""
    known = {key: column[np.isfinite(column)] for key, column in columns.items()}
    found = {key: column for key, column in known.items() if len(column)}
    return dict(zip(found, estimate_means(list(found.values()), seed), strict=True))


def _factor(log: float) -> float:
    """Return e to the power of a log, which is finite for the interval of two wild visits too."""
    return math.exp(min(log, LARGEST_LOG))


def _to_factor(log: float | None) -> float | None:
    return None if log is None else _factor(log)


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Noise of a figure of one visit, from the baseline against itself in the same block (A/A)."""

    deviation: float | None = None
    """Standard deviation of the log of a visit's figure; None with fewer than two blocks."""
    difference: float | None = None
    """Mean log ratio of the second copy to the first, which should be about 0; None without a
    block."""
    p: float | None = None  # P-value of that difference; None with fewer than two blocks
    blocks: int = 0  # Number of blocks with both copies
    level: float = SIGNIFICANCE  # Of the tests whose floor is asked for

    def floor(self, variance_factor: float, freedom: float) -> float | None:
        """Return the smallest log ratio that an estimate can show; None if the noise is unknown.

        It is that of :func:`compute_floor`, and at least the difference of the A/A comparison
        itself. ``variance_factor`` is the variance of the estimate in variances of one visit: 1.5 /
        n for a setting against the mean of two copies of the baseline over n blocks.
        """
        if self.deviation is None or self.difference is None:
            return None
        known = min(freedom, float(count_freedom(self.blocks)))
        floor = compute_floor(self.deviation * math.sqrt(variance_factor), known, self.level)
        return max(floor, abs(self.difference))

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
    found = estimate_columns({"": logs[:, 1] - logs[:, 0]}, seed).get("")
    if found is None:
        return Repeatability()
    # A difference of two visits has twice the variance of one.
    deviation = None if found.deviation is None else found.deviation / math.sqrt(2)
    return Repeatability(deviation, found.mean, found.p, found.values)


def build_floor(noise: Mapping[str, Repeatability], claim_blocks: int) -> DetectionFloor | None:
    """Build the detection floor of so many blocks; None before the first block with both copies."""
    joules, seconds = noise["joules"], noise["seconds"]
    if not seconds.blocks:
        return None
    return DetectionFloor(
        joules_percent=to_percent_or_none(joules.floor_of_blocks(claim_blocks)),
        seconds_percent=to_percent_or_none(seconds.floor_of_blocks(claim_blocks)),
        measured_joules_percent=to_percent_or_none(joules.difference),
        measured_seconds_percent=to_percent_or_none(seconds.difference),
        blocks=seconds.blocks,
        claim_blocks=claim_blocks,
    )


def compare_with_baseline(
    blocks: Sequence[Block],
    keys: Sequence[str],
    figure: Figure,
    noise: Repeatability,
    seed: int,
) -> dict[str, LogDifference]:
    """Compare settings with the baseline, the first key, by blocks in which all of them are.

    The settings that have no block with it are left out.
    """
    logs = read_mean_logs(blocks, keys, figure)
    columns = {key: logs[:, at] - logs[:, 0] for at, key in enumerate(keys) if at > 0}
    return {
        key: LogDifference(estimate, noise.floor_of_blocks(estimate.values))
        for key, estimate in estimate_columns(columns, seed).items()
    }


def compare_in_race(
    blocks: Sequence[Block],
    keys: Sequence[str],
    figure: Figure,
    noise: Repeatability,
    seed: int = 0,
) -> dict[str, LogDifference]:
    """Compare as :func:`compare_with_baseline`, by blocks in which not all settings are."""
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

    Settings without the figure are left out; there is no interval with one block.
    """
    logs = read_mean_logs(blocks, keys, figure)
    return {
        key: Interval(_factor(one.mean), _to_factor(one.low), _to_factor(one.high), one.method)
        for key, one in estimate_columns(dict(zip(keys, logs.T, strict=True)), seed).items()
    }


def estimate_race_costs(
    blocks: Sequence[Block], keys: Sequence[str], figure: Figure, seed: int
) -> dict[str, Interval]:
    """Estimate as :func:`estimate_costs`, from blocks in which not all settings are.

    A setting that was dropped after two blocks has next to no spread of its own. So its figure is
    the baseline's in all blocks times the ratio of both, and their errors are added in quadrature.
    """
    found = estimate_costs(blocks, keys[:1], figure, seed)
    fitted = fit_setting_means(blocks, keys, figure)
    if fitted is None:
        return found
    names, means = fitted
    base = found[keys[0]]
    for at, key in enumerate(names[1:], start=1):
        ratio, _, _ = means.estimate(np.eye(len(names))[at])
        value = base.value * _factor(ratio.mean)
        ends: list[float | None] = []
        for end, base_end, side in ((ratio.low, base.low, -1), (ratio.high, base.high, 1)):
            if end is None or base_end is None:
                ends.append(None)
                continue
            error = math.hypot(end - ratio.mean, math.log(base_end / base.value))
            ends.append(value * _factor(side * error))
        low, high = ends
        found[key] = Interval(value, low, high, ratio.method)
    return found


def add_meter_uncertainty(
    name: str, costs: Mapping[str, Interval], blocks: Sequence[Block]
) -> dict[str, Interval]:
    """Add the meter's uncertainty to a figure of settings, in quadrature, at each end.

    It is the mean half width of the visits as a share of their joules. Half widths of both phases
    are added, as an error of calibration has the same sign in both. Seconds have none.
    """
    found = dict(costs)
    for key, figure in costs.items():
        share = _read_meter_share(blocks, key, _METER_PHASES.get(name, ()))
        if share is not None and figure.low is not None and figure.high is not None:
            off = share * figure.value
            low = figure.value - math.hypot(figure.value - figure.low, off)
            high = figure.value + math.hypot(figure.high - figure.value, off)
            found[key] = Interval(figure.value, max(0.0, low), high, figure.method)
    return found


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
        every = (setting.get(axis) for setting in settings)
        values = tuple(dict.fromkeys(value for value in every if value is not None))
        if len(values) > 1:
            found[axis] = values
    return found


def estimate_effects(
    settings: Sequence[Setting], blocks: Sequence[Block], noise: Mapping[str, Repeatability]
) -> dict[Name, LogDifference]:
    """Estimate the effects of every value of every axis, not judged yet, where determined.

    The interactions of two axes, in joules, are fitted together with the effects of all axes.
    """
    axes = _list_axes(settings)
    keys = [setting.key for setting in settings]
    fitted = {name: fit_setting_means(blocks, keys, FIGURES[name]) for name in COMPARED}
    values = {setting.key: set(setting.values) for setting in settings}
    alone: list[Column] = [((axis, value),) for axis in axes for value in axes[axis][1:]]
    found: dict[Name, LogDifference] = {}

    def fit(name: str, columns: Sequence[Column], asked: Sequence[Column]) -> None:
        effects = _fit_effects(fitted[name], values, columns, asked, noise[name])
        found.update({(name, column): one for column, one in effects.items()})

    for name in COMPARED:
        fit(name, alone, alone)
    for first, second in combinations(axes, 2):
        both: list[Column] = [
            ((first, value), (second, other))
            for value in axes[first][1:]
            for other in axes[second][1:]
        ]
        fit("joules", [*alone, *both], both)
    return found


def _fit_effects(
    fitted: tuple[tuple[str, ...], BlockMeans] | None,
    values: Mapping[str, set[tuple[AxisName, Value]]],
    columns: Sequence[Column],
    asked: Sequence[Column],
    noise: Repeatability,
) -> dict[Column, LogDifference]:
    """Fit effects to the settings' log costs."""
    if fitted is None:
        return {}
    keys, means = fitted
    design = np.array(
        [[1.0, *(values[key].issuperset(column) for column in columns)] for key in keys]
    )
    inverse = np.linalg.pinv(design)
    resolved = inverse @ design
    found: dict[Column, LogDifference] = {}
    for column in asked:
        at = 1 + columns.index(column)
        if np.abs(resolved[at] - np.eye(len(resolved))[at]).max() <= _ESTIMABLE:
            estimate, factor, freedom = means.estimate(inverse[at])
            found[column] = LogDifference(estimate, noise.floor(factor, freedom))
    return found


def build_effects(
    settings: Sequence[Setting], judged: Mapping[Name, Difference]
) -> tuple[tuple[AxisEffect, ...], tuple[Interaction, ...]]:
    """Build the effects of all axes (None where undetermined), and the claimed interactions."""
    axes = _list_axes(settings)
    effects = tuple(
        AxisEffect(
            axis=axis,
            value=value,
            reference=reference,
            joules=judged.get(("joules", ((axis, value),))),
            seconds=judged.get(("seconds", ((axis, value),))),
        )
        for axis, (reference, *others) in axes.items()
        for value in others
    )
    interactions = tuple(
        Interaction(
            axes=(first[0], second[0]),
            values=(first[1], second[1]),
            references=(axes[first[0]][0], axes[second[0]][0]),
            joules=difference,
        )
        for (_, column), difference in judged.items()
        if isinstance(column, tuple) and len(column) > 1 and difference.is_claimed
        for first, second in [column]
    )
    return effects, interactions
