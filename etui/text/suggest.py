"""Suggest names for one that does not exist, worded for an error message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches

_CUTOFF = 0.6
_CLOSE = 0.1
"""A second name is suggested too if its similarity is this close to the first name's."""

_MOST_CHARACTERS = 100


def find_nearest(
    word: str, names: Iterable[str], *, most: int = 1, cutoff: float = _CUTOFF
) -> list[str]:
    """Find the names that are most similar to a word.

    Args:
        word: The unknown name; case matters.
        most: The largest number of names to return.
        cutoff: Least similarity, from 0 to 1.

    Returns:
        The names, the most similar first.
    """
    return get_close_matches(word, list(names), n=most, cutoff=cutoff)


def format_suggestion(names: Sequence[str], *, quoted: bool = True) -> str:
    """Format ``did you mean 'a' or 'b'?``; an empty text without names."""
    shown = [repr(name) if quoted else name for name in names]
    return f"did you mean {' or '.join(shown)}?" if shown else ""


def suggest(
    word: str,
    names: Iterable[str],
    *,
    most: int = 1,
    cutoff: float = _CUTOFF,
    quoted: bool = True,
) -> str:
    """Format ``did you mean 'a'?`` for the nearest names; an empty text if none is near."""
    return format_suggestion(find_nearest(word, names, most=most, cutoff=cutoff), quoted=quoted)


def did_you_mean(word: str, names: Iterable[str], *, listed: int = 8) -> str:
    """Format the end of a sentence about an unknown word; case does not matter.

    Args:
        listed: If no name is near, list all of them when there are no more than this.

    Returns:
        ``, did you mean 'x'?`` for the nearest names, ``; known: a, b``, or an empty text.
    """
    known = sorted(set(names))
    folded = {name.casefold(): name for name in known}
    given = word.casefold()[:_MOST_CHARACTERS]
    near = find_nearest(given, folded, most=2)
    if near:
        best = SequenceMatcher(None, near[0], given).ratio()
        near = [n for n in near if SequenceMatcher(None, n, given).ratio() > best - _CLOSE]
        return ", did you mean " + " or ".join(f"'{folded[name]}'" for name in near) + "?"
    if known and len(known) <= listed:
        return "; known: " + ", ".join(known)
    return ""
