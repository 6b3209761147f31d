"""CPUs that other programs use too: etui's own part of an estimate."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.config.config import Config
from etui.energy.discovery import open_recorder
from etui.energy.recorder import Recorder
from etui.energy.sharing import (
    CpuUse,
    CpuWatch,
    GpuShare,
    OwnProcesses,
    busy_share,
    compute_cpu_share,
    list_family,
    others_use,
    read_process_seconds,
)
from etui.energy.sources.estimate import EstimateSource
from etui.energy.types import Energy, Kind
from tests.support.devices import FakeClock
from tests.support.play import sample

CORES = 4
IDLE, LIMIT = 10.0, 110.0


def uses(own: float, busy: float, total: float = 10.0) -> list[CpuUse]:
    """Two samples, 100 ns apart, between which so many seconds were used."""
    return [CpuUse(0, 5.0, 50.0, 900.0), CpuUse(100, 5.0 + own, 50.0 + busy, 900.0 + total)]


@given(own=st.floats(0, 10), others=st.floats(0, 10), idle=st.floats(0.01, 10))
def test_what_others_use_is_the_rest_of_the_busy_time(own, others, idle):
    total = own + others + idle
    seconds, share = others_use(uses(own, own + others, total), 0, 100)
    assert seconds == pytest.approx(others, abs=1e-9)
    assert share == pytest.approx(others / total, abs=1e-9)


def test_others_use_nothing_that_was_not_recorded_or_is_less_than_own():
    assert others_use([], 0, 100) == (0.0, 0.0)
    assert others_use(uses(0, 0, 0), 0, 100) == (0.0, 0.0)
    assert others_use(uses(5.1, 5.0), 0, 100) == (0.0, 0.0)  # counted in ticks


@pytest.mark.parametrize(
    ("own", "busy", "expected"),
    [
        (5.0, 5.0, GpuShare(False, 1.0)),
        (5.0, 5.1, GpuShare(False, 1.0)),  # a few services
        (5.0, 5.5, GpuShare(False, 1.0)),  # less than a tenth of the work
        (0.05, 0.15, GpuShare(False, 1.0)),  # a machine at rest
        (3.0, 9.0, GpuShare(True, pytest.approx(1 / 3))),
        (0.0, 8.0, GpuShare(True, 0.0)),
        (6.0, 5.0, GpuShare(False, 1.0)),  # kernel ticks of different moments
        (0.0, 0.0, GpuShare(False, None)),
    ],
)
def test_shares_of_the_cpus(own: float, busy: float, expected: GpuShare) -> None:
    assert compute_cpu_share(uses(own, busy), 0, 100) == expected
    assert compute_cpu_share(uses(own, busy), 25, 75) == expected  # between two samples


def test_nothing_is_known_without_two_samples() -> None:
    assert compute_cpu_share([], 0, 100) == GpuShare(False, None)
    assert compute_cpu_share(uses(1, 9)[:1], 0, 100) == GpuShare(False, None)
    assert busy_share([], 0, 100) is None
    assert busy_share(uses(1, 9), 0, 100) == pytest.approx(0.9)
    assert busy_share(uses(1, 9), 200, 300) is None


def estimated(own_cores: float, other_cores: float) -> Energy:
    """Six seconds of an estimate, in which etui and others keep some cores busy."""
    clock = FakeClock()

    def cpu_seconds() -> tuple[float, float]:
        return (own_cores + other_cores) * clock.seconds, CORES * clock.seconds

    watch = CpuWatch(clock, lambda: own_cores * clock.seconds, cpu_seconds)
    source = EstimateSource(IDLE, LIMIT, clock=clock, utilisation=cpu_seconds)
    recorder = Recorder([source, watch], clock=clock, cpu_watch=watch)
    sample(recorder, clock, 10, random.Random(1))
    return recorder.energy(clock.at(2), clock.at(8))


def test_an_estimate_of_one_program_is_its_own() -> None:
    alone = estimated(1, 0)
    assert not alone.shared
    assert alone.own_joules is None
    assert alone.joules == pytest.approx(6 * (IDLE + (LIMIT - IDLE) / CORES), rel=0.01)


def test_own_joules_beside_a_compile_are_those_of_a_machine_of_its_own() -> None:
    alone, beside = estimated(1, 0), estimated(1, 2.5)
    assert beside.shared
    assert beside.joules is not None
    assert alone.joules is not None
    assert beside.joules > 2.5 * alone.joules
    assert alone.net_joules is not None
    assert beside.own_joules == pytest.approx(alone.net_joules, rel=0.01)


def test_the_idle_power_of_an_estimate_is_that_of_its_formula() -> None:
    busy = estimated(1, 2.5)
    assert busy.idle_watts == IDLE
    assert busy.net_joules == pytest.approx(6 * (LIMIT - IDLE) * 3.5 / CORES, rel=0.01)
    assert estimated(0, 0).net_joules == pytest.approx(0, abs=1e-3)


def test_a_child_process_counts_as_own_and_keeps_its_time_when_it_ends() -> None:
    clock = FakeClock()
    used = {1: 10.0}
    own = OwnProcesses(clock, lambda: list(used), used.get)
    before = own.seconds()
    clock.advance(3)
    used[2] = 4.0  # the engine's child, started since
    assert own.seconds() - before == pytest.approx(4)
    used[1], used[2] = 11.0, 9.0
    assert own.seconds() - before == pytest.approx(10)
    del used[2]
    assert own.seconds() - before == pytest.approx(10)
    used[2] = 0.5  # another child with the same id
    clock.advance(3)
    assert own.seconds() - before == pytest.approx(10.5)


def test_children_of_the_first_look_bring_no_time_of_before() -> None:
    used = {1: 10.0, 2: 100.0}
    own = OwnProcesses(FakeClock(), lambda: list(used), used.get)
    assert own.seconds() == own.seconds()


def test_processes_are_listed_rarely() -> None:
    clock, listed = FakeClock(), []

    def list_pids() -> list[int]:
        listed.append(clock.seconds)
        return [1]

    own = OwnProcesses(clock, list_pids, lambda pid: 1.0)
    for _ in range(40):
        own.seconds()
        clock.advance(0.25)
    assert len(listed) <= 6


def test_a_real_child_is_of_the_family() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in list_family()
        assert read_process_seconds(child.pid) is not None
    finally:
        child.communicate(b"\n")
    assert child.pid not in list_family()
    assert read_process_seconds(child.pid) is None


def test_the_watch_keeps_an_hour() -> None:
    clock = FakeClock()
    watch = CpuWatch(clock, lambda: clock.seconds, lambda: (clock.seconds, 2 * clock.seconds))
    for _ in range(20_000):
        watch.read()
        clock.advance(0.25)
    assert watch.busy_share(clock.at(2000), clock.at(4000)) == pytest.approx(0.5)
    assert watch.busy_share(clock.at(0), clock.at(100)) is None


def test_a_system_without_cpu_times_is_not_sampled() -> None:
    def fail() -> tuple[float, float]:
        raise OSError

    watch = CpuWatch(FakeClock(), lambda: 0.0, fail)
    assert watch.read() == {}
    assert watch.share("estimate:cpu", 0, 10**9) == GpuShare(False, None)


def test_the_meter_of_a_machine_watches_its_cpus(config: Config) -> None:
    recorder = open_recorder(config)
    assert [channel.kind for channel in recorder.selection.summed] == [Kind.ESTIMATE]
    assert recorder.cpu_watch in recorder.sources


def test_processes_are_not_listed_where_nothing_is_estimated() -> None:
    def list_processes() -> float:
        raise AssertionError

    clock = FakeClock()
    watch = CpuWatch(
        clock, list_processes, lambda: (3 * clock.seconds, 4 * clock.seconds), attribute=False
    )
    for _ in range(10):
        watch.read()
        clock.advance(0.25)
    assert watch.busy_share(clock.at(0), clock.at(2)) == pytest.approx(0.75)
    assert watch.share("package:0", clock.at(0), clock.at(2)) == GpuShare(False, None)
