"""Read files of questions of any form, which their suffix names."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from etui.datasets.questions import ALL_LETTERS, Grading, Question
from etui.datasets.records import (
    MOST_PROBLEMS,
    BadRecord,
    decode_text,
    parse_number,
    read_jsonl_questions,
    read_parquet_questions,
    show_value,
)
from etui.errors import InvalidFile, Problem
from etui.units import count_text

_MOST_OPTIONS = len(ALL_LETTERS)

_NUMBER_COLUMNS = frozenset({"question", "answer", "subject", "id"})
"""All that the header of questions without options may name."""

_FIX = (
    "a row is question, 2 to 10 options (A, B, C, D, ...) and the letter of the answer; put a "
    "field with a comma or a line break in double quotes; questions whose answer is a number need "
    "the header question,answer"
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a row has its fields.

    Attributes:
        subject, identifier: Index of the subject and of the id; None without such a column.
    """

    text: int
    options: tuple[int, ...]
    """Indices of the options, in the order of their letters; empty if the answer of every question
    is a number."""
    answer: int
    subject: int | None
    identifier: int | None
    least: int
    most: int
    named: bool  # Whether a header names the columns; a row may then leave its last options empty
    line: int  # Line of the file that defines them


def read_csv_questions(raw: bytes, file: str, subject: str) -> list[Question]:
    """Parse the questions of a CSV file.

    A first line that names the columns (``question``, the letters from ``A``, ``answer``) is a
    header. It may use any order and add ``subject`` and ``id``; a row with fewer options leaves the
    last ones empty. With ``question`` and ``answer`` but no letters, the answers are numbers.
    Without a header, all rows have as many options as the first one, and one more column is the
    subject; six columns are four options, and seven are four options and a subject.
    """
    reader = csv.reader(io.StringIO(decode_text(raw, file), newline=""), strict=True)
    columns: Columns | None = None
    found: list[Question] = []
    problems: list[Problem] = []
    line = 1
    first = True
    try:
        for fields in reader:
            at, line = line, reader.line_num + 1
            if not fields:
                continue
            try:
                header = _find_header(fields, at) if first else None
                first = False
                if header is not None:
                    columns = header
                    continue
                columns = columns or _find_columns(fields, at)
                found.append(_parse_row(fields, columns, subject, len(found)))
            except BadRecord as bad:
                problems.append(Problem(file, at, 1, str(bad)))
                if first:  # without a valid header, no row can be read
                    break
    except csv.Error as error:
        problems.append(Problem(file, reader.line_num, 1, f"is not valid CSV: {error}"))
    if not found and not problems:
        problems.append(Problem(file, 0, 0, "contains no questions"))
    if problems:
        raise InvalidFile.of(problems[:MOST_PROBLEMS], _FIX)
    return found


def _find_header(fields: Sequence[str], line: int) -> Columns | None:
    """Find the columns that a first line names; None if it is a question."""
    names = [field.strip().lower() for field in fields]
    if not {"question", "answer"} <= set(names):
        return None
    twice = sorted(name for name, count in Counter(names).items() if count > 1 and _is_column(name))
    if twice:
        raise BadRecord(f"the header names {twice[0]} twice")
    letters = sorted(name for name in names if len(name) == 1 and "a" <= name <= "z")
    gap = next((chr(ord("a") + at) for at, name in enumerate(letters) if name != chr(97 + at)), "")
    if gap:
        raise BadRecord(f"the header names option {letters[-1].upper()} but not {gap.upper()}")
    # Options under other names would make their index look like a number.
    if letters or not set(names) <= _NUMBER_COLUMNS:
        _check_options(len(letters), "the header names ")
    optional = {name: names.index(name) for name in ("subject", "id") if name in names}
    needed = [names.index(name) for name in ("question", *letters, "answer")]
    return Columns(
        text=needed[0],
        options=tuple(needed[1:-1]),
        answer=needed[-1],
        subject=optional.get("subject"),
        identifier=optional.get("id"),
        least=max(needed) + 1,
        most=len(names),
        named=True,
        line=line,
    )


def _is_column(name: str) -> bool:
    return name in ("question", "answer", "subject", "id") or (len(name) == 1 and name.isascii())


def _find_columns(fields: Sequence[str], line: int) -> Columns:
    """Find the columns of a file without a header from its first row."""
    width = len(fields)
    options = 4 if width in (6, 7) else width - 2
    if width not in (6, 7) and not _is_letter(fields[-1], options):
        if width > 4 and _is_letter(fields[-2], width - 3):
            options = width - 3  # the last column is a subject
        elif 2 <= options <= _MOST_OPTIONS:
            raise BadRecord(
                f"has {width} columns, and neither of the last two is the letter of an answer"
            )
    _check_options(options, f"has {width} columns: ")
    return Columns(
        text=0,
        options=tuple(range(1, options + 1)),
        answer=options + 1,
        subject=options + 2,
        identifier=None,
        least=options + 2,
        most=options + 3,
        named=False,
        line=line,
    )


def _check_options(options: int, before: str = "") -> None:
    if not 2 <= options <= _MOST_OPTIONS:
        count = count_text(max(options, 0), "option")
        raise BadRecord(f"{before}{count}; a question has 2 to {_MOST_OPTIONS}")


def _is_letter(field: str, options: int) -> bool:
    return field.strip() in ALL_LETTERS[: max(options, 0)]


def _parse_row(fields: Sequence[str], columns: Columns, subject: str, row: int) -> Question:
    if not columns.least <= len(fields) <= columns.most:
        expected = ", ".join(("question", *ALL_LETTERS[: len(columns.options)], "answer"))
        where = f" as in line {columns.line}" if row else ""
        raise BadRecord(f"has {len(fields)} columns, expected {expected}{where}")
    if not fields[columns.text]:
        raise BadRecord("question is empty")
    choices = [fields[at] for at in columns.options]
    while columns.named and len(choices) > 2 and not choices[-1]:
        choices.pop()
    answer, solution = fields[columns.answer].strip(), ""
    letters = ALL_LETTERS[: len(choices)]
    if not letters:
        answer, solution = parse_number({"answer": answer})
    elif answer not in letters:
        raise BadRecord(f"the answer {show_value(answer)} is not one of {', '.join(letters)}")
    if "" in choices:
        raise BadRecord(f"{ALL_LETTERS[choices.index('')]} is empty")
    return Question(
        subject=_get(fields, columns.subject).strip() or subject,
        row=row,
        text=fields[columns.text],
        choices=tuple(choices),
        answer=answer,
        solution=solution,
        id=_get(fields, columns.identifier).strip() or None,
    )


def _get(fields: Sequence[str], at: int | None) -> str:
    return fields[at] if at is not None and at < len(fields) else ""


SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv")
"""Suffixes of files of questions, in the order in which a folder is searched."""


def read_questions(raw: bytes, file: str, subject: str) -> list[Question]:
    """Parse the questions of one file: JSON Lines, Parquet, or else CSV, by its suffix.

    All questions of a file have options, or the answers of all of them are numbers.
    """
    suffix = PurePath(file).suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json"):
        return read_jsonl_questions(raw, file, subject)
    if suffix == ".parquet":
        return read_parquet_questions(raw, file, subject)
    return read_csv_questions(raw, file, subject)


def find_grading(questions: list[Question]) -> Grading:
    """Find how the answers of a file are compared: by letter, or as numbers."""
    return "letter" if questions[0].choices else "number"
