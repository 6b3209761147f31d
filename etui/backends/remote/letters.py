"""Read the option letters of a multiple choice from the alternatives of the first token."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etui.backends.remote.pieces import TokenProbability
from etui.multiple_choice import Option
from etui.reasoning.option_logits import LetterReading


def read_letters(first: TokenProbability | None, options: Sequence[Option]) -> LetterReading | None:
    """Read the probabilities of the letters, summed over the tokens ``A`` and `` A``.

    A letter that is not among the alternatives has a probability below all of theirs, and counts
    as 0.

    Args:
        first: The first token with its alternatives; None if the server gave none.

    Returns:
        None if no letter is among the alternatives.
    """
    if first is None:
        return None
    sums = {option.letter: 0.0 for option in options}
    seen = dict(first.top)
    seen.setdefault(first.piece, first.logprob)
    for piece, logprob in seen.items():
        letter = bytes(piece).decode("utf-8", "replace").strip()
        if letter in sums:
            sums[letter] += math.exp(logprob)
    mass = math.fsum(sums.values())
    if mass <= 0.0:
        return None
    shares = tuple((letter, p / mass) for letter, p in sums.items())
    return LetterReading(shares, min(1.0, mass))
