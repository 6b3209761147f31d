"""Questions from CSV files in MMLU's format: ``question, A, B, C, D, answer``, RFC 4180, UTF-8.

Only the ``csv`` module reads the files. Fields may contain newlines, leading and trailing spaces,
or the text ``None`` as a choice. Nothing is stripped here; each prompt format strips what it needs.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from etui.errors import InvalidFile, Problem

Split = Literal["test", "val", "dev"]
SPLITS: tuple[Split, ...] = ("test", "val", "dev")
LETTERS = ("A", "B", "C", "D")
"""Letters of MMLU's four options, those of a CSV file without further columns."""

ALL_LETTERS = ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J")
"""Letters that a question with options may use: at most ten options."""

Grading = Literal["letter", "number"]
"""How an answer is compared with the right one: by the option's letter, or as a number."""

_COLUMNS = ("question", "a", "b", "c", "d", "answer")
_MOST_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class Question:
    """One row of a file, unchanged.

    Attributes:
        subject: ``abstract_algebra``.
        row: 0-based row of the file, without the header line.
        text: The question.
        choices: The two to ten options, in the order of their letters; empty if the answer is a
            number.
        answer: The right letter, or the right number as its file states it.
        solution: Worked solution that the file gives; empty without one. It is shown only in worked
            examples.
        id: Identifier that the file gives; None without one.
    """

    subject: str
    row: int
    text: str
    choices: tuple[str, ...]
    answer: str
    solution: str = ""
    id: str | None = None

    @property
    def letters(self) -> tuple[str, ...]:
        """Letters of the options; empty if the answer is a number."""
        return ALL_LETTERS[: len(self.choices)]


@dataclass(frozen=True, slots=True)
class Suite:
    """The questions of one split, and the worked examples of every subject.

    Attributes:
        name: ``mmlu``, ``sample``, or the stem of a file.
        split: The split of the questions.
        sha256: Hash of the files of questions and examples, concatenated in the order of their
            names.
        questions: Subject -> its rows in file order.
        examples: Subject -> worked examples for the prompt; they are never asked.
        notice: Caveat about the data; empty if there is none.
        grading: How answers are compared with the right ones.
    """

    name: str
    split: str
    sha256: str
    questions: Mapping[str, Sequence[Question]]
    examples: Mapping[str, Sequence[Question]]
    notice: str = ""
    grading: Grading = "letter"

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


def read_questions(raw: bytes, file: str, subject: str) -> list[Question]:
    """Parse the questions of one file.

    A first line that names the columns is a header; it may use another order and add a ``subject``
    column. Without a header, a seventh column is the subject.

    Args:
        raw: Content of the file.
        file: Name of the file, for messages.
        subject: Subject of rows that have none.

    Raises:
        InvalidFile: The file has problems, each reported with its line.
    """
    reader = csv.reader(io.StringIO(_decode(raw, file), newline=""), strict=True)
    order: Sequence[int] = (0, 1, 2, 3, 4, 5)
    subject_at: int | None = 6
    found: list[Question] = []
    problems: list[Problem] = []
    line = 1
    first = True
    try:
        for fields in reader:
            at, line = line, reader.line_num + 1
            if not fields:
                continue
            names = [field.strip().lower() for field in fields]
            if first and set(_COLUMNS) <= set(names):
                order = [names.index(name) for name in _COLUMNS]
                subject_at = names.index("subject") if "subject" in names else None
                first = False
                continue
            first = False
            problem = _find_problem(fields, order, subject_at)
            if problem:
                problems.append(Problem(file, at, 1, problem))
                continue
            text, a, b, c, d, answer = (fields[index] for index in order)
            named = subject_at is not None and len(fields) > subject_at
            own = fields[subject_at].strip() if named and subject_at is not None else ""
            letter = answer.strip()
            found.append(Question(own or subject, len(found), text, (a, b, c, d), letter))
    except csv.Error as error:
        problems.append(Problem(file, reader.line_num, 1, f"is not valid CSV: {error}"))
    if not found and not problems:
        problems.append(Problem(file, 0, 0, "contains no questions"))
    if problems:
        raise InvalidFile.of(
            problems[:_MOST_PROBLEMS],
            "a row is question, A, B, C, D and the letter of the answer; put a field with a comma "
            "or a line break in double quotes",
        )
    return found


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


def _find_problem(fields: Sequence[str], order: Sequence[int], subject_at: int | None) -> str:
    """Describe what is wrong with a row; empty if it is valid."""
    most = max(*order, subject_at if subject_at is not None else 0) + 1
    least = max(order) + 1
    if not least <= len(fields) <= most:
        return f"has {len(fields)} columns, expected question, A, B, C, D, answer"
    answer = fields[order[5]].strip()
    if answer not in LETTERS:
        return f"the answer {answer!r} is not one of {', '.join(LETTERS)}"
    empty = next((name for name, i in zip(_COLUMNS, order, strict=True) if not fields[i]), None)
    return f"{empty if empty == 'question' else (empty or '').upper()} is empty" if empty else ""


def _decode(raw: bytes, file: str) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        seems = "it is UTF-16" if utf16 else f"byte {error.start} is invalid"
        problem = Problem(file, raw.count(b"\n", 0, error.start) + 1, 1, f"is not UTF-8: {seems}")
        raise InvalidFile.of([problem], "save the file as UTF-8") from error
    if "\0" in text:
        problem = Problem(file, text.count("\n", 0, text.index("\0")) + 1, 1, "contains NUL bytes")
        raise InvalidFile.of([problem], "save the file as UTF-8")
    return text
