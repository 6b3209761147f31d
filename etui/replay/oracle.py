"""The cheapest arm that is right, for each question: what no router can know, and none can beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etui.replay.plane import Curve
    from etui.stats.arrays import Flags, Floats, Whole


def cheapest_correct(correct: Flags, cost: Floats) -> Whole:
    """The cheapest right arm of each question, the cheapest of all where none is right."""
    import numpy as np

    order = np.argsort(cost, axis=1, kind="stable")
    sorted_right = np.take_along_axis(correct, order, axis=1)
    first = np.where(sorted_right.any(axis=1), sorted_right.argmax(axis=1), 0)
    return np.asarray(np.take_along_axis(order, first[:, None], axis=1)[:, 0])


def oracle_curve(correct: Flags, cost: Floats) -> Curve:
    """The oracle at every price of a right answer: argmax correct - price * cost.

    As a router whose p is the answer itself; its area is the most that any APGR can be.
    """
    import numpy as np

    from etui.replay.plane import curve_of

    mean = cost.mean(axis=0)
    return curve_of(correct.astype(np.float64), mean, correct, cost)
