"""The energy of an answer in the panel: net everywhere in net mode, and a bar for each phase."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from etui.energy.types import Energy, Kind
from etui.tui.power.energy_text import (
    NO_BASELINE,
    AnswerEnergy,
    PhaseJoules,
    answer_of_record,
    facts_line,
    phase_line,
)
from tests.tui.fakes import turn_record

S = 1_000_000_000


def energy(joules: float | None, kind: Kind = Kind.COUNTER, idle: float | None = None) -> Energy:
    return Energy(0, 2 * S, joules, 0.5, None if joules is None else kind, 1.0, idle)


def test_net_mode_has_net_joules_per_token() -> None:
    answer = AnswerEnergy(energy(42.0, idle=10.0), output_tokens=50)
    assert answer.per_token_text(net=False) == "0.840 J/tok"
    assert answer.per_token_text(net=True) == "0.440 J/tok"
    record = answer_of_record(turn_record(0))
    assert record.per_token_text(net=False) == "0.500 J/tok"
    assert record.per_token_text(net=True) == "0.400 J/tok"


def test_without_a_baseline_net_says_what_to_do() -> None:
    answer = AnswerEnergy(energy(42.0), output_tokens=50)
    assert answer.joules_text(net=True) == NO_BASELINE
    assert "leave etui idle" in NO_BASELINE
    assert answer.per_token_text(net=True) == ""


def test_no_work_has_negative_energy() -> None:
    answer = AnswerEnergy(energy(10.0, idle=50.0), output_tokens=50)
    assert answer.joules_text(net=True) == "not above idle"
    assert answer.per_token_text(net=True) == ""


def test_an_estimate_is_marked() -> None:
    answer = AnswerEnergy(energy(42.3, Kind.ESTIMATE), 64, 29.7)
    assert facts_line(answer, 60, net=False) == "≈42 J      ≈0.66 J/tok      30 tok/s"
    assert answer.is_estimate


def test_nothing_measured_is_never_zero() -> None:
    answer = AnswerEnergy(energy(None), 64, 29.7)
    assert facts_line(answer, 60, net=False) == "unmeasured      30 tok/s"
    assert phase_line(answer, 60) == []


def test_a_bar_is_as_long_as_the_joules_of_its_phase() -> None:
    answer = AnswerEnergy(energy(42.0, Kind.ESTIMATE), 64, 30.0, {"P": 2.0, "A": 40.0})
    runs = phase_line(answer, 44)
    text = "".join(part for part, _ in runs)
    assert text.startswith("read ≈2.0 J ▊  write ≈40 J █████")
    assert cell_len(text) <= 44
    assert [ink for part, ink in runs if "█" in part] == ["answer"]


@example({"P": 0.5, "T": 0.5, "A": 0.5}, 43)
@given(
    st.dictionaries(st.sampled_from("PTA"), st.just(0.0) | st.floats(0.01, 1e6)),
    st.integers(43, 120),
)
def test_the_bars_never_leave_the_panel(joules: dict[str, float], width: int) -> None:
    answer = AnswerEnergy(energy(sum(joules.values())), 64, 30.0, joules)
    assert cell_len("".join(text for text, _ in phase_line(answer, width))) <= width


def test_thinking_and_answer_of_a_record_add_up_to_its_decode() -> None:
    record = turn_record(0)
    thought = replace(
        record,
        tokens=replace(record.tokens, thinking=10),
        energy=replace(record.energy, thinking_joules=6.0),
    )
    assert answer_of_record(thought).phase_joules == {"P": 2.5, "T": 6.0, "A": 4.0}
    assert answer_of_record(record).phase_joules == {"P": 2.5, "A": 10.0}
    unknown = replace(thought, energy=replace(thought.energy, thinking_joules=None))
    assert answer_of_record(unknown).phase_joules == {"P": 2.5}


@given(st.lists(st.tuples(st.sampled_from("LPTA"), st.floats(0, 100)), min_size=1, max_size=30))
def test_the_phases_of_a_running_answer_add_up_to_its_joules(
    steps: list[tuple[str, float]],
) -> None:
    phases, total = PhaseJoules(), 0.0
    for letter, joules in steps:
        total += joules
        found = phases.look(letter, total)
        loads = (
            phases.closed.get("L", 0.0)
            if letter != "L"
            else total - sum(value for name, value in found.items())
        )
        assert sum(found.values()) + loads == pytest.approx(total)
        assert all(value >= -1e-9 for value in found.values())


def test_another_answer_begins_with_no_joules() -> None:
    phases = PhaseJoules()
    phases.look("P", 5.0)
    phases.look("A", 9.0)
    assert phases.look("P", 1.0) == {"P": 1.0}
