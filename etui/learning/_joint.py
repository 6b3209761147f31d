"""Fit one model of all arms at once: what is learned of a question on one arm informs the others.

The targets are a question's shared difficulty (the mean over the arms) and each arm's deviation
from it. A multi-target ridge regression on features, bands and words is the linear part, an
item-response model; a forest of extremely randomised trees corrects it. The columns that come from
answers (rates of the bands, predictions of the ridge) are computed from other folds for the
questions of the fit, as they are for a new question. There is a forest for each fold, which it
leaves out: its predictions there calibrate the arms and measure the quality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from etui.learning.features import LEAF, LEAST_P, VALUE_STEPS, WORD_ZERO
from etui.learning.fitted_file import JointPart
from etui.learning.regressions import (
    Scale,
    compute_smoothed_rate,
    compute_soft_rates,
    expect_rates,
    fit_scale,
    logits,
)
from etui.routing.text_measures import BUCKETS
from etui.stats.arrays import Flags, Floats, Whole

_PRIOR = (1.0, 0.4, 0.0, 0.3)
"""The weights without any evidence: of the forest's mean and differences, and of the bands'."""

_PRIOR_STRENGTH = 50.0
_ARM_STRENGTH = 300.0
_OFFSET_STRENGTH = 30.0

_ONE = 65_535
"""Integer for a tf-idf of 1."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Weights of the parts of a question's logits; a part is the mean over the arms, or the rest.

    ``band_mean`` and ``band_spread`` weigh the same of the expected rates of the bands.
    """

    slope: Floats  # Weight of the forest's mean, for each arm, (arms,)
    spread: float  # Weight of each arm's difference from the mean, by the forest
    band_mean: float
    band_spread: float
    offset: Floats  # Constant of each arm, (arms,)

    def apply(self, p: Floats, expected: Floats) -> Floats:
        """Calibrate the forest's probabilities, (questions, arms)."""
        return self.combine(_limited_logits(p), _limited_logits(expected))

    def combine(self, forest: Floats, bands: Floats) -> Floats:
        """Return the probabilities that follow from the logits of both, (questions, arms)."""
        mean, rest = _split(forest)
        band_mean, band_rest = _split(bands)
        z = self.slope * mean + self.spread * rest + self.offset
        return _expit(z + self.band_mean * band_mean + self.band_spread * band_rest)


def fit_calibration(p: Floats, expected: Floats, y: Floats, heavy: Floats) -> Calibration:
    """Fit the weights by penalised logistic regression over all arms (Newton steps).

    A router lives on the differences between arms, of which a forest invents some where answers are
    few or many arms are alike. So the differences have a slope of their own, which is the smaller
    the less they hold on questions that the trees did not see. The rates of the bands, which a
    forest sees as columns and blurs, have a part in both.

    An arm's mean difference from the others is free, so a small weight of the differences leaves
    the arms' accuracies as they are. All arguments are (questions, arms): the forest's ``p`` on
    questions that its trees did not see, the rates ``expected`` from other questions, answers and
    their weights.
    """
    from scipy.special import expit

    mean, rest = _split(_limited_logits(p))
    band_mean, band_rest = _split(_limited_logits(expected))
    parts = [np.broadcast_to(mean, rest.shape), rest]
    parts += [np.broadcast_to(band_mean, rest.shape), band_rest]
    centers = np.stack([part.mean(axis=0) for part in parts])  # (parts, arms)
    count, arms = len(parts), y.shape[1]
    prior = np.concatenate([_PRIOR, np.zeros(arms), centers[0] + centers[1]])
    strength = np.concatenate(
        [
            np.full(count, _PRIOR_STRENGTH),
            np.full(arms, _ARM_STRENGTH),
            np.full(arms, _OFFSET_STRENGTH),
        ]
    )
    columns = [
        np.column_stack(
            [
                *(part[:, arm] - center[arm] for part, center in zip(parts, centers, strict=True)),
                mean[:, 0] - centers[0, arm],
                np.ones(len(y)),
            ]
        )
        for arm in range(arms)
    ]
    places = [[*range(count), count + arm, count + arms + arm] for arm in range(arms)]
    at = prior.copy()
    for _ in range(25):
        gradient, curvature = -strength * (at - prior), np.diag(strength)
        for arm, (own, place) in enumerate(zip(columns, places, strict=True)):
            guess = expit(own @ at[place])
            gradient[place] += own.T @ (heavy[:, arm] * (y[:, arm] - guess))
            spread = heavy[:, arm] * guess * (1 - guess)
            curvature[np.ix_(place, place)] += (own * spread[:, None]).T @ own
        move = np.linalg.solve(curvature, gradient)
        at = at + move
        if np.abs(move).max() < 1e-9:
            break
    slope = np.maximum(at[0] + at[count : count + arms], 0.0)
    spread, band, band_spread = max(float(at[1]), 0.0), float(at[2]), float(at[3])
    offset = at[count + arms :] - slope * centers[0]
    offset -= spread * centers[1] + band * centers[2] + band_spread * centers[3]
    return Calibration(slope, spread, band, band_spread, offset)


def _split(z: Floats) -> tuple[Floats, Floats]:
    mean = z.mean(axis=1, keepdims=True)
    return mean, z - mean


def _limited_logits(p: Floats) -> Floats:
    return logits(p, LEAST_P)


def _expit(z: Floats) -> Floats:
    """Compute 1 / (1 + exp(-z)) without overflow, and without scipy: a decision needs it."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -z)))


COMPONENTS = 50
TREES = 100
LEAST_IN_LEAF = 15
TREE_ROWS = 12_000
"""Most questions of a tree; each draws its own of more. Time and file then hardly grow with them.
"""
FEATURE_SHARE = 0.4
"""Share of the columns that a split chooses from."""
LEAST_ROWS = 100
"""Number of questions below which there is no joint model."""
STRETCH = 2.0
"""Factor of the deviations among the targets: a split then separates arms as well as questions."""
_ALPHA = 12.0
_STEPS = 30


@dataclass(frozen=True, slots=True)
class QuestionColumns:
    """What is known of questions without their answers."""

    features: Floats  # Light features, (questions, features)
    words: Any  # Tf-idf, sparse (questions, buckets)
    shares: tuple[Floats, ...]
    """Probability of each band, (questions, bands), once for each way to divide questions into
    bands: by subject, by the field of the words. Empty without bands."""

    def take(self, rows: Flags | Whole) -> QuestionColumns:
        """Return the columns of some questions."""
        shares = tuple(each[rows] for each in self.shares)
        return QuestionColumns(self.features[rows], self.words[rows], shares)


@dataclass(frozen=True, slots=True)
class Ridge:
    """Difficulty and deviations, linear in scaled features, bands and words."""

    scale: Scale
    start: Floats  # Value without any column, (arms + 1,)
    weights: Floats  # (features + bands + buckets, arms + 1)

    def predict(self, columns: QuestionColumns) -> Floats:
        """Predict the mean over the arms and each arm's deviation, (questions, arms + 1)."""
        return np.asarray(_stack(columns, self.scale) @ self.weights) + self.start


@dataclass(frozen=True, slots=True)
class JointFit:
    """The joint model of all arms."""

    rates: tuple[Floats, ...]
    """Shrunken rate of each band and arm, (bands, arms), for each way to divide."""
    overall: Floats  # Smoothed rate of each arm, (arms,)
    directions: Floats  # Leading components of the words, (buckets, components)
    ridge: Ridge  # The linear part
    forests: tuple[Any, ...]  # One for each fold, which it leaves out
    calibration: Calibration  # Calibration of the arms' logits
    left_out: Floats  # Calibrated p of the questions of the fit, by forests that left them out

    def predict(self, columns: QuestionColumns) -> Floats:
        """Predict p of a right answer, (questions, arms)."""
        expected = _expect(columns.shares, self.rates, self.overall)
        known = _build_dense(columns, self.directions, expected, self.ridge.predict(columns))
        raw = sum(forest.predict(known) for forest in self.forests) / len(self.forests)
        return self.calibration.apply(_to_probabilities(raw), expected[0])


def fit_joint(
    correct: Flags | Floats,
    columns: QuestionColumns,
    folds: Whole,
    *,
    weights: Floats | None = None,
    seed: int = 0,
    trees: int = TREES,
) -> JointFit | None:
    """Fit the joint model; None if there are too few questions, or no words.

    ``weights`` say how much each label counts, (questions, arms); 0 for an unknown one.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.ensemble import ExtraTreesRegressor

    folds = np.unique(folds, return_inverse=True)[1]
    count = int(folds.max()) + 1 if len(folds) else 0
    if len(folds) < LEAST_ROWS or count < 2 or not columns.words.nnz:
        return None
    y = np.asarray(correct, dtype=np.float64)
    if y.ndim == 1:
        y = y[:, None]
    heavy = np.ones_like(y) if weights is None else np.asarray(weights, dtype=np.float64)
    rank = max(1, min(COMPONENTS, len(y) - 1, columns.words.shape[1] - 1))
    svd = TruncatedSVD(rank, random_state=seed).fit(columns.words)
    directions = svd.components_.T
    rates, overall = _fit_rates(y, columns.shares, heavy)
    expected = _expect(columns.shares, rates, overall)
    linear = np.empty((len(y), y.shape[1] + 1))
    for fold in range(count):
        held, others = folds == fold, folds != fold
        part = columns.take(others)
        left_out = columns.take(held)
        near, mean = _fit_rates(y[others], part.shares, heavy[others])
        expected[:, held] = _expect(left_out.shares, near, mean)
        known = _fill(y[others], heavy[others], _expect(part.shares, near, mean)[0])
        inside = _fit_ridge(part, _split_targets(known), heavy[others].mean(axis=1))
        linear[held] = inside.predict(left_out)
    filled = _fill(y, heavy, expected[0])
    row_weights = heavy.mean(axis=1)
    ridge = _fit_ridge(columns, _split_targets(filled), row_weights)
    dense = _build_dense(columns, directions, expected, linear)
    target = _split_targets(filled) * np.append(1.0, np.full(y.shape[1], STRETCH))
    raw = np.empty_like(target)
    forests = []
    for fold in range(count):
        held, others = folds == fold, folds != fold
        is_large = int(others.sum()) > TREE_ROWS
        forest = ExtraTreesRegressor(
            -(-trees // count),
            min_samples_leaf=LEAST_IN_LEAF,
            max_features=FEATURE_SHARE,
            bootstrap=is_large,
            max_samples=TREE_ROWS if is_large else None,
            random_state=seed + fold,
            n_jobs=-1,
        ).fit(dense[others], target[others], sample_weight=row_weights[others])
        forest.set_params(n_jobs=1)  # several threads would sum the trees in varying order
        raw[held] = forest.predict(dense[held])
        forests.append(forest)
    p = _to_probabilities(raw)
    calibration = fit_calibration(p, expected[0], y, heavy)
    return JointFit(
        rates,
        overall,
        directions,
        ridge,
        tuple(forests),
        calibration,
        calibration.apply(p, expected[0]),
    )


def _fit_ridge(columns: QuestionColumns, target: Floats, row_weights: Floats) -> Ridge:
    from scipy import sparse

    scale = fit_scale(columns.features, np.ones(len(target), dtype=bool))
    stacked = _stack(columns, scale)
    start = np.average(target, axis=0, weights=row_weights)
    weighted = (sparse.diags(row_weights) @ stacked).T.tocsr()
    residual = weighted @ (target - start)
    found = np.zeros_like(residual)
    direction = residual.copy()
    size = (residual**2).sum(axis=0)
    first = np.maximum(size, 1e-300)
    for _ in range(_STEPS):
        image = weighted @ (stacked @ direction) + _ALPHA * direction
        curvature = (direction * image).sum(axis=0)
        step = np.divide(size, curvature, out=np.zeros_like(size), where=curvature > 0)
        found += step * direction
        residual -= step * image
        new = (residual**2).sum(axis=0)
        if (new <= 1e-8 * first).all():
            break
        ratio = np.divide(new, size, out=np.zeros_like(new), where=size > 0)
        direction = residual + ratio * direction
        size = new
    return Ridge(scale, start, found)


def _to_probabilities(raw: Floats) -> Floats:
    """Convert a difficulty and stretched deviations (..., arms + 1) to probabilities by arm."""
    return np.asarray(np.clip(raw[..., :1] + raw[..., 1:] / STRETCH, 0.0, 1.0))


def _stack(columns: QuestionColumns, scale: Scale) -> Any:
    from scipy import sparse

    light = sparse.csr_matrix(scale.apply(columns.features))
    bands = [sparse.csr_matrix(each) for each in columns.shares]
    return sparse.hstack([light, *bands, columns.words]).tocsr()


def _split_targets(y: Floats) -> Floats:
    mean = y.mean(axis=1, keepdims=True)
    return np.column_stack([mean, y - mean])


def _fill(y: Floats, heavy: Floats, expected: Floats) -> Floats:
    """Draw labels that count less than 1 towards what the bands let expect."""
    sure = np.clip(heavy, 0.0, 1.0)
    return sure * y + (1 - sure) * expected


def _fit_rates(
    y: Floats, shares: Sequence[Floats], heavy: Floats
) -> tuple[tuple[Floats, ...], Floats]:
    overall = np.asarray(compute_smoothed_rate(y, heavy))
    return tuple(compute_soft_rates(y, each, heavy)[0] for each in shares), overall


def _expect(shares: Sequence[Floats], rates: Sequence[Floats], overall: Floats) -> Floats:
    """Compute the expected rates, (ways, questions, arms); the overall ones without bands."""
    return np.stack([expect_rates(*each, overall) for each in zip(shares, rates, strict=True)])


def _build_dense(
    columns: QuestionColumns, directions: Floats, expected: Floats, linear: Floats
) -> Floats:
    rates = [part for ease in logits(expected) for part in (ease, ease[:, 1:] - ease[:, :1])]
    return np.column_stack(
        [
            columns.features,
            columns.words @ directions,
            *rates,
            linear,
        ]
    ).astype(np.float32)


class JointPredictor:
    """Predicts with the joint model of a fitted file, one question at a time."""

    def __init__(self, part: JointPart) -> None:
        self.arms = part.arms
        self._part, self._rank, width = part, part.components, len(part.arms) + 1
        self._words = part.words.unpack().reshape(BUCKETS, -1)
        self._start, self._features = np.asarray(part.start), np.asarray(part.features)
        self._bands = {name: at for at, name in enumerate(part.bands)}
        self._band_rows = np.asarray(
            [[*each] for each in map(chain, part.rates, part.band_weights)]
        ).reshape(-1, 2 * width - 1)
        column, child = part.column.unpack(), part.child.unpack().astype(np.int64)
        node = np.arange(len(column))
        self._inner = column != LEAF
        self._roots, self._threshold = np.asarray(part.roots), part.threshold.unpack()
        self._column = np.where(self._inner, column, 0)
        # A leaf leads to itself, so that all trees are walked together until the deepest leaf.
        self._left = np.where(self._inner, node + 1, node)
        self._right = np.where(self._inner, child, node)
        self._leaf = child - len(column)
        self._leaves = part.values.unpack().astype(np.int64).reshape(-1, width)
        self._calibration = Calibration(
            np.asarray(part.slope),
            part.spread,
            part.band_mean,
            part.band_spread,
            np.asarray(part.offset),
        )

    def predict(
        self, features: Sequence[float], words: Mapping[int, float], bands: Mapping[str, float]
    ) -> dict[str, float]:
        """Predict p of a right answer by arm."""
        part, count = self._part, len(self.arms)
        columns = self._build_columns(features, words, bands)
        total = self._walk(columns) / (len(part.roots) * VALUE_STEPS)
        forest = logits(total[:1] + total[1:] / part.stretch, LEAST_P)
        first = len(features) + self._rank
        most = math.log((1 - LEAST_P) / LEAST_P)
        held = np.clip(columns[first : first + count].astype(np.float64), -most, most)
        p = self._calibration.combine(forest[None], held[None])
        return dict(zip(self.arms, p[0].tolist(), strict=True))

    def _build_columns(
        self, features: Sequence[float], words: Mapping[int, float], bands: Mapping[str, float]
    ) -> Any:
        """Build the columns of the forest, in the single precision that the trees were grown on."""
        part, count = self._part, len(self.arms)
        # In steps, and so exact: the sum does not depend on the order of the words.
        amounts = np.rint(_ONE * np.fromiter(words.values(), np.float64)).astype(np.int64)
        steps = self._words[np.fromiter(words, np.int64)].astype(np.int64) - WORD_ZERO
        sums = (amounts @ steps) / _ONE
        # Row after row, as a sum in Python would be.
        weighted = np.asarray(features)[:, None] * self._features
        start = self._start + part.word_step * sums[self._rank :]
        linear = np.concatenate([start[None], weighted]).sum(axis=0)
        shares = {at: bands[band] for band, at in self._bands.items() if bands.get(band)}
        rows = self._band_rows[np.fromiter(shares, np.int64)]
        known = (np.fromiter(shares.values(), np.float64)[:, None] * rows).sum(axis=0)
        ease = logits(known[:count] if self._bands else np.asarray(part.overall))
        components = part.component_step * sums[: self._rank]
        linear = linear + known[count:]
        parts = [features, components, ease, ease[1:] - ease[0], linear]
        return np.concatenate(parts).astype(np.float32)

    def _walk(self, columns: Any) -> Whole:
        node = self._roots
        while self._inner[node].any():
            near = columns[self._column[node]] <= self._threshold[node]
            node = np.where(near, self._left[node], self._right[node])
        return np.asarray(self._leaves[self._leaf[node]].sum(axis=0))
