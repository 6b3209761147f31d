"""Main loop of a run: every system answers the same questions, subject by subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from etui.bench.run.plan import RunPlan
from etui.bench.run.sample_writer import SampleWriter
from etui.bench.run.scoring import StopRequested
from etui.bench.run.work import QuestionAnswerer, SubjectWork
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample

Ending = Literal["complete", "stopped", "joules"]
"""All questions are answered, the user stopped the run, or the joules are used up."""


def answer_all(
    plan: RunPlan,
    systems: Mapping[str, QuestionAnswerer],
    done: Mapping[tuple[str, str], set[int]],
    sink: SampleWriter,
    stopped: Callable[[], bool],
    max_joules: float | None = None,
) -> Ending:
    """Run every system on the questions of the plan that it has not answered.

    Args:
        plan: The plan of the run.
        systems: Systems by name, in the order in which they answer a subject.
        done: (system, subject) -> rows that are already answered.
        sink: Receives the answers.
        stopped: Whether the user stopped the run.
        max_joules: Joules after which the run stops early; None is no limit.

    Raises:
        EtuiError: The engine failed, or the folder cannot be written.
    """

    def ended() -> Ending | None:
        if stopped():
            return "stopped"
        return "joules" if max_joules is not None and sink.joules >= max_joules else None

    for subject, questions in plan.drawn.items():
        for name, system in systems.items():
            rows = done.get((name, subject), set())
            work = SubjectWork(subject, questions, rows, plan.examples[subject])
            if not work.left:
                continue
            if ending := ended():
                return ending
            try:
                for answered in system.answer(work):
                    sink.put(answered)
                    if ending := ended():
                        return ending
            except StopRequested:
                return "stopped"
    return "complete"


def collect_done_rows(
    config: RunConfig, samples: Iterable[Sample]
) -> dict[tuple[str, str], set[int]]:
    """Collect the answered rows: (system, subject) -> rows."""
    found: dict[tuple[str, str], set[int]] = {}
    for sample in samples:
        key = (config.contender(sample.arm), sample.subject)
        found.setdefault(key, set()).add(sample.row)
    return found
