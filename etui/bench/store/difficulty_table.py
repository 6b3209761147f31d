"""Table of the difficulties of questions: ``subject,row,difficulty,models``.

The difficulty is the expected accuracy of a model on the question, from the answers of ``models``
other models. Comment lines before the header name the data and the models that were the sources::

    # data_sha256: 4f1c...
    # model: {"name": "smollm2-135m", "sha256": "ab12...", "source": "run 2026..."}
    subject,row,difficulty,models
    abstract_algebra,0,0.4125,9
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from etui.codec import DocumentError, from_document
from etui.errors import InvalidFile, Problem

COLUMNS = ("subject", "row", "difficulty", "models")
DIFFICULTY = "difficulty.csv"
"""Name of the copy in a run folder."""

_MOST_PROBLEMS = 10
_MOST_BYTES = 100_000_000
_DATA = "# data_sha256: "
_MODEL = "# model: "
_FIX = "write it with: etui bench difficulty RUN... -o FILE"


@dataclass(frozen=True, slots=True)
class DifficultySource:
    """A model whose answers made a table."""

    name: str  # Name of the model, or of its column in a table of outcomes
    sha256: str | None  # Hash of its GGUF; None if it is not known
    source: str  # The run or the file of its answers


@dataclass(frozen=True, slots=True)
class DifficultyTable:
    """Difficulties of questions."""

    values: Mapping[tuple[str, int], float]  # (subject, row) -> expected accuracy, in [0, 1]
    models: Mapping[tuple[str, int], int]  # (subject, row) -> number of models that answered it
    data_sha256: str | None  # Hash of the data of the questions; None if it is not known
    sources: tuple[DifficultySource, ...]
    """Models whose answers it is made of; empty if they are not known."""
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def format_difficulty(
    values: Mapping[tuple[str, int], float],
    models: Mapping[tuple[str, int], int],
    data_sha256: str | None,
    sources: tuple[DifficultySource, ...],
) -> str:
    """Format a table as text; arguments as in :class:`DifficultyTable`."""
    out = io.StringIO()
    if data_sha256 is not None:
        out.write(f"{_DATA}{data_sha256}\n")
    for source in sources:
        entry = {"name": source.name, "sha256": source.sha256, "source": source.source}
        out.write(f"{_MODEL}{json.dumps(entry)}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key in sorted(values):
        writer.writerow([*key, f"{values[key]:.4f}", models[key]])
    return out.getvalue()


def read_difficulty(path: Path) -> DifficultyTable:
    """Read a table.

    Raises:
        InvalidFile: The file cannot be read or is not such a table; with the line of each problem.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InvalidFile(f"{path}: is too large for a table of difficulties", _FIX)
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read: {error.strerror or error}", _FIX) from error
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path}: is not UTF-8", _FIX) from error
    return parse_difficulty(text, str(path))


def parse_difficulty(text: str, place: str) -> DifficultyTable:
    """Parse a table.

    Args:
        place: Name of the file, for messages.

    Raises:
        InvalidFile: It is not such a table; with the line of each problem.
    """
    lines = text.removeprefix("\ufeff").split("\n")
    head = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    data_sha256, sources = _parse_comments(lines[:head], place)
    rows = csv.reader(io.StringIO("\n".join(lines[head:]), newline=""), strict=True)
    problems: list[Problem] = []
    values: dict[tuple[str, int], float] = {}
    models: dict[tuple[str, int], int] = {}
    try:
        header = [name.strip() for name in next(rows, [])]
        if tuple(header[:3]) != COLUMNS[:3]:
            problem = Problem(place, head + 1, 1, "the first line is not subject,row,difficulty")
            raise InvalidFile.of([problem], _FIX)
        for fields in rows:
            if not fields:
                continue
            try:
                key, value, count = _parse_row(fields, header)
                if key in values:
                    raise ValueError(f"{key[0]} row {key[1]} is there twice")
            except ValueError as error:
                problems.append(Problem(place, head + rows.line_num, 1, str(error)))
                if len(problems) == _MOST_PROBLEMS:
                    break
                continue
            values[key], models[key] = value, count
    except csv.Error as error:
        problem = Problem(place, head + rows.line_num, 1, f"is not valid CSV: {error}")
        raise InvalidFile.of([problem], _FIX) from None
    if not values and not problems:
        problems.append(Problem(place, head + 1, 1, "has no difficulties"))
    if problems:
        raise InvalidFile.of(problems, _FIX)
    return DifficultyTable(values, models, data_sha256, sources, text)


def _parse_comments(
    lines: list[str], place: str
) -> tuple[str | None, tuple[DifficultySource, ...]]:
    data_sha256: str | None = None
    sources: list[DifficultySource] = []
    for number, line in enumerate(lines, 1):
        if line.startswith(_DATA):
            data_sha256 = line.removeprefix(_DATA).strip()
        elif line.startswith(_MODEL):
            try:
                document = json.loads(line.removeprefix(_MODEL))
                sources.append(from_document(DifficultySource, document))
            except (DocumentError, ValueError) as error:
                problem = Problem(place, number, 1, f"does not name a model: {error}")
                raise InvalidFile.of([problem], _FIX) from None
    return data_sha256, tuple(sources)


def _parse_row(fields: list[str], header: list[str]) -> tuple[tuple[str, int], float, int]:
    """Parse a row into question, difficulty and number of models."""
    if len(fields) != len(header):
        raise ValueError(f"has {len(fields)} columns, the first line has {len(header)}")
    subject, row, difficulty = (field.strip() for field in fields[:3])
    if not subject:
        raise ValueError("subject is empty")
    if not (row.isascii() and row.isdigit() and len(row) < 10):
        raise ValueError(f"row is {row[:20]!r}, not a number from 0")
    try:
        value = float(difficulty)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"difficulty is {difficulty[:20]!r}, not a share from 0 to 1")
    models = fields[header.index("models")].strip() if "models" in header else "0"
    if not (models.isascii() and models.isdigit() and len(models) < 10):
        raise ValueError(f"models is {models[:20]!r}, not a number")
    return (subject, int(row)), value, int(models)
