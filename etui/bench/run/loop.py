"""The run itself: subject by subject, every contender on the same questions, until all are done."""

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
"""All questions are answered, the user stopped, or the joules are spent."""


def answer_all(
    plan: RunPlan,
    contenders: Mapping[str, QuestionAnswerer],
    done: Mapping[tuple[str, str], set[int]],
    sink: SampleWriter,
    stopped: Callable[[], bool],
    max_joules: float | None = None,
) -> Ending:
    """Have every contender answer what is left of the plan.

    Args:
        contenders: By name, in the order in which they take a subject.
        done: (contender, subject) -> rows that are answered already.
        sink: Takes the answers.
        stopped: Whether the user wants to stop.
        max_joules: Where the run stops part-way; None is no limit.

    Raises:
        EtuiError: The engine failed, or the folder cannot be written.
    """

    def ended() -> Ending | None:
        if stopped():
            return "stopped"
        return "joules" if max_joules is not None and sink.joules >= max_joules else None

    for subject, questions in plan.drawn.items():
        for name, contender in contenders.items():
            rows = done.get((name, subject), set())
            work = SubjectWork(subject, questions, rows, plan.examples[subject])
            if not work.left:
                continue
            if ending := ended():
                return ending
            try:
                for answered in contender.answer(work):
                    sink.put(answered)
                    if ending := ended():
                        return ending
            except StopRequested:
                return "stopped"
    return "complete"


def done_rows(config: RunConfig, samples: Iterable[Sample]) -> dict[tuple[str, str], set[int]]:
    """(contender, subject) -> rows that are answered."""
    found: dict[tuple[str, str], set[int]] = {}
    for sample in samples:
        key = (config.contender(sample.arm), sample.subject)
        found.setdefault(key, set()).add(sample.row)
    return found
