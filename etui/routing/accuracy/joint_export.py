"""Convert a fitted joint model to the form of the fitted file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etui.routing.accuracy.features import FEATURE_NAMES
from etui.routing.accuracy.joint import STRETCH, JointFit
from etui.routing.accuracy.joint_calibration import RegressionMix
from etui.routing.accuracy.joint_file import LEAF, VALUE_STEPS, WORD_ZERO, JointPart, pack

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

_DIGITS = 7


def export_joint(
    fit: JointFit, arms: Sequence[str], bands: Sequence[str], mix: RegressionMix | None = None
) -> JointPart:
    """Convert a fit to a part of the file.

    Args:
        fit: The joint model, with one way to divide questions into bands.
        mix: Share of the arms' own regressions; None without.
    """
    import numpy as np

    (rates,) = fit.rates
    count = len(FEATURE_NAMES)
    scale = fit.ridge.scale
    raw = fit.ridge.weights[:count] * scale.factor[:, None]
    component_step, components = _count_steps(fit.directions)
    word_step, linear = _count_steps(fit.ridge.weights[count + len(bands) :])
    words = np.column_stack([components, linear]) + WORD_ZERO
    roots, column, threshold, child, values = _flatten(
        [tree.tree_ for grove in fit.groves for tree in grove.estimators_]
    )
    return JointPart(
        arms=tuple(arms),
        bands=tuple(bands),
        rates=_rows(rates),
        overall=_row(fit.overall),
        start=_row(fit.ridge.start - scale.mean @ raw),
        features=_rows(raw),
        band_weights=_rows(fit.ridge.weights[count : count + len(bands)]),
        words=pack("H", words.astype("<u2").tobytes()),
        component_step=component_step,
        word_step=word_step,
        roots=tuple(roots),
        column=pack("B", np.asarray(column, dtype="<u1").tobytes()),
        threshold=pack("f", np.asarray(threshold, dtype="<f4").tobytes()),
        child=pack("I", np.asarray(child, dtype="<u4").tobytes()),
        values=pack("h", np.asarray(values, dtype="<i2").tobytes()),
        stretch=STRETCH,
        slope=_row(fit.calibration.slope),
        spread=round(fit.calibration.spread, _DIGITS),
        band_mean=round(fit.calibration.band_mean, _DIGITS),
        band_spread=round(fit.calibration.band_spread, _DIGITS),
        offset=_row(fit.calibration.offset),
        mixed=0.0 if mix is None else round(mix.share, _DIGITS),
        mixed_offset=() if mix is None else _row(mix.offset),
    )


def _flatten(trees: Sequence[Any]) -> tuple[list[int], Floats, Floats, Floats, Floats]:
    """Put the nodes of all trees in one row, each tree in the order of a walk to the left.

    sklearn numbers nodes in that order, so the left child of a node is the next one.
    """
    import numpy as np

    roots, columns, thresholds, children, values = [], [], [], [], []
    start = rows = 0
    total = sum(tree.node_count for tree in trees)
    for tree in trees:
        is_leaf = tree.children_left < 0
        at = np.arange(tree.node_count)
        assert (tree.children_left[~is_leaf] == at[~is_leaf] + 1).all()
        roots.append(start)
        columns.append(np.where(is_leaf, LEAF, tree.feature))
        # The largest single below the threshold: it separates the same singles.
        near = tree.threshold.astype(np.float32)
        lower = np.nextafter(near, np.float32(-np.inf))
        thresholds.append(np.where(near > tree.threshold, lower, near))
        number = np.cumsum(is_leaf) - 1
        children.append(np.where(is_leaf, total + rows + number, start + tree.children_right))
        leaves = tree.value[is_leaf, :, 0]
        values.append(np.round(leaves * VALUE_STEPS))
        start += tree.node_count
        rows += len(leaves)
    return (
        roots,
        np.concatenate(columns),
        np.concatenate(thresholds),
        np.concatenate(children),
        np.concatenate(values),
    )


def _count_steps(weights: Floats) -> tuple[float, Floats]:
    """Return the size of a 16-bit step, and weights in such steps."""
    import numpy as np

    step = float(np.abs(weights).max(initial=0.0)) / 32_000 or 1.0
    return step, np.round(weights / step)


def _row(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), _DIGITS) for value in values)


def _rows(values: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(_row(row) for row in values)
