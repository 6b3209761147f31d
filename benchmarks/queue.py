"""How far the joules of turns are off that follow each other at once, or run on many devices.

Turns of known power are played to the meter in queues, each measured as soon as it can be while the
next ones run. For each sensor, length of a turn and pause between two turns: the bias of a turn
(the mean of the relative errors) and of its prefill, the bias of the sum of all turns, and the
share whose truth lies within its ±. Then turns whose power takes 60 ms to rise and fall, on one
and on many devices; and random windows of loads that a part-time power sensor cannot follow.

    python -m benchmarks.queue [--turns N] [--seed N] [--only WORD] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from benchmarks.figures import Figure
from tests.support.devices import SENSORS, Sensor
from tests.support.play import EnergyWindow, record, windows
from tests.support.power_curves import steps
from tests.support.turns import PREFILL_SECONDS, PlayedTurn, TurnLoad, play_queue, play_turns

COUNTER = SENSORS["counter 100 ms"]
TURNS_OF_A_QUEUE = 25
SHORT = TurnLoad(0.3, PREFILL_SECONDS[0.3])
LONG = TurnLoad(1.0, PREFILL_SECONDS[1.0])


@dataclass(frozen=True, slots=True)
class Row:
    """What is played, and how."""

    name: str
    load: TurnLoad
    pause_s: tuple[float, float] | None  # None: long pauses of random length
    sensors: tuple[Sensor, ...] = (COUNTER,)


def list_rows() -> Iterator[Row]:
    """List the rows of the table."""
    for pause in (0.0, 0.05, 0.1, 0.15, 0.2):
        yield Row(f"pause {pause:g} s", SHORT, (pause, pause))
    yield Row("pause 0-0.2 s", SHORT, (0.0, 0.2))
    yield Row("pause 0-0.2 s, turns of 1 s", LONG, (0.0, 0.2))
    for pause in (0.05, 0.15):
        yield Row(
            f"pause {pause:g} s, power varies 20 %", replace(SHORT, varies=0.2), (pause, pause)
        )
        warm = replace(SHORT, pause_watts=90.0)
        yield Row(f"pause {pause:g} s, warm at 90 W", warm, (pause, pause))
    for name in ("counter 100 ms + instant power", "counter 20 ms", "RAPL, wraps at 3 kJ"):
        yield Row(f"{name}, pause 0-0.2 s", SHORT, (0.0, 0.2), (SENSORS[name],))
    uneven = replace(COUNTER, jitter_s=0.015)
    yield Row("counter 100 ms, uneven, pause 0-0.2 s", SHORT, (0.0, 0.2), (uneven,))
    for load, text in ((SHORT, "0.3 s"), (LONG, "1 s")):
        average = (SENSORS["power, 1 s average"],)
        yield Row(f"1 s average, turns of {text}, pause 0-0.2 s", load, (0.0, 0.2), average)
        yield Row(f"1 s average, turns of {text}, long pauses", load, None, average)
    for ramp in (0.0, 0.06):
        for count in (1, 8, 32):
            load = replace(SHORT, ramp_s=ramp)
            yield Row(f"{count} GPUs, ramp {1000 * ramp:g} ms", load, None, (COUNTER,) * count)
    ramped = replace(SHORT, ramp_s=0.06)
    yield Row("8 GPUs, ramp 60 ms, pause 0-0.2 s", ramped, (0.0, 0.2), (COUNTER,) * 8)


def play_row(row: Row, count: int, seed: int) -> list[PlayedTurn]:
    """Play the turns of a row, many queues of them, or fewer ones on many devices."""
    turns: list[PlayedTurn] = []
    wanted = max(count // len(row.sensors), min(count, 100))
    while len(turns) < wanted:
        rng = random.Random(1_000_003 * seed + len(turns))
        number = min(TURNS_OF_A_QUEUE, wanted - len(turns))
        if row.pause_s is None:
            turns += play_turns(row.sensors, row.load, number, rng)
        else:
            turns += play_queue(row.sensors, row.load, row.pause_s, number, rng)
    return turns


def judge(parts: Sequence[EnergyWindow]) -> dict[str, float]:
    """Judge the same window of many turns."""
    errors = [(part.energy.joules or 0.0) / part.truth - 1 for part in parts]
    measured = sum(part.energy.joules or 0.0 for part in parts)
    return {
        "bias": fmean(errors),
        "bias_of_sum": measured / sum(part.truth for part in parts) - 1,
        "error_95": sorted(abs(error) for error in errors)[int(0.95 * len(errors))],
        "stated": median((part.energy.uncertainty or 0.0) / part.truth for part in parts),
        "inside": sum(part.inside for part in parts) / len(parts),
    }


def make_row(row: Row, count: int, seed: int) -> dict[str, Any]:
    """Play and judge a row."""
    turns = play_row(row, count, seed)
    found: dict[str, Any] = {"name": row.name, "turns": len(turns)}
    for part in ("total", "prefill", "decode"):
        found[part] = judge([getattr(turn, part) for turn in turns])
    return found


def alias_rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Judge random windows of loads that come and go about as often as a sensor refreshes."""
    for name in ("power, 25 % duty", "power, instant 20 ms", "power, whole watts"):
        for hertz in (9.7, 9.9, 10.3, 13.1, 19.7):
            found: list[EnergyWindow] = []
            while len(found) < count:
                rng = random.Random(1_000_003 * seed + len(found))
                on = rng.uniform(0.2, 0.8) / hertz
                curve = steps([(on, 300.0), (1 / hertz - on, 60.0)] * int(46 * hertz))
                sensor = replace(SENSORS[name], phase_s=rng.uniform(0, 0.1))
                recorder, clock = record(curve, sensor, 40, rng)
                found += windows(recorder, clock, curve, 40, rng, lengths_s=(0.3, 10.0))
            said = sum("aliased" in window.energy.flags for window in found) / len(found)
            yield {"name": f"{name}, {hertz:g} Hz", "windows": len(found), "aliased": said} | judge(
                found
            )


def quick() -> Iterator[Figure]:
    """Turns of 0.3 s with pauses of 0.05 and 0.15 s, and eight devices with a ramp."""
    for row in list_rows():
        if row.name in ("pause 0.05 s", "pause 0.15 s", "8 GPUs, ramp 60 ms"):
            found = make_row(row, 100, 0)
            for part in ("total", "prefill"):
                label = f"joules measured : true, bias of turns of 0.3 s, {part}, {row.name}"
                yield Figure(label, 100 * abs(found[part]["bias"]), "%", n=found["turns"])


def main() -> None:
    """Play all rows and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=2000, metavar="N", help="turns of each row")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the first queue")
    parser.add_argument("--only", default="", metavar="WORD", help="rows whose name contains it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    chosen = [row for row in list_rows() if options.only in row.name]
    if not options.json:
        print(f"{'turns, in per cent':<48}" + "".join(f"{p:>40}" for p in ("total", "prefill")))
        head = "".join(f"{c:>8}" for c in ("bias", "of sum", "95 %", "stated", "inside"))
        print(f"{'':<42}{'turns':>6}{head}{head}")
    rows = []
    for row in chosen:
        rows.append(make_row(row, options.turns, options.seed))
        if not options.json:
            cells = "".join(
                f"{100 * value:>8.2f}"
                for part in ("total", "prefill")
                for value in rows[-1][part].values()
            )
            print(f"{row.name:<42}{rows[-1]['turns']:>6}{cells}", flush=True)
    aliased = []
    if not options.only or options.only == "alias":
        for found in alias_rows(options.turns, options.seed):
            aliased.append(found)
            if not options.json:
                cells = "".join(
                    f"{100 * found[key]:>8.2f}"
                    for key in ("bias", "error_95", "stated", "inside", "aliased")
                )
                print(f"{found['name']:<42}{found['windows']:>6}{cells}", flush=True)
    if options.json:
        print(json.dumps({"turns": rows, "windows": aliased}, indent=2))


if __name__ == "__main__":
    main()
