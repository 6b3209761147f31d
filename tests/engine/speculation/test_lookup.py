"""Lookup finds what followed before, in any text, after any rollback."""

from __future__ import annotations

import random

import pytest

from etui.engine.speculation.speculator import LONGEST_MATCH, LookupIndex, Match, continue_match


def slow_find(tokens: list[int]) -> int:
    """Length of the longest match by comparing every place; 0 for less than two tokens."""
    best = 0
    for end in range(1, len(tokens)):
        length = 0
        while length < min(end, LONGEST_MATCH) and tokens[end - 1 - length] == tokens[-1 - length]:
            length += 1
        best = max(best, length)
    return best if best >= 2 else 0


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_match_is_found(seed):
    rng = random.Random(seed)
    tokens: list[int] = []
    index = LookupIndex()
    for _ in range(150):
        if len(tokens) > 20 and rng.random() < 0.2:  # repeat a part
            start = rng.randrange(len(tokens) - 8)
            tokens += tokens[start : start + 8]
        tokens.append(rng.randrange(30))
        found = index.find(tokens)
        assert (found.length if found else 0) == slow_find(tokens)
        if found:
            assert tokens[found.end - found.length : found.end] == tokens[-found.length :]


def test_of_equal_matches_the_latest_counts():
    tokens = [1, 2, 3, 9, 1, 2, 4, 9, 8, 1, 2]
    assert LookupIndex().find(tokens) == Match(6, 2)


@pytest.mark.parametrize("tokens", [[], [5], [5, 6], [1, 2, 3, 4]])
def test_nothing_is_found_where_nothing_repeats(tokens):
    assert LookupIndex().find(tokens) is None


def test_removed_tokens_are_never_matched():
    index = LookupIndex()
    tokens = [1, 2, 3, 4, 5, 1, 2]
    assert index.find(tokens) == Match(2, 2)
    del tokens[1:]
    index.truncate(1)
    tokens += [7, 7, 9, 1, 2]
    assert index.find(tokens) is None
    tokens += [8, 7, 7]
    assert index.find(tokens) == Match(3, 2)


def test_a_match_that_reaches_the_end_goes_on_in_a_circle():
    tokens = [9, 1, 2, 3, 1, 2, 3]
    match = LookupIndex().find(tokens)
    assert match is not None
    assert continue_match(tokens, match, 7) == [1, 2, 3, 1, 2, 3, 1]


def test_a_continuation_is_what_followed():
    tokens = [1, 2, 3, 4, 5, 6, 1, 2]
    assert continue_match(tokens, Match(2, 2), 3) == [3, 4, 5]
