"""Difficulty of questions: the expected accuracy of a model, from the answers of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etui.bench.store.difficulty_table import DifficultySource, format_difficulty
from etui.errors import UsageError

if TYPE_CHECKING:
    from etui.bench.store.run_config import RunConfig
    from etui.bench.store.sample import Sample
    from etui.stats.arrays import Floats, Whole

_DEFAULT_SHRINKAGE = 2.0
"""Ratio of noise to spread if one model's answers cannot show it; on MMLU it is 1 to 3."""

_SHRINKAGE_RANGE = (0.1, 50.0)


@dataclass(frozen=True, slots=True)
class ModelOutcomes:
    """The graded answers of one model."""

    source: DifficultySource
    outcomes: Mapping[tuple[str, int], float]
    """(subject, row) -> 1, 0, or the mean of several answers."""
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
    """Build the text of a table of difficulties.

    Args:
        models: At least one model with at least one answer. Those of one hash or, without hashes,
            of one name and source are one model.

    Raises:
        UsageError: The answers are to questions of different data; the message names them.
    """
    import numpy as np

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
        outcomes: 1, 0, or a share between them; NaN where a model did not answer. Shape
            (questions, models), at least one answer.
        strata: Number of the subject of each question, from 0, shape (questions,).

    Returns:
        Expected accuracy in [0, 1], shape (questions,). A question without answers has that of its
        subject, or of all questions.
    """
    import numpy as np

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
    import numpy as np

    several = counts > 1
    if several.sum() < 10:
        return _DEFAULT_SHRINKAGE
    squares = np.where(answered, (rest - effects[:, None]) ** 2, 0.0).sum(axis=1)[several]
    noise = float((squares / (counts[several] - 1)).mean())
    spread = float((own[several] ** 2).mean() - noise * (1 / counts[several]).mean())
    low, high = _SHRINKAGE_RANGE
    return min(high, max(low, noise / spread)) if spread > 0 else high
