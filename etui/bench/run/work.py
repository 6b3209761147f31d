"""Interface between a run and its arms: the questions of a subject, and their answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from etui.bench.store.sample import Sample
from etui.datasets.questions import Question
from etui.energy.types import EnergyOf


@dataclass(frozen=True, slots=True)
class SubjectWork:
    """One subject of a run."""

    subject: str
    questions: Sequence[Question]
    """Every question of it in the run, in order. Answered ones are included, so that the groups
    that are computed together stay the same."""
    done: Collection[int]  # Rows that are already answered
    examples: Sequence[Question]

    @property
    def left(self) -> int:
        """Number of unanswered questions."""
        return sum(question.row not in self.done for question in self.questions)


class Answered(Protocol):
    """Questions answered together; their joules are read once the meter has them."""

    @property
    def end_ns(self) -> int:
        """End of the interval that the meter must have read, in monotonic nanoseconds."""

    def samples(self, energy_of: EnergyOf) -> list[Sample]:
        """Return the answers, each with its energy."""


class QuestionAnswerer(Protocol):
    """An arm or a policy that answers questions."""

    def answer(self, work: SubjectWork) -> Iterator[Answered]:
        """Answer the unanswered questions of a subject.

        Raises:
            StopRequested: The user stopped the run; the current question is discarded.
            EtuiError: The engine failed.
        """
