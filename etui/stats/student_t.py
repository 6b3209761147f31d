"""Quantiles and p-values of Student's t distribution."""

from __future__ import annotations


def t_quantile(tail: float, freedom: float) -> float:
    """Compute the value that Student's t exceeds with a given probability.

    Args:
        tail: Probability above the value, in (0, 0.5].
        freedom: Degrees of freedom, at least 1; not necessarily whole.

    Raises:
        ValueError: The probability or the degrees of freedom are out of range.
    """
    from scipy.special import stdtrit

    if not 0 < tail <= 0.5 or freedom < 1:
        raise ValueError("a quantile needs a tail in (0, 0.5] and a degree of freedom")
    # From the lower tail: 1 - tail would be rounded where the tail is small.
    return -float(stdtrit(freedom, tail))


def t_p_value(ratio: float, freedom: float) -> float:
    """Compute the two-sided p-value of an estimate divided by its standard error."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(ratio)))
