"""Apple Silicon: counters that are refreshed in batches or stop, and the power of the whole Mac."""

from __future__ import annotations

import math
import random
import struct
import time
from types import SimpleNamespace

import pytest

from etui.energy.discovery import find_sources
from etui.energy.recorder import Recorder
from etui.energy.sources.apple import AppleSource, read_smc_float
from etui.energy.types import Kind
from tests.support.devices import FakeClock
from tests.support.play import sample
from tests.support.power_curves import WattCurve, constant, steps

BATCHES = (0.75, 1.32, 0.91, 1.19, 0.42, 1.69)
"""Seconds between two refreshes on macOS 27: https://github.com/lablup/all-smi/issues/415."""
CPU, GPU, MEMORY, ENGINE = (constant(watts, 1e4) for watts in (8.0, 20.0, 3.0, 0.05))


class Chip:
    """An AppleEnergyMonitor of a chip.

    Args:
        cpu: True power of the CPU.
        batches: Seconds between refreshes of all but the GPU, in turn; none refreshes by each read.
        frozen_s: When the counter of the CPU stops.
        reads_zero: Whether each second read gives 0.
    """

    def __init__(
        self,
        clock: FakeClock,
        cpu: WattCurve = CPU,
        *,
        batches: tuple[float, ...] = (),
        frozen_s: float = math.inf,
        reads_zero: bool = False,
    ) -> None:
        self.clock, self.cpu, self.frozen_s = clock, cpu, frozen_s
        self.fails, self.reads, self.reads_zero = False, 0, reads_zero
        self.edges = [0.0]
        while batches and self.edges[-1] < 200:
            self.edges.append(self.edges[-1] + batches[len(self.edges) % len(batches)])

    def get_cumulative_energy(self) -> SimpleNamespace:
        if self.fails:
            raise RuntimeError("IOReport subscription is gone")
        now_s = self.clock.seconds
        refreshed_s = max(edge for edge in self.edges if edge <= now_s) if self.edges[1:] else now_s
        self.reads += 1
        known = 0 if self.reads_zero and self.reads % 2 == 0 else 1
        return SimpleNamespace(
            cpu_total_mj=known * count(self.cpu, min(refreshed_s, self.frozen_s)),
            gpu_mj=known * count(GPU, now_s),
            dram_mj=known * count(MEMORY, refreshed_s),
            ane_mj=count(ENGINE, refreshed_s),
        )


def count(curve: WattCurve, seconds: float) -> int:
    return 1_000_000 + int(1e3 * curve.joules(seconds))


def record(chip: Chip, seconds: float) -> Recorder:
    recorder = Recorder([AppleSource(chip.clock, chip, on_apple=True)], clock=chip.clock)
    sample(recorder, chip.clock, seconds, random.Random(1))
    return recorder


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_apple_silicon_is_the_vendors_model(clock):
    energy = record(Chip(clock), 10).energy(clock.at(2), clock.at(8))
    assert energy.kind is Kind.MODEL
    parts = {part.id: part.joules for part in energy.channels}
    assert parts["package:0"] == pytest.approx(6 * 8.05, rel=0.01)
    assert parts["gpu:apple"] == pytest.approx(120, rel=0.01)
    assert parts["dram:0"] == pytest.approx(18, rel=0.01)
    assert energy.coverage == 1


def test_a_cpu_that_stands_still_is_not_its_neural_engine(clock):
    recorder = record(Chip(clock, frozen_s=0), 10)
    energy = recorder.energy(clock.at(2), clock.at(8))
    assert "package:0" not in {part.id for part in energy.channels}
    assert energy.unmeasured == ("package:0",)
    assert energy.coverage == 0


@pytest.mark.parametrize("end_s", [8, 14, 19])
def test_a_cpu_that_stops_widens_what_contains_it(clock, end_s):
    energy = record(Chip(clock, frozen_s=5), 20).energy(clock.at(2), clock.at(end_s))
    package = next(part for part in energy.channels if part.id == "package:0")
    assert abs(package.joules - 8.05 * (end_s - 2)) <= package.uncertainty
    assert "extrapolated" in package.flags
    assert package.coverage < 1


def test_after_a_cpu_has_stopped_it_is_missing(clock):
    energy = record(Chip(clock, frozen_s=5), 20).energy(clock.at(12), clock.at(18))
    assert energy.unmeasured == ("package:0",)


def test_readings_that_alternate_between_nothing_and_all_count_each_joule_once(clock):
    energy = record(Chip(clock, reads_zero=True), 20).energy(clock.at(3), clock.at(17))
    assert abs(energy.joules - 14 * 31.05) <= energy.uncertainty
    assert energy.joules == pytest.approx(14 * 31.05, rel=0.02)


def test_counters_that_are_refreshed_together_are_inside_their_uncertainty(clock):
    cpu = steps([(4.2, 2.0), (1.3, 30.0)] * 30)
    chip = Chip(clock, cpu, batches=BATCHES)
    recorder = record(chip, 120)
    rng, inside, count = random.Random(2), 0, 100
    for _ in range(count):
        start_s = rng.uniform(10, 100)
        end_s = start_s + rng.uniform(1.3, 6)
        energy = recorder.energy(clock.at(start_s), clock.at(end_s))
        truth = cpu.between(start_s, end_s) + 23.05 * (end_s - start_s)
        inside += abs(energy.joules - truth) <= energy.uncertainty
        assert energy.peak_watts < 1.3 * 53.05
    assert inside >= 0.95 * count
    periods = {channel.id: recorder.period_s(channel.id) for channel in recorder.channels}
    assert periods["gpu:apple"] < 0.1
    assert 0.5 < periods["package:0"] < 1.6


def test_an_answer_waits_for_a_counter_that_is_refreshed_rarely(monkeypatch):
    clock = FakeClock()
    chip = Chip(clock, batches=(1.0,))
    recorder = Recorder([AppleSource(clock, chip, on_apple=True)], clock=clock)
    sample(recorder, clock, 8.1, random.Random(1))
    end_ns = clock()
    began_ns = time.monotonic_ns()

    def run(_: FakeClock) -> int:  # five times as fast as time passes
        return end_ns + 5 * (time.monotonic_ns() - began_ns)

    monkeypatch.setattr(FakeClock, "__call__", run)
    monkeypatch.setattr(FakeClock, "seconds", property(lambda self: (self() - self.start_ns) / 1e9))
    with recorder:
        assert recorder.settle(end_ns)
    energy = recorder.energy(clock.at(4.5), end_ns)
    assert "extrapolated" not in energy.flags


def test_apple_counters_that_fail_are_gaps(clock):
    chip = Chip(clock)
    source = AppleSource(clock, chip, on_apple=True)
    chip.fails = True
    assert source.read()["gpu:apple"].joules is None


def test_a_counter_that_never_counted_is_named(clock):
    chip = Chip(clock)
    read = chip.get_cumulative_energy
    chip.get_cumulative_energy = lambda: SimpleNamespace(**{**vars(read()), "dram_mj": 0})
    source = AppleSource(clock, chip, on_apple=True)
    assert source.unreadable_scopes == ["dram:0"]
    assert {channel.id for channel in source.channels} == {"package:0", "gpu:apple"}


def test_a_mac_without_the_package_is_told_what_to_install():
    [probe] = AppleSource(on_apple=True).probe()
    assert probe.found
    assert probe.fix == "pip install zeus-apple-silicon"
    assert AppleSource(on_apple=False).probe() == []


class Smc:
    """An SMC with one key; ``watts`` None is one without it."""

    def __init__(self, watts: float | None, kind: bytes = b"flt ", size: int = 4) -> None:
        self.watts, self.kind, self.size = watts, kind, size

    def __call__(self, request: bytes) -> bytes:
        assert len(request) == 80
        assert request[:4] == b"PSTR"[::-1]
        answer = bytearray(80)
        if self.watts is None:
            answer[40] = 132  # there is no such key
        elif request[42] == 9:
            struct.pack_into("<I4s", answer, 28, self.size, self.kind[::-1])
        else:
            assert request[42] == 5
            assert struct.unpack_from("<I", request, 28) == (self.size,)
            struct.pack_into("<f", answer, 48, self.watts)
        return bytes(answer)


def test_the_power_of_the_whole_mac_is_read_and_never_added(clock):
    source = AppleSource(clock, Chip(clock), on_apple=True, ask_smc=Smc(41.5))
    recorder = Recorder([source], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(8))
    assert energy.joules == pytest.approx(6 * 31.05, rel=0.01)
    [whole] = energy.cross_checks
    assert (whole.id, whole.kind) == ("system", Kind.INTEGRATED)
    assert whole.joules == pytest.approx(6 * 41.5, rel=0.01)


@pytest.mark.parametrize("smc", [Smc(None), Smc(41.5, b"sp78", 2), Smc(0.0)])
def test_a_mac_whose_smc_has_no_such_power_has_no_cross_check(clock, smc):
    source = AppleSource(clock, Chip(clock), on_apple=True, ask_smc=smc)
    assert "system" not in {channel.id for channel in source.channels}


def test_a_failing_smc_is_a_gap(clock):
    smc = Smc(41.5)
    source = AppleSource(clock, on_apple=True, ask_smc=smc)
    assert [channel.id for channel in source.channels] == ["system"]
    assert read_smc_float(smc, b"PSTR") == 41.5
    source._ask_smc = fail
    assert source.read()["system"].watts is None


def fail(_: bytes) -> bytes:
    raise OSError(1, "refused")


def test_a_mac_without_the_package_is_measured_as_a_whole(config, monkeypatch):
    monkeypatch.setattr("etui.energy.sources.apple._is_apple_silicon", lambda: True)
    monkeypatch.setattr("etui.energy.sources.apple._open_smc", lambda: Smc(41.5))
    found = find_sources(config)
    channels = [channel.id for source in found.sources for channel in source.channels]
    assert channels == ["system"]
    assert found.unmeasured == ()
