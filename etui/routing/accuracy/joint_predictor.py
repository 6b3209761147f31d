"""Predict the accuracy of all arms by the joint model of a fitted file, in plain Python.

A prediction takes a fraction of a millisecond: only the words of the question are touched, and each
tree is one walk from its root to a leaf.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from etui.routing.accuracy.joint_calibration import LEAST_P, MIXED_SPREAD
from etui.routing.accuracy.joint_file import LEAF, VALUE_STEPS, WORD_ZERO

if TYPE_CHECKING:
    from etui.routing.accuracy.joint_file import JointPart

_MOST = math.log((1 - LEAST_P) / LEAST_P)
"""Largest logit that the calibration takes."""
_ONE = 65_535
"""Integer for a tf-idf of 1."""


class JointPredictor:
    """Predicts with the joint model of one fitted file."""

    def __init__(self, part: JointPart) -> None:
        self._part = part
        self._rank = part.components
        self._words = part.words.unpack().tobytes()
        self._lanes: dict[int, int] = {}
        self._column = part.column.unpack().tobytes()
        self._threshold = part.threshold.unpack().tolist()
        self._child = cast("array[int]", part.child.unpack()).tolist()
        self._values = cast("array[int]", part.values.unpack())
        # A band's rates and ridge weights, in one row.
        self._bands = {
            name: (*rates, *weights)
            for name, rates, weights in zip(part.bands, part.rates, part.band_weights, strict=True)
        }

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms."""
        return self._part.arms

    @property
    def is_mixed(self) -> bool:
        """Whether the arms' own regressions have a share in the predictions."""
        return self._part.mixed > 0

    def predict(
        self, features: Sequence[float], words: Mapping[int, float], bands: Mapping[str, float]
    ) -> dict[str, float]:
        """Predict p of a right answer by arm.

        Args:
            words: tf-idf by bucket.
        """
        part = self._part
        columns = self._build_columns(features, words, bands)
        total = self._walk(columns)
        scale = 1 / (len(part.roots) * VALUE_STEPS)
        stretched = scale / part.stretch
        ease = total[0] * scale
        forest = [_logit(ease + one * stretched, LEAST_P) for one in total[1:]]
        first = len(features) + self._rank
        held = [min(max(one, -_MOST), _MOST) for one in columns[first : first + len(forest)]]
        mean, band_mean = sum(forest) / len(forest), sum(held) / len(held)
        shared = part.band_mean * band_mean - part.spread * mean - part.band_spread * band_mean
        found = {}
        for arm, own, band, slope, offset in zip(
            part.arms, forest, held, part.slope, part.offset, strict=True
        ):
            z = slope * mean + part.spread * own + part.band_spread * band + shared + offset
            found[arm] = 1 / (1 + math.exp(-z)) if z > -700 else 0.0
        return found

    def mix(self, joint: Mapping[str, float], own: Mapping[str, float]) -> dict[str, float]:
        """Mix p of the joint model with p of the arms' own regressions, by arm.

        See :class:`etui.routing.accuracy.joint_calibration.RegressionMix`.
        """
        part = self._part
        logits = [_logit(joint[arm], LEAST_P) for arm in part.arms]
        others = [_logit(own[arm], LEAST_P) for arm in part.arms]
        keep, add = 1 - part.mixed, part.mixed * MIXED_SPREAD
        shared = part.mixed * sum(logits) / len(logits) - add * sum(others) / len(others)
        found = {}
        for arm, one, two, offset in zip(part.arms, logits, others, part.mixed_offset, strict=True):
            found[arm] = 1 / (1 + math.exp(-(shared + keep * one + add * two + offset)))
        return found

    def _build_columns(
        self, features: Sequence[float], words: Mapping[int, float], bands: Mapping[str, float]
    ) -> list[float]:
        part, rank, width = self._part, self._rank, len(self._part.arms) + 1
        sums = self._sum_words(words)
        components = [part.component_step * value for value in sums[:rank]]
        linear = [
            start + part.word_step * one for start, one in zip(part.start, sums[rank:], strict=True)
        ]
        for value, weights in zip(features, part.features, strict=True):
            if value:
                linear = [one + value * two for one, two in zip(linear, weights, strict=True)]
        arms = len(part.arms)
        sums = [0.0] * (arms + width)  # rates, then the ridge regression's part
        for band, share in bands.items():
            known = self._bands.get(band)
            if known is not None:
                sums = [one + share * two for one, two in zip(sums, known, strict=True)]
        rates = sums[:arms] if self._bands else part.overall
        linear = [one + two for one, two in zip(linear, sums[arms:], strict=True)]
        ease = [_logit(rate) for rate in rates]
        # Single precision, as the trees were grown on: a value stays on its side of a threshold.
        return array(
            "f",
            (
                *features,
                *components,
                *ease,
                *(value - ease[0] for value in ease[1:]),
                *linear,
            ),
        ).tolist()

    def _sum_words(self, words: Mapping[int, float]) -> list[float]:
        """Weigh the words, in steps: one multiplication of integers for all columns of a word.

        An integer has a lane of 64 bits for each column, wide enough for any sum of 16-bit weights
        times 16-bit amounts.
        """
        count = self._rank + len(self._part.arms) + 1
        total = amounts = 0
        for bucket, value in words.items():
            lanes = self._lanes.get(bucket)
            if lanes is None:
                raw = self._words[2 * count * bucket : 2 * count * (bucket + 1)]
                spread = bytearray(8 * count)
                spread[::8], spread[1::8] = raw[::2], raw[1::2]
                lanes = self._lanes[bucket] = int.from_bytes(spread, "little")
            amount = round(_ONE * value)
            total += amount * lanes
            amounts += amount
        found = struct.unpack(f"<{count}Q", total.to_bytes(8 * count, "little"))
        return [(value - WORD_ZERO * amounts) / _ONE for value in found]

    def _walk(self, columns: list[float]) -> list[int]:
        """Sum the leaves that a question reaches in all trees."""
        column, threshold, child = self._column, self._threshold, self._child
        values, width = self._values, len(self._part.arms) + 1
        nodes = len(column)
        leaves = []
        for root in self._part.roots:
            node = root
            at = column[node]
            while at != LEAF:
                node = node + 1 if columns[at] <= threshold[node] else child[node]
                at = column[node]
            leaf = (child[node] - nodes) * width
            leaves.append(values[leaf : leaf + width])
        return [sum(each) for each in zip(*leaves, strict=True)]


def _logit(p: float, least: float = 1e-4) -> float:
    inside = min(max(p, least), 1 - least)
    return math.log(inside / (1 - inside))
