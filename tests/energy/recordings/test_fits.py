"""The energy at marks, from the edges of a counter around them."""

from __future__ import annotations

import math
import random
from typing import NamedTuple

import numpy as np
import pytest

from etui.energy._recordings.columns import Columns
from etui.energy._recordings.fits import fit_levels, fit_steps, follow_step
from etui.energy._recordings.power import PowerRecording
from tests.support.power_curves import WattCurve, steps

LEVELS = steps([(2.0, 40.0), (0.25, 300.0), (1.75, 180.0), (3.0, 40.0)])
LEVEL_MARKS_S = [2.0, 2.25, 4.0]
TURN = steps([(1.03, 40.0), (0.06, 300.0), (0.3, 180.0), (1.0, 40.0)])
MARKS_S = [1.03, 1.09, 1.39]


def averages(times_s: np.ndarray, average_s: float) -> np.ndarray:
    half = average_s / 2
    return np.array([LEVELS.between(t - half, t + half) / average_s for t in times_s])


def test_levels_are_found_behind_a_running_average():
    times = np.arange(1.0, 4.4, 0.05)
    fit = fit_levels(LEVEL_MARKS_S, times, averages(times, 1.0), 1.0, 0.001)
    assert fit.watts == pytest.approx([40, 300, 180, 40], rel=0.02)
    joules, sigma = fit.joules(np.array([2.0, 2.25, 4.0]))
    assert joules == pytest.approx([0, 75, 75 + 315], rel=0.02)
    assert sigma[0] == 0
    assert (np.diff(sigma) > 0).all()


def test_a_phase_that_readings_cannot_tell_apart_is_stated_as_unknown():
    times = np.array([1.0, 1.5, 5.0, 5.5])
    fit = fit_levels([3.0, 3.01], times, np.array([40.0, 40.0, 90.0, 90.0]), 0.02, 0.02)
    assert fit.covariance[1, 1] ** 0.5 > 50


@pytest.mark.parametrize(("average_s", "refresh_s"), [(1.0, 0.1), (0.0, 0.1), (0.02, 0.05)])
def test_a_step_is_followed_from_none_to_all(average_s, refresh_s):
    after = np.linspace(-1, 1, 201)
    along = follow_step(after, average_s, refresh_s)
    assert along[0] == 0
    assert along[-1] == pytest.approx(1)
    assert along[100] == pytest.approx(0.5)
    assert (np.diff(along) > -1e-9).all()


def test_marks_wait_in_order_and_once():
    record = PowerRecording(keep=9, gap_s=1.0)
    for t_ns in (5_000_000_000, 1_000_000_000, 1_000_400_000, 1_200_000_000):
        record.mark(t_ns)
    assert [mark.t_ns for mark in record._marks] == [1_000_000_000, 1_200_000_000, 5_000_000_000]
    assert record.is_pending(1_000_000_000)
    assert not record.is_pending(999_999_999)


def test_a_shared_mark_ends_a_phase_and_is_not_fitted():
    record = PowerRecording(keep=9, gap_s=1.0)
    record.mark(1_000_000_000, "decode")
    record.mark(2_000_000_000, "shared")
    assert not record.is_pending(999_999_999)
    assert record._list_marks(0, 3_000_000_000)[1] == ["idle", "decode", ""]
    assert [mark.t_ns for mark in record._marks] == [1_000_000_000]


def edges_of(
    curve: WattCurve, off_s: float = 0.0, seed: int = 0
) -> list[tuple[float, float, float]]:
    rng = random.Random(seed)
    return [
        (at, curve.joules(at + rng.uniform(-off_s, off_s)), max(off_s, 0.0005))
        for at in (0.7 + 0.1 * i for i in range(10))
    ]


def test_exact_edges_give_the_energy_at_each_mark():
    fits = fit_steps(MARKS_S, edges_of(TURN))
    for mark, fit in zip(MARKS_S, fits, strict=True):
        assert fit.joules == pytest.approx(TURN.joules(mark), abs=0.3)
    assert fits[0].step_watts == pytest.approx(260, rel=0.1)
    assert fits[2].step_watts == pytest.approx(-140, rel=0.1)


def test_the_stated_deviation_covers_edges_that_are_off():
    off = []
    for seed in range(200):
        fits = fit_steps(MARKS_S, edges_of(TURN, 0.01, seed))
        off += [
            abs(fit.joules - TURN.joules(mark))
            <= 2.3 * math.hypot(fit.own_joules, fit.shared_joules)
            for mark, fit in zip(MARKS_S, fits, strict=True)
        ]
    assert sum(off) / len(off) >= 0.95


def test_a_step_follows_from_the_edge_on_its_low_side():
    """An edge that is 10 ms late costs 0.4 J at 40 W, and 3 J at 300 W."""
    curve = steps([(1.05, 40.0), (1.0, 300.0)])
    errors = [
        abs(fit_steps([1.05], edges_of(curve, 0.01, seed))[0].joules - curve.joules(1.05))
        for seed in range(50)
    ]
    assert sorted(errors)[25] < 0.4


class Row(NamedTuple):
    at: int
    value: float


def test_a_row_is_inserted_before_another():
    columns = Columns(Row, 4)
    for value in range(8):
        columns.append(Row(10 * value, value))
    columns.insert(7, Row(65, 6.5))  # there is no room: only the newest rows stay
    assert columns.column("at").tolist()[-4:] == [50, 60, 65, 70]
    assert columns.row(-1) == Row(70, 7.0)
    columns.insert(len(columns) - 2, Row(62, 6.2))
    assert columns.column("at").tolist()[-5:] == [50, 60, 62, 65, 70]


def test_a_level_is_known_to_a_share_of_its_watts():
    times = np.linspace(0.05, 4.0, 80)
    fit = fit_levels([2.0], times, np.where(times < 2, 50.0, 1000.0), 0.0, 0.01)
    low, high = np.sqrt(np.diag(fit.covariance))
    assert high / low == pytest.approx(20, rel=0.1)
