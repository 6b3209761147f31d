"""Read the letters of a multiple choice from the logits, without decoding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etui.engine.session import Session, TokenSequence
from etui.multiple_choice import Option, parse_options

LetterTokens = Mapping[str, tuple[int, ...]]
"""The single tokens that spell a letter, by letter."""


@dataclass(frozen=True, slots=True)
class LetterReading:
    """Probabilities of the option letters as the next token."""

    probabilities: tuple[tuple[str, float], ...]
    """Pairs of letter and probability among the letters, in their order; sums to 1."""
    mass: float
    """Probability of all letters together under the full softmax; near 0, the model would write
    something else."""

    @property
    def best(self) -> tuple[str, float]:
        """The most likely letter and its probability; of equal ones the first."""
        return max(self.probabilities, key=lambda letter: letter[1])

    @property
    def margin(self) -> float:
        """Lead of the most likely letter over the second, 0..1."""
        first, second = sorted((p for _, p in self.probabilities), reverse=True)[:2]
        return first - second


LETTER_LEAD = "\nFinal answer:"
"""Text between a free answer and the letter that is read behind it.

A bare ``Answer:`` reads as the begin of another answer: of 19 letters that qwen2.5-coder-0.5b had
stated before its text was cut, 16 were read again behind it, and all 19 behind this text.
"""


@dataclass(frozen=True, slots=True)
class LetterBehind:
    """How the letter behind a free answer is read."""

    tokens: LetterTokens
    lead: tuple[int, ...]  # Tokens of :data:`LETTER_LEAD`

    @property
    def most_tokens(self) -> int:
        """Tokens of the context that it takes, with the one that the last step draws."""
        return len(self.lead) + 1


def plan_letter(session: Session, question: str) -> LetterBehind | None:
    """Plan the letter behind a free answer; None if the question has none to read."""
    options = parse_options(question)
    tokens = letter_tokens(session, options) if options else None
    return None if tokens is None else LetterBehind(tokens, tuple(session.tokenize(LETTER_LEAD)))


def split_letter(answer: str) -> tuple[str, str | None]:
    """Split an answer into its free text and the letter read behind it; None without one."""
    text, lead, letter = f"\n{answer}".rpartition(f"{LETTER_LEAD} ")
    if not lead or len(letter) != 1:
        return answer, None
    return text.strip(), letter


def letter_tokens(session: Session, options: Sequence[Option]) -> LetterTokens | None:
    """Find the tokens ``A`` and `` A`` of each letter; None if a letter is not a single token."""
    found: dict[str, tuple[int, ...]] = {}
    for option in options:
        forms = [session.tokenize(f"{space}{option.letter}", special=False) for space in (" ", "")]
        found[option.letter] = tuple(dict.fromkeys(form[0] for form in forms if len(form) == 1))
    taken = [token for tokens in found.values() for token in tokens]
    return found if all(found.values()) and len(set(taken)) == len(taken) else None


def read_letters(session: Session, sequence: TokenSequence, tokens: LetterTokens) -> LetterReading:
    """Read the letters' probabilities after the sequence's last step, summed over both forms."""
    flat = [token for forms in tokens.values() for token in forms]
    logprobs = dict(zip(flat, session.logprobs(sequence, flat), strict=True))
    sums = {
        letter: math.fsum(math.exp(logprobs[token]) for token in forms)
        for letter, forms in tokens.items()
    }
    mass = math.fsum(sums.values())
    if mass > 0.0:
        shares = tuple((letter, p / mass) for letter, p in sums.items())
    else:  # every letter underflowed: compare log-probabilities
        best = {letter: max(logprobs[token] for token in forms) for letter, forms in tokens.items()}
        top = max(best.values())
        scaled = {letter: math.exp(value - top) for letter, value in best.items()}
        whole = math.fsum(scaled.values())
        shares = tuple((letter, value / whole) for letter, value in scaled.items())
    return LetterReading(shares, min(1.0, mass))


def format_option(letter: str, options: Sequence[Option]) -> str:
    """Format an option as an answer: ``B) Mars``."""
    text = next(option.text for option in options if option.letter == letter)
    return f"{letter}) {text}".rstrip()
