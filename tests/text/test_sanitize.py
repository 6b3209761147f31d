"""What is shown of text that wants more than to be read."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.text import sanitize, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[2J", "␛[2J"),
        ("a\r\nb\rc", "a\nb␍c"),
        ("\x00\x7f\x9b", "␀␡�"),
        ("abc\u202ecba", "abc�cba"),
        ("one\u2028two", "one\ntwo"),
        ("\ud800", "�"),
        ("naïve 日本 👩‍💻 שלום", "naïve 日本 👩‍💻 שלום"),
    ],
)
def test_control_characters_become_symbols(text, shown):
    assert sanitize(text) == shown


@given(st.text())
def test_nothing_a_terminal_obeys_is_left(text):
    shown = sanitize(text)
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") for c in shown)
    assert sanitize(shown) == shown


@given(st.text(alphabet="ab\n"), st.integers(1, 20), st.integers(1, 5))
def test_a_long_text_is_cut_and_says_by_how_much(text, characters, lines):
    kept, left_out = shorten(text, characters, lines)
    assert len(kept) <= characters
    assert kept.count("\n") < lines
    assert text.startswith(kept)
    assert left_out == len(text) - len(kept)
