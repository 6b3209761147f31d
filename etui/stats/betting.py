"""Test by betting, at any time, whether the mean of bounded values is above 0.

A gambler with a capital of 1 stakes a share of it on each value before it is known. If no value
has a positive mean given those before it, the capital is expected not to grow, and the probability
that it ever reaches 1 / level is at most the level (Ville, 1939; Waudby-Smith and Ramdas, JRSS B
86, 2024). So one may look after each value, without a number of values fixed before.
"""

from __future__ import annotations

from collections.abc import Iterable

STAKES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares that are staked, each with a fifth of the capital: no one of them has to be the best."""


def compute_capital(values: Iterable[float]) -> float:
    """Compute the greatest capital that betting on positive values has reached.

    Args:
        values: Values in [-1, 1], in their order.

    Returns:
        The capital, at least 1; 20 or more rejects a mean of at most 0 at the level of 5 %.

    Raises:
        ValueError: A value is outside of [-1, 1].
    """
    capitals, most = [1.0] * len(STAKES), 1.0
    for value in values:
        if not -1.0 <= value <= 1.0:
            raise ValueError(f"{value} is not in [-1, 1]")
        # A bound keeps thousands of values from overflowing; far above any level, it is no loss.
        capitals = [
            min(capital * (1 + stake * value), 1e300)
            for capital, stake in zip(capitals, STAKES, strict=True)
        ]
        most = max(most, sum(capital / len(capitals) for capital in capitals))
    return most
