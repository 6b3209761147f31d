"""Main loop of a run: the systems answer the pieces of a schedule, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from etui.bench.run.plan import RunPlan
from etui.bench.run.sample_writer import SampleWriter
from etui.bench.run.schedule import Piece
from etui.bench.run.work import QuestionAnswerer, SubjectWork
from etui.bench.store.run_config import RunConfig
from etui.bench.store.sample import Sample
from etui.measure.run import Ending, measure_cells


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
    pieces = (
        (piece.system, build_work(plan, piece, done.get((piece.system, piece.subject), set())))
        for piece in schedule
    )
    return measure_cells(
        ((system, work) for system, work in pieces if work.left),
        lambda cell: systems[cell[0]].answer(cell[1]),
        sink.put,
        lambda: check_limits(sink.joules),
    )


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
