"""What a run hands to an arm, and what comes back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from etui.bench.store.sample import Sample
from etui.datasets.questions import Question
from etui.energy.types import EnergyOf


@dataclass(frozen=True, slots=True)
class SubjectWork:
    """One subject of a run.

    Attributes:
        subject: Its name.
        questions: Every question of it in the run, in order; those that are done are among them, so
            that what is computed together stays together.
        done: Rows that are answered already.
        examples: Worked examples to show.
    """

    subject: str
    questions: Sequence[Question]
    done: Collection[int]
    examples: Sequence[Question]

    @property
    def left(self) -> int:
        """Questions that are not answered yet."""
        return sum(question.row not in self.done for question in self.questions)


class Answered(Protocol):
    """Questions answered together, whose joules are told when the meter knows them."""

    @property
    def end_ns(self) -> int:
        """End of the interval that has to be settled."""

    def samples(self, energy_of: EnergyOf) -> list[Sample]:
        """The answers with what each cost."""


class QuestionAnswerer(Protocol):
    """What answers questions: an arm, or a policy."""

    def answer(self, work: SubjectWork) -> Iterator[Answered]:
        """Answer the questions of a subject that are not done.

        Raises:
            StopRequested: The user wants to stop; the question under way is given up.
            EtuiError: The engine failed.
        """
