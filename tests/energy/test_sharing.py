"""GPUs that several processes use, and batches that several sequences share."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.discovery import open_recorder
from etui.energy.recorder import Recorder
from etui.energy.sharing import (
    CpuUse,
    CpuWatch,
    GpuShare,
    GpuUse,
    OwnProcesses,
    busy_share,
    compute_cpu_share,
    compute_share,
    list_family,
    others_use,
    read_process_seconds,
)
from etui.energy.sources.estimate import EstimateSource
from etui.energy.types import Energy, Kind
from etui.turn.accounting import split_by_tokens
from tests.support.devices import FakeClock
from tests.support.play import sample

CORES = 4
IDLE, LIMIT = 10.0, 110.0
GPU = "gpu:A"
MEASURE = """
import json, os, time
from etui.config.config import load_config
from etui.energy.documents import energy_document
from etui.energy.discovery import open_recorder
with open_recorder(load_config()) as recorder:
    time.sleep(0.4)
    start_ns = time.monotonic_ns()
    time.sleep(0.5)
    end_ns = time.monotonic_ns()
    recorder.settle(end_ns)
    found = energy_document(recorder.energy(start_ns, end_ns))
    found["temperature"] = recorder.watch.states[0].temperature_celsius
print(json.dumps(found))
"""


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
def test_shares_of_the_cpus(own, busy, expected):
    assert compute_cpu_share(uses(own, busy), 0, 100) == expected
    assert compute_cpu_share(uses(own, busy), 25, 75) == expected  # between two samples


def test_nothing_is_known_without_two_samples():
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
    recorder = Recorder([source, watch], clock=clock)
    sample(recorder, clock, 10, random.Random(1))
    return recorder.energy(clock.at(2), clock.at(8))


def test_an_estimate_of_one_program_is_its_own():
    alone = estimated(1, 0)
    assert not alone.shared
    assert alone.own_joules is None
    assert alone.joules == pytest.approx(6 * (IDLE + (LIMIT - IDLE) / CORES), rel=0.01)


def test_own_joules_beside_a_compile_are_those_of_a_machine_of_its_own():
    alone, beside = estimated(1, 0), estimated(1, 2.5)
    assert beside.shared
    assert beside.joules > 2.5 * alone.joules
    assert alone.net_joules is not None
    assert beside.own_joules == pytest.approx(alone.net_joules, rel=0.01)


def test_the_idle_power_of_an_estimate_is_that_of_its_formula():
    busy = estimated(1, 2.5)
    assert busy.idle_watts == IDLE
    assert busy.net_joules == pytest.approx(6 * (LIMIT - IDLE) * 3.5 / CORES, rel=0.01)
    assert estimated(0, 0).net_joules == pytest.approx(0, abs=1e-3)


def test_a_child_process_counts_as_own_and_keeps_its_time_when_it_ends():
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


def test_children_of_the_first_look_bring_no_time_of_before():
    used = {1: 10.0, 2: 100.0}
    own = OwnProcesses(FakeClock(), lambda: list(used), used.get)
    assert own.seconds() == own.seconds()


def test_processes_are_listed_rarely():
    clock, listed = FakeClock(), []

    def list_pids() -> list[int]:
        listed.append(clock.seconds)
        return [1]

    own = OwnProcesses(clock, list_pids, lambda pid: 1.0)
    for _ in range(40):
        own.seconds()
        clock.advance(0.25)
    assert len(listed) <= 6


def test_a_real_child_is_of_the_family():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in list_family()
        assert read_process_seconds(child.pid) is not None
    finally:
        child.communicate(b"\n")
    assert child.pid not in list_family()
    assert read_process_seconds(child.pid) is None


def test_the_watch_keeps_an_hour():
    clock = FakeClock()
    watch = CpuWatch(clock, lambda: clock.seconds, lambda: (clock.seconds, 2 * clock.seconds))
    for _ in range(20_000):
        watch.read()
        clock.advance(0.25)
    assert watch.busy_share(clock.at(2000), clock.at(4000)) == pytest.approx(0.5)
    assert watch.busy_share(clock.at(0), clock.at(100)) is None


def test_a_system_without_cpu_times_is_not_sampled():
    def fail() -> tuple[float, float]:
        raise OSError

    watch = CpuWatch(FakeClock(), lambda: 0.0, fail)
    assert watch.read() == {}
    assert watch.share("estimate:cpu", 0, 10**9) == GpuShare(False, None)


def test_the_meter_of_a_machine_watches_its_cpus(config):
    recorder = open_recorder(config)
    assert [channel.kind for channel in recorder.selection.summed] == [Kind.ESTIMATE]
    assert recorder.cpu_watch in recorder.sources


def test_processes_are_not_listed_where_nothing_is_estimated():
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


def use(t_ns: int, own: float | None, other: float | None, others: int, unknown: int = 0) -> GpuUse:
    return GpuUse(t_ns, GPU, own, other, others, unknown)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([], GpuShare(False, None)),
        ([use(5, 80, 0, 0)], GpuShare(False, 1.0)),
        ([use(5, 80, 0.4, 1)], GpuShare(False, 1.0)),
        ([use(5, 60, 20, 1), use(6, 60, 20, 1)], GpuShare(True, 0.75)),
        ([use(5, 0, 50, 1)], GpuShare(True, 0.0)),
        ([use(5, None, None, 1)], GpuShare(True, None)),
        ([use(5, None, None, 0)], GpuShare(False, None)),
        ([use(5, 0, 80, 0, unknown=1)], GpuShare(False, None)),
        ([use(5, 0, 80, 0, unknown=2)], GpuShare(True, None)),
        ([use(500, 10, 90, 1)], GpuShare(False, None)),
    ],
)
def test_shares(looks, expected):
    assert compute_share(looks, GPU, 0, 10, 100) == expected


def test_other_gpus_do_not_count():
    assert compute_share([use(5, 10, 90, 1)], "gpu:B", 0, 10, 0) == GpuShare(False, None)


@given(st.floats(0, 1e6), st.lists(st.integers(0, 4096), min_size=1, max_size=12))
def test_sequences_of_a_batch_share_all_of_it(joules, tokens):
    parts = split_by_tokens(joules, tokens)
    assert len(parts) == len(tokens)
    if any(tokens):
        assert sum(parts) == pytest.approx(joules, rel=1e-12, abs=1e-9)
        assert all(part == 0 for part, count in zip(parts, tokens, strict=True) if not count)
    else:
        assert parts == [0.0] * len(tokens)


def test_equal_tokens_cost_the_same():
    assert split_by_tokens(12.0, [3, 3, 6]) == [3.0, 3.0, 6.0]


def measured(folder: Path, pids: str) -> dict[str, object]:
    """Energy on the fake GPU while these processes use it; ``%d`` is etui's own number."""
    code = f"import os\nos.environ['FAKE_NVML_PIDS'] = {pids!r} % os.getpid()\n{MEASURE}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML_CURVE": "0:200,1:200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_gpu_of_ones_own_is_not_shared(fake_nvml_dir):
    found = measured(fake_nvml_dir, "%d:90")
    assert not found["shared"]
    assert found["own_joules"] is None
    assert found["temperature"] == 61


def test_another_process_makes_the_gpu_shared(fake_nvml_dir):
    found = measured(fake_nvml_dir, f"%d:60,{os.getpid()}:20")
    assert found["shared"]
    assert "shared" in found["flags"]  # type: ignore[operator]
    assert found["own_joules"] == pytest.approx(0.75 * found["joules"], rel=1e-6)  # type: ignore[operator]
