"""Compile a signal of a policy file: what it looks at, and what that has to be."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from etui.routing.schema.signals import MetadataEntry, SignalEntry
from etui.routing.signals.kinds import (
    HostNumber,
    Keyword,
    Keywords,
    Language,
    MeasuredText,
    MetadataExists,
    MetadataPattern,
    MetadataValue,
    Nearest,
    OnBattery,
    Pattern,
    Resident,
    Score,
    Signal,
    SignalKind,
)
from etui.routing.signals.ranges import Bound, Word
from etui.routing.signals.similarity import NeighbourQuery
from etui.routing.signals.text_measures import MEASURES


def compile_regex(text: str) -> Any:
    """Compile a regular expression whose matching can be given a timeout.

    Raises:
        ValueError: The text is not a valid regular expression; the message says why and where.
    """
    import regex

    try:
        with warnings.catch_warnings():
            # Silences warnings about syntax that may change its meaning in later versions.
            warnings.simplefilter("ignore")
            return regex.compile(text)
    except regex.error as error:
        raise ValueError(f"invalid regular expression: {error}") from None
    except (OverflowError, RecursionError, MemoryError, ValueError, IndexError, KeyError) as error:
        # The package's parser lets these escape on malformed input.
        raise ValueError(f"invalid regular expression: {error}") from None


def find_literal_prefix(pattern: str) -> str:
    """Return a literal prefix of every match of a pattern; it may be empty.

    The result is empty for patterns with alternatives, flags or groups of the ``(?`` kind.
    """
    if "|" in pattern or "(?" in pattern:
        return ""
    plain = re.match(r"[A-Za-z0-9 _]*", pattern)
    assert plain is not None
    optional = pattern[plain.end() : plain.end() + 1] in ("?", "*", "{")
    return plain[0][:-1] if optional else plain[0]


def compile_signal(
    name: str, entry: SignalEntry, roles: Mapping[str, tuple[str, ...]]
) -> tuple[Signal, ...]:
    """Compile one signal of the file; a score with bands yields one signal for each band."""
    kind = entry.kind
    test: Bound | Word
    if entry.bands is not None:
        score = _compile_kind(entry)
        return tuple(
            Signal(f"{name}.{band}", score, _compile_bound(ends.given()))
            for band, ends in entry.bands.items()
        )
    if entry.language is not None:
        test = Word(entry.language, frozenset({entry.language}))
    elif entry.host == "on_battery":
        test = Word("yes", frozenset({"yes"}))
    elif entry.metadata is not None:
        test = _compile_metadata_test(entry.metadata)
    elif entry.equals is not None:
        test = Word(entry.equals, frozenset(roles.get(entry.equals, (entry.equals,))))
    else:
        given = getattr(entry, kind).given() if kind in MEASURES else entry.given()
        test = _compile_bound(given or {"at_least": 1.0}, wraps=entry.host == "hour")
    return (Signal(name, _compile_kind(entry), test),)


def _compile_metadata_test(entry: MetadataEntry) -> Word:
    """Compile what a value of the metadata has to be; a pattern and ``exists`` give ``yes``."""
    if entry.equals is not None:
        return Word(entry.equals, frozenset({entry.equals}))
    if entry.one_of is not None:
        return Word(" or ".join(entry.one_of), frozenset(entry.one_of))
    return Word("yes", frozenset({"yes"}))


def _compile_bound(given: Mapping[str, float], *, wraps: bool = False) -> Bound:
    end = given.get
    return Bound(end("at_least"), end("above"), end("at_most"), end("below"), wraps)


def _compile_kind(entry: SignalEntry) -> SignalKind:
    if entry.keywords is not None:
        return Keywords(tuple(_compile_keyword(word) for word in entry.keywords))
    if entry.regex is not None:
        return Pattern(compile_regex(entry.regex), find_literal_prefix(entry.regex))
    if entry.language is not None:
        return Language()
    if entry.score is not None:
        return Score(tuple(entry.score.items()))
    if entry.nearest is not None:
        nearest = entry.nearest
        was = nearest.was if nearest.of == "log" else nearest.was or "wrong"
        return Nearest(NeighbourQuery(nearest.of, nearest.by, was, nearest.k))
    if entry.metadata is not None:
        found = entry.metadata
        if found.matches is not None:
            return MetadataPattern(found.key, compile_regex(found.matches))
        return MetadataExists(found.key) if found.exists else MetadataValue(found.key)
    if entry.host == "on_battery":
        return OnBattery()
    if entry.host == "resident":
        return Resident()
    if entry.host is not None:
        return HostNumber(entry.host)
    return MeasuredText(entry.kind)


def _compile_keyword(word: str) -> Keyword:
    folded = " ".join(word.casefold().split())
    before = r"(?<!\w)" if _has_word_edges(folded[0]) else ""
    after = r"(?!\w)" if _has_word_edges(folded[-1]) else ""
    alone: Callable[[str], object] = re.compile(before + re.escape(folded) + after).search
    return Keyword(word, folded, alone)


def _has_word_edges(letter: str) -> bool:
    """Check whether the script of a letter separates words by spaces (Han, kana, Thai do not)."""
    unspaced = "\u0e00" <= letter <= "\u0eff" or "\u2e80" <= letter <= "\ua4cf"
    return (letter.isalnum() or letter == "_") and not unspaced
