"""Order of a run: which system answers which questions next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from etui.bench.store.parts import choose_block_size, cut_subjects
from etui.datasets.question_sample import order_balanced
from etui.measure.run import shuffle_grouped

if TYPE_CHECKING:
    from etui.bench.run.plan import RunPlan


@dataclass(frozen=True, slots=True)
class Piece:
    """Questions of one subject that one system answers in one go."""

    system: str  # Name of the arm or of the policy
    subject: str
    rows: tuple[int, ...]  # Rows of the questions, in the order in which they are asked
    block: int  # Number of the block it belongs to, from 0


def build_schedule(plan: RunPlan, systems: Iterable[str]) -> Iterator[Piece]:
    """Build the order of a run.

    Args:
        plan: The plan; ``order`` and ``block`` choose the order, ``part`` the share of it.

    Yields:
        The pieces in the order in which they are answered.
    """
    names, part = tuple(systems), plan.part
    if plan.order == "subjects":
        yield from _by_subject(plan, names)
        return
    order = order_questions(plan)
    size = choose_block_size(len(order), plan.block, part)
    for piece in build_blocks(plan, names, order, size):
        if part is None or piece.block % part.count == part.index:
            yield piece


def order_questions(plan: RunPlan) -> tuple[tuple[str, int], ...]:
    """Return subject and row of the drawn questions in the balanced order of a plan."""
    sizes = {subject: len(questions) for subject, questions in plan.drawn.items()}
    return tuple(
        (subject, plan.drawn[subject][index].row)
        for subject, index in order_balanced(sizes, plan.seed)
    )


def build_blocks(
    plan: RunPlan,
    systems: Iterable[str],
    questions: Iterable[tuple[str, int]],
    size: int,
    first: int = 0,
) -> Iterator[Piece]:
    """Cut an order of questions into blocks, each of which every system answers.

    Within a block the systems of one model follow each other, since changing the model may load it.
    The order of the models and of the systems of a model is random in every block, so that a drift
    of the machine favours none of them.

    Args:
        plan: The plan; its ``seed`` draws the order of the systems.
        questions: Subject and row of the questions, in order.
    """
    names, order = tuple(systems), list(questions)
    for block, start in enumerate(range(0, len(order), size), first):
        by_subject: dict[str, list[int]] = {}
        for subject, row in order[start : start + size]:
            by_subject.setdefault(subject, []).append(row)
        for system in _shuffle_systems(plan, names, block):
            for subject, rows in by_subject.items():
                yield Piece(system, subject, tuple(rows), block)


def _by_subject(plan: RunPlan, systems: tuple[str, ...]) -> Iterator[Piece]:
    rows = {
        subject: tuple(question.row for question in questions)
        for subject, questions in plan.drawn.items()
    }
    numbers = {subject: block for block, subject in enumerate(rows)}
    if plan.part is None:
        pieces = list(rows.items())
    else:
        cuts = cut_subjects({name: len(inside) for name, inside in rows.items()}, plan.part)
        pieces = [(cut.subject, rows[cut.subject][cut.start : cut.stop]) for cut in cuts]
    for subject, inside in pieces:
        for system in systems:
            yield Piece(system, subject, inside, numbers[subject])


def _shuffle_systems(plan: RunPlan, systems: tuple[str, ...], block: int) -> list[str]:
    def model_of(system: str) -> str:
        arm = plan.arms.get(system)
        return arm.model if arm is not None else ""

    return shuffle_grouped(systems, model_of, Random(f"systems {plan.seed} {block}"))
