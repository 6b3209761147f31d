"""Read the questions of outcomes from the MMLU files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from etui.datasets.archive import parse_subject, read_files
from etui.datasets.question_files import read_questions
from etui.datasets.questions import Question
from etui.routing.accuracy.table import Graded


def read_texts(data: Path, split: str) -> dict[tuple[str, int], Question]:
    """Read the questions of one split; subjects of MMLU may be missing.

    Args:
        data: Folder or archive of the MMLU files.

    Returns:
        (subject, row) -> question.

    Raises:
        UsageError: ``data`` does not exist.
        InvalidFile: It has no such files, or one that cannot be read.
    """
    texts: dict[tuple[str, int], Question] = {}
    for name, raw in read_files(data, (split,)).items():
        subject = parse_subject(name)
        for question in read_questions(raw, name, subject):
            texts[subject, question.row] = question
    return texts


def drop_questions(graded: Graded, others: Iterable[Question]) -> Graded:
    """Drop the questions whose text occurs in one of the others of the same subject.

    The options are not compared: a question with its options in another order is the same one.
    """
    import numpy as np

    known = {(question.subject, _normalise(question.text)) for question in others}
    keep = [
        (subject, _normalise(question.stem)) not in known
        for subject, question in zip(graded.subjects, graded.questions, strict=True)
    ]
    return graded.take(np.asarray(keep, dtype=bool))


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split())
