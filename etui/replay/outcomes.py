"""Read a table of graded answers and the cost of its arms."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from etui.errors import InvalidFile, Problem, UsageError
from etui.routing.accuracy.table import Graded
from etui.routing.signals.question_words import QuestionText
from etui.text.suggest import suggest

if TYPE_CHECKING:
    from etui.datasets.questions import Question


Texts = Mapping[tuple[str, int], "Question"]
"""(subject, row) -> the question."""


_MAX_PROBLEMS = 10
_MAX_BYTES = 200_000_000
_LARGEST_COST = 1e12

_COSTS_FIX = "write --costs {example}: a number above 0 for each arm, joules or any other unit"
_UNKNOWN_FIX = (
    "pass the --split of MMLU that the rows count in, and the folder of its files to --data"
)
_FIX = "the first line is subject,row,ARM,ARM...; each other line holds 1 or 0 for each arm"


def read_outcomes(path: Path, texts: Texts | None = None) -> tuple[Graded, str]:
    """Read a table of outcomes.

    Args:
        path: The CSV file.
        texts: The questions of the outcomes; None leaves the questions without text.

    Returns:
        The table, and the SHA-256 of the file.

    Raises:
        InvalidFile: The file is not a table of outcomes, or has questions that are not in
            ``texts``; with the line of each problem.
    """
    raw = _read_bytes(path)
    rows = _parse_rows(raw, str(path))
    header = [name.strip() for name in rows[0][1]]
    arms = _parse_arms(header, str(path))
    problems: list[Problem] = []
    keys: dict[tuple[str, int], int] = {}
    outcomes: list[list[bool]] = []
    fix = _UNKNOWN_FIX
    for line, fields in rows[1:]:
        try:
            key, values = _parse_row(fields, header)
            _check_known(key, texts)
            if key in keys:
                raise ValueError(f"{key[0]} row {key[1]} is already in line {keys[key]}")
        except ValueError as error:
            problems.append(Problem(str(path), line, 1, str(error)))
            fix = fix if isinstance(error, _UnknownQuestion) else _FIX
            if len(problems) == _MAX_PROBLEMS:
                break
            continue
        keys[key] = line
        outcomes.append(values)
    if problems:
        raise InvalidFile.of(problems, fix)
    if not outcomes:
        raise InvalidFile.of([Problem(str(path), 1, 1, "has no outcomes")], _FIX)
    return build_graded(arms, list(keys), outcomes, texts), hashlib.sha256(raw).hexdigest()


def build_graded(
    arms: Sequence[str],
    keys: Sequence[tuple[str, int]],
    correct: Sequence[Sequence[bool]],
    texts: Texts | None,
) -> Graded:
    """Build a table of outcomes.

    Args:
        arms: Names of the arms.
        keys: (subject, row) of each question.
        correct: Whether each arm is right, shape (questions, arms).
        texts: The questions; None leaves them without text.
    """
    import numpy as np

    return Graded(
        tuple(arms),
        tuple(subject for subject, _ in keys),
        tuple(row for _, row in keys),
        () if texts is None else tuple(question_text(texts[key]) for key in keys),
        np.asarray(correct, dtype=bool),
    )


def question_text(question: Question) -> QuestionText:
    """Split a question into its stem and options."""
    return QuestionText(question.text.strip(), tuple(choice.strip() for choice in question.choices))


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InvalidFile(f"{path}: is too large for a table of outcomes", _FIX)
        return path.read_bytes()
    except OSError as error:
        raise InvalidFile(
            f"{path}: cannot be read: {error.strerror or error}", "name a file that can be read"
        ) from None


def _parse_rows(raw: bytes, file: str) -> list[tuple[int, list[str]]]:
    """Parse the CSV rows, each with the number of its last line; empty lines are skipped."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidFile.of([Problem(file, line, 1, "is not UTF-8")], _FIX) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        problem = Problem(file, reader.line_num, 1, f"is not valid CSV: {error}")
        raise InvalidFile.of([problem], _FIX) from None
    if not rows:
        raise InvalidFile.of([Problem(file, 1, 1, "is empty")], _FIX)
    return rows


def _parse_arms(header: Sequence[str], file: str) -> tuple[str, ...]:
    """Return the column names after subject and row."""
    fault = None
    if tuple(header[:2]) != ("subject", "row"):
        missing = [name for name in ("subject", "row") if name not in header]
        fault = (
            f"has no column {' and no column '.join(missing)}"
            if missing
            else "its first two columns are not subject and row"
        )
    elif len(header) < 3:
        fault = "has no arm column"
    elif not all(header):
        fault = f"column {header.index('') + 1} has no name"
    elif len(set(header)) < len(header):
        duplicate = next(name for index, name in enumerate(header) if name in header[:index])
        fault = f"has two columns {duplicate!r}"
    if fault:
        raise InvalidFile.of([Problem(file, 1, 1, fault)], _FIX)
    return tuple(header[2:])


def _parse_row(fields: Sequence[str], header: Sequence[str]) -> tuple[tuple[str, int], list[bool]]:
    """Parse a row into its question and outcomes.

    Raises:
        ValueError: The row is invalid; the message describes the problem.
    """
    if len(fields) != len(header):
        raise ValueError(f"has {len(fields)} columns, the first line has {len(header)}")
    subject, row, *values = (field.strip() for field in fields)
    if not subject:
        raise ValueError("subject is empty")
    if not (row.isascii() and row.isdigit() and len(row) < 10):
        raise ValueError(f"row is {row[:20]!r}, not a number from 0")
    for name, value in zip(header[2:], values, strict=True):
        if value not in ("0", "1"):
            raise ValueError(f"{name} is {value[:20]!r}, not 0 or 1")
    return (subject, int(row)), [value == "1" for value in values]


class _UnknownQuestion(ValueError):
    """A question that the texts do not have."""


def _check_known(key: tuple[str, int], texts: Texts | None) -> None:
    if texts is None or key in texts:
        return
    subject, row = key
    subjects = {name for name, _ in texts}
    if subject in subjects:
        last = max(index for name, index in texts if name == subject)
        raise _UnknownQuestion(f"{subject} has no row {row}, its last is {last}")
    hint = suggest(subject, subjects)
    known = f"; {hint}" if hint else ""
    raise _UnknownQuestion(f"the data has no subject {subject[:60]!r}{known}")


def read_costs(text: str, arms: Sequence[str]) -> dict[str, float]:
    """Parse ``ARM=NUMBER,...`` into the cost of every arm, in the order of ``arms``.

    Raises:
        UsageError: An arm is unknown or has no cost, or a cost is not a number above 0.
    """
    fix = _COSTS_FIX.format(
        example=",".join(f"{arm}={10**index}" for index, arm in enumerate(arms[:3]))
    )
    costs: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise UsageError(f"--costs: {part.strip()[:60]!r} is not ARM=NUMBER", fix)
        if name not in arms:
            hint = suggest(name, arms) or f"the arms are: {', '.join(arms)}"
            raise UsageError(f"--costs: the outcomes have no arm {name[:60]!r}", hint)
        if name in costs:
            raise UsageError(f"--costs: {name} is named twice", fix)
        try:
            cost = float(value)
        except ValueError:
            raise UsageError(f"--costs: {value[:20]!r} of {name} is not a number", fix) from None
        if not 0 < cost <= _LARGEST_COST:  # false for nan too
            limits = f"above 0 and at most {_LARGEST_COST:g}"
            raise UsageError(f"--costs: {value[:20]} of {name} is not {limits}", fix)
        costs[name] = cost
    missing = [arm for arm in arms if arm not in costs]
    if missing:
        raise UsageError(f"--costs: no cost for {', '.join(missing)}", fix)
    return {arm: costs[arm] for arm in arms}
