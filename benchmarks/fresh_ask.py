"""Whether the joules of a fresh ``etui ask`` lie within their ±, on fake devices of known power.

Each run is a new process: its meter has just begun, and knows neither the phase of a counter nor
how often it is refreshed. The power is a curve that ignores the answer, or follows it by levels of
its own for rest, load, prefill and decode. The truth is the curve's integral between the borders
that the answer states.

    python -m benchmarks.fresh_ask [--runs N] [--device NAME,NAME] [--curve NAME,NAME]
                                   [--beside] [--seed N] [--record FILE] [--json]
    python -m benchmarks.fresh_ask --read FILE [FILE ...] [--json]

``--beside`` compiles on every core meanwhile. ``--record`` appends each run as a JSON line, with
what its meter read; ``--read`` summarises recorded runs, such as those of several windows of a
quiet machine (with a ``--seed`` each). SIGTERM and Ctrl-C end the runs, and what was done counts. A
run takes a second or two on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from tests.support.devices import SENSORS, FakeDevice, PowerCurve, Sensor
from tests.support.power_curves import CURVES, WattCurve

CHECKOUT = Path(__file__).parents[1]
CURVE_SECONDS = 90.0
BEFORE_S = 3.0
"""Time for which a curve has run already when its process starts."""
CALL_S = 0.0002
"""Length of a call of a driver, after it has taken the value."""
COMPILING = """
import glob, os, sys
parent = os.getppid()
files = sorted(glob.glob(os.path.dirname(os.__file__) + "/*.py"))
while True:
    for file in files:
        if os.getppid() != parent:
            sys.exit()
        with open(file, "rb") as source:
            compile(source.read(), file, "exec")
"""


@dataclass(frozen=True, slots=True)
class Device:
    """A fake device: the source of etui that reads it, and how it reports its power."""

    source: str  # `nvml`, `rapl` or `hwmon`
    sensor: Sensor


NVML = Sensor(stamps=True, power_period_s=0.05, power_window_s=0.025)
DEVICES = {
    "nvml": Device("nvml", NVML),
    "rapl": Device("rapl", replace(SENSORS["RAPL, wraps at 3 kJ"], range_joules=262_143.0)),
    "power": Device("hwmon", SENSORS["power, instant 20 ms"]),
    "nvml-unstamped": Device("nvml", replace(NVML, stamps=False)),
    "nvml-duty": Device("nvml", SENSORS["power, 25 % duty"]),
    "nvml-average": Device("nvml", SENSORS["power, 1 s average"]),
}
USUAL = ("nvml", "rapl", "power")


class TurnPower:
    """Power that follows a turn: a level of its own for rest, load, prefill and decode."""

    def __init__(self, rng: random.Random) -> None:
        self.levels = {
            "rest": rng.uniform(15, 90),
            "load": rng.uniform(60, 150),
            "prefill": rng.uniform(150, 350),
            "decode": rng.uniform(100, 250),
        }
        self.steps = [(0.0, 0.0, self.levels["rest"])]  # Seconds, joules up to them, watts
        self._read_s = 0.0
        self._lock = threading.Lock()

    def step(self, seconds: float, phase: str) -> None:
        """Draw the level of a phase from a time on, or from the last reading, which stays true."""
        with self._lock:
            since_s, joules, watts = self.steps[-1]
            at_s = max(seconds, self._read_s, since_s)
            joules += (at_s - since_s) * watts
            self.steps.append((at_s, joules, self.levels[phase]))

    def watts(self, seconds: float) -> float:
        """Return the power at a time."""
        return self._find(seconds)[2]

    def joules(self, seconds: float) -> float:
        """Return the energy up to a time."""
        since_s, joules, watts = self._find(seconds)
        return joules + (seconds - since_s) * watts

    def between(self, start_s: float, end_s: float) -> float:
        """Return the energy of an interval, joules."""
        return self.joules(end_s) - self.joules(start_s)

    def _find(self, seconds: float) -> tuple[float, float, float]:
        with self._lock:
            self._read_s = max(self._read_s, seconds)
            return self.steps[max(bisect_right(self.steps, (seconds, 1e99, 0.0)) - 1, 0)]


def make_curve(name: str, rng: random.Random) -> PowerCurve:
    """Draw a curve: ``turn`` follows the answer, the others do not."""
    if name == "turn":
        return TurnPower(rng)
    if name == "slopes":
        low, high, half = rng.uniform(40, 100), rng.uniform(200, 330), rng.uniform(0.8, 1.8)
        count = int(CURVE_SECONDS / half) + 1
        return WattCurve(tuple((i * half, high if i % 2 else low) for i in range(count)))
    return CURVES[name](rng, CURVE_SECONDS)


CURVE_NAMES = ("turn", "slopes", *CURVES)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    device: str
    curve: str
    seed: int
    tokens: int
    out: str  # File for what only the process knows
    record: bool


class Clock:
    """The monotonic clock, with the seconds of a curve."""

    def __init__(self) -> None:
        self.start_ns = time.monotonic_ns() - round(BEFORE_S * 1e9)

    def __call__(self) -> int:
        return time.monotonic_ns()

    @property
    def seconds(self) -> float:
        """Seconds of the curve."""
        return (time.monotonic_ns() - self.start_ns) / 1e9

    def at(self, seconds: float) -> int:
        """Convert seconds of the curve to nanoseconds of the clock."""
        return self.start_ns + round(seconds * 1e9)


class FakeNvml:
    """The functions of pynvml that a source calls, over one device."""

    # ruff: noqa: N802 - the names are those of pynvml

    class NVMLError(Exception):
        """An error of the driver."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        sensor = device.sensor
        self._field = 185 if sensor.average_s else 186

    def nvmlInit(self) -> None:
        """Do nothing."""

    def nvmlShutdown(self) -> None:
        """Do nothing."""

    def nvmlDeviceGetCount(self) -> int:
        """Return that there is one GPU."""
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """Return the index itself."""
        return index

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        """Return a limit in milliwatts."""
        return 450_000

    def nvmlDeviceGetFieldValues(self, handle: int, fields: Sequence[Any]) -> list[Any]:
        """Return counter and power as they are at the begin of the call."""
        reading = read_device(self._device)
        stamp_us = time.time_ns() // 1000
        if reading.updated_ns is not None:
            stamp_us -= (time.monotonic_ns() - reading.updated_ns) // 1000
        time.sleep(CALL_S)  # as a call of the driver, it lets other threads run
        found = {83: reading.joules, self._field: reading.watts}
        numbers = [each[0] if isinstance(each, tuple) else each for each in fields]
        return [
            SimpleNamespace(
                fieldId=number,
                nvmlReturn=3 if found.get(number) is None else 0,
                valueType=3,
                timestamp=stamp_us,
                value=SimpleNamespace(ullVal=int((found.get(number) or 0.0) * 1e3)),
            )
            for number in numbers
        ]


def read_device(device: FakeDevice) -> Any:
    """Read a device now."""
    return device._reading(device.clock.seconds)


def install(plan: Plan) -> FakeDevice:
    """Let the sources of this process read a fake device, whose curve starts now."""
    rng = random.Random(plan.seed)
    chosen = DEVICES[plan.device]
    sensor = replace(chosen.sensor, phase_s=rng.uniform(0, 0.1))
    clock: Any = Clock()
    device = FakeDevice(make_curve(plan.curve, rng), clock, sensor)
    if chosen.source == "nvml":
        sys.modules["pynvml"] = FakeNvml(device)  # type: ignore[assignment]
        return device
    from etui.energy.sources import hwmon, rapl
    from etui.energy.sources.sysfs import read_micro

    def read(path: Path) -> float | None:
        reading = read_device(device)
        if read_micro(path) is None or "cap" in path.name or "limit" in path.name:
            return read_micro(path)
        watts: float | None = reading.watts
        joules: float | None = reading.joules
        return watts if "power" in path.name else joules

    for module, name in ((rapl, "read_micro"), (hwmon, "read_micro"), (hwmon, "read_positive")):
        setattr(module, name, read)
    return device


def follow(device: FakeDevice, power: TurnPower) -> None:
    """Let the power of this process's turn follow the engine's events, at their times."""
    from etui import events
    from etui.energy.recorder import Recorder

    def step(name: str, time_of: str, phase: str) -> None:
        kind = getattr(events, name)
        build = kind.__init__

        def follow_event(self: Any, *args: Any, **named: Any) -> None:
            build(self, *args, **named)
            power.step((getattr(self, time_of) - device.clock.start_ns) / 1e9, phase)

        kind.__init__ = follow_event

    step("Loaded", "end_ns", "prefill")
    step("Prefilled", "end_ns", "decode")
    step("Finished", "end_ns", "rest")
    mark = Recorder.mark

    def begin(self: Recorder, t_ns: int, *args: Any) -> None:
        Recorder.mark = mark  # type: ignore[method-assign]
        power.step(device.clock.seconds, "load")
        mark(self, t_ns, *args)

    Recorder.mark = begin  # type: ignore[method-assign,assignment]


def log_reads(log: list[Any]) -> None:
    """Log every reading and mark that the meter's recordings get, in order."""
    from etui.energy import recorder

    recording = vars(recorder)["ChannelRecording"]
    observe, mark = recording.observe, recording.mark

    def observed(self: Any, reading: Any, *, added: bool = False) -> None:
        log.append(
            (
                *(time.monotonic_ns(), "read", reading.t_ns, reading.joules, reading.watts),
                *(reading.updated_ns, added, reading.half_ns),
            )
        )
        observe(self, reading, added=added)

    def marked(self: Any, t_ns: int, *args: Any) -> None:
        log.append((time.monotonic_ns(), "mark", t_ns, *args))
        mark(self, t_ns, *args)

    recording.observe, recording.mark = observed, marked


def child(text: str) -> int:
    """Answer in this process as ``etui ask`` does, on a fake device."""
    plan = Plan(**json.loads(text))
    device = install(plan)
    log: list[Any] = []
    if isinstance(device.curve, TurnPower):
        follow(device, device.curve)
    if plan.record:
        log_reads(log)
    from etui.cli.main import run

    question = f"What is joule number {plan.seed}?"
    tokens = ["--max-tokens", str(plan.tokens)]
    code = run(["ask", question, "--model", "smollm2-135m", *tokens, "--json"])
    steps = device.curve.steps if isinstance(device.curve, TurnPower) else []
    found = {"start_ns": device.clock.start_ns, "steps": steps, "log": log}
    Path(plan.out).write_text(json.dumps(found), encoding="utf-8")
    return code


@dataclass(frozen=True, slots=True)
class Run:
    """What one run stated, and the truth; joules and seconds."""

    device: str
    curve: str
    seed: int
    joules: float
    uncertainty: float
    truth: float
    seconds: float
    flags: tuple[str, ...]

    @property
    def inside(self) -> bool:
        """Whether the truth is within the stated uncertainty."""
        return abs(self.joules - self.truth) <= self.uncertainty + 1e-6


def write_sysfs(root: Path, source: str) -> None:
    """Write the files that a source looks for; their values are replaced when they are read."""
    files: dict[str, str] = {}
    if source == "rapl":
        files = {
            "class/powercap/intel-rapl:0/name": "package-0",
            "class/powercap/intel-rapl:0/energy_uj": "1000000",
            "class/powercap/intel-rapl:0/max_energy_range_uj": "262143000000",
        }
    if source == "hwmon":
        files = {
            "class/hwmon/hwmon0/name": "amdgpu",
            "class/hwmon/hwmon0/freq2_label": "mclk",
            "class/hwmon/hwmon0/power1_average": "50000000",
            "class/hwmon/hwmon0/power1_cap": "450000000",
        }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="ascii")


def ask(plan: Plan, folder: Path, record: Path | None) -> Run:
    """Ask in a new process, and compare what it states with the truth."""
    sysfs = folder / "sysfs" / DEVICES[plan.device].source
    write_sysfs(sysfs, DEVICES[plan.device].source)
    models = os.environ.get("ETUI_MODELS") or str(CHECKOUT / ".models")
    paths = (str(CHECKOUT), os.environ.get("PYTHONPATH"))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fresh_ask", "--child", json.dumps(asdict(plan))],
        env={
            **os.environ,
            "ETUI_HOME": str(folder / "home"),
            "ETUI_MODELS": str(Path(models).absolute()),
            "ETUI_SYSFS": str(sysfs),
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        },
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{plan}: {done.stderr.strip()}")
    known = json.loads(Path(plan.out).read_text(encoding="utf-8"))
    found = {"plan": asdict(plan), "energy": json.loads(done.stdout)["energy"], **known}
    if record is not None:
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
    return compare(found)


def compare(record: dict[str, Any]) -> Run:
    """Compare what a run stated with the truth."""
    plan, energy = Plan(**record["plan"]), record["energy"]
    rng = random.Random(plan.seed)
    rng.uniform(0, 0.1)  # the phase
    curve = make_curve(plan.curve, rng)
    if isinstance(curve, TurnPower):
        curve.steps = [(seconds, joules, watts) for seconds, joules, watts in record["steps"]]
    start_s, end_s = ((energy[key] - record["start_ns"]) / 1e9 for key in ("start_ns", "end_ns"))
    return Run(
        plan.device,
        plan.curve,
        plan.seed,
        energy["joules"],
        energy["uncertainty"],
        curve.between(start_s, end_s),
        end_s - start_s,
        tuple(energy["flags"]),
    )


@contextmanager
def compiling() -> Iterator[None]:
    """Compile on every core meanwhile."""
    command = [sys.executable, "-c", COMPILING]
    processes = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Summarise runs; shares and errors in percent."""
    return {
        "runs": len(runs),
        "inside": 100 * sum(run.inside for run in runs) / len(runs),
        "bias": 100 * (sum(run.joules for run in runs) / sum(run.truth for run in runs) - 1),
        "median_error": 100 * median(abs(run.joules / run.truth - 1) for run in runs),
        "median_uncertainty": 100 * median(run.uncertainty / run.truth for run in runs),
        "median_seconds": median(run.seconds for run in runs),
    }


def print_runs(runs: Sequence[Run]) -> None:
    """Print a table: each device, and what it gave for each curve; then the misses."""
    head = ("runs", "inside %", "bias %", "error %", "± %", "turn s")
    print(f"{'device':<26}" + "".join(f"{cell:>10}" for cell in head))
    for device in dict.fromkeys(run.device for run in runs):
        own = [run for run in runs if run.device == device]
        rows = {device: own}
        for curve in dict.fromkeys(run.curve for run in own):
            rows[f"  {curve}"] = [run for run in own if run.curve == curve]
        for name, members in rows.items():
            found = summarise(members)
            cells = [f"{found['runs']}", f"{found['inside']:.1f}", f"{found['bias']:+.2f}"]
            cells += [
                f"{found[f'median_{key}']:.2f}" for key in ("error", "uncertainty", "seconds")
            ]
            print(f"{name:<26}" + "".join(f"{cell:>10}" for cell in cells))
    for run in runs:
        if not run.inside:
            what = f"{run.device} {run.curve} seed {run.seed}"
            print(
                f"outside: {what}: {run.joules:.2f} ± {run.uncertainty:.2f} J, "
                f"truth {run.truth:.2f} J, {run.seconds:.2f} s, {' '.join(run.flags)}"
            )


def make_runs(chosen: argparse.Namespace, runs: list[Run]) -> None:
    """Run as the options say, and add what was found."""
    # Half of the runs follow the answer, as real devices do.
    others = [name for name in CURVE_NAMES if name != "turn"]
    curves = chosen.curve.split(",") if chosen.curve else [n for o in others for n in ("turn", o)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="etui-fresh-")))
        if chosen.beside:
            stack.enter_context(compiling())
        for number in range(chosen.runs):
            for device in chosen.device.split(","):
                seed = 1000 * chosen.seed + number
                tokens = random.Random(seed).choice((2, 8, 24))
                curve = curves[number % len(curves)]
                out = str(folder / "out.json")
                plan = Plan(device, curve, seed, tokens, out, chosen.record is not None)
                runs.append(ask(plan, folder, chosen.record))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="runs of each device")
    parser.add_argument("--device", default=",".join(USUAL), help=", ".join(DEVICES))
    parser.add_argument("--curve", default="", help=f"{', '.join(CURVE_NAMES)}; else all in turn")
    parser.add_argument("--beside", action="store_true", help="compile on every core meanwhile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="file for the readings of every run")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--read", type=Path, nargs="+", help="summarise recorded runs; run none")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child is not None:
        sys.exit(child(chosen.child))
    if chosen.read:
        lines = (line for path in chosen.read for line in path.open(encoding="utf-8"))
        runs = [compare(json.loads(line)) for line in lines]
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        runs = []
        with suppress(KeyboardInterrupt):
            make_runs(chosen, runs)
    if chosen.json:
        devices = dict.fromkeys(run.device for run in runs)
        found = {name: summarise([run for run in runs if run.device == name]) for name in devices}
        print(json.dumps({"devices": found, "runs": [asdict(run) for run in runs]}))
        return
    print_runs(runs)


if __name__ == "__main__":
    main()
