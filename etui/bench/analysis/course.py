"""The course of a run: how the cost of the answers of each system changes on each machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from etui.bench.analysis.steady_state import judge_steadiness, list_early_answers
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.energy.steadiness import EarlyAnswer, SteadyState


@dataclass(frozen=True, slots=True)
class Course:
    """The answers of a system on one machine, in the order they were given."""

    machine: str | None  # Key of the machine; None for the only machine of a run
    steady_state: SteadyState  # Whether the machine worked evenly
    early_answers: tuple[EarlyAnswer, ...]
    """The first, second and tenth answer, as far as there are so many."""


def compute_courses(samples: Iterable[Sample], run: RunConfig) -> dict[str, tuple[Course, ...]]:
    """Compute the course of each system on each machine; system -> courses.

    Args:
        samples: Answers of the run in the order they were given.
    """
    found: dict[str, dict[str | None, list[Sample]]] = {}
    for sample in samples:
        machines = found.setdefault(run.contender(sample.arm), {})
        machines.setdefault(sample.machine, []).append(sample)
    return {
        name: tuple(
            Course(machine, judge_steadiness(inside), list_early_answers(inside))
            for machine, inside in sorted(machines.items(), key=lambda item: item[0] or "")
        )
        for name, machines in found.items()
    }
