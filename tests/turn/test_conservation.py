"""Whatever requests do, they, the loads and the idle time have all joules of the meter."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks.attribution
from benchmarks.attribution import Request, Schedule, play
from etui.energy.recorder import Recorder
from etui.energy.sources.rapl import RaplSource
from etui.turn.record import TurnEnergy
from etui.turn.shared_meter import BatchCost, BatchGroup, BatchLedger
from tests.support.devices import SENSORS, FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import CURVES
from tests.turn.sharing import Client, batch, meter_of, total

TOLERANCE = 1e-9


def test_random_schedules_lose_no_joule() -> None:
    found = list(play(100))
    assert max(each.largest for each in found) < TOLERANCE
    assert sum(each.turns for each in found) > 1000


class Turns(Schedule):
    """A schedule whose requests are turns of ``run_turn``, answered by script."""

    def measure(self, request: Request, prefill_end_ns: int, end_ns: int) -> TurnEnergy:
        client = Client(request.number, request.start_ns, prefill_end_ns, end_ns)
        (record,) = client.play(request.meter).turns
        assert record.energy.attribution is not None
        return record.energy


def test_random_schedules_of_real_turns_lose_no_joule() -> None:
    found = [Turns(seed).run() for seed in range(100, 130)]
    assert max(each.largest for each in found) < TOLERANCE
    assert sum(each.turns for each in found) > 300


def test_schedules_have_everything_that_can_go_wrong() -> None:
    schedules = [Schedule(seed) for seed in range(40)]
    for schedule in schedules:
        schedule.run()
    energies = [r.energy for each in schedules for r in each.ended if r.energy is not None]
    assert any(len(each.shares) >= 5 for s in schedules for each in s.batches)
    assert any(not each.shares for s in schedules for each in s.batches)  # a crash
    assert any(r.decode_left or r.prompt_left for s in schedules for r in s.ended)  # a leave
    assert sum(bool(each.loads) for each in schedules) > 20
    assert all(energy.joules is not None for energy in energies)
    kinds = {type(cost) for each in schedules for cost in each.costs.values()}
    assert len(kinds) == 2


def test_the_schedules_notice_a_part_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.attribution, "widen_legs", list)
    assert max(each.total for each in play(20)) > TOLERANCE


def test_the_schedules_notice_members_that_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_cost(self: BatchLedger, group: BatchGroup, find_cost) -> BatchCost | None:
        return find_cost(group.model)

    monkeypatch.setattr(BatchLedger, "fix_cost", forget_cost)
    assert max(each.total for each in play(20)) > TOLERANCE


S = 1_000_000_000


def play_on(recorder: Recorder, clock: FakeClock, rng: random.Random, seconds: float) -> None:
    """Let two requests share batches in the middle of the time, and compare all sums."""
    ledger = BatchLedger()
    edges = sorted(clock.at(rng.uniform(2, seconds - 2)) for _ in range(60))
    for index in range(59):
        shares = [(1, 3 if index < 5 else 0, 1)] if index < 40 else []
        shares += [(2, 6 if index < 20 else 0, index % 3)] if index > 15 else []
        ledger.add(batch(edges[index] / S, edges[index + 1] / S, *shares))
    turns = []
    for number, first, last in ((1, 0, 40), (2, 16, 59)):
        client = Client(number, edges[first] + 9, edges[first + 4] + 99, edges[last] + 99)
        (record,) = client.play(meter_of(recorder, ledger, number)).turns
        turns.append(record)
        phases = record.energy.phases
        assert total([phases["prefill"], phases["decode"]]) == pytest.approx(
            record.energy.joules, rel=1e-9
        )
        assert math.fsum(record.energy.channels.values()) == pytest.approx(record.energy.joules)
        assert (record.energy.uncertainty or 0.0) > 0
        assert record.energy.attribution is not None
        assert record.energy.attribution.method == "shapley"
    begin, end = clock.at(1), clock.at(seconds - 1)
    idle = [recorder.energy(begin, edges[0]).joules, recorder.energy(edges[-1], end).joules]
    whole = recorder.energy(begin, end).joules
    assert total([*idle, *(turn.energy.joules for turn in turns)]) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("sensor", ["counter 100 ms", "power, instant 20 ms", "power, 1 s average"])
def test_on_the_recorder_turns_and_idle_time_are_the_total(sensor: str) -> None:
    clock, rng = FakeClock(), random.Random(4)
    devices = [
        FakeDevice(CURVES["bursts"](rng, 14), clock, SENSORS[name], scope=scope)
        for name, scope in ((sensor, "gpu:A"), ("RAPL, wraps at 3 kJ", "package:0"))
    ]
    recorder = Recorder(devices, clock=clock)
    sample(recorder, clock, 12, rng)
    play_on(recorder, clock, rng, 12)


def test_on_a_sysfs_tree_turns_and_idle_time_are_the_total(tmp_path: Path) -> None:
    zone = tmp_path / "class" / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    counter = zone / "energy_uj"
    for file, text in (("name", "package-0"), ("max_energy_range_uj", "262143328850")):
        (zone / file).write_text(f"{text}\n")
    clock, rng = FakeClock(), random.Random(9)
    curve = CURVES["bursts"](rng, 14)

    def tick(seconds: float) -> None:
        clock.advance(seconds)
        counter.write_text(f"{round(curve.joules(clock.seconds) * 1e6) + 5_000_000}\n")

    tick(0.0)
    recorder = Recorder([RaplSource(tmp_path, clock)], clock=clock)
    for _ in range(1200):
        recorder.sample_now()
        tick(0.01)
    play_on(recorder, clock, rng, 12)
    assert recorder.energy(clock.at(1), clock.at(11)).joules == pytest.approx(
        curve.between(1, 11), rel=0.02
    )


NVML = """
import ctypes, random
driver_ns = ctypes.c_longlong.in_dll(ctypes.CDLL("libnvidia-ml.so.1"), "fake_nvml_now_ns")
from etui.energy.recorder import Recorder
from etui.energy.sources.nvml import NvmlSource
from tests.support.devices import FakeClock
from tests.support.play import sample
from tests.turn.test_conservation import play_on
class SharedClock(FakeClock):
    def advance(self, seconds):
        super().advance(seconds)
        driver_ns.value = self.now_ns
clock = SharedClock()
clock.advance(0.0)
recorder = Recorder([NvmlSource(clock, clock)], clock=clock)
sample(recorder, clock, 12, random.Random(2))
play_on(recorder, clock, random.Random(3), 12)
print(recorder.energy(clock.at(1), clock.at(11)).joules)
"""


def test_through_nvml_turns_and_idle_time_are_the_total(
    fake_nvml_dir: Path, etui_home: Path, tmp_path: Path
) -> None:
    settings = {
        "LD_LIBRARY_PATH": str(fake_nvml_dir),
        "FAKE_NVML_CURVE": "0:80,1.1:80,1.1:310,2.0:310,2.0:140,2.6:140",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", NVML],
        env=os.environ | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1700, rel=0.2)
