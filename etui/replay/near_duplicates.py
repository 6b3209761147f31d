"""Find texts that are nearly the same as an earlier one, without comparing each with all others.

Texts are compared by their sets of trigrams. Let two sets have a Jaccard index of at least t: they
then share ceil(t n) members at least, with n the size of either. If both are sorted in the same
way, k of them are among the first n - ceil(t n) + k of each. With the rarest trigrams first, few
other sets share k of those, and only they are compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain

_COMPARED_CHARACTERS = 1000
_WORD = re.compile(r"\w+")
_SHARED = 6
"""How many rare trigrams two texts share that are compared (k)."""


class NearDuplicates:
    """The texts of one kind that were kept so far.

    Args:
        threshold: Jaccard index from which two texts are nearly the same, above 0 and at most 1.
        frequencies: How often each trigram occurs, about: it decides only how fast a text is found.
    """

    def __init__(self, threshold: float, frequencies: Counter[str]) -> None:
        self._threshold = threshold
        self._frequencies = frequencies
        self._kept: list[frozenset[str]] = []
        self._by_trigram: dict[str, list[int]] = {}

    def add(self, text: str) -> bool:
        """Keep a text, unless one that was kept is nearly the same; return whether it was kept."""
        shape = find_trigrams(text)
        size = len(shape)
        # One less than the bound, which is computed in floating point.
        alike = max(1, math.ceil(self._threshold * size) - 1)
        rarest = sorted(shape, key=lambda trigram: (self._frequencies[trigram], trigram))
        first = rarest[: size - alike + _SHARED]
        near = Counter(chain.from_iterable(self._by_trigram.get(each, ()) for each in first))
        for at, shared in near.items():
            enough = shared >= min(_SHARED, alike)
            if enough and compute_likeness(shape, self._kept[at]) >= self._threshold:
                return False
        for each in first:
            self._by_trigram.setdefault(each, []).append(len(self._kept))
        self._kept.append(shape)
        return True


def count_trigrams(texts: Iterable[str]) -> Counter[str]:
    """Count in how many texts each trigram occurs."""
    return Counter(trigram for text in texts for trigram in find_trigrams(text))


def find_trigrams(text: str) -> frozenset[str]:
    """Return the trigrams of the beginning of a text, without case and punctuation."""
    folded = text[:_COMPARED_CHARACTERS].casefold()
    letters = f"  {' '.join(_WORD.findall(folded)) or ' '.join(folded.split())} "
    return frozenset(letters[at : at + 3] for at in range(len(letters) - 2))


def compute_likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Compute the Jaccard index of two sets that are not empty, 0..1."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
