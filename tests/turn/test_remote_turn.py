"""A whole turn that another machine's meter measures: its joules ± contain the truth."""

from __future__ import annotations

from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.energy.remote.meter import RemoteMeter
from etui.routing.decision import TurnBudget
from tests.energy.remote.machine import HOURS, Machine
from tests.turn.stage import LARGE, QUICK, Part, Stage, decided, play

MS = 1_000_000


def stage_on(machine: Machine, parts: dict[str, Part]) -> Stage:
    """An answerer whose clock is the one of this machine, which the meter's requests move too."""

    class OnMachine(Stage):
        now_ns = property(
            lambda self: machine.now_ns, lambda self, t_ns: setattr(machine, "now_ns", t_ns)
        )

    return OnMachine(parts)


def watts(t: float) -> float:
    """Rises while it answers."""
    return 60.0 + 20.0 * (t - 100.0)


def run(machine: Machine, *arms, parts: dict[str, Part], budget: TurnBudget | None = None):
    stage = stage_on(machine, parts)
    meter: RemoteMeter = machine.meter()
    played = play(
        stage,
        decided(*arms, budget=budget),
        meter=meter,
        seen=lambda event: meter.look(),
    )
    return played.record, meter, stage


@given(
    st.lists(st.tuples(st.integers(0, 9 * MS), st.integers(0, 9 * MS)), min_size=1, max_size=9),
    st.integers(-HOURS // 7 // 60, HOURS),
    st.floats(-2e-4, 2e-4),
)
def test_the_joules_of_a_turn_contain_the_truth(
    delays: list[tuple[int, int]], offset_ns: int, drift: float
) -> None:
    machine = Machine(
        offset_ns=offset_ns, drift=drift, delays=cycle(delays), watts=watts, uncertainty=0.0
    )
    record, meter, _ = run(machine, QUICK, parts={"quick": Part()})
    energy = record.energy
    assert energy.joules is not None
    assert energy.uncertainty is not None
    true = machine.joules(energy.start_ns, energy.end_ns)
    assert abs(energy.joules - true) <= energy.uncertainty + 0.05
    phases = energy.phases
    assert phases["prefill"] + phases["decode"] == pytest.approx(energy.joules, abs=0.5)
    assert (energy.kind, energy.idle_watts) == ("counter", 12.0)
    assert energy.net_joules == pytest.approx(energy.joules - 12.0 * energy_seconds(energy))
    settled = meter.settings()
    true_offset = machine.remote(energy.end_ns) - energy.end_ns
    error_ns = settled["meter_offset_error_ns"]
    assert abs(settled["meter_offset_ns"] - true_offset) <= error_ns + 2


def energy_seconds(energy) -> float:
    return (energy.end_ns - energy.start_ns) / 1e9


def test_a_meter_that_goes_away_leaves_the_answer_and_no_joules() -> None:
    machine = Machine(boot_id="one")
    meter: RemoteMeter = machine.meter()
    stage = stage_on(machine, {"quick": Part()})

    def reboot(event: object) -> None:
        meter.look()
        machine.boot_id, machine.offset_ns = "two", -machine.now_ns

    record = play(stage, decided(QUICK), meter=meter, seen=reboot).record
    assert (record.answer, record.status) == ("Mars.", "complete")
    energy = record.energy
    assert (energy.joules, energy.net_joules, energy.joules_per_token) == (None, None, None)
    assert set(energy.phases.values()) == {None}
    assert "meter-rebooted" in energy.flags
    assert set(record.power_watts) == {None}


def test_others_at_work_leave_the_gross_joules_and_no_own_part() -> None:
    machine = Machine(running=cycle([1, 3]))
    record, _, _ = run(machine, QUICK, parts={"quick": Part()})
    assert record.energy.joules is not None
    assert record.energy.shared
    assert record.energy.own_joules is None


def test_a_budget_in_joules_ends_an_answer_of_another_machine() -> None:
    machine = Machine(watts=lambda t: 100.0)
    parts = {"large": Part(prefill=1.0, decode=40.0, tokens=80)}
    record, _, stage = run(machine, LARGE, parts=parts, budget=TurnBudget(joules=1000.0))
    assert record.status == "budget"
    assert stage.hurried == 1
    assert record.energy.joules is not None
    assert 1000.0 <= record.energy.joules < 1300.0


def test_the_hops_of_a_cascade_have_joules_before_the_turn_has_ended() -> None:
    machine = Machine(watts=lambda t: 100.0)
    parts = {"quick": Part(confidence=0.1), "large": Part("Mars!", confidence=0.9)}
    record, _, _ = run(machine, QUICK, LARGE, parts=parts)
    first, second = record.hops
    assert first.joules == pytest.approx(100.0 * first.seconds, rel=0.02)
    assert second.joules == pytest.approx(100.0 * second.seconds, rel=0.02)
    assert record.energy.joules == pytest.approx(first.joules + second.joules, rel=0.02)
