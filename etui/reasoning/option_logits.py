"""The letters of a multiple choice as the next token: what would be answered, undecoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etui.engine.session import Session, TokenSequence
from etui.multiple_choice import Option

LetterTokens = Mapping[str, tuple[int, ...]]
"""Letter -> the single tokens that write it."""


@dataclass(frozen=True, slots=True)
class LetterReading:
    """Probabilities of the option letters as the next token.

    Attributes:
        probabilities: Letter -> probability among the letters, in their order; sums to 1.
        mass: Probability of all letters together under the full softmax: near 0 the model was
            about to write something else.
    """

    probabilities: tuple[tuple[str, float], ...]
    mass: float

    @property
    def best(self) -> tuple[str, float]:
        """The likeliest letter, of equal ones the first."""
        return max(self.probabilities, key=lambda letter: letter[1])

    @property
    def margin(self) -> float:
        """What the likeliest letter is ahead of the next, 0..1."""
        first, second = sorted((p for _, p in self.probabilities), reverse=True)[:2]
        return first - second


def letter_tokens(session: Session, options: Sequence[Option]) -> LetterTokens | None:
    """The tokens ``A`` and `` A`` of each letter; None where a letter is no single token.

    Both forms are read: which one a model writes after a colon depends on its vocabulary.
    """
    found: dict[str, tuple[int, ...]] = {}
    for option in options:
        forms = [session.tokenize(f"{space}{option.letter}", special=False) for space in (" ", "")]
        found[option.letter] = tuple(dict.fromkeys(form[0] for form in forms if len(form) == 1))
    taken = [token for tokens in found.values() for token in tokens]
    return found if all(found.values()) and len(set(taken)) == len(taken) else None


def read_letters(session: Session, sequence: TokenSequence, tokens: LetterTokens) -> LetterReading:
    """The letters' probabilities after the sequence's last step, both forms of each added up."""
    flat = [token for forms in tokens.values() for token in forms]
    logprobs = dict(zip(flat, session.logprobs(sequence, flat), strict=True))
    sums = {
        letter: math.fsum(math.exp(logprobs[token]) for token in forms)
        for letter, forms in tokens.items()
    }
    mass = math.fsum(sums.values())
    if mass > 0.0:
        shares = tuple((letter, p / mass) for letter, p in sums.items())
    else:  # every letter underflowed: compare what is left of them
        best = {letter: max(logprobs[token] for token in forms) for letter, forms in tokens.items()}
        top = max(best.values())
        scaled = {letter: math.exp(value - top) for letter, value in best.items()}
        whole = math.fsum(scaled.values())
        shares = tuple((letter, value / whole) for letter, value in scaled.items())
    return LetterReading(shares, min(1.0, mass))
