"""Accuracy of the settings of a sweep: a suite's questions, answered once per set of numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from etui.bench.prompts.formats import FORMATS
from etui.bench.run.scoring_arm import ScoringArm
from etui.bench.run.work import SubjectWork
from etui.datasets.question_sample import draw
from etui.datasets.questions import Question, Suite
from etui.sweep.rig import SettingFailed
from etui.sweep.setting import AxisName, Setting, Value

if TYPE_CHECKING:
    from etui.engine.llama_session import LlamaSession

NUMERIC_AXES: frozenset[AxisName] = frozenset(
    {"model", "kv_type", "flash_attention", "gpu_layers", "split", "batch_tokens"}
)
"""Axes that change what is computed, if only by rounding in another order. Threads divide the same
sums by rows, a power limit changes no sum, and speculation verifies every token of the answer."""

FORMAT = FORMATS["letters"]
"""How a question is asked: the log-probabilities of the four letters, which nothing but the model's
numbers decides."""

SessionFor = Callable[[Setting], "LlamaSession"]
"""Loads the model of a setting with its values; raises SettingFailed if it cannot run."""


@dataclass(frozen=True, slots=True)
class SubjectQuestions:
    """The questions of one subject that are asked, and the worked examples before each."""

    subject: str
    questions: tuple[Question, ...]
    examples: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions that every setting answers."""

    suite: str
    sha256: str  # Hash of its files
    subjects: tuple[SubjectQuestions, ...]  # In the order in which they are asked

    @property
    def count(self) -> int:
        """Number of questions."""
        return sum(len(subject.questions) for subject in self.subjects)

    @property
    def numbers(self) -> dict[tuple[str, int], int]:
        """Subject and row of each question -> its number, from 0."""
        asked = ((one.subject, question.row) for one in self.subjects for question in one.questions)
        return {question: number for number, question in enumerate(asked)}


@dataclass(frozen=True, slots=True)
class SettingAnswer:
    """The answer of a setting to a question."""

    setting: str
    number: int  # Number of the question, from 0, in the order in which they were drawn
    subject: str
    row: int
    choice: str  # The letter with the highest log-probability
    correct: bool


def group_by_numbers(settings: Sequence[Setting]) -> dict[str, str]:
    """Find which settings compute the same numbers, so that their answers are the same.

    Args:
        settings: In order; the first of each group is the one to measure.

    Returns:
        Key of every setting -> key of the setting whose answers are used.
    """
    first: dict[tuple[tuple[AxisName, Value], ...], str] = {}
    found: dict[str, str] = {}
    for setting in settings:
        numbers = tuple(pair for pair in setting.values if pair[0] in NUMERIC_AXES)
        found[setting.key] = first.setdefault(numbers, setting.key)
    return found


def draw_questions(suite: Suite, seed: int, limit: int | None = None) -> QuestionSet:
    """Draw the questions of a sweep: the same for equal arguments, in proportion to the subjects.

    Args:
        seed: Seed of the sample and of the order of the subjects.
        limit: Most questions; None asks all.
    """
    shots = FORMAT.shots
    return QuestionSet(
        suite.name,
        suite.sha256,
        tuple(
            SubjectQuestions(
                subject,
                tuple(suite.questions[subject][at] for at in indices),
                tuple(suite.examples.get(subject, ())[:shots]),
            )
            for subject, indices in draw(suite.sizes, seed, limit).items()
        ),
    )


def measure_answers(
    session_for: SessionFor,
    settings: Sequence[Setting],
    questions: QuestionSet,
    done: Collection[tuple[str, int]] = (),
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[SettingAnswer]:
    """Answer the questions with every setting that computes numbers of its own.

    A setting whose questions are all answered is not loaded. One that cannot run is passed over, as
    the sweep has its reason already. Questions are computed in the same groups after a resume, so
    that rounding does not change an answer.

    Args:
        session_for: Loads the model of a setting.
        settings: All settings to know the accuracy of, the baseline first.
        done: Key of the setting and number of the question of the answers that exist.
        cancelled: Checked before every batch.

    Yields:
        One answer after the other.

    Raises:
        StopRequested: ``cancelled`` returned true; the current question is discarded.
        ContextOverflow: A question does not fit into the context, even without worked examples.
        EtuiError: The engine failed.
    """
    measured = set(group_by_numbers(settings).values())
    numbers = questions.numbers
    answered = set(done)
    for setting in settings:
        key = setting.key
        works = [
            SubjectWork(
                one.subject,
                one.questions,
                frozenset(
                    question.row
                    for question in one.questions
                    if (key, numbers[one.subject, question.row]) in answered
                ),
                one.examples,
            )
            for one in questions.subjects
        ]
        works = [work for work in works if work.left]
        if key not in measured or not works:
            continue
        try:
            session = session_for(setting)
        except SettingFailed:
            continue
        arm = ScoringArm(key, partial(_reopen, session), FORMAT, cancelled=cancelled)
        for work in works:
            yield from _answer(arm, work, numbers)


def _reopen(session: LlamaSession) -> LlamaSession:
    return session


def _answer(
    arm: ScoringArm, work: SubjectWork, numbers: Mapping[tuple[str, int], int]
) -> Iterator[SettingAnswer]:
    for group in arm.answer(work):
        for scored in group.scored:
            question = scored.prompt.question
            if question.row in group.kept:
                yield SettingAnswer(
                    setting=arm.name,
                    number=numbers[question.subject, question.row],
                    subject=question.subject,
                    row=question.row,
                    choice=scored.choice,
                    correct=scored.choice == question.answer,
                )
