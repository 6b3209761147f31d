"""Accuracy of the settings of a sweep: a suite's questions, answered once per set of numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from etui.bench.formats import FORMATS
from etui.bench.scoring import ScoringArm, SubjectWork
from etui.datasets.questions import Suite, draw
from etui.engine.llama_session import LlamaSession
from etui.sweep.analysis import analyse
from etui.sweep.blocks import Block, SettingAnswer, SettingFailed
from etui.sweep.config import AxisName, Setting, SweepConfig, SweepDesign, Value
from etui.sweep.race import follow, rank_all
from etui.sweep.result import SweepResult

NUMERIC_AXES: frozenset[AxisName] = frozenset(
    {"model", "kv_type", "flash_attention", "gpu_layers", "cpu_moe", "split", "batch_tokens"}
)
"""Axes that change what is computed, if only by rounding in another order. Threads divide the same
sums by rows, a power limit changes no sum, and speculation verifies every token of the answer."""

FORMAT = FORMATS["letters"]
"""How a question is asked: nothing but the model's numbers decides the letters' probabilities."""

SessionFor = Callable[[Setting], "LlamaSession"]
"""Loads the model of a setting with its values; raises SettingFailed if it cannot run."""


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions that every setting answers."""

    sha256: str  # Hash of the files of the suite
    subjects: tuple[SubjectWork, ...]  # In the order in which they are asked, none answered yet

    @property
    def count(self) -> int:
        """Number of questions."""
        return sum(subject.left for subject in self.subjects)

    @property
    def numbers(self) -> dict[tuple[str, int], int]:
        """Subject and row of each question -> its number, from 0."""
        asked = ((one.subject, question.row) for one in self.subjects for question in one.questions)
        return {question: number for number, question in enumerate(asked)}


def draw_questions(suite: Suite, seed: int, limit: int | None = None) -> QuestionSet:
    """Draw the questions of a sweep, in proportion to the subjects; None asks all."""
    subjects = (
        SubjectWork(
            subject,
            tuple(suite.questions[subject][at] for at in indices),
            frozenset(),
            tuple(suite.examples.get(subject, ())[: FORMAT.shots]),
        )
        for subject, indices in draw(suite.sizes, seed, limit).items()
    )
    return QuestionSet(suite.sha256, tuple(subjects))


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
        settings: All settings to know the accuracy of, the baseline first.
        done: Key of the setting and number of the question of the answers that exist.
    """
    measured = set(group_by_numbers(settings).values())
    numbers = questions.numbers
    for setting in settings:
        rows = {cell for cell, number in numbers.items() if (setting.key, number) in done}
        works = [
            replace(one, done=frozenset(row for subject, row in rows if subject == one.subject))
            for one in questions.subjects
        ]
        if setting.key not in measured or not any(work.left for work in works):
            continue
        try:
            session = session_for(setting)
        except SettingFailed:
            continue
        arm = ScoringArm(
            setting.key, partial(lambda one: one, session), FORMAT, cancelled=cancelled
        )
        for group in (group for work in works if work.left for group in arm.answer(work)):
            for scored in group.scored:
                question, choice = scored.prompt.question, scored.choice
                number = numbers[question.subject, question.row]
                if question.row in group.kept:
                    yield SettingAnswer(
                        setting.key, number, question.subject, question.row, choice,
                        correct=choice == question.answer,
                    )  # fmt: skip


def group_by_numbers(settings: Sequence[Setting]) -> dict[str, str]:
    """Find which settings compute the same numbers; the first of each group answers."""
    first: dict[tuple[tuple[AxisName, Value], ...], str] = {}
    found: dict[str, str] = {}
    for setting in settings:
        numbers = tuple(pair for pair in setting.values if pair[0] in NUMERIC_AXES)
        found[setting.key] = first.setdefault(numbers, setting.key)
    return found


def analyse_measured(
    config: SweepConfig, blocks: Sequence[Block], answers: Sequence[SettingAnswer]
) -> SweepResult:
    """Compute the result of the blocks and the answers so far."""
    grouped = group_answers(answers, config.questions)
    measured_as = choose_answering(config.design, blocks, grouped) if grouped else None
    result = analyse(config.design, blocks, grouped or None, measured_as)
    result = replace(result, notes=(*config.notes, *result.notes))
    if not config.questions or not result.is_complete:
        return result
    asked = list_asked(config.design, blocks, grouped)
    return replace(result, is_complete=all(setting.key in grouped for setting in asked))


def list_asked(
    design: SweepDesign, blocks: Sequence[Block], answered: Collection[str] = ()
) -> tuple[Setting, ...]:
    """List the settings whose accuracy is measured, as :func:`choose_answering` does."""
    measured = set(choose_answering(design, blocks, answered).values())
    return tuple(setting for setting in design.settings if setting.key in measured)


def choose_answering(
    design: SweepDesign, blocks: Sequence[Block], answered: Collection[str] = ()
) -> dict[str, str]:
    """Choose which setting answers for those that compute the same numbers.

    It is the baseline for its kind of numbers and the best by the goal for every other, dropped or
    not: the race looks at the goal alone, and a dropped model may be the most accurate one. Those
    in ``answered``, with answers to all questions, come first.
    """
    baseline = follow(design, blocks).baseline
    ranks = {key: rank for rank, key in enumerate(rank_all(design, blocks))}

    def order(setting: Setting) -> tuple[bool, bool, int]:
        return setting.key != baseline, setting.key not in answered, ranks[setting.key]

    able = [setting for setting in design.settings if setting.key in ranks]
    return group_by_numbers(sorted(able, key=order))


def group_answers(answers: Sequence[SettingAnswer], questions: int) -> dict[str, list[bool]]:
    """Group answers by setting, in the order of the questions, where all are answered."""
    found: dict[str, dict[int, bool]] = {}
    for answer in answers:
        found.setdefault(answer.setting, {})[answer.number] = answer.correct
    return {
        key: [correct for _, correct in sorted(of.items())]
        for key, of in found.items()
        if len(of) == questions
    }
