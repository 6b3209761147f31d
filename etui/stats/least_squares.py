"""Least squares without negative coefficients."""

from __future__ import annotations

from collections.abc import Sequence


def fit_non_negative(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Fit values to columns by non-negative least squares.

    Source: Lawson and Hanson 1974, as ``scipy.optimize.nnls``.

    Returns:
        The coefficient of each column.
    """
    import numpy as np
    from scipy.optimize import nnls

    found, _ = nnls(np.asarray(rows, float), np.asarray(values, float))
    return [float(coefficient) for coefficient in found]
