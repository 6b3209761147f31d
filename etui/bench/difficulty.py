"""Difficulty of questions: the expected accuracy of a model, from the answers of others.

The table has the columns ``subject,row,difficulty,models``; comment lines before the header name
the data and the models that were the sources::

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etui.bench.config import RunConfig
from etui.bench.sample import Sample
from etui.codec import DocumentError, from_document
from etui.errors import InvalidFile, Problem, UsageError
from etui.stats.arrays import Floats, Whole

COLUMNS = ("subject", "row", "difficulty", "models")
DIFFICULTY = "difficulty.csv"  # Name of the copy in a run folder
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
    sources: tuple[DifficultySource, ...]  # Whose answers it is made of; empty if unknown
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

    InvalidFile if the file cannot be read or is not such a table; with the line of each problem.
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
    """Parse a table; InvalidFile if it is not such a table; with the line of each problem."""
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


_DEFAULT_SHRINKAGE = 2.0
"""Ratio of noise to spread if one model's answers cannot show it; on MMLU it is 1 to 3."""
_SHRINKAGE_RANGE = (0.1, 50.0)


@dataclass(frozen=True, slots=True)
class ModelOutcomes:
    """The graded answers of one model."""

    source: DifficultySource
    outcomes: Mapping[tuple[str, int], float]  # 1, 0, or the mean of several answers
    data_sha256: str | None = None  # Hash of the data of the questions; None if it is not known


def collect_models(config: RunConfig, samples: Iterable[Sample], place: str) -> list[ModelOutcomes]:
    """Collect the outcomes of each model of a run; its arms are averaged."""
    hashes = {model.name: model.sha256 for model in config.models}
    found: dict[str, dict[tuple[str, int], list[bool]]] = {}
    for sample in samples:
        model = str(config.arms[sample.arm].get("model", sample.arm))
        answers = found.setdefault(model, {})
        answers.setdefault((sample.subject, sample.row), []).append(sample.correct)
    return [
        ModelOutcomes(
            DifficultySource(name, hashes.get(name), place),
            {key: sum(inside) / len(inside) for key, inside in answers.items()},
            config.data_sha256,
        )
        for name, answers in found.items()
    ]


def build_difficulty(models: Sequence[ModelOutcomes]) -> str:
    """Build the text of a table of difficulties, from at least one answer.

    Models of one hash or, without hashes, of one name and source are one model. UsageError if the
    answers are to questions of different data; the message names them.
    """
    known = [model for model in models if model.data_sha256 is not None]
    for model in known[1:]:
        if model.data_sha256 != known[0].data_sha256:
            raise UsageError(
                f"{model.source.source} and {known[0].source.source} asked different data (sha256 "
                f"{_shorten(model.data_sha256)} and {_shorten(known[0].data_sha256)})",
                "use runs of one suite and split",
            )
    merged: dict[tuple[str, str], list[ModelOutcomes]] = {}
    for model in models:
        source = model.source
        same = ("sha256", source.sha256) if source.sha256 else (source.name, source.source)
        merged.setdefault(same, []).append(model)
    keys = sorted({key for model in models for key in model.outcomes})
    subjects = {subject: at for at, subject in enumerate(dict.fromkeys(key[0] for key in keys))}
    table = np.full((len(keys), len(merged)), np.nan)
    index = {key: at for at, key in enumerate(keys)}
    for column, runs in enumerate(merged.values()):
        answers: dict[tuple[str, int], list[float]] = {}
        for run in runs:
            for key, outcome in run.outcomes.items():
                answers.setdefault(key, []).append(outcome)
        for key, inside in answers.items():
            table[index[key], column] = sum(inside) / len(inside)
    values = average_outcomes(table, np.array([subjects[subject] for subject, _ in keys]))
    counts = (~np.isnan(table)).sum(axis=1)
    return format_difficulty(
        {key: float(value) for key, value in zip(keys, values, strict=True)},
        {key: int(count) for key, count in zip(keys, counts, strict=True)},
        known[0].data_sha256 if known else None,
        tuple(model.source for model in models),
    )


def _shorten(sha256: str | None) -> str:
    return (sha256 or "unknown")[:12]


def average_outcomes(outcomes: Floats, strata: Whole) -> Floats:
    """Average the outcomes of some models into the expected accuracy of each question.

    The mean of each model is removed first, since models may have answered different questions. The
    effect of a question is then shrunk towards that of its subject, the more so the fewer models
    answered it: by k / (k + noise variance / variance of the questions), both by the method of
    moments (Efron and Morris, JASA 70, 1975).

    Args:
        outcomes: Shares from 0 to 1; NaN where a model did not answer. Shape (questions,
            models). A question without any has the accuracy of its subject, or of all.
        strata: Number of the subject of each question, from 0, shape (questions,).
    """
    answered = ~np.isnan(outcomes)
    counts = answered.sum(axis=1)
    grand = float(outcomes[answered].mean())
    with np.errstate(invalid="ignore"):
        sums = np.where(answered, outcomes, 0.0).sum(axis=0)
        model_means = sums / np.maximum(answered.sum(axis=0), 1)
    rest = np.where(answered, outcomes - model_means, 0.0)
    effects = rest.sum(axis=1) / np.maximum(counts, 1)
    weights = np.bincount(strata, counts)
    subject = np.bincount(strata, effects * counts) / np.maximum(weights, 1)
    own = effects - subject[strata]
    share = counts / (counts + _estimate_shrinkage(rest, effects, own, answered, counts))
    return np.asarray(np.clip(grand + subject[strata] + share * own, 0.0, 1.0))


def _estimate_shrinkage(
    rest: Floats, effects: Floats, own: Floats, answered: Whole, counts: Whole
) -> float:
    """Estimate the variance of one answer over that of the questions of a subject."""
    several = counts > 1
    if several.sum() < 10:
        return _DEFAULT_SHRINKAGE
    squares = np.where(answered, (rest - effects[:, None]) ** 2, 0.0).sum(axis=1)[several]
    noise = float((squares / (counts[several] - 1)).mean())
    spread = float((own[several] ** 2).mean() - noise * (1 / counts[several]).mean())
    low, high = _SHRINKAGE_RANGE
    return min(high, max(low, noise / spread)) if spread > 0 else high
