"""What a design will cost: the prices of its arms, and their sum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from etui.energy.scopes import weakest
from etui.energy.types import Kind

Source = Literal["answers", "curve", "none"]
"""Measured answers of the same arm, the operating curve of its model, or nothing."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A predicted amount, in joules or seconds."""

    value: float
    scatter: float | None  # Half width at 95 % on the same meter; None if unknown
    uncertainty: float | None  # The same, with the error of the meter itself

    def times(self, count: float) -> Amount:
        """Return ``count`` times the amount, as if its error were the same each time."""
        scatter = None if self.scatter is None else self.scatter * count
        uncertainty = None if self.uncertainty is None else self.uncertainty * count
        return Amount(self.value * count, scatter, uncertainty)


@dataclass(frozen=True, slots=True)
class ArmPrice:
    """What an arm will cost.

    Attributes:
        prompt_tokens, output_tokens: Computed per question; None where unknown.
        joules, seconds: Per question; None where unknown.
        most_joules, most_seconds: Per question, with all budgets used up; None where unknown.
    """

    arm: str
    role: str
    model: str
    questions: int
    source: Source  # Where joules and seconds come from
    origin: str  # The same in words
    measured: int  # Number of measured answers behind it
    prompt_tokens: float | None
    output_tokens: float | None
    most_output_tokens: int  # Per question, with all budgets used up
    joules: Amount | None
    seconds: Amount | None
    most_joules: float | None
    most_seconds: float | None
    total_joules: Amount | None
    total_seconds: Amount | None
    kind: str | None = None  # How the joules were measured; None where unknown


@dataclass(frozen=True, slots=True)
class DesignPrice:
    """What the questions of a design will cost.

    Attributes:
        joules, seconds: Of all answers; None while an arm is unknown.
        most_joules, most_seconds: With all budgets used up; None while one is unknown.
        curve_joules, curve_seconds: Of the operating curves measured on the way; None if
            unknown, and 0 without curves.
    """

    questions: int
    arms: tuple[ArmPrice, ...]
    """The arms; one that has answered some of them pays only for the others."""
    joules: Amount | None
    seconds: Amount | None
    most_joules: float | None
    most_seconds: float | None
    curve_joules: float | None
    curve_seconds: float | None
    unknown: tuple[str, ...]  # Arms of which the joules or the seconds are unknown
    kind: str | None = None  # Kind of the least certain joules; None where unknown

    @property
    def prompt_tokens(self) -> float | None:
        """Prompt tokens of all answers; None while those of an arm are unknown."""
        return _add_bounds((arm.prompt_tokens, arm.questions) for arm in self.arms)

    @property
    def most_output_tokens(self) -> int:
        """Output tokens of all answers with all budgets used up."""
        return sum(arm.most_output_tokens * arm.questions for arm in self.arms)

    @property
    def tokens(self) -> float | None:
        """Prompt and output tokens of all answers; None while those of an arm are unknown."""
        output = _add_bounds((arm.output_tokens, arm.questions) for arm in self.arms)
        prompt = self.prompt_tokens
        return None if prompt is None or output is None else prompt + output

    @property
    def total_seconds(self) -> float | None:
        """Seconds of answers and curves; None while one is unknown."""
        if self.seconds is None or self.curve_seconds is None:
            return None
        return self.seconds.value + self.curve_seconds

    @property
    def total_joules(self) -> float | None:
        """Joules of answers and curves; None while one is unknown."""
        if self.joules is None or self.curve_joules is None:
            return None
        return self.joules.value + self.curve_joules


def price_design(
    questions: int, arms: Sequence[ArmPrice], curves: tuple[float, float] | None
) -> DesignPrice:
    """Add up the prices of the arms, and their errors (:func:`add_amounts`).

    Args:
        curves: Seconds and joules of the operating curves; None if unknown.
    """
    unknown = tuple(arm.arm for arm in arms if arm.joules is None or arm.seconds is None)
    return DesignPrice(
        questions,
        tuple(arms),
        add_amounts([arm.total_joules for arm in arms]),
        add_amounts([arm.total_seconds for arm in arms]),
        _add_bounds((arm.most_joules, arm.questions) for arm in arms),
        _add_bounds((arm.most_seconds, arm.questions) for arm in arms),
        None if curves is None else curves[1],
        None if curves is None else curves[0],
        unknown,
        find_weakest_kind(arm.kind for arm in arms),
    )


def add_amounts(amounts: Sequence[Amount | None]) -> Amount | None:
    """Add amounts; None if one is unknown.

    Their scatter adds up, as the error of their meter does: the arms were measured on the same
    questions, and a hard or a long one costs more in each of them; the arms of a model share its
    operating curve. That is right if the errors go together, and too wide if not.
    """
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts) or not known:
        return None
    value = math.fsum(amount.value for amount in known)
    if any(amount.scatter is None or amount.uncertainty is None for amount in known):
        return Amount(value, None, None)
    scatter = math.fsum(amount.scatter or 0.0 for amount in known)
    meter = math.fsum(
        math.sqrt(max((amount.uncertainty or 0.0) ** 2 - (amount.scatter or 0.0) ** 2, 0.0))
        for amount in known
    )
    return Amount(value, scatter, math.hypot(scatter, meter))


def count_questions_within(
    price: DesignPrice, seconds: float, share: float, block: int
) -> int | None:
    """Count the questions that every arm answers within some time; None while an arm is unknown.

    Args:
        share: Share of it that the operating curves take at most.
        block: Questions of a block; the last one may be cut short.
    """
    if price.seconds is None or any(arm.seconds is None for arm in price.arms):
        return None
    each = math.fsum(arm.seconds.value for arm in price.arms if arm.seconds is not None)
    curves = min(price.curve_seconds or 0.0, share * seconds)
    left = max(seconds - curves, 0.0)
    if each <= 0:
        return price.questions
    whole = int(left / (each * block)) * block
    return min(whole, price.questions)


def _add_bounds(bounds: Iterable[tuple[float | None, int]]) -> float | None:
    found = list(bounds)
    if any(bound is None for bound, _ in found) or not found:
        return None
    return math.fsum((bound or 0.0) * count for bound, count in found)


def find_weakest_kind(kinds: Iterable[str | None]) -> str | None:
    """Return the kind of the least certain joules; None without any."""
    found = weakest(Kind(kind) for kind in kinds if kind is not None)
    return None if found is None else found.value
