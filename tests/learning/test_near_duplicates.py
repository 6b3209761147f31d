"""Near-duplicates by an index are those that comparing all pairs finds."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.learning import logged_cases as near_duplicates
from etui.learning.logged_cases import (
    NearDuplicates,
    compute_likeness,
    count_trigrams,
    find_trigrams,
)

TEXT = st.text(alphabet="ab c.", max_size=24)


def keep_by_all_pairs(texts: list[str], threshold: float) -> list[bool]:
    kept: list[frozenset[str]] = []
    found = []
    for text in texts:
        shape = find_trigrams(text)
        found.append(all(compute_likeness(shape, other) < threshold for other in kept))
        if found[-1]:
            kept.append(shape)
    return found


@given(st.lists(TEXT, max_size=40), st.sampled_from([0.01, 0.3, 0.5, 0.8, 0.9, 1.0]))
def test_random_texts_are_kept_as_by_all_pairs(texts: list[str], threshold: float) -> None:
    expected = keep_by_all_pairs(texts, threshold)
    for frequencies in (count_trigrams(texts), count_trigrams(texts[:2]), Counter()):
        index = NearDuplicates(threshold, frequencies)
        assert [index.add(text) for text in texts] == expected


def test_edited_questions_are_kept_as_by_all_pairs() -> None:
    draw = random.Random(3)
    words = [f"word{draw.randrange(10**4)}" for _ in range(60)]
    texts: list[str] = []
    for _ in range(300):
        if texts and draw.random() < 0.6:
            asked = draw.choice(texts).split()
            asked[draw.randrange(len(asked))] = draw.choice(words)
        else:
            asked = draw.choices(words, k=draw.randint(1, 14))
        texts.append(" ".join(asked))
    index = NearDuplicates(0.8, count_trigrams(texts))
    expected = keep_by_all_pairs(texts, 0.8)
    assert [index.add(text) for text in texts] == expected
    assert 20 < expected.count(False) < 280


def test_few_texts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons grow with the number of texts, not with the number of pairs."""
    draw = random.Random(1)
    words = [f"{draw.randrange(10**6):x}" for _ in range(4000)]
    texts = [" ".join(draw.choices(words, k=12)) + "?" for _ in range(1500)]
    compared = 0

    def count(one: frozenset[str], other: frozenset[str]) -> float:
        nonlocal compared
        compared += 1
        return compute_likeness(one, other)

    monkeypatch.setattr(near_duplicates, "compute_likeness", count)
    index = NearDuplicates(0.8, count_trigrams(texts[:500]))
    for text in texts:
        index.add(text)
    assert compared < 100 * len(texts)
