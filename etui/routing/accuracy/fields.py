"""Tell the field of a question from its words, by a classifier that ships with etui.

``mmlu_fields.bin`` is linear over hashed words and their first letters, trained on the dev and val
questions of MMLU by ``docs/generate.py``; ``mmlu_fields.md`` has its licence and how good it is.
A prediction is plain Python and touches only the words of the question: the weights of a bucket are
one integer with a lane of 32 bits for each field, so one multiplication weighs all fields at once.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING
from zlib import crc32

from etui.routing.signals.question_words import WORD, QuestionText

if TYPE_CHECKING:
    from etui.stats.arrays import Floats

FIELD_BUCKETS = 10_240
FILE = "mmlu_fields.bin"
LEAST_SHARE = 0.005
"""Probability below which a field is left out, which saves most of the sums over fields."""
_PREFIX = 5
_LANE_BYTES = 4
_ONE = 4095
"""Integer for a tf-idf of 1; a lane holds the sum over thousands of words."""
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
    """The classifier of one file."""

    names: tuple[str, ...]
    bias: tuple[float, ...]  # Score of each field for a question without words
    step: float  # Weight of one step of a byte
    sharpness: float  # Factor of the scores in the softmax
    idf: tuple[float, ...]  # Inverse document frequency of each bucket
    weights: bytes  # A byte for each bucket and field, bucket after bucket; `_ZERO` is 0
    sha256: str  # Identifies the file

    def predict(self, question: QuestionText) -> tuple[float, ...]:
        """Predict the probability of each field; they sum to 1, and unlikely ones are 0."""
        idf = self.idf
        weighted = {
            bucket: (1 + math.log(n)) * idf[bucket]
            for bucket, n in count_field_terms(question).items()
        }
        length = math.sqrt(sum(value * value for value in weighted.values())) or 1.0
        width = len(self.names)
        lanes = bytearray(width * _LANE_BYTES)
        total = words = 0
        for bucket, value in weighted.items():
            amount = round(_ONE * value / length)
            lanes[::_LANE_BYTES] = self.weights[bucket * width : (bucket + 1) * width]
            total += amount * int.from_bytes(lanes, "little")
            words += amount
        sums = struct.unpack(f"<{width}I", total.to_bytes(width * _LANE_BYTES, "little"))
        scale = self.sharpness * self.step / _ONE
        scores = [
            scale * (value - _ZERO * words) + self.sharpness * start
            for value, start in zip(sums, self.bias, strict=True)
        ]
        largest = max(scores)
        raised = [math.exp(score - largest) for score in scores]
        least = LEAST_SHARE * sum(raised)
        kept = [value if value >= least else 0.0 for value in raised]
        whole = sum(kept)
        return tuple(value / whole for value in kept)


def parse_classifier(raw: bytes) -> FieldClassifier:
    """Parse the bytes of a classifier file: a line of JSON, the idf bytes, the weight bytes.

    Raises:
        ValueError: The bytes are not such a file.
    """
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
    return parse_classifier(files("etui.routing.accuracy").joinpath(FILE).read_bytes())


def predict_fields(questions: Sequence[QuestionText]) -> Floats:
    """Predict the probability of each field of many questions, shape (questions, fields)."""
    import numpy as np

    classifier = load_classifier()
    return np.asarray([classifier.predict(question) for question in questions], dtype=np.float64)
