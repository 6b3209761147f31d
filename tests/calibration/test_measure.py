"""Calibrating a simulated GPU, whose joules are known: the plan, the points, the predictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.calibration.grid import (
    CurveVisit,
    Grid,
    between,
    expected_seconds,
    fit_into_context,
    list_visits,
    parse_grid,
)
from etui.calibration.measure import GREEDY, TurnTimer, warm_up
from etui.calibration.run import PointsFile
from etui.curves.fit import compute_error, fit_curve
from etui.curves.operating_curve import Conditions, Speed, mape
from etui.errors import EtuiError, UsageError
from tests.support.engine_session import SimulatedSession
from tests.support.gpu import GpuLoad, SimulatedGpu

HERE = Conditions("a machine", "a build", 2)
GRID = Grid()
# Lengths that are neither on the grid nor between two of its neighbours.
ELSEWHERE = [(50, 24), (90, 150), (220, 40), (300, 170), (700, 30), (900, 110), (1000, 180)]


def bench(gpu, window_s=GRID.window_s, **session):
    gpu.rest(1.5)  # a meter has to see a counter move before it can tell anything
    return TurnTimer(SimulatedSession(gpu, **session), gpu, window_s, clock=gpu.clock)


def calibrated(gpu, grid=GRID):
    made = bench(gpu, grid.window_s)
    warm_up(made, [CurveVisit(64, 16)])
    points = []
    for visit in list_visits(grid, seed=0):
        gpu.rest(grid.cool_down_s)
        points.append(made.measure(visit))
    on = [m.point for m in points if not m.visit.held_out]
    off = [m.point for m in points if m.visit.held_out]
    curve = fit_curve(on, "m", "ab", HERE, kind="counter", source="calibration")
    return curve, compute_error(curve, off)


def real_turn(gpu, session, computed, output):
    """A turn as a person asks it, from rest, and the joules it really took."""
    gpu.rest(3.0)
    start_ns = gpu.clock()
    sequence = session.open([1] * computed, GREEDY)
    steps = 0
    while steps < output:
        sampled = session.step([sequence]).sampled
        if sampled and sampled[0].ends:
            session.extend(sequence, [1])
        steps += len(sampled)
    return gpu.truth(start_ns, gpu.clock())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_turns_off_the_grid_are_predicted_within_ten_percent(seed):
    gpu = SimulatedGpu(GpuLoad(), seed=seed)
    curve, held_out = calibrated(gpu)
    assert held_out is not None
    assert held_out <= 0.10
    session = SimulatedSession(gpu)
    truth = [real_turn(gpu, session, *length) for length in ELSEWHERE]
    said = [curve.joules(computed, 0, output).total for computed, output in ELSEWHERE]
    error = mape(said, truth)
    assert error is not None
    assert error <= 0.10
    assert curve.prefill.r2 > 0.95
    assert curve.decode.r2 > 0.99


def test_a_point_is_what_one_turn_of_that_length_took():
    gpu = SimulatedGpu(replace(GpuLoad(), noise=0.0, warm_share=0.0))
    point = bench(gpu).measure(CurveVisit(256, 32)).point
    load = gpu.load
    prefill = load.watts(0, 256) * load.seconds(0, 256)
    decode = sum(load.watts(c, 1) * load.seconds(c, 1) for c in range(256, 256 + 31))
    assert point.prefill_joules == pytest.approx(prefill, rel=0.03)
    assert point.decode_joules == pytest.approx(decode, rel=0.03)
    assert point.prefill_seconds == pytest.approx(load.seconds(0, 256), rel=0.01)
    assert point.decode_seconds == pytest.approx(31 * load.seconds(270, 1), rel=0.01)
    assert (point.computed_tokens, point.cached_tokens, point.output_tokens) == (256, 0, 32)


def test_a_machine_that_tells_nothing_is_no_bench():
    gpu = SimulatedGpu(GpuLoad())
    session = SimulatedSession(gpu)
    gpu.recorder.selection = replace(gpu.recorder.selection, summed=())
    with pytest.raises(EtuiError, match="nothing can be measured"):
        TurnTimer(session, gpu, 0.1, clock=gpu.clock).measure(CurveVisit(8, 4))


def test_every_length_is_visited_as_often_as_asked_and_those_between_once():
    order = list_visits(Grid((10, 40), (8, 32, 128), repeats=2), seed=1)
    assert sorted(v[:2] for v in order if not v.held_out) == sorted(
        2 * [(c, o) for c in (10, 40) for o in (8, 32, 128)]
    )
    assert {v[:2] for v in order if v.held_out} == {(20, 16), (20, 64)}
    assert order == list_visits(Grid((10, 40), (8, 32, 128), repeats=2), seed=1)
    assert list(order) != sorted(order, key=lambda v: v[:2])


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=8, unique=True).map(sorted))
def test_what_lies_between_is_new_and_inside(lengths):
    middles = between(lengths)
    assert not set(middles) & set(lengths)
    assert all(lengths[0] < middle < lengths[-1] for middle in middles)


def test_a_grid_as_people_write_it():
    assert parse_grid("512, 32x16,64", GRID).computed == (32, 512)
    assert parse_grid("32,32,64x8,16", GRID).computed == (32, 64)
    assert str(parse_grid("32,64x8,16", GRID)) == "32,64x8,16"


@pytest.mark.parametrize("text", ["", "32", "32x16", "32,64x16", "0,5x8,16", "8,16x1,4", "a,bxc,d"])
def test_a_grid_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--grid"):
        parse_grid(text, GRID)


def test_what_the_context_cannot_hold_is_left_out():
    grid = fit_into_context(Grid(), 512)
    assert (grid.computed, grid.output) == ((32, 128), (16, 64, 192))
    with pytest.raises(UsageError, match="fit into a context"):
        fit_into_context(Grid(), 64)


def test_the_expected_time_counts_windows_rests_and_lengths():
    grid = Grid(window_s=2.0, cool_down_s=1.0)
    left = [CurveVisit(1000, 100), CurveVisit(10, 10)]
    assert expected_seconds(left, grid, Speed(100.0, 10.0)) == pytest.approx(
        (10 + 10 + 1.2) + (2 + 2 + 1.2)
    )
    assert expected_seconds(left, grid, Speed()) is None


def test_a_stopped_calibration_goes_on_from_its_points(config):
    order = list_visits(Grid((10, 40), (8, 32), repeats=1), seed=0)
    file = PointsFile(config, "m", "ab", GRID, HERE)
    made = bench(SimulatedGpu(GpuLoad()), window_s=0.1)
    first, second = made.measure(order[0]), made.measure(order[1])
    file.write([first])
    file.add(second)
    assert file.read(order) == [first, second]
    with file.path.open("a") as torn:
        torn.write('{"held_out": fal')
    assert file.read(order) == [first, second]
    assert PointsFile(config, "m", "ab", GRID, replace(HERE, threads=9)).read(order) == []
    assert PointsFile(config, "m", "cd", GRID, HERE).read(order) == []
    file.remove()
    assert file.read(order) == []
