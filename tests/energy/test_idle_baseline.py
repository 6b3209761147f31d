"""Idle baselines, cold and loaded, kept between runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from etui.config.config import Config
from etui.energy.discovery import open_recorder
from etui.energy.idle import (
    Baselines,
    IdleBaseline,
    baseline_file,
    load_baselines,
    measure_baseline,
    save_baselines,
    use_baseline,
)
from etui.energy.recorder import Recorder
from etui.energy.sharing import GpuShare
from etui.energy.sources.estimate import EstimateSource
from etui.errors import EtuiError
from tests.support.devices import FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import WattCurve, constant, steps

COLD = IdleBaseline({"gpu:FAKE": 20.0}, 1.0, 5.0, True)
LOADED = IdleBaseline({"gpu:FAKE": 60.0}, 2.0, 5.0, True)


class Busy:
    """CPUs of which a share is used, by others than etui."""

    def __init__(self, share: float | None) -> None:
        self.used = share

    def share(self, scope: str, start_ns: int, end_ns: int) -> GpuShare:
        return GpuShare(bool(self.used), 0.0)

    def busy_share(self, start_ns: int, end_ns: int) -> float | None:
        return self.used


def running(curve: WattCurve) -> tuple[Recorder, FakeClock]:
    clock = FakeClock()
    rng = random.Random(1)
    recorder = Recorder(
        [FakeDevice(curve, clock)],
        clock=clock,
        sleep=lambda seconds: sample(recorder, clock, seconds, rng),
    )
    sample(recorder, clock, 2, rng)
    return recorder, clock


def test_a_quiet_machine_gives_a_steady_baseline() -> None:
    recorder, _ = running(constant(45.0, 30))
    idle = measure_baseline(recorder, 5)
    assert idle is not None
    assert idle.total_watts == pytest.approx(45, rel=0.02)
    assert idle.steady
    assert recorder.idle_watts == idle.total_watts


def test_a_busy_machine_is_not_called_steady() -> None:
    recorder, _ = running(steps([(4, 45.0), (1, 250.0), (20, 45.0)]))
    idle = measure_baseline(recorder, 5)
    assert idle is not None
    assert not idle.steady


def test_no_meter_gives_no_baseline() -> None:
    recorder = Recorder([], sleep=lambda seconds: None)
    assert measure_baseline(recorder, 1) is None


def test_a_loaded_model_has_a_baseline_of_its_own() -> None:
    recorder, _ = running(constant(45.0, 30))
    known = Baselines(COLD).with_idle(LOADED, "qwen3-8b")
    assert use_baseline(recorder, known, "qwen3-8b") == "loaded"
    assert recorder.idle_watts == 60
    assert use_baseline(recorder, known, "another") == "cold"
    assert recorder.idle_watts == 20
    assert use_baseline(recorder, known) == "cold"


def test_a_loaded_baseline_of_other_hardware_gives_way_to_the_cold_one() -> None:
    recorder, _ = running(constant(45.0, 30))
    other = IdleBaseline({"package:0": 9.0}, 1.0, 5.0, True)
    assert use_baseline(recorder, Baselines(COLD, {"qwen3-8b": other}), "qwen3-8b") == "cold"
    assert recorder.idle_watts == 20


def test_a_gpu_that_others_use_is_not_at_rest() -> None:
    class Crowd:
        def share(self, scope: str, start_ns: int, end_ns: int) -> GpuShare:
            return GpuShare(True, 0.1)

    recorder, _ = running(constant(45.0, 30))
    recorder.watch = Crowd()
    with pytest.raises(EtuiError, match="other processes use a GPU"):
        measure_baseline(recorder, 5)
    idle = measure_baseline(recorder, 5, force=True)
    assert idle is not None
    assert not idle.steady


@pytest.mark.parametrize(("busy", "at_rest"), [(0.1, True), (0.85, False), (None, True)])
def test_a_baseline_is_measured_only_at_rest(busy: float | None, at_rest: bool) -> None:
    recorder, _ = running(constant(45.0, 30))
    recorder.set_idle({"gpu:FAKE": 20.0})
    recorder.cpu_watch = Busy(busy)
    if at_rest:
        idle = measure_baseline(recorder, 5)
        assert idle is not None
        assert idle.steady
        assert recorder.idle_watts == pytest.approx(45, rel=0.02)
        return
    with pytest.raises(EtuiError, match=r"the CPUs are busy \(85%\)") as caught:
        measure_baseline(recorder, 5)
    assert "--force" in caught.value.fix
    assert recorder.idle_watts == 20
    forced = measure_baseline(recorder, 5, force=True)
    assert forced is not None
    assert not forced.steady


def test_the_baseline_of_an_estimate_is_its_formula() -> None:
    clock = FakeClock()
    source = EstimateSource(
        10.0, 110.0, clock=clock, utilisation=lambda: (0.4 * clock.seconds, clock.seconds)
    )
    recorder = Recorder(
        [source], clock=clock, sleep=lambda s: sample(recorder, clock, s, random.Random(1))
    )
    recorder.cpu_watch = Busy(0.4)
    assert use_baseline(recorder, Baselines(), "m") == "formula"
    assert recorder.idle_watts == 10
    learned = Baselines(IdleBaseline({"estimate:cpu": 18.0}, 1.0, 5.0, True))
    assert use_baseline(recorder, learned) == "formula"
    assert recorder.idle_watts == 10
    idle = measure_baseline(recorder, 5)
    assert idle is not None
    assert idle.steady
    assert dict(idle.watts) == {"estimate:cpu": 10.0}
    energy = recorder.energy(clock.at(1), clock.at(4))
    assert energy.joules is not None
    assert energy.net_joules == pytest.approx(energy.joules - 30)


def test_an_estimate_next_to_a_gpu_needs_no_baseline_of_its_own() -> None:
    clock = FakeClock()
    source = EstimateSource(10.0, 110.0, clock=clock, utilisation=lambda: (0.0, clock.seconds))
    recorder = Recorder(
        [FakeDevice(constant(45.0, 30), clock), source], clock=clock, estimate="always"
    )
    assert use_baseline(recorder, Baselines()) is None
    assert recorder.idle_watts is None
    assert use_baseline(recorder, Baselines(COLD)) == "cold"
    assert recorder.idle_watts == 30


def test_a_baseline_of_other_hardware_is_not_used() -> None:
    recorder, _ = running(constant(45.0, 30))
    other = Baselines(IdleBaseline({"package:0": 9.0}, 1.0, 5.0, True))
    recorder.set_idle({"gpu:FAKE": 1.0})
    assert use_baseline(recorder, other) is None
    assert recorder.idle_watts is None


def test_baselines_are_kept(config: Config) -> None:
    kept = Baselines(COLD, {"qwen3-8b": LOADED})
    save_baselines(config, kept)
    assert load_baselines(config) == kept


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cold": 3, "loaded": {}}', "\x00"])
def test_a_damaged_file_is_as_good_as_none(config: Config, content: str) -> None:
    baseline_file(config).write_text(content)
    assert load_baselines(config) == Baselines()


def test_a_new_recorder_takes_the_kept_baseline(
    config: Config, powercap: Callable[..., Path]
) -> None:
    powercap("intel-rapl:0", "package-0")
    save_baselines(config, Baselines(IdleBaseline({"package:0": 9.0}, 1.0, 5.0, True)))
    assert open_recorder(config).idle_watts == 9
