"""What the meter costs, and how far it is off.

    python -m benchmarks.meter [--json] [--quick]

Four parts: the recorder's cost at 20 Hz in percent of one core (on this machine's sources, and on
a model of one GPU with a counter); the time of one `energy()` over an hour of samples; for each
device model and window length the median and worst error against the known integral, the median
stated uncertainty, and the share of windows that it holds; and the same for turns (rest at 40 W,
prefill at 300 W, decode at 180 W, rest), where the bias counts: the power steps at their ends.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figures import Figure, ratio_of, timed_in_turn
from etui.config.config import Config, load_config
from etui.energy.discovery import open_recorder
from etui.energy.recorder import Recorder
from etui.energy.types import Channel, ChannelProbe, Kind, PowerSource, Reading
from tests.support.devices import SENSORS, FakeClock, FakeDevice, Sensor
from tests.support.play import EnergyWindow, count_bytes, record, windows
from tests.support.power_curves import CURVES, bursts
from tests.support.turns import PREFILL_SECONDS, PlayedTurn, TurnLoad, play_turns

LENGTHS_S = ((0.1, 0.3), (0.3, 0.6), (0.6, 2.0), (2.0, 5.0), (5.0, 30.0))


COUNTER = SENSORS["counter 100 ms + instant power"]
RAPL = SENSORS["RAPL, wraps at 3 kJ"]
AVERAGE = SENSORS["power, 1 s average"]
TURN_DEVICES: dict[str, tuple[Sensor, ...]] = {
    "counter 100 ms": (SENSORS["counter 100 ms"],),
    "counter 100 ms + instant power": (COUNTER,),
    "2 of them": (COUNTER,) * 2,
    "8 of them": (COUNTER,) * 8,
    "32 of them": (COUNTER,) * 32,
    "counter 100 ms, jitter 20 ms": (replace(COUNTER, jitter_s=0.02),),
    "counter 100 ms, jitter 45 ms": (replace(COUNTER, jitter_s=0.045),),
    "counter 20 ms": (SENSORS["counter 20 ms"],),
    "RAPL": (RAPL,),
    "2 x RAPL": (RAPL,) * 2,
    "power, instant 20 ms": (SENSORS["power, instant 20 ms"],),
    "power, 25 % duty": (SENSORS["power, 25 % duty"],),
    "power, 1 s average": (AVERAGE,),
    "8 x power, 1 s average": (AVERAGE,) * 8,
    "counter, RAPL, 1 s average": (COUNTER, RAPL, AVERAGE),
}


class CheapGpu:
    """A counter and a power reading in real time, as cheap as a source can be."""

    name = "cheap"

    def __init__(self) -> None:
        self.channel = Channel("gpu:A", "gpu:A", Kind.COUNTER)

    @property
    def channels(self) -> Sequence[Channel]:
        return [self.channel]

    def probe(self) -> Sequence[ChannelProbe]:
        return []

    def read(self) -> Mapping[str, Reading]:
        now_ns = time.monotonic_ns()
        return {"gpu:A": Reading(now_ns, now_ns // 100_000_000 * 20.0, 200.0)}

    def close(self) -> None:
        pass


def cost_percent(recorder: Recorder, seconds: float) -> float:
    """CPU time of this process, which does nothing else, in percent of one core."""
    with recorder:
        time.sleep(1.2)  # the quick first second that learns the periods
        wall, busy = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        return 100 * (time.process_time() - busy) / (time.perf_counter() - wall)


def recorder_costs(seconds: float, config: Config) -> dict[str, float]:
    found = open_recorder(config)
    names = ", ".join(channel.id for channel in found.channels) or "no channel"
    gpu: list[PowerSource] = [CheapGpu()]
    with TemporaryDirectory() as folder:
        package = Path(folder) / "class" / "powercap" / "intel-rapl:0"
        package.mkdir(parents=True)
        (package / "name").write_text("package-0")
        (package / "energy_uj").write_text("1000000")
        files = open_recorder(replace(config, sysfs_dir=Path(folder), estimate="never"))
        return {
            f"this machine ({names})": cost_percent(found, seconds),
            "one GPU, counter and power": cost_percent(Recorder(gpu), seconds),
            "one package through sysfs": cost_percent(files, seconds),
            "no source": cost_percent(Recorder([]), seconds),
        }


def hour_recorder(rng: random.Random) -> tuple[Recorder, FakeClock]:
    """A recorder with an hour of samples, counter and power both."""
    clock = FakeClock()
    sensor = SENSORS["counter 100 ms + instant power"]
    recorder = Recorder([FakeDevice(bursts(rng, 3700), clock, sensor)], clock=clock)
    while clock.seconds < 3600:
        recorder.sample_now()
        clock.advance(0.05)
    return recorder, clock


def query_seconds() -> dict[str, float]:
    """Times of one energy() on an hour of samples."""
    rng = random.Random(1)
    recorder, clock = hour_recorder(rng)
    found = {}
    for name, length in (("1 s", 1.0), ("1 min", 60.0), ("1 h", 3590.0)):
        times = []
        for _ in range(200):
            start = rng.uniform(2, 3598 - length)
            begin = time.perf_counter()
            recorder.energy(clock.at(start), clock.at(start + length))
            times.append(time.perf_counter() - begin)
        found[f"energy() over {name}"] = median(times)
    found["megabytes of an hour"] = count_bytes(recorder) / 1e6
    return found


def error_table(
    seeds: int,
    count: int,
    sensors: Mapping[str, Sensor] = SENSORS,
    lengths_s: Sequence[tuple[float, float]] = LENGTHS_S,
) -> list[dict[str, Any]]:
    rows = []
    for name, sensor in sensors.items():
        found: dict[tuple[float, float], list[EnergyWindow]] = {length: [] for length in lengths_s}
        for make in CURVES.values():
            for seed in range(seeds):
                rng = random.Random(seed)
                curve = make(rng, 70)
                placed = replace(sensor, phase_s=rng.uniform(0, 0.1))
                recorder, clock = record(curve, placed, 66, rng)
                for length in lengths_s:
                    found[length] += windows(recorder, clock, curve, count, rng, lengths_s=length)
        for length, judged in found.items():
            errors = sorted(window.error for window in judged)
            stated = [(w.energy.uncertainty or 0.0) / w.truth for w in judged]
            rows.append(
                {
                    "device": name,
                    "window_seconds": list(length),
                    "windows": len(judged),
                    "median_error": median(errors),
                    "error_95": errors[int(0.95 * len(errors))],
                    "worst_error": errors[-1],
                    "median_uncertainty": median(stated),
                    "inside": sum(window.inside for window in judged) / len(judged),
                }
            )
    return rows


def turn_table(
    seeds: int,
    count: int,
    devices: Mapping[str, tuple[Sensor, ...]] = TURN_DEVICES,
    lengths_s: Sequence[float] = tuple(PREFILL_SECONDS),
) -> list[dict[str, Any]]:
    """Bias, median stated uncertainty and share inside, of turns and their phases."""
    rows = []
    for name, sensors in devices.items():
        for seconds in lengths_s:
            load = TurnLoad(seconds, PREFILL_SECONDS[seconds])
            turns: list[PlayedTurn] = []
            for seed in range(seeds):
                share = max(count // len(sensors), 4)
                turns += play_turns(sensors, load, share, random.Random(seed))
            row: dict[str, Any] = {"device": name, "turn_seconds": seconds, "turns": len(turns)}
            for part in ("total", "prefill", "decode"):
                judged: list[EnergyWindow] = [getattr(turn, part) for turn in turns]
                measured = sum(window.energy.joules or 0.0 for window in judged)
                stated = [(w.energy.uncertainty or 0.0) / w.truth for w in judged]
                errors = sorted(window.error for window in judged)
                row[part] = {
                    "bias": measured / sum(window.truth for window in judged) - 1,
                    "error_95": errors[int(0.95 * len(errors))],
                    "median_uncertainty": median(stated),
                    "inside": sum(window.inside for window in judged) / len(judged),
                }
            rows.append(row)
    return rows


QUICK_SENSORS = ("counter 100 ms", "power, instant 20 ms", "power, 1 s average")
QUICK_LENGTH_S = (0.6, 2.0)


def quick() -> Iterator[Figure]:
    """Errors of three sensors, an hour's query against a second's, and two seconds of sampling."""
    sensors = {name: SENSORS[name] for name in QUICK_SENSORS}
    low, high = QUICK_LENGTH_S
    for row in error_table(1, 20, sensors, [QUICK_LENGTH_S]):
        label = f"joules measured : true, median error, {row['device']}, {low:g}-{high:g} s"
        yield Figure(label, 100 * row["median_error"], "%", n=row["windows"])
    [row] = turn_table(1, 20, {"": TURN_DEVICES["counter 100 ms"]}, [0.3])
    for part in ("total", "prefill"):
        label = f"joules measured : true, bias of turns of 0.3 s, {part}, counter 100 ms"
        yield Figure(label, 100 * abs(row[part]["bias"]), "%", n=row["turns"])
    recorder, clock = hour_recorder(random.Random(1))
    pairs = timed_in_turn(
        lambda: recorder.energy(clock.at(5.0), clock.at(3595.0)),
        lambda: recorder.energy(clock.at(1800.0), clock.at(1801.0)),
        20,
        repeats=(20, 20),
    )
    yield ratio_of("energy() over an hour : over a second", pairs)
    cost = cost_percent(Recorder([CheapGpu()]), 2.0)
    yield Figure("recorder at 20 Hz, one GPU", cost, "% of a core", "absolute")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="fewer windows, shorter timing")
    options = parser.parse_args()
    config = load_config()
    document: dict[str, Any] = {
        "recorder_percent_of_one_core": recorder_costs(3 if options.quick else 15, config),
        "query": query_seconds(),
        "errors": error_table(1 if options.quick else 4, 20 if options.quick else 60),
        "turns": turn_table(1 if options.quick else 8, 20),
    }
    if options.json:
        print(json.dumps(document, indent=2))
        return
    print(f"recorder at {config.sample_hz:g} Hz")
    for name, percent in document["recorder_percent_of_one_core"].items():
        print(f"  {name:<44}{percent:6.2f} % of one core")
    print("queries on an hour of samples")
    for name, value in document["query"].items():
        shown = f"{value:.1f}" if "mega" in name else f"{1e6 * value:.0f} us"
        print(f"  {name:<44}{shown:>9}")
    print("errors over all power curves, in percent")
    head = ("window s", "windows", "median", "95 %", "worst", "stated", "inside")
    print(f"  {'device':<32}" + "".join(f"{cell:>10}" for cell in head))
    for row in document["errors"]:
        low, high = row["window_seconds"]
        cells = [f"{low:g}-{high:g}", str(row["windows"])]
        keys = ("median_error", "error_95", "worst_error", "median_uncertainty", "inside")
        cells += [f"{100 * row[key]:.2f}" for key in keys]
        print(f"  {row['device']:<32}" + "".join(f"{cell:>10}" for cell in cells))
    print_turns(document["turns"])


def print_turns(rows: Sequence[Mapping[str, Any]]) -> None:
    print("turns (rest, prefill, decode, rest), in percent: bias, stated, inside")
    head = "".join(f"{part:>27}" for part in ("total", "prefill", "decode"))
    print(f"  {'device':<32}{'turn s':>7}{'turns':>7}{head}")
    for row in rows:
        parts = [row[part] for part in ("total", "prefill", "decode")]
        keys = ("bias", "median_uncertainty", "inside")
        cells = "".join(f"{100 * part[key]:>9.2f}" for part in parts for key in keys)
        print(f"  {row['device']:<32}{row['turn_seconds']:>7g}{row['turns']:>7}{cells}")


if __name__ == "__main__":
    main()
