"""Visits of a simulated machine and of a real model, and what spoils them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Message
from etui.config.config import Config
from etui.energy.devices import Heat
from etui.energy.recorder import Recorder
from etui.energy.sharing import CpuUse, GpuShare
from etui.energy.sources.estimate import EstimateSource
from etui.energy.sources.nvml import NvmlSource
from etui.engine.thread_count import ThreadControl, ThreadLimits
from etui.errors import EngineFailed, EtuiError, ModelUnavailable, Stopped, UsageError
from etui.measure.run import Disturbed
from etui.models.catalogue import load_catalogue
from etui.models.spec import STARTER
from etui.sweep._measurer import (
    MOST_OTHERS,
    POINTS,
    Devices,
    LocalMeasurer,
    MachineState,
    MachineWatch,
    SweptWork,
    describe_state,
    find_disturbance,
)
from etui.sweep.blocks import Collapsed, SettingFailed
from etui.sweep.config import PLAIN_WORK, Setting, SweepConfig, WorkShape
from etui.sweep.workbench import CapControl
from etui.sweep.workload import WorkItem, Workload, hash_items
from tests.support.devices import FakeClock, FakeDevice
from tests.support.gpu import SimulatedGpu
from tests.support.power_curves import constant
from tests.sweep.simulated_rig import (
    BASELINE,
    ITEMS,
    OTHER,
    QUIET,
    Machine,
    Runnable,
    WatchedSession,
    question,
    write,
)


@pytest.fixture
def machine(config, tmp_path):
    return Machine(tmp_path / "sysfs", config)


def test_a_visit_measures_what_the_answers_cost(machine):
    visit = machine.rig().visit(BASELINE, 0)
    prompts, outputs = (40, 90, 10), (20, 6, 20)
    steps = [
        (context, 1)
        for prompt, output in zip(prompts, outputs, strict=True)
        for context in range(prompt, prompt + output - 1)
    ]
    for phase, batches in ((visit.prefill, [(0, n) for n in prompts]), (visit.decode, steps)):
        seconds = [QUIET.seconds(*batch) for batch in batches]
        joules = [QUIET.watts(*batch) * QUIET.seconds(*batch) for batch in batches]
        assert phase.joules == pytest.approx(sum(joules) / 3, rel=0.03)
        assert phase.seconds == pytest.approx(sum(seconds) / 3, rel=0.01)
        # The decode lasts about as long as the counter takes to refresh.
        assert phase.uncertainty < 0.2 * phase.joules
    assert visit.prefill.tokens == sum(prompts) / 3
    assert visit.decode.tokens == sum(output - 1 for output in outputs) / 3
    assert (visit.setting, visit.copy, visit.answers) == (BASELINE.key, 0, 3)
    assert (visit.kind, visit.disturbed, visit.notes) == ("counter", "", ())
    assert QUIET.idle_watts < visit.mean_watts < QUIET.limit_watts


def test_the_watts_of_a_visit_are_read_to_a_milliwatt(machine):
    rig = machine.rig()
    visit = rig.visit(BASELINE, 1)
    power = rig.read_power(3, visit)
    assert (power.block, power.setting, power.copy) == (3, BASELINE.key, 1)
    assert (power.start_ns, power.end_ns) == (visit.start_ns, visit.end_ns)
    assert len(power.watts) == POINTS
    assert all(watts == round(watts, 3) for watts in power.watts)
    machine.gpu.recorder.power_curve = lambda *_: [(0, 10.00049), (1, None)]
    assert rig.read_power(3, visit).watts == (10.0, None)


@pytest.mark.parametrize("window_s", [0.1, 3.0])
def test_both_phases_last_at_least_a_window(machine, window_s):
    rig = machine.rig(window_s=window_s)
    visit = rig.visit(BASELINE, 1)
    assert visit.copy == 1
    assert (visit.end_ns - visit.start_ns) / 1e9 >= 2 * window_s


def test_every_setting_computes_the_same_tokens(machine):
    rig = machine.rig()
    rig.visit(BASELINE, 0)
    first = set(machine.opened.closed)
    machine.opened.closed.clear()
    rig.visit(OTHER, 0)
    assert not machine.opened.live
    whole = {tokens for tokens in machine.opened.closed if len(tokens) > 50}
    assert whole
    assert whole <= first


def test_every_prompt_is_computed_from_an_empty_cache(machine):
    rig = machine.rig()
    rig.visit(BASELINE, 0)
    most_live = 0
    original = machine.during

    def during():
        nonlocal most_live
        most_live = max(most_live, len(machine.opened.live))
        original()

    machine.during = during
    visit = rig.visit(BASELINE, 0)
    assert most_live == 1
    assert visit.prefill.tokens == pytest.approx(140 / 3)


def test_a_model_that_cannot_be_rolled_back_costs_the_same(config, tmp_path):
    usual, other = (
        Machine(tmp_path / "sysfs", config, session={"rolls_back": rolls_back})
        for rolls_back in (True, False)
    )
    one, two = (machine.rig().visit(BASELINE, 0) for machine in (usual, other))
    assert two.decode.joules == pytest.approx(one.decode.joules, rel=0.05)
    assert two.decode.seconds == pytest.approx(one.decode.seconds, rel=0.02)
    assert two.decode.tokens == one.decode.tokens


def test_prompts_alone_cost_nothing_in_decode(machine):
    visit = machine.rig(shape=WorkShape(reads_letters=True)).visit(BASELINE, 0)
    assert visit.decode == replace(
        visit.decode, tokens=0.0, joules=0.0, uncertainty=0.0, seconds=0.0
    )
    assert visit.joules == visit.prefill.joules > 0


def test_an_arm_that_thinks_draws_its_thinking_before_the_answer(machine):
    plain = machine.rig().visit(BASELINE, 0)
    shape = WorkShape(think_tokens=30, answer_tokens=6)
    visit = machine.rig(shape=shape).visit(BASELINE, 0)
    assert visit.decode.tokens == pytest.approx(35, abs=4)
    assert visit.decode.joules > plain.decode.joules


def test_without_a_meter_the_joules_are_missing_and_not_zero(machine):
    rig = machine.rig()
    machine.gpu.recorder.selection = replace(machine.gpu.recorder.selection, summed=())
    visit = rig.visit(BASELINE, 0)
    assert visit.seconds > 0
    assert (visit.joules, visit.prefill.joules, visit.decode.uncertainty) == (None, None, None)
    assert (visit.kind, visit.mean_watts, visit.disturbed) == (None, None, "")


def test_the_cool_down_is_not_part_of_the_visit(machine):
    rests = []

    def sleep(seconds):
        rests.append((machine.gpu.clock(), seconds))
        machine.gpu.rest(seconds)

    rig = machine.rig(sleep=sleep, cool_down_s=7.0)
    visit = rig.visit(BASELINE, 0)
    assert [seconds for _, seconds in rests] == [7.0]
    assert visit.start_ns >= rests[0][0] + 7e9


def cooling(machine, celsius, per_second):
    """A sleeper in which the CPU cools down."""
    hwmon = machine.sysfs / "class" / "hwmon" / "hwmon3"
    write(hwmon, name="k10temp", temp1_input=30_000)
    state = {"celsius": celsius}

    def sleep(seconds):
        machine.gpu.rest(seconds)
        state["celsius"] -= per_second * seconds
        write(hwmon, temp1_input=round(state["celsius"] * 1000))

    return sleep, state


def on_cpu(machine):
    """Measure the CPU in place of the GPU, which decides whose temperature counts."""
    summed = tuple(replace(c, scope="package:0") for c in machine.gpu.recorder.selection.summed)
    machine.gpu.recorder.selection = replace(machine.gpu.recorder.selection, summed=summed)


def test_a_visit_waits_for_a_temperature(machine):
    on_cpu(machine)
    sleep, state = cooling(machine, 80, per_second=5)
    rig = machine.rig(sleep=sleep, cool_down_celsius=50)
    visit = rig.visit(BASELINE, 0)
    assert 45 <= state["celsius"] <= 50
    assert visit.temperature_celsius == pytest.approx(state["celsius"], abs=0.01)
    assert visit.notes == ()


def test_the_wait_for_a_temperature_has_an_end(machine, monkeypatch):
    monkeypatch.setattr("etui.sweep._measurer.MOST_COOL_DOWN_S", 20)
    on_cpu(machine)
    sleep, _ = cooling(machine, 80, per_second=0.1)
    rig = machine.rig(sleep=sleep, cool_down_celsius=50)
    visit = rig.visit(BASELINE, 0)
    assert visit.notes == ("it was still at 78 °C after a cool-down of 20.5 s",)


def test_a_temperature_that_cannot_be_read_is_told_once(machine):
    with machine.rig(cool_down_celsius=50) as rig:
        rig.visit(BASELINE, 0)
    assert machine.notes == ["no temperature can be read: each cool-down lasts 0.5 s instead"]


def test_other_programs_disturb_a_visit(machine):
    rig = machine.rig()
    assert rig.visit(BASELINE, 0).disturbed == ""

    def during():
        machine.others_seconds += 0.009  # a whole CPU of four

    machine.during = during
    assert "other programs used" in rig.visit(BASELINE, 0).disturbed


class ThreadedSession(WatchedSession):
    """A session whose threads are counted, as those of llama.cpp."""

    options = SimpleNamespace(offload_kv=False)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.threads = ThreadControl(ThreadLimits(2, 2, adapt=False))


@dataclass
class Contended(Machine):
    """A machine on which several threads take ``times`` as long as one, from a decode step on."""

    times: int = 50
    others: float = 0.5  # CPU seconds of another program per second
    calm_steps: int = 0  # Decode steps before several threads collapse
    slow_steps: int = 0

    def load(self, setting):
        self.loads.append(setting.spec.name)
        if self.opened is None:
            self.opened = ThreadedSession(self.gpu, **self.session)
            self.opened.gpu = self
        self.opened.threads.set_limits(ThreadLimits(2, 2, adapt=False))
        return self.opened

    def work(self, context, tokens):
        before_ns = self.gpu.clock()
        collapses = self.opened.threads.decode_threads > 1 and not self.opened.threads.adapts
        self.calm_steps -= collapses
        times = self.times if collapses and self.calm_steps < 0 else 1
        self.slow_steps += times > 1
        for _ in range(times):
            super().work(context, tokens)
        self.others_seconds += self.others * (self.gpu.clock() - before_ns) / 1e9


@pytest.fixture
def contended(config, tmp_path, monkeypatch):
    monkeypatch.setattr("etui.sweep._measurer.LlamaSession", ThreadedSession)
    return Contended(tmp_path / "sysfs", config)


def test_threads_that_wait_for_each_other_are_found_within_a_few_steps(contended):
    with contended.rig(most_others=1.0) as rig:
        with pytest.raises(Collapsed, match="its threads take over 3 times as long as one"):
            rig.visit(BASELINE, 0)
        assert contended.slow_steps <= 2
        assert contended.opened is None  # sequences may have been left open
        contended.times = 1
        assert rig.visit(BASELINE, 0).disturbed == ""


def test_threads_that_wait_in_the_second_visit_alone_are_found_too(contended):
    contended.times = 1
    with contended.rig(most_others=1.0) as rig:
        assert rig.visit(BASELINE, 0).disturbed == ""
        contended.times = 50
        with pytest.raises(Collapsed):
            rig.visit(BASELINE, 1)
    assert contended.slow_steps <= 2


def test_threads_that_collapse_within_a_visit_are_given_up_in_time(contended):
    contended.calm_steps = 60
    with contended.rig(most_others=1.0) as rig:
        before_s = contended.gpu.clock.seconds
        with pytest.raises(Collapsed):
            rig.visit(BASELINE, 0)
        assert contended.slow_steps > 1
        assert contended.gpu.clock.seconds - before_s < 60


def test_a_collapse_of_a_sweep_that_is_not_forced_disturbs_its_block(contended):
    with contended.rig() as rig, pytest.raises(Disturbed, match="over 3 times as long as one"):
        rig.visit(BASELINE, 0)


def test_slow_threads_are_measured_where_no_other_program_runs(contended):
    contended.others, contended.times = 0.0, 4
    with contended.rig() as rig:
        assert rig.visit(BASELINE, 0).disturbed == ""


def test_threads_that_are_only_slower_are_measured(contended):
    contended.times = 2
    with contended.rig(most_others=1.0) as rig:
        slow = rig.visit(BASELINE, 0)
        contended.times = 1
        quick = rig.visit(BASELINE, 0)
    assert slow.decode.seconds == pytest.approx(2 * quick.decode.seconds, rel=0.05)


def test_a_forced_sweep_takes_visits_with_other_programs(machine):
    rig = machine.rig(most_others=1.0)

    def during():
        machine.others_seconds += 0.009

    machine.during = during
    assert rig.visit(BASELINE, 0).disturbed == ""


@pytest.mark.parametrize(
    ("start_s", "end_s", "least", "most"), [(0.7, 9, 0, 5), (1, 9, 10, 30), (1, 2, 40, 60)]
)
def test_a_gap_of_the_meter_disturbs_a_visit(machine, start_s, end_s, least, most):
    rig = machine.rig()
    rig.visit(BASELINE, 0)
    begin_s = machine.gpu.clock.seconds
    machine.gpu.recorder.sources[0].fails = lambda s: start_s < s - begin_s < end_s
    disturbed = rig.visit(BASELINE, 0).disturbed
    found = re.fullmatch(r"the meter recorded only ([\d.]+) % of it", disturbed)
    assert found
    assert least <= float(found[1]) <= most
    machine.gpu.rest(9)
    assert rig.visit(BASELINE, 0).disturbed == ""


def test_a_gap_in_a_phase_of_a_long_visit_disturbs_it(machine):
    rig = machine.rig(window_s=60.0)
    begin_s = machine.gpu.clock.seconds
    fails = {"from": math.inf}
    machine.gpu.recorder.sources[0].fails = lambda s: fails["from"] < s < fails["from"] + 2

    def during():
        if machine.gpu.clock.seconds > begin_s + 90:
            fails["from"] = min(fails["from"], machine.gpu.clock.seconds)

    machine.during = during
    disturbed = rig.visit(BASELINE, 0).disturbed
    found = re.fullmatch(r"the meter recorded only ([\d.]+) % of a phase", disturbed)
    assert found
    assert 90 < float(found[1]) < 98


def test_a_battery_that_begins_to_discharge_stops_the_sweep(machine):
    battery = machine.sysfs / "class" / "power_supply" / "BAT0"
    write(battery, type="Battery", status="Charging", capacity=80)
    with machine.rig() as rig:
        assert rig.visit(BASELINE, 0).notes == ()

        def during():
            write(battery, status="Discharging")

        machine.during = during
        with pytest.raises(Stopped, match="battery began to discharge") as caught:
            rig.visit(OTHER, 0)
        assert "resume" in caught.value.fix
        assert machine.loads[-1] == "unload"


def test_a_sweep_on_battery_says_so(machine):
    battery = machine.sysfs / "class" / "power_supply" / "BAT0"
    write(battery, type="Battery", status="Discharging", capacity=80)
    with machine.rig() as rig:
        visit = rig.visit(BASELINE, 0)
    assert visit.notes == ("the machine ran on its battery",)
    assert machine.notes[0].startswith("the machine runs on its battery")


@pytest.mark.parametrize(
    "error",
    [
        EngineFailed("could not create a context of 4096 tokens", "lower `context`"),
        ModelUnavailable("llama.cpp rejected the file"),
        MemoryError(),
    ],
)
def test_a_setting_that_cannot_run_fails_alone(machine, error):
    machine.runnables = {OTHER.key: {"name": "other"}}
    machine.fails = {"other": error}
    rig = machine.rig()
    rig.visit(BASELINE, 0)
    with pytest.raises(SettingFailed) as caught:
        rig.visit(OTHER, 0)
    assert caught.value.what == getattr(error, "what", "out of memory")
    assert machine.loads[-1] == "unload"
    assert rig.visit(BASELINE, 0).disturbed == ""


def test_a_baseline_that_cannot_run_ends_the_sweep(machine):
    machine.fails = {"model": EngineFailed("llama.cpp is missing")}
    for setting in (BASELINE, OTHER):
        with pytest.raises(EngineFailed, match="is missing"):
            machine.rig().visit(setting, 0)
    machine.fails = {"model": MemoryError()}
    with pytest.raises(EtuiError, match="out of memory") as caught:
        machine.rig().visit(BASELINE, 0)
    assert not isinstance(caught.value, SettingFailed)


def test_speculation_that_is_impossible_fails_its_setting_alone(machine):
    machine.runnables = {OTHER.key: {"speculate": "draft"}}
    rig = machine.rig()
    with pytest.raises(SettingFailed, match="no speculation: a simulated model"):
        rig.visit(OTHER, 0)
    machine.runnables = {OTHER.key: {"speculate": "auto"}}
    assert machine.rig().visit(OTHER, 0).drafted == 0
    machine.runnables = {BASELINE.key: {"speculate": "draft"}}
    with pytest.raises(EtuiError, match="no speculation") as caught:
        machine.rig().visit(BASELINE, 0)
    assert not isinstance(caught.value, SettingFailed)


def test_a_prompt_that_is_too_long_is_refused(config, tmp_path):
    machine = Machine(tmp_path, config, session={"context_tokens": 100})
    with pytest.raises(UsageError, match=r"the workload .* 10 tokens too long") as refused:
        machine.rig((question(90),)).visit(BASELINE, 0)
    assert "--output-tokens" in refused.value.fix
    given = question(90, "word " * 15, output_tokens=12)
    with pytest.raises(UsageError, match="2 tokens too long"):
        machine.rig((given,)).visit(BASELINE, 0)


def test_recorded_answers_outlast_an_interruption(machine, tmp_path):
    path = tmp_path / "answers.json"
    machine.rig(recording=path).visit(BASELINE, 0)
    whole = {tokens for tokens in machine.opened.closed if len(tokens) > 59}
    saved = path.read_bytes()
    assert b"given words" not in saved  # what is given, from the log perhaps, is not copied
    machine.opened = None
    machine.gpu = SimulatedGpu(QUIET)
    rig = machine.rig(recording=path)
    rig.session_for(BASELINE)._drawn = 30  # it would end its answers elsewhere now
    rig.visit(BASELINE, 0)
    assert {tokens for tokens in machine.opened.closed if len(tokens) > 59} == whole
    assert path.read_bytes() == saved
    machine.rig((*ITEMS, question(5)), recording=path).visit(BASELINE, 0)
    assert path.read_bytes() != saved


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "", "answers": 3}', "[" * 100_000])
def test_a_damaged_recording_is_made_again(machine, tmp_path, text):
    path = tmp_path / "answers.json"
    path.write_text(text)
    machine.rig(recording=path).visit(BASELINE, 0)
    assert path.read_text() != text


@dataclass
class FakeCaps:
    """A driver that rounds to 10 W and refuses less than 100 W."""

    watts: float = 300.0
    requests: int = 0

    def apply(self, scope, watts):
        assert scope == "gpu:FAKE"
        self.requests += 1
        if watts < 100:
            return SimpleNamespace(note="refused: out of range", is_refused=True)
        self.watts = 10 * round(watts / 10)
        note = "" if self.watts == watts else f"rounded to {self.watts} W"
        return SimpleNamespace(note=note, is_refused=False)


def capped(machine, *watts):
    """A rig with a setting for each power limit."""
    settings = [Setting((("power_limit", value),)) for value in watts]
    machine.runnables = {s.key: {"power_limit_watts": s.get("power_limit")} for s in settings}
    caps = FakeCaps()
    cap = CapControl(partial(caps.apply, "gpu:FAKE"), lambda: caps.watts)
    return machine.rig(cap=cap), caps, settings


def test_a_power_limit_is_set_once_for_visits_in_a_row(machine):
    rig, caps, (low, high) = capped(machine, 150, 250)
    visits = [rig.visit(setting, 0) for setting in (low, low, high, low)]
    assert [visit.power_limit_watts for visit in visits] == [150, 150, 250, 150]
    assert caps.requests == 3
    assert rig.visit(BASELINE, 0).power_limit_watts == 150  # it has no limit of its own
    assert caps.requests == 3


def test_a_power_limit_that_was_rounded_is_noted_on_every_visit(machine):
    rig, _, (odd,) = capped(machine, 153)
    for _ in range(2):
        visit = rig.visit(odd, 0)
        assert (visit.power_limit_watts, visit.notes) == (150, ("rounded to 150 W",))


def test_a_power_limit_that_is_refused_fails_its_setting(machine):
    rig, caps, (low, fine) = capped(machine, 50, 150)
    with pytest.raises(SettingFailed, match=r"50\.0 W: refused: out of range"):
        rig.visit(low, 0)
    rig.visit(fine, 0)
    assert caps.watts == 150


def test_a_power_limit_that_changes_in_the_middle_disturbs_the_visit(machine):
    rig, caps, (low,) = capped(machine, 150)
    rig.visit(low, 0)

    def during():
        caps.watts = 300.0

    machine.during = during
    assert rig.visit(low, 0).disturbed == "the power limit changed from 150 W to 300 W"
    machine.during = lambda: None
    again = rig.visit(low, 0)
    assert (again.power_limit_watts, again.disturbed) == (150, "")


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
    assert (before.on_battery, after.on_battery) == (None, None)
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


CODE = "def add(first, second):\n    total = first + second\n    return total\n"
REAL_ITEMS = (
    WorkItem((Message("user", "What is rain?"),), None, 6),
    WorkItem((Message("user", f"Write this again:\n{CODE}"),), CODE, 40),
)
OFF, LOOKUP, Q8, DRAFT = (
    Setting((("speculate", "off"),)),
    Setting((("speculate", "lookup"),)),
    Setting((("kv_type", "q8_0"),)),
    Setting((("speculate", "draft"),)),
)
QUICK = SweepConfig(window_s=0.02, cool_down_s=0.0)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder([EstimateSource(10.0, 50.0)], hz=100.0) as recorder:
        yield recorder


def open_rig(
    config: Config, recorder: Recorder, path: Path, shape: WorkShape = PLAIN_WORK
) -> LocalMeasurer:
    one = replace(config, threads=1)
    spec = load_catalogue(config).models[STARTER]

    def configure(setting: Setting) -> Runnable:
        values = dict(setting.values)
        if "kv_type" in values:
            changed = replace(spec, kv_type="q8_0", flash_attention="on")
            return Runnable(changed, path, one)
        return Runnable(replace(spec, speculate=values["speculate"]), path, one)  # type: ignore[arg-type]

    workload = Workload("mine", hash_items(REAL_ITEMS), REAL_ITEMS)
    return LocalMeasurer(
        SweptWork(workload, OFF, configure, shape),  # type: ignore[arg-type]
        Devices(recorder, MachineWatch(config.sysfs_dir, recorder), recorder),
        QUICK,
        print,
    )


def test_settings_of_the_starter_compute_the_same_tokens(config, recorder, starter_model):
    with open_rig(config, recorder, starter_model) as rig:
        first, drafted, other = (rig.visit(setting, 0) for setting in (OFF, LOOKUP, Q8))
        with pytest.raises(SettingFailed, match="no `draft` is set"):
            rig.visit(DRAFT, 0)
        again = rig.visit(OFF, 1)
        assert rig.session_for(OFF).facts.name == STARTER
    for visit in (first, drafted, other, again):
        assert visit.prefill.tokens == first.prefill.tokens > 30
        assert visit.decode.tokens == first.decode.tokens > 10
        assert visit.start_ns < visit.end_ns
        assert visit.seconds > 0
    assert drafted.drafted >= drafted.accepted > 0
    assert (first.drafted, other.drafted, again.drafted) == (0, 0, 0)
    assert (again.setting, again.copy) == (first.setting, 1)


def test_votes_are_decoded_in_parallel_from_one_prefill(config, recorder, starter_model):
    shape = WorkShape(think_tokens=4, answer_tokens=5, sequences=3)
    with open_rig(config, recorder, starter_model, shape) as rig:
        visit = rig.visit(LOOKUP, 0)
        session = rig.session_for(LOOKUP)
        assert session.free_tokens == session.facts.context_tokens
    assert visit.decode.tokens == 3 * (4 + 5 - 1)
    assert visit.drafted == 0  # votes are never speculated


def test_the_option_letters_take_a_prefill_alone(config, recorder, starter_model):
    with open_rig(config, recorder, starter_model, WorkShape(reads_letters=True)) as rig:
        visit = rig.visit(OFF, 0)
    assert visit.decode.tokens == visit.decode.seconds == 0
    assert visit.prefill.tokens > 30
