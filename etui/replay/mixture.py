"""Compare choices of arms with random mixtures on the hull, at its corners and middles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal

from etui.replay.documents import McNemar, RouterChoice, Spread
from etui.stats.bootstrap import compute_interval, resample_means
from etui.stats.frontier import Point, hull, mixture_accuracies, mixture_costs
from etui.stats.tests import Interval, mcnemar

if TYPE_CHECKING:
    from etui.routing.accuracy.table import Graded
    from etui.stats.arrays import Flags, Floats


@dataclass(frozen=True, slots=True)
class HullPlace:
    """A cost at which a router is compared with the mixture of the hull."""

    kind: Literal["corner", "middle"]
    """``corner`` is the cost of an arm on the hull, ``middle`` the geometric mean of the costs of
    two neighbours on it."""
    arms: tuple[int, ...]  # Columns of the corner's arm, or of the two neighbours, cheaper first
    cost: float


def list_hull_places(costs: Sequence[float], accuracies: Sequence[float]) -> list[HullPlace]:
    """List the corners of the hull and the geometric middles between neighbours, cheapest first.

    The arithmetic middle would lie next to the expensive corner where costs differ by a factor.

    Args:
        costs: Mean cost of each arm.
    """
    points: dict[int, Point] = dict(enumerate(zip(costs, accuracies, strict=True)))
    corners = hull(points)
    places = [HullPlace("corner", (column,), points[column][0]) for column in corners[:1]]
    for left, right in pairwise(corners):
        middle = sqrt(points[left][0] * points[right][0])
        places.append(HullPlace("middle", (left, right), middle))
        places.append(HullPlace("corner", (right,), points[right][0]))
    return places


def against_mixture(
    choices: Sequence[tuple[Flags, Floats]], graded: Graded, cost: Floats, seed: int
) -> list[RouterChoice]:
    """Compare choices with the best random mixtures of the arms of equal cost and accuracy.

    Args:
        choices: For each router or policy, whether each question was right, and its cost.
    """
    import numpy as np

    arms = len(graded.arms)
    choice_columns = [part for right, spent in choices for part in (right, spent)]
    stacked = [cost, graded.correct, *choice_columns]
    columns = np.column_stack(stacked).astype(np.float64)
    replicates = resample_means(columns, seed)
    return [
        _compare_choice(
            columns, replicates, arms, 2 * arms + 2 * index, compare_with_arms(right, graded)
        )
        for index, (right, _) in enumerate(choices)
    ]


def _compare_choice(
    columns: Floats, replicates: Floats, arms: int, column: int, tests: dict[str, McNemar]
) -> RouterChoice:
    """Compare the choices with accuracy in ``column`` and cost in ``column + 1``."""
    import numpy as np

    def mixed(means: Any) -> Any:
        return mixture_accuracies(means[:, :arms], means[:, arms : 2 * arms], means[:, column + 1])

    def saved(means: Any) -> Any:
        equal = mixture_costs(means[:, :arms], means[:, arms : 2 * arms], means[:, column])
        return np.where(np.isfinite(equal), 1 - means[:, column + 1] / equal, np.inf)

    mean = columns.mean(axis=0)[None, :]
    accuracy, spent = float(mean[0, column]), float(mean[0, column + 1])
    reached = bool(np.isfinite(saved(mean)[0]))
    difference = compute_interval(
        columns, replicates, lambda means: means[:, column] - mixed(means)
    )
    return {
        "accuracy": accuracy,
        "cost": spent,
        "cost_per_correct": spent / accuracy if accuracy else None,
        "mixture_accuracy": float(mixed(mean)[0]),
        "difference": _build_spread(difference),
        "saved": _build_spread(compute_interval(columns, replicates, saved)) if reached else None,
        "mcnemar": tests,
    }


def _build_spread(interval: Interval) -> Spread:
    """Convert an interval to JSON values; all intervals of a replay use the same method."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def compare_with_arms(right: Flags, graded: Graded) -> dict[str, McNemar]:
    """Compare with each single arm: questions only one of them got right, and the p-value."""
    return {
        name: {
            "only_this": (gained := int((right & ~other).sum())),
            "only_arm": (lost := int((other & ~right).sum())),
            "p_value": mcnemar(gained, lost),
        }
        for name, other in zip(graded.arms, graded.correct.T, strict=True)
    }
