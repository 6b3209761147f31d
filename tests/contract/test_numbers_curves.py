"""Operating curves and calibrations: coefficients, residuals and predictions."""

from __future__ import annotations

import itertools
import random

import pytest

from etui.calibration.grid import CurveVisit, Grid, expected_seconds, list_visits
from etui.calibration.measure import TurnTimer, warm_up
from etui.curves.fit import (
    PhasePoint,
    TurnPoint,
    compute_error,
    compute_speed,
    estimate_context_term,
    fit_curve,
    fit_phase,
    fit_turns,
    meter_share,
    split_phases,
)
from etui.curves.operating_curve import Conditions, PhaseCurve, Speed, looked_back, mape
from etui.log.curve_lookup import build_curve_row
from tests.contract.numbers import check_numbers
from tests.support.engine_session import SimulatedSession
from tests.support.gpu import GpuLoad, SimulatedGpu

HERE = Conditions("a machine", "a build", 2)
LENGTHS = list(itertools.product((32, 128, 512, 1024), (16, 64, 192)))
ASKED = [(10, 0, 1), (50, 0, 24), (300, 120, 170), (1000, 0, 0), (0, 40, 300), (2500, 900, 1200)]


def build_turns(noise: float, seed: int, uncertainty: float | None, bend: float) -> list[TurnPoint]:
    rng = random.Random(seed)
    prefill, decode = PhaseCurve(2.0, 0.02, bend / 50), PhaseCurve(1.0, 0.4, bend)
    made = []
    for computed, output in LENGTHS:
        p = prefill.joules(0, computed) * (1 + rng.gauss(0, noise))
        d = decode.joules(computed, output - 1) * (1 + rng.gauss(0, noise))
        widths = (None, None) if uncertainty is None else (uncertainty * p, uncertainty * d)
        made.append(TurnPoint(computed, 0, output, p, d, *widths, 0.01 * computed, 0.02 * output))
    # Turns without a prompt to compute or with one token are points of one phase alone.
    made.append(TurnPoint(0, 300, 40, 0.2, 17.5, None, None, 0.1, 0.8))
    made.append(TurnPoint(90, 10, 1, 3.9, 0.1, None, None, 0.9, 0.1))
    made.append(TurnPoint(70, 0, 2, 3.4, 1.5, None, None, 0.7, 0.02))
    return made


CASES = {
    "exact": (0.0, 0, None, 1e-4),
    "noisy": (0.05, 1, 0.02, 1e-4),
    "coarse": (0.15, 2, 0.4, 1e-4),
    "straight": (0.03, 3, 0.01, 0.0),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fit(case: str) -> None:
    noise, seed, uncertainty, bend = CASES[case]
    points = build_turns(noise, seed, uncertainty, bend)
    later = build_turns(noise, seed + 100, uncertainty, bend)
    curve = fit_curve(points, "m", "ab", HERE, kind="counter", source="calibration")
    row = build_curve_row(curve)
    found = {
        "phases": fit_turns(points),
        "points": split_phases(points),
        "curve": (curve.prefill, curve.decode, curve.meter_share, curve.speed, curve.kind),
        "share": meter_share(points),
        "speed": compute_speed(points),
        "error": compute_error(curve, later),
        "price": curve.to_decode_price(),
        "stored": (row["coefficients"], row["residuals"]),
        "document": build_curve_row(curve)["coefficients"],
    }
    for asked in ASKED:
        said = curve.joules(*asked)
        found[f"joules {asked}"] = [
            said, said.total, said.decode, said.prefill, said.scatter, said.uncertainty,
        ]  # fmt: skip
    check_numbers(f"curves-{case}", found)


def test_single_phases_and_context() -> None:
    draw = random.Random(4)
    points = [
        PhasePoint(
            start, steps,
            (0.4 + 0.4 * steps + 1e-4 * looked_back(start, steps)) * draw.gauss(1, 0.02), 0.05,
        )
        for start in (32, 128, 512)
        for steps in (8, 32, 128)
        for _ in range(3)
    ]  # fmt: skip
    found = {
        "always": fit_phase(points, "decode"),
        "earned": fit_phase(points, "prefill", bend="if earned"),
        "context": estimate_context_term(points, "decode", (1024, 4096)),
        "mape": [mape([11, 90], [10, 100]), mape([1.0, 1.0, 12.0], [5e-324, 5e-309, 10.0])],
    }
    check_numbers("curves-phases", found)


def test_a_calibration_of_a_simulated_gpu() -> None:
    grid = Grid((64, 256, 1024), (16, 64), repeats=1, window_s=0.5)
    gpu = SimulatedGpu(GpuLoad(), seed=2)
    gpu.rest(1.5)
    timer = TurnTimer(SimulatedSession(gpu), gpu, grid.window_s, clock=gpu.clock)
    speed = warm_up(timer, [CurveVisit(64, 16)])
    visits, measured = list_visits(grid, seed=0), []
    for visit in visits:
        gpu.rest(grid.cool_down_s)
        measured.append(timer.measure(visit))
    on = [m.point for m in measured if not m.visit.held_out]
    off = [m.point for m in measured if m.visit.held_out]
    curve = fit_curve(on, "m", "ab", HERE, kind="counter", source="calibration")
    found = {
        "visits": [{"length": v[:2], "held_out": v.held_out} for v in visits],
        "speed": speed,
        "points": measured,
        "curve": (curve.prefill, curve.decode, curve.meter_share, curve.speed),
        "error": compute_error(curve, off) if off else None,
        "expected": expected_seconds(visits, grid, Speed(900.0, 40.0)),
    }
    check_numbers("curves-calibration", found)
