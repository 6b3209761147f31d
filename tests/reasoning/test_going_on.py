"""Where the text of an answer that was cut off ends in the bytes of its tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Message, OutputOptions, Query
from etui.reasoning.answer_plan import split_tail
from etui.turn.build_record import join_answer


@pytest.mark.parametrize(
    ("tail", "text", "found"),
    [
        (b"... is Paris.", "It is Paris.", None),
        (b"It is Paris. \n\n", "It is Paris.", ("It is Paris.", " \n\n", b"")),
        ("caf\u00e9".encode()[:-1], "caf\ufffd", ("caf", "", b"\xc3")),
        (b"one two", "one", None),
        (b"anything", "", None),
        (b"prompt <assistant>", "a vote that was counted", None),
    ],
)
def test_the_end_of_a_text_is_found_or_refused(
    tail: bytes, text: str, found: tuple[str, str, bytes] | None
) -> None:
    assert split_tail(tail, text) == found


@given(
    st.text(st.characters(codec="utf-8"), max_size=80),
    st.text(" \n\t", max_size=4),
    st.integers(0, 3),
)
def test_text_gap_and_cut_character_are_what_was_decoded(text: str, gap: str, cut: int) -> None:
    crab = "🦀".encode()[:cut]
    tail = text.encode() + gap.encode() + crab
    shown = tail.decode(errors="replace").strip()
    found = split_tail(tail, shown)
    if found is None:
        assert not shown.removesuffix("\ufffd").strip() or "\ufffd" in shown
        return
    kept, between, unfinished = found
    assert tail.endswith(between.encode() + unfinished)
    rejoined = kept.encode() + between.encode() + unfinished
    assert rejoined.decode(errors="replace").strip() == shown


def test_a_record_has_the_whole_answer_also_if_the_engine_gave_the_rest() -> None:
    plain = Query("Q?")
    assert join_answer(plain, "Answer.") == "Answer."
    going_on = replace(
        plain, last=Message("assistant", "It is"), options=OutputOptions(continues="t")
    )
    assert join_answer(going_on, "It is Paris.") == "It is Paris."
    assert join_answer(going_on, " Paris.") == "It is Paris."
    client = replace(going_on, options=OutputOptions())
    assert join_answer(client, " Paris.") == " Paris."
