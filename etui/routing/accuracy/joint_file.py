"""The joint model of all arms in the fitted file: a ridge regression and a forest, packed.

Long arrays are base64 of little-endian numbers, so that the file stays one JSON document, which
loads in a few milliseconds without numpy.
"""

from __future__ import annotations

import operator
import sys
from array import array
from base64 import b64decode, b64encode
from binascii import Error
from itertools import compress, repeat
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from etui.routing.accuracy.features import FEATURE_NAMES
from etui.routing.signals.question_words import BUCKETS

LEAF = 255
"""Number in place of a column: the node is a leaf."""
WORD_ZERO = 2**15
"""Number in the file for a weight of 0 of a word."""
VALUE_STEPS = 8192.0
"""Steps per unit of the values in the leaves."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Row = tuple[Number, ...]


class Packed(BaseModel):
    """An array of numbers of one type, in base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["B", "h", "H", "I", "f"]
    """Type code of :mod:`array`: ``B`` a byte, ``h`` and ``H`` 16 bits with and without sign, ``I``
    32 bits without, ``f`` single precision."""
    data: str  # The bytes, little-endian

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        self.unpack()
        return self

    def count(self) -> int:
        """Count the numbers without unpacking them."""
        padding = len(self.data) - len(self.data.rstrip("="))
        return (len(self.data) // 4 * 3 - padding) // array(self.type).itemsize

    def unpack(self) -> array[int] | array[float]:
        """Return the numbers.

        Raises:
            ValueError: The text is not base64 of such numbers.
        """
        values: array[int] | array[float] = array(self.type)
        try:
            values.frombytes(b64decode(self.data, validate=True))
        except (Error, ValueError):
            raise ValueError("a packed array is damaged") from None
        if sys.byteorder == "big":
            values.byteswap()
        return values


def pack(kind: Literal["B", "h", "H", "I", "f"], raw: bytes) -> Packed:
    """Pack little-endian bytes."""
    return Packed(type=kind, data=b64encode(raw).decode("ascii"))


class JointPart(BaseModel):
    """The joint model of all arms.

    A forest predicts the mean over the arms and each arm's deviation, times ``stretch``, from
    columns in this order: the features, the components of the words, the logit of the expected rate
    of each arm, the differences to that of the first arm, and the predictions of the ridge
    regression.

    Attributes:
        start, features, band_weights: The ridge regression: its constant, and its weights of
            raw features and of bands, for the mean and each arm.
        component_step, word_step: The sizes of these steps.
        slope, spread: Calibration of the logits: weight of their mean for each arm, and of each
            arm's difference from the mean.
        band_mean, band_spread: The same for the logits of the expected rates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arms: tuple[str, ...] = Field(min_length=1)
    bands: tuple[str, ...]
    rates: tuple[Row, ...]  # Shrunken rate of each band and arm
    overall: Row  # Smoothed rate of each arm
    start: Row
    features: tuple[Row, ...]
    band_weights: tuple[Row, ...]
    words: Packed
    """Bucket after bucket, the weights of the components and those of the ridge regression, in
    steps above ``WORD_ZERO``."""
    component_step: Number
    word_step: Number
    roots: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Number of the first node of each tree."""
    column: Packed  # The column that each node compares, `LEAF` for a leaf
    threshold: Packed  # A question with at most this value goes on to the next node
    child: Packed
    """The node of the other questions; for a leaf, the number of nodes plus its row in ``values``.
    """
    values: Packed  # The predictions of the leaves, in steps of 1 / `VALUE_STEPS`
    stretch: Number = Field(gt=0)  # Factor of the deviations
    slope: Row
    spread: Number
    band_mean: Number
    band_spread: Number
    offset: Row  # Constant of each arm
    mixed: Number = Field(0.0, ge=0, le=1)
    """Share of the arms' own regressions in the differences between the logits."""
    mixed_offset: Row = ()  # Constant of each arm with that share; empty without

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        arms, width = len(self.arms), len(self.arms) + 1
        lengths = [
            (self.rates, len(self.bands)),
            (self.overall, arms),
            (self.start, width),
            (self.features, len(FEATURE_NAMES)),
            (self.band_weights, len(self.bands)),
            (self.slope, arms),
            (self.offset, arms),
            (self.mixed_offset, arms if self.mixed else 0),
        ]
        rows = [*self.features, *self.band_weights]
        if any(len(values) != count for values, count in lengths) or any(
            len(row) != width for row in rows
        ):
            raise ValueError("its joint model does not fit its arms and bands")
        if any(len(row) != arms for row in self.rates):
            raise ValueError("its joint model does not fit its arms and bands")
        if self.words.count() % BUCKETS or self.components < 1:
            raise ValueError("its joint model does not fit the words of this etui")
        self._check_forest(len(FEATURE_NAMES) + self.components + 3 * arms)
        return self

    @property
    def components(self) -> int:
        """Number of components of the words."""
        return self.words.count() // BUCKETS - len(self.arms) - 1

    def _check_forest(self, columns: int) -> None:
        """Check that every walk through a tree ends in a leaf: children come after their node."""
        column, child = self.column.unpack(), self.child.unpack()
        count, width = len(column), len(self.arms) + 1
        values = self.values.count()
        inner = list(map(operator.ne, column, repeat(LEAF)))
        valid = (
            count > 0
            and len(child) == self.threshold.count() == count
            and values % width == 0
            and not inner[-1]
            and max(self.roots) < count
            and max(compress(column, inner), default=0) < columns
            and all(map(operator.lt, range(count), child))
            and max(compress(child, inner), default=0) < count
            and max(child) < count + values // width
            and min(compress(child, map(operator.not_, inner))) >= count
        )
        if not valid:
            raise ValueError("the trees of its joint model are damaged")
