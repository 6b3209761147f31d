"""Questions of the page as JSON: every arm's answer, and the texts if they are available."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from etui.bench.analysis.accuracy import OUTCOMES, classify_outcome
from etui.bench.store.sample import Sample
from etui.datasets.questions import Question
from etui.measure.page import embed_json
from etui.text import sanitize, shorten

_MOST_CHARACTERS = 4000
_MOST_LINES = 80

Texts = Mapping[tuple[str, int], Question]


def questions_json(grouped: Mapping[str, Sequence[Sample]], texts: Texts | None) -> Markup:
    """Build the questions by subject and row, for a ``script`` element.

    Each question is ``[subject, row, right letter, text, choices, answers]``. Each answer (one per
    arm, null if the arm has none) is ``[choice, outcome, joules, seconds, output tokens,
    probabilities, text, arms of the cascade, error]``. Arrays without keys keep the page small,
    since a run may have 14,042 questions.

    Args:
        texts: (subject, row) -> question; None leaves the texts out.
    """
    keys = sorted(
        {(sample.subject, sample.row) for inside in grouped.values() for sample in inside}
    )
    answers = [
        {(sample.subject, sample.row): sample for sample in inside} for inside in grouped.values()
    ]
    rows = []
    for subject, row in keys:
        samples = [inside.get((subject, row)) for inside in answers]
        question = texts.get((subject, row)) if texts else None
        right = next(sample.answer for sample in samples if sample is not None)
        rows.append(
            [
                sanitize(subject),
                row,
                right,
                _short(question.text) if question else None,
                [_short(choice) for choice in question.choices] if question else None,
                [None if sample is None else _answer(sample) for sample in samples],
            ]
        )
    return embed_json(rows)


def _answer(sample: Sample) -> list[Any]:
    probabilities = None
    if sample.logprobs:
        # Whole answers have tiny probabilities, so their shares of the sum are shown.
        alone = sample.letter_mass is None
        top = max(sample.logprobs.values()) if alone else 0.0
        shares = {letter: math.exp(value - top) for letter, value in sample.logprobs.items()}
        whole = sum(shares.values()) if alone else 1.0
        probabilities = [round(shares[letter] / whole, 4) for letter in sorted(shares)]
    return [
        sample.choice,
        OUTCOMES.index(classify_outcome(sample)),
        None if sample.joules is None else float(f"{sample.joules:.3g}"),
        float(f"{sample.seconds:.3g}"),
        sample.tokens.output,
        probabilities,
        _short(sample.text) or None,
        sanitize(" → ".join([*sample.hops, sample.arm])) if sample.hops or sample.rule else None,
        sanitize(sample.error) if sample.error else None,
    ]


def _short(text: str) -> str:
    kept, left_out = shorten(sanitize(text.strip()), _MOST_CHARACTERS, _MOST_LINES)
    return f"{kept} … ({left_out:,} more characters)" if left_out else kept
