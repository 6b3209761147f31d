"""Parts of a plan: which of its questions each of several machines answers."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from etui.datasets.question_sample import order_balanced

BLOCK = 8
"""Default number of questions of a block."""

Order = Literal["subjects", "balanced"]
"""``subjects``: one subject after the other; ``balanced``: in blocks of all subjects, so that every
prefix of the run is a stratified random sample."""


@dataclass(frozen=True, slots=True)
class BenchPart:
    """A share of a plan."""

    index: int  # 0-based
    count: int


@dataclass(frozen=True, slots=True)
class SubjectCut:
    """Questions of a subject that one part answers in one go.

    Attributes:
        start, stop: Range of its drawn questions, as for a slice.
    """

    subject: str
    start: int
    stop: int


def cut_subjects(sizes: Mapping[str, int], part: BenchPart) -> tuple[SubjectCut, ...]:
    """Cut a plan that asks subject by subject, and return the cuts of one part.

    A subject stays whole, so that its worked examples are computed once, unless it has more
    questions than an even share: it is then cut into the fewest ranges that are not larger. Each
    cut, the largest first, goes to the part with the fewest questions (longest processing time
    first: Graham, Bounds on multiprocessing timing anomalies, 1969).

    Args:
        sizes: Subject -> number of drawn questions, in the order of the run.

    Returns:
        Its cuts in the order of the run; at least one if the plan has a question for every part.
    """
    most = max(1, sum(sizes.values()) // part.count)
    cuts = [cut for subject, size in sizes.items() for cut in _cut_evenly(subject, size, most)]
    loads = [(0, index) for index in range(part.count)]
    taken: set[SubjectCut] = set()
    for cut in sorted(cuts, key=lambda cut: cut.start - cut.stop):
        load, index = heapq.heappop(loads)
        heapq.heappush(loads, (load + cut.stop - cut.start, index))
        if index == part.index:
            taken.add(cut)
    return tuple(cut for cut in cuts if cut in taken)


def choose_block_size(questions: int, block: int | None, part: BenchPart | None) -> int:
    """Return the questions of a block in the balanced order; no part is left without a block.

    Args:
        questions: Number of questions of the plan.
        block: The requested size; None is :data:`BLOCK`.
        part: The part; None is the whole plan.
    """
    size = block or BLOCK
    return size if part is None else max(1, min(size, questions // part.count))


def list_part(
    sizes: Mapping[str, int], order: Order, block: int | None, seed: int, part: BenchPart | None
) -> dict[str, tuple[int, ...]]:
    """List the questions that a part asks.

    Args:
        sizes: Subject -> number of drawn questions, in the order of the run.
        block: Requested questions of a block of the balanced order; None is :data:`BLOCK`.
        seed: Seed of the balanced order.
        part: The part; None is the whole plan.

    Returns:
        Subject -> indices of its drawn questions, ascending; without subjects that have none.
    """
    if part is None:
        return {subject: tuple(range(size)) for subject, size in sizes.items()}
    found: dict[str, list[int]] = {subject: [] for subject in sizes}
    if order == "subjects":
        for cut in cut_subjects(sizes, part):
            found[cut.subject] += range(cut.start, cut.stop)
    else:
        length = choose_block_size(sum(sizes.values()), block, part)
        for at, (subject, index) in enumerate(order_balanced(sizes, seed)):
            if at // length % part.count == part.index:
                found[subject].append(index)
    return {subject: tuple(sorted(indices)) for subject, indices in found.items() if indices}


def _cut_evenly(subject: str, size: int, most: int) -> list[SubjectCut]:
    count = -(-size // most)
    ends = [size * at // count for at in range(count + 1)]
    return [SubjectCut(subject, start, stop) for start, stop in pairwise(ends)]
