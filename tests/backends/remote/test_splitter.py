"""Thinking and answer are separated alike, however the text is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.backends.remote.reply import ThinkingSplitter


def split(splitter: ThinkingSplitter, pieces: list[str]) -> tuple[str, str]:
    found = [*(splitter.push(piece) for piece in pieces), splitter.finish()]
    return "".join(thought for thought, _ in found), "".join(text for _, text in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>why</think>\n\n42", ("why", "42")),
        ("\n<think>why</think>42", ("why", "42")),
        ("42", ("", "42")),
        ("<thin", ("", "<thin")),
        ("<b>42</b> </think>", ("", "<b>42</b> </think>")),
        ("<think>never ends", ("never ends", "")),
        ("", ("", "")),
    ],
)
@given(data=st.data())
def test_tags_at_the_begin_are_thinking(
    text: str, expected: tuple[str, str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    bounds = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    assert split(ThinkingSplitter("</think>", "<think>"), pieces) == expected


@given(st.lists(st.text("ab Answer:\n", max_size=6), max_size=12))
def test_a_marker_ends_the_thinking_once(pieces: list[str]) -> None:
    thought, text = split(ThinkingSplitter("Answer:", thinks=True), pieces)
    whole = "".join(pieces)
    before, marker, after = whole.partition("Answer:")
    assert thought == before
    assert text.strip() == (after.strip() if marker else "")


def test_text_without_tags_is_the_answer() -> None:
    assert split(ThinkingSplitter(), ["<think>", "x"]) == ("", "<think>x")
