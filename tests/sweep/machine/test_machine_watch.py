"""What makes a visit useless, and what it should only mention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.devices import Heat
from etui.energy.recorder import Recorder
from etui.energy.sharing import CpuUse, GpuShare
from etui.energy.sources.nvml import NvmlSource
from etui.sweep._measurer import (
    MOST_OTHERS,
    MachineState,
    MachineWatch,
    describe_state,
    find_disturbance,
)
from tests.support.devices import FakeClock, FakeDevice
from tests.support.power_curves import constant
from tests.sweep.simulated_rig import write


def state(t_s=0.0, own=0.0, others=0.0, cpus=4, **changes):
    t_ns = round(t_s * 1e9)
    return MachineState(t_ns, CpuUse(t_ns, own, own + others, cpus * t_s), **changes)


@given(
    seconds=st.floats(1, 100),
    own=st.floats(0, 0.5),
    others=st.floats(0, 0.5),
    most=st.floats(0.01, 0.5),
)
def test_the_share_of_other_programs_decides(seconds, own, others, most):
    after = state(seconds, own=own * 4 * seconds, others=others * 4 * seconds)
    found = find_disturbance(state(), after, (), 1.0, most)
    is_much = others > most * (1 + 1e-9) and others * 4 * seconds > 0.1 * (1 + 1e-9)
    is_little = others < most * (1 - 1e-9) or others * 4 * seconds < 0.1 * (1 - 1e-9)
    assert bool(found) is is_much or not (is_much or is_little)


def test_ticks_of_a_short_visit_are_no_other_program():
    assert find_disturbance(state(), state(0.2, own=0.2, others=0.08), (), 1.0) == ""


def test_cpu_time_that_cannot_be_read_is_no_reason():
    assert find_disturbance(MachineState(0), state(1, others=4), (), 1.0) == ""


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (GpuShare(False, 1.0), ""),
        (GpuShare(True, 0.98), ""),
        (GpuShare(True, 0.7), "other programs had 30 % of the use of a GPU"),
        (GpuShare(True, None), ""),  # the driver does not say how much: it would never end
    ],
)
def test_other_programs_on_a_gpu(share, expected):
    calm = state(3, own=3)
    assert find_disturbance(state(), calm, (GpuShare(False, 1.0), share), 1.0) == expected


@pytest.mark.parametrize(
    ("coverage", "is_used"), [(None, True), (1.0, True), (0.985, True), (0.97, False), (0.0, False)]
)
def test_the_record_of_the_meter_must_be_nearly_complete(coverage, is_used):
    assert (find_disturbance(state(), state(3), (), coverage) == "") is is_used


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (True, False, "the machine was plugged in"),
        (False, True, "the machine was unplugged"),
        (True, True, ""),
        (None, True, ""),
        (True, None, ""),
    ],
)
def test_another_supply_of_power_disturbs_a_visit(before, after, expected):
    states = state(on_battery=before), state(3, on_battery=after)
    assert find_disturbance(*states, (), 1.0) == expected


def test_a_suspend_disturbs_a_visit():
    slept = state(3, suspended_ns=65_000_000_000)
    assert find_disturbance(state(), slept, (), 1.0) == "the machine was suspended for 1 min 05 s"
    assert find_disturbance(slept, slept, (), 1.0) == ""  # it was before, in the warm-up


def test_heat_and_battery_are_mentioned():
    hot = state(3, on_battery=True, heat=Heat(slowed_gpus=("gpu:1",)))
    assert describe_state(state(), hot) == (
        "a GPU was slowed down by heat",
        "the machine ran on its battery",
    )
    assert describe_state(state(on_battery=False), state(3, on_battery=None)) == ()


def test_the_watch_reads_this_machine(tmp_path):
    clock = FakeClock()
    recorder = Recorder([FakeDevice(constant(50, 10), clock, scope="package:0")], clock=clock)
    write(tmp_path / "class" / "hwmon" / "hwmon0", name="coretemp", temp1_input=48_000)
    write(tmp_path / "class" / "hwmon" / "hwmon1", name="amdgpu", temp1_input=77_000)
    watch = MachineWatch(tmp_path, recorder, clock=clock)
    before = watch.read()
    busy_until = before.cpu.own_seconds + 0.05
    while (after := watch.read()).cpu.own_seconds < busy_until:
        sum(range(10_000))
    assert after.cpu.busy_seconds >= before.cpu.busy_seconds
    assert after.cpu.total_seconds >= before.cpu.total_seconds
    assert abs(after.suspended_ns - before.suspended_ns) < 50_000_000
    assert (before.on_battery, watch.is_on_battery()) == (None, None)
    assert watch.read_celsius() == 48.0  # a CPU is measured
    assert watch.share_of_gpus(0, 1) == ()


def test_the_temperature_of_a_measured_gpu_counts(tmp_path):
    clock = FakeClock()
    recorder = Recorder([FakeDevice(constant(50, 10), clock)], clock=clock)
    write(tmp_path / "class" / "hwmon" / "hwmon0", name="coretemp", temp1_input=48_000)
    write(tmp_path / "class" / "hwmon" / "hwmon1", name="amdgpu", temp1_input=77_000)
    assert MachineWatch(tmp_path, recorder, clock=clock).read_celsius() == 77.0


def test_cpu_time_that_fails_is_left_out(tmp_path):
    def fail():
        raise OSError("no /proc")

    clock = FakeClock()
    recorder = Recorder([FakeDevice(constant(50, 10), clock)], clock=clock)
    watch = MachineWatch(tmp_path, recorder, clock=clock, cpu_seconds=fail)
    assert watch.read().cpu is None


def test_a_machine_without_nvml_has_no_gpu_to_ask(tmp_path):
    class Missing:
        NVMLError = RuntimeError

        def nvmlInit(self):  # noqa: N802
            raise RuntimeError("not found")

    clock = FakeClock()
    nvml = NvmlSource(clock, library=Missing())
    recorder = Recorder([FakeDevice(constant(50, 10), clock), nvml], clock=clock)
    watch = MachineWatch(tmp_path, recorder, clock=clock)
    assert watch.read().heat == Heat()
    assert MOST_OTHERS == 0.05  # as docs/sweep.md says
