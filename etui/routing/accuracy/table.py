"""Graded answers as arrays: what every fit and every replay works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from etui.routing.signals.question_words import QuestionText

if TYPE_CHECKING:
    from etui.stats.arrays import Flags, Floats, Whole


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """What is known of an arm beside its answers; None where the outcomes do not say.

    Attributes:
        model: Name of its model.
        reasoning: ``direct``, ``cot`` or ``vote``.
        file_bytes: Size of the model's file.
        asked: The role or model that a policy names for it, where its model is not known.
    """

    model: str | None = None
    reasoning: str | None = None
    file_bytes: int | None = None
    asked: str | None = None


@dataclass(frozen=True, slots=True)
class Graded:
    """Questions, and how each arm answered them. Rows are questions, columns are arms.

    Attributes:
        arms: Their names.
        subjects: The subject of each question.
        rows: Its row in the subject's file.
        questions: Its text; empty where no text is known.
        correct: Whether the arm was right, shape (questions, arms).
        joules: Gross joules of the answer, same shape; None where unmeasured.
        confidence, margin: Of the answer, NaN where it has none; None where no answer has.
        facts: Arm -> what else is known of it.
    """

    arms: tuple[str, ...]
    subjects: tuple[str, ...]
    rows: tuple[int, ...]
    questions: tuple[QuestionText, ...]
    correct: Flags
    joules: Floats | None = None
    confidence: Floats | None = None
    margin: Floats | None = None
    facts: dict[str, ArmFacts] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.subjects)

    def take(self, wanted: Flags) -> Graded:
        """The questions where ``wanted`` holds."""
        keep = [at for at, held in enumerate(wanted.tolist()) if held]

        def rows(values: Floats | None) -> Floats | None:
            return None if values is None else values[keep]

        return Graded(
            self.arms,
            tuple(self.subjects[at] for at in keep),
            tuple(self.rows[at] for at in keep),
            tuple(self.questions[at] for at in keep) if self.questions else (),
            self.correct[keep],
            rows(self.joules),
            rows(self.confidence),
            rows(self.margin),
            self.facts,
        )

    def of_arms(self, names: Sequence[str]) -> Graded:
        """The same questions with these arms only, in this order."""
        at = [self.arms.index(name) for name in names]

        def columns(values: Floats | None) -> Floats | None:
            return None if values is None else values[:, at]

        return Graded(
            tuple(names),
            self.subjects,
            self.rows,
            self.questions,
            self.correct[:, at],
            columns(self.joules),
            columns(self.confidence),
            columns(self.margin),
            {name: self.facts[name] for name in names if name in self.facts},
        )


def same_questions(graded: Graded) -> Whole:
    """A number for each question, equal for duplicates: by the text, case and spaces aside.

    Questions without text are told apart by their place.
    """
    import numpy as np

    keys = (
        [" ".join(question.whole.casefold().split()) for question in graded.questions]
        if graded.questions
        else [f"{s}:{r}" for s, r in zip(graded.subjects, graded.rows, strict=True)]
    )
    return np.unique(np.asarray(keys, dtype=object), return_inverse=True)[1].astype(np.int64)


def folds_of(graded: Graded, count: int = 5, seed: int = 0) -> Whole:
    """The fold of each question: even in size, drawn at random, duplicates together.

    Args:
        count: Folds; never more than there are different questions.
        seed: Equal seeds and questions in equal order give equal folds.
    """
    import numpy as np

    groups = same_questions(graded)
    different = int(groups.max()) + 1 if len(groups) else 0
    count = max(1, min(count, different))
    order = np.random.default_rng(seed).permutation(different) % count
    return order[groups]
