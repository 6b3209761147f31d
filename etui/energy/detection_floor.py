"""The smallest difference that a meter can show between two measurements of the same kind."""

from __future__ import annotations

import math
from statistics import NormalDist

from etui.energy.types import Kind

_POWER = 0.8
_TAIL = 0.975
_SENSORS = frozenset({Kind.COUNTER.value, Kind.INTEGRATED.value})
"""Kinds with an error of their own at each measurement. The error of the others is that of a
calibration, which two measurements share, so their half width says nothing about differences."""


def compute_sensor_floor(uncertainty: float | None, kind: str | None) -> float | None:
    """Compute the smallest difference in joules that the sensor alone can show.

    Both measurements have the half width ``u`` at 95 %, hence a standard error of ``u / z(0.975)``.
    A two-sided test at 5 % finds a true difference of
    ``(z(0.975) + z(0.8)) sqrt(2) u / z(0.975)``, about twice ``u``, with a probability of 80 %
    (Lachin, Controlled Clinical Trials 2, 1981).

    Args:
        uncertainty: Half width of the joules at 95 %; None if unknown.
        kind: How the joules were determined (:class:`etui.energy.types.Kind`).

    Returns:
        Joules; None if the half width is unknown, or does not come from a sensor.
    """
    if uncertainty is None or kind not in _SENSORS:
        return None
    normal = NormalDist()
    quantile = normal.inv_cdf(_TAIL)
    return (quantile + normal.inv_cdf(_POWER)) * math.sqrt(2) * uncertainty / quantile


def explain_no_floor(uncertainty: float | None, kind: str | None) -> str:
    """Explain why :func:`compute_sensor_floor` returns None."""
    if kind is None:
        return "the energy is unmeasured"
    if uncertainty is None:
        return "the half width of the joules is unknown"
    return f"joules of kind {kind} have an error that both measurements share"
