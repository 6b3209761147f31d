"""GPUs that several processes use, and batches that several sequences share."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from etui.energy.types import Energy
from etui.turn.accounting import split_by_weights
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
    assert compute_cpu_share(uses(own, busy)[:1], 0, 100) == GpuShare(False, None)
    assert busy_share(uses(own, busy), 0, 100) == pytest.approx(busy / 10)
    assert busy_share(uses(own, busy), 200, 300) is None  # not recorded
    assert others_use(uses(own, busy), 0, 100)[0] == pytest.approx(max(busy - own, 0))
    assert others_use([], 0, 100) == (0.0, 0.0)


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


def test_own_joules_beside_a_compile_are_those_of_a_machine_of_its_own():
    alone, beside = estimated(1, 0), estimated(1, 2.5)
    assert (alone.shared, alone.own_joules, alone.idle_watts) == (False, None, IDLE)
    assert alone.joules == pytest.approx(6 * (IDLE + (LIMIT - IDLE) / CORES), rel=0.01)
    assert beside.shared
    assert beside.net_joules == pytest.approx(6 * (LIMIT - IDLE) * 3.5 / CORES, rel=0.01)
    assert beside.own_joules == pytest.approx(alone.net_joules, rel=0.01)
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


def test_a_watch_without_attribution_lists_no_processes_and_survives_failures():
    clock, fails = FakeClock(), [False]

    def read():
        if fails[0]:
            raise OSError
        return 3 * clock.seconds, 4 * clock.seconds

    watch = CpuWatch(clock, lambda: 1 / 0, read, attribute=False)
    for number in range(14):
        fails[0] = number > 10
        watch.read()
        clock.advance(0.25)
    assert watch.busy_share(clock.at(0), clock.at(2)) == pytest.approx(0.75)
    assert watch.share("package:0", clock.at(0), clock.at(2)) == GpuShare(False, None)
    assert watch.own_share(clock.at(0), clock.at(2)) is None


def test_the_watch_keeps_an_hour():
    clock = FakeClock()
    watch = CpuWatch(clock, lambda: clock.seconds, lambda: (clock.seconds, 2 * clock.seconds))
    for _ in range(20_000):
        watch.read()
        clock.advance(0.25)
    assert watch.busy_share(clock.at(2000), clock.at(4000)) == pytest.approx(0.5)
    assert watch.busy_share(clock.at(0), clock.at(100)) is None


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
    assert compute_share(looks, "gpu:B", 0, 10, 100) == GpuShare(False, None)


@given(st.floats(0, 1e6), st.lists(st.integers(0, 4096), min_size=1, max_size=12))
def test_sequences_of_a_batch_share_all_of_it(joules, tokens):
    parts = split_by_weights(joules, tokens)
    assert len(parts) == len(tokens)
    if any(tokens):
        assert sum(parts) == pytest.approx(joules, rel=1e-12, abs=1e-9)
        assert all(part == 0 for part, count in zip(parts, tokens, strict=True) if not count)
    else:
        assert parts == [0.0] * len(tokens)


@pytest.mark.parametrize(("pids", "own"), [("%d:90", None), ("%d:60,OTHER:20", 0.75)])
def test_a_gpu_is_shared_by_what_the_driver_says(fake_nvml_dir, pids, own):
    """On the fake GPU; ``%d`` is etui's own process, and OTHER another one."""
    pids = pids.replace("OTHER", str(os.getpid()))
    code = f"import os\nos.environ['FAKE_NVML_PIDS'] = {pids!r} % os.getpid()\n{MEASURE}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": str(fake_nvml_dir), "FAKE_NVML_CURVE": "0:200,1:200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["temperature"] == 61
    assert found["shared"] == ("shared" in found["flags"]) == (own is not None)
    assert found["own_joules"] == (own and pytest.approx(own * found["joules"], rel=1e-6))
