"""Distributions and non-negative least squares, without scipy: it has half the weight of etui.

Student's t is computed from the regularised incomplete beta function of mpmath.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_MOST_STEPS = 1000
_HALVINGS = 200


def t_tail(t: float, freedom: float) -> float:
    """Compute the probability that Student's t is below ``-abs(t)``.

    Source: Abramowitz and Stegun, 26.7.1, as an incomplete beta function.
    """
    from mpmath import betainc

    if math.isinf(t):
        return 0.0
    x = freedom / (freedom + t * t)
    return float(betainc(freedom / 2, 0.5, 0, x, regularized=True)) / 2


@lru_cache(maxsize=1024)
def t_quantile(tail: float, freedom: float) -> float:
    """Compute the value that Student's t exceeds with a probability, in (0, 0.5].

    The degrees of freedom are at least 1, and not necessarily whole; ValueError otherwise.
    """
    if not 0 < tail <= 0.5 or freedom < 1:
        raise ValueError("a quantile needs a tail in (0, 0.5] and a degree of freedom")
    if tail == 0.5:
        return 0.0
    high = 1.0
    while t_tail(high, freedom) > tail:
        high *= 2
    # In logarithms, a tail is nearly linear: few steps, and no loss far out.
    return find_root(
        lambda t: math.log(max(t_tail(t, freedom), 5e-324)) - math.log(tail), 0.0, high
    )


def t_p_value(ratio: float, freedom: float) -> float:
    """Compute the two-sided p-value of an estimate divided by its standard error."""
    return 2 * t_tail(ratio, freedom)


def normal_tail(height: float) -> float:
    """Compute the probability that a standard normal exceeds a height."""
    return math.erfc(height / math.sqrt(2)) / 2


def log_normal_tail(height: float) -> float:
    """Compute the logarithm of the probability that a standard normal exceeds a height."""
    from mpmath import log, ncdf

    return float(log(ncdf(-height)))


def binomial_two_sided(successes: int, trials: int) -> float:
    """Compute the exact two-sided p-value of a number of successes with probability one half."""
    successes, trials = int(successes), int(trials)  # those of NumPy would overflow below
    few = min(successes, trials - successes)
    if 2 * few == trials:
        return 1.0
    term = below = 1
    for count in range(1, few + 1):  # each coefficient from the last one, still exact
        term = term * (trials - count + 1) // count
        below += term
    return min(1.0, float(2 * below / 2**trials))


def find_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Find where a monotonic function is 0 between two ends of different sign, to the last digit.

    It narrows the range by the secant and by halves in turn. ValueError for ends of one sign.
    """
    at_low, at_high = function(low), function(high)
    if at_low * at_high > 0:
        raise ValueError("a root needs ends of different sign")
    for step in range(_HALVINGS):
        middle = (low + high) / 2
        if step % 2 == 0 and at_low != at_high:
            middle = high - at_high * (high - low) / (at_high - at_low)
        if not low < middle < high:
            middle = (low + high) / 2
            if not low < middle < high:
                break
        value = function(middle)
        if value == 0:
            return middle
        if value * at_low > 0:
            low, at_low = middle, value
        else:
            high, at_high = middle, value
    return (low + high) / 2


def fit_non_negative(rows: ArrayLike, values: ArrayLike) -> Floats:
    """Fit values to columns by least squares with no coefficient below 0.

    Source: the active sets of Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.
    """
    import numpy as np

    columns, values = np.asarray(rows, float), np.asarray(values, float)
    products, target = columns.T @ columns, columns.T @ values
    least = 10 * max(columns.shape) * np.finfo(float).eps * np.linalg.norm(columns, 1)
    found = np.zeros(columns.shape[1])
    free = np.zeros(columns.shape[1], bool)
    gradient = target
    for _ in range(_MOST_STEPS):
        if free.all() or not (gradient[~free] > least).any():
            break
        free[np.argmax(np.where(free, -np.inf, gradient))] = True
        solved = _solve_free(products, target, free)
        while free.any() and solved[free].min() < 0:
            below = free & (solved < 0)
            share = float((found[below] / (found[below] - solved[below])).min())
            found = found + share * (solved - found)
            free &= found > least
            found[~free] = 0.0
            solved = _solve_free(products, target, free)
        found = solved
        gradient = target - products @ found
    return found


def _solve_free(products: Floats, target: Floats, free: NDArray[np.bool_]) -> Floats:
    """Solve the normal equations of the free columns; the others are 0."""
    import numpy as np

    solved = np.zeros(len(target))
    chosen = np.flatnonzero(free)
    part: Any
    part, *_ = np.linalg.lstsq(products[np.ix_(chosen, chosen)], target[chosen], rcond=None)
    solved[chosen] = part
    return solved
