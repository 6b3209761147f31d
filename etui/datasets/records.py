"""One question from a record with names: a line of JSON, or a row of Parquet.

Accepted are the forms in which public suites are published:

- ``{"question", "choices": [...], "answer": index or letter}``, as lm-eval and the hub have it;
- ``{"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}``, ARC's own files;
- ``{"question", "choices": {"text": [], "label": []}, "answerKey"}``, ARC on the hub;
- ``{"question", "options": [...], "answer", "answer_index", "category", "cot_content"}``, MMLU-Pro;
- ``{"question", "answer": "solution #### 72"}``, GSM8K, and ``{"question", "answer": 72}``.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from etui.datasets.questions import ALL_LETTERS, Question
from etui.errors import InvalidFile, Problem
from etui.extras import require_extra
from etui.units import count_text

_MOST_ROWS = 1_000_000

_MOST_PARQUET_BYTES = 1_000_000_000
"""Size of the columns in memory, which a small file may claim to be vast."""

_PARQUET_FIX = "pass the Parquet file that the hub publishes, or the questions as JSONL"


def require_pyarrow(file: str) -> Any:
    """Import pyarrow with its Parquet module."""
    require_extra("suites", f"{file}, a Parquet file,", "pass the questions as JSONL with --data")
    import pyarrow.parquet

    return pyarrow


def read_parquet_questions(raw: bytes, file: str, subject: str) -> list[Question]:
    """Parse the questions of a Parquet file; rows are counted as lines, from 1."""
    pyarrow = require_pyarrow(file)
    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(raw))
        meta = table.metadata
        size = sum(meta.row_group(at).total_byte_size for at in range(meta.num_row_groups))
        if meta.num_rows > _MOST_ROWS or size > _MOST_PARQUET_BYTES:
            raise InvalidFile(
                f"{file} is too large: {meta.num_rows} rows, {size} bytes", _PARQUET_FIX
            )
        rows = table.read().to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise InvalidFile(
            f"{file} is not a valid Parquet file: {lines[0][:200]}", _PARQUET_FIX
        ) from error
    return _collect_questions(_number_rows(rows), file, subject, [], _PARQUET_FIX)


def _number_rows(rows: list[dict[str, Any]]) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, row in enumerate(rows, start=1):
        yield number, {name: _as_json(value) for name, value in row.items()}


def _as_json(value: Any) -> object:
    """Convert a value of Arrow to what the JSON reader makes of the same value."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return Number(value)
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, dict):
        return {name: _as_json(one) for name, one in value.items()}
    return value


_MOST_CHARACTERS = 1_000_000
"""Length of a line; the longest question of a known suite has 12,000 characters."""

_FIX = (
    'a line is {"question": "...", "choices": ["...", "..."], "answer": "A"}, or '
    '{"question": "...", "answer": 72} if the answer is a number'
)


def read_jsonl_questions(raw: bytes, file: str, subject: str) -> list[Question]:
    """Parse the questions of a JSON Lines file."""
    text = decode_text(raw, file)
    if text.lstrip().startswith("["):
        raise InvalidFile.of([Problem(file, 1, 1, "is a JSON array")], "write one object per line")
    problems: list[Problem] = []
    records = parse_lines(text, file, problems)
    return _collect_questions(records, file, subject, problems, _FIX)


def _collect_questions(
    records: Iterable[tuple[int, Mapping[str, object]]],
    file: str,
    subject: str,
    problems: list[Problem],
    fix: str,
) -> list[Question]:
    found: list[Question] = []
    first = 0
    for line, record in records:
        try:
            question = _parse_record(record, subject, len(found))
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


def parse_lines(
    text: str, file: str, problems: list[Problem]
) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Parse the objects of JSON Lines, each with its line; problems are added to those given."""
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


MOST_PROBLEMS = 10
"""Problems of one file that are reported."""

_MOST_BYTES = 256_000_000
"""The largest suite has 9 MB, so a larger file is not one of questions."""


def read_content(path: Path) -> bytes:
    """Read a file of questions."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InvalidFile(
                f"{path} is too large ({size} bytes)",
                f"pass a file of questions; at most {_MOST_BYTES} bytes are read",
            )
        return path.read_bytes()
    except OSError as error:
        raise InvalidFile(
            f"cannot read {path}: {error.strerror or error}", "make the file readable"
        ) from error


def decode_text(raw: bytes, file: str) -> str:
    """Decode UTF-8, with or without a byte order mark."""
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


_MOST_OPTIONS = len(ALL_LETTERS)
_SOLUTION_END = "####"
_INDEX = re.compile(r"\d{1,4}")
_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
_MOST_DIGITS = 100


class BadRecord(ValueError):
    """A record, a row or a header that is not valid; the message says why, without its place."""


class Number(str):
    """A number as the file writes it, so that no digit is lost."""

    __slots__ = ()


def _parse_record(record: Mapping[str, object], subject: str, row: int) -> Question:
    text, options = _find_parts(record)
    if not text:
        raise BadRecord("question is empty")
    choices, labels = options or ((), None)
    if options is None:
        answer, solution = parse_number(record)
    else:
        if not 2 <= len(choices) <= _MOST_OPTIONS:
            count = count_text(len(choices), "option")
            raise BadRecord(f"has {count}; a question has 2 to {_MOST_OPTIONS}")
        if "" in choices:
            raise BadRecord(f"option {ALL_LETTERS[choices.index('')]} is empty")
        answer = _find_letter(record, labels, len(choices))
        solution = _find_text(record, "cot_content")
    own = (_find_text(record, "subject") or _find_text(record, "category")).strip()
    identifier = record.get("id", record.get("question_id"))
    question = Question(
        subject=own or subject,
        row=row,
        text=text,
        choices=choices,
        answer=answer,
        solution=solution,
        id=str(identifier) if isinstance(identifier, str) else None,
    )
    _check_characters(question)
    return question


def _check_characters(question: Question) -> None:
    """Refuse what no tokenizer takes: NUL, and halves of surrogate pairs."""
    texts = (question.subject, question.text, *question.choices, question.solution)
    for text in (*texts, question.id or ""):
        if "\0" in text:
            raise BadRecord("contains a NUL character")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRecord("contains half of a surrogate pair, not a character") from error


def _find_parts(
    record: Mapping[str, object],
) -> tuple[str, tuple[tuple[str, ...], tuple[str, ...] | None] | None]:
    question = record.get("question")
    if isinstance(question, Mapping):
        if not isinstance(question.get("stem"), str):
            raise BadRecord('"question" has no "stem"')
        return str(question["stem"]), _parse_options(question.get("choices", ()))
    if not isinstance(question, str):
        raise BadRecord('has no "question" with a text')
    given = [name for name in ("choices", "options") if record.get(name) is not None]
    if len(given) == 2:
        raise BadRecord('has both "choices" and "options"; keep one of them')
    return str(question), _parse_options(record[given[0]]) if given else None


def _parse_options(options: object) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    if isinstance(options, Mapping):
        texts, labels = options.get("text"), options.get("label")
        if not _is_list(texts) or not _is_list(labels) or len(texts) != len(labels):
            raise BadRecord('its options need a "text" and a "label" each')
        return _check_texts(texts), _check_labels(labels)
    if not _is_list(options):
        raise BadRecord("its options are not a list")
    pairs = [one for one in options if isinstance(one, Mapping)]
    if pairs and len(pairs) == len(options):
        return (
            _check_texts([one.get("text") for one in pairs]),
            _check_labels([one.get("label") for one in pairs]),
        )
    return _check_texts(options), None


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _check_texts(texts: Sequence[object]) -> tuple[str, ...]:
    if not all(isinstance(text, str) for text in texts):
        raise BadRecord("its options are not all texts")
    return tuple(str(text) for text in texts)


def _check_labels(labels: Sequence[object]) -> tuple[str, ...]:
    names = tuple(str(label).strip() for label in labels if isinstance(label, str))
    if len(names) != len(labels) or len(set(names)) != len(names):
        raise BadRecord("the labels of its options are not all different texts")
    return names


def _find_letter(record: Mapping[str, object], labels: tuple[str, ...] | None, options: int) -> str:
    """Find the letter of the right option, by its place among the options."""
    letters = ALL_LETTERS[:options]
    answer = record.get("answerKey", record.get("answer"))
    index = record.get("answer_index")
    if answer is None and index is None:
        raise BadRecord("has options but no answer")
    found: set[str] = set()
    if answer is not None:
        found.add(_letter_of_label(answer, labels) if labels else _letter_of(answer, letters))
    if index is not None:
        if not isinstance(index, Number):
            raise BadRecord(f'"answer_index" {show_value(index)} is not a number')
        found.add(_letter_of(index, letters))
    if len(found) > 1:
        raise BadRecord(
            f"the answer {show_value(answer)} and the index {show_value(index)} do not agree"
        )
    return found.pop()


def _letter_of_label(answer: object, labels: tuple[str, ...]) -> str:
    if not isinstance(answer, str) or answer.strip() not in labels:
        raise BadRecord(f"the answer {show_value(answer)} is not one of {', '.join(labels)}")
    return ALL_LETTERS[labels.index(answer.strip())]


def _letter_of(answer: object, letters: Sequence[str]) -> str:
    if isinstance(answer, Number):
        if not _INDEX.fullmatch(answer) or int(answer) >= len(letters):
            raise BadRecord(
                f"the answer {show_value(answer)} is not an index from 0 to {len(letters) - 1}"
            )
        return letters[int(answer)]
    if not isinstance(answer, str) or answer.strip() not in letters:
        raise BadRecord(f"the answer {show_value(answer)} is not one of {', '.join(letters)}")
    return answer.strip()


def parse_number(record: Mapping[str, object]) -> tuple[str, str]:
    """Parse the right number, without commas, and the worked solution before it.

    Args:
        record: Fields of a question without options; ``answer`` is a number or ends in ``#### 72``.
    """
    answer = record.get("answer")
    if answer is None:
        raise BadRecord("has neither options nor an answer")
    if not isinstance(answer, str):
        raise BadRecord("has no options, and its answer is not a number")
    solution, mark, gold = answer.rpartition(_SOLUTION_END)
    gold = gold.strip()
    where = f" after {_SOLUTION_END}" if mark else ""
    if len(gold) > _MOST_DIGITS:
        raise BadRecord(
            f"its answer{where} has {len(gold)} characters; a number has at most {_MOST_DIGITS}"
        )
    if not _NUMBER.fullmatch(gold):
        raise BadRecord(
            f"has no options, and its answer{where} is not a number: {show_value(gold)}"
        )
    return gold.replace(",", ""), solution.removesuffix("\n")


def _find_text(record: Mapping[str, object], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""


def show_value(value: object) -> str:
    """Write a value for a message, at most 40 characters of it."""
    text = str(value)
    shown = text if len(text) <= 40 else f"{text[:40]}..."
    return shown if isinstance(value, Number) else repr(shown)
