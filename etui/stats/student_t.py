"""Quantiles of Student's t distribution."""

from __future__ import annotations


def t_quantile(tail: float, degrees: int) -> float:
    """Compute the value that Student's t exceeds with a given probability.

    Args:
        tail: Probability above the value, in (0, 0.5].
        degrees: Degrees of freedom, at least 1.

    Raises:
        ValueError: The probability or the degrees of freedom are out of range.
    """
    from scipy.special import stdtrit

    if not 0 < tail <= 0.5 or degrees < 1:
        raise ValueError("a quantile needs a tail in (0, 0.5] and a degree of freedom")
    # From the lower tail: 1 - tail would be rounded where the tail is small.
    return -float(stdtrit(degrees, tail))
