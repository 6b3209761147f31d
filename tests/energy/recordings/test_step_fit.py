"""The energy at marks, from the edges of a counter around them."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from etui.energy._recordings.columns import Columns
from etui.energy._recordings.fits import EdgeSample, fit_steps
from tests.support.power_curves import WattCurve, steps

TURN = steps([(1.03, 40.0), (0.06, 300.0), (0.3, 180.0), (1.0, 40.0)])
MARKS_S = [1.03, 1.09, 1.39]


def edges_of(curve: WattCurve, off_s: float = 0.0, seed: int = 0) -> list[EdgeSample]:
    rng = random.Random(seed)
    return [
        EdgeSample(at, curve.joules(at + rng.uniform(-off_s, off_s)), max(off_s, 0.0005))
        for at in (0.7 + 0.1 * i for i in range(10))
    ]


def test_exact_edges_give_the_energy_at_each_mark() -> None:
    fits = fit_steps(MARKS_S, edges_of(TURN))
    for mark, fit in zip(MARKS_S, fits, strict=True):
        assert fit.joules == pytest.approx(TURN.joules(mark), abs=0.3)
    assert fits[0].step_watts == pytest.approx(260, rel=0.1)
    assert fits[2].step_watts == pytest.approx(-140, rel=0.1)


def test_the_stated_deviation_covers_edges_that_are_off() -> None:
    off = []
    for seed in range(200):
        fits = fit_steps(MARKS_S, edges_of(TURN, 0.01, seed))
        off += [
            abs(fit.joules - TURN.joules(mark)) <= 2.3 * fit.sigma_joules
            for mark, fit in zip(MARKS_S, fits, strict=True)
        ]
    assert sum(off) / len(off) >= 0.95


def test_a_step_follows_from_the_edge_on_its_low_side() -> None:
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


def test_a_row_is_inserted_before_another() -> None:
    columns = Columns(Row, 4)
    for value in range(8):
        columns.append(Row(10 * value, value))
    columns.insert(7, Row(65, 6.5))  # there is no room: only the newest rows stay
    assert columns.column("at").tolist()[-4:] == [50, 60, 65, 70]
    assert columns.row(-1) == Row(70, 7.0)
    columns.insert(len(columns) - 2, Row(62, 6.2))
    assert columns.column("at").tolist()[-5:] == [50, 60, 62, 65, 70]
