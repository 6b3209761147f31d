"""Order of a run: subject by subject, in balanced blocks, or until a precision is reached.

A run that stops at a precision is checked after each block. The interim checks are a function of
the answers alone, so a run that was interrupted makes the same ones when it resumes, and stops
where an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from random import Random

from etui.bench.config import BenchPrecision, RunConfig, choose_block_size, cut_subjects
from etui.bench.plan import RunPlan
from etui.bench.precision import (
    InterimCheck,
    Key,
    Population,
    RunPrecision,
    SystemPrecision,
    build_population,
    check_interim,
    describe_interim_check,
)
from etui.bench.progress import RunProgress
from etui.bench.sample import Sample
from etui.datasets.questions import order_balanced
from etui.measure.run import shuffle_grouped
from etui.stats.confidence_sequence import LEAST_QUESTIONS, METHOD, fixed_sample


@dataclass(frozen=True, slots=True)
class Piece:
    """Questions of one subject that one system answers in one go."""

    system: str  # Name of the arm or of the policy
    subject: str
    rows: tuple[int, ...]  # Rows of the questions, in the order in which they are asked
    block: int  # Number of the block it belongs to, from 0


def build_schedule(plan: RunPlan, systems: Iterable[str]) -> Iterator[Piece]:
    """Build the order of a run."""
    names, part = tuple(systems), plan.config.part
    if plan.config.order == "subjects":
        yield from _by_subject(plan, names)
        return
    order = order_questions(plan)
    size = choose_block_size(len(order), plan.config.block, part)
    for piece in build_blocks(plan, names, order, size):
        if part is None or piece.block % part.count == part.index:
            yield piece


def order_questions(plan: RunPlan) -> tuple[tuple[str, int], ...]:
    """Return subject and row of the drawn questions in the balanced order of a plan."""
    sizes = {subject: len(questions) for subject, questions in plan.drawn.items()}
    return tuple(
        (subject, plan.drawn[subject][index].row)
        for subject, index in order_balanced(sizes, plan.config.seed)
    )


def build_blocks(
    plan: RunPlan,
    systems: Iterable[str],
    questions: Iterable[tuple[str, int]],
    size: int,
    first: int = 0,
) -> Iterator[Piece]:
    """Cut an order of questions into blocks, each of which every system answers.

    Within a block the systems of one model follow each other, since changing the model may load it.
    The order of the models and of the systems of a model is random in every block, so that a drift
    of the machine favours none of them.
    """
    names, order = tuple(systems), list(questions)

    def model_of(system: str) -> str:
        arm = plan.arms.get(system)
        return arm.model if arm is not None else ""

    for block, start in enumerate(range(0, len(order), size), first):
        by_subject: dict[str, list[int]] = {}
        for subject, row in order[start : start + size]:
            by_subject.setdefault(subject, []).append(row)
        random = Random(f"systems {plan.config.seed} {block}")
        for system in shuffle_grouped(names, model_of, random):
            for subject, rows in by_subject.items():
                yield Piece(system, subject, tuple(rows), block)


def _by_subject(plan: RunPlan, systems: tuple[str, ...]) -> Iterator[Piece]:
    rows = {
        subject: tuple(question.row for question in questions)
        for subject, questions in plan.drawn.items()
    }
    numbers = {subject: block for block, subject in enumerate(rows)}
    if plan.config.part is None:
        pieces = list(rows.items())
    else:
        cuts = cut_subjects({name: len(inside) for name, inside in rows.items()}, plan.config.part)
        pieces = [(subject, rows[subject][cut.start : cut.stop]) for subject, cut in cuts]
    for subject, inside in pieces:
        for system in systems:
            yield Piece(system, subject, inside, numbers[subject])


_EVEN = 0.25  # Variance of the answers of a model that is right on every second question
_FIRST_SHARE = 0.125
_LEAST_ERROR = 0.08
"""Share of the predicted questions that a block leaves out even if the variance is well known."""
_SPARE = 1.02
_WORTH = 0.1  # A block that would ask less than this share more is the last one instead
_LEAST_BLOCK = 8


def choose_first_check(sizes: Mapping[str, int], half_width: float) -> int:
    """Choose the number of questions of the first block, by the sizes of the population's subjects.

    It is an eighth of what an accuracy of 50 % needs, or as many as it takes to ask one question of
    every subject, if that is not more than half of it.
    """
    total = sum(sizes.values())
    expected = fixed_sample(_EVEN, total, half_width)
    every_subject = math.ceil(total / min(sizes.values()))
    first = math.ceil(_FIRST_SHARE * expected)
    if every_subject <= expected / 2:
        first = max(first, every_subject)
    return min(total, max(first, LEAST_QUESTIONS))


def choose_next_check(asked: int, needed: int, error: float, total: int, step: int | None) -> int:
    """Choose the number of questions after which to check next: ``step`` more, or by prediction."""
    if step is not None:
        return min(total, asked + step)
    short = math.ceil(needed * (1 - max(error, _LEAST_ERROR)))
    last = asked + math.ceil(_SPARE * max(0, needed - asked))
    look = short if short >= (1 + _WORTH) * asked else last
    return min(total, max(look, asked + _LEAST_BLOCK))


@dataclass(slots=True)
class PrecisionSchedule:
    """Pieces of a run until its intervals are as narrow as asked."""

    plan: RunPlan
    config: RunConfig
    wait: Callable[[], None]  # Waits until all answers given so far are written, and thus added
    notice: Callable[[RunPrecision, int], None] = lambda precision, needed: None
    """Called after each interim check."""
    _right: dict[str, dict[Key, bool]] = field(default_factory=dict)
    _checks: list[int] = field(default_factory=list)
    _found: dict[str, SystemPrecision] = field(default_factory=dict)
    _differences: dict[str, int] = field(default_factory=dict)

    def add(self, samples: Iterable[Sample]) -> None:
        """Add answers that are written; called by the writer's thread."""
        for sample in samples:
            system = self.config.contender(sample.arm)
            self._right.setdefault(system, {})[sample.subject, sample.row] = sample.correct

    def pieces(self, systems: Iterable[str]) -> Iterator[Piece]:
        """Yield the pieces of the run in the order in which they are answered."""
        return chain.from_iterable(self.blocks(systems))

    def blocks(self, systems: Iterable[str]) -> Iterator[Iterable[Piece]]:
        """Yield the pieces up to the next check, which is made before the next ones are chosen."""
        names = tuple(systems)
        table = self.plan.difficulty
        rows = {
            subject: [question.row for question in questions]
            for subject, questions in self.plan.population.items()
        }
        population = build_population(rows, None if table is None else table.values)
        order = order_questions(self.plan)
        half_width = self._goal.points / 100
        start, asked = 0, min(len(order), choose_first_check(population.sizes, half_width))
        while True:
            block = len(self._checks)
            yield build_blocks(self.plan, names, order[start:asked], asked - start, block)
            self.wait()
            worst = self._check(population, order[:asked], names)
            self.notice(self._build_report(), asked if worst is None else worst.needed)
            if worst is None or asked >= len(order):
                return
            error = worst.estimate.variance_error
            start = asked
            asked = choose_next_check(
                asked, worst.needed, error, len(order), self.plan.config.block
            )

    @property
    def report(self) -> RunPrecision | None:
        """What is known so far; None before the first check."""
        return self._build_report() if self._checks else None

    @property
    def _goal(self) -> BenchPrecision:
        assert self.plan.config.precision is not None
        return self.plan.config.precision

    def _check(
        self, population: Population, asked: Sequence[Key], names: Sequence[str]
    ) -> InterimCheck | None:
        """Check every target; return the one that needs most, or None if all are reached.

        The interval of a target is that of the first check at which it is as narrow as asked: the
        sequence ends there, and is valid for all checks up to it.
        """
        half_width, of = self._goal.points / 100, self._goal.of
        numbers = {name: [float(self._right[name][key]) for key in asked] for name in names}
        changes = {
            name: [second - first for first, second in zip(numbers[names[0]], own, strict=True)]
            for name, own in numbers.items()
            if name != names[0]
        }
        targets = numbers if of == "accuracy" else changes
        self._checks.append(len(asked))
        open_: list[InterimCheck] = []
        for name, values in targets.items():
            if name in self._found and self._found[name].reached:
                continue
            checked = check_interim(population, asked, values, half_width, of)
            self._found[name] = checked.freeze()
            if not checked.interval.reached:
                open_.append(checked)
        if of == "accuracy":
            self._differences = {
                name: check_interim(population, asked, values, half_width, "difference").needed
                for name, values in changes.items()
            }
        return max(open_, key=lambda checked: checked.needed, default=None)

    def _build_report(self) -> RunPrecision:
        plan, goal = self.plan, self._goal
        table = plan.difficulty
        questions = {(q.subject, q.row) for inside in plan.population.values() for q in inside}
        names = self.config.contenders
        return RunPrecision(
            points=goal.points,
            of=goal.of,
            method=METHOD,
            reached=all(one.reached for one in self._found.values()),
            questions=self._checks[-1],
            population=len(questions),
            looks=tuple(self._checks),
            systems=dict(self._found),
            reference=names[0] if goal.of == "difference" else None,
            difficulty_sha256=goal.difficulty_sha256,
            difficulty_questions=None if table is None else len(questions & table.values.keys()),
            differences=self._differences or None,
        )


def open_precision(
    plan: RunPlan, config: RunConfig, wait: Callable[[], None], progress: RunProgress
) -> PrecisionSchedule | None:
    """Open the schedule of a plan that stops at a precision; None for another plan."""
    if plan.config.precision is None:
        return None

    def notice(precision: RunPrecision, needed: int) -> None:
        # With a check every few questions, a line at each would be too many: 1, 2, 4, 8, ...
        checks = len(precision.looks)
        final = precision.reached or precision.questions >= config.questions
        if plan.config.block is None or final or checks & (checks - 1) == 0:
            progress.say(describe_interim_check(precision, needed, config.questions))
        progress.expect(min(config.questions, max(needed, precision.questions)))

    return PrecisionSchedule(plan, config, wait, notice)
