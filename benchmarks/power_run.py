"""What the differences of ``etui power run --against`` are worth, and what etui itself costs.

    python -m benchmarks.power_run [--experiments 200] [--pairs 30] [--difference 3] [--seed 0]
    python -m benchmarks.power_run --real [--experiments 20] [--pairs 10] [-- COMMAND]
    python -m benchmarks.power_run --overhead [-- COMMAND]

The first form simulates machines: RAPL counters in a folder like sysfs, refreshed every millisecond
in steps of 61 µJ, read by the real source and recorder on a clock of its own. The power is that of
the idle machine, of the command (its runs differ by 1 % in time and 1.5 % in power), of another
program that works in bursts, and of a package that warms up. ``false`` is the share of experiments
with equal commands in which a difference of joules (``any``: or of time) is claimed; ``found`` is
the share in which a true difference of joules is claimed, with its sign.

``--real`` compares a command (a loop of 0.3 s) with itself on this machine. ``--overhead`` runs a
command (a compile of about a minute) under ``etui power run``, and compares the CPU time of both.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import Figure
from etui.energy.recorder import Recorder
from etui.energy.sources.rapl import RaplSource
from etui.measure.commands import Comparison, Cost, compare_pairs, plan_pairs
from tests.support.devices import FakeClock

IDLE_WATTS, COMMAND_WATTS, SECONDS = 9.0, 24.0, 3.0
_STEP_JOULES, _REFRESH_S = 61e-6, 0.001
_BURSTS_EVERY_S, _BURST_S, _BURST_WATTS = 20.0, 1.5, (2.0, 12.0)
_LOOP = "s=0\nfor i in range(4_000_000): s+=i*i"
_COMPILE_FUNCTIONS, _COMPILE_FILES = 4000, 8


class SimulatedMachine:
    """A machine whose package runs commands, idles, and lets another program work in bursts."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._draw = random.Random(seed)
        zone = folder / "class" / "powercap" / "intel-rapl:0"
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "name").write_text("package-0\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
        self._counter = zone / "energy_uj"
        self._joules, self._warmth = 1000.0, 0.0
        self._burst_watts, self._burst_left_s = 0.0, self._draw.expovariate(1 / _BURSTS_EVERY_S)
        self.clock = FakeClock()
        self._write()
        self.recorder = Recorder([RaplSource(folder, self.clock)], hz=2.0, clock=self.clock)
        self.recorder.sample_now()
        self.pass_time(1.0, 0.0)

    def pass_time(self, seconds: float, watts: float) -> None:
        """Let time pass with a power above idle, and sample it twice a second."""
        while seconds > 1e-9:
            step_s = min(0.5, seconds)
            self.clock.advance(step_s)
            used = (IDLE_WATTS + watts) * step_s * (1 + 0.01 * self._warmth)
            used += self._draw_burst(step_s)
            # The package warms up by 2 % at most, within half a minute of work.
            self._warmth += (min(watts / COMMAND_WATTS, 1.0) * 2 - self._warmth) * step_s / 30
            self._joules += used
            self._write()
            self.recorder.sample_now()
            seconds -= step_s

    def run(self, factor: float) -> Cost:
        """Run a command whose joules are ``factor`` times those of the first one."""
        seconds = SECONDS * math.exp(self._draw.gauss(0, 0.01))
        watts = (IDLE_WATTS + COMMAND_WATTS) * factor - IDLE_WATTS
        watts *= math.exp(self._draw.gauss(0, 0.015))
        self.pass_time(0.3, 1.0)  # the pause in which the last run settles
        start_ns = self.clock()
        self.recorder.mark(start_ns)
        self.pass_time(seconds, watts)
        end_ns = self.clock()
        self.recorder.mark(end_ns)
        self.pass_time(0.02, 1.0)
        energy = self.recorder.energy(start_ns, end_ns)
        return Cost(energy.joules, energy.seconds)

    def _draw_burst(self, step_s: float) -> float:
        self._burst_left_s -= step_s
        if self._burst_left_s <= 0:
            working = self._burst_watts > 0
            self._burst_watts = 0.0 if working else self._draw.uniform(*_BURST_WATTS)
            mean_s = _BURSTS_EVERY_S if working else _BURST_S
            self._burst_left_s = self._draw.expovariate(1 / mean_s)
        return self._burst_watts * step_s

    def _write(self) -> None:
        counted = math.floor(self._joules / _STEP_JOULES) * _STEP_JOULES
        self._counter.write_text(f"{round(counted * 1e6)}\n")


def simulate(seed: int, pairs: int, percent: float) -> Comparison:
    """Compare two simulated commands, of which the second needs so many percent more joules."""
    with TemporaryDirectory(prefix="etui-power-run-") as folder:
        machine = SimulatedMachine(Path(folder), seed)
        factors = (1.0, 1 + percent / 100)
        for factor in factors:
            machine.run(factor)  # warm-up
        found = []
        for order in plan_pairs(pairs, random.Random(seed)):
            costs = {at: machine.run(factors[at]) for at in order}
            found.append((costs[0], costs[1]))
        return compare_pairs(found)


def summarize(equal: Sequence[Comparison], apart: Sequence[Comparison]) -> dict[str, float]:
    """Return the shares of false and of found differences, per cent."""
    joules = [one.joules is not None and one.joules.is_claimed for one in equal]
    seconds = [one.seconds is not None and one.seconds.is_claimed for one in equal]
    either = [a or b for a, b in zip(joules, seconds, strict=True)]
    found = [
        one.joules is not None and one.joules.is_claimed and one.joules.percent > 0 for one in apart
    ]
    floors = [one.joules_floor_percent or math.nan for one in (*equal, *apart)]
    return {
        "false_percent": 100 * sum(joules) / max(len(equal), 1),
        "false_any_percent": 100 * sum(either) / max(len(equal), 1),
        "found_percent": 100 * sum(found) / max(len(apart), 1),
        "mean_floor_percent": sum(floors) / max(len(floors), 1),
    }


def measure_real(experiments: int, pairs: int, words: Sequence[str]) -> Iterator[Comparison]:
    """Compare a command with itself on this machine, by the command line itself."""
    from etui.stats.differences import Difference

    command = list(words) or [sys.executable, "-c", _LOOP]
    with TemporaryDirectory(prefix="etui-power-run-") as folder:
        report = Path(folder) / "report.json"
        for _ in range(experiments):
            _power_run(report, "--repeat", str(pairs), "--against", _join(command), "--", *command)
            found = json.loads(report.read_text())["comparison"]
            for name in ("joules", "seconds"):
                found[name] = found[name] and Difference(**found[name])
            yield Comparison(**found)


def measure_overhead(words: Sequence[str]) -> dict[str, float]:
    """Return the CPU seconds of a command, and those of etui beside it."""
    with TemporaryDirectory(prefix="etui-power-run-") as folder:
        report = Path(folder) / "report.json"
        _power_run(report, "--", *(words or _write_compile(Path(folder))))
        found = json.loads(report.read_text())
    (run,) = found["commands"][0]["runs"]
    meter, command = found["meter_cpu_seconds"], run["cpu_seconds"]
    return {
        "seconds": run["seconds"],
        "command_cpu_seconds": command,
        "meter_cpu_seconds": meter,
        "overhead_percent": 100 * meter / command,
    }


def _power_run(report: Path, *words: str) -> None:
    command = [sys.executable, "-m", "etui", "power", "run", "--json", "--output", str(report)]
    subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)


def _join(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(words)


def _write_compile(folder: Path) -> list[str]:
    """Write a program that takes about a minute to compile; return the command."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("there is no cc here: name a command after --")
    names = []
    for number in range(_COMPILE_FILES):
        text = "\n".join(
            f"int f{i}(int a, int b) {{ for (int k = 0; k < b; k++) a = a * {i + 3} + k % (b + 1); "
            f"return a ^ {i}; }}"
            for i in range(_COMPILE_FUNCTIONS)
        )
        path = folder / f"part{number}.c"
        path.write_text(text + "\n")
        names.append(str(path))
    script = 'for part; do "$0" -O2 -c "$part" -o /dev/null; done'
    return ["sh", "-c", script, compiler, *names]


def quick() -> Iterator[Figure]:
    """Compare 12 pairs of equal and of different commands, ten times each."""
    equal = [simulate(seed, 12, 0.0) for seed in range(10)]
    apart = [simulate(seed + 1000, 12, 5.0) for seed in range(10)]
    found = summarize(equal, apart)
    yield Figure("equal commands with a false difference", found["false_percent"], "%", n=10)
    yield Figure("differences of 5 % that are not found", 100 - found["found_percent"], "%", n=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiments", type=int, help="experiments (200; 20 with --real)")
    parser.add_argument("--pairs", type=int, help="pairs of runs (30; 10 with --real)")
    parser.add_argument("--difference", type=float, default=3.0, help="true difference, percent")
    parser.add_argument("--seed", type=int, default=0, help="seed of the machines")
    parser.add_argument("--real", action="store_true", help="compare equal commands here")
    parser.add_argument("--overhead", action="store_true", help="measure the CPU time of etui")
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="command, after --")
    chosen = parser.parse_args()
    if chosen.overhead:
        found = measure_overhead(chosen.words)
    elif chosen.real:
        count, pairs = chosen.experiments or 20, chosen.pairs or 10
        found = summarize(list(measure_real(count, pairs, chosen.words)), [])
        del found["found_percent"]
    else:
        count, pairs = chosen.experiments or 200, chosen.pairs or 30
        seeds = range(chosen.seed, chosen.seed + count)
        equal = [simulate(seed, pairs, 0.0) for seed in seeds]
        apart = [simulate(seed + 1_000_000, pairs, chosen.difference) for seed in seeds]
        found = summarize(equal, apart)
    print(json.dumps(found, indent=2), flush=True)


if __name__ == "__main__":
    main()
