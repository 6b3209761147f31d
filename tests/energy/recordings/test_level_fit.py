"""Levels between marks, from power readings that follow a step late."""

from __future__ import annotations

import numpy as np
import pytest

from etui.energy._recordings.columns import PendingMarks
from etui.energy._recordings.fits import fit_levels, follow_step
from tests.support.power_curves import steps

TURN = steps([(2.0, 40.0), (0.25, 300.0), (1.75, 180.0), (3.0, 40.0)])
MARKS_S = [2.0, 2.25, 4.0]


def averages(times_s: np.ndarray, average_s: float) -> np.ndarray:
    half = average_s / 2
    return np.array([TURN.between(t - half, t + half) / average_s for t in times_s])


def test_levels_are_found_behind_a_running_average() -> None:
    times = np.arange(1.0, 4.4, 0.05)
    fit = fit_levels(MARKS_S, times, averages(times, 1.0), 1.0, 0.001)
    assert fit.watts == pytest.approx([40, 300, 180, 40], rel=0.02)
    joules, sigma = fit.joules(np.array([2.0, 2.25, 4.0]))
    assert joules == pytest.approx([0, 75, 75 + 315], rel=0.02)
    assert sigma[0] == 0
    assert (np.diff(sigma) > 0).all()


def test_a_phase_that_readings_cannot_tell_apart_is_stated_as_unknown() -> None:
    times = np.array([1.0, 1.5, 5.0, 5.5])
    fit = fit_levels([3.0, 3.01], times, np.array([40.0, 40.0, 90.0, 90.0]), 0.02, 0.02)
    assert fit.covariance[1, 1] ** 0.5 > 50


@pytest.mark.parametrize(("average_s", "refresh_s"), [(1.0, 0.1), (0.0, 0.1), (0.02, 0.05)])
def test_a_step_is_followed_from_none_to_all(average_s: float, refresh_s: float) -> None:
    after = np.linspace(-1, 1, 201)
    along = follow_step(after, average_s, refresh_s)
    assert along[0] == 0
    assert along[-1] == pytest.approx(1)
    assert along[100] == pytest.approx(0.5)
    assert (np.diff(along) > -1e-9).all()


def test_marks_wait_in_order_and_once() -> None:
    marks = PendingMarks()
    assert not marks
    for t_ns in (5_000_000_000, 1_000_000_000, 1_000_400_000, 1_200_000_000):
        marks.add(t_ns)
    assert marks.first_group(250_000_000) == [1_000_000_000, 1_200_000_000]
    assert marks.before(5_000_000_000) == [1_000_000_000, 1_200_000_000]
    assert marks.is_pending(1_000_000_000)
    marks.drop(2)
    assert not marks.is_pending(2_000_000_000)
    assert marks.first_ns == 5_000_000_000
