"""Loaded baselines out of the pauses of a chat, on a fake clock."""

from __future__ import annotations

import random

import pytest

from etui.config.config import Config
from etui.energy.idle import (
    KEPT_SECONDS,
    PAUSE_MEASURED_SECONDS,
    PAUSE_QUIET_SECONDS,
    Baselines,
    IdleBaseline,
    IdleTracker,
    load_baselines,
    save_baselines,
)
from etui.energy.recorder import Recorder
from etui.energy.sources.estimate import EstimateSource
from tests.energy.test_idle_baseline import Busy
from tests.support.devices import FakeClock, FakeDevice
from tests.support.play import sample
from tests.support.power_curves import WattCurve, constant, steps

NEEDED = PAUSE_QUIET_SECONDS + PAUSE_MEASURED_SECONDS


class Chat:
    """A recorder on a fake clock whose pauses last as long as a test says."""

    def __init__(self, config: Config, curve: WattCurve) -> None:
        self.clock = FakeClock()
        self.recorder = Recorder([FakeDevice(curve, self.clock)], clock=self.clock)
        self.rest = IdleTracker(self.recorder, config, self.clock)
        self.wait(2)

    def wait(self, seconds: float) -> None:
        sample(self.recorder, self.clock, seconds, random.Random(1))


def test_a_long_pause_becomes_the_models_baseline(config: Config) -> None:
    chat = Chat(config, steps([(2, 200.0), (5, 120.0), (90, 61.0)]))
    chat.rest.begin("m")
    chat.wait(NEEDED + 1)
    kept = chat.rest.end()
    assert kept is not None
    assert kept.total_watts == pytest.approx(61, rel=0.02)
    assert load_baselines(config).loaded == {"m": kept}


def test_what_comes_after_the_measured_part_does_not_matter(config: Config) -> None:
    chat = Chat(config, steps([(2 + NEEDED + 2, 61.0), (60, 200.0)]))
    chat.rest.begin("m")
    chat.wait(NEEDED + 10)
    kept = chat.rest.end()
    assert kept is not None
    assert kept.total_watts == pytest.approx(61, rel=0.02)


def test_a_short_pause_is_none(config: Config) -> None:
    chat = Chat(config, constant(61.0, 200))
    chat.rest.begin("m")
    chat.wait(NEEDED - 0.5)
    assert chat.rest.end() is None
    chat.wait(NEEDED)
    assert chat.rest.end() is None  # nothing began since
    assert load_baselines(config) == Baselines()


def test_a_model_is_measured_once(config: Config) -> None:
    first = IdleBaseline({"gpu:FAKE": 10.0}, 1.0, 5.0, True)
    save_baselines(config, Baselines(None, {"m": first}))
    chat = Chat(config, constant(61.0, 200))
    for model in ("m", "other"):
        chat.rest.begin(model)
        chat.wait(NEEDED + 1)
        chat.rest.end()
    loaded = load_baselines(config).loaded
    assert loaded["m"] == first
    assert loaded["other"].total_watts == pytest.approx(61, rel=0.02)


def test_a_pause_below_the_known_baseline_replaces_it(config: Config) -> None:
    learned = IdleBaseline({"gpu:FAKE": 95.0}, 1.0, 5.0, True)  # while other jobs ran
    save_baselines(config, Baselines(learned, {"m": learned, "other": learned}))
    chat = Chat(config, constant(61.0, 200))
    chat.rest.begin("m")
    chat.wait(NEEDED + 1)
    kept = chat.rest.end()
    assert kept is not None
    assert kept.total_watts == pytest.approx(61, rel=0.02)
    known = load_baselines(config)
    assert known.loaded == {"m": kept, "other": learned}
    assert known.cold == kept  # without a model the machine draws no more than with one


def test_a_little_less_is_noise(config: Config) -> None:
    first = IdleBaseline({"gpu:FAKE": 62.0}, 1.0, 5.0, True)
    save_baselines(config, Baselines(first, {"m": first}))
    chat = Chat(config, constant(61.0, 200))
    chat.rest.begin("m")
    chat.wait(NEEDED + 1)
    assert chat.rest.end() is None
    assert load_baselines(config) == Baselines(first, {"m": first})


def test_a_baseline_of_other_hardware_is_replaced(config: Config) -> None:
    other = IdleBaseline({"package:0": 9.0}, 1.0, 5.0, True)
    save_baselines(config, Baselines(other, {"m": other}))
    chat = Chat(config, constant(61.0, 200))
    chat.rest.begin("m")
    chat.wait(NEEDED + 1)
    kept = chat.rest.end()
    assert kept is not None
    assert load_baselines(config) == Baselines(other, {"m": kept})


def test_a_pause_with_busy_cpus_is_not_used(config: Config) -> None:
    chat = Chat(config, constant(61.0, 200))
    chat.recorder.cpu_watch = Busy(0.9)
    chat.rest.begin("m")
    chat.wait(NEEDED + 1)
    assert chat.rest.end() is None
    assert load_baselines(config) == Baselines()


def test_nothing_is_measured_where_all_is_estimated(config: Config) -> None:
    chat = Chat(config, constant(61.0, 200))
    clock = chat.clock
    source = EstimateSource(10.0, 110.0, clock=clock, utilisation=lambda: (0.0, clock.seconds))
    chat.recorder = Recorder([source], clock=clock)
    chat.rest = IdleTracker(chat.recorder, config, clock)
    chat.wait(2)
    chat.rest.begin("m")
    chat.wait(NEEDED + 1)
    assert chat.rest.end() is None
    assert load_baselines(config) == Baselines()


def test_a_pause_in_which_something_ran_is_not_used(config: Config) -> None:
    chat = Chat(config, steps([(2 + PAUSE_QUIET_SECONDS + 1, 61.0), (1, 200.0), (60, 61.0)]))
    chat.rest.begin("m")
    chat.wait(NEEDED + 1)
    assert chat.rest.end() is None
    assert load_baselines(config) == Baselines()


def test_a_machine_that_slept_is_not_at_rest(config: Config) -> None:
    chat = Chat(config, constant(61.0, 50_000))
    chat.rest.begin("m")
    chat.wait(10)
    chat.clock.advance(8 * 3600)
    assert chat.rest.end() is None


def test_a_night_is_looked_at_by_its_end(config: Config) -> None:
    chat = Chat(config, steps([(2 + 60, 90.0), (2 * KEPT_SECONDS, 61.0)]))
    chat.rest.begin("m")
    chat.wait(60 + KEPT_SECONDS + 10)
    kept = chat.rest.end()
    assert kept is not None
    assert kept.total_watts == pytest.approx(61, rel=0.02)
