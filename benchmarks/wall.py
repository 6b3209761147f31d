"""Wall joules by a calibration against the truth, on simulated machines with a slow meter.

    python -m benchmarks.wall [--machines N] [--turns N] [--exact] [--json]

Each machine has its own power supply (a quadratic loss, or efficiencies as 80 PLUS states them),
base of 5 to 80 W, inner power up to 10 to 500 W, and a plug with digits of 0.1 to 1 W, a period of
0.5 to 10 s, a lag of 0.5 to 10 s (first order, pure delay, or both), noise and an error of its
scale within the stated 1 %; on some, another program runs for a while. The real calibration runs on
it, through the real meter, on a simulated clock; then answers of 10 s in one or two phases. Printed
are the share of answers and of points of the curve whose truth is inside of the interval, and the
errors of the answers' wall joules.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.figures import Figure
from etui.errors import EtuiError
from tests.support.wall_machine import Machine, make_machine

TURN_S = 10.0
POINTS = 9


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a calibration of one machine is worth; errors and half widths are relative.

    ``turns`` and ``curve`` have (error, half width) of answers, and of steady powers in the range.
    ``refused`` is why there is no calibration.
    """

    seed: int
    minutes: float = 0.0
    turns: tuple[tuple[float, float], ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    base: tuple[float, float] = (0.0, 0.0)
    refused: str = ""


def calibrate(seed: int, turns: int, exact: bool = False) -> Calibrated:
    """Calibrate a random machine, and compare what it predicts with the truth."""
    machine = make_machine(seed, exact)
    try:
        made = machine.calibrate(seed=seed)
    except EtuiError as error:
        return Calibrated(seed, refused=error.what)
    minutes = machine.clock.seconds / 60
    machine.recorder.wall_model = made
    machine.other = lambda seconds: (0.0, 0.0)
    draw = random.Random(seed)
    found = []
    for _ in range(turns):
        start_ns, end_ns, truth = machine.run_turn(list(_draw_turn(machine, draw)))
        machine.recorder.settle(end_ns)
        wall = machine.recorder.energy(start_ns, end_ns).wall
        assert wall is not None
        found.append((wall.joules / truth - 1, wall.uncertainty / truth))
    curve = []
    for point in range(POINTS):
        cpu, gpu = _mix(machine, point / (POINTS - 1), draw)
        truth = machine.true_watts(cpu, gpu)
        watts, half = made.wall_watts(cpu, gpu)
        curve.append((watts / truth - 1, half / truth))
    truth = machine.true_watts(0.0, 0.0)
    base = made.base[0] / truth - 1, made.base[1] / truth
    return Calibrated(seed, minutes, tuple(found), tuple(curve), base)


def _draw_turn(machine: Machine, draw: random.Random) -> Iterator[tuple[float, float, float]]:
    prefill_s = draw.choice((0.0, draw.uniform(0.5, 3.0)))
    for seconds in (prefill_s, TURN_S - prefill_s):
        if seconds:
            yield seconds, *_mix(machine, draw.random(), draw)


def _mix(machine: Machine, share: float, draw: random.Random) -> tuple[float, float]:
    """Return a power between idle and the most of a load, of the CPU or of the GPU."""
    idle = machine.loads["idle"]
    busy = machine.loads[draw.choice(("8 threads", "prefill"))]
    cpu, gpu = (low + (high - low) * share for low, high in zip(idle, busy, strict=True))
    return cpu, gpu


def summarize(found: Sequence[Calibrated]) -> dict[str, float]:
    """Return shares and errors in percent."""
    made = [each for each in found if not each.refused]
    turns = [pair for each in made for pair in each.turns]
    curve = [pair for each in made for pair in each.curve]
    errors = sorted(abs(error) for error, _ in turns)
    return {
        "calibrations": len(found),
        "refused": len(found) - len(made),
        "turns": len(turns),
        "turns_inside": 100 * _inside(turns),
        "curve_inside": 100 * _inside(curve),
        "bases_inside": 100 * _inside([each.base for each in made]),
        "turns_within_3_percent": 100 * sum(e <= 0.03 for e in errors) / len(errors),
        "median_error": 100 * statistics.median(errors),
        "error_95": 100 * errors[int(0.95 * len(errors))],
        "worst_error": 100 * errors[-1],
        "median_half_width": 100 * statistics.median(half for _, half in turns),
        "minutes": statistics.median(each.minutes for each in made),
    }


def _inside(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(abs(error) <= half for error, half in pairs) / len(pairs)


def quick() -> Iterator[Figure]:
    """Twelve machines with four answers each."""
    found = summarize([calibrate(seed, 4) for seed in range(12)])
    yield Figure("answers outside", 100 - found["turns_inside"], "%", n=48)
    yield Figure("95 % of errors within", found["error_95"], "%", n=48)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--machines", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--exact", action="store_true", help="plugs without an error of scale")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    found = [calibrate(seed, options.turns, options.exact) for seed in range(options.machines)]
    summary = summarize(found)
    if options.json:
        print(json.dumps({**summary, "machines": [asdict(each) for each in found]}, indent=2))
        return
    for name, value in summary.items():
        print(f"{name.replace('_', ' '):<24}{value:8.2f}")
    for each in found:
        if each.refused:
            print(f"machine {each.seed}: {each.refused}")


if __name__ == "__main__":
    main()
