"""Effects of the axes of a sweep, and interactions of two axes.

The log costs of the settings (:mod:`etui.sweep.analysis.setting_means`) are taken as a sum of
effects of their values, by least squares with equal weights: for a full grid, the effect of a value
is the mean over all combinations of the other axes. Which settings were dropped early does not
shift it, as every setting counts the same however often it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from etui.sweep.analysis.costs import joules, seconds
from etui.sweep.analysis.differences import LogDifference
from etui.sweep.analysis.floor import Repeatability, SweepRepeatability
from etui.sweep.analysis.setting_means import SettingMeans, fit_setting_means
from etui.sweep.blocks import Block
from etui.sweep.result import AxisEffect, Difference, Interaction
from etui.sweep.setting import AXES, AxisName, Setting, Value

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
