"""Idle baselines, cold and loaded, kept between runs."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from etui.config.config import Config
from etui.energy.discovery import open_recorder
from etui.energy.idle import (
    KEPT_SECONDS,
    PAUSE_MEASURED_SECONDS,
    PAUSE_QUIET_SECONDS,
    Baselines,
    IdleBaseline,
    IdleTracker,
    baseline_file,
    load_baselines,
    measure_baseline,
    refuse_busy,
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

NEEDED = PAUSE_QUIET_SECONDS + PAUSE_MEASURED_SECONDS
COLD = IdleBaseline({"gpu:FAKE": 20.0}, 1.0, 5.0, True)
LOADED = IdleBaseline({"gpu:FAKE": 60.0}, 2.0, 5.0, True)


class Chat:
    """A recorder on a fake clock whose pauses last as long as a test says."""

    def __init__(self, config: Config, curve: WattCurve) -> None:
        self.clock = FakeClock()
        self.recorder = Recorder([FakeDevice(curve, self.clock)], clock=self.clock)
        self.rest = IdleTracker(self.recorder, config, self.clock)
        self.wait(2)

    def wait(self, seconds: float) -> None:
        sample(self.recorder, self.clock, seconds, random.Random(1))


@pytest.mark.parametrize(
    ("curve", "seconds", "is_used"),
    [
        (steps([(2, 200.0), (5, 120.0), (90, 61.0)]), NEEDED + 1, True),
        (steps([(2 + NEEDED + 2, 61.0), (60, 200.0)]), NEEDED + 10, True),  # measured before that
        (
            steps([(2 + 60, 90.0), (2 * KEPT_SECONDS, 61.0)]),
            60 + KEPT_SECONDS + 10,
            True,
        ),  # a night
        (steps([(2 + PAUSE_QUIET_SECONDS + 1, 61.0), (1, 200.0), (60, 61.0)]), NEEDED + 1, False),
        (constant(61.0, 50_000), 8 * 3600, False),  # it slept
    ],
)
def test_a_long_pause_at_rest_becomes_the_models_baseline(config, curve, seconds, is_used):
    chat = Chat(config, curve)
    chat.rest.begin("m")
    if seconds > 3600:
        chat.wait(10)
        chat.clock.advance(seconds)
    else:
        chat.wait(seconds)
    kept = chat.rest.end()
    assert load_baselines(config).loaded == ({"m": kept} if is_used else {})
    if is_used:
        assert kept.total_watts == pytest.approx(61, rel=0.02)


def baseline(watts: float, channel: str = "gpu:FAKE") -> IdleBaseline:
    return IdleBaseline({channel: watts}, 1.0, 5.0, True)


@pytest.mark.parametrize(
    ("known", "replaces_loaded", "replaces_cold"),
    [
        (baseline(10.0), False, False),  # a model is measured once
        (baseline(95.0), True, True),  # learned while other jobs ran
        (baseline(62.0), False, False),  # a little less is noise
        (baseline(9.0, "package:0"), True, False),  # of other hardware
    ],
)
def test_a_known_baseline_is_replaced_where_it_is_too_high(
    config, known, replaces_loaded, replaces_cold
):
    save_baselines(config, Baselines(known, {"m": known, "other": known}))
    chat = Chat(config, constant(61.0, 200))
    chat.rest.begin("m")
    chat.wait(NEEDED + 1)
    kept = chat.rest.end()
    assert (kept is not None) == replaces_loaded
    cold = kept if replaces_cold else known  # without a model it draws no more than with one
    loaded = {"m": kept if replaces_loaded else known, "other": known}
    assert load_baselines(config) == Baselines(cold, loaded)


@pytest.mark.parametrize("what", ["busy", "estimated"])
def test_a_pause_of_a_busy_or_an_estimated_machine_is_not_used(config, what):
    chat = Chat(config, constant(61.0, 200))
    if what == "busy":
        chat.recorder.cpu_watch = Busy(0.9)
    else:
        clock = chat.clock
        source = EstimateSource(10.0, 110.0, clock=clock, utilisation=lambda: (0.0, clock.seconds))
        chat.recorder = Recorder([source], clock=clock)
        chat.rest = IdleTracker(chat.recorder, config, clock)
        chat.wait(2)
    chat.rest.begin("m")
    chat.wait(NEEDED + 1)
    assert chat.rest.end() is None
    assert load_baselines(config) == Baselines()


def test_a_short_pause_is_none(config):
    chat = Chat(config, constant(61.0, 200))
    chat.rest.begin("m")
    chat.wait(NEEDED - 0.5)
    assert chat.rest.end() is None
    chat.wait(NEEDED)
    assert chat.rest.end() is None  # nothing began since
    assert load_baselines(config) == Baselines()


@pytest.fixture
def recorder() -> Any:
    return SimpleNamespace(
        watch=None,
        cpu_watch=None,
        selection=SimpleNamespace(summed=()),
        settle=lambda end_ns: None,
    )


def test_a_machine_at_work_is_refused(recorder, monkeypatch):
    notes: list[str] = []
    consequence = "the joules will be too high"
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 3.0)
    refuse_busy(recorder, force=False, note=notes.append, consequence=consequence)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 64.0)
    with pytest.raises(EtuiError, match=r"the machine is not idle: the CPUs are busy \(64%\)"):
        refuse_busy(recorder, force=False, note=notes.append, consequence=consequence)
    assert not notes
    refuse_busy(recorder, force=True, note=notes.append, consequence=consequence)
    assert notes == [
        "the machine is not idle: the CPUs are busy (64%); the joules will be too high"
    ]


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


def test_a_quiet_machine_gives_a_steady_baseline():
    recorder, _ = running(constant(45.0, 30))
    idle = measure_baseline(recorder, 5)
    assert idle.total_watts == pytest.approx(45, rel=0.02)
    assert idle.steady
    assert recorder.idle_watts == idle.total_watts


def test_a_busy_machine_is_not_called_steady():
    recorder, _ = running(steps([(4, 45.0), (1, 250.0), (20, 45.0)]))
    idle = measure_baseline(recorder, 5)
    assert not idle.steady


def test_no_meter_gives_no_baseline():
    recorder = Recorder([], sleep=lambda seconds: None)
    assert measure_baseline(recorder, 1) is None


def test_a_loaded_model_has_a_baseline_of_its_own():
    recorder, _ = running(constant(45.0, 30))
    known = Baselines(COLD).with_idle(LOADED, "qwen3-8b")
    assert use_baseline(recorder, known, "qwen3-8b") == "loaded"
    assert recorder.idle_watts == 60
    assert use_baseline(recorder, known, "another") == "cold"
    assert recorder.idle_watts == 20
    assert use_baseline(recorder, known) == "cold"


def test_a_baseline_of_other_hardware_is_not_used():
    recorder, _ = running(constant(45.0, 30))
    other = IdleBaseline({"package:0": 9.0}, 1.0, 5.0, True)
    assert use_baseline(recorder, Baselines(COLD, {"qwen3-8b": other}), "qwen3-8b") == "cold"
    assert recorder.idle_watts == 20
    assert use_baseline(recorder, Baselines(other)) is None
    assert recorder.idle_watts is None


def test_a_gpu_that_others_use_is_not_at_rest():
    class Crowd:
        def share(self, scope: str, start_ns: int, end_ns: int) -> GpuShare:
            return GpuShare(True, 0.1)

    recorder, _ = running(constant(45.0, 30))
    recorder.watch = Crowd()
    with pytest.raises(EtuiError, match="other processes use a GPU"):
        measure_baseline(recorder, 5)
    idle = measure_baseline(recorder, 5, force=True)
    assert not idle.steady


@pytest.mark.parametrize(("busy", "at_rest"), [(0.1, True), (0.85, False), (None, True)])
def test_a_baseline_is_measured_only_at_rest(busy, at_rest):
    recorder, _ = running(constant(45.0, 30))
    recorder.set_idle({"gpu:FAKE": 20.0})
    recorder.cpu_watch = Busy(busy)
    if at_rest:
        idle = measure_baseline(recorder, 5)
        assert idle.steady
        assert recorder.idle_watts == pytest.approx(45, rel=0.02)
        return
    with pytest.raises(EtuiError, match=r"the CPUs are busy \(85%\)") as caught:
        measure_baseline(recorder, 5)
    assert "--force" in caught.value.fix
    assert recorder.idle_watts == 20
    forced = measure_baseline(recorder, 5, force=True)
    assert not forced.steady


def test_the_baseline_of_an_estimate_is_its_formula():
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
    assert idle.steady
    assert dict(idle.watts) == {"estimate:cpu": 10.0}
    energy = recorder.energy(clock.at(1), clock.at(4))
    assert energy.net_joules == pytest.approx(energy.joules - 30)


def test_an_estimate_next_to_a_gpu_needs_no_baseline_of_its_own():
    clock = FakeClock()
    source = EstimateSource(10.0, 110.0, clock=clock, utilisation=lambda: (0.0, clock.seconds))
    recorder = Recorder(
        [FakeDevice(constant(45.0, 30), clock), source], clock=clock, estimate="always"
    )
    assert use_baseline(recorder, Baselines()) is None
    assert recorder.idle_watts is None
    assert use_baseline(recorder, Baselines(COLD)) == "cold"
    assert recorder.idle_watts == 30


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cold": 3, "loaded": {}}', "\x00"])
def test_a_damaged_file_is_as_good_as_none(config, content):
    baseline_file(config).write_text(content)
    assert load_baselines(config) == Baselines()


def test_a_new_recorder_takes_the_kept_baseline(config, powercap):
    powercap("intel-rapl:0", "package-0")
    save_baselines(config, Baselines(IdleBaseline({"package:0": 9.0}, 1.0, 5.0, True)))
    assert open_recorder(config).idle_watts == 9
