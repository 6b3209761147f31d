"""Graded answers as arrays, the input of every fit and every replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from etui.routing.text_measures import QuestionText
from etui.stats.arrays import Flags, Floats, Whole


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """Facts about an arm in addition to its answers; None if the outcomes do not contain them."""

    model: str | None = None
    reasoning: str | None = None  # `direct`, `cot` or `vote`
    file_bytes: int | None = None  # Size of the model's file
    asked: str | None = None
    """The role or model that a policy names for it, if its model is unknown."""


@dataclass(frozen=True, slots=True)
class Graded:
    """Questions, and how each arm answered them. Rows are questions, columns are arms.

    Attributes:
        confidence, margin: Values of the answers, same shape, NaN for an answer without one;
            None if no answer has one.
    """

    arms: tuple[str, ...]
    subjects: tuple[str, ...]
    rows: tuple[int, ...]  # The row of each question in its subject's file
    questions: tuple[QuestionText, ...]  # The text of each question; empty if no text is known
    correct: Flags  # Whether the arm was right, shape (questions, arms)
    joules: Floats | None = None  # Gross joules of the answers, same shape; None if unmeasured
    confidence: Floats | None = None
    margin: Floats | None = None
    facts: dict[str, ArmFacts] = field(default_factory=dict)  # Arm -> more facts about it
    weights: Floats | None = None
    """How much each label counts, same shape, from 0 (the arm did not answer, or its answer has no
    grade: its ``correct`` is ignored) to 1 (its answer is known to be right or wrong). A label of
    which only a probability p is known is a question in two rows: right with p of the weight, wrong
    with the rest. None is 1 for all."""
    answers: Whole | None = None
    """Number of the answer that the arm gave, same shape: equal numbers are equal answers, and -1
    is none; None if only right and wrong are known."""

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def question_count(self) -> int:
        """Number of questions; one with an uncertain label has two rows."""
        return len(set(zip(self.subjects, self.rows, strict=True)))

    @property
    def label_weights(self) -> Floats:
        """The weights of all labels, ones where none are given."""
        return np.ones(self.correct.shape) if self.weights is None else self.weights

    def list_certainties(self) -> Iterator[tuple[Literal["margin", "confidence"], Floats]]:
        """Yield what the answers say of their certainty, as far as it is known, margins first."""
        if self.margin is not None:
            yield "margin", self.margin
        if self.confidence is not None:
            yield "confidence", self.confidence

    def compute_rate(self, arm: int) -> float:
        """Compute the share of an arm's answers that is right, by its column."""
        heavy = self.label_weights[:, arm]
        return float((heavy * self.correct[:, arm]).sum() / heavy.sum())

    def take(self, selected: Flags) -> Graded:
        """Return the table of the selected questions."""
        keep = [at for at, held in enumerate(selected.tolist()) if held]
        return replace(
            self,
            subjects=tuple(self.subjects[at] for at in keep),
            rows=tuple(self.rows[at] for at in keep),
            questions=tuple(self.questions[at] for at in keep) if self.questions else (),
            **self._map(lambda values: values[keep]),
        )

    def of_arms(self, names: Sequence[str]) -> Graded:
        """Return the table with these arms only, in this order."""
        at = [self.arms.index(name) for name in names]
        facts = {name: self.facts[name] for name in names if name in self.facts}
        return replace(
            self, arms=tuple(names), facts=facts, **self._map(lambda values: values[:, at])
        )

    def _map(self, change: Callable[[Any], Any]) -> dict[str, Any]:
        names = ("correct", "joules", "confidence", "margin", "weights", "answers")
        arrays = ((name, getattr(self, name)) for name in names)
        return {name: None if values is None else change(values) for name, values in arrays}


def same_questions(graded: Graded) -> Whole:
    """Assign a number to each question, by its words or subject and row; duplicates share one."""
    keys = (
        [" ".join(question.whole.casefold().split()) for question in graded.questions]
        if graded.questions
        else [f"{s}:{r}" for s, r in zip(graded.subjects, graded.rows, strict=True)]
    )
    return np.unique(np.asarray(keys, dtype=object), return_inverse=True)[1].astype(np.int64)


def assign_folds(graded: Graded, count: int = 5, seed: int = 0) -> Whole:
    """Assign each question to a fold at random: folds of even size, duplicates in the same fold."""
    groups = same_questions(graded)
    different = int(groups.max()) + 1 if len(groups) else 0
    count = max(1, min(count, different))
    order = np.random.default_rng(seed).permutation(different) % count
    return order[groups]
