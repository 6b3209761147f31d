"""Main loop of a run: the systems answer the pieces of a schedule, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from etui.bench.run.plan import RunPlan
from etui.bench.run.sample_writer import SampleWriter
from etui.bench.run.schedule import Piece
from etui.bench.run.scoring import StopRequested
from etui.bench.run.work import QuestionAnswerer, SubjectWork
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample

Ending = Literal["complete", "precise", "stopped", "joules", "time"]
"""All questions are answered, the accuracies are known to the precision asked for, the user stopped
the run, or the joules or the time are used up."""


def answer_all(
    plan: RunPlan,
    schedule: Iterable[Piece],
    systems: Mapping[str, QuestionAnswerer],
    done: Mapping[tuple[str, str], set[int]],
    sink: SampleWriter,
    check_limits: Callable[[float], Ending | None],
) -> Ending:
    """Run the systems on the questions that they have not answered.

    Args:
        done: (system, subject) -> rows that are already answered.
        check_limits: Takes the joules used so far; returns why the run ends now, or None.

    Raises:
        EtuiError: The engine failed, or the folder cannot be written.
    """
    for piece in schedule:
        work = build_work(plan, piece, done.get((piece.system, piece.subject), set()))
        if not work.left:
            continue
        if ending := check_limits(sink.joules):
            return ending
        try:
            for answered in systems[piece.system].answer(work):
                sink.put(answered)
                if ending := check_limits(sink.joules):
                    return ending
        except StopRequested:
            return "stopped"
    return "complete"


def build_work(plan: RunPlan, piece: Piece, done: set[int]) -> SubjectWork:
    """Build the work of a piece from the questions of the plan.

    Args:
        done: Rows of its subject that its system has answered.
    """
    by_row = {question.row: question for question in plan.drawn[piece.subject]}
    questions = tuple(by_row[row] for row in piece.rows)
    return SubjectWork(piece.subject, questions, done, plan.examples[piece.subject])


def collect_done_rows(
    config: RunConfig, samples: Iterable[Sample]
) -> dict[tuple[str, str], set[int]]:
    """Collect the answered rows: (system, subject) -> rows."""
    found: dict[tuple[str, str], set[int]] = {}
    for sample in samples:
        key = (config.contender(sample.arm), sample.subject)
        found.setdefault(key, set()).add(sample.row)
    return found
