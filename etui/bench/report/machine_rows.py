"""Rows of the table of machines on the page of a run."""

from __future__ import annotations

from dataclasses import dataclass

from etui import units
from etui.bench.analysis.summary import Summary
from etui.bench.analysis.summary_text import DASH, joules_text, machine_text
from etui.text.sanitize import sanitize


@dataclass(frozen=True, slots=True)
class MachineRow:
    """A row of the table of machines; ``energy`` explains missing joules, else it is empty."""

    arm: str
    colour: int
    key: str
    machine: str
    questions: str
    energy: str
    per_question: str
    per_correct: str
    watts: str
    seconds: str


def machine_rows(summary: Summary) -> list[MachineRow]:
    """Build the table of machines, a row for each arm and machine; empty with one machine."""
    rows = []
    for at, (name, arm) in enumerate(summary.arms.items()):
        for key, machine in (arm.machines or {}).items():
            energy = machine.energy
            kind = None if energy is None else energy.kind
            watts = None if energy is None else energy.mean_watts
            rows.append(
                MachineRow(
                    arm=sanitize(name),
                    colour=at % 8,
                    key=sanitize(key),
                    machine=sanitize(machine_text(machine)),
                    questions=f"{machine.questions:,}",
                    energy=units.UNMEASURED if energy is None else "",
                    per_question=DASH if energy is None else joules_text(energy.per_question, kind),
                    per_correct=DASH if energy is None else joules_text(energy.per_correct, kind),
                    watts=units.watts_text(watts.value, kind) if watts else DASH,
                    seconds=units.seconds_text(machine.seconds / machine.questions),
                )
            )
    return rows
