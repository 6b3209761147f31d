"""Grading rules: how the answer of a generated text is read and compared with the right one.

Every rule has a name and a version, which a run records, since scores are comparable only if both
are equal. Letters that a chat answer states are read by :mod:`etui.reasoning.extraction` and have
no rule here; a run of them records none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from etui.bench.formats import Format
from etui.datasets.questions import Question
from etui.reasoning.quantity import (
    find_last_number,
    find_stated_number,
    last_number_value,
    strip_number,
)

_LETTER = re.compile(r"answer is \(?([ABCDEFGHIJ])\)?")
"""``custom-extract`` of lm-eval's ``mmlu_pro`` (version 3.1); its first match counts."""


@dataclass(frozen=True, slots=True)
class GradingRule:
    """One way to read and compare answers."""

    name: str  # Recorded with every run
    version: int
    numbers: bool
    read: Callable[[str], str | None]  # Text -> the answer that it states; None without one
    normalise: Callable[[str], str | None]
    """The right answer, as the data state it -> the form that ``read`` returns; None if it has no
    such form."""
    read_strictly: Callable[[str], str | None] | None
    """Stricter reading, reported in addition; None without one."""
    summary: str  # One-line description

    @property
    def label(self) -> str:
        """Name and version: ``gsm8k-flexible@1``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class GradedText:
    """A graded text."""

    answer: str  # The right answer in its normal form
    choice: str | None  # The answer that the text states; None without one
    strict: bool | None  # Whether the stricter reading is right; None if the rule has none

    @property
    def correct(self) -> bool:
        """Whether choice and answer are equal."""
        return self.choice == self.answer


def _read_flexibly(text: str) -> str | None:
    found = find_last_number(text)
    return None if found is None else strip_number(found)


def _read_strictly(text: str) -> str | None:
    found = find_stated_number(text)
    return None if found is None else strip_number(found)


def _read_letter(text: str) -> str | None:
    found = _LETTER.search(text)
    return None if found is None else found[1]


RULES: dict[str, GradingRule] = {
    rule.label: rule
    for rule in (
        GradingRule(
            "gsm8k-flexible", 1, True, _read_flexibly, strip_number, _read_strictly,
            "the last number, compared as text as lm-eval's gsm8k does (flexible-extract)",
        ),
        GradingRule(
            "number", 1, True, last_number_value, last_number_value, None,
            "the last number, compared by its value",
        ),
        GradingRule(
            "mmlu-pro", 1, False, _read_letter, str.strip, None,
            "the first letter after 'answer is', as lm-eval's mmlu_pro (custom-extract)",
        ),
    )
}  # fmt: skip
"""Label -> rule."""


def find_rule(format_: Format, *, numbers: bool) -> GradingRule | None:
    """Return the rule by which answers of a format are graded.

    Returns None where a letter is read from log-probabilities, or stated in a chat.
    """
    label = format_.rule or ("number@1" if numbers else "")
    return RULES[label] if label else None


def grades_numbers(label: str | None) -> bool:
    """Return whether the rule that a run recorded grades numbers; None is the letter's."""
    rule = RULES.get(label or "")
    return rule is not None and rule.numbers


def grade(rule: GradingRule, text: str, question: Question) -> GradedText:
    """Grade a text.

    A right answer without a normal form, such as a word in a file of numbers, is never reached.
    """
    answer = rule.normalise(question.answer)
    right = question.answer if answer is None else answer
    strict = None
    if rule.read_strictly is not None:
        strict = rule.read_strictly(text) == right
    return GradedText(right, rule.read(text), strict)
