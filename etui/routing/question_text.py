"""Split a question into its words and count them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from zlib import crc32

from etui.multiple_choice import parse_options
from etui.routing.text_measures import TEXT_LIMIT

BUCKETS = 2**11
"""Number of buckets that words are hashed into."""

WORD = re.compile(r"\w+(?:['’-]\w+)*")
DIGIT = re.compile(r"\d")
_FIRST_LABEL = re.compile(r"(?:(?<=\s)|^)(?:\(A\)|A\))\s|^[ \t]*A[.:]\s", re.I | re.M)


@dataclass(frozen=True, slots=True)
class QuestionText:
    """A question split into stem and options."""

    stem: str  # The question without its options
    options: tuple[str, ...] = ()  # The options; empty for an open question

    @property
    def whole(self) -> str:
        """Stem and options, one per line."""
        return "\n".join((self.stem, *self.options))


def split_question(text: str) -> QuestionText:
    """Split a question into stem and options; a long one is first cut to its two ends."""
    if len(text) > TEXT_LIMIT:
        text = f"{text[: TEXT_LIMIT // 2]}\n{text[-TEXT_LIMIT // 2 :]}"
    options = parse_options(text)
    if not options:
        return QuestionText(text)
    starts = [label.start() for label in _FIRST_LABEL.finditer(text)]
    stem = text[: starts[-1]] if starts else text
    return QuestionText(stem.strip() or text, tuple(option.text for option in options))


def format_question(question: QuestionText) -> str:
    """Format a question as a user would type it: the stem, then the options with letters."""
    lines = [
        f"{letter}. {text}" for letter, text in zip(ascii_uppercase, question.options, strict=False)
    ]
    return "\n".join((question.stem, *lines)).strip() or "?"


def hash_word(word: str) -> int:
    """Compute the bucket of a word: CRC-32 of its case-folded UTF-8, modulo ``BUCKETS``.

    CRC-32 is the same on every machine and in every release, unlike ``hash``, and its low bits
    spread short words evenly. It does not protect against words crafted to collide; those would
    only make a prediction worse.
    """
    return crc32(word.casefold().encode("utf-8", "surrogatepass")) % BUCKETS


def count_terms(question: QuestionText) -> dict[int, int]:
    """Count the words of a question by bucket."""
    counts: dict[int, int] = {}
    for word in WORD.findall(question.whole):
        bucket = hash_word(word)
        counts[bucket] = counts.get(bucket, 0) + 1
    return counts


def tf_idf(counts: Mapping[int, int], idf: Sequence[float]) -> dict[int, float]:
    """Compute (1 + ln count) * idf per bucket, scaled to length 1; empty without words."""
    weighted = {bucket: (1 + math.log(n)) * idf[bucket] for bucket, n in counts.items()}
    length = math.sqrt(sum(value * value for value in weighted.values()))
    return {bucket: value / length for bucket, value in weighted.items()} if length else {}
