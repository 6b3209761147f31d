"""The prompt of a gap to fill, in the order of llama-server, whatever has to be left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.chat import Infill, Message, OutputOptions
from etui.engine.session import FillTokens
from etui.errors import InvalidRequest
from etui.reasoning.answer import answer
from etui.reasoning.answer_plan import WINDOW_TOKENS, build_infill
from tests.reasoning.scripted import GO_ON, FakeSession, plain_facts

FILL = FillTokens(0xE000, 0xE001, 0xE002, 0xE003, 0xE004)
PLAIN = FillTokens(0xE000, 0xE001, 0xE002)
NAMES = str.maketrans(
    {0xE000: "[pre]", 0xE001: "[suf]", 0xE002: "[mid]", 0xE003: "[rep]", 0xE004: "[sep]"}
)


def build(infill: Infill, fill: FillTokens | None = FILL, context: int = 4096) -> str:
    session = FakeSession(plain_facts(fill=fill, context_tokens=context), lambda _: "")
    tokens = build_infill(infill, session, 64)
    assert len(tokens) + 64 <= context or infill.prompt
    return "".join(map(chr, tokens)).translate(NAMES)


def test_the_order_is_that_of_llama_server() -> None:
    assert build(Infill("ab", "cd")) == "^[pre]ab[suf]cd[mid]"
    assert build(Infill("ab", "cd", "x", ())) == (
        "[rep]myproject\n[sep]filename\n^[pre]abx[suf]cd[mid]"
    )
    assert build(Infill("", "", files=(("b.py", "y"), ("", "z")))) == (
        "[rep]myproject\n[sep]b.py\ny[sep]tmp\nz[sep]filename\n^[pre][suf][mid]"
    )
    assert build(Infill("a", "b", files=(("b.py", "y"),)), PLAIN) == (
        "\n\n--- snippet ---\n\ny^[pre]a[suf]b[mid]"
    )


def test_of_long_texts_the_parts_next_to_the_gap_are_kept() -> None:
    text = build(Infill("a" * 9_000 + "b", "c" + "d" * 9_000))
    assert text.startswith("^[pre]aaa")
    assert "ab[suf]cd" in text
    assert text.count("a") == 3 * WINDOW_TOKENS // 4 - 1
    assert text.count("d") == WINDOW_TOKENS // 4 - 2  # one is that of [mid]


@given(st.integers(0, 3_000), st.integers(0, 3_000), st.integers(0, 3_000), st.integers(100, 6_000))
def test_it_fits_into_any_context(before: int, behind: int, other: int, context: int) -> None:
    files = (("b.py", "y" * other),)
    text = build(Infill("a" * before, "d" * behind, files=files), context=context)
    assert "[pre]" in text
    assert text.endswith("[mid]")


def test_a_model_without_the_tokens_is_named() -> None:
    session = FakeSession(plain_facts(), lambda _: "")
    ask = (Message("user", "a"),)
    options = OutputOptions(raw=True, infill=Infill("a", "b"))
    with pytest.raises(InvalidRequest, match="fake has no tokens") as found:
        list(answer(ask, Arm("quick", "fake"), session, GO_ON, options=options))
    assert found.value.param == "suffix"
    assert not session.opened
