"""Looks of a run that stops at a precision: after how many questions its intervals are computed.

The confidence sequence holds at every look, so the looks may follow the data. Each look ends a
block of questions, and a block computes the worked examples of its subjects again, so there are
few: a first block in which every subject occurs, a second that ends short of the number that the
first one predicts, by the error of that prediction, and then what is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from etui.stats.confidence_sequence import LEAST_QUESTIONS, fixed_sample

_EVEN = 0.25
"""Variance of the answers of a model that is right on every second question."""

_FIRST_SHARE = 0.125
_LEAST_ERROR = 0.08
"""Share of the predicted questions that a block leaves out even if the variance is well known."""

_SPARE = 1.02
_WORTH = 0.1
"""A block that would ask less than this share more is the last one instead."""

_LEAST_BLOCK = 8


def choose_first_look(sizes: Mapping[str, int], half_width: float) -> int:
    """Choose the number of questions of the first block.

    It is an eighth of what an accuracy of 50 % needs, or as many as it takes to ask one question of
    every subject, if that is not more than half of it.

    Args:
        sizes: Subject -> its number of questions in the population.
    """
    total = sum(sizes.values())
    expected = fixed_sample(_EVEN, total, half_width)
    every_subject = math.ceil(total / min(sizes.values()))
    first = math.ceil(_FIRST_SHARE * expected)
    if every_subject <= expected / 2:
        first = max(first, every_subject)
    return min(total, max(first, LEAST_QUESTIONS))


def choose_next_look(asked: int, needed: int, error: float, total: int, step: int | None) -> int:
    """Choose the number of questions after which to look next.

    Args:
        asked: Questions asked so far, fewer than ``total``.
        needed: Predicted number of questions at which the run stops.
        error: Relative standard error of that number.
        total: Most questions that are asked.
        step: Fixed number of questions between two looks; None to follow the prediction.
    """
    if step is not None:
        return min(total, asked + step)
    short = math.ceil(needed * (1 - max(error, _LEAST_ERROR)))
    last = asked + math.ceil(_SPARE * max(0, needed - asked))
    look = short if short >= (1 + _WORTH) * asked else last
    return min(total, max(look, asked + _LEAST_BLOCK))
