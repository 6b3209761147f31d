"""Read a table of graded answers and the cost of its arms."""

from __future__ import annotations

import csv
import hashlib
import io
import math
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


_MOST_PROBLEMS = 10


_MOST_BYTES = 200_000_000


_COSTS_FIX = "write --costs {example}: a number above 0 for each arm, joules or any other unit"


_FIX = "the first line is subject,row,ARM,ARM...; each other line holds 1 or 0 for each arm"


def read_outcomes(path: Path, texts: Texts | None = None) -> tuple[Graded, str]:
    """The table of a file, and the SHA-256 of the file.

    Args:
        path: The file.
        texts: The questions it is about; None leaves them without text.

    Raises:
        InvalidFile: It is no such table, or names questions that are not among ``texts``; with the
            line of each problem.
    """
    raw = _bytes(path)
    rows = _rows(raw, str(path))
    header = [name.strip() for name in rows[0][1]]
    arms = _arms(header, str(path))
    problems: list[Problem] = []
    keys: dict[tuple[str, int], int] = {}
    found: list[list[bool]] = []
    for line, fields in rows[1:]:
        try:
            key, values = _row(fields, header)
            _known(key, texts)
            if key in keys:
                raise ValueError(f"{key[0]} row {key[1]} is in line {keys[key]} already")
        except ValueError as error:
            problems.append(Problem(str(path), line, 1, str(error)))
            if len(problems) == _MOST_PROBLEMS:
                break
            continue
        keys[key] = line
        found.append(values)
    if problems:
        raise InvalidFile.of(problems, _FIX)
    if not found:
        raise InvalidFile.of([Problem(str(path), 1, 1, "holds no outcomes")], _FIX)
    return graded_of(arms, list(keys), found, texts), hashlib.sha256(raw).hexdigest()


def graded_of(
    arms: Sequence[str],
    keys: Sequence[tuple[str, int]],
    correct: Sequence[Sequence[bool]],
    texts: Texts | None,
) -> Graded:
    """The table of these questions."""
    import numpy as np

    return Graded(
        tuple(arms),
        tuple(subject for subject, _ in keys),
        tuple(row for _, row in keys),
        () if texts is None else tuple(question_text(texts[key]) for key in keys),
        np.asarray(correct, dtype=bool),
    )


def question_text(question: Question) -> QuestionText:
    """A question of MMLU's form, taken apart."""
    return QuestionText(question.text.strip(), tuple(choice.strip() for choice in question.choices))


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidFile(f"{path}: is larger than any table of outcomes", _FIX)
        return path.read_bytes()
    except OSError as error:
        raise InvalidFile(
            f"{path}: cannot be read: {error.strerror or error}", "name a file that can be read"
        ) from None


def _rows(raw: bytes, file: str) -> list[tuple[int, list[str]]]:
    """Each row with the line where it ends; empty lines left out."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidFile.of([Problem(file, line, 1, "is not UTF-8")], _FIX) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        problem = Problem(file, reader.line_num, 1, f"is no valid CSV: {error}")
        raise InvalidFile.of([problem], _FIX) from None
    if not rows:
        raise InvalidFile.of([Problem(file, 1, 1, "is empty")], _FIX)
    return rows


def _arms(header: Sequence[str], file: str) -> tuple[str, ...]:
    """The names behind subject and row."""
    wrong = None
    if tuple(header[:2]) != ("subject", "row"):
        missing = [name for name in ("subject", "row") if name not in header]
        wrong = (
            f"has no column {' and no column '.join(missing)}"
            if missing
            else "its first two columns are not subject and row"
        )
    elif len(header) < 3:
        wrong = "has no column of an arm"
    elif not all(header):
        wrong = f"column {header.index('') + 1} has no name"
    elif len(set(header)) < len(header):
        twice = next(name for at, name in enumerate(header) if name in header[:at])
        wrong = f"has two columns {twice!r}"
    if wrong:
        raise InvalidFile.of([Problem(file, 1, 1, wrong)], _FIX)
    return tuple(header[2:])


def _row(fields: Sequence[str], header: Sequence[str]) -> tuple[tuple[str, int], list[bool]]:
    """The question and its outcomes; ValueError says what is wrong."""
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


def _known(key: tuple[str, int], texts: Texts | None) -> None:
    if texts is None or key in texts:
        return
    subject, row = key
    subjects = {name for name, _ in texts}
    if subject in subjects:
        last = max(at for name, at in texts if name == subject)
        raise ValueError(f"{subject} has no row {row}, its last is {last}")
    hint = suggest(subject, subjects)
    raise ValueError(f"the data have no subject {subject[:60]!r}" + (f"; {hint}" if hint else ""))


def read_costs(text: str, arms: Sequence[str]) -> dict[str, float]:
    """The cost of every arm, in the order of ``arms``.

    Raises:
        UsageError: An arm has no cost, or one that is no number above 0; or there is no such arm.
    """
    fix = _COSTS_FIX.format(example=",".join(f"{arm}={10**at}" for at, arm in enumerate(arms[:3])))
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise UsageError(f"--costs: {part.strip()[:60]!r} is not ARM=NUMBER", fix)
        if name not in arms:
            hint = suggest(name, arms) or f"it has: {', '.join(arms)}"
            raise UsageError(f"--costs: the outcomes have no arm {name[:60]!r}", hint)
        if name in found:
            raise UsageError(f"--costs: {name} is named twice", fix)
        try:
            cost = float(value)
        except ValueError:
            raise UsageError(f"--costs: {value[:20]!r} of {name} is no number", fix) from None
        if not (math.isfinite(cost) and cost > 0):
            raise UsageError(f"--costs: {value[:20]} of {name} is not above 0", fix)
        found[name] = cost
    missing = [arm for arm in arms if arm not in found]
    if missing:
        raise UsageError(f"--costs: {', '.join(missing)} has no cost", fix)
    return {arm: found[arm] for arm in arms}
