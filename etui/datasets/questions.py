"""Questions and suites of them, and the hashes that identify both.

Nothing of a file is stripped; each prompt format strips what it needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["test", "val", "dev"]
SPLITS: tuple[Split, ...] = ("test", "val", "dev")
LETTERS = ("A", "B", "C", "D")
"""Letters of MMLU's four options, those of a CSV file without further columns."""

ALL_LETTERS = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J")
"""Letters that a question with options may use: at most ten options."""

Grading = Literal["letter", "number"]
"""How an answer is compared with the right one: by the option's letter, or as a number."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a file, unchanged."""

    subject: str  # `abstract_algebra`
    row: int  # 0-based row of the file, without the header line
    text: str
    choices: tuple[str, ...]
    """The two to ten options, in the order of their letters; empty if the answer is a number."""
    answer: str  # The right letter, or the right number as its file states it
    solution: str = ""
    """Worked solution that the file gives; empty without one. It is shown only in worked examples.
    """
    id: str | None = None  # Identifier that the file gives; None without one

    @property
    def letters(self) -> tuple[str, ...]:
        """Letters of the options; empty if the answer is a number."""
        return ALL_LETTERS[: len(self.choices)]


@dataclass(frozen=True, slots=True)
class Suite:
    """The questions of one split, and the worked examples of every subject."""

    name: str
    """``mmlu`` or another suite with a name, or the stem of a file (its whole name if the stem is
    the name of a suite)."""
    split: str
    sha256: str
    """Hash of the data. Of MMLU, the sample and own files it is :func:`hash_files` of the files of
    questions and examples; of the other suites, which exist in several forms, it is
    :func:`hash_questions` of the questions and then the examples."""
    questions: Mapping[str, Sequence[Question]]  # Subject -> its rows in file order
    examples: Mapping[str, Sequence[Question]]
    """Subject -> worked examples for the prompt; they are never asked."""
    notice: str = ""  # Caveat about the data; empty if there is none
    grading: Grading = "letter"  # How answers are compared with the right ones

    @property
    def sizes(self) -> dict[str, int]:
        """Subject -> its number of questions."""
        return {subject: len(rows) for subject, rows in self.questions.items()}

    @property
    def chance(self) -> float:
        """Accuracy of guessing an option: the mean of 1 / options; 0 if answers are numbers."""
        rows = [question for inside in self.questions.values() for question in inside]
        if self.grading == "number" or not rows:
            return 0.0
        return sum(1 / len(question.choices) for question in rows) / len(rows)


def group_by_subject(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Group questions by subject; subjects and questions keep their order."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.subject, []).append(question)
    return found


def hash_files(files: Mapping[str, bytes]) -> str:
    """Compute the SHA-256 of files concatenated in the byte order of their names."""
    digest = hashlib.sha256()
    for name in sorted(files, key=lambda name: name.encode()):
        digest.update(files[name])
    return digest.hexdigest()


def hash_questions(questions: Iterable[Question]) -> str:
    """Compute the SHA-256 of questions in their order, whatever the form of the file was.

    Each question is one line: its subject, text, options, answer and solution as a JSON array
    without spaces, in UTF-8. Identifiers are left out, since not every form has them.
    """
    digest = hashlib.sha256()
    for one in questions:
        fields = [one.subject, one.text, list(one.choices), one.answer, one.solution]
        line = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
