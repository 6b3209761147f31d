"""The labelled estimate: never without its band, its kind and its unmeasured scopes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.discovery import find_sources, open_recorder
from etui.energy.recorder import Recorder
from etui.energy.sources.estimate import EstimateSource, default_range_watts, fit_range
from etui.energy.types import Kind
from tests.support.devices import FakeClock
from tests.support.play import sample


@given(idle=st.floats(1, 50), span=st.floats(5, 300), seed=st.integers(0, 99))
def test_an_exact_line_is_found(idle, span, seed):
    rng = random.Random(seed)
    uses = [0.0, 1.0, *(rng.random() for _ in range(10))]
    fitted = fit_range([(use, idle + span * use) for use in uses])
    assert fitted.idle_watts == pytest.approx(idle, rel=1e-6)
    assert fitted.limit_watts == pytest.approx(idle + span, rel=1e-6)
    assert fitted.band == pytest.approx(0, abs=1e-6)
    assert fitted.trustworthy


def test_scatter_becomes_the_band():
    rng = random.Random(1)
    readings = []
    for _ in range(400):
        use = rng.random()
        readings.append((use, 20 + 60 * use + rng.gauss(0, 5)))
    fitted = fit_range(readings)
    assert fitted.band == pytest.approx(2 * 5 / 50, rel=0.15)


def test_rest_alone_says_nothing_of_the_limit():
    fitted = fit_range([(0.02 + 0.001 * i, 10 + 0.1 * i) for i in range(20)])
    assert not fitted.trustworthy


@pytest.mark.parametrize(
    "readings", [[], [(0.5, 20.0)], [(0.5, 20.0), (0.5, 21.0)], [(0.0, 50.0), (1.0, 20.0)]]
)
def test_no_line_no_range(readings):
    assert fit_range(readings) is None


def cpu(clock: FakeClock, busy_share: float) -> EstimateSource:
    return EstimateSource(
        10.0, 110.0, clock=clock, utilisation=lambda: (busy_share * clock.seconds, clock.seconds)
    )


@pytest.mark.parametrize(("busy", "watts"), [(0.0, 10), (0.5, 60), (1.0, 110)])
def test_utilisation_becomes_watts(busy, watts):
    clock = FakeClock()
    recorder = Recorder([cpu(clock, busy)], clock=clock, unmeasured=["package:0"])
    sample(recorder, clock, 10, random.Random(1))
    energy = recorder.energy(clock.at(2), clock.at(8))
    assert energy.joules == pytest.approx(6 * watts, rel=0.01)
    assert energy.uncertainty == pytest.approx(0.4 * 6 * watts, rel=0.1)
    assert energy.kind is Kind.ESTIMATE
    assert energy.unmeasured == ("package:0",)


def test_a_busy_spell_between_two_reads_is_not_missed():
    clock = FakeClock()
    busy = [0.0]
    source = EstimateSource(10.0, 110.0, clock=clock, utilisation=lambda: (busy[0], clock.seconds))
    source.read()
    clock.advance(0.6)
    busy[0] += 0.3
    assert source.read()["estimate:cpu"].joules == pytest.approx(0.6 * 60)


def test_no_tick_between_two_reads_is_not_idle():
    clock = FakeClock()
    source = EstimateSource(10.0, 110.0, clock=clock, utilisation=lambda: (5.0, 10.0))
    source.read()
    clock.advance(0.001)
    assert source.read()["estimate:cpu"].watts is None


def test_the_range_of_few_and_of_odd_numbers():
    assert default_range_watts(2) == (5, 18)
    clock = FakeClock()
    source = EstimateSource(50.0, 20.0, clock=clock, utilisation=lambda: (0.0, clock.seconds))
    source.read()
    clock.advance(1)
    assert source.read()["estimate:cpu"].watts == 50  # a limit below idle is raised to it


def test_auto_estimates_without_hardware(config):
    recorder = open_recorder(config)
    assert [channel.kind for channel in recorder.selection.summed] == [Kind.ESTIMATE]
    assert recorder.unmeasured == ("package:0",)


def test_never_leaves_it_unmeasured(config):
    found = find_sources(replace(config, estimate="never"))
    assert found.sources == ()
    assert found.unmeasured == ("package:0",)
    with open_recorder(replace(config, estimate="never")) as recorder:
        energy = recorder.energy(0, 10**9)
    assert energy.joules is None
    assert energy.kind is None


def test_the_users_range_is_taken(config):
    recorder = open_recorder(replace(config, cpu_idle_watts=7.0, cpu_limit_watts=33.0))
    assert recorder.selection.summed[0].limit_watts == 33
    assert "7-33 W" in recorder.selection.summed[0].label
