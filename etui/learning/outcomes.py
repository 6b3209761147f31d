"""Read a table of graded answers and the cost of its arms.

A cell is 1 or 0, or empty where an arm has no answer. A column named for an arm and its cost
(``small:cost``, ``cost_small``) holds the cost of each of its answers.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from etui.datasets.mmlu import parse_subject, read_files
from etui.datasets.question_files import read_questions
from etui.datasets.questions import Question
from etui.errors import InvalidFile, Problem, UsageError
from etui.learning.graded import Graded
from etui.routing.text_measures import QuestionText
from etui.stats.arrays import Flags, Floats
from etui.text import sanitize, suggest

Texts = Mapping[tuple[str, int], "Question"]
"""(subject, row) -> the question."""


def read_texts(data: Path, split: str) -> dict[tuple[str, int], Question]:
    """Read the questions of one split; subjects of MMLU may be missing.

    UsageError if ``data`` does not exist, InvalidFile if it has no such files.
    """
    texts: dict[tuple[str, int], Question] = {}
    for name, raw in read_files(data, (split,)).items():
        subject = parse_subject(name)
        for question in read_questions(raw, name, subject):
            texts[subject, question.row] = question
    return texts


def drop_questions(graded: Graded, others: Iterable[Question]) -> Graded:
    """Drop the questions whose text, options aside, is one of the others of the same subject."""
    known = {(question.subject, _normalise(question.text)) for question in others}
    keep = [
        (subject, _normalise(question.stem)) not in known
        for subject, question in zip(graded.subjects, graded.questions, strict=True)
    ]
    return graded.take(np.asarray(keep, dtype=bool))


def _normalise(text: str) -> str:
    return " ".join(text.casefold().split())


_MAX_PROBLEMS = 10
_MAX_BYTES = 200_000_000
_LARGEST_COST = 1e12
COSTS_FIX = (
    "write --costs ARM=NUMBER,...: a number above 0 for each arm, joules or any other unit; "
    "default=NUMBER is for all others"
)
_DEFAULT = "default"
_UNKNOWN_FIX = (
    "pass the --split of MMLU that the rows count in, and the folder of its files to --data"
)
_FIX = (
    "the first line is subject,row,ARM,ARM...; each other line holds 1 or 0 for each arm, or "
    "nothing where it has no answer"
)

_OUTCOMES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "": None}
"""Cells and what they say; tables with empty cells are often saved with decimal points."""

_COST_WORD = "(?:costs?|joules|price)"
_COST_COLUMN = re.compile(
    rf"{_COST_WORD}[ _:./-]+(?P<after>.+)|(?P<before>.+?)[ _:./-]+{_COST_WORD}", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """A table of outcomes."""

    graded: Graded  # The answers; with weights of 0 where an arm has none
    cost: Floats | None
    """Cost of each answer, (questions, arms), NaN where there is none; None without columns of
    costs."""
    sha256: str  # SHA-256 of the file

    def of_arms(self, names: Sequence[str]) -> OutcomeTable:
        """Return the table with these arms only, in this order."""
        at = [self.graded.arms.index(name) for name in names]
        cost = None if self.cost is None else self.cost[:, at]
        return OutcomeTable(self.graded.of_arms(names), cost, self.sha256)

    def keep_complete(self) -> tuple[OutcomeTable, int]:
        """Keep the questions that every arm answered; also returns how many were left out."""
        heavy = self.graded.weights
        if heavy is None:
            return self, 0
        whole: Flags = np.asarray((heavy > 0).all(axis=1))
        graded = replace(self.graded.take(whole), weights=None)
        cost = None if self.cost is None else self.cost[whole]
        return OutcomeTable(graded, cost, self.sha256), int((~whole).sum())


def read_table(path: Path, texts: Texts | None = None, *, complete: bool = False) -> OutcomeTable:
    """Read a table of outcomes, in which cells may be empty (unless ``complete``), and its costs.

    InvalidFile with the line of each problem, such as a question that is not in ``texts``.
    """
    raw = _read_bytes(path)
    rows = _parse_rows(raw, str(path))
    layout = _parse_header([sanitize(name.strip()) for name in rows[0][1]], str(path))
    subjects = None if texts is None else _find_last_rows(texts)
    problems: list[Problem] = []
    keys: dict[tuple[str, int], int] = {}
    outcomes: list[list[int | None]] = []
    costs: list[list[float]] = []
    fix = _UNKNOWN_FIX
    for line, fields in rows[1:]:
        try:
            key, values, spent = _parse_row(fields, layout, empty=not complete)
            if texts is not None and subjects is not None and key not in texts:
                raise _UnknownQuestion(_describe_unknown(key, subjects))
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
        costs.append(spent)
    if problems:
        raise InvalidFile.of(problems, fix)
    if not outcomes:
        raise InvalidFile.of([Problem(str(path), 1, 1, "has no outcomes")], _FIX)
    known = np.asarray([[value is not None for value in row] for row in outcomes], dtype=bool)
    if not known.any(axis=0).all():
        never = layout.arms[int(np.flatnonzero(~known.any(axis=0))[0])]
        raise InvalidFile.of([Problem(str(path), 1, 1, f"{never} has no outcome")], _FIX)
    right = [[value == 1 for value in row] for row in outcomes]
    graded = build_graded(layout.arms, list(keys), right, texts)
    if not known.all():
        graded = replace(graded, weights=known.astype(np.float64))
    cost = np.asarray(costs, dtype=np.float64) if layout.costs else None
    if cost is not None and not (np.nanmean(cost, axis=0) > 0).all():
        free = layout.arms[int(np.flatnonzero(~(np.nanmean(cost, axis=0) > 0))[0])]
        raise InvalidFile.of([Problem(str(path), 1, 1, f"every cost of {free} is 0")], _FIX)
    return OutcomeTable(graded, cost, hashlib.sha256(raw).hexdigest())


def build_graded(
    arms: Sequence[str],
    keys: Sequence[tuple[str, int]],
    correct: Sequence[Sequence[bool]],
    texts: Texts | None,
) -> Graded:
    """Build a table of outcomes."""
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


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of a table: their names, and the places of arms and of their costs."""

    header: tuple[str, ...]
    arms: tuple[str, ...]
    answers: tuple[int, ...]
    costs: tuple[int, ...]


def _parse_header(header: Sequence[str], file: str) -> _Layout:
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
    costs: dict[str, int] = {}
    for at, name in enumerate(header[2:], start=2):
        found = _COST_COLUMN.fullmatch(name)
        arm = None if found is None else found["after"] or found["before"]
        if arm is not None and arm in header[2:]:
            costs.setdefault(arm, at)
    answers = [at for at in range(2, len(header)) if at not in costs.values()]
    arms = tuple(header[at] for at in answers)
    missing = [arm for arm in arms if arm not in costs]
    if costs and missing:
        fault = f"has no column of costs for {', '.join(missing)}"
        raise InvalidFile.of([Problem(file, 1, 1, fault)], _FIX)
    return _Layout(
        tuple(header), arms, tuple(answers), tuple(costs[arm] for arm in arms) if costs else ()
    )


def _parse_row(
    fields: Sequence[str], layout: _Layout, *, empty: bool
) -> tuple[tuple[str, int], list[int | None], list[float]]:
    if len(fields) != len(layout.header):
        raise ValueError(f"has {len(fields)} columns, the first line has {len(layout.header)}")
    cells = [field.strip() for field in fields]
    subject, row = cells[:2]
    if not subject:
        raise ValueError("subject is empty")
    if not (row.isascii() and row.isdigit() and len(row) < 10):
        raise ValueError(f"row is {row[:20]!r}, not a number from 0")
    outcomes: list[int | None] = []
    for name, at in zip(layout.arms, layout.answers, strict=True):
        value = cells[at]
        if value not in _OUTCOMES or (not value and not empty):
            raise ValueError(f"{name} is {value[:20]!r}, not 0 or 1")
        outcomes.append(_OUTCOMES[value])
    costs = [
        _parse_cost(cells[at], layout.header[at], answered=outcome is not None)
        for at, outcome in zip(layout.costs, outcomes if layout.costs else (), strict=True)
    ]
    return (subject, int(row)), outcomes, costs


def _parse_cost(value: str, column: str, *, answered: bool) -> float:
    if not answered:
        return math.nan
    try:
        cost = float(value)
    except ValueError:
        raise ValueError(f"{column} is {value[:20]!r}, not a number") from None
    if not 0 <= cost <= _LARGEST_COST:  # false for nan too
        raise ValueError(f"{column} is {value[:20]}, not from 0 to {_LARGEST_COST:g}")
    return cost


class _UnknownQuestion(ValueError):
    """A question that the texts do not have."""


def _find_last_rows(texts: Texts) -> dict[str, int]:
    last: dict[str, int] = {}
    for subject, row in texts:
        last[subject] = max(row, last.get(subject, -1))
    return last


def _describe_unknown(key: tuple[str, int], last: Mapping[str, int]) -> str:
    subject, row = key
    if subject in last:
        return f"{subject} has no row {row}, its last is {last[subject]}"
    hint = suggest(subject, last)
    return f"the data has no subject {subject[:60]!r}" + (f"; {hint}" if hint else "")


def read_costs(text: str, arms: Sequence[str], judged: Sequence[str]) -> dict[str, float]:
    """Parse ``ARM=NUMBER,...`` into costs of the judged arms; UsageError if one is not valid.

    ``default=NUMBER`` is the cost of all arms without one, unless an arm has this name.
    """
    costs: dict[str, float] = {}
    for part in _split(text, arms):
        name, equals, value = (piece.strip() for piece in part.rpartition("="))
        if not equals or not name:
            raise UsageError(f"--costs: {part.strip()[:60]!r} is not ARM=NUMBER", COSTS_FIX)
        if name not in (*arms, _DEFAULT):
            raise _build_unknown("--costs", name, arms)
        if name in costs:
            raise UsageError(f"--costs: {name} is named twice", COSTS_FIX)
        try:
            cost = float(value)
        except ValueError:
            message = f"--costs: {value[:20]!r} of {name} is not a number"
            raise UsageError(message, COSTS_FIX) from None
        if not 0 < cost <= _LARGEST_COST:  # false for nan too
            limits = f"above 0 and at most {_LARGEST_COST:g}"
            raise UsageError(f"--costs: {value[:20]} of {name} is not {limits}", COSTS_FIX)
        costs[name] = cost
    default = (
        {} if _DEFAULT in arms or _DEFAULT not in costs else dict.fromkeys(judged, costs[_DEFAULT])
    )
    return default | {arm: costs[arm] for arm in judged if arm in costs}


def read_arms(text: str, arms: Sequence[str]) -> list[str]:
    """Parse ``ARM,ARM,...`` into two or more arms of a table in its order; else UsageError."""
    named = [name.strip() for name in _split(text, arms)]
    for name in named:
        if name not in arms:
            raise _build_unknown("--arms", name, arms)
    if len(set(named)) < 2:
        raise UsageError("--arms: a router needs two arms to choose from", "name two or more arms")
    return [arm for arm in arms if arm in named]


def _build_unknown(option: str, name: str, arms: Sequence[str]) -> UsageError:
    hint = suggest(name, arms) or f"the arms are: {', '.join(arms)}"
    return UsageError(f"{option}: the outcomes have no arm {name[:60]!r}", hint)


def _split(text: str, arms: Sequence[str]) -> list[str]:
    """Split at commas, of which the name of an arm may have some too."""
    parts: list[str] = []
    for piece in text.split(","):
        name = piece.rpartition("=")[0] or piece
        if parts and any(arm.startswith(f"{parts[-1]},{name}") for arm in arms):
            parts[-1] += f",{piece}"
        else:
            parts.append(piece.lstrip())
    return parts
