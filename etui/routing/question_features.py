"""What a fitted head sees of a question: light features, and its words hashed into buckets.

Everything is counted from the text, in plain Python: a decision loads no library for it. A
multiple-choice question is taken apart into its stem and its options first, so that a question of
a bench run and the same question typed into the chat look alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from etui.options import options_of
from etui.routing.features import TEXT_LIMIT

BUCKETS = 2**11
"""Buckets that words are hashed into."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_DIGIT = re.compile(r"\d")
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
_FIRST_LABEL = re.compile(r"(?:(?<=\s)|^)(?:\(A\)|A\))\s|^[ \t]*A[.:]\s", re.I | re.M)
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
"""The features in their order; with the intercept of a head the first fourteen are the fifteen that
a router on MMLU needs, the others look at the options."""


@dataclass(frozen=True, slots=True)
class QuestionText:
    """A question taken apart.

    Attributes:
        stem: What is asked.
        options: The answers offered; empty where the question is open.
    """

    stem: str
    options: tuple[str, ...] = ()

    @property
    def whole(self) -> str:
        """Stem and options, one a line."""
        return "\n".join((self.stem, *self.options))


def split_question(text: str) -> QuestionText:
    """A question as it was typed, taken apart; a long one by its two ends."""
    if len(text) > TEXT_LIMIT:
        text = f"{text[: TEXT_LIMIT // 2]}\n{text[-TEXT_LIMIT // 2 :]}"
    options = options_of(text)
    if not options:
        return QuestionText(text)
    starts = [label.start() for label in _FIRST_LABEL.finditer(text)]
    stem = text[: starts[-1]] if starts else text
    return QuestionText(stem.strip() or text, tuple(option.text for option in options))


def features(question: QuestionText) -> tuple[float, ...]:
    """The features, in the order of ``FEATURE_NAMES``; all finite."""
    stem, options, whole = question.stem, question.options, question.whole
    words, asked = _WORD.findall(whole), _WORD.findall(stem)
    digits = len(_DIGIT.findall(whole))
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
        *_of_options(options),
    )


def _of_options(options: Sequence[str]) -> tuple[float, ...]:
    if not options:
        return (0.0,) * 7
    lengths = [len(option) for option in options]
    mean = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
    words = [frozenset(_WORD.findall(option.casefold())) for option in options]
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


def bucket_of(word: str) -> int:
    """The bucket of a word: CRC-32 of its case-folded UTF-8, modulo ``BUCKETS``.

    CRC-32 is the same on every machine and in every release, which ``hash`` is not, and its low
    bits spread short words evenly. It is no protection against words made to collide; those would
    only make a prediction worse.
    """
    return crc32(word.casefold().encode("utf-8", "surrogatepass")) % BUCKETS


def term_counts(question: QuestionText) -> dict[int, int]:
    """Bucket -> how many words of the question fall into it."""
    counts: dict[int, int] = {}
    for word in _WORD.findall(question.whole):
        bucket = bucket_of(word)
        counts[bucket] = counts.get(bucket, 0) + 1
    return counts


def tf_idf(counts: Mapping[int, int], idf: Sequence[float]) -> dict[int, float]:
    """(1 + ln count) * idf per bucket, scaled to length 1; empty for a question without words."""
    weighted = {bucket: (1 + math.log(n)) * idf[bucket] for bucket, n in counts.items()}
    length = math.sqrt(sum(value * value for value in weighted.values()))
    return {bucket: value / length for bucket, value in weighted.items()} if length else {}
