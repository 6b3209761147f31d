"""The calibration of the wall, on simulated machines with a known supply and a slow meter."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wall import calibrate, summarize
from etui.calibration.measure import TurnTimer
from etui.calibration.wall import Load, fit_lag, list_cpu_loads, list_model_loads, run_load
from etui.energy.types import Kind
from etui.energy.wall_model import (
    describe_wall_drift,
    find_wall,
    load_wall,
    save_checks,
    save_wall,
)
from etui.errors import EtuiError
from etui.log.daily_energy import DailyEnergy
from etui.runtime.doctor import diagnose
from etui.tui.power.spent_text import Spent, money_lines
from etui.turn.accounting import sum_energies
from etui.turn.shared_meter import take_share
from tests.support.engine_session import SimulatedSession
from tests.support.gpu import GpuLoad, SimulatedGpu
from tests.support.wall_machine import Machine, Plug, Supply

LOADS = {
    "idle": (8.0, 0.0),
    "1 thread": (25.0, 0.0),
    "2 threads": (40.0, 0.0),
    "decode": (55.0, 0.0),
    "4 threads": (65.0, 0.0),
}
GPU_LOADS = {
    **{name: (cpu, 12.0) for name, (cpu, _) in LOADS.items()},
    "decode": (15.0, 100.0),
    "prefill": (15.0, 180.0),
    "both": (55.0, 180.0),
}


@pytest.fixture(scope="module")
def calibrated():
    machine = Machine(LOADS, plug=Plug(0.1, 1.0, time_constant_s=1.0, noise=0.002))
    return machine, machine.calibrate()


def test_answers_and_curves_of_random_machines_are_inside_their_intervals():
    found = summarize([calibrate(seed, 3) for seed in range(1000, 1010)])
    assert found["refused"] == 0
    assert found["turns_inside"] >= 90  # of 30, on 10 machines; 200 of them in benchmarks.wall
    assert found["curve_inside"] >= 90
    assert found["turns_within_3_percent"] == 100


def test_the_intervals_hold_without_the_stated_error_of_the_meter():
    found = summarize([calibrate(seed, 3, exact=True) for seed in range(2000, 2010)])
    assert found["turns_inside"] >= 90
    assert found["median_half_width"] < 1.5


def test_base_and_slope_are_those_of_the_machine(calibrated):
    machine, made = calibrated
    base, half = made.base
    assert abs(base - machine.true_watts(0.0, 0.0)) <= half
    slope, half = made.slope_error
    ends = machine.true_watts(65.0, 0.0), machine.true_watts(8.0, 0.0)
    assert abs(slope - (ends[0] - ends[1]) / 57) <= half + 0.005
    assert 0.8 < made.efficiency(made.levels[-1]) < 1.0


@pytest.mark.parametrize(("delay_s", "constant_s"), [(0.0, 0.5), (5.0, 0.0), (2.0, 3.0)])
def test_the_lag_of_the_meter_is_learned(delay_s, constant_s):
    plug = Plug(0.1, 0.5, delay_s, constant_s)
    made = Machine(LOADS, plug=plug).calibrate(rounds=3)
    assert made.lag_s == pytest.approx(delay_s + constant_s, abs=0.8)
    assert delay_s + 5 * constant_s <= made.settle_s <= 2 * delay_s + 9 * constant_s + 3


def test_a_meter_that_is_refreshed_rarely_gets_longer_loads():
    made = Machine(LOADS, plug=Plug(0.1, 10.0, noise=0.002)).calibrate(rounds=3)
    assert made.period_s == pytest.approx(10.0, abs=0.5)
    assert made.settle_s > 10
    assert made.window_s == pytest.approx(40.0, abs=2.0)


@given(st.floats(0.0, 6.0), st.floats(0.2, 8.0))
def test_a_lag_is_found_in_clean_readings(delay_s, constant_s):
    inner = np.where(np.arange(240) < 20, 10.0, 60.0)
    wall, state = [], 10.0
    for index in range(240):
        state += (inner[max(0, index - round(delay_s * 4))] - state) * (
            1 - np.exp(-0.25 / constant_s)
        )
        wall.append(state)
    delay, constant, explained = fit_lag(inner, np.array(wall), 0.25)
    assert explained > 0.99
    assert delay + constant == pytest.approx(delay_s + constant_s, rel=0.1, abs=0.4)


def test_cpu_and_gpu_have_slopes_of_their_own():
    machine = Machine(GPU_LOADS, cpu_share=0.3, plug=Plug(noise=0.001))
    made = machine.calibrate()
    assert made.by_gpu
    for cpu, gpu in ((60.0, 12.0), (10.0, 100.0), (12.0, 170.0)):
        watts, half = made.wall_watts(cpu, gpu)
        assert abs(watts - machine.true_watts(cpu, gpu)) <= half + 0.5


def test_beyond_the_calibrated_range_the_interval_widens_and_says_so(calibrated):
    machine, made = calibrated
    inside, outside = made.wall_watts(60.0)[1], made.wall_watts(120.0)[1]
    assert outside > 5 * inside
    machine.recorder.wall_model = made
    start_ns, end_ns, truth = machine.run_turn([(10.0, 120.0, 0.0)])
    wall = machine.recorder.energy(start_ns, end_ns).wall
    assert wall.extrapolated
    assert abs(wall.joules - truth) <= wall.uncertainty


def test_measured_joules_stay_as_they_are(calibrated):
    machine, made = calibrated
    start_ns, end_ns, _ = machine.run_turn([(10.0, 50.0, 0.0)])
    machine.recorder.wall_model = None
    plain = machine.recorder.energy(start_ns, end_ns)
    machine.recorder.wall_model = made
    found = machine.recorder.energy(start_ns, end_ns)
    assert plain.wall is None
    assert found.wall.joules > found.joules
    assert replace(found, wall=None) == plain


def test_a_channel_that_was_not_read_has_no_joules_at_the_wall(calibrated):
    machine, made = calibrated
    start_ns, end_ns, _ = machine.run_turn([(10.0, 50.0, 0.0)])
    machine.recorder.wall_model = made
    found = machine.recorder.energy(start_ns, end_ns)
    assert made.predict(replace(found, channels=())) is None
    assert replace(made, channels=("package:0", "gpu:A")).predict(found) is None
    assert machine.recorder.energy(end_ns, end_ns).wall is None


def test_joules_at_the_wall_are_summed_and_shared_like_those_inside(calibrated):
    machine, made = calibrated
    start_ns, end_ns, _ = machine.run_turn([(5.0, 50.0, 0.0), (5.0, 20.0, 0.0)])
    machine.recorder.wall_model = made
    middle_ns = (start_ns + end_ns) // 2
    spans = ((start_ns, middle_ns), (middle_ns, end_ns))
    halves = [machine.recorder.energy(*span) for span in spans]
    whole, apart = machine.recorder.energy(start_ns, end_ns), sum_energies(halves)
    assert apart.wall.joules == pytest.approx(whole.wall.joules, rel=0.005)
    assert apart.wall.uncertainty == sum(half.wall.uncertainty for half in halves)
    assert apart.wall.calibration == made.id
    assert sum_energies([halves[0], replace(halves[1], wall=None)]).wall is None
    third = take_share(whole, whole.joules / 3, 1 / 3, 1 / 3)
    assert third.wall.joules == pytest.approx(whole.wall.joules / 3)


def test_an_estimate_itself_is_calibrated():
    machine = Machine(LOADS, kind=Kind.ESTIMATE, plug=Plug(noise=0.001))
    made = machine.calibrate(rounds=3)
    assert made.kind == "estimate"
    machine.recorder.wall_model = made
    start_ns, end_ns, truth = machine.run_turn([(10.0, 50.0, 0.0)])
    found = machine.recorder.energy(start_ns, end_ns)
    assert found.uncertainty > 0.3 * found.joules
    assert found.wall.uncertainty < 0.1 * truth
    assert abs(found.wall.joules - truth) <= found.wall.uncertainty


def test_loads_that_no_curve_explains_widen_the_interval():
    even = Machine(LOADS).calibrate().wall_watts(50.0)[1]
    odd = dict(LOADS, decode=(55.0, 0.0))
    machine = Machine(odd)
    machine.other = lambda seconds: (0.0, 8.0 if machine.steady == (55.0, 0.0) else 0.0)
    assert machine.calibrate().wall_watts(50.0)[1] > 3 * even


def test_loads_that_differ_too_little_are_refused():
    narrow = {name: (10.0 + 0.2 * number, 0.0) for number, name in enumerate(LOADS)}
    with pytest.raises(EtuiError, match=r"span too little|does not follow"):
        Machine(narrow, plug=Plug(1.0), wobble=0.0).calibrate()


def test_a_meter_of_another_machine_is_refused():
    machine = Machine(LOADS, plug=Plug(noise=0.01))
    machine.true_watts = lambda cpu, gpu, beside=0.0: 100.0
    with pytest.raises(EtuiError, match="does not follow"):
        machine.calibrate()


def test_a_program_that_begins_in_a_window_has_the_load_measured_again():
    quiet = Machine(LOADS)
    quiet.calibrate(rounds=3)
    machine = Machine(LOADS)
    machine.other = lambda seconds: (20.0, 3.0) if 105 < seconds < 113 else (0.0, 0.0)
    made = machine.calibrate(rounds=3)
    assert machine.clock.seconds > quiet.clock.seconds + 10
    watts, half = made.wall_watts(30.0)
    assert abs(watts - machine.true_watts(30.0, 0.0)) <= half


def test_the_calibration_of_this_machine_is_kept_and_replaced_visibly(calibrated, config):
    _, made = calibrated
    assert find_wall(config, made.channels) is None
    later = replace(made, id="later", created_at=made.created_at + 1)
    for each in (made, later, replace(later, id="other", machine="another", created_at=1e12)):
        save_wall(config, each)
    assert find_wall(config, made.channels) == later
    assert find_wall(config, ["gpu:B"]) is None
    assert [each.id for each in load_wall(config)] == [made.id, "later", "other"]


def test_a_damaged_file_is_no_calibration(config):
    config.home.mkdir(parents=True, exist_ok=True)
    (config.home / "wall.json").write_text('[{"id": 3}]')
    assert load_wall(config) == ()


@pytest.mark.parametrize(("more_watts", "drifts"), [(0.0, False), (12.0, True)])
def test_a_drift_beyond_the_uncertainty_asks_for_a_new_calibration(
    calibrated, config, more_watts, drifts
):
    _, made = calibrated
    # Without noise a plug would repeat itself, as a meter that hangs does.
    machine = Machine(LOADS, plug=Plug(noise=0.002), base_watts=20.0 + more_watts, seed=3)
    machine.recorder.wall_model = made
    draw = random.Random(1)
    for _ in range(40):
        machine.steady = LOADS[draw.choice(list(LOADS))]
        machine.sleep(10.0)
    text = save_checks(config, machine.recorder, machine.clock())
    assert len(load_wall(config)[-1].checks) == 3
    assert ("run `etui power calibrate-wall` again" in text) is drifts
    assert describe_wall_drift(config) == text
    problems = diagnose(config).problems
    assert (text in problems) is drifts
    shown = " ".join(money_lines(Spent(DailyEnergy(), date(2026, 1, 1), wall_drift=text), 60))
    assert text in shown


def test_too_short_a_record_is_no_check(calibrated, config):
    _, made = calibrated
    machine = Machine(LOADS, base_watts=40.0)
    machine.recorder.wall_model = made
    machine.sleep(30.0)
    assert save_checks(config, machine.recorder, machine.clock()) == ""
    assert load_wall(config) == ()


def test_loads_of_the_cpu_rise_from_idle_to_all_threads():
    for cpus in (1, 2, 4, 16):
        loads = list_cpu_loads(cpus)
        assert loads[0] == Load("idle")
        assert len(loads) >= 5
        assert len(loads[-1].workers) == cpus
        assert len({load.name for load in loads}) == len(loads)


def test_a_load_runs_during_the_body_and_ends_with_it():
    others = threading.enumerate()
    with run_load(list_cpu_loads(2)[2]):
        (load,) = (each for each in threading.enumerate() if each not in others)
    assert not load.is_alive()


def test_a_model_decodes_and_prefills_until_it_is_stopped():
    gpu = SimulatedGpu(GpuLoad())
    session = SimulatedSession(gpu)
    timer = TurnTimer(session, gpu, 0.0, clock=gpu.clock)
    loads = list_model_loads(timer, session.facts.context_tokens, gpu_threads=2)
    assert [load.name for load in loads] == ["decode", "prefill", "prefill and 2 threads"]
    for load in loads[:2]:
        before = gpu.clock()
        with run_load(load):
            while gpu.clock() == before:
                pass
        ended = gpu.clock()
        assert ended > before
        assert gpu.clock() == ended


def test_what_a_worker_raises_is_raised():
    def fail(stop: threading.Event) -> None:
        raise EtuiError("the engine failed", "look")

    with pytest.raises(EtuiError, match="the engine failed"), run_load(Load("decode", (fail,))):
        pass


def test_a_supply_by_its_table_is_met_within_the_interval():
    table = (0.012, 0.0136, 0.02, 0.03, 0.06, 0.14)
    machine = Machine(LOADS, supply=Supply(250.0, table=table), plug=Plug(0.5, noise=0.001))
    made = machine.calibrate()
    for watts in (10.0, 30.0, 60.0):
        found, half = made.wall_watts(watts)
        assert abs(found - machine.true_watts(watts, 0.0)) <= half
