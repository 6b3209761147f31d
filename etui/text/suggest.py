"""Suggest names for one that does not exist, in the words of an error message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches

_CUTOFF = 0.6
_CLOSE = 0.1
"""A second name is suggested where it is nearly as similar as the first."""

_MOST_CHARACTERS = 100


def find_nearest(
    word: str, names: Iterable[str], *, most: int = 1, cutoff: float = _CUTOFF
) -> list[str]:
    """Find the names that are most like a word.

    Args:
        word: What was given; case matters.
        names: What exists.
        most: How many to return at most.
        cutoff: Least similarity, from 0 to 1.

    Returns:
        The names, the most similar first.
    """
    return get_close_matches(word, list(names), n=most, cutoff=cutoff)


def format_suggestion(names: Sequence[str], *, quoted: bool = True) -> str:
    """Write ``did you mean 'a' or 'b'?``; an empty text without names."""
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
    """Write ``did you mean 'a'?`` for the nearest names; an empty text where none is near."""
    return format_suggestion(find_nearest(word, names, most=most, cutoff=cutoff), quoted=quoted)


def did_you_mean(word: str, names: Iterable[str], *, listed: int = 8) -> str:
    """Continue a sentence about an unknown word, whatever its case.

    Args:
        word: What was given.
        names: What exists.
        listed: Up to how many names are listed where none is near.

    Returns:
        ``, did you mean 'x'?`` for the nearest names, the whole short list, or an empty text.
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
