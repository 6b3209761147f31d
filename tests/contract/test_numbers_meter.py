"""Joules, half widths and the rest of what the meter computes, on played devices."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.attribution import CurveMeter, Schedule
from etui.arm import TokenCost
from etui.energy.diagnosis import TraceWriter, replay
from etui.energy.energy_record import compute_sensor_floor
from etui.energy.idle import compute_baseline
from etui.energy.recorder import Recorder
from etui.energy.sharing import (
    CpuUse,
    GpuUse,
    busy_share,
    compute_cpu_share,
    compute_share,
    others_use,
)
from etui.energy.sources.estimate import fit_range
from etui.energy.tariff import Rate
from etui.energy.types import Channel, Energy, Kind, Reading
from etui.turn.shared_meter import BatchCost, find_batch_cost, split_by_weights, weigh_requests
from tests.contract.numbers import check_numbers
from tests.support.devices import SENSORS, FakeClock, FakeDevice, Sensor
from tests.support.play import live_windows, sample
from tests.support.power_curves import CURVES, steps
from tests.support.turns import TurnLoad, play_turns
from tests.turn.sharing import Client, any_curve, batch, ledger_of, meter_of

COUNTER = SENSORS["counter 100 ms + instant power"]
RAPL = SENSORS["RAPL, wraps at 3 kJ"]
AVERAGE = SENSORS["power, 1 s average"]
LENGTHS = (0.0, 0.05, 0.12, 0.3, 0.7, 1.5, 4.0, 9.0)


def measure(recorder: Recorder, clock: FakeClock, seconds: float) -> list[Energy]:
    """Measure intervals of several lengths, at the edges of the record and inside it."""
    rng = random.Random(5)
    found = []
    for length in LENGTHS:
        for start in (-0.5, rng.uniform(1, seconds - length - 1), seconds - length + 0.1):
            found.append(recorder.energy(clock.at(start), clock.at(start + length)))
    return found


def play(
    sensor: Sensor, curve: str, seed: int, seconds: float = 14.0, **options: Any
) -> tuple[Recorder, FakeClock]:
    clock, rng = FakeClock(), random.Random(seed)
    device = FakeDevice(CURVES[curve](rng, seconds + 2), clock, sensor, **options)
    recorder = Recorder([device], clock=clock)
    sample(recorder, clock, seconds, rng)
    return recorder, clock


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).replace("--", "-")


def everything(recorder: Recorder, clock: FakeClock, seconds: float = 14.0) -> dict[str, Any]:
    """All that a recorder states about a record."""
    start_ns, end_ns = clock.at(-0.3), clock.at(seconds + 0.3)
    edges = [clock.at(-1 + (seconds + 2) * at / 37) for at in range(38)]
    return {
        "energies": measure(recorder, clock, seconds),
        "net": [energy.net_joules for energy in measure(recorder, clock, seconds)],
        "joules_of": recorder.joules_of(list(pairwise(edges))),
        "curve": recorder.power_curve(start_ns, end_ns, 41),
        "latest": recorder.latest(),
        "since_start": recorder.joules_since_start,
        "period": {c.id: recorder.period_s(c.id) for c in recorder.channels},
        "cross_check": {
            c.id: recorder.cross_check(c.id, clock.at(2), clock.at(seconds - 2))
            for c in recorder.channels
        },
    }


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("sensor", ["counter 100 ms", "power, whole watts"])
def test_every_curve(sensor: str, curve: str) -> None:
    recorder, clock = play(SENSORS[sensor], curve, 1)
    check_numbers(f"meter-{_slug(sensor)}-{curve}", everything(recorder, clock))


@pytest.mark.parametrize("sensor", SENSORS)
def test_every_sensor(sensor: str) -> None:
    recorder, clock = play(SENSORS[sensor], "bursts", 7)
    check_numbers(f"meter-{_slug(sensor)}", everything(recorder, clock))


FAULTS: dict[str, Callable[[], tuple[Recorder, FakeClock]]] = {
    "resets": lambda: play(COUNTER, "stairs", 2, resets=(4.2, 4.3, 9.7)),
    "gaps": lambda: play(COUNTER, "stairs", 3, fails=lambda now: 3 < now < 3.7 or 8 < now < 11.5),
    "gaps-wrap": lambda: play(RAPL, "ramps", 3, fails=lambda now: 3 < now < 3.7 or 8 < now < 11.5),
    "gaps-power": lambda: play(
        AVERAGE, "ramps", 4, fails=lambda now: 3 < now < 3.7 or 8 < now < 11.5
    ),
    "drops": lambda: play(COUNTER, "flicker", 5, fails=lambda now: int(now * 10) % 7 == 0),
    "coarse": lambda: play(
        replace(COUNTER, counter_step_joules=4.0, counter_period_s=0.5), "bursts", 6
    ),
    "no-period": lambda: play(replace(COUNTER, jitter_s=0.045), "spikes", 8),
    "silent-end": lambda: play(COUNTER, "stairs", 9, fails=lambda now: now > 12.2),
    "stamped-reset": lambda: play(SENSORS["counter 100 ms, stamped"], "bursts", 10, resets=(6.0,)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_readings(fault: str) -> None:
    recorder, clock = FAULTS[fault]()
    check_numbers(f"meter-fault-{fault}", everything(recorder, clock))


@pytest.mark.parametrize("sensor", ["counter 100 ms + instant power", "power, 1 s average"])
def test_windows_that_have_just_ended(sensor: str) -> None:
    clock, rng = FakeClock(), random.Random(2)
    curve = CURVES["bursts"](rng, 90)
    recorder = Recorder([FakeDevice(curve, clock, SENSORS[sensor])], clock=clock)
    sample(recorder, clock, 2, rng)
    found = live_windows(recorder, clock, curve, 25, rng, lengths_s=(0.05, 2.0))
    check_numbers(f"meter-live-{_slug(sensor)}", [window.energy for window in found])


class Late(FakeDevice):
    """Stamps each refresh late by a delay that varies by up to 4 ms."""

    def _reading(self, now_s: float) -> Reading:
        reading = super()._reading(now_s)
        assert reading.updated_ns is not None
        late_ns = round(random.Random(reading.updated_ns).uniform(1e6, 5e6))
        return replace(reading, updated_ns=reading.updated_ns + late_ns)


def test_timestamps_that_are_late() -> None:
    clock, rng = FakeClock(), random.Random(12)
    device = Late(CURVES["bursts"](rng, 24), clock, SENSORS["counter 100 ms, stamped"])
    recorder = Recorder([device], clock=clock)
    sample(recorder, clock, 20, rng)
    check_numbers("meter-late-stamps", everything(recorder, clock, 20.0))


TURNS: dict[str, Sequence[Sensor]] = {
    "counter": (COUNTER,),
    "counter-only": (SENSORS["counter 100 ms"],),
    "power-20": (SENSORS["power, instant 20 ms"],),
    "average": (AVERAGE,),
    "mixed": (COUNTER, RAPL, AVERAGE),
}


@pytest.mark.parametrize("device", TURNS)
def test_turns_and_their_phases(device: str) -> None:
    found: list[Any] = []
    for seconds, prefill in ((0.3, 0.06), (2.0, 0.25)):
        for marked in (True, False):
            load = TurnLoad(seconds, prefill)
            turns = play_turns(TURNS[device], load, 4, random.Random(3), marked=marked)
            found += [(t.total.energy, t.prefill.energy, t.decode.energy) for t in turns]
    check_numbers(f"meter-turns-{device}", found)


def test_totals_of_several_scopes() -> None:
    clock, rng = FakeClock(), random.Random(4)
    devices = [
        FakeDevice(CURVES[curve](rng, 20), clock, SENSORS[name], scope=scope)
        for scope, name, curve in (
            ("gpu:A", "counter 100 ms + instant power", "bursts"),
            ("gpu:B", "power, 1 s average", "stairs"),
            ("package:0", "RAPL, wraps at 3 kJ", "ramps"),
            ("psys", "RAPL, wraps at 3 kJ", "constant"),
            ("dram:0", "RAPL, wraps at 3 kJ", "constant"),
        )
    ]
    recorder = Recorder(devices, clock=clock, unmeasured=("gpu:C",))
    sample(recorder, clock, 14, rng)
    plain = everything(recorder, clock)
    recorder.set_idle({"gpu:A": 42.5})
    partial = measure(recorder, clock, 14)
    recorder.set_idle({"gpu:A": 42.5, "gpu:B": 31.25, "package:0": 12.0, "dram:0": 2.5})
    baseline = compute_baseline(recorder, clock.at(2), clock.at(7))
    assert baseline is not None
    check_numbers(
        "meter-totals",
        {
            "plain": plain,
            "some idle": partial[:6],
            "idle": measure(recorder, clock, 14)[6:18],
            "baseline": replace(baseline, measured_at=0.0),
        },
    )


def test_an_estimate_and_a_device_without_readings() -> None:
    clock, rng = FakeClock(), random.Random(6)
    estimate = FakeDevice(CURVES["ramps"](rng, 20), clock, RAPL)
    estimate.channel = Channel(
        "estimate:cpu", "estimate:cpu", Kind.ESTIMATE,
        relative_error=0.4, range_joules=3000.0, idle_watts=9.0,
    )  # fmt: skip
    silent = FakeDevice(CURVES["ramps"](rng, 20), clock, scope="gpu:A", fails=lambda now: True)
    found: dict[str, Any] = {}
    for way in ("auto", "always", "never"):
        clock.now_ns = clock.start_ns
        recorder = Recorder([estimate, silent], clock=clock, estimate=way)
        sample(recorder, clock, 14, random.Random(6))
        found[way] = measure(recorder, clock, 14)[::4]
    found["whole"] = everything(recorder, clock)
    check_numbers("meter-estimate", found)


def test_a_recorded_trace_gives_the_same_joules(tmp_path: Path) -> None:
    clock, rng = FakeClock(), random.Random(8)
    devices = [
        FakeDevice(CURVES["bursts"](rng, 12), clock, SENSORS[name], scope=scope)
        for scope, name in (("gpu:A", "counter 100 ms, stamped"), ("gpu:B", "power, 25 % duty"))
    ]
    recorder = Recorder(devices, clock=clock)
    path = tmp_path / "trace.jsonl"
    with path.open("w", encoding="utf-8") as file:
        recorder.taps.append(TraceWriter(file, recorder.channels, ("package:0",)).write)
        sample(recorder, clock, 9, rng)
    replayed, start_ns, end_ns = replay(path)
    inner = [(start_ns + at * 10**9, end_ns - at * 5 * 10**8) for at in range(4)]
    check_numbers("meter-trace", [replayed.energy(*span) for span in inner])


def test_idle_is_measured() -> None:
    clock, rng = FakeClock(), random.Random(1)
    device = FakeDevice(steps([(20, 60.0), (10, 260.0)]), clock, COUNTER)
    recorder = Recorder(
        [device], clock=clock, sleep=lambda seconds: sample(recorder, clock, seconds, rng)
    )
    sample(recorder, clock, 2, rng)
    idle = recorder.measure_idle(5)
    sample(recorder, clock, 22, rng)
    energies = [recorder.energy(clock.at(a), clock.at(b)) for a, b in ((21, 26), (3, 8), (19, 22))]
    found = {"idle": idle, "energies": energies, "net": [each.net_joules for each in energies]}
    baseline = compute_baseline(recorder, clock.at(2), clock.at(9))
    assert baseline is not None
    found["baseline"] = replace(baseline, measured_at=0.0)
    check_numbers("meter-idle", found)


def test_who_used_the_devices() -> None:
    rng = random.Random(9)
    uses, total = [], [0.0, 0.0, 0.0]
    for at in range(40):
        busy = rng.uniform(0, 8)
        own = busy * rng.random()
        total = [total[0] + busy, total[1] + own, total[2] + 8.0]
        uses.append(CpuUse(at * 500_000_000, total[1], total[0], total[2]))
    spans = [(rng.randrange(0, 10**10), rng.randrange(10**10, 2 * 10**10)) for _ in range(12)]
    spans += [(-(10**9), 10**9), (19 * 10**9, 25 * 10**9), (5, 5)]
    gpu = [
        GpuUse(
            at * 10**9, f"gpu:{at % 2}", rng.random() * 60, rng.random() * 40 if at % 5 else None,
            at % 3, at == 17,
        )
        for at in range(20)
    ]  # fmt: skip
    check_numbers(
        "meter-sharing",
        {
            "cpu": [compute_cpu_share(uses, *span) for span in spans],
            "busy": [busy_share(uses, *span) for span in spans],
            "others": [others_use(uses, *span) for span in spans],
            "gpu": [
                compute_share(gpu, scope, *span, reach)
                for span in spans
                for scope in ("gpu:0", "gpu:1", "gpu:2")
                for reach in (0, 10**9)
            ],
        },
    )


def test_small_formulas() -> None:
    rng = random.Random(10)
    readings = [(share, 12 + 38 * share + rng.gauss(0, 0.4)) for share in (0, 0.1, 0.5, 0.9, 1.0)]
    kinds = [kind.value for kind in Kind]
    check_numbers(
        "meter-formulas",
        {
            "fit": fit_range(readings),
            "floor": {kind: compute_sensor_floor(0.031, kind) for kind in kinds},
            "carbon": [Rate(1.4, 345.0).of(joules).to_json() for joules in (0.0, 3.2, 7e6)],
        },
    )


def test_shares_of_batches() -> None:
    rng = random.Random(11)
    found: list[Any] = []
    for _ in range(30):
        tokens = [rng.choice((0, 1, 1, 1, 37, 512)) for _ in range(rng.randrange(1, 7))]
        cost = BatchCost(rng.uniform(0, 5), rng.uniform(0.01, 2)) if rng.random() < 0.8 else None
        weights = weigh_requests(tokens, cost)
        found.append((tokens, weights, split_by_weights(rng.uniform(0, 90), weights)))
    costs = [find_batch_cost(TokenCost(rng.uniform(0, 9), joules_per_prompt_token=rng.random()))
             for _ in range(8)]  # fmt: skip
    check_numbers("batch-weights", {"weights": found, "costs": costs})


def test_turns_that_share_batches() -> None:
    two = (
        batch(1, 2, (1, 4, 0)),
        batch(2, 3, (1, 0, 1), (2, 4, 0)),
        batch(3, 4, (1, 0, 1), (2, 0, 1), (3, 17, 0)),
        batch(4.5, 5, (2, 0, 1), (3, 0, 1)),
    )
    machine = CurveMeter(any_curve())
    ledger = ledger_of(*two)
    found: dict[str, Any] = {}
    for number, start, prefill, end in ((1, 1, 2, 4), (2, 2, 3, 5), (3, 3, 4, 5)):
        client = Client(number, *(round(each * 1e9) for each in (start, prefill, end)))
        for label, cost in (("cost", TokenCost(2.0, joules_per_prompt_token=0.5)), ("none", None)):
            meter = meter_of(machine, ledger_of(*two), number, cost=cost)
            spans = [(0, 9), (1, 2), (2.5, 3.25), (3, 5)]
            found[f"{number} {label}"] = [
                meter.energy(round(a * 1e9), round(b * 1e9)) for a, b in spans
            ]
        (record,) = client.play(meter_of(machine, ledger, number)).turns
        found[f"{number} turn"] = record.energy
    check_numbers("batch-turns", found)


def test_schedules_of_shared_batches() -> None:
    found = []
    for seed in range(5):
        schedule = Schedule(seed)
        found.append(schedule.run())
        found.append([request.energy for request in schedule.ended])
    check_numbers("batch-schedules", found)
