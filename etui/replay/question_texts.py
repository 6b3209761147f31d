"""The questions that outcomes are about, out of MMLU's files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from etui.datasets.archive import read_files, subject_of
from etui.datasets.questions import Question, read_questions
from etui.routing.accuracy.table import Graded


def texts_of(data: Path, split: str) -> dict[tuple[str, int], Question]:
    """(subject, row) -> question of one split; not all of MMLU's subjects need be there.

    Raises:
        UsageError: There is no such place.
        InvalidFile: It holds no such files, or one that cannot be read.
    """
    found: dict[tuple[str, int], Question] = {}
    for name, raw in read_files(data, (split,)).items():
        subject = subject_of(name)
        for question in read_questions(raw, name, subject):
            found[subject, question.row] = question
    return found


def without(graded: Graded, others: Iterable[Question]) -> Graded:
    """The questions whose text stands in none of the others of the same subject.

    The options are not compared: the same question with its options in another order is the same.
    """
    import numpy as np

    known = {(question.subject, _plain(question.text)) for question in others}
    keep = [
        (subject, _plain(question.stem)) not in known
        for subject, question in zip(graded.subjects, graded.questions, strict=True)
    ]
    return graded.take(np.asarray(keep, dtype=bool))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
