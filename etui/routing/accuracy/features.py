"""Light features of a question, the inputs of the fitted heads in addition to its words.

All features are counted from the text in plain Python, so a decision loads no library for them. A
multiple-choice question is first split into stem and options, so that a question of a bench run
and the same question typed into the chat get the same features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etui.routing.signals.question_words import DIGIT, WORD

if TYPE_CHECKING:
    from etui.routing.signals.question_words import QuestionText


_NEGATION = re.compile(r"\b(?:not|except|least|never|false)\b", re.I)


_STATEMENTS = re.compile(r"\bstatement\s+(?:\d+|[ivx]+)\b|(?:^|\s)\(?I{1,3}[.)]\s", re.I)


_BLANK = re.compile(r"_{2,}")


_MATH = re.compile(r"[+*/^<>%±×÷√∑∫≤≥≠π]|\\(?:frac|sqrt|sum|int)\b")


_CALCULATE = re.compile(
    r"\b(?:calculate|compute|determine|evaluate|find|how (?:many|much)|probability|solve)\b", re.I
)


_PASSAGE = re.compile(r"\b(?:according to|based on|following|passage|refers to)\b", re.I)


_NUMERIC = re.compile(r"\s*[\d.,$\-−/%]*\d")


_FORMULA = re.compile(r"[=^\\]")


_CLOSED = re.compile(r"\b(?:all|none|both) of the\b|\bboth\b", re.I)


_LONG_WORD = 8


FEATURE_NAMES = (
    "log_words",
    "log_question_words",
    "has_digit",
    "log_digits",
    "has_equals",
    "negation",
    "statements",
    "question_mark",
    "blank",
    "math_symbols",
    "mean_word_length",
    "calculate_words",
    "passage_words",
    "question_share",
    "long_words",
    "option_log_length",
    "option_length_spread",
    "options_numeric",
    "options_alike",
    "options_closed",
    "options_one_word",
    "options_formula",
)
"""Names of the features, in order. The first fourteen and the intercept of a head are the fifteen
that a router on MMLU needs; the others describe the options."""


def compute_features(question: QuestionText) -> tuple[float, ...]:
    """Compute the features of a question, in the order of ``FEATURE_NAMES``; all are finite."""
    stem, options, whole = question.stem, question.options, question.whole
    words, asked = WORD.findall(whole), WORD.findall(stem)
    digits = len(DIGIT.findall(whole))
    count = max(1, len(words))
    return (
        math.log1p(len(words)),
        math.log1p(len(asked)),
        float(digits > 0),
        math.log1p(digits),
        float("=" in whole),
        float(_NEGATION.search(stem) is not None),
        float(_STATEMENTS.search(stem) is not None),
        float("?" in stem),
        float(_BLANK.search(stem) is not None),
        float(_MATH.search(whole) is not None),
        sum(map(len, words)) / count,
        float(_CALCULATE.search(whole) is not None),
        float(_PASSAGE.search(whole) is not None),
        len(stem) / max(1, len(whole)),
        sum(len(word) >= _LONG_WORD for word in words) / count,
        *_compute_option_features(options),
    )


def _compute_option_features(options: Sequence[str]) -> tuple[float, ...]:
    if not options:
        return (0.0,) * 7
    lengths = [len(option) for option in options]
    mean = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
    words = [frozenset(WORD.findall(option.casefold())) for option in options]
    pairs = [(a, b) for at, a in enumerate(words) for b in words[at + 1 :]]
    alike = [len(a & b) / max(1, len(a | b)) for a, b in pairs]
    together = " ".join(options)
    return (
        math.log1p(mean),
        spread / (1 + mean),
        sum(_NUMERIC.match(option) is not None for option in options) / len(options),
        sum(alike) / max(1, len(alike)),
        float(_CLOSED.search(together) is not None),
        float(all(len(option.split()) == 1 for option in options)),
        float(_FORMULA.search(together) is not None),
    )
