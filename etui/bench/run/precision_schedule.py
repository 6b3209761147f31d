"""Order of a run that stops at a precision: blocks of the balanced order, a look after each.

The looks are a function of the answers alone, so a run that was interrupted takes the same looks
again when it resumes, and stops where an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from etui.bench.analysis.precision import (
    Key,
    Look,
    Population,
    Precision,
    SystemPrecision,
    build_population,
    take_look,
)
from etui.bench.analysis.precision_text import describe_look
from etui.bench.run.plan import RunPlan
from etui.bench.run.schedule import Piece, build_blocks, order_questions
from etui.bench.store.run_config import BenchPrecision, RunConfig
from etui.bench.store.sample import Sample
from etui.stats.confidence_sequence import LEAST_QUESTIONS, METHOD, fixed_sample

_EVEN = 0.25
"""Variance of the answers of a model that is right on every second question."""


_FIRST_SHARE = 0.125

_LEAST_ERROR = 0.08
"""Share of the predicted questions that a block leaves out even if the variance is well known."""


_SPARE = 1.02

_WORTH = 0.1
"""A block that would ask less than this share more is the last one instead."""


_LEAST_BLOCK = 8


def choose_first_look(sizes: Mapping[str, int], half_width: float) -> int:
    """Choose the number of questions of the first block.

    It is an eighth of what an accuracy of 50 % needs, or as many as it takes to ask one question of
    every subject, if that is not more than half of it.

    Args:
        sizes: Subject -> its number of questions in the population.
    """
    total = sum(sizes.values())
    expected = fixed_sample(_EVEN, total, half_width)
    every_subject = math.ceil(total / min(sizes.values()))
    first = math.ceil(_FIRST_SHARE * expected)
    if every_subject <= expected / 2:
        first = max(first, every_subject)
    return min(total, max(first, LEAST_QUESTIONS))


def choose_next_look(asked: int, needed: int, error: float, total: int, step: int | None) -> int:
    """Choose the number of questions after which to look next.

    Args:
        asked: Questions asked so far, fewer than ``total``.
        needed: Predicted number of questions at which the run stops.
        error: Relative standard error of that number.
        total: Most questions that are asked.
        step: Fixed number of questions between two looks; None to follow the prediction.
    """
    if step is not None:
        return min(total, asked + step)
    short = math.ceil(needed * (1 - max(error, _LEAST_ERROR)))
    last = asked + math.ceil(_SPARE * max(0, needed - asked))
    look = short if short >= (1 + _WORTH) * asked else last
    return min(total, max(look, asked + _LEAST_BLOCK))


class PrecisionAudience(Protocol):
    """Shows how precise a run is."""

    def say(self, text: str) -> None:
        """Show a line about the current step."""

    def expect(self, questions: int) -> None:
        """Show that about so many questions are asked."""


@dataclass(slots=True)
class PrecisionSchedule:
    """Pieces of a run until its intervals are as narrow as asked."""

    plan: RunPlan
    config: RunConfig
    wait: Callable[[], None]  # Waits until all answers given so far are written, and thus added
    notice: Callable[[Precision, int], None] = lambda precision, needed: None
    """Called after each look."""
    _right: dict[str, dict[Key, bool]] = field(default_factory=dict)
    _looks: list[int] = field(default_factory=list)
    _found: dict[str, SystemPrecision] = field(default_factory=dict)
    _differences: dict[str, int] = field(default_factory=dict)

    def add(self, samples: Iterable[Sample]) -> None:
        """Add answers that are written; called by the writer's thread."""
        for sample in samples:
            system = self.config.contender(sample.arm)
            self._right.setdefault(system, {})[sample.subject, sample.row] = sample.correct

    def pieces(self, systems: Iterable[str]) -> Iterator[Piece]:
        """Yield the pieces of the run in the order in which they are answered.

        Args:
            systems: Names of the systems, the first one of which others are compared with.
        """
        names = tuple(systems)
        population = _build_population(self.plan)
        order = order_questions(self.plan)
        half_width = self._goal.points / 100
        start, asked = 0, min(len(order), choose_first_look(population.sizes, half_width))
        while True:
            block = len(self._looks)
            yield from build_blocks(self.plan, names, order[start:asked], asked - start, block)
            self.wait()
            worst = self._look(population, order[:asked], names)
            self.notice(self._build_report(), asked if worst is None else worst.needed)
            if worst is None or asked >= len(order):
                return
            error = worst.estimate.variance_error
            start = asked
            asked = choose_next_look(asked, worst.needed, error, len(order), self.plan.block)

    @property
    def report(self) -> Precision | None:
        """What is known so far; None before the first look."""
        return self._build_report() if self._looks else None

    @property
    def _goal(self) -> BenchPrecision:
        assert self.plan.precision is not None
        return self.plan.precision

    def _look(
        self, population: Population, asked: Sequence[Key], names: Sequence[str]
    ) -> Look | None:
        """Look at every target; return the one that needs most, or None if all are reached.

        The interval of a target is that of the first look at which it is as narrow as asked: the
        sequence ends there, and holds for all looks up to it.
        """
        half_width, of = self._goal.points / 100, self._goal.of
        numbers = {name: [float(self._right[name][key]) for key in asked] for name in names}
        changes = {
            name: [second - first for first, second in zip(numbers[names[0]], own, strict=True)]
            for name, own in numbers.items()
            if name != names[0]
        }
        targets = numbers if of == "accuracy" else changes
        self._looks.append(len(asked))
        open_: list[Look] = []
        for name, values in targets.items():
            if name in self._found and self._found[name].reached:
                continue
            look = take_look(population, asked, values, half_width, of)
            self._found[name] = look.freeze()
            if not look.interval.reached:
                open_.append(look)
        if of == "accuracy":
            self._differences = {
                name: take_look(population, asked, values, half_width, "difference").needed
                for name, values in changes.items()
            }
        return max(open_, key=lambda look: look.needed, default=None)

    def _build_report(self) -> Precision:
        plan, goal = self.plan, self._goal
        table = plan.difficulty
        questions = {(q.subject, q.row) for inside in plan.population.values() for q in inside}
        names = self.config.contenders
        return Precision(
            points=goal.points,
            of=goal.of,
            method=METHOD,
            reached=all(one.reached for one in self._found.values()),
            questions=self._looks[-1],
            population=len(questions),
            looks=tuple(self._looks),
            systems=dict(self._found),
            reference=names[0] if goal.of == "difference" else None,
            difficulty_sha256=goal.difficulty_sha256,
            difficulty_questions=None if table is None else len(questions & table.values.keys()),
            differences=self._differences or None,
        )


def open_precision(
    plan: RunPlan, config: RunConfig, wait: Callable[[], None], audience: PrecisionAudience
) -> PrecisionSchedule | None:
    """Open the schedule of a plan that stops at a precision; None for another plan.

    Args:
        wait: Waits until all answers given so far are written.
        audience: Shows how many questions are expected.
    """
    if plan.precision is None:
        return None

    def notice(precision: Precision, needed: int) -> None:
        # With a look every few questions, a line at each would be too many: 1, 2, 4, 8, ...
        looks = len(precision.looks)
        final = precision.reached or precision.questions >= config.questions
        if plan.block is None or final or looks & (looks - 1) == 0:
            audience.say(describe_look(precision, needed, config.questions))
        audience.expect(min(config.questions, max(needed, precision.questions)))

    return PrecisionSchedule(plan, config, wait, notice)


def _build_population(plan: RunPlan) -> Population:
    rows = {
        subject: [question.row for question in questions]
        for subject, questions in plan.population.items()
    }
    return build_population(rows, None if plan.difficulty is None else plan.difficulty.values)
