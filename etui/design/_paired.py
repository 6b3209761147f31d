"""The questions that every arm answered, as arrays of questions and arms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from etui.bench.config import RunConfig
from etui.bench.sample import Sample
from etui.stats.arrays import Flags, Floats

DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Strategy:
    """An arm as the report names it."""

    arm: str
    role: str  # Role of its model, such as `small`
    model: str
    reasoning: str  # `direct`, `cot` or `vote`
    way: str  # The reasoning and its budget in words: `direct`, `CoT 128`, `vote 5`

    @property
    def label(self) -> str:
        """Role and way; unique in a layout."""
        return f"{self.role} {self.way}"

    @property
    def thinks(self) -> bool:
        """Whether it does more than answer at once."""
        return self.reasoning != DIRECT


@dataclass(frozen=True, slots=True)
class Layout:
    """The strategies of a run."""

    strategies: tuple[Strategy, ...]
    """By model, smallest model first; within a model in the order of the run."""
    roles: Mapping[str, str]  # Role -> model, smallest first

    def of_role(self, role: str) -> tuple[Strategy, ...]:
        """Return the strategies of a role."""
        return tuple(one for one in self.strategies if one.role == role)

    def direct_of(self, role: str) -> Strategy | None:
        """Return the direct answer of a role; None if the run has none."""
        return next((one for one in self.of_role(role) if not one.thinks), None)

    @property
    def reference(self) -> Strategy | None:
        """The direct answer of the largest of several models; None without one."""
        return self.direct_of(list(self.roles)[-1]) if len(self.roles) > 1 else None


def build_layout(config: RunConfig, roles: Mapping[str, str] | None = None) -> Layout:
    """Build the layout of a run.

    Args:
        roles: Role -> model, smallest first; None orders the models by the size of their files and
            names the roles by the models.
    """
    named = {model: role for role, model in (roles or {}).items()}
    used = dict.fromkeys(str(arm.get("model", "")) for arm in config.arms.values())
    sizes = {model.name: model.file_bytes for model in config.models}
    order = list((roles or {}).values())
    models = sorted(
        used,
        key=lambda name: (order.index(name) if name in order else len(order), sizes.get(name, 0)),
    )
    found = [
        Strategy(
            name,
            named.get(model, model),
            model,
            str(config.arms[name].get("reasoning", DIRECT)),
            _describe_way(config.arms[name]),
        )
        for model in models
        for name in config.arms
        if str(config.arms[name].get("model", "")) == model
    ]
    counts = Counter(one.label for one in found)
    unique = tuple(replace(o, way=o.arm) if counts[o.label] > 1 else o for o in found)
    return Layout(unique, {named.get(model, model): model for model in models})


def _describe_way(arm: Mapping[str, Any]) -> str:
    match arm.get("reasoning"):
        case "cot":
            return f"CoT {arm.get('think_tokens', '')}".strip()
        case "vote":
            return f"vote {arm.get('votes', '')}".strip()
        case _:
            return DIRECT


Key = tuple[str, int]
"""Subject and row of a question."""


@dataclass(frozen=True, slots=True)
class Paired:
    """Answers of every arm to the same questions."""

    layout: Layout  # The arms of the run; the columns are in the order of its strategies
    keys: tuple[Key, ...]  # The questions, sorted
    samples: tuple[tuple[Sample, ...], ...]
    """The answers of each arm, in the order of the questions."""
    questions_dropped: int  # Questions that some arm has not answered
    answers_dropped: int  # Answers to them, which no paired figure uses
    correct: Floats  # 1 for a right answer and 0 for any other, shape (questions, arms)
    joules: Floats  # Joules of each answer, same shape; NaN if unmeasured
    metered: tuple[bool, ...]  # Whether each arm has joules of any question
    measured: Flags  # Questions of which every metered arm has joules, shape (questions,)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def subjects(self) -> list[str]:
        """Subject of each question."""
        return [subject for subject, _ in self.keys]

    def index(self, strategy: Strategy) -> int:
        """Return the column of a strategy."""
        return self.layout.strategies.index(strategy)

    def column(self, strategy: Strategy) -> tuple[Sample, ...]:
        """Return the answers of a strategy."""
        return self.samples[self.index(strategy)]

    def values(self, read: Callable[[Sample], float | None]) -> Floats:
        """Read a number of every answer, shape (questions, arms); NaN where it is None."""
        return _read(self.samples, read)


def pair_samples(layout: Layout, samples: Sequence[Sample]) -> Paired:
    """Keep the questions that every arm answered; a failed answer counts as one that is not right.

    ``samples``: answers of the run, in any order.
    """
    answers: dict[str, dict[Key, Sample]] = {one.arm: {} for one in layout.strategies}
    for sample in samples:
        if sample.arm in answers:
            answers[sample.arm].setdefault((sample.subject, sample.row), sample)
    held = [set(answers[one.arm]) for one in layout.strategies]
    asked, common = set[Key]().union(*held), set.intersection(*held) if held else set[Key]()
    used = sorted(common)
    total = sum(len(inside) for inside in answers.values())
    chosen = tuple(tuple(answers[one.arm][key] for key in used) for one in layout.strategies)
    joules = _read(chosen, lambda sample: sample.joules)
    metered = np.asarray(np.isfinite(joules).any(axis=0))
    measured = np.isfinite(joules[:, metered]).all(axis=1) & np.full(len(used), metered.any())
    return Paired(
        layout=layout,
        keys=tuple(used),
        samples=chosen,
        questions_dropped=len(asked) - len(common),
        answers_dropped=total - len(common) * len(layout.strategies),
        correct=_read(chosen, lambda sample: float(sample.correct)),
        joules=joules,
        metered=tuple(bool(one) for one in metered),
        measured=np.asarray(measured, dtype=bool),
    )


def _read(samples: Sequence[Sequence[Sample]], read: Callable[[Sample], float | None]) -> Floats:
    rows = [[read(sample) for sample in inside] for inside in samples]
    found = [[np.nan if value is None else float(value) for value in row] for row in rows]
    count = len(samples[0]) if samples else 0
    return np.array(found, dtype=np.float64).reshape(len(samples), count).T
