"""Light features of a question, the inputs of the fitted heads in addition to its words.

All features are counted from the text in plain Python, so a decision loads no library for them. A
multiple-choice question is first split into stem and options, so that a question of a bench run
and the same question typed into the chat get the same features.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING
from zlib import crc32

from etui.routing.text_measures import DIGIT, WORD, QuestionText

if TYPE_CHECKING:
    from etui.stats.arrays import Floats


FIELD_BUCKETS = 10_240
FILE = "mmlu_fields.bin"

LEAST_SHARE = 0.005
"""Probability below which a field is left out, which saves most of the sums over fields."""

_PREFIX = 5

_ONE = 4095
"""Integer for a tf-idf of 1."""

_ZERO = 128
"""Byte in the file for a weight of 0."""


def count_field_terms(question: QuestionText) -> dict[int, int]:
    """Count the words of a question, and the beginnings of the longer ones, by bucket."""
    counts: dict[int, int] = {}
    for word in WORD.findall(question.whole.casefold()):
        terms = (word, "^" + word[:_PREFIX]) if len(word) > _PREFIX else (word,)
        for term in terms:
            bucket = crc32(term.encode("utf-8", "surrogatepass")) % FIELD_BUCKETS
            counts[bucket] = counts.get(bucket, 0) + 1
    return counts


@dataclass(frozen=True, slots=True)
class FieldClassifier:
    """Tells the field of a question: linear over hashed words and their first letters.

    ``mmlu_fields.md`` says what it is trained on, its licence and how good it is.
    """

    names: tuple[str, ...]
    bias: tuple[float, ...]  # Score of each field for a question without words
    step: float  # Weight of one step of a byte
    sharpness: float  # Factor of the scores in the softmax
    idf: tuple[float, ...]  # Inverse document frequency of each bucket
    weights: bytes  # A byte for each bucket and field, bucket after bucket; `_ZERO` is 0
    sha256: str  # Identifies the file

    def predict(self, question: QuestionText) -> tuple[float, ...]:
        """Predict the probability of each field; they sum to 1, and unlikely ones are 0."""
        import numpy as np

        idf = self.idf
        weighted = {
            bucket: (1 + math.log(n)) * idf[bucket]
            for bucket, n in count_field_terms(question).items()
        }
        length = math.sqrt(sum(value * value for value in weighted.values())) or 1.0
        values = np.fromiter(weighted.values(), np.float64) / length
        amounts = np.rint(_ONE * values).astype(np.int64)  # in steps, so that no order matters
        table = np.frombuffer(self.weights, np.uint8).reshape(FIELD_BUCKETS, len(self.names))
        rows = table[np.fromiter(weighted, np.int64)].astype(np.int64) - _ZERO
        scale = self.sharpness * self.step / _ONE
        scores = scale * (amounts @ rows) + self.sharpness * np.asarray(self.bias)
        raised = np.exp(scores - scores.max())
        kept = np.where(raised >= LEAST_SHARE * raised.sum(), raised, 0.0)
        return tuple((kept / kept.sum()).tolist())


def parse_classifier(raw: bytes) -> FieldClassifier:
    """Parse a line of JSON, the idf bytes, the weight bytes; ValueError for anything else."""
    line, _, body = raw.partition(b"\n")
    head = json.loads(line)
    names = tuple(head["names"])
    if head["version"] != 1 or len(body) != FIELD_BUCKETS * (1 + len(names)):
        raise ValueError("is not a classifier of fields, or of another version")
    idf = tuple(1 + head["idf_step"] * byte for byte in body[:FIELD_BUCKETS])
    return FieldClassifier(
        names,
        tuple(head["bias"]),
        head["step"],
        head["sharpness"],
        idf,
        body[FIELD_BUCKETS:],
        sha256(raw).hexdigest(),
    )


@cache
def load_classifier() -> FieldClassifier:
    """Load the classifier that ships with etui; it is read once."""
    return parse_classifier(files("etui.learning").joinpath(FILE).read_bytes())


def predict_fields(questions: Sequence[QuestionText]) -> Floats:
    """Predict the probability of each field of many questions, shape (questions, fields)."""
    import numpy as np

    classifier = load_classifier()
    return np.asarray([classifier.predict(question) for question in questions], dtype=np.float64)


LEAF = 255
"""Number in place of a column: the node is a leaf."""

WORD_ZERO = 2**15
"""Number in the file for a weight of 0 of a word."""

VALUE_STEPS = 8192.0
"""Steps per unit of the values in the leaves."""

LEAST_P = 0.01
"""How far p is kept away from 0 and 1 before it is calibrated: no forest knows more than that."""

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
