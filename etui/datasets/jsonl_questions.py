"""Questions from JSON Lines: one object a line, in the forms of ``question_record``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from etui.datasets.file_text import MOST_PROBLEMS, decode_text
from etui.datasets.question_record import BadRecord, Number, parse_record
from etui.datasets.questions import Question
from etui.errors import InvalidFile, Problem

_MOST_CHARACTERS = 1_000_000
"""Length of a line; the longest question of a known suite has 12,000 characters."""

_FIX = (
    'a line is {"question": "...", "choices": ["...", "..."], "answer": "A"}, or '
    '{"question": "...", "answer": 72} if the answer is a number'
)


def read_jsonl_questions(raw: bytes, file: str, subject: str) -> list[Question]:
    """Parse the questions of a JSON Lines file.

    Raises:
        InvalidFile: The file has problems, each reported with its line.
    """
    text = decode_text(raw, file)
    if text.lstrip().startswith("["):
        raise InvalidFile.of([Problem(file, 1, 1, "is a JSON array")], "write one object per line")
    problems: list[Problem] = []
    records = _parse_lines(text, file, problems)
    return collect_questions(records, file, subject, problems, _FIX)


def collect_questions(
    records: Iterable[tuple[int, Mapping[str, object]]],
    file: str,
    subject: str,
    problems: list[Problem],
    fix: str,
) -> list[Question]:
    """Build the questions of records.

    Args:
        records: Line and fields of each record.
        problems: Those found while the records are read; further ones are added.

    Raises:
        InvalidFile: There are problems, no questions, or both options and numbers as answers.
    """
    found: list[Question] = []
    first = 0
    for line, record in records:
        try:
            question = parse_record(record, subject, len(found))
            if found and bool(question.choices) != bool(found[0].choices):
                raise BadRecord(_mixed(question, first))
        except BadRecord as bad:
            problems.append(Problem(file, line, 1, str(bad)))
        else:
            first = first or line
            found.append(question)
        if len(problems) >= MOST_PROBLEMS:
            break
    if not found and not problems:
        problems.append(Problem(file, 0, 0, "contains no questions"))
    if problems:
        raise InvalidFile.of(problems[:MOST_PROBLEMS], fix)
    return found


def _mixed(question: Question, first: int) -> str:
    own, other = "has options", f"the answer of line {first} is a number"
    if not question.choices:
        own, other = "has a number as its answer", f"line {first} has options"
    return f"{own}, but {other}; put them into two files"


def _parse_lines(
    text: str, file: str, problems: list[Problem]
) -> Iterator[tuple[int, Mapping[str, object]]]:
    # Not splitlines(): JSON strings may contain U+2028 and the like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if len(problems) >= MOST_PROBLEMS:
            return
        if not line.strip():
            continue
        try:
            record = _parse_line(line)
        except json.JSONDecodeError as error:
            problems.append(Problem(file, number, error.colno, f"is not JSON: {error.msg}"))
        except RecursionError:
            problems.append(Problem(file, number, 1, "is nested too deeply"))
        except BadRecord as bad:
            problems.append(Problem(file, number, 1, str(bad)))
        else:
            yield number, record


def _parse_line(line: str) -> Mapping[str, object]:
    if len(line) > _MOST_CHARACTERS:
        raise BadRecord(f"is too long: {len(line)} characters, at most {_MOST_CHARACTERS}")
    record = json.loads(
        line,
        object_pairs_hook=_build_object,
        parse_int=Number,
        parse_float=Number,
        parse_constant=_refuse_constant,
    )
    if not isinstance(record, dict):
        raise BadRecord("is not a JSON object")
    return record


def _build_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRecord(f"has the key {twice[:40]!r} twice")
    return record


def _refuse_constant(name: str) -> object:
    raise BadRecord(f"contains {name}, which is not JSON")
