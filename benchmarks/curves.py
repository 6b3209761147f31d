"""How well operating curves predict joules.

    python -m benchmarks.curves [--model FILE.gguf] [--turns N] [--seeds N] [--quick] [--json]

On simulated GPUs the joules of a turn are known. Each is calibrated as `etui calibrate` does, then
asked turns of lengths that are not on the grid, each from rest and done once; a prediction is
judged by the true joules and by those the meter told. The aim is a mean error of at most 10 %.

With `--model` the turns run on that model, on this machine and its meter: there is no truth then,
and an estimate judges an estimate.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

from benchmarks.figures import Figure
from benchmarks.sides import make_session
from etui.calibration.grid import QUICK, CurveVisit, Grid, list_visits
from etui.calibration.measure import GREEDY, TurnTimer, warm_up
from etui.config.config import load_config
from etui.curves.fit import compute_error, fit_curve
from etui.curves.operating_curve import Conditions, OperatingCurve, mape
from etui.energy.discovery import open_recorder
from etui.engine.library import default_threads
from etui.engine.session import Session
from etui.runtime.provenance import conditions
from etui.turn.interfaces import Meter
from tests.support.devices import SENSORS, Sensor
from tests.support.engine_session import SimulatedSession
from tests.support.gpu import GpuLoad, SimulatedGpu

AIM = 0.10
NOWHERE = Conditions("simulated", "simulated", 1)
LOADS = {
    "large card, small model": GpuLoad(),
    "large card, memory-bound": GpuLoad(launch_s=0.025, token_s=0.0004, decode_use=0.7),
    "laptop GPU": GpuLoad(8.0, 60.0, 0.03, 0.0025, 8e-7, 0.6, 8e-5, warm_share=0.12, warm_s=25.0),
    "no noise, never warm": GpuLoad(noise=0.0, warm_share=0.0),
}
SHOWN = ("counter 100 ms", "power, instant 20 ms", "power, 25 % duty")


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a length off the grid: what the curve says, and what was spent, joules."""

    length: CurveVisit
    said: float
    measured: float
    truth: float | None


def calibrate(
    bench: TurnTimer, grid: Grid, rest: Callable[[float], None], here: Conditions
) -> tuple[OperatingCurve, float | None]:
    """The curve, and its error on the lengths between those of the grid."""
    warm_up(bench, [CurveVisit(grid.computed[0], grid.output[0])])
    points = []
    for visit in list_visits(grid, seed=0):
        rest(grid.cool_down_s)
        points.append(bench.measure(visit))
    on = [m.point for m in points if not m.visit.held_out]
    off = [m.point for m in points if m.visit.held_out]
    kind = str(points[-1].kind)
    curve = fit_curve(on, "bench", None, here, kind=kind, source="calibration")
    return curve, compute_error(curve, off)


def turn(session: Session, length: CurveVisit, clock: Callable[[], int]) -> tuple[int, int]:
    """One turn as it is asked: open, prefill, decode; its interval."""
    rng = random.Random(repr(length))
    words = " ".join(rng.choices(("and", "of", "the", "in", "to", "a"), k=length.computed + 8))
    start_ns = clock()
    tokens = session.tokenize(words, bos=True)[: length.computed]
    sequence = session.open(tokens, GREEDY)
    drawn = 0
    while drawn < length.output:
        step = session.step([sequence])
        if step.sampled and step.sampled[0].ends:
            session.extend(sequence, tokens[-1:])
        drawn += len(step.sampled)
    end_ns = clock()
    session.close(sequence, keep=False)
    return start_ns, end_ns


def lengths(grid: Grid, count: int, seed: int) -> list[CurveVisit]:
    """Random lengths inside of the grid's, none of them on it."""
    rng = random.Random(seed)
    found: list[CurveVisit] = []
    while len(found) < count:
        computed = rng.randint(grid.computed[0], grid.computed[-1])
        output = rng.randint(grid.output[0], grid.output[-1])
        if computed not in grid.computed and output not in grid.output:
            found.append(CurveVisit(computed, output))
    return found


def simulated(load: GpuLoad, sensor: Sensor, grid: Grid, count: int, seed: int) -> dict[str, Any]:
    gpu = SimulatedGpu(load, sensor, seed)
    gpu.rest(1.5)
    session = cast(Session, SimulatedSession(gpu))
    bench = TurnTimer(session, gpu, grid.window_s, clock=gpu.clock)
    curve, held_out = calibrate(bench, grid, gpu.rest, NOWHERE)
    turns = []
    for length in lengths(grid, count, seed):
        gpu.rest(3.0)
        start_ns, end_ns = turn(session, length, gpu.clock)
        gpu.settle(end_ns)
        measured = gpu.energy(start_ns, end_ns).joules or 0.0
        said = curve.joules(length.computed, 0, length.output).total
        turns.append(Turn(length, said, measured, gpu.truth(start_ns, end_ns)))
    return judged(curve, held_out, turns)


def real(path: Path, grid: Grid, count: int) -> dict[str, Any]:
    config = load_config()
    session = make_session(path, default_threads(), 2048)
    with open_recorder(config) as recorder:
        time.sleep(1.5)
        meter: Meter = recorder
        here = conditions(config, recorder.selection.summed)
        curve, held_out = calibrate(
            TurnTimer(session, meter, grid.window_s), grid, time.sleep, here
        )
        turns = []
        for length in lengths(grid, count, seed=0):
            time.sleep(grid.cool_down_s)
            start_ns, end_ns = turn(session, length, time.monotonic_ns)
            recorder.settle(end_ns)
            measured = recorder.energy(start_ns, end_ns).joules or 0.0
            said = curve.joules(length.computed, 0, length.output).total
            turns.append(Turn(length, said, measured, None))
    session.free()
    return {"model": path.stem, "kind": curve.kind, **judged(curve, held_out, turns)}


def judged(curve: OperatingCurve, held_out: float | None, turns: Sequence[Turn]) -> dict[str, Any]:
    said = [one.said for one in turns]
    truth = [one.measured if one.truth is None else one.truth for one in turns]
    errors = sorted(abs(p - t) / t for p, t in zip(said, truth, strict=True) if t > 0)
    inside = 0
    for one, true in zip(turns, truth, strict=True):
        band = curve.joules(one.length.computed, 0, one.length.output).uncertainty
        inside += abs(one.said - true) <= band
    return {
        "r2_prefill": curve.prefill.r2,
        "r2_decode": curve.decode.r2,
        "points": curve.n,
        "mape_between": held_out,
        "turns": len(turns),
        "mape": mape(said, truth),
        "mape_metered": mape(said, [one.measured for one in turns]),
        "median_error": median(errors),
        "worst_error": errors[-1],
        "inside_band": inside / len(turns),
        "prefill": asdict(curve.prefill),
        "decode": asdict(curve.decode),
    }


def row(name: str, found: dict[str, Any]) -> str:
    keys = ("mape", "mape_metered", "median_error", "worst_error", "inside_band")
    figures = "".join(f"{100 * found[key]:>10.1f}" for key in keys)
    r2 = f"{found['r2_prefill']:>10.3f}{found['r2_decode']:>10.3f}"
    return f"  {name:<52}{r2}{figures}"


def quick() -> Iterator[Figure]:
    """Every simulated GPU by its counter, each of its sensors on the first; 20 turns each."""
    usual = next(iter(LOADS))
    for name, sensor in (*((name, SHOWN[0]) for name in LOADS), *((usual, s) for s in SHOWN[1:])):
        found = simulated(LOADS[name], SENSORS[sensor], QUICK, 20, seed=0)
        label = f"joules predicted off the grid : true, mean error, {name}, {sensor}"
        yield Figure(label, 100 * found["mape"], "%", n=found["turns"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF to measure on this machine instead")
    parser.add_argument("--turns", type=int, default=40, help="turns off the grid")
    parser.add_argument("--seeds", type=int, default=3, help="simulated runs of each kind")
    parser.add_argument("--quick", action="store_true", help="the grid of calibrate --quick")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    grid = QUICK if chosen.quick else Grid()
    found: dict[str, Any] = {}
    if chosen.model is not None:
        found[chosen.model.stem] = real(chosen.model, grid, chosen.turns)
    else:
        for name, load in LOADS.items():
            for sensor in SHOWN:
                for seed in range(chosen.seeds):
                    placed = replace(SENSORS[sensor], phase_s=0.03 * seed)
                    key = f"{name}, {sensor}, seed {seed}"
                    found[key] = simulated(load, placed, grid, chosen.turns, seed)
    passed = all(one["mape"] is not None and one["mape"] <= AIM for one in found.values())
    if chosen.json:
        print(json.dumps({"aim": AIM, "passed": passed, "runs": found}, indent=2))
        return
    head = ("R2 pre", "R2 dec", "mean", "metered", "median", "worst", "inside")
    print(f"errors of predicted joules off the grid, in percent (aim: mean <= {100 * AIM:.0f})")
    print(f"  {'':<52}" + "".join(f"{cell:>10}" for cell in head))
    for name, one in found.items():
        print(row(name, one))
    print("aim reached" if passed else "aim missed")


if __name__ == "__main__":
    main()
