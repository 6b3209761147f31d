"""Streamed text: however the bytes are cut, the same text comes out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.engine.special_tokens import TextStream

ALPHABET = st.sampled_from("ab<>/hé漢🙂\n")
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    marks = sorted({min(mark, len(data)) for mark in at} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


def streamed(pieces: list[bytes], stops: list[str]) -> tuple[str, str | None, str]:
    stream = TextStream(stops)
    text = "".join(stream.push(piece) for piece in pieces)
    text += stream.finish()
    return text, stream.stopped, stream.remainder


@given(st.text(ALPHABET, max_size=40), STOPS, st.lists(st.integers(0, 120)))
def test_any_cut_gives_the_same_text(text, stops, at):
    data = text.encode()
    whole = streamed([data], stops)
    assert streamed(cut(data, at), stops) == whole
    assert streamed([bytes([byte]) for byte in data], stops) == whole


@given(st.binary(max_size=60), STOPS, st.lists(st.integers(0, 60)))
def test_any_cut_of_any_bytes_gives_the_same_text(data, stops, at):
    assert streamed(cut(data, at), stops) == streamed([data], stops)


@given(st.text(max_size=40), STOPS)
def test_text_stop_and_rest_are_the_input(text, stops):
    shown, stopped, remainder = streamed([text.encode("utf-8", "replace")], stops)
    readable = text.encode("utf-8", "replace").decode()
    assert shown + (stopped or "") + remainder == readable
    assert all(stop not in shown for stop in stops)
    assert (stopped is None) == all(stop not in readable for stop in stops)


@given(st.text(ALPHABET, max_size=40), STOPS)
def test_nothing_is_held_longer_than_needed(text, stops):
    stream = TextStream(stops)
    shown = stream.push(text.encode())
    held = text[len(shown) :]
    if stream.stopped is None:
        assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_character_appears_whole_or_not_at_all(missing):
    stream = TextStream()
    assert stream.push("🙂".encode()[:-missing]) == ""
    assert stream.push("🙂".encode()[-missing:]) == "🙂"


def test_an_unfinished_character_is_marked_at_the_end():
    stream = TextStream()
    assert stream.push(b"a\xf0\x9f") == "a"
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
