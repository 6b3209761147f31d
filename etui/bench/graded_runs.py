"""Read bench runs as a table: every arm on the questions that all arms answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from etui.bench.config import RunConfig
from etui.bench.folder import Recorded, read_run
from etui.bench.results import load_texts
from etui.bench.sample import Sample
from etui.bench.summary import drop_unpooled
from etui.config.config import Config
from etui.errors import UsageError
from etui.learning.graded import ArmFacts, Graded
from etui.learning.outcomes import Texts, build_graded

Answers = Mapping[tuple[str, int], "Sample"]


@dataclass(frozen=True, slots=True)
class RunTable:
    """The answers of bench runs as a table."""

    graded: Graded  # The first answer of each arm to each question
    repeats: Graded | None  # The same questions and arms from a second run; None without one
    kinds: tuple[str, ...]  # How the joules were measured; empty if unmeasured
    suite: str
    split: str
    data_sha256: str  # SHA-256 of the data
    sources: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())  # Remarks for the reader


def read_runs(folders: Sequence[Path], config: Config, data: Path | None = None) -> RunTable:
    """Read run folders as one table; an arm in a second run is a repeat.

    ``data`` is the location of the questions; None looks where the runs read them. UsageError if a
    folder is not a run, the runs use different data, or share no question; InvalidFile if a file
    cannot be read.
    """
    recorded = [read_run(folder) for folder in folders]
    first = recorded[0].config
    notes: list[str] = []
    for run in recorded:
        if (run.config.data_sha256, run.config.split) != (first.data_sha256, first.split):
            raise UsageError(
                f"{run.folder} has other questions than {folders[0]}",
                "replay runs over the same data and split",
            )
        if run.edited:
            notes.append(f"{run.folder} was changed outside etui: {'; '.join(run.edited)}")
    arms: dict[str, list[Answers]] = {}
    facts: dict[str, ArmFacts] = {}
    for run in recorded:
        if run.config.routed:
            notes.append(f"{run.config.run_id} is a run of a policy: its answers are not used")
            continue
        for name, answers in _group_by_arm(run).items():
            own = _get_facts(run.config, name)
            if facts.setdefault(name, own) != own:
                raise UsageError(
                    f"arm {name} is {facts[name].model} in one run and {own.model} in another",
                    "replay runs in which each arm is the same",
                )
            arms.setdefault(name, []).append(answers)
    if not arms:
        raise UsageError("the runs have no answers of an arm", "run `etui bench --arms A,B` first")
    keys = _find_common([versions[0] for versions in arms.values()])
    texts = load_texts(first, config, data)
    if texts is None:
        notes.append("the texts of the questions were not found: pass --data DIR")
    graded = replace(_build_table(arms, keys, 0, texts), facts=facts)
    repeats = None
    if all(len(versions) > 1 for versions in arms.values()):
        if set(keys) <= set(_find_common([versions[1] for versions in arms.values()])):
            repeats = replace(_build_table(arms, keys, 1, texts), facts=facts)
        else:
            notes.append("the second runs did not answer the same questions: not used as repeats")
    kinds = sorted({s.kind for versions in arms.values() for s in versions[0].values() if s.kind})
    return RunTable(
        graded,
        repeats,
        tuple(kinds) if graded.joules is not None else (),
        first.suite,
        first.split,
        first.data_sha256,
        tuple(run.config.run_id for run in recorded),
        tuple(notes),
    )


def _group_by_arm(run: Recorded) -> dict[str, dict[tuple[str, int], Sample]]:
    found: dict[str, dict[tuple[str, int], Sample]] = {}
    for sample in drop_unpooled(run.samples, run.config):
        if sample.status != "error":
            found.setdefault(sample.arm, {})[sample.subject, sample.row] = sample
    return found


def _find_common(answers: Sequence[Answers]) -> list[tuple[str, int]]:
    """Return the questions that every arm answered."""
    keys = sorted(set.intersection(*(set(arm_answers) for arm_answers in answers)))
    if not keys:
        raise UsageError(
            "no question was answered by every arm", "run the arms on the same questions"
        )
    return keys


def _get_facts(run: RunConfig, arm: str) -> ArmFacts:
    settings: Mapping[str, Any] = run.arms.get(arm, {})
    model = settings.get("model")
    sizes = {model.name: model.file_bytes for model in run.models}
    return ArmFacts(model, settings.get("reasoning"), sizes.get(model) if model else None)


def _build_table(
    arms: Mapping[str, Sequence[Answers]],
    keys: Sequence[tuple[str, int]],
    version: int,
    texts: Texts | None,
) -> Graded:
    chosen = [versions[version] for versions in arms.values()]
    rows = [[answers[key] for answers in chosen] for key in keys]

    def build_array(name: str) -> Any:
        values = [[getattr(sample, name) for sample in row] for row in rows]
        array = np.asarray(
            [[np.nan if v is None else v for v in row] for row in values], dtype=np.float64
        )
        return array if np.isfinite(array).any() else None

    joules = build_array("joules")
    complete = joules is not None and bool(np.isfinite(joules).all())
    table = build_graded(list(arms), keys, [[s.correct for s in row] for row in rows], texts)
    given = {
        answer: number
        for number, answer in enumerate(
            sorted({sample.choice for row in rows for sample in row if sample.choice is not None})
        )
    }
    answers = [[-1 if s.choice is None else given[s.choice] for s in row] for row in rows]
    return replace(
        table,
        answers=np.asarray(answers, dtype=np.int64),
        joules=joules if complete else None,
        confidence=build_array("confidence"),
        margin=build_array("margin"),
    )
