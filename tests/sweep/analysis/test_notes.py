"""Notes of a result: each once, with counts."""

from __future__ import annotations

from dataclasses import replace

from etui.sweep.analysis import analyse
from etui.sweep.config import Goal, SweepDesign
from etui.sweep.verdict import format_verdict
from tests.sweep.measured import Measured, grid, unmeasure

THREADS = grid(threads=(1, 2))
JOULES = Goal()


def result_of(change, goal=JOULES):
    design = SweepDesign(THREADS, goal)
    rig = Measured(
        lambda one, plan: (8 / one.get("threads"), 1.0), noise=0.01, seed=1, change=change
    )
    return analyse(design, rig.blocks(design))


def notes_of(change):
    return result_of(change).notes


def test_a_plain_counter_needs_no_note():
    assert notes_of(lambda visit, plan: visit) == ()


def test_an_estimate_is_called_one():
    (note,) = notes_of(lambda visit, plan: replace(visit, kind="estimate"))
    assert note.startswith("joules are an estimate from CPU time")
    assert "not what the hardware draws" in note


def test_the_weakest_kind_is_that_of_the_result_and_in_its_verdict():
    def change(visit, plan):
        return replace(visit, kind="estimate" if plan.number == 3 else "counter")

    result = result_of(change)
    assert result.kind == "estimate"
    assert "of the joules (estimate)" in format_verdict(result)
    assert result_of(lambda visit, plan: visit).kind == "counter"
    assert result_of(unmeasure, Goal("time")).kind is None


def test_kinds_that_do_not_compare_are_counted():
    def change(visit, plan):
        return replace(visit, kind="estimate" if plan.stage == "floor" else "counter")

    notes = notes_of(change)
    assert any(
        note.endswith("which do not compare: estimate in 8 visits, counter in 30 visits")
        for note in notes
    ), notes


def test_notes_of_visits_come_once_with_their_number():
    def change(visit, plan):
        if visit.setting == "threads=2":
            visit = replace(visit, notes=("the cap was rounded to 250 W",))
        return replace(visit, shared=plan.stage == "floor")

    assert notes_of(change) == (
        "the cap was rounded to 250 W (in 10 of 38 visits)",
        "other processes used the measured devices (in 8 of 38 visits)",
    )


def test_joules_that_are_missing_now_and_then_are_counted():
    def change(visit, plan):
        return (
            unmeasure(visit, plan) if plan.number == 5 and visit.setting != "threads=1" else visit
        )

    assert "joules are unmeasured in 1 of 38 visits" in notes_of(change)


def test_copies_of_the_baseline_that_differ_are_noted():
    def change(visit, plan):
        phases = {
            name: replace(phase, joules=phase.joules * (1.05 if visit.copy else 1.0))
            for name, phase in (("prefill", visit.prefill), ("decode", visit.decode))
        }
        return replace(visit, **phases)

    (note,) = notes_of(change)
    assert note.startswith("the second visit of the baseline differs from the first by ")
    assert note.endswith("% of the joules: the detection floor is not below that")
